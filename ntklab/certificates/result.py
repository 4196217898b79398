"""What every certificate says."""

from typing import NamedTuple

import numpy as np


class Certificate(NamedTuple):
    """What is certified of each example.

    Attributes:
      radius: every perturbation shorter than this, in the norm that was asked for, leaves the sign
        of the score; float64 `(b,)`, in the units of `x`. It is 0 where the score is 0.
      score: the clean score, `(b,)`. The certificate is about its sign, right or wrong.
    """

    radius: np.ndarray
    score: np.ndarray

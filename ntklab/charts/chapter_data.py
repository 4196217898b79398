"""The data of a chapter: the real set, or the digits with a visible note where it cannot be had."""

import numpy as np

from ntklab import data
from ntklab.charts.images import Html


def chapter_data(name: str, **options) -> data.Dataset:
    """Load a data set for a page; where it is nowhere to be had, the 8x8 digits and a note.

    Args:
      name: as for `ntklab.data.load`.
      **options: as for `ntklab.data.load`.

    Returns:
      The data set asked for. Only when it is neither on this machine nor to be downloaded: the
      digits, as many as there are, with as many classes as `classes` names. The note then stands
      above the cell's output, and `Dataset.name` is "digits".

    Raises:
      FileNotFoundError: `NTKLAB_DATA` names a folder that lacks the files; a folder that is
        named must hold them, so tests and continuous integration never run on digits unseen.
      ValueError: as `ntklab.data.load`.
    """
    try:
        return data.load(name, **options)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # JAX's own errors are its subclasses
            raise
        print(f"{name} cannot be had: {error}")
    wanted = options.get("classes")
    chosen = None if wanted is None else tuple(range(len(wanted)))
    digits = data.load("digits", classes=chosen)
    sizes = {
        key: min(options[key], digits.n_classes * int(np.bincount(np.asarray(labels)).min()))
        for key, labels in (("n_train", digits.y_train), ("n_test", digits.y_test))
        if options.get(key) is not None
    }
    _note(f"This page runs on the 8x8 digits of scikit-learn: {name} cannot be had here.")
    return data.load("digits", classes=chosen, seed=options.get("seed", 0), **sizes)


def _note(text: str) -> None:
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is not None:
        display(Html(f'<p role="note"><strong>{text}</strong></p>'))

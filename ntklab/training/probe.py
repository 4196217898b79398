"""Kernels taken along a run, on fixed images, clean and attacked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntklab._typing import Array, Number
from ntklab.kernels import empirical_ntk
from ntklab.nets import as_function, logits_fn


@dataclass(frozen=True, eq=False)
class KernelProbe:
    r"""At which epochs a kernel is taken, and on what.

    The kernel is that of the network at its present parameters, with the running statistics of
    batch normalisation; in a linear phase that of the frozen parameters, which stays the same.

    Attributes:
      x: images `(n, ...)`, floating point; always the same ones.
      epochs: cumulative epochs over all phases, 0 and fractions allowed.
      mode: of `kernels.empirical_ntk`.
      y: their class indices, needed with `attack`.
      attack: an attack of `ntklab.attacks`; the kernel of its examples against the present network
        is taken as well.
      memory_budget: of `kernels.empirical_ntk`.

    Raises:
      ValueError: `attack` without `y`, or no epochs.

    Cost: one or two kernel matrices an epoch, see `empirical_ntk`.
    """

    x: Any
    epochs: tuple[Number, ...]
    mode: str = "trace"
    y: Any = None
    attack: Any = None
    memory_budget: int | str | None = None

    def __post_init__(self):
        if not self.epochs or min(self.epochs) < 0:
            raise ValueError(f"epochs must hold numbers >= 0, got {self.epochs}.")
        if self.attack is not None and self.y is None:
            raise ValueError("an attack needs the labels of the images: give y.")

    @property
    def identity(self) -> tuple:
        """What must be the same where a run is taken up."""
        return np.asarray(self.x), self.epochs, self.mode, self.y, self.attack is not None

    def take(self, module: Any, params: Any, statistics: Any, key: Array) -> dict[str, np.ndarray]:
        """`clean` and, with an attack, `adversarial`: matrices as `empirical_ntk` gives them."""
        variables = {"params": params, **statistics}
        f, params = as_function(module, variables)
        settings = {"mode": self.mode, "memory_budget": self.memory_budget}
        found = {"clean": np.asarray(empirical_ntk(f, params, self.x, **settings))}
        if self.attack is not None:
            z = self.attack(logits_fn(module, variables), self.x, self.y, key).x_adv
            found["adversarial"] = np.asarray(empirical_ntk(f, params, z, **settings))
        return found

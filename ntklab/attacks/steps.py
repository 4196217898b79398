r"""Step rules: how an attack moves on from a point whose loss and gradient it knows.

A rule is a small frozen dataclass with two methods. `init(x, dtype)` gives its memory at a start,
any pytree; `move(here, memory, ball)` gives the next point and the new memory. `here` holds the
point `at`, `gradient` and `losses` there, the clean `x`, `eps`, `step_size` and `bounds`; `ball` is
an entry of `ntklab.attacks.projections.NORMS`. Whatever a rule does, the point it returns must
have gone through `ball.project`. Rules are hashable: each compiles once.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.attacks.projections import Norm


@dataclass(frozen=True)
class SteepestStep:
    """`x <- P(x + a u(g))`: a step of fixed length in the steepest direction of the norm.

    References:
      Madry, Makelov, Schmidt, Tsipras & Vladu 2018, section 2.1.
    """

    def init(self, x: Array, dtype: Any) -> Any:
        """Nothing to remember."""
        return None

    def move(self, here: Any, memory: Any, ball: Norm) -> tuple[Array, Any]:
        """The next point; the memory stays empty."""
        moved = here.at + here.step_size * ball.steepest(here.gradient)
        return ball.project(moved, here.x, here.eps, here.bounds), memory


@dataclass(frozen=True)
class MomentumStep:
    r"""`m <- decay m + g / |g|_1`, `x <- P(x + a u(m))`: the gradients of the path are summed up.

    Attributes:
      decay: how much of the sum is kept at each step; 0 gives `SteepestStep`, 1 is usual.

    References:
      Dong, Liao, Pang, Su, Zhu, Hu & Li 2018, eqs. 6 and 7, with the mean of |g| for its sum, as
      the authors' code has it: a constant factor, which `u` takes out again. For l2 they write the
      same sum with a step of l2 length a.
    """

    decay: float = 1.0

    def __post_init__(self):
        if not 0 <= self.decay:
            raise ValueError(f"decay must be >= 0, got {self.decay}.")

    def init(self, x: Array, dtype: Any) -> Array:
        """The sum before the first gradient: zero."""
        return jnp.zeros_like(x)

    def move(self, here: Any, memory: Array, ball: Norm) -> tuple[Array, Array]:
        """The next point and the new sum."""
        axes = tuple(range(1, here.at.ndim))
        largest = jnp.abs(here.gradient).max(axis=axes, keepdims=True)  # tiny gradients underflow
        scaled = here.gradient / jnp.where(largest > 0, largest, 1)
        mean = jnp.abs(scaled).mean(axis=axes, keepdims=True)
        memory = self.decay * memory + scaled / jnp.where(mean > 0, mean, 1)
        moved = here.at + here.step_size * ball.steepest(memory)
        return ball.project(moved, here.x, here.eps, here.bounds), memory

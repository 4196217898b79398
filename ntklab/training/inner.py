r"""The attack inside a training step: steps up the loss from a given start, nothing judged.

It walks the path of `ntklab.attacks` (unrolled on CPU, scanned elsewhere) and keeps its last point.
No gradient of the weights is taken.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Number
from ntklab.attacks import _path
from ntklab.attacks.steps import SteepestStep
from ntklab.training.forward import Weights, logits_fn

BOUNDS = (0.0, 1.0)
#: Modes of batch normalisation in the attack.
MODES = ("running", "batch", "update")


def check_mode(statistics: str) -> None:
    """Raise `ValueError` for an unknown mode of batch normalisation in the attack."""
    if statistics not in MODES:
        raise ValueError(f"statistics must be one of {', '.join(MODES)}, got {statistics!r}.")


def ascend(
    forward: Any,
    weights: Weights,
    x: Array,
    y: Array,
    start: Array,
    settings: tuple[Number, str, int, Number],
    loss: Any,
    statistics: str,
) -> tuple[Array, Weights]:
    r"""`z <- P(z + a u(grad_z loss(f(z), y)))`, from `start`, in the ball round `x`.

    Args:
      forward: the function, a `Forward` or like one.
      weights: what it depends on.
      x: clean examples `(b, ...)`, the centres of the balls.
      y: class indices `(b,)`.
      start: where the first gradient is taken, `(b, ...)`.
      settings: `(eps, norm, steps, step_size)`.
      loss: `loss(logits, y) -> (b,)`.
      statistics: `"running"`: batch normalisation in evaluation mode. `"batch"`: with the
        statistics of each attacked batch, the running ones left alone. `"update"`: the same, and
        each of the attack's forward passes updates the running ones, as code does that never
        leaves training mode.

    Returns:
      The last point, without gradient, and the weights (with new statistics for `"update"`).

    Cost: `steps` forward and backward passes on the input.
    """
    eps, norm, steps, step_size = settings
    machine = logits_fn(forward, weights, live=statistics != "running")
    aim = _path.Aim(norm, loss, SteepestStep(), False, "last")
    task = _path.Task(machine, x, y, None, eps, step_size, BOUNDS)
    state = _path.begin(aim, x, jnp.float32)._replace(at=start)
    if statistics != "update":
        return jax.lax.stop_gradient(_path.walk(task, state, steps, aim).at), weights

    def one(carry, _):
        state, seen = carry
        _, seen = forward(weights._replace(statistics=seen), state.at, True)
        return (_path.walk(task, state, 1, aim), seen), None

    carry = state, weights.statistics
    if jax.default_backend() == "cpu":
        for _ in range(steps):
            carry, _ = one(carry, None)
    else:
        carry, _ = jax.lax.scan(one, carry, length=steps)
    state, seen = jax.lax.stop_gradient(carry)
    return state.at, weights._replace(statistics=seen)

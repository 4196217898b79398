"""Inputs that a feature likes best."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ntklab._common import check_batch
from ntklab._typing import Array, Float
from ntklab.attacks.projections import NORMS


def maximising_input(
    logits_fn: Callable,
    x: Float[Array, "b ..."],
    sign: float = 1.0,
    eps: float | None = None,
    steps: int = 100,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Array:
    r"""Inputs that maximise one score, such as `basis(fitted, [i])`, near `x` or anywhere.

    Gradient ascent with sign steps that shrink linearly to zero, kept in the box and the cube of
    half width `eps` round `x`; the best point of the path is returned. Kernels of networks without
    biases are homogeneous in x, so that some bound is needed.

    Args:
      logits_fn: scores `(b,)` or `(b, 1)`.
      x: starting points, inside `bounds`.
      sign: -1 minimises.
      eps: half width of the cube; the whole box where None.
      steps: gradient steps.
      bounds: `(low, high)` of valid inputs.

    Returns:
      Inputs shaped as `x`, with scores at least those of `x`.

    Cost: `steps` gradients.

    Raises:
      ValueError: scores of several columns, `steps` below 1.
    """
    check_batch("x", x)
    width = bounds[1] - bounds[0] if eps is None else eps
    shape = jax.eval_shape(logits_fn, x).shape
    if shape not in ((len(x),), (len(x), 1)) or steps < 1:
        raise ValueError(
            f"logits_fn must give one score an input and steps be at least 1, got {shape}, {steps}."
        )
    linf = NORMS["linf"]
    if not isinstance(logits_fn, jax.tree_util.Partial):
        logits_fn = jax.tree_util.Partial(logits_fn)
    best, most, at = x, None, x
    for step in range(steps + 1):
        (_, values), gradient = _value_and_gradient(logits_fn, at, sign)
        better = values > most if most is not None else jnp.ones_like(values, bool)
        best = jnp.where(better.reshape(-1, *[1] * (x.ndim - 1)), at, best)
        most = values if most is None else jnp.maximum(values, most)
        rate = 0.5 * width * (1 - step / steps)
        at = linf.project(at + rate * linf.steepest(gradient), x, width, bounds)
    return best


@jax.jit
def _value_and_gradient(logits_fn, z, sign):
    def total(z):
        values = sign * logits_fn(z).reshape(len(z))
        return values.sum(), values

    return jax.value_and_grad(total, has_aux=True)(z)

r"""What a one-step attack believes, and how to check it: `f(x + eta) = f(x) + eta . z`, eq. 10.

The training-free attacks maximise an objective of the linearised scores. In few dimensions the
maximum can be found by trying every corner of the ball (`best_sign_pattern`): each objective of the
supplement is convex in eta, and a convex function on a cube is greatest at a corner. `remainders`
measures what the linear expression leaves out.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array, Float, LogitsFn, Shaped

_MOST_DIMENSIONS = 16


def linearised_scores(
    scores: Float[Array, "*k"], gradients: Float[Array, "*k d"], eta: Float[Array, "m d"]
) -> Float[Array, "m *k"]:
    """Scores of one input under many perturbations, to first order: `f_r + eta . z_r`.

    Args:
      scores: f of the clean input: `(k,)`, or a scalar for a binary machine.
      gradients: z, `(k, d)` or `(d,)`.
      eta: perturbations `(m, d)`, in the units of the input.

    Returns:
      Scores `(m, k)` or `(m,)`.

    Cost: O(m k d) time.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 10 and 19.

    >>> import jax.numpy as jnp
    >>> print(linearised_scores(jnp.array([1.0, 0.0]), jnp.eye(2), jnp.array([[-0.5, 0.25]])))
    [[0.5  0.25]]
    """
    change = jnp.tensordot(eta, gradients, axes=((1,), (gradients.ndim - 1,)))
    return scores[None] + change


def best_sign_pattern(
    objective: Callable, d: int, eps: float
) -> tuple[Float[Array, "d"], Float[Array, ""]]:
    """Best corner of the cube `|eta|_inf <= eps`, by trying all `2^d`.

    For an objective that is convex in eta this is the maximum over the whole cube.

    Args:
      objective: maps perturbations `(m, d)` to values `(m,)`.
      d: number of input dimensions, at most 16.
      eps: half the side of the cube, in the units of the input.

    Returns:
      The best perturbation `(d,)` and its value.

    Raises:
      ValueError: `d` is below 1 or above 16.

    Cost: 2^d calls' worth of the objective in one batch; 2^d d numbers of memory.

    >>> eta, value = best_sign_pattern(lambda eta: (eta ** 2).sum(axis=1) + eta[:, 0], 2, 0.5)
    >>> print(eta[0], value)
    0.5 1.0
    """
    if not 1 <= d <= _MOST_DIMENSIONS:
        raise ValueError(f"d must be in 1..{_MOST_DIMENSIONS} to try all 2^d corners, got {d}.")
    bits = jnp.arange(2**d)[:, None] >> jnp.arange(d)[None, :] & 1
    corners = jnp.where(bits == 1, eps, -eps)
    values = objective(corners)
    best = values.argmax()
    return corners[best], values[best]


def remainders(
    logits_fn: LogitsFn,
    x: Float[Array, "*shape"],
    gradients: Float[Array, "..."],
    direction: Float[Array, "*shape"],
    sizes: Float[np.ndarray, "s"] | Float[Array, "s"],
) -> Shaped[Array, "s *k"]:
    """What the linear expression misses: `f(x + s eta) - f(x) - s eta . z` for each size s.

    Args:
      logits_fn: scores of a batch.
      x: one input, without batch axis.
      gradients: its output gradients z: shape `(k, ...)`, or that of x for a binary machine.
      direction: eta, of the shape of x.
      sizes: step sizes s, positive.

    Returns:
      Remainders `(s, k)` or `(s,)`. Work in float64: they are small differences of large numbers.

    Cost: one forward pass on `len(sizes) + 1` inputs.

    >>> import jax.numpy as jnp
    >>> square = lambda x: (x ** 2).sum(axis=1)
    >>> x, sizes = jnp.array([1.0, 0.0]), jnp.array([0.5, 0.25])
    >>> print(remainders(square, x, 2 * x, jnp.array([1.0, 1.0]), sizes))
    [0.5   0.125]
    """
    sizes = jnp.asarray(sizes, x.dtype)
    steps = jnp.concatenate([jnp.zeros(1, x.dtype), sizes])
    scores = logits_fn(x[None] + steps.reshape((-1,) + (1,) * x.ndim) * direction[None])
    slope = jnp.tensordot(gradients, direction, axes=x.ndim)
    linear = scores[:1] + sizes.reshape((-1,) + (1,) * slope.ndim) * slope[None]
    return scores[1:] - linear


def growth_exponent(
    sizes: Float[np.ndarray, "s"] | Float[Array, "s"], values: Float[Array, "s"]
) -> float:
    """Exponent p of the power law `|value| ~ size^p`: least squares in double logarithms.

    Args:
      sizes: at least two different positive sizes.
      values: values at these sizes, none of them zero.

    Returns:
      The slope: 1 for a kink, 2 for a smooth function's remainder.

    Raises:
      ValueError: fewer than two sizes, or a size or value that is zero.

    >>> import jax.numpy as jnp
    >>> sizes = jnp.array([0.25, 0.5, 1.0])
    >>> round(growth_exponent(sizes, -3 * sizes ** 2), 4)
    2.0
    """
    sizes, values = np.asarray(sizes), np.abs(np.asarray(values))
    if len(sizes) < 2 or not (sizes > 0).all() or not (values > 0).all():
        raise ValueError("a growth exponent needs two or more positive sizes and no value of 0.")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])

"""The two threat models: balls round the clean input, met with the box of valid inputs.

A threat model answers three questions, for every example by itself: how to return to the allowed
set (`project`), which way of unit length raises a linear function most (`steepest`), and where to
start at random (`uniform`). `NORMS` holds one of each under the name of its norm.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.projections import projection_box

from ntklab._typing import Array, Float, Key

Bounds = tuple[Any, Any]


def project_linf(
    z: Float[Array, "b ..."], x: Float[Array, "b ..."], eps: Any, bounds: Bounds
) -> Float[Array, "b ..."]:
    """Nearest point to `z` with `|z - x|_inf <= eps` and every entry inside `bounds`.

    Both sets are boxes, so one clip is the exact projection on what they have in common.

    Args:
      z: points to bring back `(b, ...)`.
      x: clean inputs `(b, ...)`, the centres, inside `bounds`.
      eps: radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      Points `(b, ...)`, up to rounding of `x + eps`. With `eps = 0` they are `x`.

    Cost: O(b d) time and memory.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.5, 0.125]])
    >>> print(project_linf(x + jnp.array([[2.0, -2.0]]), x, 0.25, (0.0, 1.0)))
    [[0.75 0.  ]]
    """
    low, high = bounds
    return projection_box(z, jnp.maximum(x - eps, low), jnp.minimum(x + eps, high))


def project_l2(
    z: Float[Array, "b ..."], x: Float[Array, "b ..."], eps: Any, bounds: Bounds
) -> Float[Array, "b ..."]:
    """A point near `z` with `|z - x|_2 <= eps` for each example and every entry inside `bounds`.

    `z - x` is shortened to `eps`, then the point is clipped to the box. Clipping moves every entry
    towards the clean `x`, so the result stays in the ball: it is allowed, though not always the
    nearest allowed point. Attack libraries agree on this order. (`optax.projections` has an l2
    ball too; it gives NaN at radius 0.)

    Args:
      z: points to bring back `(b, ...)`.
      x: clean inputs `(b, ...)`, the centres, inside `bounds`.
      eps: radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      Points `(b, ...)`, up to rounding. With `eps = 0` they are `x`.

    Cost: O(b d) time and memory.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.5, 0.5]])
    >>> print(project_l2(x + jnp.array([[3.0, 4.0]]), x, 0.5, (0.0, 1.0)))
    [[0.8 0.9]]
    """
    low, high = bounds
    length = _length(z - x)
    shrink = jnp.minimum(1.0, eps / jnp.where(length > 0, length, 1))
    return projection_box(x + (z - x) * shrink, low, high)


def steepest_linf(gradient: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Sign of the gradient: the direction of unit l-infinity norm that it likes best; sign(0) = 0.

    >>> import jax.numpy as jnp
    >>> print(steepest_linf(jnp.array([[-3.0, 0.0]])))
    [[-1.  0.]]
    """
    return jnp.sign(gradient)


def steepest_l2(gradient: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Gradient over its l2 norm, per example; zero where the gradient is zero.

    The largest entry is divided out first: squares of tiny gradients would underflow.

    >>> import jax.numpy as jnp
    >>> print(steepest_l2(jnp.array([[3e-30, 4e-30], [0.0, 0.0]])))
    [[0.6 0.8]
     [0.  0. ]]
    """
    largest = jnp.max(jnp.abs(gradient), axis=_axes(gradient), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    length = _length(scaled)
    return scaled / jnp.where(length > 0, length, 1)


def uniform_linf(key: Key[Array, ""], x: Float[Array, "b ..."], eps: Any) -> Float[Array, "b ..."]:
    """Offsets drawn evenly from the l-infinity ball of radius `eps`, shaped as `x`."""
    return eps * jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)


def uniform_l2(key: Key[Array, ""], x: Float[Array, "b ..."], eps: Any) -> Float[Array, "b ..."]:
    """Offsets drawn evenly from the l2 ball of radius `eps` of each example, shaped as `x`."""
    d = x[0].size
    return eps * jax.random.ball(key, d, shape=(len(x),), dtype=x.dtype).reshape(x.shape)


def _axes(x: Float[Array, "b ..."]) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _length(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    return jnp.sqrt(jnp.sum(x * x, axis=_axes(x), keepdims=True))


class Norm(NamedTuple):
    """One threat model: `project(z, x, eps, bounds)`, `steepest(g)`, `uniform(key, x, eps)`."""

    project: Callable
    steepest: Callable
    uniform: Callable


#: Threat models by name.
NORMS = {
    "linf": Norm(project_linf, steepest_linf, uniform_linf),
    "l2": Norm(project_l2, steepest_l2, uniform_l2),
}

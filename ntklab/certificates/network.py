"""Interval bounds (IBP) for networks in the NTK parameterisation."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import check_batch
from ntklab._typing import Array, Float
from ntklab.certificates.result import Certificate

# A bisection of [0, largest] this long leaves 3e-10 of it.
_HALVINGS = 32


def interval_bounds(
    weights: Sequence[Float[Array, "..."]],
    x: Float[Array, "b ..."],
    radius: Any,
    bounds: tuple[float, float] | None = None,
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    r"""Interval bounds (IBP) of a bias-free ReLU network over l-infinity balls.

    The network is $f(x) = \tfrac{1}{\sqrt{m_L}} W_L \phi(\cdots \phi(\tfrac{1}{\sqrt d} W_1 x))$.
    A layer maps centre $\mu$ and half width $\rho$ to $W\mu / \sqrt m$ and $|W|\rho / \sqrt m$.

    Args:
      weights: matrices `(fan_in, fan_out)`, one a layer, all of the dtype of `x`.
      x: centres, `(b, ...)`; flattened.
      radius: half width, in the units of `x`: a number or `(b,)`.
      bounds: `(low, high)` of valid inputs, with which the ball is met; none where None.

    Returns:
      Lower and upper bounds of each output, `(b, k)`, up to rounding in the dtype of `x`.

    Cost: two forward passes.

    Raises:
      ValueError: matrices that do not fit.

    Source: Gowal et al. (2018), section 3; Chen et al. (2021), the authors' ibp.py.

    >>> import jax.numpy as jnp
    >>> low, high = interval_bounds([jnp.array([[1.0], [-1.0]])], jnp.array([[2.0, 1.0]]), 0.5)
    >>> print((low * 2**0.5).round(4), (high * 2**0.5).round(4))
    [[0.]] [[2.]]
    """
    flat = x.reshape(len(x), -1)
    _check_weights("weights", weights, flat)
    return _propagate(tuple(weights), flat, jnp.asarray(radius, flat.dtype), bounds)


@jax.jit
def _propagate(weights, x, radius, bounds):
    """Intervals after every layer; centres and half widths are formed anew, so that they hold."""
    half = radius.reshape(-1, 1)
    low, high = x - half, x + half
    if bounds is not None:
        low, high = jnp.clip(low, *bounds), jnp.clip(high, *bounds)
    for layer, weight in enumerate(weights):
        if layer:
            low, high = jax.nn.relu(low), jax.nn.relu(high)
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        scale = 1 / math.sqrt(len(weight))
        centre = product((low + high) / 2, weight) * scale
        spread = product((high - low) / 2, jnp.abs(weight)) * scale
        low, high = centre - spread, centre + spread
    return low, high


def network_certificate(
    weights: Sequence[Float[Array, "..."]],
    x: Float[Array, "b ..."],
    initial: Sequence[Float[Array, "..."]] | None = None,
    subtract: str = "interval",
    bounds: tuple[float, float] | None = None,
    largest: float = 1.0,
) -> Certificate:
    r"""Certified l-infinity radius of a network with one output, by interval bounds.

    With `initial` the classifier is $f - f_0$, as in the NTK literature:

    * `subtract="interval"`: both networks are bounded over the ball, which certifies
      $f(x') - f_0(x')$;
    * `subtract="clean"`, as coded by the authors: the number $f_0(x)$ at the clean x is taken off,
      which certifies $f(x') - f_0(x)$, not the classifier. Use it to compare with their table.

    Args:
      weights: matrices of f, `(fan_in, fan_out)`, the last with one column; see `interval_bounds`.
      x: clean inputs, `(b, ...)`.
      initial: matrices of f_0; none is subtracted where None.
      subtract: `"interval"` or `"clean"`.
      bounds: `(low, high)` of valid inputs, or None.
      largest: the search ends there.

    Returns:
      Radii and clean scores.

    Cost: 32 times that of `interval_bounds`, for each network. Pass blocks of rows.

    Raises:
      ValueError: matrices that do not fit, several outputs, NaN, `subtract` or `largest` out of
        range.
    """
    if subtract not in ("interval", "clean"):
        raise ValueError(f'subtract must be "interval" or "clean", got {subtract!r}.')
    if not (largest > 0 and math.isfinite(largest)):
        raise ValueError(f"largest must be a finite number > 0, got {largest}.")
    check_batch("x", x)
    flat = x.reshape(len(x), -1)
    networks = [tuple(w) for w in (weights, initial) if w is not None]
    for name, each in zip(("weights", "initial"), networks, strict=False):
        _check_weights(name, each, flat)
        if each[-1].shape[1] != 1:
            raise ValueError(f"{name} must end in one output, got {each[-1].shape[1]}.")
    radius, score = _certify_network(networks, flat, bounds, largest, clean=subtract == "clean")
    return Certificate(np.asarray(radius, np.float64), np.asarray(score))


@partial(jax.jit, static_argnames=("clean",))
def _certify_network(networks, x, bounds, largest, *, clean: bool):
    def ends(r, clean=clean):
        low, high = (end[:, 0] for end in _propagate(networks[0], x, r, bounds))
        if len(networks) == 1:
            return low, high
        r0 = jnp.zeros_like(r) if clean else r
        low0, high0 = (end[:, 0] for end in _propagate(networks[1], x, r0, bounds))
        return low - high0, high - low0

    nothing = jnp.zeros(len(x), x.dtype)
    score = ends(nothing, clean=True)[0]

    def halve(_, found):
        good, bad = found
        middle = (good + bad) / 2
        low, high = ends(middle)
        safe = jnp.where(score > 0, low, -high) > 0
        return jnp.where(safe, middle, good), jnp.where(safe, bad, middle)

    start = (nothing, jnp.full_like(nothing, largest))
    return jax.lax.fori_loop(0, _HALVINGS, halve, start)[0], score


def _check_weights(name: str, weights: Sequence[Any], flat: Array) -> None:
    """Raise one sentence unless the matrices are a network for `flat` `(b, d)`."""
    fan_in = flat.shape[1]
    for layer, weight in enumerate(weights):
        if weight.ndim != 2 or len(weight) != fan_in or weight.dtype != flat.dtype:
            raise ValueError(
                f"{name}[{layer}] must be a {flat.dtype} matrix ({fan_in}, fan_out), got "
                f"{weight.dtype} {weight.shape}."
            )
        fan_in = weight.shape[1]
    if not weights:
        raise ValueError(f"{name} is empty: give one matrix a layer.")

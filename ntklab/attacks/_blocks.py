"""Proposals of the gradient-free attacks, for one image `(h, w, c)` or one vector `(d,)`.

A proposal takes numbers drawn evenly from [0, 1), the clean `x`, the best point `at`, a `Size`, eps
and the bounds, and gives a point in the ball and in the box. Sizes are traced, so one program
serves the whole schedule; and one call draws all numbers, since random bits are slow to compile.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array

#: Queries of 10,000 after which Square halves the share of pixels that it changes.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Size(NamedTuple):
    """Side of the squares of a query, 0 for no query; and for l2 the bump, `(s, s)` padded."""

    side: Any
    bump: Any


def sides(norm: str, shape: tuple[int, ...], queries: int, p_init: float) -> np.ndarray:
    """Side of the square at each query of Square, `(queries,)`, for images `(h, w, c)`."""
    h, w = shape[:2]
    now = np.arange(queries) * 10_000 // queries
    p = p_init / 2.0 ** np.searchsorted(HALVINGS, now)
    side = np.rint(np.sqrt(p * h * w)).astype(np.int32)
    if norm == "linf":
        return np.clip(side, 1, min(h, w))
    odd = np.maximum(side, 3) // 2 * 2 + 1  # an even side grows by one
    return np.minimum(odd, (min(h, w) - 1) // 2 * 2 + 1)


def bump(s: int) -> np.ndarray:
    """A positive bump over a negative one, `(s, s)`, of unit l2 norm: the eta of Square.

    A bump of `a` rows and s columns is a pile of rectangles: the one of radius m round its centre
    adds `1 / (m + 1)^2`.
    """
    halves = []
    for rows, sign in ((s // 2, 1.0), (s - s // 2, -1.0)):
        i, j = np.arange(rows)[:, None] - rows // 2, np.arange(s)[None] - s // 2
        radius = np.maximum(np.abs(i), np.abs(j))
        most = max(rows, s) // 2 + 1
        value = sum((radius <= m) / (m + 1) ** 2 for m in range(most))
        halves.append(sign * value / max(np.linalg.norm(value), 1e-12))
    both = np.concatenate(halves)
    return both / np.linalg.norm(both)


def start_square(norm: str, draws: Array, x: Array, eps: Any, bounds: tuple) -> Array:
    """Where Square starts: vertical stripes (linf), a grid of 5 x 5 bumps (l2)."""
    h, w, c = x.shape
    if norm == "linf":
        return jnp.clip(x + eps * _signs(draws[: w * c]).reshape(1, w, c), *bounds)
    s = min(h, w) // 5
    tile = jnp.asarray(bump(s), x.dtype)
    turned = draws[:25].reshape(5, 1, 5, 1) < 0.5
    tiles = jnp.where(turned, tile.T[None, :, None], tile[None, :, None])
    signs = _signs(draws[25 : 25 + 25 * c]).reshape(5, 1, 5, 1, c)
    grid = (tiles[..., None] * signs).reshape(5 * s, 5 * s, c)
    top, left = (h - 5 * s) // 2, (w - 5 * s) // 2
    delta = jnp.zeros_like(x).at[top : top + 5 * s, left : left + 5 * s].set(grid)
    return _on_sphere(x, delta, eps, bounds)


def square_linf(draws: Array, x: Array, at: Array, size: Size, eps: Any, bounds: tuple) -> Array:
    """One square is set to corners of the ball, one sign a channel."""
    h, w, c = x.shape
    inside = _window(draws[:2], size.side, h, w)[0]
    signs = _signs(draws[3 : 3 + c])
    # Signs that are there already waste a query: others are drawn, in one channel for sure.
    sure = jnp.arange(c, dtype=jnp.int32) == _integer(draws[2], c)
    flips = jnp.where(sure, -1, _signs(draws[3 + c : 3 + 2 * c]))
    new, other = (
        jnp.where(inside, jnp.clip(x + eps * s[None, None], *bounds), at)
        for s in (signs, signs * flips)
    )
    return jnp.where((new == at).all(), other, new)


def square_l2(draws: Array, x: Array, at: Array, size: Size, eps: Any, bounds: tuple) -> Array:
    """A bump in one window, paid for by a second window and by what the ball has left."""
    h, w, c = x.shape
    delta = at - x
    first, top, left = _window(draws[:2], size.side, h, w)
    second = _window(draws[2:4], size.side, h, w)[0]
    shape = jnp.where(draws[4] < 0.5, size.bump.T, size.bump)
    i, j = (
        jnp.clip(jnp.arange(n, dtype=jnp.int32) - a, 0, len(shape) - 1)
        for n, a in ((h, top), (w, left))
    )
    added = shape[i[:, None], j[None]][:, :, None] * _signs(draws[5 : 5 + c])[None, None]
    own = jnp.where(first, delta, 0)
    new = jnp.where(first, added + own / (_channel_norms(own) + 1e-12), 0)
    both = _channel_norms(jnp.where(first | second, delta, 0))
    left_over = jnp.maximum(eps**2 - (delta * delta).sum(), 0) / c
    new = new / (_channel_norms(new) + 1e-12) * jnp.sqrt(left_over + both * both)
    return _on_sphere(x, jnp.where(first, new, jnp.where(second, 0, delta)), eps, bounds)


def block_linf(draws: Array, x: Array, at: Array, size: Size, eps: Any, bounds: tuple) -> Array:
    """A block of any size, or a set of coordinates, is set to corners of the ball."""
    inside, signs = _any_block(draws, x)
    return jnp.where(inside, jnp.clip(x + eps * signs, *bounds), at)


def block_l2(draws: Array, x: Array, at: Array, size: Size, eps: Any, bounds: tuple) -> Array:
    """A vector of length eps on such a block is added; the whole is shortened to eps."""
    inside, signs = _any_block(draws, x)
    step = jnp.where(inside, signs, 0)
    delta = at - x + eps * step / jnp.sqrt((step * step).sum())
    length = jnp.sqrt((delta * delta).sum())
    return jnp.clip(x + delta * jnp.minimum(1, eps / jnp.where(length > 0, length, 1)), *bounds)


def draws_needed(shape: tuple[int, ...]) -> int:
    """Random numbers that any proposal for an example of this shape needs, at most."""
    if len(shape) == 1:
        return 1 + 2 * shape[0]
    _, w, c = shape
    return max(5 + 2 * c, w * c, 25 + 25 * c)


PROPOSALS: dict[tuple[str, str], Callable] = {
    ("square", "linf"): square_linf,
    ("square", "l2"): square_l2,
    ("random_block", "linf"): block_linf,
    ("random_block", "l2"): block_l2,
}


class Plan(NamedTuple):
    """Which side and which bump each query takes, `(queries,)`, and all bumps, in one shape."""

    side: np.ndarray
    bump: np.ndarray
    bumps: np.ndarray

    def chunks(self, queries: int, length: int) -> Iterator["Row"]:
        """The first `queries` rows in chunks of equal length; the last is filled with no-ops."""
        for start in range(0, queries, length):
            number = np.arange(start, start + length, dtype=np.int32)
            row = np.minimum(number, len(self.side) - 1)
            side = np.where(number < queries, self.side[row], 0).astype(np.int32)
            yield Row(number + 1, side, self.bump[row])


class Row(NamedTuple):
    """A query: its number, from 1; its side, 0 for no query; the index of its bump."""

    number: Any
    side: Any
    bump: Any


def schedule(kind: str, norm: str, shape: tuple[int, ...], queries: int, p_init: float) -> Plan:
    """The plan of an attack on images `(h, w, c)`, or on vectors."""
    none = np.zeros((1, 1, 1))
    if kind == "random_block":  # which draws its sides by itself
        return Plan(np.ones(queries, np.int32), np.zeros(queries, np.int32), none)
    side = sides(norm, shape, queries, p_init)
    if norm == "linf":
        return Plan(side, np.zeros_like(side), none)
    # All odd sides that the image has: the shape must not depend on the schedule.
    known = range(1, min(shape[:2]) + 1, 2)
    bumps = [np.pad(bump(s), (0, known[-1] - s)) for s in known]
    return Plan(side, side // 2, np.stack(bumps))


def as_images(kind: str, norm: str, x: Array) -> tuple[int, ...]:
    """Shape `(h, w, c)` of an example of `x`, or `(d,)` for a block search on vectors.

    Raises:
      ValueError: `x` has a rank that the attack has no blocks for, or images are too small.
    """
    if x.ndim == 2 and kind == "random_block":
        return x.shape[1:]
    if x.ndim not in (3, 4):
        flat = "" if kind == "random_block" else "; for vectors there is random_block"
        raise ValueError(f"x must be images (b, h, w) or (b, h, w, c), got {x.shape}{flat}.")
    shape = (*x.shape[1:], 1)[:3]
    if kind == "square" and norm == "l2" and min(shape[:2]) < 5:
        raise ValueError(f"square with l2 needs images of 5 x 5 or more, got {x.shape}.")
    return shape


def _any_block(draws: Array, x: Array) -> tuple[Array, Array]:
    """A random block, and signs that broadcast to it."""
    if x.ndim == 1:
        d = x.size
        lot, share = draws[1 : 1 + d], jnp.exp(-math.log(d) + draws[0] * math.log(max(d / 2, 1)))
        return (lot <= share) | (lot == lot.min()), _signs(draws[1 + d : 1 + 2 * d])
    h, w, c = x.shape
    side = 1 + _integer(draws[2], max(min(h, w) // 2, 1))
    return _window(draws[:2], side, h, w)[0], _signs(draws[3 : 3 + c])[None, None]


def _window(draws: Array, side: Any, h: int, w: int) -> tuple[Array, Array, Array]:
    """A square at a random place: its mask `(h, w, 1)`, its top and its left."""
    top, left = _integer(draws[0], h - side + 1), _integer(draws[1], w - side + 1)
    rows = jnp.arange(h, dtype=jnp.int32)[:, None, None]
    columns = jnp.arange(w, dtype=jnp.int32)[None, :, None]
    mask = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return mask, top, left


def _integer(draw: Array, n: Any) -> Array:
    """One of 0 .. n - 1 from a number drawn evenly from [0, 1)."""
    n = jnp.asarray(n, jnp.int32)
    return jnp.minimum((draw * n.astype(draw.dtype)).astype(jnp.int32), n - 1)


def _signs(draws: Array) -> Array:
    return jnp.where(draws < 0.5, -1.0, 1.0).astype(draws.dtype)


def _channel_norms(delta: Array) -> Array:
    return jnp.sqrt((delta * delta).sum(axis=(0, 1), keepdims=True))


def _on_sphere(x: Array, delta: Array, eps: Any, bounds: tuple) -> Array:
    length = jnp.sqrt((delta * delta).sum())
    return jnp.clip(x + eps * delta / jnp.where(length > 0, length, 1), *bounds)

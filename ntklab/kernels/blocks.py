"""Work in tiles of bounded size: the loops behind every kernel, blind to what the kernel is.

A tile is a block of rows of `x1` against a block of rows of `x2`. One tile that fits is computed
at once; more are walked by `jax.lax.scan`, so that the code compiles once whatever the number of
tiles. Inputs are padded with zero rows to whole tiles; the padding never reaches a result. Tiles
are recomputed in the backward pass (`jax.checkpoint`), so gradients keep the bound too.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array


def tile_shape(n: int, m: int, pairs: int) -> tuple[int, int]:
    """Rows and columns of tiles that hold at most `pairs` pairs, near equal in size.

    >>> tile_shape(100, 3000, 10**6), tile_shape(5000, 5000, 10**6)
    ((100, 3000), (1000, 1000))
    """
    pairs = max(1, pairs)
    columns = min(m, max(math.isqrt(pairs), pairs // max(n, 1)))
    rows = min(n, max(1, pairs // columns))
    return even(n, rows), even(m, columns)


def even(n: int, block: int) -> int:
    """The smallest block that covers `n` in as many steps as `block` does."""
    return math.ceil(n / math.ceil(n / block))


def _split(x: Array, block: int) -> Array:
    """`(n, ...)` as `(steps, block, ...)`, padded with zero rows."""
    steps = math.ceil(len(x) / block)
    padded = jnp.pad(x, [(0, steps * block - len(x))] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(steps, block, *x.shape[1:])


def matrix(tile: Callable, x1: Array, x2: Array, pairs: int) -> Array:
    """`tile(x1, x2)` of shape `(n, m)`, at most `pairs` pairs at a time."""
    rows, columns = tile_shape(len(x1), len(x2), pairs)
    if (rows, columns) == (len(x1), len(x2)):
        return tile(x1, x2)
    left, right = _split(x1, rows), _split(x2, columns)
    order = [(i, j) for i in range(len(left)) for j in range(len(right))]
    return _fill(tile, left, right, order)[: len(x1), : len(x2)]


def symmetric_matrix(tile: Callable, diagonal: Array, x: Array, pairs: int) -> Array:
    """`tile(x, x)` with the given diagonal, from its upper triangle: symmetric to the last bit.

    There are at least four blocks of rows, which saves three eighths of the entries. It is also
    what makes the symmetry exact: XLA fuses a single tile into the sum of the two triangles,
    computes every entry twice and rounds the two differently. The result of a loop is stored.
    """
    n = len(x)
    block = even(n, max(1, min(-(-n // 4), math.isqrt(max(1, pairs)))))
    parts = _split(x, block)
    order = [(i, j) for i in range(len(parts)) for j in range(i, len(parts))]
    upper = jnp.triu(_fill(tile, parts, parts, order)[:n, :n], 1)
    every = np.arange(n)
    return (upper + upper.T).at[every, every].set(diagonal)


def _fill(tile: Callable, left: Array, right: Array, order: list[tuple[int, int]]) -> Array:
    """The matrix made of the tiles `(i, j)` in `order`, and zeros elsewhere."""
    rows, columns = left.shape[1], right.shape[1]
    tile = jax.checkpoint(tile)

    def step(out, index):
        i, j = index
        value = tile(left[i], right[j])
        return jax.lax.dynamic_update_slice(out, value, (i * rows, j * columns)), None

    zeros = jnp.zeros((len(left) * rows, len(right) * columns), left.dtype)
    indices = tuple(jnp.asarray(index, jnp.int32) for index in zip(*order, strict=True))
    return jax.lax.scan(step, zeros, indices)[0]


def contraction(tile: Callable, x1: Array, x2: Array, weights: Array, pairs: int) -> Array:
    """Sum over blocks of `x2` of `tile(x1, x2, weights)`, an array `(n, ...)` linear in `weights`.

    Args:
      tile: maps `(b, ...)`, `(c, ...)` and weights `(c, k)` to `(b, ...)`.
      x1: rows of the result, `(n, ...)`.
      x2: rows that are summed over, `(m, ...)`.
      weights: one row for each of `x2`, `(m, k)`.
      pairs: pairs of rows at a time.
    """
    rows, columns = tile_shape(len(x1), len(x2), pairs)
    if (rows, columns) == (len(x1), len(x2)):
        return tile(x1, x2, weights)
    right, split_weights = _split(x2, columns), _split(weights, columns)
    tile = jax.checkpoint(tile)

    def row_block(block):
        def step(total, part):
            return total + tile(block, *part), None

        shape = jax.eval_shape(tile, block, right[0], split_weights[0])
        start = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.scan(step, start, (right, split_weights))[0]

    out = jax.lax.map(row_block, _split(x1, rows))
    return out.reshape(-1, *out.shape[2:])[: len(x1)]


def each(function: Callable, x: Array, block: int) -> Array:
    """`function` of blocks of at most `block` rows of `x`, joined."""
    block = even(len(x), min(len(x), max(1, block)))
    if block == len(x):
        return function(x)
    out = jax.lax.map(jax.checkpoint(function), _split(x, block))
    return out.reshape(-1, *out.shape[2:])[: len(x)]

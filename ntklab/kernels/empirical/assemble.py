"""A matrix put together from tiles, on the device, its symmetric half computed once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._common import progress
from ntklab._typing import Array


def assemble(
    mode: str,
    prepared: Callable,
    tile: Callable,
    x1: Array,
    x2: Array | None,
    block: int,
    keep: bool,
) -> Array:
    """The matrix `(n, m, ...)` in blocks of one size, the last one filled up with copies.

    Args:
      mode: of `empirical_ntk`; in mode `full` entries are transposed with the matrix.
      prepared: captures of `block` rows of an array from a start, `(x, start, block)`.
      tile: entries of two blocks of captures.
      x1: inputs of the rows.
      x2: inputs of the columns; None for `x1` and a symmetric matrix.
      block: rows of a block.
      keep: keep the captures of all blocks, or prepare columns anew for every block of rows.
    """
    symmetric = x2 is None
    rows = padded(x1, block)
    columns = rows if symmetric else padded(x2, block)
    captures = _Captures(prepared, rows, columns, block, keep)
    tasks = [
        (i, j)
        for i in range(0, len(rows), block)
        for j in range(0, len(columns), block)
        if i <= j or not symmetric
    ]
    out, single = None, len(tasks) == 1
    for i, j in progress(tasks, "empirical NTK") if len(tasks) > 16 else tasks:
        left = captures.row(i)
        part = tile(left, left if symmetric and i == j else captures.column(j))
        if symmetric and i == j:
            part = _mirrored(mode, part)
        if out is None:
            shape = (len(rows), len(columns), *part.shape[2:])
            out = part if single else jnp.zeros(shape, part.dtype)
        if not single:
            out = _placed(out, part, i, j)
        if symmetric and i < j:
            out = _placed(out, _turned(mode, part), j, i)
    n, m = len(x1), len(x1 if symmetric else x2)
    return out[:n, :m] if out.shape[:2] != (n, m) else out


class _Captures:
    """Prepared blocks: the present rows, and the columns or those of all blocks."""

    def __init__(self, prepared: Callable, rows: Array, columns: Array, block: int, keep: bool):
        self.prepared, self.rows, self.columns = prepared, rows, columns
        self.block, self.keep, self.kept, self.now = block, keep, {}, (None, None)

    def row(self, start: int) -> Any:
        if self.now[0] != start:
            same = self.keep and self.rows is self.columns
            self.now = None, None  # what is no longer needed goes before the next one comes
            self.now = start, self.column(start) if same else self._made(self.rows, start)
        return self.now[1]

    def column(self, start: int) -> Any:
        if start in self.kept:
            return self.kept[start]
        made = self._made(self.columns, start)
        if self.keep:
            self.kept[start] = made
        return made

    def _made(self, x: Array, start: int) -> Any:
        return self.prepared(x, start, self.block)


def padded(x: Array, block: int) -> Array:
    """`x` with its last row repeated up to whole blocks."""
    extra = -len(x) % block
    return jnp.concatenate([x, jnp.repeat(x[-1:], extra, axis=0)]) if extra else x


@functools.partial(jax.jit, donate_argnums=0)
def _placed(out: Array, part: Array, row: Any, column: Any) -> Array:
    return jax.lax.dynamic_update_slice(out, part, (row, column) + (0,) * (out.ndim - 2))


@functools.partial(jax.jit, static_argnums=0)
def _turned(mode: str, part: Array) -> Array:
    """Entries of the pairs the other way round; in mode `full` those of outputs turn too."""
    part = jnp.swapaxes(part, 0, 1)
    return jnp.swapaxes(part, 2, 3) if mode == "full" else part


def _mirrored(mode: str, part: Array) -> Array:
    """A tile on the diagonal, its lower half taken from the upper one."""
    outputs = part.shape[-1] if mode == "full" else 1
    return _symmetric(mode, part, jnp.arange(len(part)), jnp.arange(outputs))


@functools.partial(jax.jit, static_argnums=0)
def _symmetric(mode: str, part: Array, index: Array, output: Array) -> Array:
    """The same; the numbers of rows and outputs are arguments, not constants.

    Of a mask of constants XLA makes code that takes 3 s to compile for 64 rows and 25 s for 100.
    """
    row, column = index[:, None, None, None], index[None, :, None, None]
    first, second = output[None, None, :, None], output[None, None, None, :]
    upper = (row < column) | ((row == column) & (first <= second))
    upper = upper if mode == "full" else upper.reshape(*part.shape[:2], *(1,) * (part.ndim - 2))
    return jnp.where(upper, part, _turned(mode, part))

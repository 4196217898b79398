"""Kernel matrices of any size, from any kernel: in bounded memory, on all devices, resumable."""

import collections
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from ntklab._common import progress
from ntklab.kernels.gram import store as gram_store
from ntklab.kernels.gram.plan import IN_FLIGHT, GramPlan, find_plan
from ntklab.kernels.gram.tiles import Tiles

#: A result from this size on is announced, in bytes.
_ANNOUNCED = 2**28


def gram(
    kernel: Callable,
    x1,
    x2=None,
    *,
    memory_budget: int | str | None = None,
    path: str | os.PathLike | None = None,
    devices: Sequence | None = None,
    block: int | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    r"""The matrix $\Theta(x_i, x'_j)$ on the host or in a file, tile by tile.

    `kernel(x1, x2)` is the choice inside `jax.jit` and `jax.grad`; this one for matrices that
    take memory or time. Rows are sharded over the devices. Where `jax.distributed` runs, over
    those of all hosts: each calls this with the same arguments and gets the whole matrix, and a
    `path` must be on a disk that all of them see.

    Args:
      kernel: a function of two batches that JAX can trace, `(n, ...)` and `(m, ...)` to
        `(n, m, ...)`. Optional methods make it faster and the estimate sharper:
        `prepare(x)`, what a block of inputs becomes before it meets others (a pytree, examples
        first); `tile(prepared1, prepared2)`, the entries; `memory(example_shape, dtype)`, bytes
        that a prepared example and a pair under way take; `diagonal(x)`, the values at coincident
        inputs. The kernels of this package have them. Arrays that a kernel needs are best leaves
        of a pytree (`jax.tree_util.Partial(kernel, params)`), not constants in a closure.
      x1: inputs of the rows, float32 or float64, shape `(n, ...)`; NumPy's, also mapped from a
        disk, or JAX's.
      x2: inputs of the columns, `(m, ...)`; without it `x1` again, and the half above the
        diagonal is computed once. Entries that are square, `(k, k)`, are transposed with it.
      memory_budget: bytes, or words such as `"6GiB"`, for all that this call holds: scratch on
        each device and, on the CPU, the result in memory. Without it, half of what is free.
      path: a `.npy` file for the result. Work that was killed goes on from the last finished block
        when called with the same arguments; blocks are listed in `path` + `.json`.
      devices: those to use; without it all that JAX has.
      block: rows between two savings; rounded up to whole tiles.
      show_progress: say the plan of a large matrix, and the progress of a long one, on standard
        error.

    Returns:
      A NumPy array `(n, m, ...)`; with `path`, that file, mapped for reading. Without `x2` it is
      symmetric to the last bit.

    Cost: the time of `n m` entries, about half of them without `x2`; memory as `plan_gram` says,
    and 0.1 GiB for JAX to compile.

    Accuracy: the kernel's own. Every tile has the same shape and runs the same program, so that
    block, devices and order leave no bit changed. A budget so small that tiles shrink changes
    rounding.

    Raises:
      TypeError: inputs that are not float32 or float64 arrays, or are traced.
      ValueError: shapes that do not fit, NaN or infinite inputs or entries, a budget too small
        for one row, a file that holds another matrix or is damaged.
      OSError: a path that cannot be written, or a disk without room.

    >>> import jax.numpy as jnp
    >>> from ntklab.kernels import TwoLayerNTK
    >>> print(gram(TwoLayerNTK(), jnp.eye(2)))
    [[0.5 0. ]
     [0.  0.5]]
    """
    devices = jax.devices() if devices is None else list(devices)
    arguments = (kernel, x1, x2, memory_budget, path, devices)
    plan = _agreed(find_plan(*arguments, block, _begun(path)), arguments)
    x1, x2 = np.asarray(x1), None if x2 is None else np.asarray(x2)
    _check_values("x1", x1)
    _check_values("x2", x2)
    if show_progress and plan.result_bytes >= _ANNOUNCED:
        print(plan, file=sys.stderr, flush=True)
    tiles = Tiles(kernel, x1, x1 if x2 is None else x2, plan.tile, devices[: plan.devices])
    work = _Work(plan, tiles, x2 is None, "kernel matrix" if show_progress else "")
    if path is None:
        out = np.empty(plan.shape, plan.dtype)
        for _ in work.blocks(range(plan.blocks), lambda: out):
            pass
        return out
    return _on_disk(work, path, _problem(kernel, plan, tiles, x1, x2))


def _on_disk(work: "_Work", path: str | os.PathLike, problem: dict) -> np.ndarray:
    """Fill the file; the first host writes, and all of them compute."""
    writes, error, store = jax.process_index() == 0, None, None
    done = np.zeros(work.plan.blocks + 1, bool)  # the last: the files cannot be used
    try:
        if writes:
            store = gram_store.Store(path, problem)
            done[sorted(store.done)] = True
    except (OSError, ValueError) as refusal:
        error, done[-1] = refusal, True
    *done, refused = np.asarray(_from_first(done))
    if refused:
        raise error or OSError(f"the first host cannot use {path}; its message says why.")
    left = [block for block, there in enumerate(done) if not there]
    for block in work.blocks(left, store.open if writes else lambda: None):
        if writes:
            store.finish(block)
    if writes:
        store.close()
    _from_first(np.zeros(1))  # no host reads before the file is there
    return np.load(path, mmap_mode="r")


class _Work:
    """The order in which tiles are computed, and where they go."""

    def __init__(self, plan: GramPlan, tiles: Tiles, symmetric: bool, label: str) -> None:
        self.plan, self.tiles, self.symmetric, self.label = plan, tiles, symmetric, label
        self.kept = {}

    def blocks(self, which: Iterable[int], target: Callable) -> Iterator[int]:
        """Compute these blocks into `target()`, and name each when it is there."""
        tasks = [(int(block), *task) for block in which for task in self._tasks(int(block))]
        last = {task[0]: i for i, task in enumerate(tasks)}
        waiting, rows, columns = collections.deque(), {}, (None, None)
        for i, (block, row, column) in enumerate(self._watched(tasks)):
            if columns[0] != column:
                columns = column, self._columns(column)
            if row not in rows:
                rows[row] = self._rows(row)
            waiting.append((row, column, self.tiles.entries(rows[row], columns[1])))
            while len(waiting) >= IN_FLIGHT or (waiting and i == last[block]):
                self._write(target(), block, *waiting.popleft())
            if i == last[block]:
                rows = {}
                yield block

    def _watched(self, tasks: list) -> Iterable:
        return progress(tasks, self.label) if self.label else tasks

    def _tasks(self, block: int) -> Iterator[tuple[int, int]]:
        """First rows and columns of the tiles of a block: all rows meet a column in turn."""
        (height, width), (n, m) = self.plan.tile, self.plan.shape[:2]
        first = block * self.plan.block
        starts = range(first, min(n, first + self.plan.block), height * self.plan.devices)
        for column in range(first if self.symmetric else 0, m, width):
            yield from ((r, column) for r in starts if not self.symmetric or column >= r)

    def _columns(self, start: int):
        if start in self.kept:
            return self.kept[start]
        columns = self.tiles.columns(start)
        if self.plan.keep:
            self.kept[start] = columns
        return columns

    def _rows(self, start: int):
        if self.symmetric and self.plan.keep and self.plan.devices == 1:
            return self._columns(start)
        return self.tiles.rows(start)

    def _write(self, out: np.ndarray | None, block: int, row: int, column: int, value) -> None:
        """Put the tiles of all devices in their places, and below the diagonal too."""
        value, (n, m), (height, width) = np.asarray(value), self.plan.shape[:2], self.plan.tile
        end, right = min(n, (block + 1) * self.plan.block), min(m, column + width)
        for i, start in enumerate(range(row, end, height)[: self.plan.devices]):
            if self.symmetric and column < start:
                continue
            stop = min(end, start + height)
            part = value[i * height : i * height + stop - start, : right - column]
            _check_entries(part, start, column)
            if out is None:  # another host writes
                continue
            if self.symmetric and start == column:
                part = _symmetric(part, self.tiles.diagonal(start))
            elif self.symmetric:
                out[column:right, start:stop] = _transposed(part)
            out[start:stop, column:right] = part


def _transposed(part: np.ndarray) -> np.ndarray:
    """Entries of the pairs the other way round; those of class pairs turn round as well."""
    part = part.swapaxes(0, 1)
    return part.swapaxes(2, 3) if part.ndim == 4 else part


def _symmetric(part: np.ndarray, diagonal: np.ndarray | None) -> np.ndarray:
    """A tile on the diagonal, from what is above it."""
    every, rest = np.arange(len(part)), (1,) * (part.ndim - 2)
    below = (every[:, None] > every).reshape(len(part), len(part), *rest)
    part = np.where(below, _transposed(part), part)
    if diagonal is not None:
        part[every, every] = diagonal[: len(part)]
    if part.ndim == 4:
        own, k = part[every, every], np.arange(part.shape[2])
        part[every, every] = np.where(k[:, None] > k, own.swapaxes(1, 2), own)
    return part


def _check_entries(part: np.ndarray, row: int, column: int) -> None:
    """Raise when entries are not finite numbers."""
    if not (np.isfinite(part.min()) and np.isfinite(part.max())):
        raise ValueError(
            f"the kernel has NaN or infinite entries for rows {row} to {row + part.shape[0] - 1} "
            f"and columns {column} to {column + part.shape[1] - 1}; look at its parameters."
        )


def _check_values(name: str, x: np.ndarray | None) -> None:
    """Raise when inputs are not finite numbers, without an array of their size."""
    for start in range(0, 0 if x is None else len(x), 1024):
        bad = np.size(part := x[start : start + 1024]) - np.isfinite(part).sum()
        if bad:
            raise ValueError(
                f"{name} has NaN or infinite values in examples {start} to "
                f"{start + len(part) - 1} ({bad} of them); remove them."
            )


def _begun(path: str | os.PathLike | None) -> tuple[tuple[int, int], int] | None:
    """Tile and block of work that goes on."""
    known = None if path is None else gram_store.manifest(path)
    try:
        return known and (tuple(map(int, known["tile"])), int(known["block"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}.json is not a list of finished blocks; delete it.") from None


def _problem(kernel, plan: GramPlan, tiles: Tiles, x1, x2) -> dict:
    """What identifies a matrix and its blocks: inputs, kernel, cuts.

    A kernel is known by its name, its arrays and some entries: addresses in a name change from
    one process to the next, and a name may hide what is inside a function.
    """
    probe = np.asarray(tiles.entries(tiles.rows(0), tiles.columns(0)))[:3, :3]
    return {
        "shape": list(plan.shape),
        "dtype": plan.dtype,
        "x1": gram_store.digest(x1),
        "x2": None if x2 is None else gram_store.digest(x2),
        "kernel": re.sub(r" at 0x[0-9a-f]+", "", repr(kernel))[:2000],
        "arrays": [gram_store.digest(np.atleast_1d(a)) for a in tiles.arrays],
        "probe": np.asarray(probe, float).ravel()[:100].tolist(),
        "tile": list(plan.tile),
        "block": plan.block,
    }


def _agreed(plan: GramPlan, arguments: tuple) -> GramPlan:
    """The plan of the first host, on every host: memory found there may differ."""
    if jax.process_count() == 1:
        return plan
    *tile, block, keep = np.asarray(_from_first(np.asarray([*plan.tile, plan.block, plan.keep])))
    cuts = (tuple(int(t) for t in tile), int(block))
    return find_plan(*arguments, cuts=cuts)._replace(keep=bool(keep))


def _from_first(value: np.ndarray) -> np.ndarray:
    """The value that the first host has; waits for all of them."""
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)

"""How a kernel matrix will be cut, and what that takes: decided, and said, before any work."""

import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._memory import default_budget, format_bytes, parse_bytes
from ntklab.kernels.blocks import even
from ntklab.kernels.gram.tiles import Costs

#: Largest tile (rows), and scratch that a standard tile may take: in cache, or enough for a GPU.
_ROWS = {"cpu": 256}, 2048
_SCRATCH = {"cpu": 64 * 2**20}, 512 * 2**20
#: Tiles under way at a time.
IN_FLIGHT = 3
#: Steps at which progress is saved, where memory leaves the choice.
_STEPS = 16


class GramPlan(NamedTuple):
    """The cuts of a kernel matrix and what they take; `print` it for a sentence.

    Attributes:
      shape: of the result, `(n, m, ...)`.
      dtype: of the result.
      tile: rows and columns that one device computes at a time.
      block: rows between two savings, a multiple of the tile's.
      blocks: how many of them.
      tiles: tiles in all; about half of them where the matrix is symmetric.
      keep: whether the prepared columns stay on the devices, or are prepared again each block.
      result_bytes: the result.
      scratch_bytes: everything else, on each device; on the CPU, which has one memory, on all.
      on_disk: whether the result is in a file.
      devices: over how many devices the rows are sharded.
    """

    shape: tuple[int, ...]
    dtype: str
    tile: tuple[int, int]
    block: int
    blocks: int
    tiles: int
    keep: bool
    result_bytes: int
    scratch_bytes: int
    on_disk: bool
    devices: int

    def __str__(self) -> str:
        """One sentence."""
        size = " x ".join(f"{n:,}" for n in self.shape)
        again = "" if self.keep else ", columns prepared anew for each"
        return (
            f"{size} {self.dtype}: {format_bytes(self.result_bytes)} "
            f"{'on disk' if self.on_disk else 'in memory'} and {format_bytes(self.scratch_bytes)} "
            f"of scratch; {self.tiles:,} tiles of {self.tile[0]} x {self.tile[1]} in "
            f"{self.blocks} blocks of {self.block:,} rows{again}; {self.devices} device"
            f"{'s' * (self.devices > 1)}."
        )


def plan_gram(
    kernel: Callable,
    x1,
    x2=None,
    *,
    memory_budget: int | str | None = None,
    path: str | os.PathLike | None = None,
    devices: Sequence | None = None,
    block: int | None = None,
) -> GramPlan:
    """What `gram` would do with the same arguments; nothing is computed.

    Args:
      kernel: see `gram`.
      x1: inputs, or anything with their `shape` and `dtype` (`jax.ShapeDtypeStruct`).
      x2: the same for the columns.
      memory_budget: see `gram`.
      path: see `gram`.
      devices: see `gram`.
      block: see `gram`.

    Returns:
      The plan; `print` it for a sentence.

    Cost: milliseconds; the kernel is traced for one pair.

    Raises: as `gram` does.

    >>> import jax, jax.numpy as jnp
    >>> from ntklab.kernels import FullyConnected
    >>> x = jax.ShapeDtypeStruct((10_000, 784), jnp.float32)
    >>> plan = plan_gram(FullyConnected(depth=3), x, memory_budget="2GiB")
    >>> plan.shape, plan.result_bytes
    ((10000, 10000), 400000000)
    """
    return find_plan(kernel, x1, x2, memory_budget, path, devices, block)


def find_plan(kernel, x1, x2, memory_budget, path, devices, block=None, cuts=None) -> GramPlan:
    """`plan_gram`; `cuts`, a tile and a block, are those of work that goes on."""
    first = check_inputs("x1", x1)
    last = first if x2 is None else check_inputs("x2", x2)
    if first.shape[1:] != last.shape[1:] or first.dtype != last.dtype:
        raise ValueError(
            "x1 and x2 need one dtype and one shape after the first axis, got "
            f"{first.dtype}{list(first.shape)} and {last.dtype}{list(last.shape)}."
        )
    if block is not None and (isinstance(block, bool) or not block >= 1):
        raise ValueError(f"block counts rows and must be at least 1, got {block}.")
    devices = jax.devices() if devices is None else list(devices)
    if memory_budget is None:  # that of the device here that has least left
        here = [d for d in devices if d.process_index == jax.process_index()]
        budget = min(map(default_budget, here or [None]))
    else:
        budget = parse_bytes(memory_budget)
    costs = Costs(kernel, first.shape[1:], first.dtype)
    sizes = first.shape[0], last.shape[0]
    return _Cut(*sizes, x2 is None, costs, devices, path is not None).plan(budget, block, cuts)


def check_inputs(name: str, x) -> jax.ShapeDtypeStruct:
    """Shape and dtype of inputs, or one sentence; their values are not looked at."""
    if isinstance(x, jax.core.Tracer):
        raise TypeError("gram fills memory of the host; inside jit or grad call the kernel itself.")
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(f"{name} must be an array, got {type(x).__name__}.")
    dtype = jnp.result_type(x.dtype)
    if dtype not in (jnp.float32, jnp.float64):
        hint = "; divide by 255?" if jnp.issubdtype(dtype, jnp.integer) else "; convert it."
        raise TypeError(f"{name} must be float32 or float64, got {dtype}{hint}")
    if len(x.shape) < 2 or 0 in x.shape:
        raise ValueError(
            f"{name} must be a batch, examples first and no axis empty, got shape {x.shape}."
        )
    return jax.ShapeDtypeStruct(x.shape, dtype)


class _Cut:
    """The search for the cuts that fit a budget."""

    def __init__(self, n, m, symmetric, costs, devices, on_disk) -> None:
        self.n, self.m, self.symmetric, self.costs = n, m, symmetric, costs
        self.on_disk, self.platform = on_disk, devices[0].platform
        self.result = n * m * math.prod(costs.entry.shape) * costs.entry.dtype.itemsize
        self.devices = len(devices)
        if jax.process_count() == 1:  # several hosts work together to the last device
            self.devices = min(self.devices, math.ceil(n / self._standard_tile()[0]))

    def plan(self, budget: int, block: int | None, cuts: tuple | None) -> GramPlan:
        """The largest tile, then the prepared columns, then the longest block that fit."""
        tile, block = cuts or (self._standard_tile(), block)
        while not cuts and self._bytes(tile, tile[0], False) > budget and tile != (1, 1):
            tile = self._smaller(tile)
        step = tile[0] if cuts else tile[0] * self.devices
        least = self._bytes(tile, block if cuts else step, False)
        if least > budget:
            raise ValueError(
                f"memory_budget of {format_bytes(budget)} is too small for one row: at least "
                f"{least} bytes are needed{self._advice()}."
            )
        keep = self._bytes(tile, block if cuts else step, True) <= budget
        wanted = math.ceil((block or (math.ceil(self.n / _STEPS) if keep else self.n)) / step)
        while not cuts and wanted > 1 and self._bytes(tile, wanted * step, keep) > budget:
            wanted = min(wanted - 1, wanted * 7 // 8)
        return self._described(tile, wanted * step, keep)

    def _standard_tile(self) -> tuple[int, int]:
        most, scratch = (on.get(self.platform, other) for on, other in (_ROWS, _SCRATCH))
        size = max(1, min(most, math.isqrt(scratch // self.costs.scratch)))
        rows = min(size, max(32, math.ceil(self.n / 8)))  # some tiles for every device
        rows = even(self.n, min(rows, self.n))
        return rows, rows if self.symmetric else even(self.m, min(size, self.m))

    def _smaller(self, tile: tuple[int, int]) -> tuple[int, int]:
        rows, columns = tile
        if self.symmetric:
            return (rows + 1) // 2, (rows + 1) // 2
        return (rows, (columns + 1) // 2) if columns > rows else ((rows + 1) // 2, columns)

    def _bytes(self, tile: tuple[int, int], block: int, keep: bool) -> int:
        """What must fit into the budget."""
        counted = 0 if self.on_disk or self.platform != "cpu" else self.result
        return counted + self._scratch(tile, block, keep)

    def _scratch(self, tile: tuple[int, int], block: int, keep: bool) -> int:
        rows, columns = tile
        entry = math.prod(self.costs.entry.shape) * self.costs.entry.dtype.itemsize
        share = math.ceil(block / (rows * self.devices)) * rows
        held = self.m if keep else 2 * columns
        one = (share + held + rows + columns) * self.costs.prepared
        one += rows * columns * (self.costs.scratch + IN_FLIGHT * entry)
        if self.platform != "cpu":
            return one
        # On the CPU the devices and the host's copies share one memory.
        here = math.ceil(self.devices / jax.process_count())
        return one * here + 2 * rows * self.devices * columns * entry

    def _advice(self) -> str:
        result = f", {format_bytes(self.result)} of them for the result (path= puts it on disk)"
        return result if not self.on_disk and self.platform == "cpu" else ""

    def _described(self, tile: tuple[int, int], block: int, keep: bool) -> GramPlan:
        rows, columns = (math.ceil(k / t) for k, t in zip((self.n, self.m), tile, strict=True))
        return GramPlan(
            shape=(self.n, self.m, *self.costs.entry.shape),
            dtype=str(np.dtype(self.costs.entry.dtype)),
            tile=tile,
            block=block,
            blocks=math.ceil(self.n / block),
            tiles=rows * (rows + 1) // 2 if self.symmetric else rows * columns,
            keep=keep,
            result_bytes=self.result,
            scratch_bytes=self._scratch(tile, block, keep),
            on_disk=self.on_disk,
            devices=self.devices,
        )

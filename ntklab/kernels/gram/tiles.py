"""Tiles of a kernel matrix on devices: one compiled program, whatever the matrix is cut into.

Rows are sharded over the devices of a mesh with one axis, columns are on every device; each
device runs the same program on blocks of the same shape. Short blocks are filled up with copies of
their last example. That is what makes results independent of blocks, devices and order: XLA sums
in another order, and fuses differently, for another shape.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ntklab._typing import Array

ROWS = "rows"


class Costs:
    """What one kernel needs, from shapes alone.

    Attributes:
      prepared: bytes that an example holds on a device.
      scratch: bytes that a pair takes while its entry is computed, with the entry itself.
      entry: shape and dtype of an entry.
    """

    def __init__(self, kernel: Callable, example: tuple[int, ...], dtype) -> None:
        """Ask the kernel; what it does not say is guessed: 16 numbers a pair and output."""
        one = jax.ShapeDtypeStruct((1, *example), dtype)
        state = jax.eval_shape(prepare_of(kernel), one)
        pair = jax.eval_shape(tile_of(kernel), state, state)
        if pair.shape[:2] != (1, 1):
            raise ValueError(
                f"a kernel maps batches of n and m examples to (n, m, ...), got {pair.shape} for 1."
            )
        self.entry = jax.ShapeDtypeStruct(pair.shape[2:], pair.dtype)
        number = pair.size * pair.dtype.itemsize
        self.prepared = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
        self.scratch = 16 * number
        if hasattr(kernel, "memory"):
            self.prepared, self.scratch = kernel.memory(example, dtype)
        self.prepared += one.size * one.dtype.itemsize
        self.scratch += number


def prepare_of(kernel: Callable) -> Callable:
    """What a block of inputs becomes before it meets others; itself for a plain function."""
    return getattr(kernel, "prepare", lambda x: x)


def tile_of(kernel: Callable) -> Callable:
    """Entries of two prepared blocks."""
    return getattr(kernel, "tile", kernel)


class Tiles:
    """Entries of one kernel between blocks of `x1` and blocks of `x2`.

    Args:
      kernel: see `ntklab.kernels.gram`.
      x1: inputs of the rows, on the host.
      x2: inputs of the columns.
      shape: rows and columns of a tile on one device.
      devices: those over which the rows are sharded.
    """

    def __init__(self, kernel: Callable, x1, x2, shape: tuple[int, int], devices: list) -> None:
        self.whole, self.x1, self.x2, self.shape = kernel, x1, x2, shape
        self.mesh = Mesh(np.asarray(devices), (ROWS,))
        leaves, structure = jax.tree.flatten(kernel)
        opaque = jax.tree_util.treedef_is_leaf(structure)
        self.kernel = kernel if opaque else structure
        self.arrays = [] if opaque else [np.asarray(a) for a in leaves]
        self.leaves = [self._put(a, P()) for a in self.arrays]

    def rows(self, start: int):
        """The prepared examples from `start` on, one tile a device."""
        size = self.shape[0] * self.mesh.size
        return self._prepared(self.x1, start, size, P(ROWS))

    def columns(self, start: int):
        """The prepared examples of one tile's columns, on every device."""
        return self._prepared(self.x2, start, self.shape[1], P())

    def entries(self, rows, columns) -> Array:
        """`(devices * rows, columns, ...)`; JAX computes it while the caller goes on."""
        out = _entries(self.kernel, self.mesh, self.leaves, rows, columns)
        out.copy_to_host_async()
        return out

    def diagonal(self, start: int) -> np.ndarray | None:
        """The diagonal of the tile at `start`, where the kernel has a way of its own."""
        if not (hasattr(self.whole, "tile") and hasattr(self.whole, "diagonal")):
            return None
        block = _filled(self.x1, start, self.shape[0])
        return np.asarray(self.whole.diagonal(jnp.asarray(block)))

    def _prepared(self, x, start: int, size: int, spec: P):
        x = self._put(_filled(x, start, size), spec)
        return _prepared(self.kernel, self.mesh, spec, self.leaves, x)

    def _put(self, value: np.ndarray, spec: P) -> Array:
        sharding = NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _filled(x, start: int, size: int) -> np.ndarray:
    """`size` examples from `start` on, the last one repeated where there are no more."""
    block = np.asarray(x[start : start + size])
    block = block.astype(jnp.result_type(block), copy=False)  # float64 only where JAX has it
    if len(block) == 0:
        block = np.asarray(x[-1:], block.dtype)
    return np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])


def _join(kernel, leaves: list) -> Callable:
    """The kernel again: its arrays are arguments of compiled code, not constants in it."""
    if isinstance(kernel, jax.tree_util.PyTreeDef):
        return jax.tree.unflatten(kernel, leaves)
    return kernel


@partial(jax.jit, static_argnums=(0, 1, 2))
def _prepared(kernel, mesh: Mesh, spec: P, leaves: list, x: Array):
    def local(leaves, x):
        return prepare_of(_join(kernel, leaves))(x)

    specs = {"in_specs": (P(), spec), "out_specs": spec}
    return jax.shard_map(local, mesh=mesh, check_vma=False, **specs)(leaves, x)


@partial(jax.jit, static_argnums=(0, 1))
def _entries(kernel, mesh: Mesh, leaves: list, rows, columns) -> Array:
    everywhere = jax.process_count() > 1  # every host gets every entry

    def local(leaves, rows, columns):
        out = tile_of(_join(kernel, leaves))(rows, columns)
        return jax.lax.all_gather(out, ROWS, tiled=True) if everywhere else out

    specs = {"in_specs": (P(), P(ROWS), P()), "out_specs": P() if everywhere else P(ROWS)}
    return jax.shard_map(local, mesh=mesh, check_vma=False, **specs)(leaves, rows, columns)

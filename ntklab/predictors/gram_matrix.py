r"""A kernel matrix that may lie in memory, on disk or on an accelerator: checks and products."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import float64
from ntklab.kernels.gram import gram

_BLOCK_BYTES = 256 * 2**20
#: From so many rows on, a host's matrix is made in tiles of bounded memory.
TILED_ROWS = 4096
ENGINES = ("auto", "scipy", "jax")


@dataclasses.dataclass(frozen=True, eq=False)
class GramMatrix:
    r"""A finite symmetric matrix with the precision in which it is solved.

    Attributes:
      values: `(n, n)`, float32 or float64: a NumPy array, a memory map, or a JAX array.
      dtype: NumPy dtype of decompositions; products are always summed in float64.
      scale: largest absolute entry.
      roundoff: the larger unit roundoff of `values` and `dtype`.
    """

    values: Any
    dtype: np.dtype
    scale: float
    roundoff: float

    @property
    def on_device(self) -> bool:
        """Whether JAX holds it."""
        return isinstance(self.values, jax.Array)

    def __len__(self) -> int:
        return len(self.values)

    def product(self, rows: Any) -> Any:
        """`rows @ values`, `(k, n)` in float64, a NumPy or a JAX array as `values` is.

        Cost: `2 n^2 k` operations, one pass over the matrix, no copy of it.
        """
        if self.on_device:
            with float64():
                return _device_product(self.values, jnp.asarray(rows))
        if self.values.dtype == np.float64:
            return rows @ self.values
        out = np.empty((len(rows), len(self)))
        for part in _parts(self.values):
            out[:, part] = rows @ self.values[part].astype(np.float64).T
        return out

    def floor(self, largest: float) -> float:
        """Eigenvalues up to this are zero to rounding, when the largest is `largest`."""
        return max(len(self), 16) * self.roundoff * max(largest, 0.0)


def gram_matrix(values: Any, n: int, dtype: str, engine: str) -> GramMatrix:
    """Check a kernel matrix, in blocks, and put it where the engine works.

    Raises:
      TypeError: a matrix that is not float32 or float64.
      ValueError: a matrix of another shape, not finite, or not symmetric to rounding.
    """
    if np.shape(values) != (n, n):
        raise ValueError(f"the kernel must give an ({n}, {n}) matrix, got {np.shape(values)}.")
    given = getattr(values, "dtype", np.asarray(values).dtype)
    if given not in (np.float32, np.float64):
        raise TypeError(f"the kernel matrix must be float32 or float64, got {given}.")
    roundoff = max(float(np.finfo(t).eps) for t in (given, np.dtype(dtype)))
    with float64():
        if engine == "jax":
            values = jnp.asarray(values)
        elif isinstance(values, jax.Array):
            values = np.asarray(values)
        scale = _checked(values, float(np.finfo(given).eps))
    return GramMatrix(values, np.dtype(dtype), scale, roundoff)


def engine_of(engine: str) -> str:
    """`"auto"` resolved: JAX where an accelerator is its default backend, else SciPy."""
    if engine != "auto":
        return engine
    return "scipy" if jax.default_backend() == "cpu" else "jax"


def evaluate(kernel: Callable, x: Any, dtype: str, engine: str) -> Any:
    """The matrix `kernel(x)` computed in `dtype`, on the device, or on the host in tiles."""
    with float64():
        if engine != "jax" and len(x) > TILED_ROWS:
            return gram(kernel, np.asarray(x, dtype))
        values = kernel(jnp.asarray(np.asarray(x, dtype)))
        return values if engine == "jax" else np.asarray(values)


def _checked(values: Any, roundoff: float) -> float:
    """The largest absolute entry, or one sentence."""
    xp = jnp if isinstance(values, jax.Array) else np
    bad, largest, skew = 0, 0.0, 0.0
    for part in _parts(values):
        rows = values[part]
        bad += rows.size - int(xp.isfinite(rows).sum())
        if bad == 0:
            largest = max(largest, float(abs(rows).max()))
            skew = max(skew, float(abs(rows - values[:, part].T).max()))
    if bad:
        raise ValueError(
            f"the kernel matrix has {bad} entries that are NaN or infinite; look at its input."
        )
    if skew > 100 * roundoff * largest:
        raise ValueError(
            f"the kernel matrix is not symmetric: two mirrored entries differ by {skew:.1e}; look "
            "at the kernel."
        )
    return largest


def _parts(values: Any) -> list[slice]:
    """Slices of rows that hold about `_BLOCK_BYTES` in float64."""
    n = len(values)
    rows = max(1, _BLOCK_BYTES // (8 * max(n, 1)))
    return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]


@jax.jit
def _device_product(values: jax.Array, rows: jax.Array) -> jax.Array:
    """`rows @ values` in the precision of `rows`, widening a block of the matrix at a time."""
    multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if values.dtype == rows.dtype:
        return multiply(rows, values)
    n = len(values)
    block = min(n, max(1, _BLOCK_BYTES // (8 * n)))

    def step(i, out):
        start = jnp.minimum(i * block, n - block)  # the last block may overlap its neighbour
        wide = jax.lax.dynamic_slice_in_dim(values, start, block).astype(rows.dtype)
        return jax.lax.dynamic_update_slice_in_dim(out, multiply(rows, wide.T), start, axis=1)

    return jax.lax.fori_loop(0, math.ceil(n / block), step, jnp.zeros_like(rows))

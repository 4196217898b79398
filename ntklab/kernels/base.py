"""What every kernel shares: checks, compilation and blocks."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float
from ntklab.kernels import blocks


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of two batches of inputs. Subclass it and define `_tile` and `_diagonal`.

    Instances are immutable and hashable: two kernels with equal settings share compiled code.
    All methods run under `jax.jit`, `jax.grad` and `jax.vmap`, and compute in the precision of
    their inputs (float64 where it is switched on and the inputs have it).

    Args:
      block_bytes: scratch memory for the blocks, in bytes (default 512 MiB); the result itself
        comes on top. It changes the speed, and the result by rounding only.
    """

    block_bytes: int = dataclasses.field(default=512 * 2**20, kw_only=True)

    def __post_init__(self):
        if self.block_bytes < 1:
            raise ValueError(f"block_bytes must be at least 1, got {self.block_bytes}.")

    def __call__(
        self, x1: Float[Array, "n ..."], x2: Float[Array, "m ..."] | None = None
    ) -> Float[Array, "n m"]:
        r"""The matrix $\Theta(x_i, x'_j)$.

        Args:
          x1: inputs, shape `(n, ...)`.
          x2: inputs of the same shape after the first axis; without it, `x1` again.

        Returns:
          Shape `(n, m)`. Without `x2` it is symmetric to the last bit and its diagonal is
          `diagonal(x1)`; with `x2`, pairs that agree to rounding count as coincident.

        Cost: see the class; three arrays of the result's size without `x2`, one or two with it.

        Raises:
          TypeError: inputs that are not floating point, or of two precisions.
          ValueError: inputs whose shapes do not fit.
        """
        self._check(x1, x2)
        return _symmetric(self, x1) if x2 is None else _rectangular(self, x1, x2)

    def diagonal(self, x: Float[Array, "n ..."]) -> Float[Array, " n"]:
        r"""The values $\Theta(x_i, x_i)$, shape `(n,)`, without the matrix.

        Cost: that of `n` entries. Raises as `__call__` does.
        """
        self._check(x, None)
        return _diagonal(self, x)

    def apply(
        self, x: Float[Array, "b ..."], x2: Float[Array, "m ..."], weights: Float[Array, "m ..."]
    ) -> Float[Array, "b ..."]:
        r"""The sums $\sum_j w_{jr}\,\Theta(x_i, x'_j)$, without holding the matrix.

        Args:
          x: inputs, shape `(b, ...)`.
          x2: centres, shape `(m, ...)`.
          weights: shape `(m, k)` or `(m,)`.

        Returns:
          Shape `(b, k)`, or `(b,)` for weights `(m,)`.

        Cost: the time of `(b, m)` entries and `b m k` multiplications; memory `block_bytes`.
        Raises as `__call__` does.
        """
        self._check(x, x2, weights)
        return _apply(self, x, x2, weights)

    def input_gradient(
        self, x: Float[Array, "b ..."], x2: Float[Array, "m ..."], weights: Float[Array, "m ..."]
    ) -> Float[Array, "b ..."]:
        r"""The gradients $\sum_j w_{jr}\,\nabla_x \Theta(x_i, x'_j)$ of `apply`.

        At a point where the gradient does not exist (`x` equal to a centre, opposite to it, or
        zero, for ReLU) it is the symmetric one, with the cusp dropped; `jax.grad` agrees.

        Args:
          x: inputs, shape `(b, ...)`.
          x2: centres, shape `(m, ...)`.
          weights: shape `(m, k)` or `(m,)`.

        Returns:
          Shape `(b, k, ...)`, or `(b, ...)` for weights `(m,)`: input axes last.

        Cost: see the class. Raises as `__call__` does.

        Source: Tsilivis and Kempe (2022), eq. 9.
        """
        self._check(x, x2, weights)
        return _input_gradient(self, x, x2, weights)

    def prepare(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """What `gram` keeps of a block of inputs: the inputs. Raises as `__call__` does."""
        self._check(x, None)
        return x

    def tile(self, x1: Float[Array, "b ..."], x2: Float[Array, "c ..."]) -> Float[Array, "b c"]:
        """The entries of two prepared blocks, all at once; for `gram`, which cuts the blocks."""
        return self._tile(x1, x2)

    def memory(self, shape: tuple[int, ...], dtype) -> tuple[int, int]:
        """Bytes that a prepared input of this shape holds, and those that a pair takes."""
        size = jnp.dtype(dtype).itemsize
        return math.prod(shape) * size, self._floats(shape) * size

    def _check(self, x1: Array, x2: Array | None, weights: Array | None = None) -> None:
        """Raise one sentence when shapes or dtypes do not fit; values are not looked at."""
        given = [a for a in (x1, x2, weights) if a is not None]
        dtypes = {jnp.result_type(a) for a in given}
        if len(dtypes) > 1 or not jnp.issubdtype(next(iter(dtypes)), jnp.floating):
            names = ", ".join(sorted(str(d) for d in dtypes))
            raise TypeError(f"a kernel needs inputs of one floating-point dtype, got {names}.")
        if jnp.ndim(x1) < 2 or 0 in jnp.shape(x1):
            raise ValueError(
                "a kernel needs a batch, examples first and no axis empty, got shape "
                f"{jnp.shape(x1)}."
            )
        if x2 is not None and (jnp.shape(x2)[1:] != jnp.shape(x1)[1:] or 0 in jnp.shape(x2)):
            raise ValueError(
                f"both batches need the same shape after the first axis, got {jnp.shape(x1)} "
                f"and {jnp.shape(x2)}."
            )
        if weights is not None and (jnp.ndim(weights) not in (1, 2) or len(weights) != len(x2)):
            raise ValueError(
                f"weights must have shape ({len(x2)},) or ({len(x2)}, k), one row a centre, "
                f"got {jnp.shape(weights)}."
            )

    def _pairs(self, x: Array, floats: int) -> int:
        """Pairs that fit into the memory at `floats` numbers a pair."""
        return max(1, self.block_bytes // (floats * x.dtype.itemsize))

    def _floats(self, shape: tuple[int, ...]) -> int:
        """Numbers held at a time for one pair of inputs of this shape."""
        return 8

    def _gradient_floats(self, shape: tuple[int, ...]) -> int:
        """The same for one pair in `_gradient_tile`."""
        return 4 * self._floats(shape)

    def _tile(self, x1: Array, x2: Array) -> Array:
        """Entries `(b, c)` for blocks `(b, ...)` and `(c, ...)`."""
        raise NotImplementedError

    def _diagonal(self, x: Array) -> Array:
        """Entries `(b,)` of the diagonal for a block `(b, ...)`."""
        raise NotImplementedError

    def _gradient_tile(self, x1: Array, x2: Array, weights: Array) -> Array:
        """`(b, k, ...)`: one backward pass through the tile for each column of the weights."""
        value, pull_back = jax.vjp(lambda x: self._tile(x, x2), x1)
        gradients = jax.lax.map(
            lambda w: pull_back(jnp.broadcast_to(w, value.shape))[0], weights.T[:, None]
        )
        return jnp.moveaxis(gradients, 0, 1)


@partial(jax.jit, static_argnums=0)
def _rectangular(kernel: Kernel, x1: Array, x2: Array) -> Array:
    pairs = kernel._pairs(x1, kernel._floats(x1.shape[1:]))
    return blocks.matrix(kernel._tile, x1, x2, pairs)


@partial(jax.jit, static_argnums=0)
def _symmetric(kernel: Kernel, x: Array) -> Array:
    pairs = kernel._pairs(x, kernel._floats(x.shape[1:]))
    return blocks.symmetric_matrix(kernel._tile, _diagonal(kernel, x), x, pairs)


@partial(jax.jit, static_argnums=0)
def _diagonal(kernel: Kernel, x: Array) -> Array:
    return blocks.each(kernel._diagonal, x, kernel._pairs(x, kernel._floats(x.shape[1:])))


@partial(jax.jit, static_argnums=0)
def _apply(kernel: Kernel, x: Array, x2: Array, weights: Array) -> Array:
    def tile(left, right, columns):
        return product(kernel._tile(left, right), columns)

    pairs = kernel._pairs(x, kernel._floats(x.shape[1:]))
    out = blocks.contraction(tile, x, x2, _columns(weights), pairs)
    return out if weights.ndim == 2 else out[:, 0]


@partial(jax.jit, static_argnums=0)
def _input_gradient(kernel: Kernel, x: Array, x2: Array, weights: Array) -> Array:
    pairs = kernel._pairs(x, kernel._gradient_floats(x.shape[1:]))
    out = blocks.contraction(kernel._gradient_tile, x, x2, _columns(weights), pairs)
    return out if weights.ndim == 2 else out[:, 0]


def _columns(weights: Array) -> Array:
    return weights if weights.ndim == 2 else weights[:, None]


def product(a: Array, b: Array) -> Array:
    """`a @ b` in full precision: accelerators otherwise round float32 factors to 10 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

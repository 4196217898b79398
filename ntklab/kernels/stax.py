"""Kernels of any `stax` architecture, through neural-tangents."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._nt import neural_tangents
from ntklab._typing import Array
from ntklab.kernels.base import Kernel

# Arrays of the size of the largest one that XLA keeps at a time, as for our own recursions.
_ALIVE = 10


@dataclasses.dataclass(frozen=True)
class Stax(Kernel):
    r"""NTK or NNGP kernel of an architecture written in neural-tangents' `stax`.

    For what `FullyConnected` and `Convolutional` do not have: other activations (`Gelu`, `Gabor`,
    `Sin`, `Polynomial`), other windows and strides, residual branches, average pooling, attention,
    layer normalisation. Blocks, checks, symmetry and gradients are ours, entries theirs.

    Args:
      network: maps the module `stax` to `(init_fn, apply_fn, kernel_fn)`, as `stax.serial` does.
        A function at the top level of a module is best: kernels are equal, and share compiled
        code, when they have the same one.
      kind: `"ntk"` or `"nngp"`.
      block_bytes: scratch memory, see `Kernel`.

    Cost: that of neural-tangents in blocks; without `x2` about half of the entries. Scratch is
    estimated as ten times the largest array of a pair. `input_gradient` makes `k` backward passes.

    Accuracy: that of neural-tangents. Its ReLU takes a root of a difference that is zero at
    coincident and opposite inputs: there float32 entries are right to 1e-5 and no better, and the
    derivatives, which in float64 are those of ours, to 1e-4.

    Raises:
      ImportError: neural-tangents or frozendict is missing; the message says how to install them.
      TypeError: a `network` that is not such a function.
      ValueError: an unknown `kind`, or a network that does not end in one vector an example.

    Source: Novak et al. (2020), "Neural Tangents: Fast and Easy Infinite Neural Networks in
    Python".

    >>> import jax.numpy as jnp
    >>> def network(stax):
    ...     return stax.serial(stax.Dense(1, 2**0.5), stax.Relu(), stax.Dense(1, 2**0.5))
    >>> print(Stax(network)(jnp.array([[1.0, 1.0]])))
    [[4.]]
    """

    network: Any
    kind: str = "ntk"

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.network):
            raise TypeError(
                "network must be a function of the module stax, for example "
                "`lambda stax: stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))`, "
                f"got {self.network!r}."
            )
        if self.kind not in ("ntk", "nngp"):
            raise ValueError(f'kind must be "ntk" or "nngp", got {self.kind!r}.')

    def _tile(self, x1: Array, x2: Array) -> Array:
        return self._entries(x1, x2)

    def _diagonal(self, x: Array) -> Array:
        return jax.vmap(lambda one: self._entries(one[None], None)[0, 0])(x)

    def _entries(self, x1: Array, x2: Array | None) -> Array:
        kernel_fn = _kernel_fn(self.network)
        # neural-tangents is written for NumPy's rules of promotion.
        with _numpy_promotion():
            try:
                entries = kernel_fn(x1, x2, self.kind)
            except (ValueError, TypeError, IndexError, NotImplementedError) as error:
                raise ValueError(
                    f"the network takes no inputs of shape {x1.shape[1:]}: {error}"
                ) from error
        if entries.ndim != 2:
            raise ValueError(
                "the network must give one vector an example, but its kernel has shape "
                f"{entries.shape}: end it in stax.Flatten() or GlobalAvgPool(), and stax.Dense(1)."
            )
        return entries.astype(x1.dtype)

    def _floats(self, shape: tuple[int, ...]) -> int:
        return _ALIVE * _largest(self, shape)


@contextlib.contextmanager
def _numpy_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.lru_cache(maxsize=64)
def _kernel_fn(network: Callable) -> Callable:
    """The `kernel_fn` of the architecture."""
    built = network(neural_tangents().stax)
    if not isinstance(built, tuple) or len(built) != 3 or not callable(built[2]):
        raise TypeError(
            "network must return (init_fn, apply_fn, kernel_fn), as stax.serial does, got "
            f"{type(built).__name__}."
        )
    return built[2]


@functools.lru_cache(maxsize=64)
def _largest(kernel: Stax, shape: tuple[int, ...]) -> int:
    """Numbers a pair in the largest array on the way to an entry."""
    batches = (jax.ShapeDtypeStruct((n, *shape), jnp.float32) for n in (2, 3))
    equations = jax.make_jaxpr(kernel._tile)(*batches).jaxpr.eqns
    sizes = [getattr(v.aval, "size", 1) for equation in equations for v in equation.outvars]
    return max(1, -(-max(sizes, default=1) // 6))

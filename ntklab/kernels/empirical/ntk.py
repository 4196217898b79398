"""The empirical neural tangent kernel of any network that treats its examples one by one."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._memory import default_budget, format_bytes, parse_bytes
from ntklab._typing import Array
from ntklab.kernels.empirical import capture, prepare
from ntklab.kernels.empirical.assemble import assemble, padded
from ntklab.kernels.empirical.explain import Explanation, explanation
from ntklab.kernels.empirical.plan import needs, plan

MODES = ("full", "per_class", "trace", "sum_logits")
#: Rows of a block at most, on CPU and elsewhere.
_ROWS = {"cpu": 256}, 1024
#: Bytes that are taken without asking how many are free.
_SURELY_FREE = 2**26
#: From so many FLOPs on, the symmetric half is worth cutting blocks for.
_WORTH_HALVING = 4e8


def empirical_ntk(
    f: Callable,
    params: Any,
    x1: Any,
    x2: Any = None,
    mode: str = "full",
    memory_budget: int | str | None = None,
    explain: bool = False,
    *,
    precision: str = "highest",
) -> Array | Explanation:
    r"""The kernel $J(x)\,J(x')^\top$ of a network at its present parameters.

    $$\Theta_{ij,kl} = \sum_p \frac{\partial f_k(x_i)}{\partial\theta_p}
      \frac{\partial f_l(x'_j)}{\partial\theta_p},$$

    the sum over all entries of `params`. Layers are found in `f` itself: their inputs and output
    cotangents are captured in one batched backward pass an output, and each parameter takes the
    cheapest of three contractions (`ntklab.kernels.empirical.rules`). The network must treat
    examples independently; BatchNorm therefore runs in evaluation mode, its statistics closed over.

    Args:
      f: `f(params, x)`, inputs `(b, ...)` to outputs `(b, k)`; any function that JAX can
        differentiate. Flax linen: `lambda p, x: model.apply({"params": p, **state}, x)`. NNX:
        `graph, params, rest = nnx.split(model, nnx.Param, ...)` and
        `lambda p, x: nnx.merge(graph, p, rest)(x)`. Compiled code is kept for each function
        object, so define it once; give what changes between calls (statistics) as
        `jax.tree_util.Partial(f, statistics)`.
      params: a pytree of floating-point arrays.
      x1: inputs, `(n, ...)`.
      x2: inputs `(m, ...)`; without it `x1` again, at half the work.
      mode: `full`; `per_class` for the blocks $k = l$; `trace` for their *sum* over classes
        (neural-tangents divides it by k); `sum_logits` for the kernel of $\sum_k f_k$.
      memory_budget: bytes, or words such as `"2GiB"`, for what is held on top of the result.
        Without it, half of what is free. It changes speed, and the result by rounding only.
      explain: return the table of rules instead, which costs a trace of `f` only.
      precision: of matrix products where hardware offers several, as in
        `jax.default_matmul_precision`.

    Returns:
      `full` `(n, m, k, k)`, `per_class` `(n, m, k)`, `trace` and `sum_logits` `(n, m)`; symmetric
      to the last bit without `x2`. With `explain`, a list of rows that prints as a table.

    Cost: a forward pass and k backward passes an example (`sum_logits`: one), and per pair what
      `explain` shows: for `full` at most $2 k^2 p$ FLOPs, for `per_class` and `trace` $2kp$, for
      `sum_logits` $2p$. Captures of all examples are kept where the budget allows.

    Raises:
      TypeError: inputs or parameters that are not float32 or float64, integer images.
      ValueError: shapes that do not fit, NaN or infinite values, an output that is not `(b, k)`, a
        network that mixes examples, an unknown mode, a budget too small for one row.

    Source: Novak, Sohl-Dickstein and Schoenholz (2022), "Fast finite width neural tangent kernel".

    >>> params = {"w": jnp.array([[1.0, -1.0], [2.0, 0.5]]), "v": jnp.array([[1.0], [3.0]])}
    >>> def network(p, x):
    ...     return jax.nn.relu(x @ p["w"]) @ p["v"]
    >>> print(empirical_ntk(network, params, jnp.eye(2), mode="trace"))
    [[ 2.    2.  ]
     [ 2.   14.25]]
    """
    kernel = EmpiricalNTK(
        f, params, mode, memory_budget=memory_budget, precision=precision, partners=None
    )
    if explain:
        return kernel.explain(x1, x2)
    return kernel(x1, x2)


@jax.tree_util.register_pytree_node_class
class EmpiricalNTK:
    """The kernel of `empirical_ntk` as an object, for `ntklab.kernels.gram` and for reuse.

    It is a pytree whose leaves are the parameters: compiled code takes them as arguments, and a
    second object with the same `f` and other parameters compiles nothing.

    Args:
      f: see `empirical_ntk`.
      params: see `empirical_ntk`.
      mode: see `empirical_ntk`.
      memory_budget: see `empirical_ntk`; for `__call__` alone.
      precision: see `empirical_ntk`.
      partners: with about how many examples each example will be paired; many make forming
        Jacobians worth while. None: as many as each call has.

    Raises: as `empirical_ntk` does.
    """

    def __init__(
        self,
        f: Callable,
        params: Any,
        mode: str = "full",
        *,
        memory_budget: int | str | None = None,
        precision: str = "highest",
        partners: int | None = 256,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")
        if memory_budget is not None:
            memory_budget = parse_bytes(memory_budget)
        self.f, self.params, self.mode = f, params, mode
        self.memory_budget, self.precision, self.partners = memory_budget, precision, partners
        self._check_params()

    def tree_flatten(self):
        """The arrays of `params`, and those that `f` carries where it is a pytree."""
        options = (self.mode, self.memory_budget, self.precision, self.partners)
        if capture.is_tree(self.f):
            return (self.params, self.f), (None, options)
        return (self.params, None), (self.f, options)

    @classmethod
    def tree_unflatten(cls, static, children):
        """The object again, without checks: JAX puts other things than arrays into it too."""
        new = object.__new__(cls)
        (new.params, carrier), (function, options) = children, static
        new.f = carrier if function is None else function
        new.mode, new.memory_budget, new.precision, new.partners = options
        return new

    def prepare(self, x: Array) -> tuple[dict[str, Any], ...]:
        """Captures of a block `(b, ...)`: a pytree of arrays with examples first.

        Cost: one forward pass and k backward passes an example; see `memory`.
        """
        return _prepare(self._planned(None), x)

    def tile(self, one: tuple[dict[str, Any], ...], two: tuple[dict[str, Any], ...]) -> Array:
        """Entries `(b, c, ...)` of two prepared blocks; see `empirical_ntk` for cost."""
        return _tile(self.mode, self.precision, one, two)

    def memory(self, example: tuple[int, ...], dtype: Any) -> tuple[int, int]:
        """Bytes for a prepared example (with its share of the work of preparing), and a pair."""
        _, _, need = self._planned(None)._plan(tuple(example), jnp.dtype(dtype))
        return max(need.held, (2 * need.held + need.working) // 4), need.pair

    def diagonal(self, x: Array) -> Array:
        """Entries at coincident inputs: `(n, k, k)`, `(n, k)` or `(n,)`.

        Cost: that of n pairs. Raises as `__call__` does.
        """
        x = self._check(x, "x")
        own = self._planned(1)
        block = own._block(len(x), 0, x, False)[0]
        self._check_mixing(x)
        starts = range(0, len(x), block)
        x = padded(x, block)
        parts = [_own(own, _prepare_from(own, x, start, block)) for start in starts]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)[: len(x)]

    def __call__(self, x1: Array, x2: Array | None = None) -> Array:
        """The matrix; see `empirical_ntk`."""
        x1 = self._check(x1, "x1")
        x2 = None if x2 is None else self._check(x2, "x2", x1)
        n, m = len(x1), len(x1 if x2 is None else x2)
        own = self._planned(2 * n * m // (n + m))
        block, keep = own._block(n, m, x1, x2 is None)
        own._check_mixing(x1)
        prepared = functools.partial(_prepare_from, own)
        return assemble(own.mode, prepared, own.tile, x1, x2, block, keep)

    def explain(self, x1: Any, x2: Any = None) -> Explanation:
        """The rule, FLOPs and bytes of every parameter, for `kernel(x1, x2)`; computes nothing."""
        n, m = len(x1), len(x1 if x2 is None else x2)
        own = self._planned(2 * n * m // (n + m))
        x = self._check(x1, "x1")
        program, terms, _ = own._plan(x.shape[1:], x.dtype)
        return explanation(program, terms, self.params, n, None if x2 is None else m)

    # The plan.

    def _planned(self, partners: int | None) -> "EmpiricalNTK":
        """The same object with the number of partners decided."""
        if self.partners is not None:
            return self
        new = self.tree_unflatten(*reversed(self.tree_flatten()))
        new.partners = 256 if partners is None else max(1, partners)
        return new

    def _plan(self, shape: tuple[int, ...], dtype: Any):
        """Program, terms and needs for examples of this shape; remembered."""
        key = self._key(shape, dtype)
        if key in _PLANS:
            return _PLANS[key]
        with jax.default_matmul_precision(self.precision):
            program = capture.trace(self.f, self.params, shape, dtype)
        terms = plan(program, self.mode, self.partners)
        made = program, terms, needs(program, terms, self.mode)
        if not any(isinstance(v, jax.core.Tracer) for v in program.constants.values()):
            if len(_PLANS) >= 64:
                _PLANS.pop(next(iter(_PLANS)))
            _PLANS[key] = made
        return made

    def _key(self, shape: tuple[int, ...], dtype: Any):
        """All that a plan depends on."""
        leaves, structure = jax.tree.flatten(self.params)
        carried, _ = capture.carried_by(self.f)
        f = jax.tree.structure(self.f) if capture.is_tree(self.f) else self.f
        specs = tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves + carried)
        options = self.mode, self.precision, self.partners
        return f, structure, specs, tuple(shape), jnp.dtype(dtype), *options

    # Blocks.

    def _block(self, n: int, m: int, x: Array, symmetric: bool) -> tuple[int, bool]:
        """Rows of a block, and whether the captures of all blocks are kept."""
        need = self._plan(x.shape[1:], x.dtype)[2]
        device = _device_of(x)

        def bytes_of(block, keep):
            held = (n + (0 if symmetric else m)) if keep else 2 * block
            return held * need.held + block * need.working + block * block * need.pair

        block = min(_ROWS[0].get(device.platform, _ROWS[1]), max(n, m))
        if symmetric and need.pair_flops * n * n > _WORTH_HALVING:
            block = min(block, max(32, math.ceil(n / 4)))
        budget = self.memory_budget
        if budget is None:  # asking the system takes as long as a small kernel
            small = bytes_of(block, True) <= _SURELY_FREE
            budget = _SURELY_FREE if small else default_budget(device)
        while block > 1 and bytes_of(block, False) > budget:
            block = block * 3 // 4
        if bytes_of(block, False) > budget:
            raise ValueError(
                f"memory_budget of {format_bytes(budget)} is too small for one row: at least "
                f"{bytes_of(1, False)} bytes are needed."
            )
        keep = bytes_of(block, True) <= budget
        return math.ceil(max(n, m) / math.ceil(max(n, m) / block)), keep

    # Checks.

    def _check_params(self) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            name = jax.tree_util.keystr(path)
            dtype = jnp.result_type(leaf)
            if dtype not in (jnp.float32, jnp.float64):
                raise TypeError(
                    f"params{name} is {dtype}; parameters must be float32 or float64 (convert "
                    "half precision, close over counters and keys)."
                )
        leaves = jax.tree.leaves(self.params)
        if any(isinstance(a, jax.core.Tracer) for a in leaves) or bool(_finite(leaves)):
            return
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            if not bool(jnp.isfinite(leaf).all()):
                name = jax.tree_util.keystr(path)
                raise ValueError(f"params{name} holds NaN or infinite values.")

    def _check(self, x: Any, name: str, like: Array | None = None) -> Array:
        """The inputs as an array, or one sentence."""
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"{name} is {x.dtype}, which has too few digits for a kernel; convert it to "
                "float32."
            )
        if x.ndim < 1 or 0 in x.shape:
            raise ValueError(
                f"{name} must be a batch, examples first and no axis empty, got shape {x.shape}."
            )
        if like is not None and (x.shape[1:], x.dtype) != (like.shape[1:], like.dtype):
            raise ValueError(
                "x1 and x2 need one dtype and one shape after the first axis, got "
                f"{like.dtype}{list(like.shape)} and {x.dtype}{list(x.shape)}."
            )
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x)).all():
            raise ValueError(f"{name} holds NaN or infinite values; look at where it comes from.")
        return x

    def _check_mixing(self, x: Array) -> None:
        """Raise when the outputs of two examples depend on their being together; asked once."""
        leaves = [x, *jax.tree.leaves(self.params), *capture.carried_by(self.f)[0]]
        if len(x) < 2 or any(isinstance(a, jax.core.Tracer) for a in leaves):
            return
        key = self._key(x.shape[1:], x.dtype)
        if key in _CHECKED:
            return
        together, alone = _two_ways(self, x[:2])
        scale = float(jnp.abs(alone).max())
        if not bool((jnp.abs(together - alone) <= 1e-3 * scale + 1e-6).all()):
            raise ValueError(
                "f mixes the examples of a batch (BatchNorm in training mode?): two examples "
                "together give other outputs than each alone; close over fixed statistics."
            )
        _CHECKED.add(key)


def _device_of(x: Array) -> Any:
    """The first device of this process where an array lies, or its first one while it is traced."""
    mine = () if isinstance(x, jax.core.Tracer) else x.sharding.addressable_devices
    return min(mine, key=lambda d: d.id, default=jax.local_devices()[0])


@jax.jit
def _finite(leaves: list[Array]) -> Array:
    """Whether all numbers are finite, in one pass over all arrays."""
    return jnp.stack([jnp.isfinite(a).all() for a in leaves]).all()


_PLANS: dict = {}
_CHECKED: set = set()


def _captures(kernel: EmpiricalNTK, x: Array) -> tuple[dict[str, Any], ...]:
    program, terms, _ = kernel._plan(x.shape[1:], x.dtype)
    leaves = jax.tree.leaves(kernel.params) + capture.carried_by(kernel.f)[0]
    with jax.default_matmul_precision(kernel.precision):
        one = functools.partial(
            prepare.prepare, program, terms, leaves, summed=kernel.mode == "sum_logits"
        )
        return jax.vmap(one)(x)


_prepare = jax.jit(_captures)


@functools.partial(jax.jit, static_argnums=3)
def _prepare_from(kernel: EmpiricalNTK, x: Array, start: Any, block: int):
    return _captures(kernel, jax.lax.dynamic_slice_in_dim(x, start, block))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tile(mode: str, precision: str, one: Any, two: Any) -> Array:
    with jax.default_matmul_precision(precision):
        return prepare.tile(mode, one, two)


@jax.jit
def _own(kernel: EmpiricalNTK, captures: Any) -> Array:
    """The entries of every example with itself."""

    def single(one):
        batch = jax.tree.map(lambda a: a[None], one)
        return prepare.tile(kernel.mode, batch, batch)[0, 0]

    with jax.default_matmul_precision(kernel.precision):
        return jax.vmap(single)(captures)


@jax.jit
def _two_ways(kernel: EmpiricalNTK, x: Array) -> tuple[Array, Array]:
    """Outputs of a batch, and of its examples one by one."""
    f, params = kernel.f, kernel.params
    return f(params, x), jax.lax.map(lambda one: f(params, one[None])[0], x)

"""neural-tangents 0.6.5 on today's JAX, without TensorFlow: the one place that knows its quirks.

The package was last released in 2023. Three things stop it today, all at import:

1. It takes names from `jax.core`, `jax.util` and `jax.interpreters.ad` that JAX has moved or
   dropped. They are lent for as long as the import runs, from `jax.extend.core`, and then taken
   back: afterwards JAX is as it was.
2. Its subpackage `experimental` imports TensorFlow. A placeholder stands in for it.
3. Its structured derivatives rest on the inside of JAX as it was in early 2024, and its automatic
   choice on what compiled code reported then. Both are switched off with a sentence that says
   what to use. The default, Jacobian contraction, is not affected.

Everything else gives the values that it gave on the JAX versions it was written for:
`tests/unit/test_nt.py` compares them.
"""

import contextlib
import functools
import importlib
import importlib.util
import itertools
import math
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad
import jax.numpy as jnp

_VERSION = "0.6.5"
_INSTALL = f"pip install --no-deps neural-tangents=={_VERSION} frozendict"
_STUB = "neural_tangents.experimental"
_LOCK = threading.RLock()


@functools.cache
def neural_tangents() -> types.ModuleType:
    r"""The package neural-tangents 0.6.5, ready for the JAX at hand; TensorFlow is never imported.

    Its kernels use the NTK parameterisation: `stax.Dense(n, W_std, b_std)` is
    $h(x) = \sigma_w W x / \sqrt{d} + \sigma_b b$ with standard normal $W$ and $b$.
    Beware of two habits when its values are compared with others: the empirical kernels average
    over `trace_axes` (their "trace" is the trace divided by the number of outputs), and
    `predict.gradient_descent_mse` descends $\|f - y\|^2 / (2 N)$ with `N = y_train.size`, so that
    its time `t` is the time `t / N` of $\dot f = -\Theta (f - y)$.

    Works: `stax`, `predict`, `batch`, `linearize`, `taylor_expand`, `monte_carlo_kernel_fn`, and
    the empirical kernels by Jacobian contraction (`implementation=1`, the default) and by
    NTK-vector products (`implementation=2`). Does not work: structured derivatives
    (`implementation=3`) and the automatic choice (`implementation=0`).

    Returns:
      The module `neural_tangents`, the same one at every call.

    Cost: at most 0.2 s at the first call, nothing later; the memory of the loaded code.

    Raises:
      ImportError: neural-tangents or frozendict is missing, or has another version.

    Source: Novak et al. (2020), "Neural Tangents: Fast and Easy Infinite Neural Networks in
    Python"; https://github.com/google/neural-tangents.

    >>> import jax.numpy as jnp
    >>> nt = neural_tangents()
    >>> _, _, kernel = nt.stax.serial(nt.stax.Dense(8), nt.stax.Relu(), nt.stax.Dense(1))
    >>> x = jnp.eye(2)
    >>> kernel(x, x, "ntk").shape
    (2, 2)
    """
    _check_installed()
    with _LOCK, warnings.catch_warnings(), _lent_names():
        # What an import written for the JAX of 2023 is told: nothing that a user could change.
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.modules.setdefault(_STUB, _NoTensorFlow(_STUB))
        package = importlib.import_module("neural_tangents")
    if package.__version__ != _VERSION:
        raise ImportError(
            f"ntklab needs neural-tangents {_VERSION}, found {package.__version__}; {_hint()}"
        )
    _mend(sys.modules["neural_tangents._src.empirical"])
    return package


class _NoTensorFlow(types.ModuleType):
    """Stands in for `neural_tangents.experimental`, whose import would load TensorFlow."""

    def __getattr__(self, name: str):
        raise AttributeError(f"{self.__name__}.{name} needs TensorFlow, which ntklab leaves out.")


def _hint() -> str:
    return f"install it without its dependencies, which bring TensorFlow: {_INSTALL}"


def _check_installed() -> None:
    """Raise one sentence when neural-tangents or the one package it needs is missing."""
    if "neural_tangents" in sys.modules:
        return
    for module, name in (("neural_tangents", "neural-tangents"), ("frozendict", "frozendict")):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"{name} is not installed; {_hint()}", name=module)


@contextlib.contextmanager
def _lent_names() -> Iterator[None]:
    """Add to JAX the names that neural-tangents imports from where they no longer are.

    Only names that a module does not define itself are set, and every one is removed at the end.
    """
    extend = jax.extend.core
    core = {n: getattr(extend, n) for n in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")}
    # A key of the table for structured derivatives, never looked up.
    ad = {"zeros_like_p": extend.Primitive("zeros_like")}
    util = types.ModuleType("jax.util")
    util.safe_map, util.safe_zip = _safe_map, _safe_zip
    with (
        _added(vars(jax.core), core),
        _added(vars(jax.interpreters.ad), ad),
        _replaced(sys.modules, "jax.util", util),
    ):
        yield


@contextlib.contextmanager
def _added(names: dict, extra: dict) -> Iterator[None]:
    """The dictionary `names` with those entries of `extra` that it lacks, inside the block."""
    missing = {key: value for key, value in extra.items() if key not in names}
    names.update(missing)
    try:
        yield
    finally:
        for key in missing:
            names.pop(key, None)


@contextlib.contextmanager
def _replaced(names: dict, key: str, value: object) -> Iterator[None]:
    """The dictionary `names` with `names[key] = value`, inside the block."""
    before = names.get(key)
    names[key] = value
    try:
        yield
    finally:
        del names[key]
        if before is not None:
            names[key] = before


def _safe_map(function: Callable, *iterables) -> list:
    """`map` as a list, for iterables of one length only."""
    return [function(*items) for items in zip(*iterables, strict=True)]


def _safe_zip(*iterables) -> list:
    """`zip` as a list, for iterables of one length only."""
    return list(zip(*iterables, strict=True))


def _mend(empirical: types.ModuleType) -> None:
    """Make the two broken implementations refuse when asked for, and renew two helpers."""
    for kind in ("STRUCTURED_DERIVATIVES", "AUTO"):
        number = empirical.NtkImplementation[kind]
        empirical._implementation_to_ntk_fn[number] = functools.partial(_refuse, kind)
    # The originals call `jnp.size` on a shape, which JAX warns about and will make an error.
    empirical._std_basis = _standard_basis
    empirical._unravel_array_into_pytree = _unravel


def _standard_basis(tree):
    """The standard basis of the space in which `tree` lies, stacked along a new first axis."""
    leaves = jax.tree.leaves(tree)
    size = sum(math.prod(leaf.shape) for leaf in leaves)
    return _unravel(tree, 1, jnp.eye(size, dtype=jnp.result_type(*(a.dtype for a in leaves))))


def _unravel(tree, axis: int, flat):
    """Cut `axis` of the array `flat` into pieces with the shapes of the leaves of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    axis %= flat.ndim
    ends = list(itertools.accumulate(math.prod(leaf.shape) for leaf in leaves))
    before, after = flat.shape[:axis], flat.shape[axis + 1 :]
    pieces = zip(jnp.split(flat, ends[:-1], axis), leaves, strict=True)
    return structure.unflatten(a.reshape(before + leaf.shape + after) for a, leaf in pieces)


def _refuse(name: str, **_) -> NoReturn:
    raise NotImplementedError(
        f"neural-tangents' {name} does not run on JAX {jax.__version__}: use "
        "ntklab.kernels.empirical_ntk where your release of ntklab has it, and otherwise "
        "implementation=1 (Jacobian contraction) or 2 (NTK-vector products)."
    )

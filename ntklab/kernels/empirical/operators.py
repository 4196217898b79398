"""Products with the empirical kernel, its functions and the Jacobian, none of them formed."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ntklab._typing import Array


def ntk_vector_product(f: Callable, params: Any, x1: Array, x2: Array | None, v: Array) -> Array:
    r"""The products $u_{ik} = \sum_{jl} \Theta_{ij,kl}\, v_{jl}$, without the kernel.

    $$u = J(x)\,\big(J(x')^\top v\big),$$

    one reverse and one forward derivative of the network: the right tool for conjugate gradients
    and Lanczos, where few products are needed. For the matrix itself `empirical_ntk` is faster.

    Args:
      f: `f(params, x)`, inputs `(b, ...)` to outputs `(b, k)`.
      params: a pytree of floating-point arrays.
      x1: inputs of the rows, `(n, ...)`.
      x2: inputs of the columns, `(m, ...)`; None for `x1` again.
      v: `(m, k)`.

    Returns:
      `(n, k)`.

    Cost: about three forward passes over `x2` and two over `x1`; the memory of training on `x2`.

    Raises:
      ValueError: `v` has not the shape of the outputs for `x2`.

    Source: Novak, Sohl-Dickstein and Schoenholz (2022), section 3.3.

    >>> def f(p, x):
    ...     return x @ p
    >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> print(ntk_vector_product(f, jnp.ones((2, 1)), x, None, jnp.array([[1.0], [0.0]])))
    [[5.]
     [2.]]
    """
    x2 = x1 if x2 is None else x2
    out, pull = jax.vjp(lambda p: f(p, x2), params)
    if jnp.shape(v) != out.shape:
        raise ValueError(
            f"v must have the shape of the outputs for x2, {out.shape}, got {jnp.shape(v)}."
        )
    (direction,) = pull(jnp.asarray(v, out.dtype))
    return jax.jvp(lambda p: f(p, x1), (params,), (direction,))[1]


class JacobianOperator(NamedTuple):
    r"""The Jacobian $J$ of all outputs for a batch, as a linear map.

    It has what `scipy.sparse.linalg.LinearOperator` and matfree ask for. Solve
    $(J J^\top + \rho) a = b$ by `jax.scipy.sparse.linalg.cg(lambda a: op.gram(a) + rho * a, b)`.

    Attributes:
      shape: `(n k, p)`; rows run over examples, then outputs.
      dtype: of the outputs.
      matvec: `(p,)` to `(n k,)`.
      rmatvec: `(n k,)` to `(p,)`, the transpose.
      gram: `(n k,)` to `(n k,)`, the product with $J J^\top$.
    """

    shape: tuple[int, int]
    dtype: Any
    matvec: Callable
    rmatvec: Callable
    gram: Callable


def jacobian_operator(f: Callable, params: Any, x: Array) -> JacobianOperator:
    r"""The Jacobian $J = \partial f(x) / \partial\theta$ as a `JacobianOperator`.

    Args:
      f: `f(params, x)`, inputs `(n, ...)` to outputs `(n, k)`.
      params: a pytree of floating-point arrays of one dtype; its leaves, flattened in the order of
        `jax.tree.leaves`, are the columns.
      x: inputs, `(n, ...)`.

    Returns:
      The operator; its functions are compiled at first use, with `params` and `x` as arguments.

    Cost: a trace of `f`; each product costs about three forward passes and the memory of one
    training step (`matvec`: two, and the memory of inference).

    Raises:
      ValueError: at a product, a vector of another length.

    Source: Novak, Sohl-Dickstein and Schoenholz (2022), section 3.3.

    >>> op = jacobian_operator(lambda p, x: x @ p, jnp.ones((2, 1)), jnp.array([[1.0, 2.0]]))
    >>> op.shape, op.matvec(jnp.array([1.0, 1.0])), op.rmatvec(jnp.array([2.0]))
    ((1, 2), Array([3.], dtype=float32), Array([2., 4.], dtype=float32))
    """
    flat, unravel = ravel_pytree(params)
    out = jax.eval_shape(f, params, x)
    arguments = (f, unravel, flat, x)
    return JacobianOperator(
        (out.size, flat.size),
        out.dtype,
        partial(_matvec, *arguments),
        partial(_rmatvec, *arguments),
        partial(_gram, *arguments),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _matvec(f: Callable, unravel: Callable, flat: Array, x: Array, v: Array) -> Array:
    _check_length(v, flat.size)
    return jax.jvp(lambda p: f(unravel(p), x), (flat,), (v,))[1].reshape(-1)


@partial(jax.jit, static_argnums=(0, 1))
def _rmatvec(f: Callable, unravel: Callable, flat: Array, x: Array, u: Array) -> Array:
    out, pull = jax.vjp(lambda p: f(unravel(p), x), flat)
    _check_length(u, out.size)
    return pull(u.reshape(out.shape))[0]


@partial(jax.jit, static_argnums=(0, 1))
def _gram(f: Callable, unravel: Callable, flat: Array, x: Array, u: Array) -> Array:
    return _matvec(f, unravel, flat, x, _rmatvec(f, unravel, flat, x, u))


def ntk_function_product(
    function: Callable, f: Callable, params: Any, x: Array, v: Array, products: int = 64
) -> Array:
    r"""The product $g(\Theta)\,v$ of a function of the kernel with a vector, by Lanczos.

    $$g(\Theta)\,v \approx |v|\, V_m\, g(T_m)\, e_1, \qquad T_m = V_m^\top \Theta V_m,$$

    where $V_m$ is an orthonormal basis of $v, \Theta v, \dots, \Theta^{m-1} v$, through matfree.
    With $g(\lambda) = e^{-\lambda t}$ and $v = f(x) - y$ it is what gradient flow of the linearised
    network leaves of the error after time $t$, for training sets whose kernel of examples *and*
    outputs, `(n k, n k)`, would not fit. Where the kernel fits, `LinearisedNetwork` is faster.

    Args:
      function: $g$, from an eigenvalue to a number, as JAX computes it; define it once, since
        compiled code is kept for each function object.
      f: `f(params, x)`, inputs `(n, ...)` to outputs `(n, k)`.
      params: a pytree of floating-point arrays of one dtype.
      x: inputs, `(n, ...)`.
      v: `(n, k)`.
      products: $m$, at most `n k`. The flow needs about the root of largest eigenvalue times time;
        whether they are enough shows in that more of them leave the result as it is.

    Returns:
      `(n, k)`, in the dtype of the outputs.

    Cost: `m` products with the kernel (see `ntk_vector_product`) and `8 m^2 n k` operations;
      memory of `m n k` numbers and of training on `x`.

    Raises:
      ImportError: matfree is not installed.
      ValueError: a `v` of another shape, `products` out of range, or a `v` that has fewer than
        `products` independent powers.

    Source: Saad (1992), "Analysis of some Krylov subspace approximations to the matrix exponential
    operator"; matfree: Krämer et al. (2024), "Gradients of functions of large matrices".

    >>> w, x = jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [0.0, 2.0]])  # eigenvalues 1 and 4
    >>> root = ntk_function_product(jnp.sqrt, lambda p, x: x @ p, w, x, jnp.ones((2, 1)), 2)
    >>> print(root.round(5))
    [[1.]
     [2.]]
    """
    _matfree()
    flat, unravel = ravel_pytree(params)
    out = jax.eval_shape(f, params, x)
    if jnp.shape(v) != out.shape:
        raise ValueError(f"v must have the shape of the outputs, {out.shape}, got {jnp.shape(v)}.")
    if not 1 <= products <= out.size:
        raise ValueError(f"products must lie in 1..{out.size} (n k), got {products}.")
    value = _function_product(function, f, unravel, products, flat, x, jnp.asarray(v, out.dtype))
    if not isinstance(value, jax.core.Tracer) and not bool(jnp.isfinite(value).all()):
        raise ValueError(
            f"{products} products with the kernel are more than v has independent ones, or the "
            "function is not finite on the spectrum: ask for fewer products."
        )
    return value


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _function_product(
    function: Callable,
    f: Callable,
    unravel: Callable,
    products: int,
    flat: Array,
    x: Array,
    v: Array,
) -> Array:
    decomp, funm = _matfree()

    def product(u, flat, x):
        return _gram(f, unravel, flat, x, u)

    lanczos = decomp.tridiag_sym(products, reortho="full", materialize=True)
    estimate = funm.funm_lanczos_sym(funm.dense_funm_sym_eigh(function), lanczos)
    with jax.default_matmul_precision("highest"):
        return estimate(product, v.reshape(-1), flat, x).reshape(v.shape)


def _matfree() -> tuple[Any, Any]:
    """The two modules of matfree, or one sentence."""
    try:
        from matfree import decomp, funm
    except ImportError:
        raise ImportError("matfree is not installed: pip install matfree.") from None
    return decomp, funm


def _check_length(vector: Array, length: int) -> None:
    """Raise one sentence unless the vector fits the operator."""
    if jnp.shape(vector) != (length,):
        raise ValueError(f"the operator takes vectors ({length},), got {jnp.shape(vector)}.")

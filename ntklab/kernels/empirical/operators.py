"""Products with the empirical kernel and with the Jacobian, neither of them formed."""

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


def _check_length(vector: Array, length: int) -> None:
    """Raise one sentence unless the vector fits the operator."""
    if jnp.shape(vector) != (length,):
        raise ValueError(f"the operator takes vectors ({length},), got {jnp.shape(vector)}.")

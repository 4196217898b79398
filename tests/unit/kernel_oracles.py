"""Empirical kernels by brute force, for the tests that compare with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

MODES = ("full", "per_class", "trace", "sum_logits")
#: Of the largest entry.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def as_users_write(f):
    """`f` under JAX's own habits of promotion; ntklab's arithmetic around it stays strict."""

    @functools.wraps(f)
    def wrapped(*args):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return f(*args)

    return wrapped


def brute(f, params, x1, x2):
    """`(n, m, k, k)` by the Jacobian of all parameters."""

    leaves = jax.tree.leaves(jax.jit(jax.jacrev(f))(params, jnp.concatenate([x1, x2])))
    flat = np.concatenate([np.asarray(a).reshape(*a.shape[:2], -1) for a in leaves], 2)
    return np.einsum("nkp,mlp->nmkl", flat[: len(x1)], flat[len(x1) :])


def in_mode(full, mode):
    """What a mode makes of the full kernel."""
    if mode == "full":
        return full
    if mode == "sum_logits":
        return full.sum((2, 3))
    return np.einsum("nmkk->nmk", full) if mode == "per_class" else np.einsum("nmkk->nm", full)


def assert_close(value, expected, dtype=None):
    """One dtype, one shape, and entries equal to `TOLERANCE` of the largest."""
    dtype = dtype or str(value.dtype)
    assert str(value.dtype) == dtype
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=0, atol=TOLERANCE[dtype] * abs(expected).max())

"""Functions of the empirical kernel times a vector, without the kernel."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab.kernels import empirical_ntk, ntk_function_product, ntk_vector_product
from ntklab.predictors import LinearisedNetwork

TIME = 0.3


def decay(eigenvalue):
    return jnp.exp(-TIME * eigenvalue)


def mlp(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def linear(params, x):
    return x @ params


def problem(n=6):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 5)), "v": rng.normal(size=(5, 2))}
    x, v = rng.normal(size=(n, 4)), rng.normal(size=(n, 2))
    return jax.tree.map(jnp.asarray, (params, x, v))


def test_eigenvalues_by_hand():
    """For f = x w with orthogonal inputs the kernel is diagonal, with their squared norms."""
    with float64():
        x = jnp.diag(jnp.asarray([1.0, 2.0, 3.0]))
        value = ntk_function_product(decay, linear, jnp.ones((3, 1)), x, jnp.ones((3, 1)), 3)
    np.testing.assert_allclose(value[:, 0], np.exp(-TIME * np.array([1.0, 4.0, 9.0])), rtol=1e-12)


def test_it_is_the_function_of_the_matrix():
    with float64():
        params, x, v = problem()
        matrix = np.asarray(empirical_ntk(mlp, params, x)).swapaxes(1, 2).reshape(12, 12)
        eigenvalues, vectors = np.linalg.eigh(matrix)
        wanted = vectors @ (np.exp(-TIME * eigenvalues) * (vectors.T @ v.ravel()))
        errors = [
            np.abs(np.ravel(ntk_function_product(decay, mlp, params, x, v, m)) - wanted).max()
            for m in (3, 6, 12)
        ]
        product = ntk_function_product(lambda s: s, mlp, params, x, v, 4)
        np.testing.assert_allclose(product, ntk_vector_product(mlp, params, x, None, v), rtol=1e-9)
    assert errors[0] > 100 * errors[1] > 0 and errors[2] < 1e-10


def test_it_is_what_gradient_flow_leaves_of_the_error():
    with float64():
        params, x, y = problem()
        flow = LinearisedNetwork(mlp, params).fit(x, y)
        left = ntk_function_product(decay, mlp, params, x, mlp(params, x) - y, 12)
        np.testing.assert_allclose(left, flow.predict(x, [TIME])[0] - y, atol=1e-9)


def test_bad_arguments():
    params, x, v = problem()
    with pytest.raises(ValueError, match=r"shape of the outputs, \(6, 2\), got \(5, 2\)"):
        ntk_function_product(decay, mlp, params, x, v[1:])
    with pytest.raises(ValueError, match=r"products must lie in 1..12 \(n k\), got 13"):
        ntk_function_product(decay, mlp, params, x, v, 13)
    eigenvector = jnp.asarray([[1.0], [0.0]])
    with pytest.raises(ValueError, match="2 products with the kernel are more than v has"):
        ntk_function_product(decay, linear, jnp.ones((2, 1)), jnp.eye(2), eigenvector, 2)


def test_without_matfree(monkeypatch):
    monkeypatch.setitem(sys.modules, "matfree", None)
    with pytest.raises(ImportError, match="matfree is not installed: pip install matfree"):
        ntk_function_product(decay, linear, jnp.ones((2, 1)), jnp.eye(2), jnp.ones((2, 1)), 1)

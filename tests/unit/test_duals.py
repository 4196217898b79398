"""Dual activations: known values, quadrature, derivatives, and the ends of the range."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from ntklab._common import float64
from ntklab.kernels import erf_duals, kappa0, kappa1, leaky_relu_duals, relu_duals
from ntklab.kernels.dual import DUALS, duals_of

COVARIANCES = [(0.3, 1.0, 2.0), (-0.9, 1.0, 1.1), (1.2, 1.5, 1.0), (0.0, 0.5, 3.0)]
ACTIVATIONS = {
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0) * 1.0),
    "erf": (special.erf, lambda a: 2 / np.sqrt(np.pi) * np.exp(-(a**2))),
    "leaky_relu": (lambda a: np.where(a > 0, a, 0.01 * a), lambda a: np.where(a > 0, 1, 0.01)),
}


def expectation(f, k12, k11, k22):
    """E f(a) f(b) over the Gaussian pair, by integration in polar coordinates."""
    root = np.linalg.cholesky([[k11, k12], [k12, k22]])

    def integrand(radius, angle):
        a, b = root @ (radius * np.cos(angle), radius * np.sin(angle))
        return f(a) * f(b) * radius * np.exp(-(radius**2) / 2) / (2 * np.pi)

    # ReLU switches where a = 0 or b = 0: the integral is cut there.
    b_zero = np.arctan2(-root[1, 0], root[1, 1]) % np.pi
    cuts = sorted({0.0, np.pi / 2, 3 * np.pi / 2, b_zero, b_zero + np.pi, 2 * np.pi})
    parts = itertools.pairwise(cuts)
    return sum(integrate.dblquad(integrand, lo, hi, 0, 12, epsabs=1e-10)[0] for lo, hi in parts)


def test_known_values():
    u = jnp.array([-1.0, -0.5, 0.0, 0.5, np.sqrt(0.5), 1.0])
    np.testing.assert_allclose(kappa0(u), [0, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1], atol=1e-7)
    half = (np.sqrt(3) / 2 + np.pi / 3) / np.pi
    np.testing.assert_allclose(kappa1(u[jnp.array([0, 2, 3, 5])]), [0, 1 / np.pi, half, 1], 1e-6)
    assert float(kappa0(jnp.ones(()))) == float(kappa1(jnp.ones(()))) == 1.0
    assert float(kappa0(-jnp.ones(()))) == float(kappa1(-jnp.ones(()))) == 0.0


def test_values_outside_the_range_are_clipped():
    np.testing.assert_array_equal(kappa0(jnp.array([-1.1, 1.1])), [0.0, 1.0])
    np.testing.assert_array_equal(kappa1(jnp.array([-1.1, 1.1])), [0.0, 1.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("covariances", COVARIANCES)
def test_duals_are_the_expectations_that_they_claim_to_be(name, covariances):
    with float64():
        values = DUALS[name][0](*(jnp.asarray(k) for k in covariances))
    wanted = [expectation(f, *covariances) for f in ACTIVATIONS[name]]
    np.testing.assert_allclose(values, wanted, atol=1e-8)


@pytest.mark.parametrize("name", DUALS)
def test_variances_are_the_duals_of_equal_inputs(name):
    duals, variances = DUALS[name]
    with float64():
        k = jnp.array([1e-3, 0.5, 1.0, 7.0, 1e4])
        np.testing.assert_allclose(variances(k), duals(k, k, k), rtol=1e-11)


def test_leaky_relu_is_relu_a_line_or_the_absolute_value():
    k12, k11, k22 = jnp.asarray(COVARIANCES).T
    np.testing.assert_array_equal(leaky_relu_duals(k12, k11, k22, 0), relu_duals(k12, k11, k22))
    line = leaky_relu_duals(k12, k11, k22, 1)
    np.testing.assert_allclose(line, [k12, jnp.ones(4)], rtol=1e-7)
    r = np.sqrt(k11 * k22)
    sine = np.sqrt(1 - (k12 / r) ** 2)
    folded = 2 / np.pi * (r * sine + k12 * np.arcsin(k12 / r))  # E |a| |b|
    sign = 2 / np.pi * np.arcsin(k12 / r)
    absolute = leaky_relu_duals(k12, k11, k22, -1.0)
    np.testing.assert_allclose(absolute, [folded, sign], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("slope", [-1.0, 0.3])
def test_leaky_relu_at_other_slopes_is_the_expectation(slope):
    def leaky(a):
        return np.where(a > 0, a, slope * a)

    def its_slope(a):
        return np.where(a > 0, 1.0, slope)

    with float64():
        values = duals_of("leaky_relu", slope)[0](*(jnp.asarray(k) for k in COVARIANCES[0]))
    wanted = [expectation(f, *COVARIANCES[0]) for f in (leaky, its_slope)]
    np.testing.assert_allclose(values, wanted, atol=1e-8)


@pytest.mark.parametrize("duals", [relu_duals, erf_duals, leaky_relu_duals])
def test_derivatives_equal_finite_differences(duals):
    with float64():
        k, h = jnp.asarray(COVARIANCES).T[:, :, None], 1e-6  # three arguments, four cases
        steps = h * jnp.eye(3)[:, None, :]
        up, down = (jnp.stack(duals(*(k + s * steps))) for s in (1, -1))
        slopes = jax.jit(jax.jacobian(lambda v: jnp.stack(duals(*v))))
        exact = jnp.stack([slopes(jnp.asarray(case)) for case in COVARIANCES], axis=1)
        np.testing.assert_allclose(exact, (up - down) / (2 * h), rtol=1e-7, atol=1e-9)


def test_slopes_of_the_kappas():
    with float64():
        u = jnp.linspace(-0.99, 0.99, 23)
        np.testing.assert_allclose(jax.vmap(jax.grad(kappa1))(u), kappa0(u), rtol=1e-12)
        wanted = 1 / (np.pi * np.sqrt(1 - u**2))
        np.testing.assert_allclose(jax.vmap(jax.grad(kappa0))(u), wanted, rtol=1e-12)
        np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(kappa1)))(u), wanted, rtol=1e-12)
        ends = jnp.array([-1.0, 1.0])
        np.testing.assert_array_equal(jax.vmap(jax.grad(kappa0))(ends), [0.0, 0.0])
        np.testing.assert_array_equal(jax.vmap(jax.grad(kappa1))(ends), [0.0, 1.0])


@pytest.mark.parametrize("duals", [relu_duals, erf_duals, leaky_relu_duals])
def test_first_and_second_derivatives_are_finite_at_the_ends(duals):
    first = jax.jacobian(lambda v: jnp.stack(duals(*v)))
    both = jax.jit(lambda k: (first(k), jax.jacobian(first)(k)))
    for k in ((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (2.0, 2.0, 2.0), (-2.0, 2.0, 2.0)):
        assert all(np.isfinite(a).all() for a in both(jnp.asarray(k)))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6, 1e12])
def test_scale_does_not_matter_in_float32(scale):
    k = jnp.asarray([0.6, 1.0, 1.0]) * scale
    dual, step = relu_duals(*k)
    np.testing.assert_allclose(dual / scale, kappa1(jnp.asarray(0.6)) / 2, rtol=1e-6)
    np.testing.assert_allclose(step, kappa0(jnp.asarray(0.6)) / 2, rtol=1e-6)

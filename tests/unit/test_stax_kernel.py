"""Any architecture through neural-tangents: against our own kernels, and the same interface."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab.kernels import Convolutional, FullyConnected, Stax


def dense(stax):
    layers = [stax.Dense(1, 1.3, 0.2), stax.Relu()]
    return stax.serial(*layers, *layers, stax.Dense(1, 1.3, 0.2))


def smooth(stax):
    return stax.serial(stax.Dense(1, 1.3, 0.2), stax.Gelu(), stax.Dense(1, 1.3, 0.2))


def erf_images(stax):
    layer = stax.Conv(1, (3, 3), padding="SAME", W_std=1.3, b_std=0.2)
    return stax.serial(
        layer, stax.Erf(), layer, stax.Erf(), stax.Flatten(), stax.Dense(1, 1.3, 0.2)
    )


def leaky_images(stax):
    layer = stax.Conv(1, (3, 3), padding="SAME", W_std=1.3, b_std=0.2)
    leaky, end = stax.LeakyRelu(0.3), stax.Dense(1, 1.3, 0.2)
    return stax.serial(layer, leaky, layer, leaky, stax.GlobalAvgPool(), end)


def without_readout(stax):
    return stax.serial(stax.Conv(1, (3, 3)), stax.Relu())


def points(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def special_points():
    """Rows of which the second batch has an equal, an opposite and a parallel one."""
    x = points(0, 5, 6)
    return x, jnp.stack([x[0], -x[1], 2.5 * x[2], x[0] + x[1]])


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_a_dense_network_is_our_own_kernel(kind):
    theirs, ours = Stax(dense, kind), FullyConnected(2, 1.3, 0.2, kind)
    with float64():
        x, z = special_points()
        weights = points(2, 4, 2)
        np.testing.assert_allclose(theirs(x, z), ours(x, z), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-12)
        np.testing.assert_allclose(theirs.diagonal(x), ours.diagonal(x), rtol=1e-12)
        product, wanted = (k.apply(x, z, weights) for k in (theirs, ours))
        np.testing.assert_allclose(product, wanted, rtol=1e-7, atol=1e-7)


def test_gradients_at_equal_and_opposite_inputs_are_ours():
    with float64():
        x, z = special_points()
        gradients = [
            k.input_gradient(x, z, jnp.eye(4)) for k in (Stax(dense), FullyConnected(2, 1.3, 0.2))
        ]
        np.testing.assert_allclose(*gradients, rtol=1e-7, atol=1e-7)
    x, z = (jnp.asarray(a, jnp.float32) for a in (x, z))
    assert np.isfinite(Stax(dense).input_gradient(x, z, jnp.ones(4))).all()


def test_a_smooth_activation_has_the_gradient_of_finite_differences():
    kernel = Stax(smooth)
    with float64():
        x, z = special_points()
        direction, h = points(3, 5, 6), 1e-5
        up, down = (kernel(x + s * direction, z) for s in (h, -h))
        gradient = kernel.input_gradient(x, z, jnp.eye(4))
        along = jnp.einsum("bkd,bd->bk", gradient, direction)
        np.testing.assert_allclose(along, (up - down) / (2 * h), rtol=1e-6, atol=1e-8)
        eigenvalues = np.linalg.eigvalsh(kernel(x))
    assert eigenvalues[0] > 0


@pytest.mark.parametrize(
    ("network", "ours"),
    [
        (erf_images, Convolutional(2, 1.3, 0.2, activation="erf")),
        (leaky_images, Convolutional(2, 1.3, 0.2, "pool", activation="leaky_relu", slope=0.3)),
    ],
)
def test_our_convolutions_with_other_activations(network, ours):
    with float64():
        images = jax.random.uniform(jax.random.key(0), (3, 4, 3, 2))
        np.testing.assert_allclose(ours(images), Stax(network)(images), rtol=1e-8)
        nngp = dataclasses.replace(ours, kind="nngp").diagonal(images)
        np.testing.assert_allclose(nngp, Stax(network, "nngp").diagonal(images), rtol=1e-8)


def test_blocks_change_nothing_and_the_matrix_is_symmetric():
    x = points(0, 11, 6)
    kernel = Stax(dense)
    small = dataclasses.replace(kernel, block_bytes=4 * kernel._floats((6,)) * 13)
    matrix = np.asarray(small(x))
    assert (matrix == matrix.T).all()
    np.testing.assert_allclose(matrix, kernel(x), rtol=1e-6)
    z = points(1, 5, 6)
    np.testing.assert_allclose(small(x, z), kernel(x, z), rtol=1e-6)


def test_the_estimate_of_scratch_covers_what_is_used():
    kernel = Stax(leaky_images)
    shape = jax.ShapeDtypeStruct((4, 5, 5, 2), jnp.float32)
    used = jax.jit(kernel._tile).lower(shape, shape).compile().memory_analysis()
    estimate = 4 * 16 * kernel._floats((5, 5, 2))
    assert estimate / 5 < used.temp_size_in_bytes < estimate


def test_kernels_of_one_network_are_one_kernel():
    assert Stax(dense) == Stax(dense) != Stax(smooth)
    assert len({Stax(dense), Stax(dense), Stax(dense, "nngp")}) == 2
    assert pickle.loads(pickle.dumps(Stax(dense))) == Stax(dense)


def test_what_is_refused():
    with pytest.raises(TypeError, match="network must be a function of the module stax"):
        Stax(3)
    with pytest.raises(ValueError, match="kind must be"):
        Stax(dense, "cntk")
    with pytest.raises(TypeError, match="must return"):
        Stax(lambda stax: stax.Relu()[2])(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"end it in stax.Flatten\(\)"):
        Stax(without_readout)(jnp.ones((2, 4, 4, 1)))
    with pytest.raises(ValueError, match=r"takes no inputs of shape \(3,\)"):
        Stax(erf_images)(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="one floating-point dtype"):
        Stax(dense)(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.float16))

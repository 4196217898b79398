"""Fully connected kernels: by hand, by sampling, against finite networks and neural-tangents."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab._nt import neural_tangents
from ntklab.kernels import FullyConnected, Kernel, TwoLayerNTK

FROZEN = Path(__file__).parent.parent / "fixtures" / "neural_tangents_values.npz"
KERNELS = {
    "two-layer": TwoLayerNTK(),
    "shallow": FullyConnected(depth=1),
    "deep": FullyConnected(depth=3, b_std=0.1),
    "nngp": FullyConnected(depth=2, w_std=1.1, b_std=0.3, kind="nngp"),
    "erf": FullyConnected(depth=2, b_std=0.2, activation="erf"),
    "leaky": FullyConnected(depth=2, b_std=0.2, activation="leaky_relu", slope=-0.4),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def points(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def special_pairs(d=6):
    """Pairs at which ReLU kernels have no gradient: coincident, opposite, parallel, zero."""
    a = points(3, 1, d)[0]
    return {
        "coincident": (a, a),
        "opposite": (a, -a),
        "parallel": (a, 2.5 * a),
        "opposite, longer": (a, -3 * a),
        "zero": (0 * a, a),
        "zero centre": (a, 0 * a),
        "both zero": (0 * a, 0 * a),
    }


def one_hidden_layer(key, width, x1, x2, w_std, b_std):
    """Empirical NTK of a finite network in NTK parameterisation, by its Jacobian."""
    keys = jax.random.split(key, 4)
    d = x1.shape[1]
    params = {
        "w": jax.random.normal(keys[0], (d, width)),
        "b": jax.random.normal(keys[1], (1, width)),
        "v": jax.random.normal(keys[2], (width,)),
        "c": jax.random.normal(keys[3], ()),
    }

    def f(p, x):
        hidden = w_std * x @ p["w"] / np.sqrt(d) + b_std * p["b"]
        return w_std * jax.nn.relu(hidden) @ p["v"] / np.sqrt(width) + b_std * p["c"]

    def flat_jacobian(x):
        leaves = jax.tree.leaves(jax.jacobian(f)(params, x))
        return jnp.concatenate([leaf.reshape(len(x), -1) for leaf in leaves], axis=1)

    return flat_jacobian(x1) @ flat_jacobian(x2).T


# By hand.


def test_two_layer_kernel_by_hand():
    x = jnp.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, np.sqrt(3.0)]])
    sixty = (1 / 2 - 1 / 6) * 2  # 60 degrees, inner product 2
    thirty = (1 / 2 - 1 / 12) * np.sqrt(3)
    obtuse = -(1 / 2 - 1 / 3)  # 120 degrees, inner product -1
    expected = [[2, 0, 0, sixty], [0, 0.5, 0, thirty], [0, 0, 0.5, obtuse]]
    np.testing.assert_allclose(TwoLayerNTK()(x)[:3], expected, atol=1e-6)
    np.testing.assert_allclose(TwoLayerNTK()(x[:3], x), expected, atol=1e-6)


def test_two_layer_kernel_grows_with_either_norm():
    x, z = points(0, 5, 4), points(1, 3, 4)
    kernel = TwoLayerNTK()
    np.testing.assert_allclose(kernel(3.0 * x, 0.1 * z), 0.3 * kernel(x, z), rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_diagonal_without_bias_counts_the_layers(depth):
    x = points(0, 4, 7)
    variance = 2 * (x**2).mean(axis=1)
    ntk, nngp = (FullyConnected(depth=depth, kind=kind) for kind in ("ntk", "nngp"))
    np.testing.assert_allclose(ntk.diagonal(x), (depth + 1) * variance, rtol=1e-6)
    np.testing.assert_allclose(nngp.diagonal(x), variance, rtol=1e-6)


def test_one_layer_nngp_at_a_right_angle_and_at_antipodes():
    kernel = FullyConnected(depth=1, kind="nngp")
    x = jnp.array([[1.0, 0.0]])
    right, opposite = kernel(x, jnp.array([[0.0, 2.0], [-1.0, 0.0]]))[0]
    np.testing.assert_allclose(right, 2 * (1 / (2 * np.pi)) * 2, rtol=1e-6)
    np.testing.assert_allclose(opposite, 0, atol=1e-7)


def test_a_leaky_network_without_a_bend_is_linear():
    x, z = points(0, 4, 7), points(1, 3, 7)
    kernel = FullyConnected(depth=3, w_std=1.0, activation="leaky_relu", slope=1)
    np.testing.assert_allclose(kernel(x, z), 4 * x @ z.T / 7, rtol=1e-5, atol=1e-6)
    gradient = kernel.input_gradient(x, z, jnp.ones(3))
    np.testing.assert_allclose(
        gradient, jnp.broadcast_to((4 * z / 7).sum(axis=0), x.shape), rtol=1e-5, atol=1e-6
    )


# By sampling.


def test_two_layer_kernel_is_the_expectation_that_it_claims_to_be():
    x, z = points(0, 6, 5), points(1, 4, 5)
    w = jax.random.normal(jax.random.key(2), (5, 200_000))
    share = ((x @ w > 0).astype(jnp.float32) @ (z @ w > 0).astype(jnp.float32).T) / w.shape[1]
    inner = x @ z.T
    error = jnp.abs(inner) * jnp.sqrt(share * (1 - share) / w.shape[1])
    deviation = (TwoLayerNTK()(x, z) - inner * share) / error
    assert float(jnp.abs(deviation).max()) < 4  # 24 entries, four standard errors
    assert float(jnp.abs(deviation).mean()) > 0.2  # the bound is of the right size


def test_finite_networks_converge_to_the_analytic_kernel():
    x, z = points(0, 6, 5), points(1, 4, 5)
    exact = FullyConnected(depth=1, w_std=1.3, b_std=0.4)(x, z)

    def error(width):
        keys = jax.random.split(jax.random.key(2), 8)
        sample = jax.jit(lambda k: one_hidden_layer(k, width, x, z, 1.3, 0.4))
        kernels = jnp.stack([sample(k) for k in keys])
        return float(jnp.sqrt(((kernels - exact[None]) ** 2).mean()))

    narrow, wide = error(64), error(4096)
    assert wide < 0.05 * float(jnp.abs(exact).max())
    assert 5 < narrow / wide < 13  # the rate is 1 / sqrt(width): a factor of 8


# Against neural-tangents.


@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize(("depth", "b_std"), [*itertools.product((1, 2, 3), (0.0, 0.1))])
def test_frozen_values_of_neural_tangents(activation, depth, b_std):
    with np.load(FROZEN) as file, float64():
        x1, x2 = jnp.asarray(file["x1"]), jnp.asarray(file["x2"])
        for kind in ("ntk", "nngp"):
            kernel = FullyConnected(depth, b_std=b_std, kind=kind, activation=activation)
            key = f"fc/{activation}/depth={depth}/b_std={b_std}/last=same/{kind}"
            np.testing.assert_allclose(kernel(x1, x2), file[key], rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(kernel(x1), file[f"{key}/self"], rtol=1e-7)


@pytest.mark.parametrize("activation", ["relu", "erf", "leaky_relu"])
def test_neural_tangents_as_it_runs_here(activation):
    stax = neural_tangents().stax
    layer = {
        "relu": stax.Relu,
        "erf": stax.Erf,
        "leaky_relu": functools.partial(stax.LeakyRelu, 0.01),
    }[activation]
    hidden = [stax.Dense(8, 1.3, 0.3), layer()] * 4
    theirs = stax.serial(*hidden, stax.Dense(1, 1.3, 0.3))[2]
    with float64(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x1, x2 = points(0, 7, 5), points(1, 6, 5)
        for kind in ("ntk", "nngp"):
            ours = FullyConnected(4, 1.3, 0.3, kind, activation)(x1, x2)
            np.testing.assert_allclose(ours, theirs(x1, x2, kind), rtol=1e-12)


# Gradients.


@each_kernel
@pytest.mark.parametrize("weights_shape", [(6,), (6, 3)])
def test_input_gradient_equals_finite_differences(kernel, weights_shape):
    with float64():
        x, z, w = points(0, 4, 5), points(1, 6, 5), points(2, *weights_shape)
        h = 1e-6
        steps = h * jnp.eye(5)[:, None, :]
        up, down = (kernel((x[None] + s * steps).reshape(-1, 5), z) @ w for s in (1, -1))
        slopes = ((up - down) / (2 * h)).reshape(5, 4, *weights_shape[1:])
        gradient = kernel.input_gradient(x, z, w)
        np.testing.assert_allclose(gradient, jnp.moveaxis(slopes, 0, -1), rtol=1e-6, atol=1e-7)


@each_kernel
def test_autodiff_agrees_with_input_gradient_also_at_special_points(kernel):
    with float64():
        x = jnp.stack([a for a, _ in special_pairs().values()] + [points(0, 6)])
        z = jnp.stack([b for _, b in special_pairs().values()])
        w = points(2, len(z), 2)
        closed = kernel.input_gradient(x, z, w)
        by_matrix = jax.jit(jax.grad(lambda y: (kernel(y, z) @ w)[:, 1].sum()))(x)
        by_apply = jax.jit(jax.grad(lambda y: kernel.apply(y, z, w)[:, 1].sum()))(x)
        np.testing.assert_allclose(closed[:, 1], by_matrix, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(by_apply, by_matrix, rtol=1e-12, atol=1e-12)


@each_kernel
@pytest.mark.parametrize("where", special_pairs())
def test_the_gradient_at_special_points_is_the_symmetric_derivative(kernel, where):
    with float64():
        x, z = special_pairs()[where]
        h, direction = 1e-4, points(9, 6)

        def along(t):
            return kernel((x + t * direction)[None], z[None])[0, 0]

        central = (along(h) - along(-h)) / (2 * h)
        gradient = kernel.input_gradient(x[None], z[None], jnp.ones(1))[0]
        np.testing.assert_allclose(gradient @ direction, central, rtol=2e-3, atol=2e-4)


@each_kernel
def test_no_nan_at_special_points_in_float32(kernel):
    pair = jax.jit(jax.value_and_grad(lambda y, z: kernel(y[None], z[None])[0, 0]))
    own = jax.jit(jax.grad(lambda y: kernel(y[None]).sum()))
    for x, z in special_pairs().values():
        value, gradient = pair(x, z)
        assert np.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(own(x)).all()


def test_coincident_points_in_float32_are_as_good_as_others():
    x = jax.random.uniform(jax.random.key(0), (300, 784))
    kernel = TwoLayerNTK()
    np.testing.assert_allclose(jnp.diag(kernel(x, x)), (x**2).sum(axis=1) / 2, rtol=2e-6)
    # The gradient of Theta(x, x') in x at x' = x is x' / 2.
    gradient = kernel.input_gradient(x[:1], x[:1], jnp.ones(1))
    np.testing.assert_allclose(gradient, x[:1] / 2, rtol=1e-5)


@pytest.mark.parametrize(("angle", "bound"), [(1.0, 1e-6), (0.1, 3e-6), (1e-2, 3e-5), (1e-4, 4e-4)])
def test_accuracy_of_float32_is_as_documented(angle, bound):
    with float64():
        a, b = (v / jnp.linalg.norm(v) for v in points(0, 2, 784))
        b = b - (a @ b) * a
        near = jnp.cos(angle) * a + jnp.sin(angle) * b / jnp.linalg.norm(b)
        exact = (0.5 - angle / (2 * np.pi)) * np.cos(angle)
        np.testing.assert_allclose(TwoLayerNTK()(a[None], near[None])[0, 0], exact, rtol=1e-9)
        a, near = np.asarray(a, np.float32), np.asarray(near, np.float32)
    rough = TwoLayerNTK()(jnp.asarray(a)[None], jnp.asarray(near)[None])[0, 0]
    assert abs(float(rough) - exact) < bound


# Structure.


@each_kernel
def test_the_symmetric_matrix_is_symmetric_to_the_last_bit_and_positive(kernel):
    x = points(0, 40, 6)
    small = dataclasses.replace(kernel, block_bytes=8 * 4 * 13 * 13)
    for k in (kernel, small, jax.jit(kernel)):
        matrix = np.asarray(k(x))
        assert (matrix == matrix.T).all()
        np.testing.assert_allclose(np.diag(matrix), kernel.diagonal(x), rtol=3e-7)
    with float64():
        wide = jnp.asarray(np.asarray(x, np.float64))
        eigenvalues = np.linalg.eigvalsh(kernel(wide))
        np.testing.assert_allclose(kernel(wide), kernel(wide, wide), rtol=1e-7, atol=1e-9)
    assert eigenvalues[0] > 1e-3


@pytest.mark.parametrize(("kernel", "pairs"), [(TwoLayerNTK(), 1), (KERNELS["deep"], 37)])
def test_blocks_leave_no_trace(kernel, pairs):
    small = dataclasses.replace(kernel, block_bytes=12 * 8 * pairs)
    with float64():
        x, z, w = points(0, 11, 5), points(1, 17, 5), points(2, 17, 3)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(small(x, z), kernel(x, z), **close)
        np.testing.assert_allclose(small(z), kernel(z), **close)
        np.testing.assert_allclose(small.diagonal(z), kernel.diagonal(z), **close)
        np.testing.assert_allclose(small.apply(x, z, w), kernel(x, z) @ w, **close)
        gradients = (k.input_gradient(x, z, w) for k in (small, kernel))
        np.testing.assert_allclose(*gradients, **close)
        loss = jax.jit(jax.grad(lambda y, k: (k(y, z) ** 2).sum()), static_argnums=1)
        slopes = (loss(x, k) for k in (small, kernel))
        np.testing.assert_allclose(*slopes, rtol=1e-10)


@pytest.mark.parametrize("method", ["apply", "input_gradient"])
def test_memory_stays_within_the_blocks(method):
    kernel = FullyConnected(depth=2, block_bytes=8 * 2**20)
    x, z = jnp.zeros((2000, 3)), jnp.zeros((3000, 3))
    compiled = jax.jit(getattr(kernel, method)).lower(x, z, jnp.zeros((3000, 2))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 12 * 2**20  # the matrix has 24 MB


@each_kernel
def test_jit_vmap_and_images(kernel):
    images, z = points(0, 6, 2, 3, 1), points(1, 4, 2, 3, 1)
    flat, flat_z = images.reshape(6, 6), z.reshape(4, 6)
    np.testing.assert_allclose(kernel(images, z), kernel(flat, flat_z), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jit(kernel)(flat, flat_z), kernel(flat, flat_z), rtol=1e-6)
    pairs = jax.vmap(lambda a: kernel(a[None], flat_z)[0])(flat)
    np.testing.assert_allclose(pairs, kernel(flat, flat_z), rtol=2e-5, atol=1e-6)
    gradient = kernel.input_gradient(images, z, jnp.ones((4, 2)))
    assert gradient.shape == (6, 2, 2, 3, 1)
    assert kernel.input_gradient(images, z, jnp.ones(4)).shape == images.shape
    assert kernel.apply(images, z, jnp.ones(4)).shape == (6,)


def test_kernels_are_values():
    assert FullyConnected(depth=2) == FullyConnected(depth=2) != FullyConnected(depth=3)
    assert hash(FullyConnected(depth=2)) == hash(FullyConnected(depth=2))
    assert issubclass(TwoLayerNTK, Kernel) and TwoLayerNTK() != FullyConnected()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": True}, "depth"),
        ({"w_std": 0.0}, "w_std"),
        ({"b_std": -0.1}, "b_std"),
        ({"w_std": float("nan")}, "w_std"),
        ({"kind": "cntk"}, "kind"),
        ({"activation": "tanh"}, "activation"),
        ({"activation": "erf", "slope": 0.3}, "slope"),
        ({"activation": "leaky_relu", "slope": float("inf")}, "slope"),
        ({"block_bytes": 0}, "block_bytes"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        FullyConnected(**settings)


def test_inputs_that_do_not_fit():
    kernel, x = TwoLayerNTK(), jnp.ones((3, 4))
    with pytest.raises(ValueError, match="same shape after the first axis"):
        kernel(x, jnp.ones((3, 5)))
    with pytest.raises(ValueError, match="one row a centre"):
        kernel._check(x, x, jnp.ones((2, 1)))  # the tests' shape checks would come first
    with pytest.raises(ValueError, match="no axis empty"):
        kernel(jnp.ones((0, 4)))
    with pytest.raises(ValueError, match="batch"):
        kernel(jnp.ones(4))
    with pytest.raises(TypeError, match="one floating-point dtype"):
        kernel(x, x.astype(jnp.float16))

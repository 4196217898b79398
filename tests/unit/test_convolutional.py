"""Convolutional kernels: by hand, against loops over positions, and against neural-tangents."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab._nt import neural_tangents
from ntklab.kernels import Convolutional

FROZEN = Path(__file__).parent.parent / "fixtures" / "neural_tangents_values.npz"
KERNELS = {
    "flatten": Convolutional(depth=2, b_std=0.1),
    "pool": Convolutional(depth=2, b_std=0.1, readout="pool"),
    "nngp": Convolutional(depth=1, w_std=1.1, readout="pool", kind="nngp"),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def images(seed, *shape):
    return jax.random.uniform(jax.random.key(seed), shape, jnp.result_type(float))


def with_fewer_bytes(kernel, images_at_a_time, size):
    numbers = kernel._gradient_floats((size, size, 1)) * images_at_a_time**2
    return dataclasses.replace(kernel, block_bytes=8 * numbers)


def arc_cosine_pair(k12, k11, k22):
    """E relu relu and E relu' relu' of one pair, as a textbook has it."""
    r = np.sqrt(k11 * k22)
    angle = np.arccos(np.clip(k12 / r, -1, 1)) if r > 0 else np.pi / 2
    dual = r * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return dual, (np.pi - angle) / (2 * np.pi)


def by_loops(x, z, depth, w_std, b_std, readout):
    """NTK of two images (H, W, C): one loop over pairs of positions, nothing vectorised."""
    height, width, channels = x.shape
    places = list(itertools.product(range(height), range(width)))

    def convolve(k):
        def total(p, q):
            shifts = itertools.product((-1, 0, 1), repeat=2)
            return sum(k.get(((p[0] + a, p[1] + b), (q[0] + a, q[1] + b)), 0) for a, b in shifts)

        return {(p, q): w_std**2 * total(p, q) / 9 for p, q in k}

    def covariance(a, b):
        return {(p, q): a[p] @ b[q] / channels for p, q in itertools.product(places, places)}

    pairs = {"12": (x, z), "11": (x, x), "22": (z, z)}
    k = {name: convolve(covariance(*pair)) for name, pair in pairs.items()}
    k = {name: {key: v + b_std**2 for key, v in values.items()} for name, values in k.items()}
    ntk = dict(k["12"])
    for layer in range(depth):
        duals = {
            (p, q): arc_cosine_pair(v, k["11"][p, p], k["22"][q, q])
            for (p, q), v in k["12"].items()
        }
        gated = {key: duals[key][1] * ntk[key] for key in ntk}
        if layer == depth - 1:
            break
        own = {
            name: {
                (p, q): arc_cosine_pair(v, k[name][p, p], k[name][q, q])[0]
                for (p, q), v in k[name].items()
            }
            for name in ("11", "22")
        }
        own["12"] = {key: d[0] for key, d in duals.items()}
        k = {n: {key: v + b_std**2 for key, v in convolve(own[n]).items()} for n in own}
        ntk = {key: k["12"][key] + v for key, v in convolve(gated).items()}
    kept = [(p, p) for p in places] if readout == "flatten" else list(gated)
    mean = sum(duals[key][0] + gated[key] for key in kept) / len(kept)
    return w_std**2 * mean + b_std**2


def test_one_pixel_by_hand():
    # The window divides by nine although eight of its places are padding.
    x = jnp.full((1, 1, 1, 1), 3.0)
    k = 2 * 9 / 9
    np.testing.assert_allclose(Convolutional(kind="nngp")(x), [[k]], rtol=1e-6)
    np.testing.assert_allclose(Convolutional()(x), [[2 * k]], rtol=1e-6)
    np.testing.assert_allclose(Convolutional(readout="pool")(x), [[2 * k]], rtol=1e-6)


def test_constant_images_lose_at_the_border():
    x = jnp.ones((1, 3, 3, 2))
    # Covariances before ReLU: corners 4/9, edges 6/9, centre 1, times w_std^2 = 2; ReLU halves.
    mean = (4 * 4 / 9 + 4 * 6 / 9 + 1) / 9
    nngp = Convolutional(kind="nngp")(x)[0, 0]
    np.testing.assert_allclose(nngp, 2 * mean, rtol=1e-6)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize(("depth", "b_std"), [(1, 0.0), (2, 0.3), (3, 0.1)])
def test_loops_over_positions_give_the_same(readout, depth, b_std):
    with float64():
        x, z = images(0, 2, 3, 4, 2), images(1, 2, 3, 4, 2)
        kernel = Convolutional(depth, 1.2, b_std, readout)
        looped = [
            [by_loops(np.asarray(a), np.asarray(b), depth, 1.2, b_std, readout) for b in z]
            for a in x
        ]
        np.testing.assert_allclose(kernel(x, z), looped, rtol=1e-10)
        own = [by_loops(np.asarray(a), np.asarray(a), depth, 1.2, b_std, readout) for a in x]
        np.testing.assert_allclose(kernel.diagonal(x), own, rtol=1e-7)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize(("depth", "b_std"), [(1, 0.1), (2, 0.0)])
def test_frozen_values_of_neural_tangents(readout, depth, b_std):
    with np.load(FROZEN) as file, float64():
        x1, x2 = jnp.asarray(file["images1"]), jnp.asarray(file["images2"])
        for kind in ("ntk", "nngp"):
            kernel = Convolutional(depth, b_std=b_std, readout=readout, kind=kind)
            key = f"conv/{readout}/depth={depth}/b_std={b_std}/last=same/{kind}"
            # Equal positions of equal images: theirs is off by the root of the rounding error.
            np.testing.assert_allclose(kernel(x1, x2), file[key], rtol=1e-7, atol=1e-8)
            own = np.diag(file[f"{key}/self"])
            np.testing.assert_allclose(kernel.diagonal(x1), own, rtol=1e-7)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_neural_tangents_as_it_runs_here(readout):
    stax = neural_tangents().stax
    layer = stax.Conv(8, (3, 3), padding="SAME", W_std=1.3, b_std=0.3)
    end = {"flatten": stax.Flatten, "pool": stax.GlobalAvgPool}[readout]()
    theirs = stax.serial(*[layer, stax.Relu()] * 3, end, stax.Dense(1, 1.3, 0.3))[2]
    with float64(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x1, x2 = images(0, 3, 5, 4, 2), images(1, 2, 5, 4, 2)
        ours = Convolutional(3, 1.3, 0.3, readout)(x1, x2)
        np.testing.assert_allclose(ours, theirs(x1, x2, "ntk"), rtol=1e-12)


def test_pooling_forgets_where_a_pattern_is_and_flattening_does_not():
    pattern, other = images(0, 1, 3, 3, 1), images(1, 1, 9, 9, 1)

    def placed(row, column):
        rest = ((0, 0), (row, 6 - row), (column, 6 - column), (0, 0))
        return jnp.pad(pattern, rest)

    here, there = placed(2, 2), placed(4, 3)
    middle = jnp.pad(other[:, 3:6, 3:6], ((0, 0), (3, 3), (3, 3), (0, 0)))
    pool, flatten = (Convolutional(depth=2, readout=r) for r in ("pool", "flatten"))
    np.testing.assert_allclose(pool(here, middle), pool(there, middle), rtol=1e-5)
    assert abs(float((flatten(here, middle) / flatten(there, middle))[0, 0]) - 1) > 0.01


@each_kernel
def test_input_gradient_equals_finite_differences_and_autodiff(kernel):
    with float64():
        x, z, w = images(0, 2, 3, 3, 2), images(1, 4, 3, 3, 2), images(2, 4, 2) - 0.5
        gradient = kernel.input_gradient(x, z, w)
        assert gradient.shape == (2, 2, 3, 3, 2)
        h = 1e-6
        steps = h * jnp.eye(18).reshape(18, 1, 3, 3, 2)
        up, down = (kernel((x[None] + s * steps).reshape(-1, 3, 3, 2), z) @ w for s in (1, -1))
        slopes = jnp.moveaxis(((up - down) / (2 * h)).reshape(3, 3, 2, 2, 2), (3, 4), (0, 1))
        np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)
        by_matrix = jax.jit(jax.grad(lambda y: (kernel(y, z) @ w)[:, 1].sum()))(x)
        np.testing.assert_allclose(gradient[:, 1], by_matrix, rtol=1e-9, atol=1e-12)
        alone = kernel.input_gradient(x, z, w[:, 0])
        np.testing.assert_allclose(alone, gradient[:, 0], rtol=1e-9, atol=1e-12)


@each_kernel
def test_the_gradient_at_a_coincident_image_is_the_symmetric_derivative(kernel):
    with float64():
        x, direction, h = images(0, 1, 4, 4, 1), images(1, 1, 4, 4, 1) - 0.5, 1e-5
        central = (kernel(x + h * direction, x) - kernel(x - h * direction, x)) / (2 * h)
        gradient = kernel.input_gradient(x, x, jnp.ones(1))
        np.testing.assert_allclose((gradient * direction).sum(), central[0, 0], rtol=1e-4)


@each_kernel
def test_blank_and_opposite_images_are_finite(kernel):
    kernel = dataclasses.replace(kernel, b_std=0.0, depth=1)
    x = images(0, 1, 4, 4, 1)
    batch = jnp.concatenate([x, jnp.zeros_like(x), -x, x.at[:, :2].set(0.0)])
    assert np.isfinite(kernel(batch)).all()
    np.testing.assert_allclose(kernel(batch, batch[1:2]), 0.0, atol=1e-7)
    assert np.isfinite(kernel.input_gradient(batch, batch, jnp.ones(4))).all()
    assert np.isfinite(jax.grad(lambda y: kernel(y).sum())(batch)).all()


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_blocks_leave_no_trace_and_the_matrix_is_symmetric(readout):
    kernel = Convolutional(b_std=0.1, readout=readout)
    small = with_fewer_bytes(kernel, 2, 4)
    with float64():
        x, z, w = images(0, 5, 4, 4, 1), images(1, 7, 4, 4, 1), images(2, 7, 2)
        matrix = np.asarray(small(z))
        assert (matrix == matrix.T).all() and np.linalg.eigvalsh(matrix)[0] > 0
        np.testing.assert_allclose(matrix, kernel(z, z), rtol=1e-7)
        np.testing.assert_allclose(np.diag(matrix), kernel.diagonal(z), rtol=1e-12)
        np.testing.assert_allclose(small(x, z), kernel(x, z), rtol=1e-12)
        np.testing.assert_allclose(small.apply(x, z, w), kernel(x, z) @ w, rtol=1e-12)
        gradients = (k.input_gradient(x, z, w) for k in (small, kernel))
        np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-13)


def temporary_bytes(function, *arrays):
    return jax.jit(function).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("depth", [1, 2])
def test_a_thousand_mnist_images_need_less_than_two_gigabytes(depth):
    # Without blocks one array of covariances would take 3 GB. The code is compiled, not run.
    x, w = jnp.zeros((1000, 28, 28, 1)), jnp.zeros((1000, 10))
    kernel = Convolutional(depth=depth)
    assert temporary_bytes(kernel, x) < 1e9
    if depth == 1:
        assert temporary_bytes(kernel.input_gradient, x, x, w) < 1.5e9


def test_pooling_keeps_its_memory_too():
    x = jnp.zeros((100, 14, 14, 1))
    assert temporary_bytes(Convolutional(depth=2, readout="pool"), x) < 7e8


def test_settings_and_inputs_out_of_range():
    with pytest.raises(ValueError, match="readout"):
        Convolutional(readout="mean")
    with pytest.raises(ValueError, match="depth"):
        Convolutional(depth=0)
    with pytest.raises(ValueError, match=r"images \(n, H, W, C\)"):
        Convolutional()(jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="same shape after the first axis"):
        Convolutional()(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 3, 1)))

"""Certificates: sound against points, attacks and exact distances; as published; refusals."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab.attacks import pgd
from ntklab.certificates import interval_bounds, kernel_certificate, network_certificate
from ntklab.certificates.kernel_machine import _profile
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelMachine, KernelRegression, KernelSVM

CHEN = FullyConnected(w_std=1.0)
KERNELS = {
    "chen": CHEN,
    "first_layer": TwoLayerNTK(),
    "wide": FullyConnected(),
    "last_layer": FullyConnected(kind="nngp"),
}


def clouds(n=16, b=12, d=6):
    """Inputs of both signs whose label is the side of a plane, and new ones with class indices."""
    random = np.random.default_rng(1)
    x, x_new = (random.uniform(-0.5, 1, size=(m, d)).astype(np.float32) for m in (n, b))
    side = np.where(np.arange(d) == 0, -3, 1)
    return jnp.asarray(x), jnp.asarray(np.sign(x @ side).astype(np.float32)), jnp.asarray(x_new)


@functools.cache
def fitted(kernel=CHEN):
    x, y, x_new = clouds()
    return KernelSVM(kernel, regularisation=0.05).fit(x, y).logits_fn(), x_new


# The kernel.


def test_our_fully_connected_kernel_is_the_paper_s():
    x = np.asarray(clouds()[0], np.float64)
    length = np.linalg.norm(x, axis=1)
    u = np.clip(x @ x.T / np.outer(length, length), -1, 1)
    h = 2 * u * (np.pi - np.arccos(u)) + np.sqrt(1 - u**2)
    wanted = np.outer(length, length) * h / (2 * np.pi * x.shape[1])
    np.testing.assert_allclose(CHEN(jnp.asarray(x, jnp.float32)), wanted, atol=2e-7)


@pytest.mark.parametrize("name", list(KERNELS))
def test_the_profile_is_the_kernel(name):
    x, _, x_new = clouds()
    profile = _profile(KERNELS[name], x.shape[1])
    both = jnp.outer(jnp.linalg.norm(x_new, axis=1), jnp.linalg.norm(x, axis=1))
    u = jnp.clip(x_new @ x.T / both, -1.0, 1.0)
    wanted = KERNELS[name](x_new, x)
    np.testing.assert_allclose(profile.scale * both * profile(u), wanted, atol=2e-6)


@pytest.mark.parametrize("name", list(KERNELS))
def test_the_profile_turns_where_it_is_said_to(name):
    profile = _profile(KERNELS[name], 3)
    u = np.linspace(-1, 1, 200_001).astype(np.float32)
    h = np.asarray(profile(jnp.asarray(u)))
    assert abs(u[h.argmin()] - profile.turn) < 2e-3
    assert profile.largest == pytest.approx(np.abs(h).max(), rel=1e-6)
    if name == "chen":  # as the authors have it
        assert profile.turn == pytest.approx(-0.7941, abs=1e-4)
        assert h.min() == pytest.approx(-0.429738, abs=1e-6)


# Soundness.


@pytest.mark.parametrize(
    ("name", "norm"), [("chen", "l2"), ("chen", "linf"), ("last_layer", "linf")]
)
def test_no_point_of_the_ball_changes_the_sign(name, norm):
    logits_fn, x = fitted(KERNELS[name])
    radius, score = kernel_certificate(logits_fn, x, norm)
    np.testing.assert_allclose(score, logits_fn(x), atol=1e-4)
    assert (radius > 0).all()
    draws = np.random.default_rng(2).normal(size=(300, *x.shape))
    draws /= np.linalg.norm(draws, axis=2, keepdims=True)
    draws = np.sign(draws) if norm == "linf" else draws
    points = (np.asarray(x) + 0.9999 * radius[:, None] * draws).astype(np.float32)
    scores = logits_fn(jnp.asarray(points.reshape(-1, x.shape[1]))).reshape(300, -1)
    assert (np.sign(scores) == np.sign(score)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_certificate_is_below_what_an_attack_finds(norm, key):
    logits_fn, x = fitted()
    radii = {
        ranges: kernel_certificate(logits_fn, x, norm, ranges).radius
        for ranges in ("published", "tight")
    }
    y = (logits_fn(x) > 0).astype(jnp.int32)  # the prediction is what is certified
    smallest = np.full(len(x), np.inf)
    for eps in np.geomspace(0.02, 1.5, 9):
        attack = pgd(float(eps), norm, steps=5, bounds=(-2.0, 2.0))
        moved = attack(logits_fn, x, y, key)
        step = np.asarray(moved.x_adv - x, np.float64)
        size = np.abs(step).max(axis=1) if norm == "linf" else np.linalg.norm(step, axis=1)
        smallest = np.where(moved.success, np.minimum(smallest, size), smallest)
    assert np.isfinite(smallest).all()
    assert (radii["published"] < radii["tight"]).all()
    assert (radii["tight"] <= smallest * (1 + 1e-6)).all()
    assert radii["tight"].mean() > smallest.mean() / 20  # and not idle


# Exact answers.


@pytest.mark.parametrize("kernel", [TwoLayerNTK(), CHEN])
def test_one_centre_has_the_exact_l2_distance(kernel):
    """The sign changes at the angle where h does, and the tight range of the angle is exact."""
    profile = _profile(kernel, 2)
    zero = 0.0
    if kernel == CHEN:
        grid = np.linspace(-0.7, 0.0, 700_001)
        h = 2 * grid * (np.pi - np.arccos(grid)) + np.sqrt(1 - grid**2)
        zero = grid[np.abs(h).argmin()]
    assert profile.turn < zero
    machine = KernelMachine(jnp.array([[2.0, 0.0]]), jnp.array([1.0]), kernel)
    angles = np.array([0.8, 1.2, 1.5])
    x = jnp.asarray(1.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    left = np.arccos(zero) - angles
    exact = 1.3 * np.where(left < np.pi / 2, np.sin(left), 1)
    np.testing.assert_allclose(kernel_certificate(machine, x, "l2").radius, exact, rtol=2e-5)
    assert (kernel_certificate(machine, x, "l2", "published").radius < exact).all()


def as_coded(x, centres, alpha, delta):
    """`bound_ntk` of the authors, one input and one radius: the signed worst score."""
    d, length = len(x), np.linalg.norm(x)
    r = np.sqrt(d) * delta
    low_length, high_length = length - r, length + r

    def h(u):
        return 2 * u * (np.pi - np.arccos(u)) + np.sqrt(1 - u * u)

    clean = worst = 0.0
    for positive_side in (False, True):
        for centre, a in zip(centres, alpha, strict=True):
            size, dot = np.linalg.norm(centre), x @ centre
            dots = dot - r * size, dot + r * size
            u_low = dots[0] / (size * (high_length if dots[0] >= 0 else low_length))
            u_high = dots[1] / (size * (low_length if dots[1] >= 0 else high_length))
            u_low, u_high = max(u_low, -1), min(u_high, 1)
            low, high = min(h(u_low), h(u_high)), max(h(u_low), h(u_high))
            if u_low < -0.7941 < u_high:
                low = -0.429738
            low *= low_length if low >= 0 else high_length
            high *= high_length if high >= 0 else low_length
            scale = size / (2 * np.pi * d)
            if positive_side:
                # The side is that of the clean score, which the first pass has found.
                take_low = (a > 0) == (clean > 0)
                worst += a * scale * (low if take_low else high)
            else:
                clean += a * scale * length * h(np.clip(dot / (size * length), -1, 1))
    return np.sign(clean) * worst


def test_the_published_ranges_are_the_code_of_the_authors():
    logits_fn, x = fitted()
    machine = logits_fn.args[0]
    radius = kernel_certificate(machine, x, "linf", "published").radius
    points, centres = np.asarray(x, np.float64), np.asarray(machine.x_train, np.float64)
    alpha = np.asarray(machine.coefficients, np.float64)
    for point, delta in zip(points, radius, strict=True):
        assert as_coded(point, centres, alpha, delta * 0.9999) > 0
        assert as_coded(point, centres, alpha, delta * 1.0001) < 0


def test_scaling_the_coefficients_changes_nothing_and_scaling_x_scales_the_radius():
    logits_fn, x = fitted()
    machine = logits_fn.args[0]
    one = kernel_certificate(machine, x)
    flipped = KernelMachine(machine.x_train, -3.0 * machine.coefficients, machine.kernel)
    other = kernel_certificate(flipped, x)
    np.testing.assert_allclose(other.radius, one.radius, rtol=1e-5)
    np.testing.assert_allclose(other.score, -3 * one.score, rtol=1e-5)
    double = kernel_certificate(machine, 2.0 * x, "l2")
    np.testing.assert_allclose(double.radius, 2 * kernel_certificate(machine, x, "l2").radius)


def test_odd_inputs_get_an_answer():
    x, y, _ = clouds()
    machine = KernelSVM(CHEN).fit(x, y).logits_fn()
    points = jnp.concatenate([jnp.zeros_like(x[:1]), x[:1], -x[:1], 1e3 * x[:1]])
    for ranges in ("tight", "published"):
        radius, score = kernel_certificate(machine, points, "l2", ranges)
        assert radius[0] == 0 and score[0] == 0
        assert np.isfinite(radius).all() and (radius[1:] > 0).all()
        np.testing.assert_allclose(radius[3], 1e3 * radius[1], rtol=1e-3)
        assert (radius <= np.linalg.norm(points, axis=1)).all()


def test_blocks_leave_no_trace(monkeypatch):
    logits_fn, x = fitted()
    whole = kernel_certificate(logits_fn, x)
    monkeypatch.setattr("ntklab.certificates.kernel_machine._BLOCK_BYTES", 8 * 16 * 16 * 4)
    np.testing.assert_allclose(kernel_certificate(logits_fn, x).radius, whole.radius, rtol=1e-9)


def test_a_ridge_lengthens_the_certificate_of_interpolation():
    x, y, x_new = clouds()
    means = [
        kernel_certificate(KernelRegression(CHEN, ridge=r).fit(x, y).logits_fn(), x_new)
        for r in (0.0, 0.05)
    ]
    assert means[0].radius.mean() < means[1].radius.mean()


# Interval bounds.


def network(widths, seed=0):
    random = np.random.default_rng(seed)
    shapes = itertools.pairwise(widths)
    return [jnp.asarray(random.normal(size=s).astype(np.float32)) for s in shapes]


def forward(weights, x):
    for layer, weight in enumerate(weights):
        x = (jax.nn.relu(x) if layer else x) @ weight / math.sqrt(len(weight))
    return x[:, 0]


def test_a_linear_network_has_the_exact_distance():
    weight = network((6, 1))
    x = clouds()[2]
    exact = jnp.abs(x @ weight[0])[:, 0] / jnp.abs(weight[0]).sum()
    radius, score = network_certificate(weight, x)
    np.testing.assert_allclose(radius, exact, rtol=1e-4)
    np.testing.assert_allclose(score, forward(weight, x), rtol=1e-4)
    start = network((6, 1), 5)
    between = jnp.abs(x @ (weight[0] - start[0]))[:, 0]
    both = jnp.abs(weight[0]).sum() + jnp.abs(start[0]).sum()
    found = network_certificate(weight, x, start)
    np.testing.assert_allclose(found.radius, between / both, rtol=1e-4)
    coded = network_certificate(weight, x, start, subtract="clean")
    np.testing.assert_allclose(coded.radius, between / jnp.abs(weight[0]).sum(), rtol=1e-4)
    np.testing.assert_allclose(coded.score, found.score, rtol=1e-5)


def test_intervals_hold_every_point_of_the_cube():
    weights, x = network((6, 32, 16, 2)), clouds()[2]
    low, high = interval_bounds(weights, x, 0.1)
    offsets = np.random.default_rng(3).uniform(-0.1, 0.1, size=(400, *x.shape))
    a = (np.asarray(x) + offsets).reshape(-1, 6)
    for layer, weight in enumerate(weights):
        a = (np.maximum(a, 0) if layer else a) @ np.asarray(weight) / math.sqrt(len(weight))
    values = a.reshape(400, len(x), 2)
    assert (values >= np.asarray(low)).all() and (values <= np.asarray(high)).all()
    exact, same = interval_bounds(weights, x, 0.0)
    np.testing.assert_allclose(
        exact[:, 0], forward([*weights[:2], weights[2][:, :1]], x), atol=1e-5
    )
    np.testing.assert_allclose(exact, same, atol=1e-6)
    inside = interval_bounds(weights, jnp.clip(x, 0.0, 1.0), 0.1, bounds=(0.0, 1.0))
    wide = interval_bounds(weights, jnp.clip(x, 0.0, 1.0), 0.1)
    assert (inside[0] >= wide[0] - 1e-6).all() and (inside[1] <= wide[1] + 1e-6).all()
    assert (inside[0] > wide[0]).any()


def difference(parameters, x):
    weights, initial = parameters
    return forward(weights, x) - forward(initial, x)


def test_the_correct_subtraction_is_sound_and_the_coded_one_is_not():
    """f(x') - f_0(x) is another function than f - f_0: its radius can exceed that of f - f_0."""
    initial = network((6, 64, 1))
    x = clouds()[2]
    weights = [initial[0], initial[1] + 0.3 * network((64, 1), 9)[0]]
    logits_fn = Partial(difference, (weights, initial))
    y = (logits_fn(x) > 0).astype(jnp.int32)
    right = network_certificate(weights, x, initial)
    np.testing.assert_allclose(right.score, logits_fn(x), atol=1e-5)
    coded = network_certificate(weights, x, initial, subtract="clean")
    assert (right.radius < coded.radius).all()
    for eps in (0.003, 0.01, 0.03, 0.1, 0.3):
        found = pgd(eps, steps=5, bounds=(-2.0, 2.0))(logits_fn, x, y, jax.random.key(0)).success
        assert not (np.asarray(found) & (right.radius >= eps)).any()


# What is refused.


def test_machines_without_a_certificate_are_refused():
    x, y, x_new = clouds()
    for kernel in (
        FullyConnected(depth=2),
        FullyConnected(b_std=0.1),
        FullyConnected(activation="erf"),
    ):
        machine = KernelMachine(x, y, kernel)
        with pytest.raises(TypeError, match="two-layer ReLU kernel without biases"):
            kernel_certificate(machine, x_new)
    with pytest.raises(ValueError, match="certificates are for binary machines"):
        kernel_certificate(KernelMachine(x, y[:, None], CHEN), x_new)
    with pytest.raises(TypeError, match="must be a KernelMachine"):
        kernel_certificate(lambda x: x[:, 0], x_new)
    with pytest.raises(ValueError, match="x has inputs"):
        kernel_certificate(KernelMachine(x, y, CHEN), x_new[:, :3])


def test_senseless_input_is_refused():
    x, y, x_new = clouds()
    machine = KernelMachine(x, y, CHEN)
    with pytest.raises(ValueError, match="NaN or infinite"):
        kernel_certificate(machine, x_new.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="coefficients has 1 entries"):
        kernel_certificate(KernelMachine(x, y.at[0].set(jnp.inf), CHEN), x_new)
    with pytest.raises(ValueError, match='norm must be "linf" or "l2"'):
        kernel_certificate(machine, x_new, "l1")
    weights = network((6, 8, 1))
    with pytest.raises(ValueError, match=r"weights\[1\] must be a float32 matrix \(8, fan_out\)"):
        network_certificate([weights[0], weights[1].T], x_new)
    with pytest.raises(ValueError, match="one output, got 2"):
        network_certificate([network((6, 2))[0]], x_new)
    with pytest.raises(ValueError, match="weights is empty"):
        interval_bounds([], x_new, 0.1)
    with pytest.raises(ValueError, match="subtract must be"):
        network_certificate(weights, x_new, weights, subtract="constant")
    with pytest.raises(ValueError, match="largest must be"):
        network_certificate(weights, x_new, largest=0.0)

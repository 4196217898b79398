"""Linearised networks: the tangent, its exact flow, frozen statistics, and what is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab._common import float64
from ntklab.predictors import LinearisedNetwork, linear_logits

INFINITY = float("inf")
N, D, K, WIDTH = 7, 4, 2, 16


def points(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def mlp(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"][None])
    return hidden @ params["v"] / np.sqrt(WIDTH).astype(x.dtype)


def scalar(params, x):
    return mlp(params, x)[:, 0]


def parameters():
    return {"w": points(1, D, WIDTH), "b": points(2, WIDTH), "v": points(3, WIDTH, K)}


def flat_jacobian(f, params, x):
    """`(n k, p)`, by reverse mode."""
    leaves = jax.tree.leaves(jax.jacrev(f)(params, x))
    size = f(params, x).size
    return np.concatenate([np.asarray(a).reshape(size, -1) for a in leaves], axis=1)


def brute_force_ntk(f, params, x1, x2):
    """`(n, m, k, k)`, or `(n, m)` for one score."""
    left, right = (flat_jacobian(f, params, x) for x in (x1, x2))
    if f(params, x1).ndim == 1:
        return left @ right.T
    blocks = (left @ right.T).reshape(len(x1), -1, len(x2), f(params, x2).shape[1])
    return blocks.transpose(0, 2, 1, 3)


def flat(tree):
    return np.concatenate([np.asarray(a).ravel() for a in jax.tree.leaves(tree)])


def fitted(f=mlp, **settings):
    """Network and fit in float64, with the data."""
    params, x = parameters(), points(4, N, D)
    y = points(5, *f(params, x).shape)
    network = LinearisedNetwork(f, params, **settings)
    return network.fit(x, y, ntk=brute_force_ntk(f, params, x, x)), x, y


def test_the_tangent_by_finite_differences_and_by_neural_networks_own_jacobian():
    with float64():
        params, x = parameters(), points(4, N, D)
        shift = jax.tree.map(lambda a: points(6, *a.shape), params)
        moved = flat_jacobian(mlp, params, x) @ flat(shift)
        linear, centred = (
            LinearisedNetwork(mlp, params, mode).logits_fn(shift)(x)
            for mode in ("linear", "centred")
        )
        np.testing.assert_allclose(centred, moved.reshape(N, K), rtol=1e-10)
        np.testing.assert_allclose(linear - centred, mlp(params, x), rtol=1e-10)
        h = 1e-6
        near = jax.tree.map(lambda p, s: p + h * s, params, shift)
        slope = (mlp(near, x) - mlp(params, x)) / h
        np.testing.assert_allclose(centred, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "centred"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_flow_is_the_limit_of_gradient_descent_in_the_parameters(mode, ridge):
    with float64():
        machine, x, y = fitted(mode=mode, ridge=ridge, learning_rate=0.5)
        jacobian, t = flat_jacobian(mlp, parameters(), x), 1.5
        start = np.asarray(mlp(parameters(), x)).ravel() if mode == "linear" else np.zeros(N * K)
        exact, errors = flat(machine.displacement(t)), []
        for steps in (4000, 8000):
            shift = np.zeros(jacobian.shape[1])
            for _ in range(steps):
                residual = start + jacobian @ shift - np.asarray(y).ravel()
                shift -= 0.5 * t / steps * (jacobian.T @ residual + ridge * shift)
            errors.append(np.abs(shift - exact).max())
        assert errors[0] < 1e-2 * np.abs(exact).max()
        np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.05)  # Euler, first order


@pytest.mark.parametrize("f", [mlp, scalar])
def test_time_zero_is_the_network_or_nothing_and_infinity_interpolates(f):
    with float64():
        linear, x, y = fitted(f)
        centred = fitted(f, mode="centred")[0]
        z = points(7, 5, D)
        np.testing.assert_allclose(linear.logits_fn(0.0)(z), f(parameters(), z), rtol=1e-12)
        assert (centred.logits_fn(0.0)(z) == 0).all()
        for machine in (linear, centred):
            np.testing.assert_allclose(machine.logits_fn()(x), y, rtol=1e-7)
            late = machine.predict(x, [1e9])[0]
            np.testing.assert_allclose(late, y, rtol=1e-7)
            # Of all interpolating displacements, the shortest.
            jacobian = flat_jacobian(f, parameters(), x)
            wanted = np.linalg.lstsq(jacobian, flat(y) - flat(machine.initial), rcond=None)[0]
            np.testing.assert_allclose(flat(machine.displacement()), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("f", [mlp, scalar])
@pytest.mark.parametrize("mode", ["linear", "centred"])
def test_displacement_and_kernel_predict_the_same(f, mode):
    with float64():
        machine, x, _ = fitted(f, mode=mode, ridge=0.01)
        z, times = points(7, 5, D), [0.0, 0.3, 20.0, INFINITY]
        cross = brute_force_ntk(f, parameters(), z, x)
        by_kernel, by_displacement = (machine.predict(z, times, ntk=k) for k in (cross, None))
        assert by_kernel.shape == (4, *f(parameters(), z).shape)
        np.testing.assert_allclose(by_kernel, by_displacement, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solver", ["cholesky", "lanczos"])
def test_solvers_agree(solver):
    with float64():
        machine, oracle = fitted(solver=solver)[0], fitted()[0]
        assert (machine.solver, oracle.solver) == (solver, "eigh")
        np.testing.assert_allclose(machine.coefficients(), oracle.coefficients(), rtol=1e-7)
        if solver == "cholesky":
            assert machine.condition_number > oracle.condition_number / 3


@pytest.mark.parametrize("f", [mlp, scalar])
def test_without_a_matrix_the_empirical_kernel_is_computed(f):
    with float64():
        machine, x, y = fitted(f)
        own = LinearisedNetwork(f, parameters()).fit(x, y)
        np.testing.assert_allclose(own.coefficients(), machine.coefficients(), rtol=1e-7)


def test_blocks_of_the_backward_pass_leave_no_trace(monkeypatch):
    with float64():
        machine = fitted()[0]
        whole = flat(machine.displacement(2.0))
        monkeypatch.setattr("ntklab.predictors.linearised._BLOCK", 3)
        np.testing.assert_allclose(flat(machine.displacement(2.0)), whole, rtol=1e-12, atol=1e-14)


# Attacks and frozen statistics.


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x))
        return nn.Dense(K)(nn.relu(x))


def apply_frozen(statistics, params, x):
    return WithBatchNorm().apply({"params": params, "batch_stats": statistics}, x)


def test_frozen_statistics_are_leaves_and_one_compilation_serves_all():
    x, traces = points(4, N, D), []
    variables = WithBatchNorm().init(jax.random.key(0), x)

    @jax.jit
    def attack(logits_fn, x):
        traces.append(None)
        return x + 0.1 * jnp.sign(jax.grad(lambda z: (logits_fn(z) ** 2).sum())(x))

    scores = []
    for shift in (0.0, 0.5):
        statistics = jax.tree.map(lambda a, s=shift: a + s, variables["batch_stats"])
        network = LinearisedNetwork(Partial(apply_frozen, statistics), variables["params"])
        logits_fn = network.logits_fn()
        scores.append(logits_fn(x))
        np.testing.assert_allclose(scores[-1][:2], logits_fn(x[:2]), rtol=1e-5, atol=1e-6)
        assert attack(logits_fn, x).shape == x.shape
    assert len(traces) == 1 and isinstance(logits_fn, Partial) and logits_fn.func is linear_logits
    assert float(jnp.abs(scores[0] - scores[1]).max()) > 0.1


# What is refused.


def test_senseless_networks_and_displacements():
    params = parameters()
    with pytest.raises(ValueError, match='mode must be "linear" or "centred"'):
        LinearisedNetwork(mlp, params, "lazy")
    with pytest.raises(TypeError, match="params must be floating point, got int32"):
        LinearisedNetwork(mlp, {**params, "step": jnp.arange(3)})
    with pytest.raises(ValueError, match="params has 1 entries that are NaN"):
        LinearisedNetwork(mlp, {**params, "b": params["b"].at[0].set(jnp.nan)})
    with pytest.raises(ValueError, match="ridge"):
        LinearisedNetwork(mlp, params, ridge=-1.0)
    with pytest.raises(ValueError, match="displacement must be like the parameters"):
        LinearisedNetwork(mlp, params).logits_fn({"w": params["w"]})


def test_senseless_training_sets():
    network, x = LinearisedNetwork(mlp, parameters()), points(4, N, D)
    ntk = brute_force_ntk(mlp, parameters(), x, x)
    with pytest.raises(ValueError, match=r"shape of the network's scores, \(7, 2\), got \(7, 3\)"):
        network.fit(x, points(5, N, 3), ntk=ntk)
    with pytest.raises(ValueError, match=r"ntk must have shape \(7, 7, 2, 2\)"):
        network.fit(x, points(5, N, K), ntk=ntk[..., 0])
    with pytest.raises(ValueError, match="not positive semidefinite"):
        network.fit(x, points(5, N, K), ntk=-ntk)
    with pytest.raises(ValueError, match="x has 1 entries that are NaN"):
        network.fit(x.at[0, 0].set(jnp.nan), points(5, N, K), ntk=ntk)
    infinite = dataclasses.replace(network, f=lambda p, x: mlp(p, x) / 0)
    with pytest.raises(ValueError, match="the network's scores has 14 entries that are NaN"):
        infinite.fit(x, points(5, N, K), ntk=ntk)
    machine = network.fit(x, points(5, N, K), ntk=ntk)
    with pytest.raises(ValueError, match="times is empty"):
        machine.predict(x, [])
    with pytest.raises(ValueError, match="a time must be one number >= 0"):
        machine.displacement(-1.0)

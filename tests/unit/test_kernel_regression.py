"""Gradient flow on kernels: limits, known answers, oracles, and what is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from ntklab._common import float64
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelMachine, KernelRegression, class_gradients, kernel_logits
from ntklab.predictors.kernel_regression import check_targets, check_time

FROZEN = Path(__file__).parent.parent / "fixtures" / "neural_tangents_values.npz"
INFINITY = float("inf")


def problem(n=20, d=5, k=3):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (n, d)), jax.random.normal(keys[1], (n, k))


def fitted(kernel=None, **settings):
    x, y = problem()
    return KernelRegression(kernel or TwoLayerNTK(), **settings).fit(x, y)


def gram_of(machine):
    with float64():
        return np.asarray(machine.kernel(jnp.asarray(np.asarray(machine.x, np.float64))))


def euler(gram, y, ridge, rate, t, steps):
    """The flow in the coefficients by tiny explicit steps."""
    alpha = np.zeros_like(y)
    for _ in range(steps):
        alpha = alpha - rate * t / steps * (gram @ alpha + ridge * alpha - y)
    return alpha


def cosine_kernel(x1, x2=None):
    """A kernel that is a plain function: no closed gradient, no blocks."""
    x2 = x1 if x2 is None else x2
    return jnp.exp(-((x1[:, None] - x2[None]) ** 2).sum(axis=2) / 4)


# The flow.


def test_two_orthogonal_points_by_hand():
    machine = KernelRegression(TwoLayerNTK(), learning_rate=2.0)
    machine = machine.fit(jnp.eye(2), jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(machine.eigenvalues, [0.5, 0.5])
    np.testing.assert_allclose(machine.coefficients(), [2.0, -2.0])
    factor = 1 - np.exp(-2.0 * 0.5 * 3.0)
    np.testing.assert_allclose(machine.coefficients(3.0), [2 * factor, -2 * factor])
    assert machine.condition_number == 1.0


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("t", [0.01, 0.3, 5.0])
def test_the_flow_is_the_limit_of_small_steps(ridge, t):
    machine = fitted(ridge=ridge, learning_rate=0.5)
    y = np.asarray(machine.targets, np.float64)
    errors = [
        np.abs(euler(gram_of(machine), y, ridge, 0.5, t, steps) - machine.coefficients(t)).max()
        for steps in (2000, 4000)
    ]
    assert errors[0] < 1e-2 * np.abs(machine.coefficients(t)).max()
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.05)  # Euler is of first order


def test_time_zero_is_the_zero_function():
    machine = fitted()
    assert (machine.coefficients(0.0) == 0).all()
    assert (machine.logits_fn(0.0)(machine.x) == 0).all()


def test_small_times_are_exact_where_a_difference_would_cancel():
    machine, t = fitted(learning_rate=1.0), 1e-14
    y, gram = np.asarray(machine.targets, np.float64), gram_of(machine)
    second_order = t * (y - t / 2 * gram @ y)
    np.testing.assert_allclose(machine.coefficients(t), second_order, rtol=1e-13, atol=1e-27)
    cancelled = np.linalg.solve(gram, y - (y - t * gram @ y))
    assert np.abs(cancelled - second_order).max() > 1e-4 * np.abs(second_order).max()


def test_infinite_time_interpolates_and_long_times_approach_it():
    machine = fitted()
    np.testing.assert_allclose(machine.logits_fn()(machine.x), machine.targets, atol=2e-4)
    exact = machine.predict(machine.x, [INFINITY])[0]
    np.testing.assert_allclose(exact, machine.targets, atol=1e-6)
    late = 60 / machine.eigenvalues[0]
    np.testing.assert_allclose(machine.coefficients(late), machine.coefficients(), rtol=1e-12)
    wanted = np.linalg.solve(gram_of(machine), np.asarray(machine.targets, np.float64))
    np.testing.assert_allclose(machine.coefficients(), wanted, rtol=1e-9)


def test_residuals_form_a_semigroup():
    machine = fitted()

    def residual(targets, t):
        other = KernelRegression(machine.kernel).fit(machine.x, targets)
        scores = gram_of(machine) @ other.coefficients(t)
        return jnp.asarray((np.asarray(targets, np.float64) - scores).astype(np.float32))

    at_once = residual(machine.targets, 0.7)
    in_two_steps = residual(residual(machine.targets, 0.3), 0.4)
    np.testing.assert_allclose(in_two_steps, at_once, rtol=1e-5, atol=1e-6)


def test_only_the_product_of_rate_and_time_counts():
    slow, fast = fitted(learning_rate=0.1), fitted(learning_rate=10.0)
    np.testing.assert_allclose(slow.coefficients(100.0), fast.coefficients(1.0), rtol=1e-12)


def test_targets_with_one_axis_give_scores_with_one_axis():
    x, y = problem()
    one = KernelRegression(TwoLayerNTK()).fit(x, y[:, 0])
    assert one.coefficients().shape == (20,) and one.logits_fn()(x[:4]).shape == (4,)
    assert one.predict(x[:4], [1.0, 2.0]).shape == (2, 4)
    np.testing.assert_allclose(one.coefficients(2.0), fitted().coefficients(2.0)[:, 0], rtol=1e-9)


def test_predict_gives_every_time_and_agrees_with_the_logits_function():
    machine, x = fitted(), jax.random.normal(jax.random.key(5), (7, 5))
    times = [0.1, 3.0, INFINITY]
    scores = machine.predict(x, times)
    assert scores.shape == (3, 7, 3) and scores.dtype == jnp.float32
    for t, row in zip(times, scores, strict=True):
        np.testing.assert_allclose(machine.logits_fn(t)(x), row, rtol=1e-4, atol=1e-4)


# Oracles.


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_ridge_equals_scikit_learn(ridge):
    machine = fitted(FullyConnected(depth=2, b_std=0.1), ridge=ridge)
    oracle = KernelRidge(alpha=ridge, kernel="precomputed")
    oracle.fit(gram_of(machine), np.asarray(machine.targets, np.float64))
    np.testing.assert_allclose(machine.coefficients(), oracle.dual_coef_, rtol=1e-8)


def test_predictions_equal_those_of_neural_tangents():
    with np.load(FROZEN) as file:
        y, times = file["predict/y"], file["predict/t"]
        train, test = file["predict/k_train_train"], file["predict/k_test_train"]
        start, at_test = file["predict/f_train_0"], file["predict/f_test_0"]
        moved, moved_for_ever = file["predict/test"], file["predict/test_inf"]
        ridged = file["predict/ridge/test_inf"]
    n = len(y)

    def table(x1, x2=None):
        """The frozen matrix as a kernel of the indices that stand in for inputs."""
        return jnp.asarray(train)[x1[:, 0].astype(int)][
            :, (x1 if x2 is None else x2)[:, 0].astype(int)
        ]

    x = jnp.arange(float(n))[:, None]
    with float64():
        residual = jnp.asarray(y - start)
        machine = KernelRegression(table).fit(x, residual)
        for t, wanted in zip(times, moved, strict=True):
            ours = at_test + test @ machine.coefficients(t / y.size)
            np.testing.assert_allclose(ours, wanted, rtol=1e-7, atol=1e-9)
        ours = at_test + test @ machine.coefficients()
        np.testing.assert_allclose(ours, moved_for_ever, rtol=1e-7)
        ridge = KernelRegression(table, ridge=0.01).fit(x, residual)
        np.testing.assert_allclose(at_test + test @ ridge.coefficients(), ridged, rtol=1e-7)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_condition_number_equals_numpy(ridge):
    machine = fitted(ridge=ridge)
    wanted = np.linalg.cond(gram_of(machine) + ridge * np.eye(20))
    np.testing.assert_allclose(machine.condition_number, wanted, rtol=1e-10)


def test_the_spectrum_is_that_of_the_kernel_in_float64():
    machine = fitted()
    rebuilt = (machine.eigenvectors * machine.eigenvalues) @ machine.eigenvectors.T
    np.testing.assert_allclose(rebuilt, gram_of(machine), atol=1e-13)
    assert machine.eigenvalues.dtype == machine.coefficients().dtype == np.float64


# The machine.


def test_one_compilation_serves_every_machine_of_equal_shape():
    traces = []

    @jax.jit
    def attack(logits_fn, x):
        traces.append(None)
        return x + 0.1 * jnp.sign(jax.grad(lambda z: logits_fn(z).sum())(x))

    x, y = problem()
    first, second = (KernelRegression(TwoLayerNTK()).fit(x, s * y) for s in (1.0, -1.0))
    moved = [attack(f, x) for f in (first.logits_fn(), second.logits_fn(), first.logits_fn(0.5))]
    assert len(traces) == 1
    np.testing.assert_allclose(moved[0] + moved[1], 2 * x, atol=1e-6)  # opposite gradients
    attack(KernelRegression(FullyConnected()).fit(x, y).logits_fn(), x)
    assert len(traces) == 2


def test_a_machine_is_a_pytree():
    x, y = problem()
    machine = KernelMachine(x, y, TwoLayerNTK())
    assert len(jax.tree.leaves(machine)) == 2
    doubled = jax.tree.map(lambda a: 2 * a, machine)
    np.testing.assert_allclose(kernel_logits(doubled, x), 4 * kernel_logits(machine, x), rtol=1e-5)
    stack = jax.tree.map(lambda *a: jnp.stack(a), machine, doubled)
    assert jax.vmap(kernel_logits, in_axes=(0, None))(stack, x).shape == (2, 20, 3)


@pytest.mark.parametrize("columns", [None, 3])
def test_class_gradients_of_a_machine_are_those_of_autodiff(columns):
    x, y = problem()
    kernel = FullyConnected(depth=2, b_std=0.1)
    f = KernelRegression(kernel).fit(x, y if columns else y[:, 0]).logits_fn()
    z = jax.random.normal(jax.random.key(5), (6, 5))
    scores, closed = class_gradients(f, z)
    again, by_vjp = class_gradients(lambda a: f(a), z)
    np.testing.assert_allclose(scores, again, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(closed, by_vjp, rtol=1e-3, atol=1e-4)
    assert closed.shape == ((6, 3, 5) if columns else (6, 5))
    jacobian = jax.vmap(jax.jacrev(lambda a: f(a[None])[0]))(z)
    np.testing.assert_allclose(closed, jacobian, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(jax.jit(class_gradients)(f, z)[1], closed, rtol=1e-4, atol=1e-5)


def test_a_kernel_without_closed_gradient_works_through_autodiff():
    x, y = problem()
    f = KernelRegression(cosine_kernel).fit(x, y).logits_fn()
    np.testing.assert_allclose(f(x), y, atol=1e-4)
    scores, gradients = class_gradients(f, x[:3])
    by_hand = jax.vmap(jax.jacrev(lambda a: f(a[None])[0]))(x[:3])
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(gradients, by_hand, rtol=1e-4, atol=1e-5)


def test_class_gradients_refuse_scores_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"must return \(2, k\) or \(2,\)"):
        class_gradients(lambda x: x.sum(), jnp.ones((2, 3)))


def test_float64_inputs_give_a_float64_machine():
    with float64():
        x, y = (jnp.asarray(np.asarray(a, np.float64)) for a in problem())
        scores = KernelRegression(TwoLayerNTK()).fit(x, y).logits_fn()(x)
        assert scores.dtype == jnp.float64
        np.testing.assert_allclose(scores, y, atol=1e-11)


# What is refused.


def test_contradicting_duplicates_are_refused_and_a_ridge_or_a_finite_time_helps():
    x, y = problem()
    x = x.at[7].set(x[3])
    machine = KernelRegression(TwoLayerNTK()).fit(x, y)
    assert machine.condition_number == INFINITY
    with pytest.raises(ValueError, match=r"singular \(1 of 20.*use a ridge above 0, or a finite"):
        machine.coefficients()
    assert np.isfinite(machine.logits_fn(10.0)(x)).all()
    ridged = KernelRegression(TwoLayerNTK(), ridge=1e-3).fit(x, y)
    np.testing.assert_allclose(ridged.logits_fn()(x[3:4])[0], (y[3] + y[7]) / 2, atol=5e-3)


def test_agreeing_duplicates_interpolate():
    x, y = problem()
    x, y = x.at[7].set(x[3]), y.at[7].set(y[3])
    machine = KernelRegression(TwoLayerNTK()).fit(x, y)
    np.testing.assert_allclose(machine.predict(x, [INFINITY])[0], y, atol=1e-6)
    np.testing.assert_allclose(machine.coefficients()[3], machine.coefficients()[7], rtol=1e-9)


@pytest.mark.parametrize("t", [-1.0, float("nan"), np.array([1.0, 2.0])])
def test_senseless_times(t):
    with pytest.raises(ValueError, match="a time must be one number >= 0"):
        check_time(t)
    with pytest.raises(ValueError, match="a time must be one number >= 0"):
        fitted().coefficients(-1)


def test_senseless_settings_inputs_and_kernels():
    x, y = problem()
    regression = KernelRegression(TwoLayerNTK())
    with pytest.raises(ValueError, match="ridge"):
        KernelRegression(TwoLayerNTK(), ridge=-1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        KernelRegression(TwoLayerNTK(), learning_rate=0.0)
    with pytest.raises(ValueError, match="x has 1 entries that are NaN"):
        regression.fit(x.at[0, 0].set(jnp.nan), y)
    with pytest.raises(ValueError, match="targets has 1 entries that are NaN"):
        regression.fit(x, y.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"targets must have shape \(20,\) or \(20, k\)"):
        regression.fit(x, y[:, :, None])
    with pytest.raises(ValueError, match="times is empty"):
        fitted().predict(x, [])
    with pytest.raises(ValueError, match="not symmetric"):
        KernelRegression(lambda a: a @ a.T + jnp.triu(a @ a.T, 1)).fit(x, y)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        KernelRegression(lambda a: jnp.tanh(1 - a @ a.T)).fit(x, y)
    with pytest.raises(ValueError, match="matrix, got"):
        KernelRegression(lambda a: (a @ a.T)[:5]).fit(x, y)
    with pytest.raises(ValueError, match="the kernel matrix has"):
        KernelRegression(lambda a: jnp.sqrt(a @ a.T)).fit(x, y)


def test_class_indices_are_not_targets():
    with pytest.raises(TypeError, match="floating point, got int32: use"):
        check_targets(jnp.arange(3), 3)

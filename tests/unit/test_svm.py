"""Margin losses on kernels: optimality, oracles, flows, and what is refused."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.svm import SVC, LinearSVC

from ntklab._common import float64
from ntklab.attacks import correct
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelRegression, KernelSVM
from ntklab.predictors.dual_ascent import LOSSES, SOLVERS, coordinate_ascent, primal_and_dual
from ntklab.predictors.kernel_regression import check_targets

KERNEL = FullyConnected(w_std=1.0)
N = 24


def problem(k=()):
    """Two overlapping clouds with labels of both signs, and targets for regression."""
    keys = jax.random.split(jax.random.key(3), 2)
    y = jnp.sign(jax.random.normal(keys[0], (N, *k)))
    shift = y if not k else y[:, 0]
    return 0.5 * shift[:, None] + jax.random.normal(keys[1], (N, 4)), y


def gram_of(x):
    with float64():
        return np.asarray(KERNEL(jnp.asarray(np.asarray(x, np.float64))))


def fit(loss="hinge", regularisation=0.1, **settings):
    x, y = problem()
    return KernelSVM(KERNEL, loss, regularisation).fit(x, y, **settings)


def factor(gram):
    """Rows whose inner products are the kernel: the features of a linear machine."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0))


# The optimum.


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_conditions_of_the_optimum_hold(loss, solver):
    regularisation, epsilon = 0.1, 0.1
    machine = fit(loss, regularisation, solver=solver)
    assert machine.gap <= 1e-6
    x, y = problem()
    a, y = machine.coefficients, np.asarray(y, np.float64)
    f = gram_of(x) @ a
    inside, slack = 1e-4, 1e-3
    if loss == "hinge":
        assert (y * a >= 0).all() and (y * a <= 1 / regularisation + 1e-12).all()
        assert (y * f >= 1 - slack)[y * a < inside].all()
        assert (y * f <= 1 + slack)[y * a > 1 / regularisation - inside].all()
        free = (y * a > inside) & (y * a < 1 / regularisation - inside)
        assert free.any()
        np.testing.assert_allclose((y * f)[free], 1, atol=slack)
    elif loss == "squared_hinge":
        np.testing.assert_allclose(a, 2 / regularisation * y * np.maximum(0, 1 - y * f), atol=0.02)
    else:
        gap = np.abs(y - f)
        assert (gap <= epsilon + slack)[np.abs(a) < inside].all()
        assert (gap >= epsilon - slack)[np.abs(a) > inside].all()
        assert (np.sign(a) == np.sign(y - f))[np.abs(a) > inside].all()


def mirrored_svc(gram, y, c):
    """SVC on every example and its mirror image: by symmetry its intercept is zero."""
    both = np.block([[gram, -gram], [-gram, gram]])
    model = SVC(kernel="precomputed", C=c / 2, tol=1e-8).fit(both, np.r_[y, -y])
    a = np.zeros(2 * len(y))
    a[model.support_] = model.dual_coef_[0]
    return a[: len(y)] - a[len(y) :], float(model.intercept_[0])


@pytest.mark.parametrize("regularisation", [0.02, 1.0, 20.0])
def test_the_hinge_agrees_with_svc(regularisation):
    x, y = problem()
    gram = gram_of(x)
    machine = fit(regularisation=regularisation)
    a, intercept = mirrored_svc(gram, np.asarray(y, np.float64), 1 / regularisation)
    assert abs(intercept) < 1e-6
    np.testing.assert_allclose(gram @ machine.coefficients, gram @ a, atol=1e-3)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_the_hinges_agree_with_a_linear_machine_on_the_features(loss):
    x, y = problem()
    gram, regularisation = gram_of(x), 0.2
    features = factor(gram)
    model = LinearSVC(loss=loss, C=1 / regularisation, fit_intercept=False, tol=1e-9, dual=True)
    model.set_params(max_iter=10**6).fit(features, np.asarray(y))
    f = gram @ fit(loss, regularisation).coefficients
    np.testing.assert_allclose(f, features @ model.coef_[0], atol=1e-3)


def oracle(gram, y, loss, regularisation, epsilon=0.1):
    """The primal over smooth features by a general optimiser (smooth losses only)."""
    features = factor(gram)

    def objective(w):
        f = features @ w
        return regularisation / 2 * w @ w + LOSSES[loss].value(y, f, epsilon).sum()

    def slope(w):
        f = features @ w
        force = 2 * y * np.maximum(0, 1 - y * f)
        return regularisation * w - features.T @ force

    start = np.zeros(gram.shape[1])
    found = scipy.optimize.minimize(objective, start, jac=slope, tol=1e-12)
    return features @ found.x, found.fun


def test_the_squared_hinge_agrees_with_a_general_optimiser():
    x, y = problem()
    f, value = oracle(gram_of(x), np.asarray(y, np.float64), "squared_hinge", 0.1)
    machine = fit("squared_hinge")
    np.testing.assert_allclose(gram_of(x) @ machine.coefficients, f, atol=1e-5)
    np.testing.assert_allclose(machine.primal, [value], rtol=1e-8)


def dual_oracle(gram, y, loss, regularisation, epsilon):
    """The dual as a smooth box problem in the two parts of each coefficient."""
    n = len(y)

    def negative(b):
        a = b[:n] - b[n:]
        f = gram @ a
        value = a @ f / 2 - y @ a + epsilon * b.sum()
        return value, np.r_[f - y, y - f] + epsilon

    box = [(0, 1 / regularisation)] * (2 * n)
    options = {"maxiter": 20000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-10}
    found = scipy.optimize.minimize(
        negative, np.zeros(2 * n), jac=True, bounds=box, method="L-BFGS-B", options=options
    )
    return found.x[:n] - found.x[n:]


def test_the_tube_agrees_with_a_box_optimiser_and_with_svr():
    x, _ = problem()
    y = jnp.sin(2 * x[:, 0])
    svm = KernelSVM(KERNEL, "epsilon_insensitive", 0.1, epsilon=0.2)
    ours, svr = svm.fit(x, y), svm.fit(x, y, solver="scikit-learn")
    gram = gram_of(x)
    a = dual_oracle(gram, np.asarray(y, np.float64), "epsilon_insensitive", 0.1, 0.2)
    np.testing.assert_allclose(gram @ ours.coefficients, gram @ a, atol=1e-4)
    np.testing.assert_allclose(gram @ ours.coefficients, gram @ svr.coefficients, atol=1e-4)
    assert 0 < len(ours.support) < N


def test_two_orthogonal_points_by_hand():
    # f_i = a_i / 2. Hinge: a = min(2, 1 / lambda) y. Squared: a = y 2 / (lambda + 1).
    x, y = jnp.eye(2), jnp.array([1.0, -1.0])
    for loss, regularisation, size in (
        ("hinge", 0.25, 2.0),
        ("hinge", 2.0, 0.5),
        ("squared_hinge", 0.25, 2 / 1.25),
        ("epsilon_insensitive", 0.25, 2 * 0.9),
        ("epsilon_insensitive", 2.0, 0.5),
    ):
        machine = KernelSVM(TwoLayerNTK(), loss, regularisation).fit(x, y)
        np.testing.assert_allclose(machine.coefficients, [size, -size], rtol=1e-4)


def test_without_regularisation_the_hinge_separates_with_margin_one():
    x, y = problem()
    machine = fit(regularisation=1e-4)
    margins = np.asarray(y) * (gram_of(x) @ machine.coefficients)
    np.testing.assert_allclose(margins.min(), 1, atol=1e-3)
    hard = mirrored_svc(gram_of(x), np.asarray(y, np.float64), 1e8)[0]
    np.testing.assert_allclose(gram_of(x) @ machine.coefficients, gram_of(x) @ hard, atol=1e-2)


def test_the_gap_bounds_the_excess_objective_and_infeasible_points_give_none():
    x, y = problem()
    gram, y = gram_of(x), np.asarray(y, np.float64)
    best = coordinate_ascent(gram, y, "hinge", 0.1, 0.0, 1e-10)
    least, _ = primal_and_dual(gram @ best, best, y, "hinge", 0.1, 0.0)
    for scale in (0.0, 0.3, 0.9):
        primal, dual = primal_and_dual(gram @ (scale * best), scale * best, y, "hinge", 0.1, 0.0)
        assert dual <= least <= primal and primal - dual >= primal - least
    wrong = -best
    assert primal_and_dual(gram @ wrong, wrong, y, "hinge", 0.1, 0.0)[1] == -np.inf


def test_a_singular_kernel_matrix_is_no_trouble():
    x, y = problem()
    twice = KernelSVM(KERNEL, regularisation=0.2).fit(
        jnp.concatenate([x, x]), jnp.concatenate([y, y])
    )
    once = fit(regularisation=0.1)
    np.testing.assert_allclose(twice.predict(x), once.predict(x), atol=1e-3)


# The predictor.


def test_scores_of_the_logits_function_and_of_predict_agree():
    machine = fit()
    x, y = problem()
    np.testing.assert_allclose(machine.logits_fn()(x), machine.predict(x), atol=1e-5)
    np.testing.assert_allclose(machine.logits_fn(sparse=False)(x), machine.predict(x), atol=1e-5)
    assert len(machine.logits_fn().args[0].x_train) == len(machine.support) < N
    np.testing.assert_allclose(machine.predict(x), gram_of(x) @ machine.coefficients, atol=1e-5)
    labels = (y > 0).astype(jnp.int32)
    assert correct(machine.logits_fn()(x), labels).mean() > 0.8


def test_columns_are_fitted_one_by_one():
    x, y = problem((3,))
    svm = KernelSVM(KERNEL, regularisation=0.3)
    together = svm.fit(x, y)
    assert together.logits_fn()(x).shape == (N, 3) and together.primal.shape == (3,)
    for column in range(3):
        alone = svm.fit(x, y[:, column])
        np.testing.assert_allclose(together.coefficients[:, column], alone.coefficients)


# The flows.


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_flow_reaches_the_optimum(loss):
    x, y = problem()
    svm = KernelSVM(KERNEL, loss, 1.0)
    late = svm.flow(x, y, t=15.0, step=5e-4)
    np.testing.assert_allclose(late.predict(x), svm.fit(x, y).predict(x), atol=1e-3)
    assert 0 <= late.gap < 1e-3


def test_the_flow_agrees_with_svc():
    x, y = problem()
    a, _ = mirrored_svc(gram_of(x), np.asarray(y, np.float64), 1.0)
    flow = KernelSVM(KERNEL, "hinge", 1.0).flow(x, y, t=15.0, step=5e-4)
    np.testing.assert_allclose(gram_of(x) @ flow.coefficients, gram_of(x) @ a, atol=1e-3)


def test_the_flow_before_any_margin_is_reached_is_known():
    # All examples push: alpha = y (1 - exp(-lambda t)) / lambda, a first-order method.
    x, y = problem()
    t, regularisation = 0.05, 0.7
    exact = np.asarray(y) * (1 - np.exp(-regularisation * t)) / regularisation
    errors = [
        np.abs(KernelSVM(KERNEL, "hinge", 0.7).flow(x, y, t, t / n).coefficients - exact).max()
        for n in (10, 20)
    ]
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.02)
    assert (KernelSVM(KERNEL).flow(x, y, 0.0, 0.1).coefficients == 0).all()


def test_the_squared_loss_is_the_regression_with_half_the_ridge():
    # Squared hinge where every margin stays below one is the squared loss on the same targets.
    x, y = problem()
    strong = 400.0
    hinge = KernelSVM(KERNEL, "squared_hinge", strong).fit(x, y)
    ridge = KernelRegression(KERNEL, ridge=strong / 2).fit(x, y)
    assert (np.asarray(y) * (gram_of(x) @ ridge.coefficients()) < 1).all()
    np.testing.assert_allclose(hinge.coefficients, ridge.coefficients(), rtol=1e-2)


def loop_sgd(gram, y, orders, batch, decay, rate, everywhere):
    """The authors' lines, word for word where the others do not shrink."""
    alpha = np.zeros(len(y))
    for order in orders:
        for start in range(0, len(y), batch):
            ids = order[start : start + batch]
            push = np.where(y[ids] * (gram[ids] @ alpha) < 1, y[ids], 0) * rate / len(ids)
            if everywhere:
                alpha *= 1 - rate * decay
                alpha[ids] += push
            else:
                alpha[ids] = (1 - rate * decay) * alpha[ids] + push
    return alpha


@pytest.mark.parametrize("shrink", ["batch", "all"])
def test_sgd_is_the_loop_of_the_authors(key, shrink):
    x, y = problem()
    machine = KernelSVM(KERNEL, "hinge", 0.05).sgd(x, y, key, 0.5, 7, 5, shrink)
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(key, e), N)) for e in range(5)]
    wanted = loop_sgd(gram_of(x), np.asarray(y, np.float64), orders, 7, 0.05, 0.5, shrink == "all")
    np.testing.assert_allclose(machine.coefficients, wanted, atol=1e-12)
    assert 0 < machine.gap < np.inf


@pytest.mark.parametrize(("shrink", "factor"), [("batch", 6), ("all", N)])
def test_sgd_approaches_the_sum_form_it_names(key, shrink, factor):
    x, y = problem()
    small = 0.05
    svm = KernelSVM(KERNEL, "hinge", small)
    machine = svm.sgd(x, y, key, learning_rate=0.05, batch=6, epochs=2500, shrink=shrink)
    assert machine.regularisation == pytest.approx(small * factor)
    best = KernelSVM(KERNEL, "hinge", small * factor).fit(x, y)
    other = KernelSVM(KERNEL, "hinge", small * (N if shrink == "batch" else 6)).fit(x, y)
    f = [m.predict(x) for m in (machine, best, other)]
    assert np.abs(f[0] - f[1]).max() < 0.05
    assert np.abs(f[0] - f[2]).max() > 0.1


# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "logistic"}, "loss must be one of"),
        ({"regularisation": -0.1}, "regularisation must be a finite number > 0"),
        ({"regularisation": 0.0}, "the limit is the hard margin"),
        ({"regularisation": float("nan")}, "regularisation must be"),
        ({"epsilon": -1.0}, "epsilon must be"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        KernelSVM(KERNEL, **settings)


def test_senseless_targets_and_inputs_are_refused():
    x, y = problem()
    svm = KernelSVM(KERNEL)
    with pytest.raises(ValueError, match=r"\+1 and -1 for the hinge loss, got values such as 0"):
        svm.fit(x, (y + 1) / 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        svm.fit(x.at[0, 0].set(jnp.nan), y)
    with pytest.raises(TypeError, match="targets must be floating point"):
        check_targets(y.astype(jnp.int32), N)
    with pytest.raises(ValueError, match="solver must be one of"):
        svm.fit(x, y, solver="libsvm")
    with pytest.raises(ValueError, match="not symmetric"):
        KernelSVM(lambda x1, x2=None: jnp.arange(N * N, dtype=x1.dtype).reshape(N, N)).fit(x, y)


def test_senseless_flows_are_refused(key):
    x, y = problem()
    svm = KernelSVM(KERNEL, regularisation=0.5)
    with pytest.raises(ValueError, match=r"step must lie in \(0, 1 / regularisation\]"):
        svm.flow(x, y, 1.0, 3.0)
    with pytest.raises(ValueError, match="t must be"):
        svm.flow(x, y, -1.0, 0.1)
    with pytest.raises(ValueError, match="learning_rate must lie in"):
        svm.sgd(x, y, key, learning_rate=0.0, batch=4)
    with pytest.raises(ValueError, match=r"batch must lie in 1\.\.24"):
        svm.sgd(x, y, key, batch=25)
    with pytest.raises(ValueError, match='shrink must be "batch" or "all"'):
        svm.sgd(x, y, key, batch=4, shrink="none")


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ImportError, match='needs scikit-learn: install it, or use solver="dual'):
        fit(solver="scikit-learn")


def test_a_problem_without_a_solution_in_reach_is_said(monkeypatch):
    one = np.array([1.0, -1.0])
    with pytest.raises(ValueError, match="not positive semidefinite"):
        coordinate_ascent(np.array([[1.0, 3.0], [3.0, 1.0]]), one, "squared_hinge", 0.1, 0.0, 1e-8)
    monkeypatch.setattr("ntklab.predictors.dual_ascent._STEPS_MAX", 1)
    with pytest.raises(RuntimeError, match=r"duality gap is .* after 1 steps"):
        coordinate_ascent(np.eye(2), one, "hinge", 0.1, 0.0, 1e-8)

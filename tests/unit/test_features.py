"""Eigen-features: they add up, name two classes, and are attacked like any predictor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import features
from ntklab._common import float64
from ntklab.attacks import correct, cross_entropy, fgsm, pgd
from ntklab.kernels import TwoLayerNTK
from ntklab.predictors import KernelRegression, class_gradients

KERNEL = TwoLayerNTK()
N, B, D, K = 24, 30, 5, 4


@functools.cache
def inputs():
    """Training inputs, test inputs, and the labels of both: the largest of the first k entries."""
    random = np.random.default_rng(4)
    x, x_new = (random.uniform(size=(m, D)).astype(np.float32) for m in (N, B))
    y, y_new = (np.argmax(a[:, :K], axis=1).astype(np.int32) for a in (x, x_new))
    return tuple(jnp.asarray(a) for a in (x, x_new, y, y_new))


@functools.cache
def fitted(binary=False, ridge=0.0):
    x, _, y, _ = inputs()
    targets = np.where(np.asarray(y) > 1, 1.0, -1.0) if binary else np.eye(K)[np.asarray(y)]
    machine = KernelRegression(KERNEL, ridge=ridge, solver="eigh")
    return machine.fit(x, jnp.asarray(targets.astype(np.float32)))


def labels(binary):
    y = inputs()[3]
    return (y > 1).astype(jnp.int32) if binary else y


def scores64(logits_fn, x):
    """The scores of a machine whose arrays are widened to float64."""
    machine = logits_fn.args[0]
    with float64():
        gram = KERNEL(*(jnp.asarray(np.asarray(a, np.float64)) for a in (x, machine.x_train)))
        return np.asarray(gram) @ np.asarray(machine.coefficients, np.float64)


# What a feature is.


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("binary", [False, True])
def test_all_features_add_up_to_the_machine(binary, ridge):
    machine = fitted(binary, ridge)
    parts = [features.feature(machine, i).args[0].coefficients for i in range(N)]
    whole = machine.coefficients()
    size = np.abs(np.asarray(parts)).sum(axis=0).max()
    np.testing.assert_allclose(
        np.sum(np.asarray(parts, np.float64), axis=0), whole, atol=1e-6 * size
    )
    at_once = features.select(machine, range(N)).args[0].coefficients
    np.testing.assert_allclose(at_once, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


def test_a_feature_is_equation_31():
    machine, (x, x_new, _, _) = fitted(), inputs()
    with float64():
        gram, cross = (
            np.asarray(
                KERNEL(
                    jnp.asarray(np.asarray(a, np.float64)), jnp.asarray(np.asarray(x, np.float64))
                )
            )
            for a in (x, x_new)
        )
    values, vectors = np.linalg.eigh(gram)
    for index in (0, 3, N - 1):
        v, value = vectors[:, N - 1 - index], values[N - 1 - index]
        wanted = cross @ np.outer(v, v) @ np.asarray(machine.targets) / value
        found = scores64(features.feature(machine, index), x_new)
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max() + 1e-5)


def test_on_the_training_set_a_feature_is_a_projection_of_the_targets():
    machine, x = fitted(), inputs()[0]
    first, second = (scores64(features.feature(machine, i), x) for i in (0, 1))
    y = np.asarray(machine.targets, np.float64)
    np.testing.assert_allclose(np.sum(first * second), 0, atol=1e-4)
    np.testing.assert_allclose(np.sum(first * (y - first)), 0, atol=1e-4)


def test_a_selection_is_the_pseudo_inverse_of_its_kernel():
    machine, chosen = fitted(), [5, 0, 2]
    rows = [N - 1 - i for i in chosen]
    vectors = machine.eigenvectors[:, rows]
    truncated = (vectors * machine.eigenvalues[rows]) @ vectors.T
    wanted = np.linalg.pinv(truncated, rcond=1e-8) @ np.asarray(machine.targets, np.float64)
    found = features.select(machine, chosen).args[0].coefficients
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_the_basis_times_the_class_weights_are_the_features():
    machine, x_new = fitted(), inputs()[1]
    phi = features.basis(machine, [0, 4])(x_new)
    weights = features.class_weights(machine, [0, 4])
    for column, index in enumerate((0, 4)):
        found = features.feature(machine, index)(x_new)
        wanted = np.outer(phi[:, column], weights[column])
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_feature_of_several_classes_names_two():
    machine, (_, x_new, _, y_new) = fitted(), inputs()
    named, caps = (
        f(machine, range(N), *a)
        for f, a in ((features.classes_named, ()), (features.cap, (y_new,)))
    )
    assert named.shape == (N, 2) and (named[:, 0] != named[:, 1]).all()
    share = np.bincount(np.asarray(y_new), minlength=K) / B
    many = jnp.concatenate([x_new, 3.0 * x_new])
    for index in range(8):
        predicted = np.asarray(features.feature(machine, index)(many).argmax(axis=1))
        assert set(predicted) <= set(named[index])
        assert caps[index] == pytest.approx(share[named[index]].sum())
        assert np.mean(predicted[:B] == np.asarray(y_new)) <= caps[index]
    assert caps.max() < 1


def test_a_binary_feature_can_name_both_classes():
    machine, (_, x_new, _, _) = fitted(binary=True), inputs()
    assert (np.sort(features.classes_named(machine, range(N)), axis=1) == [0, 1]).all()
    np.testing.assert_array_equal(features.cap(machine, [0, 1], labels(True)), 1.0)
    phi = np.asarray(features.basis(machine, [1])(x_new))[:, 0]
    says = np.asarray(features.feature(machine, 1)(x_new)) > 0
    named = features.classes_named(machine, [1])[0]
    np.testing.assert_array_equal(np.where(phi > 0, named[0], named[1]), says.astype(int))


# Usefulness and robustness.


def reported(binary=False, eps=0.05, indices=(0, 1, 2)):
    attacks = {"fgsm": fgsm(eps), "pgd": pgd(eps, steps=2)}
    x_new = inputs()[1]
    return features.measure(
        fitted(binary), indices, x_new, labels(binary), attacks, jax.random.key(0), block=15
    )


@pytest.mark.parametrize("binary", [False, True])
def test_a_report_counts_what_its_name_says(binary):
    report, (_, x_new, _, _) = reported(binary), inputs()
    y = labels(binary)
    for row, index in enumerate((0, 1, 2)):
        right = correct(features.feature(fitted(binary), index)(x_new), y)
        assert report.usefulness[row] == pytest.approx(float(right.mean()))
    assert set(report.robustness) == {"fgsm", "pgd"}
    for under in report.robustness.values():
        assert (report.worst <= under).all() and (under <= report.usefulness).all()
    assert (np.diff(report.eigenvalue) < 0).all()
    assert report.majority == pytest.approx(np.bincount(np.asarray(y)).max() / B)
    if not binary:
        assert (report.usefulness <= features.cap(fitted(), (0, 1, 2), y)).all()


def test_robustness_of_a_feature_is_that_of_its_sign():
    """The worst case of a binary feature is whether phi can change sign: eps large enough does."""
    none, all_of_it = reported(True, eps=0.0), reported(True, eps=1.0)
    np.testing.assert_array_equal(none.worst, none.usefulness)
    assert (all_of_it.worst[1:] <= none.worst[1:]).all() and all_of_it.worst[1:].max() < 0.7


def test_blocks_leave_no_trace_in_a_report():
    x_new, y = inputs()[1], labels(False)
    settings = fitted(), [1], x_new, y, {"fgsm": fgsm(0.02)}
    small, whole = (features.measure(*settings, block=b) for b in (15, 30))
    np.testing.assert_array_equal(small.worst, whole.worst)
    np.testing.assert_array_equal(small.usefulness, whole.usefulness)


def test_the_most_robust_are_chosen_by_the_worst_case():
    report = features.FeatureReport(
        np.array([7, 0, 3, 2]),
        np.array([1.0, 9.0, 3.0, 4.0]),
        np.array([0.9, 0.2, 0.5, 0.5]),
        {},
        np.array([0.0, 0.1, 0.3, 0.3]),
        0.5,
    )
    assert list(features.most_robust(report, 3)) == [2, 3, 0]
    with pytest.raises(ValueError, match=r"r must lie in 1\.\.4"):
        features.most_robust(report, 5)


# Proposition 1.


@jax.jit
def loss_gradient(logits_fn, x, y):
    return jax.grad(lambda z: cross_entropy(logits_fn(z), y).sum())(x)


@pytest.mark.parametrize("binary", [False, True])
def test_the_loss_gradient_is_the_weighted_sum_of_those_of_the_features(binary):
    machine, (x, x_new, _, _) = fitted(binary), inputs()
    y = labels(binary)
    alpha, defined = features.loss_gradient_weights(machine, range(N), x_new, y)
    assert alpha.shape == (B, N) and defined.all()
    if binary:
        assert (alpha > 0).all()
    else:
        assert (alpha < 0).any()
    with float64():
        wide = KernelRegression(KERNEL, solver="eigh").fit(
            *(jnp.asarray(np.asarray(a, np.float64)) for a in (x, machine.targets))
        )
        points = jnp.asarray(np.asarray(x_new, np.float64))
        whole = np.asarray(loss_gradient(wide.logits_fn(), points, y))
        total = sum(
            alpha[:, i, None] * np.asarray(loss_gradient(features.feature(wide, i), points, y))
            for i in range(N)
        )
    np.testing.assert_allclose(total, whole, atol=1e-7 * np.abs(whole).max())


def test_where_a_feature_has_no_loss_gradient_its_weight_is_not_defined():
    """Two classes whose targets agree along an eigenvector: the feature is the same for both."""
    x = jnp.eye(2)
    targets = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    machine = KernelRegression(KERNEL, solver="eigh").fit(jnp.diag(jnp.array([2.0, 1.0])), targets)
    alpha, defined = features.loss_gradient_weights(machine, [0, 1], x, jnp.array([0, 1]))
    np.testing.assert_array_equal(defined, [[False, True], [False, True]])
    assert (alpha[:, 0] == 0).all() and np.isfinite(alpha).all()


# Images.


def test_the_pictures_of_features_are_gradients_of_the_basis():
    machine, x_new = fitted(), inputs()[1]
    phi, pictures = class_gradients(features.basis(machine, [0, 1]), x_new)
    assert pictures.shape == (B, 2, D)
    # Euler: a kernel without biases is homogeneous, phi = x . grad phi.
    np.testing.assert_allclose((pictures * x_new[:, None]).sum(axis=2), phi, rtol=1e-3, atol=1e-4)


def test_the_maximising_input_of_a_linear_score_is_a_corner():
    weights = jnp.array([2.0, -1.0, 0.5])
    start = jnp.full((1, 3), 0.5)
    best = features.maximising_input(lambda x: x @ weights, start, steps=20)
    np.testing.assert_allclose(best, [[1.0, 0.0, 1.0]], atol=1e-6)
    near = features.maximising_input(lambda x: x @ weights, start, -1.0, eps=0.1, steps=20)
    np.testing.assert_allclose(near, [[0.4, 0.6, 0.4]], atol=1e-6)


def test_the_maximising_input_beats_every_input_seen():
    machine, x_new = fitted(), inputs()[1]
    phi = features.basis(machine, [1])
    found = features.maximising_input(phi, x_new[:4], steps=60)
    assert (found >= 0).all() and (found <= 1).all()
    assert phi(found).max() > phi(x_new).max()
    assert (phi(found) >= phi(x_new[:4])).all()


# What is refused.


def test_senseless_numbers_of_features_are_refused():
    machine = fitted()
    for indices in ([N], [-1], [1, 1]):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.23, 0 at the largest eigenvalue"):
            features.select(machine, indices)
    for indices in ([], np.array([0.5]), np.array([[1]])):
        with pytest.raises(ValueError, match="indices must be a list of feature numbers"):
            features.select(machine, indices)


def test_a_singular_kernel_has_no_last_feature():
    x = inputs()[0]
    twice = jnp.concatenate([x, x[:3]])
    targets = jnp.concatenate([fitted().targets, fitted().targets[:3]])
    machine = KernelRegression(KERNEL, solver="eigh").fit(twice, targets)
    with pytest.raises(ValueError, match=r"zero to rounding.*the first 24\)"):
        features.feature(machine, N + 2)
    assert features.select(machine, range(N)).args[0].coefficients.shape == (N + 3, K)
    ridge = KernelRegression(KERNEL, ridge=0.1, solver="eigh").fit(twice, targets)
    assert jnp.isfinite(features.feature(ridge, N + 2).args[0].coefficients).all()


def test_a_regression_without_its_spectrum_is_refused():
    x, _, _, _ = inputs()
    machine = KernelRegression(KERNEL, solver="cholesky").fit(x, fitted().targets)
    with pytest.raises(ValueError, match='fit with solver="eigh"'):
        features.feature(machine, 0)


def test_senseless_measurements_are_refused():
    machine, (_, x_new, _, y_new) = fitted(), inputs()
    with pytest.raises(ValueError, match="attacks is empty"):
        features.measure(machine, [0], x_new, y_new, {})
    with pytest.raises(ValueError, match=r"y must lie in 0\.\.3"):
        features.measure(machine, [0], x_new, y_new + 1, {"fgsm": fgsm(0.1)})
    with pytest.raises(ValueError, match="NaN or infinite"):
        features.measure(machine, [0], x_new.at[0].set(jnp.nan), y_new, {"fgsm": fgsm(0.1)})
    with pytest.raises(ValueError, match="one score an input"):
        features.maximising_input(features.feature(machine, 0), x_new)

"""Eigen-learnability: the conservation law, known answers, limits, and the mean field."""

import math

import numpy as np
import pytest

from ntklab import predictors
from ntklab.predictors import KernelRegression, eigenlearning, learnabilities

POINTS, TRAINED = 24, 9


def world(seed=0, rank=POINTS):
    """A random kernel matrix of `POINTS` points, and the rows that are trained on."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((POINTS, rank)) * np.geomspace(1, 0.1, rank)
    return features @ features.T, rng.permutation(POINTS)[:TRAINED]


def orthonormal(seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((POINTS, POINTS)))[0]


def learned(matrix, rows, ridge=0.0):
    """The map from all targets to all predictions, by its definition."""
    restrict = np.eye(POINTS)[rows]
    inner = restrict @ matrix @ restrict.T + ridge * np.eye(len(rows))
    return matrix @ restrict.T @ np.linalg.inv(inner) @ restrict


# The law.


@pytest.mark.parametrize("seed", range(4))
def test_learnabilities_of_any_basis_sum_to_the_number_of_examples(seed):
    matrix, rows = world(seed)
    for basis in (np.eye(POINTS), orthonormal(seed), np.linalg.eigh(matrix)[1]):
        assert learnabilities(matrix, rows, basis).sum() == pytest.approx(TRAINED, rel=1e-10)


def test_a_kernel_of_low_rank_spends_its_rank_with_a_vanishing_ridge():
    matrix, rows = world(rank=5)
    total = learnabilities(matrix, rows, orthonormal(1), ridge=1e-9).sum()
    assert total == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize(("ridge", "t"), [(0.7, math.inf), (0.0, 0.4), (0.7, 0.4), (0.0, 0.0)])
def test_with_ridge_and_time_they_sum_to_the_shares_of_the_modes(ridge, t):
    matrix, rows = world()
    modes = np.linalg.eigvalsh(matrix[np.ix_(rows, rows)])
    law = sum(s / (s + ridge) * (1 - math.exp(-(s + ridge) * t)) for s in modes)
    found = learnabilities(matrix, rows, orthonormal(2), ridge, t).sum()
    assert found == pytest.approx(law, rel=1e-10, abs=1e-12)


def test_a_basis_that_is_not_orthonormal_breaks_the_law():
    matrix, rows = world()
    basis = orthonormal(3)
    basis[:, 0] *= 1.5
    assert abs(learnabilities(matrix, rows, basis).sum() - TRAINED) > 0.1


# Single directions.


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_each_learnability_is_a_diagonal_entry_of_the_map(ridge):
    matrix, rows = world()
    basis = orthonormal(4)
    expected = np.diag(basis.T @ learned(matrix, rows, ridge) @ basis)
    found = learnabilities(matrix, rows, basis, ridge)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_eigenvectors_of_the_kernel_have_learnabilities_between_zero_and_one():
    matrix, rows = world()
    found = learnabilities(matrix, rows, np.linalg.eigh(matrix)[1])
    assert found.min() >= 0 and found.max() <= 1
    unit = np.eye(POINTS)[:, rows]  # what is trained on is known for certain
    np.testing.assert_allclose(learnabilities(matrix, rows, unit), 1, rtol=1e-9)


def test_the_effective_ridge_of_one_mode_is_exact():
    """The rank-one formula of the chapter, with every mode's own ridge."""
    matrix, rows = world()
    values, vectors = np.linalg.eigh(matrix)
    found, own = learnabilities(matrix, rows, vectors), matrix[np.ix_(rows, rows)]
    for i in (-1, -5, 3):
        mu, root = values[i] / POINTS, POINTS**0.5 * vectors[rows, i]
        ridge = TRAINED / (root @ np.linalg.solve(own - mu * np.outer(root, root), root))
        share = TRAINED * mu / (TRAINED * mu + ridge)
        assert found[i] == pytest.approx(share, rel=1e-6)


def test_they_agree_with_what_kernel_regression_predicts():
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x = rng.standard_normal((POINTS, 30)).astype(np.float32)

    def inner(x1, x2=None):
        return x1 @ (x1 if x2 is None else x2).T

    rows, target = rng.permutation(POINTS)[:TRAINED], rng.standard_normal(POINTS)
    target = (target / np.linalg.norm(target)).astype(np.float32)
    fitted = KernelRegression(inner).fit(jnp.asarray(x[rows]), jnp.asarray(target[rows]))
    predicted = np.asarray(fitted.predict(jnp.asarray(x), [math.inf])[0])
    wide = x.astype(np.float64)
    found = learnabilities(wide @ wide.T, rows, target[:, None].astype(np.float64))
    assert found[0] == pytest.approx(float(target @ predicted), rel=1e-4)


# The mean field.


@pytest.mark.parametrize("ridge", [0.0, 0.05, 3.0])
def test_the_effective_ridge_solves_its_equation(ridge):
    mu = np.geomspace(1, 1e-6, 200)
    theory = eigenlearning(mu, 30, ridge)
    rho = theory.effective_ridge
    assert (30 * mu / (30 * mu + rho)).sum() == pytest.approx(30 * (1 - ridge / rho), rel=1e-9)
    np.testing.assert_allclose(theory.learnability, 30 * mu / (30 * mu + rho))
    assert theory.overfitting == pytest.approx(30 / (30 - (theory.learnability**2).sum()))


def test_the_order_of_eigenvalues_does_not_matter():
    mu = np.geomspace(1, 1e-3, 40)
    up, down = eigenlearning(mu[::-1], 7), eigenlearning(mu, 7)
    assert up.effective_ridge == pytest.approx(down.effective_ridge)
    np.testing.assert_allclose(up.learnability[::-1], down.learnability)


def test_equal_eigenvalues_share_equally():
    theory = eigenlearning(np.full(40, 0.2), 10)
    np.testing.assert_allclose(theory.learnability, 0.25)
    assert theory.effective_ridge == pytest.approx(10 * 0.2 * 3)
    assert theory.error(np.full(40, 1 / 40)) == pytest.approx(10 / (10 - 2.5) * 0.75**2)


def test_a_large_ridge_is_its_own_effective_ridge_and_learns_nothing():
    theory = eigenlearning(np.geomspace(1, 1e-3, 20), 5, ridge=1e7)
    assert theory.effective_ridge == pytest.approx(1e7, rel=1e-5)
    assert theory.learnability.max() < 1e-5
    assert theory.error(np.full(20, 0.5), noise=1.0) == pytest.approx(11.0, rel=1e-4)


def test_more_examples_than_functions_learn_all_of_them():
    mu = np.array([1.0, 0.5, 0.0, 0.1])
    beyond, peak = eigenlearning(mu, 6), eigenlearning(mu, 3)
    np.testing.assert_array_equal(beyond.learnability, [1, 1, 0, 1])
    assert (beyond.effective_ridge, beyond.overfitting) == (0.0, 2.0)
    assert beyond.error(np.array([9.0, 9.0, 0.5, 9.0])) == pytest.approx(1.0)
    assert peak.overfitting == math.inf


def test_the_error_of_a_gaussian_linear_model_is_predicted():
    """Linear regression on Gaussian inputs: what theory says of the mean over training sets."""
    rng, d, n = np.random.default_rng(0), 60, 30
    mu, slope = np.geomspace(1, 0.01, d), rng.standard_normal(d)
    theory = eigenlearning(mu, n, ridge=0.5)
    errors = []
    for _ in range(60):
        x = rng.standard_normal((n, d)) * mu**0.5
        y = x @ slope + 0.3 * rng.standard_normal(n)
        guess = x.T @ np.linalg.solve(x @ x.T + 0.5 * np.eye(n), y)
        errors.append((mu * (guess - slope) ** 2).sum() + 0.3**2)
    assert theory.error(mu * slope**2, noise=0.3**2) == pytest.approx(np.mean(errors), rel=0.1)


def test_several_outputs_add_up():
    theory, power = eigenlearning(np.geomspace(1, 0.1, 6), 3), np.arange(12.0).reshape(6, 2)
    both = sum(theory.error(power[:, k]) for k in range(2))
    assert theory.error(power) == pytest.approx(both)


# What is refused.


@pytest.mark.parametrize("rows", [[0, 0], [0, POINTS], [-1, 2], []])
def test_rows_that_are_no_training_set(rows):
    with pytest.raises(ValueError, match="different numbers"):
        learnabilities(world()[0], np.array(rows, int), np.eye(POINTS))


def test_a_singular_training_matrix_needs_a_ridge():
    matrix, rows = world(rank=5)
    with pytest.raises(ValueError, match="singular"):
        learnabilities(matrix, rows, np.eye(POINTS))


def test_bad_settings_are_one_sentence():
    matrix, rows = world()
    with pytest.raises(ValueError, match="ridge must be"):
        learnabilities(matrix, rows, np.eye(POINTS), ridge=-1.0)
    with pytest.raises(ValueError, match="time must be"):
        learnabilities(matrix, rows, np.eye(POINTS), t=-1.0)
    for mu, n, ridge, words in (
        ([1.0, -0.5], 1, 0.0, "negative"),
        ([1.0, math.nan], 1, 0.0, "finite"),
        ([1.0], 0, 0.0, "n must be"),
        ([1.0], 1, -1.0, "n must be"),
    ):
        with pytest.raises(ValueError, match=words):
            eigenlearning(np.array(mu), n, ridge)
    with pytest.raises(ValueError, match="2 rows"):
        eigenlearning(np.array([1.0, 0.5]), 1).error(np.ones(3))


def test_the_names_are_exported():
    assert predictors.eigenlearning is eigenlearning

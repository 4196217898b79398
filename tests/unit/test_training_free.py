"""Eqs. 6-22 of Tsilivis & Kempe against autodiff, brute force, and their own errata."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab._common import float64
from ntklab.attacks import correct, cross_entropy, training_free
from ntklab.attacks.linearised import (
    best_sign_pattern,
    growth_exponent,
    linearised_scores,
    remainders,
)
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelRegression, class_gradients

UNBOUNDED = (-float("inf"), float("inf"))
KERNELS = [TwoLayerNTK(), FullyConnected(depth=2, b_std=0.1)]
BINARY = [
    training_free.binary_cross_entropy,
    training_free.training_point,
    training_free.label_free,
]
MULTICLASS = [
    training_free.multiclass_cross_entropy,
    training_free.max_of_l1,
    training_free.sum_of_differences,
]


def points(seed, n, d=6):
    return jax.random.uniform(jax.random.key(seed), (n, d), jnp.result_type(float), 0.05, 0.95)


def binary_machine(kernel, n=30):
    """A machine fitted to noisy signs, so that it also errs."""
    x = points(0, n)
    targets = jnp.sign(x[:, 0] - 0.5 + 0.3 * jax.random.normal(jax.random.key(1), (n,)))
    return KernelRegression(kernel).fit(x, targets.astype(x.dtype))


def three_class_machine(kernel, n=30):
    x = points(0, n)
    y = jax.random.randint(jax.random.key(1), (n,), 0, 3)
    return KernelRegression(kernel).fit(x, jax.nn.one_hot(y, 3, dtype=x.dtype)), y


def affine(values, x):
    """One affine machine an example: `f_i + z_i x_i`; its linearisation is exact."""
    scores, gradients = values
    return scores + (gradients * x[:, None, :]).sum(axis=2)


def random_cases(seed, m=300, k=4, d=8):
    """Scores `(m, k)`, gradients `(m, k, d)` and labels `(m,)`, all standard normal or uniform."""
    keys = jax.random.split(jax.random.key(seed), 3)
    scores = jax.random.normal(keys[0], (m, k))
    gradients = jax.random.normal(keys[1], (m, k, d))
    return scores, gradients, jax.random.randint(keys[2], (m,), 0, k)


def step_of(attack, cases):
    """The perturbation `(m, d)` that an attack makes of random cases."""
    scores, gradients, y = cases
    zero = jnp.zeros_like(gradients[:, 0])
    return attack(Partial(affine, (scores, gradients)), zero, y).x_adv


def value_and_best(objective, eta, cases, eps):
    """An objective of linearised scores: its value at `eta`, and the best over all corners."""
    scores, gradients, y = cases

    def one(f, z, label, step):
        def value(trial):
            return objective(linearised_scores(f, z, trial), label)

        return value(step[None])[0], best_sign_pattern(value, z.shape[1], eps)[1]

    return (np.asarray(a) for a in jax.vmap(one)(scores, gradients, y, eta))


def lead_of_best_wrong_class(scores, label):
    """`max_{r != y} f_r - f_y`, what eq. 20 maximises: `(m, k)` to `(m,)`."""
    is_label = (jnp.arange(scores.shape[1]) == label)[None, :]
    return jnp.where(is_label, -jnp.inf, scores).max(axis=1) - scores[:, label]


def sum_of_leads(scores, label):
    return (scores - scores[:, label][:, None]).sum(axis=1)


# Gradients: eq. 9.


@pytest.mark.parametrize("kernel", KERNELS, ids=["two-layer", "deep"])
@pytest.mark.parametrize("t", [3.0, float("inf")])
def test_equation_9_equals_autodiff(kernel, t):
    with float64():
        fitted, _ = three_class_machine(kernel)
        x = points(7, 5)
        gram, eye = kernel(fitted.x), jnp.eye(len(fitted.x))
        decay = 0 * eye if np.isinf(t) else jax.scipy.linalg.expm(-t * gram)
        weights = jnp.linalg.solve(gram, (eye - decay) @ fitted.targets)
        scores, gradients = class_gradients(fitted.logits_fn(t), x)
        np.testing.assert_allclose(scores, kernel(x, fitted.x) @ weights, atol=1e-7)
        rows = [jax.jacrev(lambda z: (kernel(z[None], fitted.x) @ weights)[0])(row) for row in x]
        np.testing.assert_allclose(gradients, np.stack(rows), atol=1e-7)


# Binary: eqs. 6, 16 and 18 are one attack.


@pytest.mark.parametrize("kernel", KERNELS, ids=["two-layer", "deep"])
def test_equation_6_is_the_sign_of_the_loss_gradient(kernel):
    machine, x = binary_machine(kernel).logits_fn(), points(7, 40)
    y = jax.random.randint(jax.random.key(2), (40,), 0, 2)
    result = training_free.binary_cross_entropy(0.05)(machine, x, y)
    slope = jax.grad(lambda z: cross_entropy(machine(z), y).sum())(x)
    np.testing.assert_allclose(result.x_adv - x, 0.05 * jnp.sign(slope), atol=1e-6)
    assert (result.loss > cross_entropy(machine(x), y)).mean() > 0.9
    np.testing.assert_array_equal(result.success, ~correct(machine(result.x_adv), y))
    np.testing.assert_allclose(result.loss, cross_entropy(machine(result.x_adv), y), atol=1e-4)
    assert result.gradients_used == 1 and not result.zero_gradients.any()


def test_equations_6_16_and_18_are_one_attack_up_to_the_label():
    machine, x = binary_machine(TwoLayerNTK()).logits_fn(), points(7, 200)
    y = (x[:, 0] > 0.5).astype(jnp.int32)
    eq6, eq16, eq18 = (make(0.1, UNBOUNDED)(machine, x, y) for make in BINARY)
    np.testing.assert_array_equal(eq6.x_adv, eq16.x_adv)
    predicted = (machine(x) > 0).astype(jnp.int32)
    relabelled = training_free.binary_cross_entropy(0.1, UNBOUNDED)(machine, x, predicted)
    np.testing.assert_array_equal(eq18.x_adv, relabelled.x_adv)
    right = correct(machine(x), y)
    assert 0.1 < right.mean() < 0.95
    np.testing.assert_array_equal(eq18.x_adv[right], eq6.x_adv[right])
    np.testing.assert_allclose((eq18.x_adv + eq6.x_adv)[~right], 2 * x[~right], atol=1e-6)
    assert (~eq18.success & ~right).any()  # without a label it repairs what is already wrong
    assert (eq6.success | right)[~right].all()  # with the label it never does


# Several classes: eqs. 8, 20 and 22.


@pytest.mark.parametrize("kernel", KERNELS, ids=["two-layer", "deep"])
def test_equation_8_is_the_sign_of_the_loss_gradient(kernel):
    machine, x = three_class_machine(kernel)[0].logits_fn(), points(7, 40)
    y = jax.random.randint(jax.random.key(2), (40,), 0, 3)
    result = training_free.multiclass_cross_entropy(0.05)(machine, x, y)
    slope = jax.grad(lambda z: cross_entropy(machine(z), y).sum())(x)
    np.testing.assert_allclose(result.x_adv - x, 0.05 * jnp.sign(slope), atol=1e-6)
    assert result.gradients_used == 3


def test_equation_8_does_not_saturate():
    scores, gradients, y = random_cases(0)
    sure = scores.at[jnp.arange(300), y].add(200.0)
    eta = step_of(training_free.multiclass_cross_entropy(0.1, UNBOUNDED), (sure, gradients, y))
    slope = jax.grad(lambda z: cross_entropy(affine((sure, gradients), z), y).sum())(0 * eta)
    assert (slope == 0).mean() > 0.9  # autodiff of the loss is lost here
    # The softmax of the wrong classes, and with it the direction, does not see f_y.
    plain = step_of(training_free.multiclass_cross_entropy(0.1, UNBOUNDED), random_cases(0))
    np.testing.assert_array_equal(eta, plain)


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_equation_20_with_offsets_is_the_best_of_all_sign_patterns(eps):
    cases = random_cases(1)
    eta = step_of(training_free.max_of_l1(eps, bounds=UNBOUNDED), cases)
    reached, best = value_and_best(lead_of_best_wrong_class, eta, cases, eps)
    np.testing.assert_allclose(reached, best, atol=1e-5)


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_equation_20_as_printed_misses_the_best_pattern_in_many_cases(eps):
    cases = random_cases(1)
    eta = step_of(training_free.max_of_l1(eps, offsets=False, bounds=UNBOUNDED), cases)
    reached, best = value_and_best(lead_of_best_wrong_class, eta, cases, eps)
    assert (reached <= best + 1e-5).all()
    assert 60 < (reached < best - 1e-4).sum() < 240


def test_equation_20_needs_no_offsets_at_an_interpolated_training_point():
    _, gradients, y = random_cases(1)
    cases = (jax.nn.one_hot(y, 4), gradients, y)
    with_offsets = step_of(training_free.max_of_l1(0.1, bounds=UNBOUNDED), cases)
    printed = step_of(training_free.max_of_l1(0.1, offsets=False, bounds=UNBOUNDED), cases)
    np.testing.assert_array_equal(with_offsets, printed)


def test_equation_22_is_the_best_of_all_sign_patterns_to_first_order():
    cases = random_cases(2)
    eta = step_of(training_free.sum_of_differences(0.1, UNBOUNDED), cases)
    reached, best = value_and_best(sum_of_leads, eta, cases, 0.1)
    np.testing.assert_allclose(reached, best, atol=1e-5)


def test_equation_22_equals_equation_8_at_training_points_only():
    with float64():
        fitted, y = three_class_machine(TwoLayerNTK())
        machine, elsewhere = fitted.logits_fn(), points(7, 30)
        np.testing.assert_allclose(machine(fitted.x), fitted.targets, atol=1e-8)
        attacks = [training_free.sum_of_differences(0.01), MULTICLASS[0](0.01)]
        sums, cross = (attack(machine, fitted.x, y).x_adv for attack in attacks)
        np.testing.assert_array_equal(sums, cross)
        sums, cross = (attack(machine, elsewhere, y).x_adv for attack in attacks)
        assert (sums != cross).any(axis=1).sum() > 5


def test_footnote_1_is_false_equation_22_misses_the_second_order_optimum():
    _, gradients, y = random_cases(3)
    cases = (jax.nn.one_hot(y, 4), gradients, y)

    def second_order(scores, label):
        lead = scores - scores[:, label][:, None] + 1.0  # eta . (z_r - z_y) for r != y
        others = (jnp.arange(4) != label)[None, :]
        return jnp.where(others, lead + lead**2 / 2, 0.0).sum(axis=1)

    missed = []
    for eps in (0.01, 0.1, 1.0):
        eta = step_of(training_free.sum_of_differences(eps, UNBOUNDED), cases)
        reached, best = value_and_best(second_order, eta, cases, eps)
        missed.append(int((reached < best * (1 - 1e-5)).sum()))
    assert 0 < missed[0] < missed[1] < missed[2] and missed[2] > 60


# Training points of ReLU kernels: what eqs. 12-16 leave out.


def rbf_machine(x, targets):
    def matrix(a, b):
        return jnp.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2))

    return Partial(lambda w, z: matrix(z, x) @ w, jnp.linalg.solve(matrix(x, x), targets))


def remainder_at(machine, x, sizes, seed=11):
    direction = jax.random.normal(jax.random.key(seed), x.shape, x.dtype)
    _, gradients = class_gradients(machine, x[None])
    return direction, remainders(machine, x, gradients[0], direction, sizes)


@pytest.mark.parametrize("i", [0, 3, 8])
def test_the_remainder_of_a_relu_kernel_at_a_training_point_is_of_first_order(i):
    with float64():
        sizes = jnp.geomspace(1e-5, 1e-3, 7)
        fitted = binary_machine(TwoLayerNTK())
        x, alpha = fitted.x[i], jnp.asarray(fitted.coefficients())[i]
        eta, values = remainder_at(fitted.logits_fn(), x, sizes)
        assert abs(growth_exponent(sizes, values) - 1) < 0.02
        radial = (eta @ x) / (x @ x)
        across = jnp.linalg.norm(eta - radial * x)
        predicted = -alpha * jnp.linalg.norm(x) * across / (2 * jnp.pi)
        np.testing.assert_allclose(values[0] / sizes[0], predicted, rtol=0.01)


def test_deeper_relu_kernels_have_it_too_and_smooth_kernels_or_other_points_do_not():
    with float64():
        sizes = jnp.geomspace(1e-4, 1e-2, 7)
        deep, shallow = (binary_machine(k) for k in (KERNELS[1], TwoLayerNTK()))
        _, at_training_point = remainder_at(deep.logits_fn(), deep.x[0], sizes)
        _, elsewhere = remainder_at(shallow.logits_fn(), points(7, 1)[0], sizes)
        machine = rbf_machine(shallow.x, shallow.targets)
        _, smooth = remainder_at(machine, shallow.x[0], sizes)
        assert abs(growth_exponent(sizes, at_training_point) - 1) < 0.1
        assert abs(growth_exponent(sizes, elsewhere) - 2) < 0.1
        assert abs(growth_exponent(sizes, smooth) - 2) < 0.1


# The common frame.


def product(w, x):
    return x.reshape(len(x), -1) @ w


def linear_machine(make, seed=0):
    shape = (12,) if make in BINARY else (12, 3)
    return Partial(product, jax.random.normal(jax.random.key(seed), shape))


@pytest.mark.parametrize("make", BINARY + MULTICLASS)
def test_steps_stay_in_ball_and_box_and_eps_zero_changes_nothing(make):
    machine = linear_machine(make)
    x, y = jax.random.uniform(jax.random.key(1), (9, 2, 3, 2)), jnp.arange(9) % 2
    assert np.asarray(make(0)(machine, x, y).x_adv).tobytes() == np.asarray(x).tobytes()
    result = make(0.3)(machine, x, y)
    assert result.x_adv.shape == x.shape
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    moved = jnp.abs(result.x_adv - x)
    assert moved.max() <= 0.3 + 1e-6 and (moved > 0).all()


def test_a_clipped_step_is_the_best_in_ball_and_box_for_a_linear_objective():
    w = jax.random.normal(jax.random.key(0), (5,))
    x, y = jax.random.uniform(jax.random.key(1), (9, 5)), jnp.ones(9, int)
    result = training_free.binary_cross_entropy(0.4)(Partial(product, w), x, y)
    signs = 2.0 * (np.arange(32)[:, None] >> np.arange(5)[None] & 1) - 1
    trials = np.clip(np.asarray(x)[:, None] + 0.4 * signs[None], 0, 1)
    np.testing.assert_allclose(result.x_adv @ w, (trials @ np.asarray(w)).min(axis=1), atol=1e-6)


@pytest.mark.parametrize("make", BINARY + MULTICLASS)
def test_one_compilation_serves_all_machines_and_budgets(make):
    traces = []

    def counted(w, x):
        traces.append(1)
        return product(w, x)

    x, y = jax.random.uniform(jax.random.key(1), (9, 12)), jnp.arange(9) % 2
    counts = []
    for seed in range(3):
        machine = Partial(counted, linear_machine(make, seed).args[0])
        make(0.1 * seed)(machine, x, y)
        counts.append(len(traces))
    assert counts[0] == counts[2] > 0


def test_zero_output_gradients_are_counted():
    flat = Partial(lambda w, x: w * jnp.where(x[:, 0] > 0.5, x[:, 1], 1.0), jnp.float32(1.0))
    result = training_free.label_free(0.1)(
        flat, jnp.array([[0.2, 0.5], [0.9, 0.5]]), jnp.zeros(2, int)
    )
    np.testing.assert_array_equal(result.zero_gradients, [1, 0])


@pytest.mark.parametrize("make", BINARY + MULTICLASS)
def test_senseless_calls_are_refused(make):
    other = MULTICLASS[0] if make in BINARY else BINARY[0]
    x, y = jnp.full((2, 12), 0.5), jnp.zeros(2, int)
    with pytest.raises(ValueError, match="do not fit"):
        make(0.1)(linear_machine(other), x, y)
    with pytest.raises(ValueError, match="did you mean 8/255"):
        make(8)
    with pytest.raises(ValueError, match="got values from 3"):
        make(0.1)(linear_machine(make), x, y + 3)
    with pytest.raises(ValueError, match="2 of 2 examples met NaN"):
        make(0.1)(jax.tree.map(lambda w: w * jnp.nan, linear_machine(make)), x, y)


# The brute force itself.


def test_best_sign_pattern_tries_every_corner():
    for d in (1, 4, 9):
        signs = jnp.sign(jax.random.normal(jax.random.key(d), (d,)))
        # Convex, so the maximum over the cube; every corner has a value of its own.
        weights = signs * 2.0 ** jnp.arange(d, dtype=float)
        eta, value = best_sign_pattern(lambda trial, w=weights: trial @ w, d, 0.5)
        np.testing.assert_array_equal(eta, 0.5 * signs)
        assert value == 0.5 * (2**d - 1)
    with pytest.raises(ValueError, match=r"d must be in 1\.\.16 .* got 17"):
        best_sign_pattern(lambda trial: trial.sum(axis=1), 17, 0.1)


def test_linearised_scores_and_remainders_are_exact_where_they_can_be():
    scores, gradients, _ = random_cases(4, m=1)
    eta = jax.random.normal(jax.random.key(1), (5, 8))
    machine = Partial(lambda v, x: v[0] + x @ v[1].T, (scores, gradients[0]))
    np.testing.assert_allclose(
        linearised_scores(scores[0], gradients[0], eta), machine(eta), atol=1e-5
    )
    sizes = jnp.array([0.5, 1.0])
    left = remainders(machine, eta[0], gradients[0], eta[1], sizes)
    assert left.shape == (2, 4) and jnp.abs(left).max() < 1e-5


def test_a_growth_exponent_needs_something_to_grow():
    for sizes, values in (([1.0], [1.0]), ([1.0, 2.0], [0.0, 1.0]), ([0.0, 2.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="two or more positive sizes"):
            growth_exponent(jnp.array(sizes), jnp.array(values))

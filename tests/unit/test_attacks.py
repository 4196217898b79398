"""FGSM and PGD against known answers: what they find, what they visit, what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_problems import (
    DUAL,
    NORMS,
    UNBOUNDED,
    cautious,
    confident_linear,
    inputs,
    lengths,
    network,
    random_weights,
)
from jax.tree_util import Partial

from ntklab._common import float64
from ntklab.attacks import (
    correct,
    cross_entropy,
    fgsm,
    margin,
    pgd,
    projections,
)

# Linear machines: every answer is known.


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_raises_a_linear_loss_by_eps_times_the_dual_norm(norm):
    machine, x, y = confident_linear()
    w = machine.args[0]
    result = fgsm(0.2, norm, margin, UNBOUNDED)(machine, x, y)
    rise = result.loss - margin(machine(x), y)
    np.testing.assert_allclose(rise, 0.2 * np.linalg.norm(w, DUAL[norm]), rtol=1e-5)
    away = -np.asarray(2 * y - 1)[:, None] * np.asarray(w)[None]
    expected = np.sign(away) if norm == "linf" else away / np.linalg.norm(w)
    np.testing.assert_allclose(result.x_adv - x, 0.2 * expected, atol=1e-6)
    assert not result.success.any() and result.gradients_used == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_equals_fgsm_on_a_linear_machine(norm, random_start, key):
    machine, x, y = confident_linear()
    attack = pgd(0.2, norm, 30, 0.2, random_start=random_start, bounds=UNBOUNDED)
    found = attack(machine, x, y, key)
    known = fgsm(0.2, norm, bounds=UNBOUNDED)(machine, x, y)
    # Losses that differ by a rounding are tied; they see only the square of the angle.
    tolerance = {"linf": 1e-6, "l2": 1e-3}[norm]
    np.testing.assert_allclose(found.x_adv, known.x_adv, atol=tolerance)
    np.testing.assert_allclose(found.loss, known.loss, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_smallest_eps_that_flips_a_linear_machine_is_margin_over_the_dual_norm(norm):
    machine, x, y = confident_linear(b=4)
    distance = -margin(machine(x), y) / np.linalg.norm(machine.args[0], DUAL[norm])
    for i in range(4):
        for factor, flips in ((0.999, False), (1.001, True)):
            attack = fgsm(float(distance[i]) * factor, norm, bounds=UNBOUNDED)
            assert attack(machine, x[i : i + 1], y[i : i + 1]).success.item() is flips


# The rules of the path.


def visited(norm, bounds=(0.0, 1.0)):
    """Every point at which PGD with a far too large step looks, and the clean points."""
    points = []

    def watched(weights, x):
        jax.debug.callback(lambda z: points.append(np.asarray(z)), x)
        return cautious(weights, x)

    x = inputs(d=12)
    attack = pgd(0.3, norm, 10, 0.2, 2, True, margin, bounds)
    attack(Partial(watched, random_weights(0)), x, jnp.ones(len(x), int), jax.random.key(5))
    jax.effects_barrier()
    return np.stack(points), np.asarray(x)


def test_ball_and_box_after_every_step():
    for norm in NORMS:
        points, x = visited(norm)
        assert len(points) == 1 + 2 * (10 + 1)
        assert sum((p != x).all(axis=1).mean() > 0.5 for p in points) == len(points) - 1
        distances = np.stack([lengths(p - x, norm) for p in points])
        assert distances.max() <= 0.3 + 1e-6
        assert points.min() >= 0 and points.max() <= 1


def test_gradient_is_taken_at_the_current_iterate():
    machine, x = Partial(cautious, random_weights(0)), inputs()
    y = jnp.ones(len(x), int)
    for norm, eps in (("linf", 0.3), ("l2", 1.0)):
        one = fgsm(eps, norm, margin)(machine, x, y)
        ten = pgd(eps, norm, steps=10, random_start=False, loss=margin)(machine, x, y)
        assert (ten.loss > one.loss).mean() > 0.8
        assert (ten.loss - one.loss).mean() > 0.5


def test_the_loss_goes_up():
    machine, x, y = confident_linear()
    result = pgd(0.1, steps=3, random_start=False, bounds=UNBOUNDED)(machine, x, y)
    assert (result.loss > cross_entropy(machine(x), y)).all()


def test_loss_never_falls_with_more_steps():
    machine, x = Partial(cautious, random_weights(0)), inputs()
    y, last = jnp.ones(len(x), int), -np.inf
    for steps in (1, 5, 6, 11, 16):
        attack = pgd(0.3, "linf", steps, 0.25, random_start=False, loss=margin)
        result = attack(machine, x, y)
        assert (result.loss >= last).all()
        last = result.loss


def test_a_success_is_never_lost():
    machine, x = Partial(network, random_weights(2)), inputs()
    y = machine(x).argmax(axis=1)
    y = jnp.where(jnp.arange(len(x)) % 8 == 0, (y + 1) % 4, y)
    last = ~correct(machine(x), y)
    for steps in (1, 5, 6, 11, 16):
        attack = pgd(0.12, "linf", steps, 0.1, random_start=False)
        result = attack(machine, x, y)
        assert (result.success >= last).all()
        np.testing.assert_array_equal(result.success, ~correct(machine(result.x_adv), y))
        np.testing.assert_allclose(result.loss, cross_entropy(machine(result.x_adv), y), atol=1e-5)
        last = result.success
    np.testing.assert_array_equal(result.x_adv[::8], x[::8])  # clean errors come back unchanged
    assert 0.125 < last.mean() < 1


def test_clean_errors_come_back_unchanged_from_a_random_start(key):
    machine, x = Partial(network, random_weights(2)), inputs()
    y = (machine(x).argmax(axis=1) + 1) % 4
    result = pgd(0.1, steps=1)(machine, x, y, key)
    np.testing.assert_array_equal(result.x_adv, x)
    assert result.success.all()


def test_a_success_is_never_lost_when_the_walk_leaves_it():
    """From .55 by way of a narrow valley round .44 to .35."""

    def valley(centre, x):
        return (x[:, 0] - centre) ** 2 - 4e-4

    attack = pgd(0.3, steps=2, step_size=0.1, random_start=False, loss=margin)
    result = attack(Partial(valley, 0.44), jnp.full((1, 1), 0.55), jnp.ones(1, int))
    np.testing.assert_allclose(result.x_adv, 0.45, atol=1e-6)
    assert result.success.all()


# Order of strength.


def test_stronger_attacks_never_leave_more_accuracy(key):
    machine, x = Partial(network, random_weights(2, d=48)), inputs(b=200, d=48)
    y = machine(x).argmax(axis=1)
    y = jnp.where(jnp.arange(200) % 8 == 0, (y + 1) % 4, y)
    step = {"step_size": 0.01, "norm": "linf"}
    clean = ~correct(machine(x), y)
    one = fgsm(0.03)(machine, x, y).success
    few = pgd(0.03, steps=5, random_start=False, **step)(machine, x, y).success
    more = pgd(0.03, steps=20, random_start=False, **step)(machine, x, y).success
    assert (one >= clean).all() and (more >= few).all()
    assert clean.mean() < one.mean() < more.mean() < 1
    noise = projections.uniform_linf(key, x, 0.03)
    noisy = ~correct(machine(x + noise), y) & ~clean
    assert noisy.mean() < 0.3 * (one & ~clean).mean()


def test_restarts_only_add_successes(key):
    def ripple(centre, x):
        """Class 1 but for narrow valleys, which a start must hit."""
        return 0.9 + jnp.cos(9.0 * (x - centre).sum(axis=1)) + 0.2 * jnp.cos(40.0 * x[:, 0])

    x = jnp.full((300, 2), 0.5)
    y = jnp.ones(300, int)
    found = [
        pgd(0.2, steps=5, step_size=0.01, restarts=r)(Partial(ripple, 0.5), x, y, key).success
        for r in (1, 2, 5)
    ]
    assert (found[1] >= found[0]).all() and (found[2] >= found[1]).all()
    assert 0 < found[0].mean() < found[1].mean() < found[2].mean()


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_without_limits_leaves_no_accuracy(norm, key):
    machine, x = Partial(network, random_weights(2)), inputs()
    y = machine(x).argmax(axis=1)
    eps = {"linf": 10.0, "l2": 10.0 * 12**0.5}[norm]
    result = pgd(eps, norm, steps=20, restarts=3, bounds=(-5.0, 5.0))(machine, x, y, key)
    assert result.success.all() and result.gradients_used == 60


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [fgsm, pgd])
def test_eps_zero_changes_nothing_bit_for_bit(make, norm, key):
    machine, x = Partial(network, random_weights(0)), inputs()
    y = machine(x).argmax(axis=1)
    for random_start in (False, True):
        result = make(0, norm, random_start=random_start)(machine, x, y, key)
        assert np.asarray(result.x_adv).tobytes() == np.asarray(x).tobytes()
        assert not result.success.any()


def test_the_same_key_gives_the_same_result_and_another_key_another():
    machine, x = Partial(cautious, random_weights(0)), inputs()
    y, attack = jnp.ones(len(x), int), pgd(0.1, steps=3, step_size=0.01)
    first, again, other = (attack(machine, x, y, jax.random.key(k)).x_adv for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()


# What JAX makes of it.


def test_one_compilation_serves_all_predictors_budgets_and_keys():
    traces = []

    def counted(weights, x):
        traces.append(1)
        return network(weights, x)

    x, y = jnp.full((64, 12), 0.5), jnp.zeros(64, int)  # weakly typed: a trap of its own

    def run(seed, predictor):
        attack = pgd(0.1 + 0.1 * seed, steps=10, step_size=0.02 * (seed + 1), restarts=2)
        attack(predictor, x, y, jax.random.key(seed))
        return len(traces)

    first = run(0, Partial(counted, random_weights(0)))
    assert first == 3  # for the shape of the scores, a step, and a last look
    for seed in (1, 2, 3):
        assert run(seed, Partial(counted, random_weights(seed))) == first
    closure = random_weights(9)
    assert run(4, lambda z: counted(closure, z)) == 2 * first  # a closure is compiled anew


def test_scan_and_unrolled_steps_agree(monkeypatch, key):
    machine, x = Partial(network, random_weights(0)), inputs()
    y, attack = machine(x).argmax(axis=1), pgd(0.05, "l2", steps=7, restarts=2)
    unrolled = attack(machine, x, y, key)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scanned = attack(machine, x, y, key)
    np.testing.assert_allclose(unrolled.x_adv, scanned.x_adv, atol=1e-5)
    np.testing.assert_array_equal(unrolled.success, scanned.success)


def test_inside_jit_it_does_the_same_and_passes_no_gradient(key):
    x, weights = inputs(), random_weights(0)
    y, attack = jnp.ones(len(x), int), pgd(0.1, steps=3)

    def adversarial(weights):
        return attack(Partial(cautious, weights), x, y, key)

    outside, inside = adversarial(weights), jax.jit(adversarial)(weights)
    np.testing.assert_allclose(outside.x_adv, inside.x_adv, atol=1e-6)
    slopes = jax.jit(jax.grad(lambda w: adversarial(w).x_adv.sum() + adversarial(w).loss.sum()))
    assert not any(s.any() for s in slopes(weights))
    broken = (weights[0], weights[1] * jnp.nan)
    assert jnp.isnan(jax.jit(adversarial)(broken).loss).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_example_is_attacked_by_itself(norm):
    shape = (6, 4, 3, 2)
    machine = Partial(network, random_weights(5, d=24))
    x = jax.random.uniform(jax.random.key(8), shape)
    y, attack = machine(x).argmax(axis=1), pgd(0.3, norm, steps=5, random_start=False)
    whole = attack(machine, x, y)
    alone = [attack(machine, x[i : i + 1], y[i : i + 1]).x_adv[0] for i in range(6)]
    np.testing.assert_allclose(whole.x_adv, np.stack(alone), atol=1e-6)
    assert whole.x_adv.shape == shape and lengths(whole.x_adv - x, norm).max() <= 0.3 + 1e-6


def test_float64_in_float64_out():
    with float64():
        weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), random_weights(0))
        x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 12)))
        attack = pgd(0.1, steps=3, random_start=False)
        result = attack(Partial(cautious, weights), x, jnp.ones(5, int))
        assert result.x_adv.dtype == result.loss.dtype == jnp.float64
        assert lengths(result.x_adv - x, "linf").max() <= 0.1 + 1e-15


# Gradients that are zero or no numbers.


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradients_are_counted_and_harmless(norm):
    def half_flat(x):
        return jnp.where(x[:, 0] > 0.5, 1.0 + 0.1 * x[:, 1], 1.0)

    x = jnp.array([[0.9, 0.5], [0.1, 0.5]])
    result = pgd(0.05, norm, steps=7, random_start=False)(half_flat, x, jnp.ones(2, int))
    np.testing.assert_array_equal(result.zero_gradients, [0, 7])
    np.testing.assert_array_equal(result.x_adv[1], x[1])
    assert result.x_adv[0, 1] < 0.46


@pytest.mark.parametrize(
    "machine",
    [
        lambda x: jnp.where(x[:, 0] > 0.5, jnp.nan, 1.0),
        lambda x: jnp.where(x[:, 0] > 0.5, jnp.inf, 1.0),
        lambda x: jnp.sqrt(jnp.maximum(0.5 - x[:, 0], 0.0)),
    ],
    ids=["nan score", "infinite score", "infinite gradient"],
)
def test_nan_is_an_error_that_names_the_example(machine):
    x = jnp.array([[0.1, 0.2], [0.9, 0.2], [0.5, 0.2]])
    with pytest.raises(ValueError, match=r"of 3 examples met NaN.*example 1"):
        fgsm(0.01)(machine, x, jnp.ones(3, int))

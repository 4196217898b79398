"""Variants of PGD: towards a class, with momentum, and the last iterate instead of the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_problems import (
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

from ntklab.attacks import (
    MomentumStep,
    correct,
    cross_entropy,
    fgsm,
    margin,
    mi_fgsm,
    pgd,
    projections,
)


@pytest.mark.parametrize("norm", NORMS)
def test_a_targeted_attack_reaches_its_class(norm, key):
    machine, x = Partial(network, random_weights(2)), inputs()
    labels = machine(x).argmax(axis=1)
    target = (labels + 1 + jnp.arange(len(x)) % 3) % 4
    eps = {"linf": 0.15, "l2": 0.4}[norm]
    result = pgd(eps, norm, steps=10, targeted=True)(machine, x, target, key)
    np.testing.assert_array_equal(result.success, machine(result.x_adv).argmax(axis=1) == target)
    assert 0.2 < result.success.mean() < 1
    np.testing.assert_allclose(
        result.loss, -cross_entropy(machine(result.x_adv), target), atol=1e-4
    )
    assert (result.loss > -cross_entropy(machine(x), target)).all()
    same = pgd(eps, norm, steps=10, targeted=True)(machine, x, labels, key)
    np.testing.assert_array_equal(same.x_adv, x)  # it is there already


def test_on_two_classes_a_targeted_attack_is_the_untargeted_one(key):
    machine, x, y = confident_linear()
    for make in (fgsm, pgd):
        away = make(0.2, loss=margin, bounds=UNBOUNDED)(machine, x, y, key)
        towards = make(0.2, loss=margin, bounds=UNBOUNDED, targeted=True)(machine, x, 1 - y, key)
        np.testing.assert_allclose(away.x_adv, towards.x_adv, atol=1e-6)
        np.testing.assert_array_equal(away.success, towards.success)


@pytest.mark.parametrize("norm", NORMS)
def test_momentum_sums_the_gradients_of_the_path(norm):
    """Against the formula of Dong et al., written out; decay 0 is plain PGD."""
    machine, x = Partial(cautious, random_weights(0)), inputs(b=8)
    y = jnp.ones(8, int)
    slope = jax.jit(jax.grad(lambda z: margin(machine(z), y).sum()))
    at, total = np.asarray(x), np.zeros(x.shape)
    for _ in range(5):
        g = np.asarray(slope(jnp.asarray(at, jnp.float32)))
        total = 0.7 * total + g / np.abs(g).sum(axis=1, keepdims=True)
        way = np.sign(total) if norm == "linf" else total / lengths(total, "l2")[:, None]
        moved = jnp.asarray(at + 0.04 * way, jnp.float32)
        at = np.asarray(projections.NORMS[norm].project(moved, x, 0.2, (0.0, 1.0)))
    found = mi_fgsm(0.2, norm, steps=5, decay=0.7, loss=margin)(machine, x, y)
    np.testing.assert_allclose(found.x_adv, at, atol=1e-5)
    settings = {"steps": 5, "random_start": False, "loss": margin}
    plain = pgd(0.2, norm, **settings)(machine, x, y)
    none = pgd(0.2, norm, step_rule=MomentumStep(0.0), **settings)(machine, x, y)
    np.testing.assert_allclose(plain.x_adv, none.x_adv, atol=1e-6)


def test_the_last_iterate_is_kept_even_where_the_clean_point_is_wrong(key):
    points, machine = [], random_weights(2)

    def watched(weights, x):
        jax.debug.callback(lambda z: points.append(np.asarray(z)), x)
        return network(weights, x)

    x = inputs()
    y = (network(machine, x).argmax(axis=1) + 1) % 4  # all wrong
    attack = pgd(0.3, steps=5, keep="last")
    result = attack(Partial(watched, machine), x, y, key)
    jax.effects_barrier()
    assert len(points) == 6  # five steps and a look, none at the clean input
    np.testing.assert_array_equal(result.x_adv, points[-1])
    assert (result.x_adv != x).any(axis=1).all()
    np.testing.assert_allclose(
        result.loss, cross_entropy(network(machine, points[-1]), y), atol=1e-5
    )
    np.testing.assert_array_equal(result.success, ~correct(network(machine, points[-1]), y))
    one = fgsm(0.3, keep="last")(Partial(network, machine), x, y)
    assert lengths(one.x_adv - x, "linf").min() > 0.29

"""Values of one function, gradient of another: hand examples, limits, agreement with plain PGD."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_problems import inputs, linear, network, random_weights
from jax.tree_util import Partial

from ntklab import attacks, nets
from ntklab.attacks import SoftGate, averaged_gradient, borrowed_gradient, estimated_gradient

BETA = 8.0
NET = Partial(network, random_weights(0))
X = inputs(1, 24)
Y = NET(X).argmax(axis=1).astype(jnp.int32)
PGD = attacks.pgd(0.1, steps=4)
LINEAR = Partial(linear, jnp.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]]))


def slope_of_sigmoid(z, beta=BETA):
    s = 1 / (1 + math.exp(-beta * z))
    return beta * s * (1 - s)


def step(x):
    """A binary machine that jumps where the first coordinate passes 1/2."""
    return jnp.where(x[:, 0] > 0.5, 1.0, -1.0)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a._asdict(), b._asdict())


# The soft gate.


@pytest.mark.parametrize("z", [-1.5, -0.1, 0.0, 0.3, 2.0])
def test_a_soft_gate_is_a_relu_with_a_curved_slope(z):
    act, relu = SoftGate(BETA), jax.nn.relu
    assert act(z) == relu(z) and jax.grad(act)(z) == jax.grad(relu)(z)
    assert jax.grad(jax.grad(act))(z) == pytest.approx(slope_of_sigmoid(z), rel=1e-4, abs=1e-6)
    assert jax.grad(jax.grad(relu))(z) == 0


def tangent(activation, x):
    """`w_0 = (1, 0)`, `a = 1`, `dw = (0, 1)`: relu(x_1) + 1(x_1 > 0) x_2, by hand."""
    w, dw = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    value, slope = jax.jvp(lambda w: activation(x @ w), (w,), (dw,))
    return value + slope


@pytest.mark.parametrize("point", [(0.1, 1.0), (-0.2, 1.0), (0.3, -2.0)])
def test_the_tangent_keeps_its_values_and_gets_the_term_of_the_jump(point):
    x = jnp.array([point])
    gate = float(point[0] > 0)
    assert tangent(SoftGate(BETA), x)[0] == max(point[0], 0) + gate * point[1]
    plain, soft = (
        jax.grad(lambda x, a=a: tangent(a, x)[0])(x)[0] for a in (jax.nn.relu, SoftGate(BETA))
    )
    np.testing.assert_array_equal(plain, [gate, gate])
    extra = slope_of_sigmoid(point[0]) * point[1]
    np.testing.assert_allclose(soft, [gate + extra, gate], rtol=1e-5)


def test_pgd_crosses_a_jump_only_by_the_soft_gate(key):
    """Class 1 where relu(x1 - .5) + 1(x1 > .5)(-1) + .2 > 0: the plain gradient leads away."""

    def score(activation, x):
        value, slope = jax.jvp(lambda b: activation(x[:, 0] - b), (0.5,), (1.0,))
        return value + slope + 0.2

    x, y = jnp.array([[0.45]]), jnp.array([1])
    plain, soft = (Partial(partial(score, a)) for a in (jax.nn.relu, SoftGate(BETA)))
    np.testing.assert_array_equal(plain(x), soft(x))
    attack = attacks.pgd(0.1, steps=10, random_start=False)
    assert not attack(plain, x, y).success[0]
    found = attack(soft, x, y)
    assert found.success[0] and plain(found.x_adv)[0] < 0


def test_a_network_that_is_not_linearised_is_attacked_as_before(key):
    module = nets.FC(widths=(16,), outputs=3)
    variables = module.init(key, X)
    y = module.apply(variables, X).argmax(axis=1).astype(jnp.int32)
    soft = nets.logits_fn(module.clone(activation=SoftGate(BETA)), variables)
    same(PGD(nets.logits_fn(module, variables), X, y, key), PGD(soft, X, y, key))


def test_far_from_the_switches_a_sharp_gate_changes_nothing(key):
    module = nets.FC(widths=(16,), outputs=3)
    params = module.init(key, X)["params"]
    moved = jax.tree.map(
        lambda p: 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
    )

    def total(module, x):
        return jax.jvp(lambda p: module.apply({"params": p}, x), (params,), (moved,))[1].sum()

    plain = jax.grad(total, argnums=1)(module, X)
    sharp, soft = (
        jax.grad(total, argnums=1)(module.clone(activation=SoftGate(b)), X) for b in (1e6, 1.0)
    )
    np.testing.assert_allclose(sharp, plain, atol=1e-5)
    assert float(jnp.abs(soft - plain).max()) > 1e-3


# Borrowed, averaged and estimated gradients.


def test_borrowing_from_itself_is_plain_pgd(key):
    same(PGD(borrowed_gradient(NET, NET), X, Y, key), PGD(NET, X, Y, key))


def test_borrowed_are_the_gradient_and_not_the_values(key):
    other = Partial(network, random_weights(5))
    both = borrowed_gradient(NET, other)
    np.testing.assert_array_equal(both(X), NET(X))
    slopes = [jax.grad(lambda x, f=f: f(x)[:, 0].sum())(X) for f in (both, other)]
    np.testing.assert_array_equal(*slopes)


def test_averaged_without_noise_is_plain_pgd(key):
    found = PGD(averaged_gradient(NET, key, 0.0, draws=2), X, Y, key)
    plain = PGD(NET, X, Y, key)
    np.testing.assert_allclose(found.x_adv, plain.x_adv, atol=1e-6)
    np.testing.assert_array_equal(found.success, plain.success)


@pytest.mark.parametrize("make", [averaged_gradient, estimated_gradient])
def test_values_stay_to_the_last_bit(make, key):
    np.testing.assert_array_equal(make(NET, key, 0.3, draws=2)(X), NET(X))
    np.testing.assert_array_equal(make(step, key, 0.3, draws=2)(X), step(X))


def test_the_mean_gradient_of_a_square_is_the_gradient_at_the_mean(key):
    f = averaged_gradient(lambda x: (x**2).sum(axis=1), key, 0.5, draws=4000)
    x = jnp.array([[0.3, -0.7]])
    np.testing.assert_allclose(jax.grad(lambda x: f(x)[0])(x), 2 * x, atol=0.06)


def test_a_jump_is_seen_by_the_estimate_and_by_no_gradient(key):
    x = jnp.array([[0.55, 0.1]])
    density = math.exp(-((0.05 / 0.2) ** 2) / 2) / math.sqrt(2 * math.pi) / 0.2
    for make, expected in ((averaged_gradient, 0.0), (estimated_gradient, 2 * density)):
        f = make(step, key, 0.2, draws=4000)
        slope = jax.grad(lambda x, f=f: f(x)[0])(x)[0]
        np.testing.assert_allclose(slope, [expected, 0.0], atol=0.3)
    attack = attacks.pgd(0.1, steps=10, random_start=False)
    assert attack(estimated_gradient(step, key, 0.2), x, jnp.array([1])).success[0]
    assert not attack(averaged_gradient(step, key, 0.2), x, jnp.array([1])).success[0]


def test_the_estimate_of_a_linear_function_is_unbiased_for_each_score(key):
    f = estimated_gradient(LINEAR, key, 0.7, draws=20_000)
    found = jax.jacrev(lambda x: f(x)[0])(jnp.zeros((1, 3)))[:, 0]
    np.testing.assert_allclose(found, LINEAR.args[0].T, atol=0.12)


def test_noise_depends_on_key_and_place_and_is_a_function_of_them():
    def slope(seed, x):
        f = estimated_gradient(LINEAR, jax.random.key(seed), 0.1, draws=2)
        return jax.grad(lambda x: f(x)[0, 0])(x)

    x = jnp.full((1, 3), 0.5)
    np.testing.assert_array_equal(slope(0, x), slope(0, x))
    assert (slope(0, x) != slope(1, x)).all() and (slope(0, x) != slope(0, x + 0.25)).all()


def test_equal_wrappers_share_their_structure_and_so_compiled_code():
    trees = [averaged_gradient(NET, jax.random.key(s), 0.1 * s) for s in (1, 2)]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
    assert SoftGate(2.0) == SoftGate(2.0) and hash(SoftGate(2.0)) == hash(SoftGate(2.0))


# Transfer.


def test_transfer_from_a_model_to_itself_breaks_the_same(key):
    plain = PGD(NET, X, Y, key)
    found = attacks.transfer(PGD, NET)(NET, X, Y, key)
    np.testing.assert_array_equal(found.success, plain.success)
    np.testing.assert_array_equal(found.x_adv, plain.x_adv)
    assert found.gradients_used == plain.gradients_used


def test_transfer_is_judged_on_the_target_and_leaves_clean_errors_alone(key):
    wrong = (Y + 1) % 4
    y = jnp.where(jnp.arange(len(Y)) < 5, wrong, Y)
    other = Partial(network, random_weights(5))
    attack = attacks.transfer(attacks.pgd(0.2, steps=4, keep="last"), other)
    found = attack(NET, X, y, key)
    assert found.success[:5].all()
    np.testing.assert_array_equal(found.x_adv[:5], X[:5])
    np.testing.assert_array_equal(found.success, NET(found.x_adv).argmax(axis=1) != y)
    np.testing.assert_allclose(found.loss, attacks.margin(NET(found.x_adv), y))
    assert (attack.eps, attack.norm) == (0.2, "linf")


def test_bad_settings_are_one_sentence(key):
    with pytest.raises(ValueError, match="beta must be above 0"):
        SoftGate(0.0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        averaged_gradient(NET, key, 0.1, draws=0)
    with pytest.raises(ValueError, match="sigma not negative"):
        averaged_gradient(NET, key, -0.1)
    with pytest.raises(ValueError, match=r"above 0 for an estimate"):
        estimated_gradient(NET, key, 0.0)


def test_a_surrogate_of_another_shape_is_refused():
    f = attacks.borrowed_gradient(lambda x: x[:, :2], lambda x: x[:, :1])
    with pytest.raises(ValueError, match="must be of one shape"):
        f(jnp.ones((3, 4)))


def test_transfer_to_a_model_that_gives_nan_is_refused():
    attack = attacks.transfer(attacks.fgsm(0.1), lambda x: x[:, 0] - 0.5)
    with pytest.raises(ValueError, match="NaN"):
        attack(lambda x: jnp.nan * x[:, 0], jnp.full((1, 1), 0.6), jnp.array([1]))

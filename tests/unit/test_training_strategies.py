"""Strategies on a linear model, where the adversarial loss has a closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ntklab import nets
from ntklab import training as tr
from ntklab.training.forward import Forward, Weights
from ntklab.training.inner import ascend
from ntklab.training.update import Problem, TrainState

EPS, RATE = 0.1, 0.5
rng = np.random.default_rng(0)
X = jnp.asarray(rng.uniform(0.3, 0.7, (40, 12)), jnp.float32)
Y = jnp.asarray((X @ rng.normal(size=12) > X.mean(0) @ rng.normal(size=12)).astype(int), jnp.int32)


class Linear(nn.Module):
    """`x W + b`."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


def start(bold=False):
    """Random weights, or such that differ by 4 or -4 in every pixel."""
    params = Linear().init(jax.random.key(7), X)["params"]
    sign = jnp.sign(params["Dense_0"]["kernel"][:, 1])
    return (
        {"Dense_0": params["Dense_0"] | {"kernel": 2 * jnp.stack([-sign, sign], 1)}}
        if bold
        else params
    )


def lead(params, x, y):
    """How far the true class leads, and the dual norm of what moves it."""
    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    direction, shift = kernel[:, 1] - kernel[:, 0], bias[1] - bias[0]
    signed = (x @ direction + shift) * jnp.where(y == 1, 1.0, -1.0)
    return signed, jnp.abs(direction).sum()


def closed_form(params, eps, x=X, y=Y):
    """The loss at the worst point of the ball: at the margin minus eps times the dual norm."""
    signed, dual = lead(params, x, y)
    return jax.nn.softplus(-(signed - eps * dual)).mean()


def descended(losses, bold=False):
    """The parameters after one step of gradient descent on each loss in turn."""
    params = start(bold)
    for loss in losses:
        gradient = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, gradient)
    return params


def trained(strategy, epochs=12, bold=False, **options):
    phase = tr.Phase(epochs, strategy, learning_rate=tr.constant(RATE), momentum=0.0)
    settings = {"batch_size": 40, "shuffle": False, "show_progress": False} | options
    return tr.train(Linear(), (X, Y), [phase], start=Weights(start(bold), None, {}), **settings)


def same(result, expected, tolerance=2e-5):
    found, wanted = (jax.tree.leaves(t) for t in (result.weights.trained, expected))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_standard_training_descends_the_loss_of_the_clean_examples():
    same(trained(tr.Standard()), descended([lambda p: closed_form(p, 0.0)] * 12))


@pytest.mark.parametrize(
    "strategy",
    [tr.FGSM(EPS), tr.PGD(EPS, steps=3, step_size=EPS), tr.PGD(EPS, 4, random_start=False)],
    ids=["fgsm", "pgd", "pgd-from-x"],
)
def test_one_step_and_many_descend_the_loss_at_the_margin_less_eps_times_the_dual_norm(strategy):
    expected = descended([lambda p: closed_form(p, EPS)] * 12)
    same(trained(strategy), expected)
    clean = descended([lambda p: closed_form(p, 0.0)] * 12)
    kernel = [np.asarray(t["Dense_0"]["kernel"]) for t in (expected, clean)]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # the attack makes a difference


def test_the_l2_ball_has_the_l2_norm_as_its_dual():
    def loss(params):
        signed, _ = lead(params, X, Y)
        kernel = params["Dense_0"]["kernel"]
        return jax.nn.softplus(
            -(signed - EPS * jnp.linalg.norm(kernel[:, 1] - kernel[:, 0]))
        ).mean()

    strategy = tr.PGD(EPS, steps=4, step_size=EPS, norm="l2", random_start=False)
    same(trained(strategy), descended([loss] * 12))


def test_a_random_start_and_one_long_step_reach_859_thousandths_of_the_radius_on_average():
    """min(eps, u + 1.25 eps) for u even in (-eps, eps) has mean .859375 eps."""
    strategy, key = tr.RSFGSM(EPS), jax.random.key(1)
    problem = Problem(Forward(Linear()), "cross_entropy", True, 0.0, False, 0.0)
    state = TrainState(Weights(start(), None, {}), (), None)
    many, labels = jnp.tile(X, (100, 1)), jnp.tile(Y, 100)
    z, _ = strategy.attack(problem, state, many, labels, key)
    clean, dual = lead(start(), many, labels)
    lost = (clean - lead(start(), z, labels)[0]) / (EPS * dual)
    assert abs(float(lost.mean()) - 0.859375) < 0.003
    assert float(jnp.abs(z - many).max()) <= EPS * (1 + 1e-5)


def test_free_replays_learn_each_batch_at_the_corner_once_the_noise_is_there():
    """The first replay of all sees the clean batch; from then on the noise stands at the corner.

    The weights are large, so that none changes its sign: the noise would follow a replay later.
    """
    steps = [lambda p: closed_form(p, 0.0)] + [lambda p: closed_form(p, EPS)] * 11
    same(trained(tr.Free(EPS, replays=4), epochs=3, bold=True), descended(steps, bold=True))


def test_double_steps_alternate_between_clean_and_adversarial():
    steps = [lambda p: closed_form(p, 0.0), lambda p: closed_form(p, EPS)] * 6
    result = trained(tr.DoubleStep(tr.PGD(EPS, steps=3, step_size=EPS)), epochs=6)
    same(result, descended(steps))
    row = result.metrics[0]
    assert row["clean_loss"] == pytest.approx(float(closed_form(start(), 0.0)), rel=1e-5)
    assert row["loss"] > 0 and row["clean_accuracy"] >= row["accuracy"]


def test_trades_descends_the_loss_and_beta_times_the_divergence_at_a_corner():
    strategy, key = tr.TRADES(EPS, beta=3.0, steps=8), jax.random.key(2)
    problem = Problem(Forward(Linear()), "cross_entropy", True, 0.0, False, 0.0)
    state = TrainState(Weights(start(), None, {}), (), None)
    z, _ = strategy._attack(problem, state, X, Y, key)
    clean, dual = lead(start(), X, Y)
    moved, _ = lead(start(), z, Y)
    side = jnp.sign(moved - clean)  # the divergence grows to both sides
    np.testing.assert_allclose(moved - clean, side * EPS * dual, rtol=1e-4)
    assert 0 < float((side > 0).mean()) < 1

    def loss(params):
        signed, dual = lead(params, X, Y)
        p, q = jax.nn.sigmoid(signed), jax.nn.sigmoid(signed + side * EPS * dual)
        divergence = p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
        return closed_form(params, 0.0) + 3.0 * divergence.mean()

    new, seen = strategy.update(problem, state, X, Y, key, RATE)
    expected = descended([loss])
    same(dataclasses.make_dataclass("R", ["weights"])(new.weights), expected)
    assert float(seen.loss) == pytest.approx(float(loss(start())), rel=1e-4)


def test_a_larger_ball_leaves_more_loss_and_eps_zero_is_standard_training():
    same(trained(tr.PGD(0.0, steps=2)), trained(tr.Standard()).weights.trained, 1e-6)
    losses = [trained(tr.PGD(e, 3)).metrics[-1]["loss"] for e in (0.0, 0.05, 0.2)]
    assert losses[0] < losses[1] < losses[2]


# What the attack computes, and what it leaves alone.


def products(jaxpr):
    """Matrix products in a jaxpr, those of the calls in it included."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name in ("dot_general", "conv_general_dilated")
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            found += products(inner) if hasattr(inner, "eqns") else 0
    return found


def test_the_attack_takes_no_gradient_of_the_weights():
    """Two products a layer in a step, where an update needs three, less the first layer's input."""
    module, steps = nets.FC(widths=(8, 8), outputs=2), 3
    weights = Weights(module.init(jax.random.key(0), X)["params"], None, {})
    forward, loss = Forward(module), tr.forward.LOSS_FUNCTIONS["cross_entropy"]

    def attack(weights, x):
        settings = (EPS, "linf", steps, EPS)
        return ascend(forward, weights, x, Y, x, settings, loss, "running")[0]

    assert products(jax.make_jaxpr(attack)(weights, X).jaxpr) == 2 * 3  # one turn of the loop
    update = Problem(forward, "cross_entropy", True, 0.0, False, 0.0).fit
    state = TrainState(weights, (), None)
    assert products(jax.make_jaxpr(update)(state, X, Y, 0.1).jaxpr) == 3 * 3 - 1


class Normalised(nn.Module):
    """Batch normalisation and a linear layer."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(2)(x)


def attacked(mode, steps=3):
    variables = dict(Normalised().init(jax.random.key(0), X))
    weights = Weights(variables.pop("params"), None, variables)
    problem = Problem(Forward(Normalised()), "cross_entropy", True, 0.0, False, 0.0)
    strategy = tr.PGD(EPS, steps, random_start=False, statistics=mode)
    z, state = strategy.attack(problem, TrainState(weights, (), None), X, Y, jax.random.key(0))
    return weights, z, state.weights.statistics["batch_stats"]["BatchNorm_0"]


def test_only_the_mode_update_lets_the_attack_move_the_running_statistics():
    weights, _, running = attacked("running")
    before = weights.statistics["batch_stats"]["BatchNorm_0"]
    jax.tree.map(np.testing.assert_array_equal, running, before)
    _, z, untouched = attacked("batch")
    jax.tree.map(np.testing.assert_array_equal, untouched, before)
    _, other, updated = attacked("update")
    np.testing.assert_allclose(other, z, atol=1e-6)  # the same walk
    mean = np.zeros(12)
    for steps in range(3):  # one update a forward pass, at the point it was taken
        at = X if steps == 0 else walk(steps)
        mean = 0.9 * mean + 0.1 * np.asarray(at).mean(0)
    np.testing.assert_allclose(updated["mean"], mean, atol=1e-5)


def walk(steps):
    """The point after so many of three steps."""
    variables = dict(Normalised().init(jax.random.key(0), X))
    weights = Weights(variables.pop("params"), None, variables)
    problem = Problem(Forward(Normalised()), "cross_entropy", True, 0.0, False, 0.0)
    strategy = tr.PGD(EPS, steps, 2.5 * EPS / 3, random_start=False, statistics="batch")
    return strategy.attack(problem, TrainState(weights, (), None), X, Y, jax.random.key(0))[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tr.PGD(8.0), "did you mean 8/255"),
        (lambda: tr.PGD(-0.1), "eps must be"),
        (lambda: tr.PGD(0.1, steps=0), "steps must be >= 1"),
        (lambda: tr.PGD(0.1, norm="l1"), "norm must be one of"),
        (lambda: tr.PGD(0.1, statistics="eval"), "statistics must be one of"),
        (lambda: tr.TRADES(0.1, beta=-1.0), "beta must be >= 0"),
        (lambda: tr.Free(0.1, replays=0), "steps must be >= 1"),
    ],
    ids=["units", "negative", "steps", "norm", "statistics", "beta", "replays"],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_every_strategy_writes_its_name_into_a_record():
    examples = {
        **{"standard": tr.Standard(), "fgsm": tr.FGSM(0.1), "rs-fgsm": tr.RSFGSM(0.1)},
        **{"pgd": tr.PGD(0.1), "trades": tr.TRADES(0.1), "free": tr.Free(0.1)},
        "double-step": tr.DoubleStep(tr.PGD(0.1)),
    }
    assert set(examples) == set(tr.STRATEGIES)
    for name, strategy in examples.items():
        phase = tr.Phase(1, strategy, learning_rate=tr.constant(0.1))
        assert dataclasses.asdict(phase)["strategy"]["name"] == name
        assert type(strategy) is tr.STRATEGIES[name] and hash(strategy) == hash(strategy)

"""Adversarial training of tangents: where it begins, whose examples it learns, how it is judged."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import attacks, data, nets, training
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.loo import second_phase as two
from ntklab.papers.tsilivis_kempe import linearised_masking as masking
from ntklab.papers.tsilivis_kempe import linearised_training as linear
from ntklab.papers.tsilivis_kempe import networks

pytestmark = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")

_QUICK = linear.QUICK | {"judging": replace(linear.QUICK["judging"], every=9)}
TINY = linear.Config(**_QUICK, spawns=(0, 1, 1))


@pytest.fixture(scope="module")
def images():
    return networks.load(TINY.setting, 0)


@pytest.fixture(scope="module")
def place(images, tmp_path_factory):
    """Images, seed and checkpoints."""
    return images, 0, Checkpoints(tmp_path_factory.mktemp("tk"))


@pytest.fixture(scope="module")
def network(place):
    return linear.network(TINY, *place)


@pytest.fixture(scope="module")
def tangent(network, place):
    """Trained at a high rate, so that it is far from where it began."""
    fast = replace(TINY, setting=replace(TINY.setting, learning_rate=0.1))
    return linear.tangent(fast, "fast", network.at(1)[1], 1, *place)


def test_the_tangent_begins_as_the_network_it_is_taken_of(network, tangent, images):
    x, (_, start) = images.x_test, network.at(1)
    jax.tree.map(np.testing.assert_array_equal, tangent.weights.start, start.trained)
    assert tangent.model == "linear"

    def scores(params):
        return network.module.apply({"params": params}, x)

    value, slope = jax.jvp(scores, (start.trained,), (tangent.weights.trained,))
    np.testing.assert_allclose(tangent.logits_fn()(x), value + slope, atol=1e-4)
    assert float(jnp.abs(slope).max()) > 0.1


def test_the_network_at_the_tangents_parameters_is_not_the_tangent(network, tangent, images):
    x, weights = images.x_test, tangent.weights
    params = jax.tree.map(lambda a, b: a + b, weights.start, weights.trained)
    expected = network.module.apply({"params": params}, x)
    np.testing.assert_allclose(linear.as_network(tangent)(x), expected, atol=1e-4)
    assert float(jnp.abs(expected - tangent.logits_fn()(x)).max()) > 0.01
    np.testing.assert_array_equal(linear.as_network(network)(x), network.logits_fn()(x))


def test_the_codes_examples_are_those_of_pgd_on_the_network(network, tangent, images):
    x, y, key = images.x_train[:10], images.y_train[:10], jax.random.key(1)
    settings = {"steps": 3, "step_size": 0.05, "random_start": False}
    plain, code = (a(0.1, **settings) for a in (training.PGD, linear.NetworkPGD))

    def examples(attack, weights, model):
        forward = training.Forward(network.module, model)
        problem = training.update.Problem(forward, "cross_entropy", False, 0.9, False, 0.0)
        state = training.update.TrainState(weights, None, None)
        z, after = attack.attack(problem, state, x, y, key)
        assert after.weights is weights
        return np.asarray(z)

    moved = jax.tree.map(jnp.add, tangent.weights.start, tangent.weights.trained)
    there = training.Weights(moved, None, tangent.weights.statistics)
    of_code = examples(code, tangent.weights, "linear")
    np.testing.assert_allclose(of_code, examples(plain, there, "nonlinear"), atol=1e-6)
    assert np.abs(of_code - examples(plain, tangent.weights, "linear")).max() > 0.01


def test_sources_of_examples_are_one_attack_on_three_functions():
    made = {name: masking.source(masking.Config(), name) for name in masking.SOURCES}
    assert [type(a) for a in made.values()] == [
        training.PGD,
        linear.NetworkPGD,
        two.SoftGatePGD,
    ]
    keys = ("eps", "steps", "step_size", "random_start", "norm")
    assert len({tuple(getattr(a, k) for k in keys) for a in made.values()}) == 1


def test_a_row_asks_for_adaptive_attacks_and_takes_differences(tangent, place, images, monkeypatch):
    asked = {}

    def row_of(setting, name, network, images, seed, checkpoints, more):
        asked.update(more, setting=setting)
        return {f"{name}_clean": 0.9, f"{name}_pgd": 0.7, f"{name}_worst": 0.2}

    monkeypatch.setattr(two, "table_row", row_of)
    row = linear.judged(TINY, "row", tangent, *place)
    f, key, n = tangent.logits_fn(), two.attack_key(0), TINY.judging.n_searched
    x, y = images.x_test[:n], images.y_test[:n]
    clean = float(attacks.correct(f(x), y).mean())
    assert row["row_gap"] == pytest.approx(0.2)
    assert row["row_gap_worst"] == pytest.approx(clean - 0.2)
    setting = asked["setting"]
    assert (setting.eps, setting.queries, setting.n_searched) == (0.1, TINY.judging.queries, n)
    last = attacks.pgd(TINY.setting.eps, steps=1, loss=attacks.margin, keep="last")
    by_network = attacks.transfer(last, linear.as_network(tangent))(f, x, y, key)
    np.testing.assert_array_equal(asked["transfer"](x, y, key), by_network.success)
    once = attacks.pgd(TINY.setting.eps, steps=1, loss=attacks.margin)
    by_gate = once(two.soft_gated(tangent, 10.0), x, y, key)
    np.testing.assert_array_equal(asked["gate"](x, y, key), by_gate.success)


def test_smooth_units_have_no_gates_and_keep_their_function(network, images):
    gelu = network._replace(module=network.module.clone(activation="gelu"))
    x, y, key = images.x_test[:10], images.y_test[:10], jax.random.key(3)
    config = replace(TINY, judging=replace(TINY.judging, betas=(2.0,)))
    found = linear._by_gates(config, gelu, x, y, key)
    plain = attacks.pgd(TINY.setting.eps, steps=1, loss=attacks.margin)
    np.testing.assert_array_equal(found, plain(gelu.logits_fn(), x, y, key).success)


def test_curves_go_on_where_the_tangent_begins(tangent):
    row = {"accuracy": 0.5, "clean": 0.9, "pgd": 0.4, "square": 0.3}
    rows = ({"epoch": 1, "accuracy": 0.2}, {"epoch": 2, **row})
    curves = linear.curves_of("t", tangent._replace(metrics=rows), 3)
    assert curves["t_train"] == ([4, 5], [0.2, 0.5])
    others = {name: curve for name, curve in curves.items() if name != "t_train"}
    assert others == {"t_clean": ([5], [0.9]), "t_pgd": ([5], [0.4]), "t_square": ([5], [0.3])}


def test_growth_is_what_the_second_half_adds():
    assert linear.growth([1, 2, 3, 4], [0.1, 0.4, 0.6, 0.7], 4) == pytest.approx(0.3)
    assert linear.growth([2, 6], [0.2, 0.6], 8) == pytest.approx(0.2)


def test_book_sizes_compare_like_with_like_and_the_paper_is_as_printed():
    book = {n: EXPERIMENTS[f"tk-linearised-{n}"].presets["book"] for n in ("training", "masking")}
    one, other = (replace(c.setting, epochs=0) for c in book.values())
    assert one == other and len(book["training"].seeds) == 3
    paper = EXPERIMENTS["tk-linearised-training"].presets["paper"]
    assert paper.spawns == (0, 25, 50) and paper.setting == networks.CIFAR
    assert paper.setting.epochs == 200 and isinstance(paper.module(), nets.CNNMega)
    shares = [tuple(e / c.setting.epochs for e in c.spawns) for c in (paper, book["training"])]
    assert shares[0] == shares[1] == (0, 0.125, 0.25)
    for config in (paper, *book.values()):  # every curve has a point at its end
        lengths = [config.setting.epochs - epoch for epoch in config.spawns]
        assert not [n for n in lengths[:2] if n % config.judging.every]
    assert not (paper.setting.epochs - 50) % paper.judging.every


def test_activations_are_named_after_what_they_are():
    assert masking.name_of(2.0) == "softplus_2" and masking.name_of("gelu") == "gelu"
    module = masking.Config().module(masking.activation_of(2.0))
    assert module == nets.ToyCNN(activation=nets.Softplus(2.0))

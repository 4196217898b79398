"""Do gradients of several networks lie round the kernel's: the measures, and the experiment."""

import doctest
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab import data, ledger
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.tsilivis_kempe import clustering, evaluate, two_layer
from ntklab.papers.tsilivis_kempe.clustering import Arm

NAMES = ("tk-gradient-clustering", "tk-gradient-clustering-cars")


def spread(key, share, noise, networks=4, b=200, d=400):
    """Unit kernel gradients, and networks round `kernel + share * common`, with noise of a size."""
    keys = jax.random.split(key, networks + 2)
    h, common = (clustering._unit(jax.random.normal(k, (b, d))) for k in keys[:2])
    common = clustering._unit(common - (common * h).sum(1, keepdims=True) * h)
    away = [clustering._unit(jax.random.normal(k, (b, d))) for k in keys[2:]]
    return [h + share * common + noise * e for e in away], h


def test_gradients_round_the_kernel_have_independent_remainders(key):
    found = clustering.cluster(*spread(key, share=0.0, noise=1.0))
    assert found["to_kernel"] == pytest.approx(0.5**0.5, abs=0.01)
    assert found["to_each_other"] == pytest.approx(found["product"], abs=0.01)
    assert found["residual"] == pytest.approx(0.0, abs=0.01)
    # The mean of four: c / sqrt(c^2 + (1 - c^2) / 4).
    assert found["mean_to_kernel"] == pytest.approx((0.5 / (0.5 + 0.125)) ** 0.5, abs=0.01)


def test_a_common_part_beside_the_kernel_is_seen(key):
    found = clustering.cluster(*spread(key, share=1.0, noise=1.0))
    assert found["to_kernel"] == pytest.approx(3**-0.5, abs=0.01)
    assert found["to_each_other"] == pytest.approx(2 / 3, abs=0.01)
    assert found["residual"] == pytest.approx(0.5, abs=0.01)
    assert found["to_each_other"] > found["to_kernel"]


def test_pairs_are_the_product_plus_the_remainders(key):
    theirs, h = spread(key, share=0.3, noise=0.7, networks=2, b=5, d=6)
    found = clustering.cluster(theirs, 3.0 * h)
    g = [np.asarray(clustering._unit(each)) for each in theirs]
    rest = [each - (each * h).sum(1, keepdims=True) * h for each in g]
    shared = float((rest[0] * rest[1]).sum(1).mean())
    assert found["to_each_other"] == pytest.approx(found["product"] + shared, abs=1e-5)


def test_one_network_has_no_pairs_and_a_zero_gradient_is_no_nan():
    found = clustering.cluster([jnp.zeros((2, 3))], jnp.ones((2, 3)))
    assert found == {"to_kernel": 0.0}


def test_held_gates_are_the_tangent(key):
    w_0, a = two_layer.initialise(key, 30, 5, 3, 1.0)
    x = jax.random.normal(jax.random.fold_in(key, 1), (7, 5))
    change = jax.random.normal(jax.random.fold_in(key, 2), w_0.shape)
    _, slope = jax.jvp(lambda w: two_layer.network(w, a, x), (w_0,), (change,))
    found = clustering.frozen_gates((w_0 + change, w_0, a), x)
    assert np.allclose(found, slope, atol=1e-4)
    small = (w_0 + 1e-4 * change, w_0, a)
    assert np.allclose(clustering.frozen_gates(small, x), two_layer.moved(small, x), atol=1e-5)


def test_the_stranger_is_of_the_same_class_and_another_image():
    y = jnp.array([1, 0, 1, 2, 0, 1])
    after = clustering._next_of_its_class(y)
    assert after.tolist() == [2, 4, 5, 3, 1, 0]  # a class of one has nobody else


@pytest.fixture(scope="module")
def small():
    """Two networks, the same twice, beside a machine that is the first of them."""
    if not data.found()["mnist"]:
        pytest.skip("mnist is not on this machine")
    config = clustering.Config(n_train=20, n_test=20)
    images, key = config.load(0), jax.random.key(0)
    w_0, a = two_layer.initialise(key, 32, 784, 10, 0.01)
    targets, _ = images.one_hot()
    w = two_layer.train(w_0, w_0, a, images.x_train, targets, 0.01, 30, centred=False)
    params = (w, w_0, a)
    return config, images, key, params, Partial(two_layer.moved, params)


def test_a_network_is_its_own_best_attacker(small):
    config, images, key, params, machine = small
    found = clustering.compare(config, [params, params], machine, images, key)
    assert found["own"] == found["other"] == found["kernel"] <= found["own_counted"]
    assert found["excess"] == 0.0 and found["noise_gap"] == found["noise"] - found["kernel"]
    ones = ("to_kernel", "to_each_other", "product", "share", "mean_to_kernel")
    assert all(found[name] == pytest.approx(1.0, abs=1e-4) for name in ones)
    assert found["stranger"] < 0.999 and 0 < found["flips"] < 1
    assert found["own_image"] == pytest.approx(found["to_kernel"] - found["stranger"])
    assert found["kernel"] <= found["borrowed"] <= found["clean"]
    x, y = images.x_test, images.y_test
    assert found["clean"] == pytest.approx(evaluate.accuracy(machine, x, y))


def test_an_error_that_the_attack_repairs_is_counted_apart(small, monkeypatch):
    config, images, key, params, machine = small
    y = images.y_test
    monkeypatch.setattr(clustering, "_moved", lambda attack, f, x, y, key: x[::-1])
    found = clustering.compare(config, [params], machine, images, key)
    before = np.asarray(machine(images.x_test).argmax(1) == y)
    after = np.asarray(machine(images.x_test[::-1]).argmax(1) == y)
    assert found["own_counted"] == pytest.approx(after.mean())
    assert found["own"] == pytest.approx((before & after).mean())


def test_late_steps_belong_to_the_first_network_and_arms_share_directions(small, tmp_path):
    config, images, key, *_ = small
    arms = (Arm("one", 8, 0.01, True, 2, (2, 4), (6,)), Arm("two", 8, 1.0, True, 1, (2,)))
    one, two = (
        clustering._trained(config, arm, images, key, Checkpoints(tmp_path / arm.name))
        for arm in arms
    )
    assert {at: len(networks) for at, networks in one.items()} == {2: 2, 4: 2, 6: 1}
    (_, w_one, a_one), (_, w_two, a_two) = one[2][0], two[2][0]
    assert np.allclose(100 * w_one, w_two, rtol=1e-5) and (a_one == a_two).all()
    assert not np.allclose(one[2][1][1], w_one)
    again = clustering._trained(config, arms[0], images, key, Checkpoints(tmp_path / "one"))
    assert all((again[at][0][0] == one[at][0][0]).all() for at in one)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_reaches_what_its_claims_name(name):
    experiment = EXPERIMENTS[name]
    for claim in ledger.claims(experiment=name):
        for size in claim.sizes:
            arms = {arm.name: arm for arm in experiment.presets[size].arms}
            for value in claim.names:
                arm, steps = arms[value.partition("_")[0]], int(value.rpartition("_")[2])
                assert steps in (*arm.steps, *arm.late)
                pairs = ("to_each_other", "other", "residual", "product", "mean_to_kernel")
                several = any(f"_{what}_" in value for what in pairs)
                assert not several or (arm.networks > 1 and steps in arm.steps)


@pytest.mark.parametrize("name", NAMES)
def test_training_dominates_the_cost(name):
    experiment = EXPERIMENTS[name]
    config = experiment.presets["book"]
    d = 784 if config.dataset == "mnist" else 3072
    steps = sum(
        arm.networks * max(arm.steps) + (max(arm.late) - max(arm.steps) if arm.late else 0)
        for arm in config.arms
    )
    products = len(config.seeds) * 4.0 * steps * config.n_train * 1000 * d
    cost = experiment.cost(config)
    assert products < cost.flops < 1.3 * products
    assert cost.examples == len(config.seeds) * steps * config.n_train
    once = replace(config, seeds=(0,))
    assert experiment.cost(once).flops == pytest.approx(cost.flops / len(config.seeds))


def test_cars_are_two_classes():
    if not data.found()["cifar10"]:
        pytest.skip("cifar10 is not on this machine")
    config = replace(EXPERIMENTS[NAMES[1]].presets["quick"], n_train=4, n_test=4)
    assert config.load(0).classes == ("airplane", "automobile")


def test_the_examples_in_the_documentation():
    assert doctest.testmod(clustering).failed == 0

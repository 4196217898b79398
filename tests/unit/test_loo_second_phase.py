"""Second phases at toy scale: where they begin, what they train, how a row of the table is made."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import attacks, data, training
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.loo import fixed_kernel, masking, smooth, soft_gate
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import Images

pytestmark = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")

TINY = two.Setting(
    seeds=(0,),
    images=Images(200, 40),
    epochs=1,
    train_steps=2,
    test_steps=3,
    second_epochs=1,
    queries=5,
    n_searched=40,
)


@pytest.fixture(scope="module")
def images():
    return TINY.images.load(0)


@pytest.fixture(scope="module")
def place(images, tmp_path_factory):
    """Images, seed and checkpoints."""
    return images, 0, Checkpoints(tmp_path_factory.mktemp("loo"))


@pytest.fixture(scope="module")
def parent(place):
    return two.parent(TINY, "benign", *place)


@pytest.fixture(scope="module")
def tangent(parent, place):
    """Trained adversarially on the parent's kernel."""
    second = two.phase(replace(TINY, second_rate=0.05), two.plain_attack(TINY))
    return two.follow("tangent", parent.weights, second, TINY, *place)


def test_the_initial_kernel_is_that_of_the_weights_that_parents_start_from(place):
    still = replace(TINY, learning_rate=0.0)
    run = two.parent(still, "benign", *place, name="still")
    jax.tree.map(np.testing.assert_array_equal, run.weights, two.initial(0))


def test_a_second_phase_is_the_tangent_at_the_parent(parent, tangent, images):
    x, start = images.x_test, parent.weights.trained
    jax.tree.map(np.testing.assert_array_equal, tangent.weights.start, start)

    def network(params):
        return parent.module.apply({"params": params}, x)

    slope = jax.jvp(network, (start,), (tangent.weights.trained,))[1]
    np.testing.assert_allclose(tangent.logits_fn()(x), slope, atol=1e-5)
    assert float(jnp.abs(slope).max()) > 0.01


@pytest.mark.parametrize("model", ["linear", "centred"])
def test_without_training_linear_is_the_parent_and_centred_is_nothing(parent, place, images, model):
    still = replace(TINY, second_rate=0.0)
    name = f"still-{model}"
    trained = two.follow(name, parent.weights, two.phase(still, None, model), still, *place)
    found = trained.logits_fn()(images.x_test)
    expected = parent.logits_fn()(images.x_test) * float(model == "linear")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_soft_gates_change_the_gradient_of_a_tangent_and_nothing_else(parent, tangent, images):
    x = images.x_test[:5]

    @jax.jit
    def slope(f):
        return jax.grad(lambda x: f(x)[:, 0].sum())(x)

    for trained, moves in ((parent, False), (tangent, True)):
        plain, soft = trained.logits_fn(), two.soft_gated(trained, 5.0)
        np.testing.assert_allclose(plain(x), soft(x), rtol=1e-6, atol=1e-7)
        apart = float(jnp.abs(slope(plain) - slope(soft)).max() / jnp.abs(slope(plain)).max())
        assert apart > 0.01 if moves else apart < 1e-5


def test_training_against_soft_gates_is_pgd_where_nothing_is_linearised(parent, tangent, images):
    plain = two.plain_attack(TINY)
    soft = soft_gate.trained_against(
        soft_gate.Config(eps=TINY.eps, train_steps=TINY.train_steps, beta=5.0)
    )
    assert (soft.steps, soft.step_size, soft.eps) == (plain.steps, plain.step_size, plain.eps)
    x, y, key = images.x_train[:10], images.y_train[:10], jax.random.key(1)
    for trained, same in ((parent, True), (tangent, False)):
        forward = training.Forward(trained.module, trained.model)
        problem = training.update.Problem(forward, "cross_entropy", False, 0.9, False, 0.0)
        state = training.update.TrainState(trained.weights, None, None)
        z = [np.asarray(a.attack(problem, state, x, y, key)[0]) for a in (plain, soft)]
        assert (np.abs(z[0] - z[1]).max() < 1e-6) == same
        assert all(np.abs(a - np.asarray(x)).max() <= TINY.eps + 1e-6 for a in z)


def test_a_row_is_what_the_attacks_say(parent, place, images):
    network, key = parent.logits_fn(), two.attack_key(0)
    x, y = images.x_test, images.y_test

    def first_ten(x, y, key):
        return jnp.arange(len(x)) < 10

    row = two.table_row(TINY, "row", network, *place, {"ten": first_ten})
    pgd = attacks.pgd(TINY.eps, steps=3, step_size=TINY.eps / 8)(network, x, y, key)
    square = attacks.square(TINY.eps, queries=5)(network, x, y, key)
    block = attacks.random_block(TINY.eps, queries=5)(network, x, y, key)
    broken = [np.asarray(a.success) for a in (pgd, square, block)]
    assert row["row_clean"] == pytest.approx(float((network(x).argmax(1) == y).mean()))
    assert row["row_pgd"] == row["row_pgd_some"] == pytest.approx(1 - broken[0].mean())
    assert row["row_square"] == pytest.approx(1 - broken[1].mean())
    assert row["row_ten"] == 0.75
    worst = 1 - np.any([*broken, np.arange(40) < 10], axis=0).mean()
    assert row["row_worst"] == pytest.approx(worst)
    assert row["row_masked"] == pytest.approx(row["row_pgd_some"] - worst)


def test_what_is_kept_is_not_computed_again(place):
    def never(x):
        raise AssertionError("the row is kept")

    two.table_row(TINY, "row", never, *place, {"ten": never})


# The experiments.


def test_the_groups_of_attacks_are_what_their_names_say():
    n = 6
    names = ["clean", "pgd", "margin", "soft", "soft_2", "averaged", "estimated", "transfer"]
    found = {name: np.arange(n) != i for i, name in enumerate([*names, "square", "block"])}
    groups = masking._groups(dict(found))
    left = {name: set(np.flatnonzero(v)) for name, v in groups.items()}
    assert left["gradient"] == {0, 3, 4, 5} and left["search"] == set(range(n))
    assert left["adaptive"] == left["all"] == set()
    found["estimated"] = np.zeros(n, bool)
    found["square"] = np.arange(n) > 0
    groups = masking._groups(found)
    assert groups["search"].sum() == 5 and groups["all"].sum() == 0
    assert set(np.flatnonzero(groups["adaptive"])) == set()


def test_smooth_networks_have_the_activation_that_they_are_named_after():
    assert smooth.name_of(2.0) == "softplus_2" and smooth.name_of("gelu") == "gelu"
    assert smooth.network(2.0).activation == two.nets.Softplus(2.0)
    assert smooth.network("gelu").activation == "gelu"


def test_the_same_attacks_and_sizes_stand_behind_every_comparison():
    book = {n: EXPERIMENTS[n].presets["book"] for n in EXPERIMENTS if n.startswith("loo-toy")}
    del book["loo-toy-long-phase"]  # few images, many steps: it is compared with itself only
    searched = [c for c in book.values() if isinstance(c, two.Setting)]
    assert len(searched) == 6
    for config in searched:
        assert (config.eps, config.train_steps, config.test_steps) == (0.1, 7, 20)
        assert (config.epochs, config.second_epochs, config.second_rate) == (10, 8, 0.01)
        assert config.images == Images(4000, 1000) and len(config.seeds) == 3
    both = [book[f"loo-toy-masking{name}"] for name in ("", "-robust-kernel")]
    assert replace(both[0], kernel="adversarial", second="benign") == both[1]


def test_spawns_that_are_not_asked_for_are_left_out():
    assert fixed_kernel.Config().spawns == {"early": 3, "late": 10}
    assert EXPERIMENTS["loo-toy-fixed-kernel-linear"].presets["book"].spawns == {"late": 10}

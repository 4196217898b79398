"""The pieces of the experiments on eigen-features, and what their values count."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ntklab import attacks, data, features
from ntklab.kernels import TwoLayerNTK
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.tsilivis_kempe import feature_plane, feature_selection, feature_toy
from ntklab.papers.tsilivis_kempe import features as parts
from ntklab.predictors import KernelRegression

N, B, D, K = 24, 30, 5, 4


@functools.cache
def problem(binary=False):
    """A fitted machine, test inputs and their labels."""
    random = np.random.default_rng(4)
    x, x_new = (random.uniform(size=(m, D)).astype(np.float32) for m in (N, B))
    y, y_new = (np.argmax(a[:, :K], axis=1) for a in (x, x_new))
    y, y_new = ((y > 1), (y_new > 1)) if binary else (y, y_new)
    targets = 2.0 * y - 1.0 if binary else np.eye(K)[y]
    fitted = KernelRegression(TwoLayerNTK(), solver="eigh").fit(
        jnp.asarray(x), jnp.asarray(targets, jnp.float32)
    )
    return fitted, jnp.asarray(x_new), jnp.asarray(y_new, jnp.int32)


@pytest.mark.parametrize("binary", [False, True])
def test_one_gradient_for_all_is_fgsm_on_each(binary):
    fitted, x, y = problem(binary)
    found = parts.plane(fitted, range(4), x, y, (0.05, 0.2), block=15)
    suite = {"small": attacks.fgsm(0.05), "large": attacks.fgsm(0.2)}
    report = features.measure(fitted, range(4), x, y, suite, block=B)
    np.testing.assert_allclose(found.usefulness, report.usefulness)
    np.testing.assert_allclose(found.robustness[0], report.robustness["small"])
    np.testing.assert_allclose(found.robustness[1], report.robustness["large"])
    assert found.robustness[1].sum() < found.usefulness.sum()


def test_the_first_feature_of_a_positive_kernel_is_constant():
    fitted, x, y = problem()
    found = parts.plane(fitted, range(3), x, y, (0.3,))
    assert found.named[0] == 1 and set(found.named[1:]) == {2}
    assert found.robustness[0, 0] == found.usefulness[0]


def test_trends_are_rank_correlations():
    values = np.array([5.0, 1.0, 4.0, 0.5, 0.2])
    assert parts.trend(values) == pytest.approx(scipy.stats.spearmanr(range(5), values).statistic)
    assert parts.trend(values, np.array([0, 2, 3, 4])) == -1
    assert parts.trend(np.ones(5)) == 0 and parts.trend(values, np.array([0, 1])) == 0


def test_shares_and_overlaps():
    assert parts.top_share([3.0, 1.0, 0.0, 0.0], 1) == 0.75 and parts.top_share([0.0, 0.0], 1) == 0
    random = np.random.default_rng(0)
    spaces = [np.linalg.qr(random.normal(size=(40, 8)))[0] for _ in range(400)]
    pairs = [parts.overlap(a, b) for a, b in zip(spaces[::2], spaces[1::2], strict=True)]
    assert np.mean(pairs) == pytest.approx(8 / 40, abs=0.01)
    turned = spaces[0] @ np.linalg.qr(random.normal(size=(8, 8)))[0]
    assert parts.overlap(spaces[0], turned) == pytest.approx(1)


def test_the_leading_space_is_that_of_the_matrix():
    x = problem()[1]
    space = parts.leading(parts.linear, x, 3)
    values, vectors = np.linalg.eigh(np.asarray(parts.linear(x), np.float64))
    assert parts.overlap(space, vectors[:, :-4:-1]) == pytest.approx(1, abs=1e-5)
    assert abs(space[:, 0] @ vectors[:, -1]) == pytest.approx(1, abs=1e-5) and values[-1] > 0


def test_the_identities_hold_and_say_when_they_do_not(monkeypatch):
    fitted, x, y = problem()
    arguments = (TwoLayerNTK(), fitted.x[:8], fitted.targets[:8], x[:3], y[:3])
    found = parts.identities(*arguments)
    assert found["sum_error"] < 1e-10 and found["prop_error"] < 1e-10
    assert found["alpha_negative"] > 0 and found["alpha_least"] < 0
    monkeypatch.setattr(features, "feature", lambda fitted, i: features.select(fitted, [0]))
    wrong = parts.identities(*arguments)
    assert wrong["sum_error"] > 0.1 and wrong["prop_error"] > 0.1


def test_a_summary_says_what_its_plane_has():
    gamma = np.zeros(20)
    gamma[:3] = (0.5, 0.2, 0.1)
    rho = np.full(20, 0.52)
    rho[:4] = (0.5, 0.7, 0.65, 0.66)
    small = rho * np.linspace(1, 0.05, 20)
    plane = {"usefulness": rho, "robustness": gamma, "robustness_small": small}
    said = feature_plane.summary(plane | {"majority": 0.5, "count": 400})
    assert said["top_share"] == pytest.approx(0.7 / 0.8) and said["excess"] == pytest.approx(0)
    assert said["trend"] == -1 and said["trend_useful"] == -1
    assert said["useful"] == 3 and said["useful_bare"] == 1


needs_images = pytest.mark.skipif(
    not (data.found()["mnist"] and data.found()["cifar10"]), reason="images are not here"
)


@pytest.fixture(scope="module")
def cars():
    config = EXPERIMENTS["tk-car-plane-features"].presets["quick"]
    images = data.load(config.name, classes=config.classes, n_train=60, n_test=40, seed=0)
    return config, images


@needs_images
def test_the_list_of_the_notebook_is_measured_feature_by_feature(cars):
    config, images = cars
    found = feature_plane.notebook(config, images)
    wanted = [i for i in feature_plane.NOTEBOOK if i < config.n_train]
    fitted = KernelRegression(parts.DENSE["fc1"], solver="eigh").fit(
        images.x_train[: config.n_train], images.signed()[0][: config.n_train]
    )
    plane = parts.plane(fitted, wanted[:3], images.x_test, images.y_test, (config.eps,))
    for row, i in enumerate(wanted[:3]):
        assert found[f"notebook_useful_{i}"] == pytest.approx(plane.usefulness[row])
        assert found[f"notebook_robust_{i}"] == pytest.approx(plane.robustness[0, row])
    errors = [abs(found[f"notebook_useful_{i}"] - feature_plane.NOTEBOOK[i][0]) for i in wanted]
    assert found["notebook_useful_error"] == pytest.approx(np.mean(errors))


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    config = EXPERIMENTS["tk-feature-selection"].presets["quick"]
    config = replace(config, tasks=config.tasks[1:])
    images = feature_selection._load(config, config.tasks[0], 0)
    place = Checkpoints(tmp_path_factory.mktemp("selection"))
    return feature_selection._Task(config, config.tasks[0], images, jax.random.key(0), place)


@needs_images
def test_ranking_and_reporting_use_other_images(selection):
    n = selection.config.n_train
    assert sorted(selection.order) == list(range(n))
    many = selection.config.n_ranked
    plane = parts.plane(selection.fitted, range(many), *selection.valid, (selection.task.eps,))
    assert (np.diff(plane.robustness[0][selection.order[:many]]) <= 0).all()
    every = [np.asarray(a).reshape(len(a), -1) for a in (selection.valid[0], selection.test[0])]
    apart = np.abs(every[0][:, None] - every[1][None]).max(axis=2)
    trained = np.asarray(selection.fitted.x).reshape(n, -1)
    assert apart.min() > 0 and np.abs(every[0][:, None] - trained[None]).max(axis=2).min() > 0


@needs_images
def test_the_choice_sees_validation_columns_only(selection):
    def row(clean, valid, fgsm, valid_fgsm, pgd):
        return {"clean": clean, "valid_clean": valid, "fgsm": fgsm, "valid_fgsm": valid_fgsm,
                "pgd": pgd, "transfer_fgsm": 0.4, "transfer_pgd": 0.3}  # fmt: skip

    table = {
        1: row(0.5, 0.5, 0.5, 0.5, 0.5),
        5: row(0.7, 0.7, 0.1, 0.3, 0.1),
        20: row(0.7, 0.72, 0.4, 0.2, 0.4),
        60: row(0.8, 0.8, 0.0, 0.0, 0.0),
    }
    found = selection._choices(table, 60)
    assert found["best_r"] == 5 and found["best_pgd"] == 0.1, "not by the test columns"
    assert found["accurate_r"] == 60 and found["full_clean"] == 0.8
    assert found["easy_pgd"] == 0.4 and found["gap"] == 0 and found["transfer_gap"] > 0.09


@needs_images
def test_robust_and_other_features_make_the_machine(selection):
    cut, x = selection.config.n_removed, selection.test[0]
    both = [features.select(selection.fitted, o) for o in np.split(selection.order, [cut])]
    whole = selection.fitted.logits_fn()(x)
    np.testing.assert_allclose(both[0](x) + both[1](x), whole, atol=1e-2)


def test_the_trial_of_the_toy_is_that_of_the_claims():
    from ntklab import ledger

    rows = {c.id: c for c in ledger.claims(experiment="tk-feature-toy")}
    wanted = {p.name: p.target for p in rows["tk-toy-features"].criterion}
    for i, (rho, gamma) in enumerate(zip(*feature_toy.TRIAL.values(), strict=True)):
        assert sum(wanted[f"useful_{i}"]) / 2 == pytest.approx(rho)
        assert sum(wanted[f"robust_{i}"]) / 2 == pytest.approx(gamma)
    wanted = {p.name: p.target for p in rows["tk-toy-cut-off"].criterion}
    for cut, (clean, fgsm) in feature_toy.CUTS.items():
        assert sum(wanted[f"clean_{cut}"]) / 2 == pytest.approx(clean)
        assert sum(wanted[f"fgsm_{cut}"]) / 2 == pytest.approx(fgsm)

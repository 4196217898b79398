"""The experiments of Chen et al.: what the seeds share, and that sharing leaves no trace."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data, papers, predictors
from ntklab.papers import EXPERIMENTS
from ntklab.papers.chen import certificates, network

pytestmark = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")

CERTIFICATES = EXPERIMENTS["chen-certificates"]
SMALL = replace(
    CERTIFICATES.presets["quick"],
    **{"seeds": (0, 1), "n_train": 40, "n_test": 12, "n_first": 6, "n_attacked": 6},
    **{"regularisations": (0.0, 0.1, 10.0), "batch": 16, "epochs": 4, "eps": (0.3,), "steps": 2},
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two seeds in one undisturbed run."""
    return CERTIFICATES.run(SMALL, workdir=tmp_path_factory.mktemp("both"))


def test_each_seed_measures_what_it_measures_alone(both, tmp_path):
    for place, seed in enumerate(SMALL.seeds):
        alone = CERTIFICATES.run(replace(SMALL, seeds=(seed,)), workdir=tmp_path / str(seed))
        assert {n: v[place] for n, v in both.values.items()} == {
            n: v[0] for n, v in alone.values.items()
        }
    # Only the descent and the start of the attack are drawn.
    drawn = {n for n, (first, second) in both.values.items() if first != second}
    assert "sgd_certificate" in drawn
    assert all(n.startswith("sgd_") or n == "svm_attack" for n in drawn)


def test_a_run_killed_anywhere_resumes_and_refits_nothing(both, tmp_path, monkeypatch):
    save, saved = papers.Checkpoints.save, []
    fits, fit = [], predictors.KernelRegression.fit

    def counted(self, *args, **kwargs):
        fits.append(self.ridge)
        return fit(self, *args, **kwargs)

    def killed(self, name, **arrays):
        save(self, name, **arrays)
        saved.append(f"{self.folder.name}/{name}")
        if len(saved) in (2, 5, 6):  # among the regressions, and after the descent of each seed
            raise KeyboardInterrupt

    monkeypatch.setattr(predictors.KernelRegression, "fit", counted)
    monkeypatch.setattr(papers.Checkpoints, "save", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            CERTIFICATES.run(SMALL, workdir=tmp_path, resume=True)
    result = CERTIFICATES.run(SMALL, workdir=tmp_path, resume=True)
    regressions = ["shared/krr_0", "shared/krr_0_1", "shared/krr_10"]
    assert saved == [*regressions, "shared/svm", "seed-0/sgd", "seed-1/sgd"]
    assert fits == [r / 2 for r in SMALL.regularisations]
    assert (result.values, result.curves) == (both.values, both.curves)


def test_the_kernel_regressions_are_those_of_the_library(both):
    images = data.load("mnist", classes=(0, 1), n_train=SMALL.n_train, n_test=SMALL.n_test)
    model = predictors.KernelRegression(certificates.KERNEL, ridge=5.0)
    scores = model.fit(images.x_train, images.signed()[0]).predict(images.x_test, [np.inf])[0]
    right = (np.asarray(scores) > 0) == (np.asarray(images.y_test) == 1)
    assert both.values["krr_10_accuracy"] == (right.mean(),) * 2


# Networks.

NETWORKS = EXPERIMENTS["chen-networks"]
NARROW = replace(
    NETWORKS.presets["quick"],
    **{"seeds": (0,), "widths": (8, 16), "n_train": 40, "n_test": 12, "n_first": 6, "batch": 16},
    **{"epochs": 6, "save_every": 2, "eps": (0.3,), "steps": 2, "n_attacked": 6},
)


def problem(key, n=10, d=5, width=7):
    """Weights, and images, signs and offsets."""
    keys = jax.random.split(key, 4)
    weights = network.initialise(keys[0], d, width)
    x = jax.random.normal(keys[1], (n, d))
    return weights, (
        x,
        jax.random.rademacher(keys[2], (n,), jnp.float32),
        network.scores(weights, x),
    )


def test_an_epoch_is_subgradient_descent_on_the_loss_as_coded(key):
    weights, (x, y, offset) = problem(key)
    rate, decay = 0.3, 0.05

    def loss(weights, rows):
        margin = y[rows] * (network.scores(weights, x[rows]) - offset[rows])
        penalty = decay / 2 * (weights.last**2).sum() / len(weights.last)
        return jnp.maximum(0.0, 1 - margin).mean() + penalty

    expected = weights
    batches = [np.array([3, 1, 7, 2]), np.array([9, 0, 4, 8]), np.array([5, 6])]
    for rows in batches:
        slope = jax.grad(loss)(expected, rows)
        expected = jax.tree.map(lambda w, g: w - rate * g, expected, slope)
    padded = jnp.asarray(np.pad(np.concatenate(batches), (0, 2), constant_values=10).reshape(3, 4))
    start = jax.tree.map(jnp.array, weights)
    found = network.epoch(start, (x, y, offset), padded, rate, decay)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(found.first - weights.first).max()) > 0.01


def test_outside_the_margin_only_the_last_layer_shrinks(key):
    weights, (x, y, offset) = problem(key)
    far = (x, y, offset - 2 * y)
    start = jax.tree.map(jnp.array, weights)
    found = network.epoch(start, far, jnp.arange(10).reshape(2, 5), 0.5, 0.7)
    np.testing.assert_array_equal(found.first, weights.first)
    np.testing.assert_allclose(found.last, weights.last * (1 - 0.35 / 7) ** 2, rtol=1e-6)


def test_a_network_killed_in_training_resumes_to_the_same_values(tmp_path, monkeypatch):
    whole = NETWORKS.run(NARROW, workdir=tmp_path / "whole")
    save, saved = papers.Checkpoints.save, []

    def killed(self, name, **arrays):
        save(self, name, **arrays)
        saved.append(name)
        if len(saved) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(papers.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        NETWORKS.run(NARROW, workdir=tmp_path / "killed")
    result = NETWORKS.run(NARROW, workdir=tmp_path / "killed", resume=True)
    names = [["training_8"] * 2, ["nn_8"], ["training_16"] * 2, ["nn_16"]]
    assert saved == [name for group in names for name in group]
    assert (result.values, result.curves) == (whole.values, whole.curves)

"""Robust overfitting: what is measured when, on which images, and what the curves come to."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data
from ntklab.papers import EXPERIMENTS
from ntklab.papers.rice import robust_overfitting as rice

EXPERIMENT = EXPERIMENTS["robust-overfitting"]
SMALL = replace(
    EXPERIMENT.presets["quick"],
    seeds=(0,),
    images=rice.Images(60, 10, 20),
    batch_size=20,
    probe=10,
)
need_data = pytest.mark.skipif(
    not data.found()["fashion_mnist"], reason="fashion_mnist is not on this machine"
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return EXPERIMENT.run(SMALL, workdir=tmp_path_factory.mktemp("rice"))


def curves(**columns):
    return {name: np.asarray(values, float) for name, values in columns.items()}


def test_the_time_to_stop_is_chosen_on_validation_images_alone():
    table = curves(
        epoch=[5, 10, 15, 20],
        train=[0.5, 0.7, 0.8, 0.9],
        validation=[0.4, 0.6, 0.5, 0.5],
        test=[0.5, 0.55, 0.6, 0.4],
    )
    found = rice.summary(table, last=2)
    assert found["stop"] == 10  # where test accuracy is not the highest
    assert found["stopped_test"] == 0.55 and found["stopped_train"] == 0.7
    assert found["final_test"] == pytest.approx(0.5)
    assert found["drop"] == pytest.approx(0.05)
    assert found["train_rise"] == pytest.approx(0.15)


def test_accuracy_that_goes_on_rising_makes_no_drop():
    rising = [0.4, 0.5, 0.6]
    table = curves(epoch=[1, 2, 3], train=rising, validation=rising, test=rising)
    found = rice.summary(table, last=1)
    assert found["stop"] == 3 and found["drop"] == 0 and found["train_rise"] == 0


def test_the_rate_falls_twice_within_the_run():
    phase = rice.phase(rice.Config(), "adversarial")
    rates = [phase.learning_rate(epoch) for epoch in (0, 59, 60, 89, 90, 119)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert phase.epochs == 120 and phase.strategy.name == "pgd"
    assert (phase.strategy.eps, phase.strategy.steps, phase.strategy.step_size) == (0.05, 5, 0.025)
    assert rice.phase(rice.Config(), "standard").strategy.name == "standard"


@need_data
def test_the_splits_share_no_image():
    config = rice.Config(images=rice.Images(30, 20, 40), probe=10)
    images = config.images.load(0)
    parts = {split: rice.held_out(config, images, split)[0] for split in rice.SPLITS}
    assert [len(parts[split]) for split in rice.SPLITS] == [10, 20, 40]
    seen = {np.asarray(image).tobytes() for split in rice.SPLITS for image in parts[split]}
    assert len(seen) == 70
    labels = rice.held_out(config, images, "validation")[1]
    assert len(set(np.asarray(labels).tolist())) > 5  # not one class after the other


@need_data
def test_it_is_measured_every_few_epochs_and_robustly_in_one_arm():
    config = replace(SMALL, every=2)
    images = config.images.load(0)

    def hopeless(x):
        return 5.0 * jnp.eye(10)[jnp.zeros(len(x), int)] + 0.0 * x.sum()

    for arm in rice.ARMS:
        evaluate = rice.evaluation(config, images, 0, arm)
        assert evaluate(hopeless, 1) == {}
        found = evaluate(hopeless, 2)
        for split in rice.SPLITS:  # a constant predictor is right on its class, attacked or not
            _, y = rice.held_out(config, images, split)
            assert found[split] == pytest.approx(float((np.asarray(y) == 0).mean()))


@need_data
def test_a_run_has_curves_and_values_of_both_arms(result):
    for arm in rice.ARMS:
        for split in rice.SPLITS:
            curve = result.curves[f"{arm}_{split}"]
            assert curve["x"] == [2.0, 4.0] and len(curve["y"]) == 1
            (final,) = result.values[f"{arm}_final_{split}"]
            assert final == pytest.approx(curve["y"][0][-1])
        (stop,) = result.values[f"{arm}_stop"]
        assert stop in (2.0, 4.0)
    assert 0 <= result.values["adversarial_clean"][0] <= 1


def test_most_of_the_work_is_training():
    config = rice.Config()
    half = replace(config, epochs=60)
    assert 1.9 < EXPERIMENT.cost(config).flops / EXPERIMENT.cost(half).flops < 2.1
    more = replace(config, train_steps=10)
    assert EXPERIMENT.cost(more).flops > 1.3 * EXPERIMENT.cost(config).flops

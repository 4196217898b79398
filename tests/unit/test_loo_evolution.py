"""Kernels along training: the null, what is the same at the start, agreement with the library."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data, dynamics, kernels, nets
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.loo import evolution
from ntklab.papers.loo import second_phase as two

pytestmark = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")

TINY = replace(
    EXPERIMENTS["loo-toy-kernel-evolution"].presets["quick"],
    seeds=(0,),
    epochs=1,
    at=(0, 0.5, 1),
    marks=(0.5, 0.5, 1),
    n_probe=8,
    top=4,
    other_rates=(),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One seed, with its checkpoints."""
    folder = tmp_path_factory.mktemp("evolution")
    return evolution.measure(TINY, 0, Checkpoints(folder)), folder


def test_variants_change_one_thing_each():
    book = EXPERIMENTS["loo-toy-kernel-evolution"].presets["book"]
    found = {v.name: (v.seed, v.start, v.rate) for v in evolution.variants(book, 5)}
    assert found["base"] == (5, 5, 1.0)
    assert found["seed-1"] == (105, 105, 1.0) and found["seed-2"] == (205, 205, 1.0)
    assert found["order-1"] == (1005, 5, 1.0) and found["order-2"] == (2005, 5, 1.0)
    assert found["rate-0.5"] == (5, 5, 0.5) and found["rate-2"] == (5, 5, 2.0)
    assert len(found) == 7


def test_the_first_kernel_is_that_of_the_initial_weights(made):
    images = TINY.images.load(0)
    f, params = nets.as_function(nets.ToyCNN(), {"params": two.initial(0).trained})
    expected = kernels.empirical_ntk(f, params, images.x_test[:8])
    with np.load(made[1] / "standard-base" / "kernel-0.npz") as file:
        np.testing.assert_allclose(file["clean"], expected, rtol=1e-4, atol=1e-3)
    assert made[0].values["standard_norm_first"] > 0


def test_from_one_start_nothing_differs_before_training(made):
    curves = made[0].curves
    for name in ("between", "between_cka", "null_start", "null_start_cka"):
        assert curves[name][0] == list(TINY.at) and abs(curves[name][1][0]) < 1e-9
        assert curves[name][1][1] > 0
    assert min(curves["null"][1][0], curves["across"][1][0]) > 0
    assert curves["across"][1][0] == pytest.approx(curves["null_across"][1][0])


def test_distances_are_those_of_the_library(made):
    result, folder = made
    runs = []
    for kind in evolution.KINDS:
        with np.load(folder / f"{kind}-base" / "kernel-1.npz") as file:
            runs.append(jnp.asarray(file["clean"]))
    values = result.values
    assert values["between_last"] == pytest.approx(float(dynamics.distance(*runs)), abs=1e-6)
    centred = float(dynamics.distance(*runs, centred=True))
    assert values["between_cka_last"] == pytest.approx(centred, abs=1e-6)
    space = float(dynamics.eigenspace_distance(*runs, TINY.top))
    assert values["between_space_last"] == pytest.approx(space, abs=1e-3)
    assert values["standard_rank_last"] == pytest.approx(
        float(dynamics.effective_rank(runs[0])), rel=1e-4
    )


def test_a_zero_last_layer_has_one_kernel_for_all_outputs(made):
    values = made[0].values
    assert values["zero_outputs_apart"] < 1e-6 < values["zero_from_he"]
    assert values["zero_norm"] < 1

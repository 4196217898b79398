"""What experiments take: counted from the config, and the speed that a record states."""

import dataclasses
import doctest

import pytest

from ntklab import ledger, papers
from ntklab.papers import EXPERIMENTS, _cost
from ntklab.papers._cost import DEVICES, Cost, estimated_seconds, throughput


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_counts_its_operations(name):
    experiment = EXPERIMENTS[name]
    costs = [experiment.cost(config) for config in experiment.presets.values()]
    assert all(c.flops > 0 and c.dtype in DEVICES["T4"]._fields for c in costs)
    assert [c.flops for c in costs] == sorted({c.flops for c in costs}) and len(costs) >= 2
    next_size = list(experiment.presets.values())[1]
    seeds = next_size.seeds
    twice = dataclasses.replace(next_size, seeds=(*seeds, *(s + 1000 for s in seeds)))
    assert costs[1].flops < experiment.cost(twice).flops <= 2 * costs[1].flops * (1 + 1e-12)


def test_training_dominates_and_is_four_operations_a_weight_an_image_and_a_step():
    experiment = EXPERIMENTS["tk-transfer-two-layer"]
    config = experiment.presets["book"]
    steps = len(config.seeds) * max(config.steps) * config.n_train
    weights = sum(arm.width for arm in config.arms) * 784
    cost = experiment.cost(config)
    assert 4 * steps * weights < cost.flops < 1.3 * 4 * steps * weights
    assert cost.examples == steps * len(config.arms)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_faster_devices_take_less(dtype):
    times = estimated_seconds(Cost(1e15, dtype))
    assert times["T4"] > times["A100"] > times["H200"] > 0
    slower = estimated_seconds(Cost(1e15, dtype, host_flops=1e12))
    assert all(slower[d] == pytest.approx(times[d] + 10) for d in times)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_speed_of_a_run(monkeypatch, dtype):
    monkeypatch.setattr(ledger, "measured_peak", {"float32": 4e9, "bfloat16": 8e9}.get)
    found = throughput(Cost(9e9, dtype, host_flops=1e9, examples=50.0), 5.0, ())
    peak = 4e9 if dtype == "float32" else 8e9
    assert found == {
        "dtype": dtype,
        "flops_per_second": 2e9,
        "fraction_of_peak": 2e9 / peak,
        "examples_per_second": 10.0,
    }
    assert "examples_per_second" not in throughput(Cost(1.0), 5.0, ())
    assert throughput(None, 5.0, ()) == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_measured_peak_is_one_measurement(dtype):
    ledger.measured_peak.cache_clear()
    first = ledger.measured_peak(dtype)
    assert 1e8 < first < 1e16 and ledger.measured_peak(dtype) == first


def test_what_is_missing_stands_in_the_order_of_the_claims():
    rows = papers.missing("paper")
    waiting = [v.claim for v in ledger.verdicts(size="paper") if v.run is None]
    assert [row.experiment for row in rows] == list(dict.fromkeys(c.experiment for c in waiting))
    for row in rows:
        assert list(row.claims) == [c.id for c in waiting if c.experiment == row.experiment]
        experiment = EXPERIMENTS[row.experiment]
        assert row.cost == experiment.cost(experiment.presets["paper"])


def test_the_example_in_the_documentation():
    assert doctest.testmod(_cost) == (0, 1)

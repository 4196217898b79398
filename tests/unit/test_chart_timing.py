"""Ways that are timed side by side: what is compared, in which order, and what is refused."""

import time

import jax
import jax.numpy as jnp
import pytest

from ntklab import charts
from ntklab.charts import timing


def test_every_round_calls_every_way_once_in_an_order_that_turns():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    table = charts.side_by_side(ways, rounds=3)
    assert calls == list("abc") + list("abc") + list("bca") + list("cab")
    assert list(table.way) == list("abc") and set(table.rounds) == {3}


def test_ratios_are_to_the_first_way_round_by_round(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    costs = {"short": iter([0, 1, 2, 3]), "long": iter([0, 4, 4, 30])}

    def spend(name):
        now[0] += next(costs[name])

    ways = {name: lambda name=name: spend(name) for name in costs}
    table = charts.side_by_side(ways, rounds=3, seconds=100).set_index("way")
    assert list(table.seconds) == [2, 4]
    assert list(table.ratio) == [1, 4]  # of 4, 2 and 10: not 4 / 2, the ratio of the medians


def test_three_rounds_are_made_however_long_they_take_and_no_more():
    table = charts.side_by_side({"one": lambda: None}, rounds=50, seconds=0.0)
    assert set(table.rounds) == {3}


def test_results_that_differ_are_refused_by_name():
    ways = {"right": lambda: jnp.ones(2), "wrong": lambda: jnp.zeros(2)}
    with pytest.raises(AssertionError, match="'wrong' and 'right' give different results"):
        charts.side_by_side(ways, equal=jnp.allclose, rounds=1)


@pytest.mark.parametrize(("ways", "rounds"), [({}, 3), ({"one": lambda: 1}, 0)])
def test_nothing_to_time_is_refused(ways, rounds):
    with pytest.raises(ValueError, match="at least one round"):
        charts.side_by_side(ways, rounds=rounds)


def test_the_machine_is_named_with_its_cores_and_limits(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    said = charts.machine()
    assert "core" in said and jax.__version__ in said
    if jax.local_devices()[0].platform == "cpu":
        assert said.startswith("CPU") and "OMP_NUM_THREADS=7" in said


def test_the_record_of_make_bench_is_read_with_its_machine():
    table = charts.benchmarks("ResNet-18")
    assert list(table.columns) == ["What", "Ours, s", "Other, s", "Ratio", "At most"]
    assert len(table) >= 3 and all("ResNet-18" in name for name in table.What)
    assert "make bench" in table.attrs["machine"]
    with pytest.raises(ValueError, match="'no such network'"):
        charts.benchmarks("no such network")


def test_without_a_record_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "_PACKAGE", tmp_path / "ntklab")
    with pytest.raises(FileNotFoundError, match="run it in a checkout"):
        charts.benchmarks()

"""The benchmark of training: when two losses are alike, and what lacks without its environment."""

from pathlib import Path

import jax
import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import bench_training

    return bench_training


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ([2.5, 2.5, 2.2, 2.2], True),
        ([2.54, 2.5, 2.2, 2.18], True),
        ([2.5, 2.5, 2.5, 2.5], False),  # did not learn
        ([2.2, 2.2, 2.5, 2.5], False),
        ([2.5, 2.5, 2.21, 2.8], False),  # fell by less
    ],
)
def test_losses_are_alike_when_both_fall_by_the_same(bench, other, alike):
    assert bench.learn_alike([2.5, 2.2], other) == alike


def test_both_sides_get_the_same_problem(bench):
    """Images in the box, all labels, and the weights that flax made."""
    case = bench.CASES[0]._replace(batches=1)
    _, weights, x, y = bench.problem(case)
    assert x.shape == (100, 14, 14, 1) and x.min() >= 0 and x.max() <= 1
    assert np.bincount(y).tolist() == [10] * 10
    arrays = bench.in_torch(case, weights, x, y).arrays
    assert arrays["v/hidden/kernel"].shape == (288, 128)
    assert sum(a.size for name, a in arrays.items() if name.startswith("v/")) == sum(
        leaf.size for leaf in jax.tree.leaves(weights)
    )


def test_without_its_environment_the_benchmark_says_how_to_make_it(bench):
    other = bench.SecondPython(".venv-none", "torch_training.py", [], {})
    with pytest.raises(FileNotFoundError, match="makes the environment"):
        other.call()
    other.close()

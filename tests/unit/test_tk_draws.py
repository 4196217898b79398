"""The exchange test of the trial on features."""

import numpy as np
import pytest

from ntklab.papers.tsilivis_kempe import feature_draws


def test_a_row_far_from_the_others_in_one_entry_is_far():
    others = np.random.default_rng(0).normal(0.2, 0.01, size=(12, 5))
    row = others.mean(axis=0)
    assert feature_draws.apart(row, others) == pytest.approx(0, abs=1e-12)
    row[3] += 0.05
    expected = 0.05 / others[:, 3].std(ddof=1)
    assert feature_draws.apart(row, others) == pytest.approx(expected)


def test_entries_that_never_differ_do_not_divide_by_zero():
    others = np.full((4, 2), 0.1)
    assert feature_draws.apart(np.array([0.1, 0.102]), others) == pytest.approx(2)


def test_the_trial_has_the_twenty_numbers_that_are_compared():
    held = feature_draws.trial()
    assert len(held) == 20
    assert (held["useful_2"], held["robust_5"], held["fgsm_100"]) == (0.21, 0.004, 0.55)

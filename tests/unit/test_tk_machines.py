"""Restarts and searches on kernel machines: how images are counted, and which attack is which."""

import numpy as np
import pytest

from ntklab.papers.tsilivis_kempe import machines

NAMES = ("clean", "step", "pgd", "margin", "restarts", "square", "block")


def counted(**broken):
    """Five images, all right at first; each attack breaks those that are listed."""
    found = {name: np.ones(5, bool) for name in NAMES}
    for name, rows in broken.items():
        found[name][list(rows)] = False
    return machines._counted(found)


def test_differences_are_counted_by_image():
    values = counted(step=[0], pgd=[0], margin=[0, 1], restarts=[1, 2], square=[2, 3], block=[3, 4])
    assert values["margin"] == pytest.approx(0.6)
    assert values["all"] == 0
    assert values["restarts_won"] == pytest.approx(0.2)  # image 2; not image 0, which it lost
    assert values["search_won"] == pytest.approx(0.4)  # images 3 and 4
    assert values["search_lost"] == pytest.approx(0.4)  # images 0 and 1
    assert values["step_gap"] == pytest.approx(0.8)


def test_a_search_that_finds_nothing_more_wins_nothing():
    values = counted(margin=[0, 1, 2], restarts=[0, 1, 2], square=[0])
    assert values["search_won"] == 0 and values["search_lost"] == pytest.approx(0.4)
    assert values["all"] == pytest.approx(0.4)


@pytest.mark.parametrize("binary", [False, True])
def test_two_of_the_suite_ask_for_scores_only(binary):
    made = machines.suite(machines.Config(queries=7, restarts=3), 0.1, binary)
    assert list(made) == list(NAMES[1:])
    assert [made[name].queries for name in ("square", "block")] == [7, 7]
    assert made["restarts"].restarts == 3 and made["margin"].restarts == 1
    assert all(attack.eps == 0.1 for attack in made.values())

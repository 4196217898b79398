"""The chapter on training a tangent adversarially: its hand example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

from ntklab import ledger

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part2/linearised_adversarial_training"
SMALL = {"n_train": 200, "n_test": 8}
#: Networks and attacks on them, which no statement of the small size needs.
LIVE = (
    "chapter_data(",
    "class Network",
    "inner = training.PGD",
    "class Tangent",
    "tags = {",
    "parent = runs",
    "gated, climb",
    "short = {",
    "def recorded",
    "recorded(",
    "hard = jnp",
)
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=LIVE)


# --- the example for the hand ---------------------------------------------------------------


def by_formula() -> list[str]:
    """The decimals of the example, in the order of the text, with the math module alone."""

    def loss(margin):
        return math.log(1 + math.exp(-margin))

    def f(v):
        return f"{v:.3f}"

    low, high = 4 * (0.3 - 0.25) - 1, 4 * (0.7 - 0.25) - 1
    plateau, third = loss(-1) + loss(1), loss(4 * (0.7 - 0.3) - 1) + loss(1)
    both, off, change = loss(high) + loss(-low), loss(1), -0.5
    right, left = high - 4 * change, low - 4 * change
    end = loss(high + 0.2) + loss(-(low + 0.2))
    return [
        "0.2", "0.8", "0.1", "0.3", "0.7", "0.25", f"{0.3 - 0.25:.2f}", f"{low:.1f}",
        f"{0.7 - 0.25:.2f}", f"{high:.1f}", f(loss(high)), f(both), "0.7", f(plateau), "0.3",
        f(third), "0.7", "0.3", "1.1", f(plateau), f((third + plateau) / 2), "0.25", "0.25", "0.25",
        "0.25", f(both), "0.7", "0.2", f(off), "0.7", "-0.5", f(loss(right)), f(off),
        f(loss(right) + off), f(loss(high) + off), "0.3", f"{low:.1f}", f"{left:.1f}",
        f(loss(-left)), f(loss(right) + loss(-left)), "0.25", f"{0.2 - 0.25:.2f}", "0.2", "0.3",
        f"{0.2 - 0.25:.2f}", f(end),
    ]  # fmt: skip


def check_text(text: str) -> None:
    """Every decimal of the example against the formulas."""
    start = text.index("It says class $+1$ above")
    section = text[start : text.index("Here the mistake is a cure")]
    assert re.findall(r"-?\d+\.\d+", section) == by_formula()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right", ["lose $0.371$", "is $1.627$", "the loss $1.463$", "about $0.751$"]
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, another_digit(right)))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    said = chapter.printed[chapter.cell("seen = lambda")]
    wanted = [0.742, 0.25, 0.751, 0.3, 1.627, 0.7, 0.684, 0.742, -0.5, 0.372, 1.522]
    assert [float(v) for v in re.findall(r"-?\d+\.\d+", said)] == wanted


def test_the_exercise_by_hand_is_right(chapter):
    solution = chapter.text[chapter.text.index("From $(1, 0)$ with") :]
    point = (1 - 0.1 * 1, 0 - 0.1 * 2)
    assert f"$({point[0]:.1f}, {point[1]:.1f})$" in solution
    assert f"$G = {point[0] + 2 * abs(point[1]):.1f}$" in solution
    assert f"= {point[0] ** 2 + point[1] ** 2:.2f}$" in solution


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "cells: those of another network": (
        "tangent_of(w, changes[0], path)[1]",
        "tangent_of(changes[1], changes[0], path)[1]",
    ),
    "convex: the network's plateau, lower": (
        "robust(lambda x: unit(0.7, x)) > (",
        "robust(lambda x: unit(0.28, x)) > (",
    ),
    "unit: a better change of the tangent": (
        "for c in np.linspace(-1, 1, 201)) > at(0.0) - 1e-6",
        "for c in np.linspace(-1, 1, 201)) > at(0.05) + 1e-6",
    ),
    "unit: the own gradient, told of the gate": (
        '"own gradient": lambda change: reached(lambda x: 4 * (x > 0.25))',
        '"own gradient": lambda change: reached(lambda x: 4 * (x > 0.15))',
    ),
    "seen: no room for the way to go": (
        "room = other @ other / (2 * 0.05 * 400) + 0.05 * lengths.max() ** 2 / 2",
        "room = -0.3",
    ),
    "seen: no oversight in the true loss": (
        "true(other) + room + (really - saw).mean() + 1e-12",
        "true(other) + room",
    ),
    "dead: a unit that is not": ("dead, fallen = 0.95, 0.6", "dead, fallen = 0.65, 0.6"),
    "revived: by an attack that is blind": (
        "train_unit(worst_points, fallen)",
        'train_unit(sources["own gradient"], fallen)',
    ),
    "uphill: a step that is too long": ("after = place - 0.1 * d", "after = place - 0.5 * d"),
    "random starts: none beyond the gate": (
        "x = spots + radius * rng.uniform(-1, 1, 2)",
        "x = spots + radius * rng.uniform(-1, 0, 2)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])


# --- records ----------------------------------------------------------------------------------


def test_the_page_names_only_claims_of_the_ledger(chapter):
    named = set(re.findall(r'recorded\("([a-z0-9-]+)"', chapter.text))
    mine = {c.id for c in ledger.claims() if c.chapter == NAME}
    assert len(named) == 3 and named <= mine
    shown = {ledger.claim(id).experiment for id in named}
    assert shown == {ledger.claim(id).experiment for id in mine}

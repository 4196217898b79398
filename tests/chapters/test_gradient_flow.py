"""The chapter on gradient flow: its hand-worked example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from statements import Chapter

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part1/gradient_flow"
SMALL = {
    "n_train": 300, "n_test": 500, "n_order": 60, "width": 512, "steps": 130, "n_networks": 40,
    "n_pool": 300, "n_draws": 8,
}  # fmt: skip
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL)


# --- the example for the hand ---------------------------------------------------------------


def by_formula() -> dict[str, str]:
    """The example with nothing but the math module, written as the text writes it."""
    fast, slow = math.exp(-3), math.exp(-1)
    turn = math.log(3) / 2
    return {
        "slow": f"{slow:.4f}",
        "fast": f"{fast:.4f}",
        "sum": f"{1 - fast:.4f}",
        "difference": f"{1 - slow:.4f}",
        "first": f"{(1 - fast) + (1 - slow):.4f}",
        "second": f"{(1 - fast) - (1 - slow):.4f}",
        "turn": f"{turn:.4f}",
        "height": f"{math.exp(-turn) - math.exp(-3 * turn):.4f}",
        "new": f"{2 / 3 * (1 - fast):.4f}",
        "end": f"{2 / 3:.4f}",
        "left": f"{1 / 3:.4f}",
    }


def check_text(text: str) -> None:
    """Every decimal of the worked example against the formulas."""
    section = text[text.index("## What do three weights") : text.index("def inner")]
    e = by_formula()
    assert re.findall(r"\d+\.\d+", section) == [
        e["slow"], e["fast"], e["sum"], e["difference"], e["first"],
        e["sum"], e["difference"], e["second"],
        e["turn"], e["height"], e["new"], e["end"], e["end"], e["left"],
    ]  # fmt: skip


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right",
    ["= 0.3679", "= 1.5823", "= 0.3181", "$t = 0.5493", "= 0.3849", "difference of $0.3333"],
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    digit = right[-1]
    assert right in chapter.text
    with pytest.raises(AssertionError):
        wrong = right[:-1] + str((int(digit) + 1) % 10)
        check_text(chapter.text.replace(right, wrong))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    e = by_formula()
    said = chapter.printed[chapter.cell("def inner(x1, x2=None)")]
    hand, library, _ = (re.findall(r"\d\.\d{4}", line) for line in said.splitlines())
    assert hand == library == [e["first"], e["second"], e["new"]]


def test_the_toys_ridge_and_budget_are_those_of_fractions(chapter):
    shares = 3 / (3 + 1), 1 / (1 + 1)
    first, second = shares[0] + shares[1], shares[0] - shares[1]
    said = f"and the scores ${first:.2f}$, ${second:.2f}$ and ${2 / 3 * shares[0]:.1f}$"
    assert said in chapter.text
    assert f"\\tfrac34 + \\tfrac12 = {sum(shares):.2f}$" in chapter.text
    learn = np.array([[1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 0]])
    world = np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 1]])
    by_definition = world[:, :2] @ np.linalg.inv(world[:2, :2])
    np.testing.assert_allclose(learn, np.column_stack([by_definition, np.zeros(3)]), atol=1e-12)
    assert r"\tfrac13 & \tfrac13 & 0" in chapter.text


def test_the_widest_gap_of_stop_and_ridge(chapter):
    """By bisection of the slope's sign: `2 log(1 + z) = z`."""
    low, high = 1.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * math.log1p(middle) > middle else (low, middle)
    assert f"$z^* = {low:.4f}$" in chapter.text
    assert f"= {1 / (1 + low) - math.exp(-low):.5f}$" in chapter.text


def test_exercises_have_the_numbers_that_they_promise(chapter):
    low, high = 0.0, 1.0
    for _ in range(60):
        u = (low + high) / 2
        low, high = (u, high) if u**3 + u < 1 else (low, u)
    assert (
        f"t \\approx {-math.log(low):.4f}$" in chapter.text and f"$u = {low:.4f}$" in chapter.text
    )


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another number": ("1.5823, 0.3181", "1.5723, 0.3181"),
    "toy: the start does not matter": ("[2, 0, 1], atol", "[2, 0, 2 / 3], atol"),
    "flow: a ridge in its place": ("-np.expm1(-s * end_time))", "s / (s + 1 / end_time))"),
    "flow: the start is forgotten": ("parity[:12] - begin[:12]", "parity[:12]"),
    "start: it is all lost": ("left = np.asarray(f_start) - ", "left = 0 * np.asarray(f_start) - "),
    "start: it is all kept": (
        "np.asarray(f_start)[:, :n_few] @ q  #",
        "0 * np.asarray(f_start)[:, :n_few] @ q  #",
    ),
    "start: a variance without its cross terms": ("- mixed - mixed.T", ""),
    "start: centring does nothing": ("now[n_networks:] - np.asarray(f_start)", "now[:n_networks]"),
    "spectrum: labels are like random ones": ('"parity", energy)', '"parity", energy[::-1])'),
    "order: one clock for all": ("(1 - rate * values) ** stop", "(1 - rate * values[9]) ** stop"),
    "order: clocks of twice the speed": ("** stop * whole", "** (2 * stop) * whole"),
    "ridge: a closer bound": ("apart.max() < 0.2037", "apart.max() < 0.19"),
    "ridge: the other is ahead": ("-np.expm1(-z) - z / (1 + z)\n", "z / (1 + z) + np.expm1(-z)\n"),
    "ridge: matched by another time": ("lam[0] / units[14]", "lam[0] / units[10]"),
    "stop: nothing is gained": ("< 0.97 * ends.min()", "> 0.97 * ends.min()"),
    "law: for a basis that is not one": ("basis, ridge, t)", "2 * basis, ridge, t)"),
    "law: a ridge costs nothing": ("np.sum(own / (own + 0.3))", "n"),
    "law: time costs nothing": ("np.sum(-np.expm1(-2.0 * own))", "n"),
    "cube: other eigenvectors": ("rotated = psi.T @ cube @ psi", "rotated = cube"),
    "cube: twice the budget": ("eigenlearning(mu, n)", "eigenlearning(mu, 2 * n)"),
    "cube: the ridge of another mode": ("exact = n / (root[:, i]", "exact = 2 * n / (root[:, i]"),
    "images: no overfitting": ("theory.error(power)", "theory.error(power) / theory.overfitting"),
    "images: a flat spectrum": ("np.maximum(mu_pool, 0), n)", "0 * mu_pool + mu_pool.mean(), n)"),
    "curve: more images do not help": ('curve[0]["error"] / 2', 'curve[0]["error"] / 50'),
    "rounding: less than it does": ("<= 1.01 * condition * error", "<= 1e-4 * condition * error"),
    "rounding: the smooth kernel is safe": (
        '0.2 * largest.loc["erf, few pixels", "condition"]',
        '0.2 * largest.loc["ReLU", "condition"]',
    ),
    "exercise: another end": ("[2, 0, 1 / 3])", "[2, 0, 2 / 3])"),
    "exercise: the posterior leaves more": ("(ours >= least", "(least >= ours"),
    "exercise: no peak": ("eigenlearning(mu_50, 50)", "eigenlearning(mu_50, 49)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

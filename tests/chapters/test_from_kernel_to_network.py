"""The chapter on trained two-layer networks: its hand-worked example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part2/from_kernel_to_network"
SMALL = {
    "n_train": 100, "n_test": 40, "width": 128, "steps": [30, 100], "n_networks": 2,
    "queries": 20, "n_draws": 60,
}  # fmt: skip
#: The search on live networks, and what needs no statement.
LIVE = ("few = slice", "def recorded", "cars = recorded", "trial = {", "step_of = attacks")
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=(*LIVE, "victim = "))


# --- the example for the hand ---------------------------------------------------------------


def network(scale: float, steps: int) -> list[float]:
    """f - f_0 at the second input, by hand: two units are on there, of signs +1 and -1."""
    moved, scores = [0.0, 0.0], []
    for _ in range(steps + 1):
        one, two = scale + moved[0], scale + moved[1]
        scores.append((max(one, 0) - max(two, 0)) / 2)
        push = (-1 - scores[-1]) / 2  # half the mean over two images
        moved = [moved[0] + push / 2 * (one > 0), moved[1] - push / 2 * (two > 0)]
    return scores


def by_formula() -> list[str]:
    """The decimals of the example, in the order of the text."""
    free, half = [0.75**j - 1 for j in range(5)], network(0.5, 4)
    left = 0.5 + (1 - 0.75**3), 0.5 - (1 - 0.75**3)
    return [
        "0.25", *(f"{abs(v):.4f}" for v in free[2:]), f"{1 - math.exp(-1):.4f}",
        f"{1 - math.exp(-2):.4f}", "0.5", "0.05", "0.5", f"{-half[3]:.4f}", f"{-half[4]:.4f}",
        f"{left[0]:.4f}", f"{-left[1]:.4f}",
    ]  # fmt: skip


def check_text(text: str) -> None:
    """Every decimal of the worked example against the formulas."""
    start = text.index("*The clock.* Train")
    section = text[start : text.index("So a large $\\bar\\sigma$ makes switches rare")]
    assert re.findall(r"\d+\.\d+", section) == by_formula()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right", ["$-0.4375$", "e^{-1} - 1 = -0.6321", "e^{-2} - 1 = -0.8647", "$-0.5967$", "(1.0781"]
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, another_digit(right)))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    said = chapter.printed[chapter.cell("def toy_course")]
    assert "unit 1 is off from step None" in said and "unit 1 is off from step 3" in said
    found = re.findall(r"-?\d\.\d+", said[said.index("scale 0.5") :])
    wanted = ["0.5", *(f"{v:.4f}" for v in network(0.5, 4)), "-0.6321", "1.0781", "-0.0781"]
    assert [float(v) for v in found] == [float(v) for v in wanted]


def test_the_exercise_by_hand_is_right(chapter):
    scores = network(0.3, 3)
    assert scores[2] < -0.3 < scores[1]
    assert f"step 2, ${scores[2]:.4f}$ and ${scores[3]:.4f}$" in chapter.text


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "kernel: one sign for all classes": ("size=(m, 2))", "size=(m, 2)) ** 2"),
    "kernel: another limit": ("(gates @ gates.T) / m", "(gates @ gates.T) / m / 2"),
    "toy: another learning rate": ("toy_y, 1.0, j,", "toy_y, 0.5, j,"),
    "toy: a kernel of another size": ("np.eye(2) / 2, atol", "np.eye(2), atol"),
    "clock: flow that is ahead": (
        "gap = np.exp(-rate * values * j) - (1 - rate * values) ** j",
        "gap = (1 - rate * values) ** j - np.exp(-rate * values * j)",
    ),
    "clock: a smaller bound": ("bound = rate / 2 *", "bound = rate / 2000 *"),
    "clock: the sum of squares": ("rate = bar_rate / n_train", "rate = bar_rate"),
    "clock: a lazy network with another time": ("float(j_clock * c)", "float(5 * j_clock * c)"),
    "transfer: angles that do not add": ("angle(g, h) + angle(h, np.sign(h))", "angle(h, g)"),
    "flips: a unit that may not move": ("/ n_train * np.sqrt(10)", "/ n_train / 100"),
    "flips: a kernel that moves with one image": (
        "switched[:, None] + switched + 1e-9",
        "0 * switched + 1e-9",
    ),
    "scatter: a root of the width": (") + 0.25) < 0.06", ") + 0.5) < 0.06"),
    "scatter: that does not grow with the scale": (") - 0.5) < 0.1", ") - 0.0) < 0.1"),
    "centre: a product of other networks": ('found["product"]', 'found["to_kernel"]'),
    "exercise: a worst case that is none": ("abs(share - bound) < 1e-9", "share > bound + 1e-9"),
    "exercise: the mean over ten classes": ("10_000, 10), 2e-4", "10_000, 10), 1e-3"),
    "exercise: no unit switches": ("toy_course(0.3, 3)", "toy_course(1.3, 3)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

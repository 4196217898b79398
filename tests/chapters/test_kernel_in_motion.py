"""The chapter on the kernel in training: its hand-worked examples, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from statements import Chapter, another_digit

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part3/kernel_in_motion"
SMALL = {"n_train": 100, "n_probe": 10, "n_draws": 15}
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, last="alarms = {")


# --- the examples for the hand --------------------------------------------------------------

BEFORE = ((2, 1, 1), (1, 2, 1), (1, 1, 2))
AFTER = ((2, 2, 0), (2, 2, 0), (0, 0, 2))


def inner(a, b):
    return sum(x * y for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))


def length(a):
    return math.sqrt(inner(a, a))


def cosine(a, b):
    return inner(a, b) / length(a) / length(b)


def shifted(a, by):
    return [[x + by for x in row] for row in a]


def centred(a):
    n = len(a)
    columns = [sum(row[j] for row in a) / n for j in range(n)]
    a = [[row[j] - columns[j] for j in range(n)] for row in a]
    return [[x - sum(row) / n for x in row] for row in a]


def entropy(values):
    shares = [v / sum(values) for v in values if v]
    return -sum(p * math.log(p) for p in shares)


def aligned(a, chosen):
    return sum(a[i][j] for i in chosen for j in chosen) / length(a) / len(chosen)


def three_by_three() -> list[str]:
    """The decimals of the first example, in the order of the text, with the math module alone."""
    moved = [centred(a) for a in (BEFORE, AFTER)]
    apart = 1 - cosine(*moved)
    table = [[aligned(a, c) for c in ((0, 1), (2,))] for a in (AFTER, BEFORE)]
    means = [(table[0][c] + table[1][c]) / 2 for c in (0, 1)]
    matrix = [[table[r][c] / means[c] for c in (0, 1)] for r in (0, 1)]
    numbers = [
        cosine(BEFORE, AFTER), 1 - cosine(BEFORE, AFTER),
        1 - cosine(shifted(BEFORE, 10), shifted(AFTER, 10)),
        cosine(*moved), apart,
        apart, 0.5, apart / 0.5,
        entropy((4, 1, 1)), entropy((4, 1, 1)), math.exp(entropy((4, 1, 1))),
        entropy((4, 2)), math.exp(entropy((4, 2))),
        2 / math.sqrt(6), math.sqrt(1 - 4 / 6),
        *table[0], *table[1], *matrix[0], *matrix[1], (matrix[0][0] + matrix[1][1]) / 2,
    ]  # fmt: skip
    return [f"{v:g}" if v == 0.5 else f"{v:.4f}" for v in numbers]


def two_parameters() -> list[str]:
    """The decimals of the second example."""
    kernels = {"before": (1, 1), "standard": (4, 4**0.25), "adversarial": (4, 4**-0.5)}

    def angle(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    b, s, a = kernels.values()
    first, second, third = angle(b, s), angle(b, a), angle(s, a)
    assert math.isclose(math.hypot(*s) ** 2, 18) and math.isclose(math.hypot(*a) ** 2, 16.25)
    return [
        f"{s[1]:.4f}", f"{a[1]:g}",
        f"{4 + s[1]:.4f}", f"{first:.4f}", f"{1 - first:.4f}",
        f"{4 + a[1]:g}", "16.25", f"{second:.4f}", f"{1 - second:.4f}",
        f"{16 + s[1] * a[1]:.4f}", "16.25", f"{third:.4f}", f"{1 - third:.4f}",
        f"{math.exp(entropy(s)):.4f}", f"{math.exp(entropy(a)):.4f}",
    ]  # fmt: skip


def check_text(text: str) -> None:
    """Every decimal of both examples against the formulas."""
    start = text.index("Three images, the first two of class 1")
    section = text[start : text.index("The library must say the same.", start)]
    assert re.findall(r"\d+\.\d+", section) == three_by_three()
    start = text.index("*Three kernels.*")
    section = text[start : text.index("```{code-cell}", start)]
    assert re.findall(r"\d+\.\d+", section) == two_parameters()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right", ["is $0.1567$.", "now $0.0025$.", "= 2.3811$", "becomes $1.1170$", "distance $0.2106$"]
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    wrong = another_digit(right)
    assert chapter.text.count(right) == 1
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, wrong))


def test_the_integers_of_the_shift(chapter):
    a, b = shifted(BEFORE, 10), shifted(AFTER, 10)
    for value in (inner(a, b), inner(a, a), inner(b, b)):
        assert f"= {value}$" in chapter.text


def test_the_smallest_p_of_five_pairs(chapter):
    distances = np.ones((10, 10))
    distances[:5, :5] = distances[5:, 5:] = 0.1
    _, p = chapter.space["exchange_test"](distances)
    assert p == 2 / 2**5 and r"can reach $\tfrac{1}{16}$" in chapter.text


def test_the_exercises_promise_the_right_entries(chapter):
    for entry in (4**-0.25, 4**-1.5):
        assert f"{entry:.4g}" in chapter.text[chapter.text.index(":label: ex-km-three") :]


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another distance": ("after), 0.1567)", "after), 0.1467)"),
    "toy: a shift that shows": ("10 * ones), 0.0025)", "10 * ones), 0.1567)"),
    "toy: another rank": ("(after), 1.8899)", "(after), 2.0)"),
    "toy: centring that keeps the shift": ("10 * ones, centred=True)", "10 * ones)"),
    "distance: a factor of one image": ("(7 * one[order]", "(jnp.arange(1.0, n + 1) * one[order]"),
    "distance: images in two orders": ("two[order][:, order]), s)", "two), s)"),
    "distance: the angle itself": ("two), 1 - s)", "two), np.arccos(min(s, 1)))"),
    "centred: features that move apart": ("(n, rank), rank))", "(n, rank), (n, rank)))"),
    "mean: a smaller bound": ("bound = 0.5 *", "bound = 0.4 *"),
    "rank: no factor of the outputs": ("3 * sizes[-1])", "sizes[-1])"),
    "rank: less than that of the matrix": ("max(sizes) <= 5", "max(sizes) <= 2"),
    "spaces: another length": ("/ np.sqrt(2 * r))", "/ np.sqrt(r))"),
    "spaces: random ones are orthogonal": ("d**2 - (1 - r / n)", "d**2 - 1"),
    "specialisation: rows average to one": (
        "by_target.mean(axis=0), 1)",
        "by_target.mean(axis=1), 1)",
    ),
    "specialisation: the variant's columns": (
        "by_own.diagonal().mean(), 1)",
        "by_own.mean(axis=0), 1)",
    ),
    "specialisation: of kernels that differ": ("([one, 2 * one,", "([one, 2 * two,"),
    "motion: half of the formula": ("half + half.transpose(1, 0, 2)", "half"),
    "motion: other pushes": ("(vector) @ push", "(vector) @ push[::-1]"),
    "switching: ReLU as smooth units": ('"ReLU": jax.nn.relu}', '"ReLU": softplus}'),
    "toy of two: another budget": ('"adversarial": 0.5}', '"adversarial": 0.3}'),
    "toy of two: clean pushes": ("* theta * learned", "* theta * point"),
    "exchange: ties that do not count": ("found[0] - 1e-9", "found[0] + 1e-9"),
    "exchange: labels that are known": ("swapped, 1 - swapped]", "0 * swapped, 1 + 0 * swapped]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

"""The chapter on how the kernel moves: its hand-worked example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part2/how_the_kernel_moves"
SMALL = {"n_train": 300, "n_draws": 12}
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, last="limit, half, rows =")


# --- the example for the hand ---------------------------------------------------------------

START, FIRST, SECOND, APART = (2, 1, 1, 2), (5, 4, 4, 5), (8, 2, 2, 2), (2, 0, 0, 2)


def inner(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return inner(a, b) / math.sqrt(inner(a, a) * inner(b, b))


def by_hand() -> list[str]:
    """The decimals of the example, in the order of the text, with the math module alone."""
    one, two, other = (cosine(START, k) for k in (FIRST, SECOND, APART))
    eigenvector = math.atan2(4, 6) / 2
    between = math.pi / 4 - eigenvector
    numbers = [
        *(one, 1 - one, math.acos(one)),
        *("8.2", math.sqrt(inner(FIRST, FIRST) / inner(START, START))),
        *("0.9", 81 / 82, "0.75", "0.9"),
        *(two, math.acos(two)),
        *(eigenvector, math.pi / 4, between, math.cos(between)),
        *(math.cos(between) ** 2, math.acos(math.cos(between) ** 2)),
        1 - other,
    ]
    return [v if isinstance(v, str) else f"{v:.4f}" for v in numbers]


def check_text(text: str) -> None:
    """Every decimal of the example against the formulas."""
    start = text.index("Two images, one output.")
    section = text[start : text.index("```{code-cell}", start)]
    assert re.findall(r"\d+\.\d+", section) == by_hand()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


def test_the_integers_of_the_example(chapter):
    assert (inner(START, FIRST), inner(START, START), inner(FIRST, FIRST)) == (28, 10, 82)
    assert (inner(START, SECOND), inner(SECOND, SECOND), inner(START, APART)) == (24, 76, 8)
    for words in ("= 28$", r"24/\sqrt{760}", r"8/\sqrt{80}", r"5 \pm \sqrt{13}"):
        assert words in chapter.text
    assert (5 - math.sqrt(13)) * (5 + math.sqrt(13)) == pytest.approx(8 * 2 - 2 * 2)


@pytest.mark.parametrize("right", ["is $0.0222$", "= 2.8636$", "rotation $0.6804$", "= 0.1056$"])
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    assert chapter.text.count(right) == 1
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, another_digit(right)))


def test_the_bound_of_a_concentrated_kernel_is_as_the_text_says():
    c = 0.99
    assert 2 * math.sqrt(c * (1 - c)) + (1 - c) == pytest.approx(0.2, abs=0.01)


def test_the_radius_of_a_kernel_that_grew_tenfold(chapter):
    """It is the norm's share to within about two tenths, by the bounds of the text."""
    off = [max(s / 10 - (s - 1) / 11, (s + 1) / 9 - s / 10) for s in (1, 5, 10)]
    assert max(off) < 0.23 and "within about two tenths" in chapter.text


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another distance": ("(start, first), 0.0222)", "(start, first), 0.0322)"),
    "toy: a top that turns": ('(tops["start"], tops["first"])', '(tops["start"], tops["second"])'),
    "toy: a batch that is the same": ("2 * jnp.eye(2)), 0.1056)", "start), 0.1056)"),
    "toy: shares of the trace": ("(start, 1), 0.9)", "(start, 1), 0.75)"),
    "rotation: one kernel turned alone": ("turn @ two @ turn.T), angle)", "two), angle)"),
    "rotation: distances in the triangle": (
        "worst.append(angle / long)",
        "worst.append(2.5 * angle / long)",
    ),
    "rotation: other kernels at distance zero": ("(one, 3 * one), 0.0)", "(one, two), 0.0)"),
    "velocity: distances that keep their speed": ("ways[0.2][1] - 0.5)", "ways[0.2][1] - 1)"),
    "velocity: rotations that do not": ("ways[0.2][0] - 1)", "ways[0.2][0] - 0.5)"),
    "concentration: outputs that count once": ("jnp.eye(3)), 3 * r), c)", "jnp.eye(3)), r), c)"),
    "concentration: below the trace": ("values.sum() - c)", "values.sum() - c / 2)"),
    "concentration: columns that are not of length one": (
        "np.linalg.norm(columns.T @",
        "np.linalg.norm(5 * columns.T @",
    ),
    "top: a lower side that is too high": ("least = np.sqrt(c * d) * top", "least = 1.5 * top"),
    "top: an upper side without the mixed terms": (
        "most = least + np.sqrt(c * (1 - d)) + np.sqrt((1 - c) * d)",
        "most = least",
    ),
    "polar: the sine": (
        "- 2 * s * np.cos(float(place.angle))",
        "- 2 * s * np.sin(float(place.angle))",
    ),
    "mixed: a distance that goes away": ("- (1 - limit)) < 0.03", ") < 0.03"),
    "mixed: the limit of one image": (
        "apart.mean() ** 2 / np.mean(apart**2)",
        "np.median(apart) ** 2 / np.mean(apart**2) / 2",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

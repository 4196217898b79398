"""The chapter on features: its hand-worked example, and cells that can fail."""

import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part2/robust_and_nonrobust_features"
SMALL = {
    "n_train": 120, "n_cars": 120, "n_test": 60, "n_valid": 40, "n_features": 6,
    "dense": ["fc1", "fc2"], "conv": [], "n_conv": 30, "n_exact": 20, "top": 5,
}  # fmt: skip
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, last="subset = x[:100]")


# --- the example for the hand ---------------------------------------------------------------

POINTS = (((2, -0.25), 1), ((1, 0.25), 1), ((-2, 0.25), -1), ((1, 0.7), -1))
WEIGHTS = {"first": (0.5, 0.0), "second": (0.0, -1.0), "machine": (0.5, -1.0)}


def score(weights, x):
    return sum(w * a for w, a in zip(weights, x, strict=True))


def held(weights, eps):
    """Share of points on which a linear score stays right within the cube."""
    reach = eps * sum(map(abs, weights))
    return sum(y * score(weights, x) > reach for x, y in POINTS) / len(POINTS)


def check_text(text: str) -> None:
    """The table of scores and the shares, against arithmetic."""
    start = text.index("| point | class |")
    rows = text[start : text.index("\n\n", start)].splitlines()[2:]
    for row, (x, y) in zip(rows, POINTS, strict=True):
        cells = [cell.strip().strip("$") for cell in row.strip("|").split("|")]
        assert int(cells[1]) == y
        found = [float(cell) for cell in cells[2:]]
        assert found == [round(score(w, x), 12) for w in WEIGHTS.values()]
    section = text[start : text.index("def inner", start)]
    assert [held(w, 0.0) for w in WEIGHTS.values()] == [0.75, 0.75, 1.0]
    assert [held(w, 0.8) for w in WEIGHTS.values()] == [0.75, 0.0, 0.5]
    assert "= 1.2$" in section and "less than $1.25$" in section and 0.8 * 1.5 == pytest.approx(1.2)
    assert (
        r"from $\tfrac34$ to $1$, and lowered the robustness from $\tfrac34$ to $\tfrac12$"
        in section
    )


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right", ["| $1.25$ |", "| $-0.7$ |", "| $-0.2$ |", "(\\tfrac12 + 1) = 1.2$"]
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    assert chapter.text.count(right) == 1
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, another_digit(right)))


def test_the_code_prints_the_scores_of_the_text(chapter):
    said = chapter.printed[chapter.cell("toy = predictors.KernelRegression(inner")]
    found = [float(n) for n in re.findall(r"-?\d+\.\d+", said.splitlines()[0])]
    assert found == [round(score(WEIGHTS["machine"], x), 4) for x, _ in POINTS]


def test_the_exercise_promises_the_right_numbers(chapter):
    start = chapter.text.index(":label: ex-rf-hand")
    asked = chapter.text[start : chapter.text.index("exercise-end", start)]
    assert [held(w, 0.6) for w in WEIGHTS.values()] == [0.75, 0.25, 0.5]
    assert r"$\tfrac34$, $\tfrac14$, $\tfrac12$; below $0.1333$" in asked
    assert held(WEIGHTS["machine"], 0.1333) == 1 and held(WEIGHTS["machine"], 0.1334) == 0.75


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another score": ("[1.25, 0.25, -1.25, -0.2]", "[1.25, 0.25, -1.25, 0.2]"),
    "toy: a robust second feature": ('["fgsm"]) == [0.75, 0]', '["fgsm"]) == [0.75, 0.75]'),
    "toy: no price for accuracy": ("assert held == 0.5", "assert held == 0.75"),
    "cap: one class alone": ("<= set(named[i])", "<= set(named[i][1:])"),
    "cap: a third of the classes": ("abs(caps - 0.2)", "abs(caps - 0.3)"),
    "first feature: names two": ("len(np.unique(seen[0])) == 1", "len(np.unique(seen[0])) == 2"),
    "sum: without the first feature": ("np.arange(0, n_train)", "np.arange(1, n_train)"),
    "gradient: positive weights for ten classes": (
        'exact["digits"]["alpha_least"] < 0',
        'exact["digits"]["alpha_least"] > 0',
    ),
    "gradient: weights for equal targets": ("[[1.0, 1.0], [", "[[1.0, 0.9], ["),
    "step: another budget": ("mnist.y_test, (eps,), b", "mnist.y_test, (eps / 10,), b"),
    "plane: more robust than useful": (
        "(found.robustness <= found.usefulness)",
        "(found.robustness > found.usefulness)",
    ),
    "smooth: the eigenvalue itself": (
        "[:, None] / digits.eigenvalues[::-1][:n_features]",
        "[:, None] * 1e-4 / digits.eigenvalues[-1] * np.ones(n_features)",
    ),
    "time: a machine that is not at its end": ("logits_fn(1e9 * unit)", "logits_fn(1.0 * unit)"),
    "overlap: another null": (
        "abs(np.mean(found) - top / n_conv)",
        "abs(np.mean(found) - 2 * top / n_conv)",
    ),
    "overlap: the distance itself": (", other, top)) ** 2", ", other, top))"),
    "selection: the inverse of all": ("rcond=1e-8", "rcond=1.0"),
    "selection: a constant that falls": ('== constant["PGD10"]', '> constant["PGD10"]'),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

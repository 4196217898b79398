"""The chapter on linearisation: the pencil example, and cells that fail when it is wrong."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from statements import Chapter

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part1/network_and_linearisation"
SMALL = {"widths": [16, 512], "n_seeds": 20, "end_time": 40.0, "n_scales": 2}
NOT_NEEDED = ("np.arange(0, 0.401, 0.025)", "lin.logits_fn(end_time)(line", "alphas =", "turns =")


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=NOT_NEEDED, last="def standard(params, x)")


# --- the pencil example ---------------------------------------------------------------------


def by_fractions() -> dict:
    """The example from its start and its targets, in exact arithmetic and without the chapter."""
    points, targets = [0, 1, 2], [-1, -1, 1]

    def units(theta, x):
        return [(w, b, a, max(w * x + b, 0)) for w, b, a in zip(*[iter(theta)] * 3, strict=True)]

    def score(theta, x):
        return sum(a * out for _, _, a, out in units(theta, x))

    def row(theta, x):
        return [
            v for _, _, a, out in units(theta, x) for v in (a * x * (out > 0), a * (out > 0), out)
        ]

    start = [Fraction(v) for v in (1, 1, 1, 2, -1, -1)]
    jacobian = [row(start, x) for x in points]
    kernel = [[sum(p * q for p, q in zip(u, v, strict=True)) for v in jacobian] for u in jacobian]
    scores = [score(start, x) for x in points]
    left = [t - f for t, f in zip(targets, scores, strict=True)]
    pull = [sum(r * line[c] for r, line in zip(left, jacobian, strict=True)) for c in range(6)]
    change = [g / 20 for g in pull]
    moved = [sum(k * r for k, r in zip(line, left, strict=True)) for line in kernel]
    end = [p + c for p, c in zip(start, change, strict=True)]
    return {
        "jacobian": jacobian, "kernel": kernel, "pull": pull, "change": change, "moved": moved,
        "tangent": [f + g / 20 for f, g in zip(scores, moved, strict=True)],
        "network": [score(end, x) for x in points],
        "table": [
            [x, *(u[3] for u in units(start, x)), f, t, r]
            for x, f, t, r in zip(points, scores, targets, left, strict=True)
        ],
    }  # fmt: skip


def numbers(text: str) -> list[Fraction]:
    return [Fraction(v) for v in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def matrix(text: str, label: str) -> list[list[Fraction]]:
    """The last matrix before the label of its equation."""
    body = re.findall(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", text[: text.index(label)])[-1]
    return [numbers(row) for row in body.split(r"\\")]


def row_before(text: str, label: str) -> list[Fraction]:
    """The last list in parentheses before the label of its equation."""
    return numbers(re.findall(r"\(([-\d., ]+)\)", text[: text.index(label)])[-1])


def check_text(text: str) -> None:
    """Every number of the worked example against exact arithmetic."""
    exact = by_fractions()
    table = [numbers(line) for line in re.findall(r"^\| [012] \|.*$", text, re.MULTILINE)]
    assert table == exact["table"]
    assert matrix(text, "(eq-nl-jacobian)") == exact["jacobian"]
    assert matrix(text, "(eq-nl-kernel)") == exact["kernel"]
    assert row_before(text, "(eq-nl-step)") == exact["change"]
    assert row_before(text, "(eq-nl-predicted)") == exact["tangent"]
    assert row_before(text, "(eq-nl-actual)") == exact["network"]
    pull, moved = (
        re.search(rf"{name} = \(([-\d, ]+)\)", text)
        for name in (r"J\^\\top \\mathbf\{r\}", r"\\Theta \\mathbf\{r\}")
    )
    assert numbers(pull[1]) == exact["pull"]
    assert numbers(moved[1]) == exact["moved"]
    wrong = re.search(r"The tangent was wrong by \$\(([\d., ]+)\)", text)
    assert numbers(wrong[1]) == [
        f - g for f, g in zip(exact["network"], exact["tangent"], strict=True)
    ]


def test_the_numbers_of_the_text_are_those_of_exact_arithmetic(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("| 1 | 2 | 1 | 1 | −1 | −2 |", "| 1 | 2 | 1 | 1 | −1 | 2 |"),
        ("3 & 9 & 15", "3 & 9 & 16"),
        ("2 & 1 & 3 & -2", "2 & 1 & 3 & 2"),
        ("(0, -3, -3, 0, 1, 1)", "(0, -3, -3, 0, 1, 2)"),
        ("(0, -0.15, -0.15, 0, 0.05, 0.05)", "(0, -0.15, -0.15, 0, 0.05, 0.5)"),
        ("(-6, -9, -10)", "(-6, -9, 10)"),
        ("(0.7, 0.55, -0.5)", "(0.7, 0.5, -0.5)"),
        ("(0.7225, 0.575, -0.475)", "(0.7225, 0.575, -0.47)"),
        ("(0.0225, 0.025, 0.025)", "(0.0225, 0.025, 0.03)"),
    ],
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right, wrong):
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, wrong))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    exact = by_fractions()
    arrays = chapter.printed[chapter.cell("by_name = jax.jacobian(toy)")]
    wanted = [v for part in ("jacobian", "kernel") for line in exact[part] for v in line]
    assert [Fraction(v) for v in re.findall(r"-?\d+", arrays)] == wanted
    lines = chapter.printed[chapter.cell("toy_end = ")].strip().splitlines()
    said = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}
    for name in ("change", "tangent", "network"):
        found = [float(v) for v in re.findall(r"-?\d+\.\d*", said[name])]
        assert found == [float(v) for v in exact[name]], name


def test_exercises_have_the_numbers_that_they_promise():
    """The first entry after the step, and the bound by the trace."""
    assert Fraction(85, 100) ** 2 * 2 == Fraction("1.445")
    kernel = by_fractions()["kernel"]
    assert sum(kernel[i][i] for i in range(3)) == 39
    assert np.linalg.eigvalsh(np.array(kernel, float))[-1] < 39 < 40


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "pencil: a network without biases": ('+ params["b"]) @ params["a"]', ') @ params["a"]'),
    "pencil: another learning rate": ("rate, residual = 0.05,", "rate, residual = 0.04,"),
    "gates: units that are off count too": ("(opened * (x @", "(1.0 * (x @"),
    "gates: units switch": ("rng.uniform(-0.3, 0.3, v.shape)", "rng.uniform(-3, 3, v.shape)"),
    "tangent: an error of order 1/m": (
        'len(start["a"]) ** 0.5\n    return',
        'len(start["a"])\n    return',
    ),
    "tangent: an error of third order": ("bend * size**2))", "bend * size**3))"),
    "descent: stable up to the second eigenvalue": (
        "factor * 2 / eigenvalues[0] * (",
        "factor * 2 / eigenvalues[1] * (",
    ),
    "flow: a linearised network twice as fast": (
        "library.predict(x, times)",
        "library.predict(x, 2 * times)",
    ),
    "signs: equal ones cancel too": ('{**start, "a": jnp.ones_like(start["a"])}', "start"),
    "signs: random ones do not cancel": ("(slope_random + 1) < ", "(slope_random + 0.5) < "),
    "rates: the kernel turns like 1/sqrt(m) with random signs": (
        '"kernel turned, equal signs",',
        '"kernel turned, random signs",',
    ),
    "lazy: the parameters stay ten times nearer": ("reach = 2 * norm_y", "reach = 0.2 * norm_y"),
    "lazy: sixteen times the rate": ("np.exp(-smallest * t / 4)", "np.exp(-4 * smallest * t)"),
    "lazy: a kernel that stands still": ("drift = turning", "drift = 1e-6 * turning"),
    "standard: the output weights have no factor m": ("w * k_a + k_h", "k_a + k_h"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

"""The chapter on computing the empirical kernel: its hand-worked example, cells that can fail."""

import os
import re
from pathlib import Path

import pytest
from statements import Chapter

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part1/computing_the_ntk"
SMALL = {
    "n_timed": 4, "sides": [1, 2], "n_cifar": 1, "n_digits": 60, "widths": [8, 64],
    "n_networks": 24, "n_draws": 1000, "n_train": 240, "n_probe": 40, "resnet_widths": [8],
    "epochs": 1,
}  # fmt: skip
TIMED = ("contestants = {", "square = jnp.ones", "record = pd.concat")
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=TIMED, last="before, after = (")


# --- the example for the hand ---------------------------------------------------------------

W, C = ((1, 1), (1, -1)), ((2, -1), (1, 1))
POINTS = ((1, 2), (2, 1))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def forward_and_backward(x):
    """Units, and the cotangents of the two scores, with whole numbers alone."""
    received = [dot(x, unit) for unit in zip(*W, strict=True)]
    gates = [int(z > 0) for z in received]
    units = [g * z for g, z in zip(gates, received, strict=True)]
    back = [[C[u][r] * gates[u] for u in range(2)] for r in range(2)]
    return units, back


def block(x, y):
    (a, g), (b, h) = forward_and_backward(x), forward_and_backward(y)
    last, hidden = dot(a, b), dot(x, y)
    return [[last * (r == s) + hidden * dot(g[r], h[s]) for s in range(2)] for r in range(2)]


def pmatrix(rows) -> str:
    return " \\\\ ".join(" & ".join(map(str, row)) for row in rows)


def check_text(text: str) -> None:
    """The table of cotangents and the three blocks of the text against whole numbers."""
    section = text[text.index("## What does it look like") : text.index("def toy(params")]
    minus = section.replace("−", "-")
    cells = re.findall(r"^\| \$f_\d\$ at .*? \| (-?\d+) \| (-?\d+) \|$", minus, re.M)
    expected = [tuple(map(str, g)) for x in POINTS for g in forward_and_backward(x)[1]]
    assert cells == expected
    blocks = [block(*POINTS), block(POINTS[0], POINTS[0]), block(POINTS[1], POINTS[1])]
    shown = re.findall(r"= \\begin\{pmatrix\} ([^=]*?) \\end\{pmatrix\} [,.]", section)
    assert shown[-3:] == [pmatrix(b) for b in blocks]


def test_the_numbers_of_the_text_are_those_of_whole_numbers(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("25 & -8", "26 & -8"), ("-10 & 14", "-10 & 15"), ("| −1 | 1 |", "| −1 | 0 |")],
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right, wrong):
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, wrong))


def test_the_exercise_has_the_numbers_that_it_promises(chapter):
    blocks = [block(POINTS[i], POINTS[j]) for i, j in ((0, 0), (0, 1), (1, 1))]
    traces = ", ".join(str(b[0][0] + b[1][1]) for b in blocks)
    sums = ", ".join(str(sum(map(sum, b))) for b in blocks)
    assert f"traces {traces} and sums {sums}." in chapter.text


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another digit": ("mixed, other = [[29", "mixed, other = [[28"),
    "capture: all scores at once": ("(pull)(jnp.eye(2)", "(pull)(jnp.ones((2, 2))"),
    "dense: the bias forgotten": ("inputs[i].T + 1)", "inputs[i].T)"),
    "dense: gates forgotten": (" * gates[i - 1][:, None]", ""),
    "costs: another power of the classes": ("forward.sum()), int(", "forward.sum()) * 2, int("),
    "costs: without the contraction": ("+ 2 * n**2 * k**2 * p", ""),
    "orders: structured without a factor": ("* (d_in + k**2 * d_out + k**2)", "* (d_in + d_out)"),
    "orders: a Jacobian formed for nothing": ("examples * forming + pairs", "pairs"),
    "rules: two that differ": ('"full", one, one)', '"full", one, one) * (1 + 1e-3)'),
    "budget: another kernel": ("tight = kernels", "tight = 1.01 * kernels"),
    "digits: fewer": ("np.linalg.norm(single - double, 2)", "1e-4 * np.linalg.norm(double, 2)"),
    "modes: another trace": ('einsum("ijrr->ij", full),', 'einsum("ijrr->ij", full) / 10,'),
    "signs: one of them fixed": ("product((-1, 1), repeat=k)", "product((0, 1), repeat=k)"),
    "order: the trace alone is enough": ("k * trace - summed", "0.01 * trace - summed"),
    "last layer: without the body": ("+ c.T @ table @ c", "+ 0.5 * c.T @ table @ c"),
    "last layer: another variance": ("10 * 9 / 2", "10 * 9"),
    "width: no fall": ("slope = np.polyfit(", "slope = 0.1 * np.polyfit("),
    "cross-entropy: any sum": ('- before["kernel"]).sum(1)))', '- before["kernel"])[:, 0]))'),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

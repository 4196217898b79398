"""The chapter on training with a fixed kernel: its hand-worked example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

from ntklab import ledger

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part3/fixed_kernel"
SMALL = {"n_train": 300, "n_test": 16}
#: The search and the attacks on live networks, which no statement of the small size needs.
LIVE = (
    "class Network",
    "inner = training.PGD",
    "class Tangent",
    "suite = {",
    "short = {",
    "def segments",
    "seen = curves",
    "soft = scores(second",
    "def recorded",
    "recorded(",
    'charts.number(f"{tag}_late"',
)
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=(*LIVE, "flip = lambda", "repair in"))


# --- the example for the hand ---------------------------------------------------------------


def by_formula() -> list[str]:
    """The decimals of the example, in the order of the text, with the math module alone."""
    one, two = (0.6 - 0.5, 0.6, 1.0), (1.0 - 0.5, 1.0, 1.0)

    def dot(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True))

    k11, k12, k22 = dot(one, one), dot(one, two), dot(two, two)
    det = k11 * k22 - k12**2
    first, second = k22 / det, -k12 / det  # targets 1 and 0
    da, dw, db = (p * first + q * second for p, q in zip(one, two, strict=True))
    slope, jump = da + dw, dw / 2 + db
    behind, z = dw * 0.6 + db, 0.1
    soft = {}
    for tau in (10, 15, 50):
        gate = 1 / (1 + math.exp(-tau * z))
        soft[tau] = tau * gate * (1 - gate) * behind

    def f(v):
        return f"{v:.3f}"

    def score(x):
        return (da * -0.5 + db) + slope * x

    return [
        "0.6", "0.6", f"{one[0]:g}"[:3], "0.6", "0.5", f"{k11:.2f}", f"{k12:.2f}", f"{k12:.2f}",
        f"{k22:.2f}", f"{det:.2f}", f"{k22:.2f}", f"-{k12:.2f}", f"{det:.2f}", f(first), f(second),
        f(da), f(dw), f(db), f"{score(0):.1f}", f"{-slope:.1f}", f"{score(0):.1f}",
        f"{-slope / 2:.2f}", f"{jump:.2f}", f(dw / 2), f(db), "0.15", f"{slope:.1f}", "0.75",
        f(score(0.75)), "0.5", "0.6", f(behind), f"{slope:.1f}", f(soft[10]), f(slope + soft[10]),
        f"{slope:.1f}", f(soft[15]), f(slope + soft[15]), f(slope + soft[50]),
    ]  # fmt: skip


def check_text(text: str) -> None:
    """Every decimal of the example against the formulas."""
    start = text.index("Train the centred tangent on two images")
    section = text[start : text.index("too sharp to be felt")]
    assert re.findall(r"-?\d+\.\d+", section) == by_formula()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize("right", ["(6.250, -4.583)$", "= 1.25$", "= -0.206$", "it is $-2.112$"])
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    wrong = another_digit(right)
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, wrong))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    said = chapter.printed[chapter.cell("just = feature")]
    found = re.findall(r"-?\d+\.\d+", said)
    assert [float(v) for v in found[:4]] == [1.37, 1.65, 1.65, 2.25]
    assert [float(v) for v in found[4:]] == [6.25, -4.583, -1.667, -0.833, 1.667]
    slopes = chapter.printed[chapter.cell("by_relu = float")]
    assert all(number in slopes for number in ("-2.500", "-0.206", "0.11", "-2.112"))


def test_the_exercise_with_equal_targets_is_right(chapter):
    k11, k12, k22 = 1.37, 1.65, 2.25
    first, second = (k22 - k12) / 0.36, (k11 - k12) / 0.36
    da, dw, db = 0.1 * first + 0.5 * second, 0.6 * first + second, first + second
    assert f"$({first:.3f}, {second:.3f})$" in chapter.text
    assert f"= ({da:.3f}, {dw:.3f}, {db:.3f})$" in chapter.text
    assert abs(da + dw) < 1e-9 and abs(dw / 2 + db - 1) < 1e-9


def test_the_share_at_the_quarter_circle_is_the_inverse_of_pi(chapter):
    def share(w):
        return math.sin(w) / (math.pi - (math.pi - w) * math.cos(w))

    assert share(math.pi / 2) == pytest.approx(1 / math.pi)
    assert share(1e-6) == pytest.approx(1, abs=1e-5)
    said = chapter.printed[chapter.cell('"share_quarter"')]
    assert f"share_quarter = {1 / math.pi:.3f}" in said


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "keeps: half of the bound's root": (
        "np.sqrt(j * step * loss_start)",
        "0.01 * np.sqrt(j * step * loss_start)",
    ),
    "unit: another target": (
        "np.array([0.6, 1.0]), np.array([1.0, 0.0])",
        "np.array([0.6, 1.0]), np.array([1.0, 0.5])",
    ),
    "unit: a soft gate that is too sharp": (
        '("soft gate", attacks.SoftGate(15.0))',
        '("soft gate", attacks.SoftGate(50.0))',
    ),
    "derivative: a jump of the wrong sign": (
        "sign = (last > 0).astype(float) - (first > 0)",
        "sign = (first > 0).astype(float) - (last > 0)",
    ),
    "derivative: jumps without the bias": (
        "(where * dw).sum(1) + db)).sum()",
        "(where * dw).sum(1))).sum()",
    ),
    "deep: the factor of another unit": ("c = np.eye(8)[r]", "c = np.eye(8)[r - 1]"),
    "deep: what enters the unit, for its change": ("* dz[layer, r]", "* z[layer, r]"),
    "kernel: another lower bound": (
        "low, high = angles / np.pi,",
        "low, high = 2 * angles / np.pi,",
    ),
    "width: another mean": (
        "mean = -np.sin(omega) / (2 * np.pi)",
        "mean = -omega / (2 * np.pi) - 0.05",
    ),
    "width: a variance that stays": (
        "1.5 * omega / (2 * np.pi * m)",
        "0.5 * omega / (2 * np.pi * m)",
    ),
    "walk: another missing part": (
        "promised[-1] + 1 / (2 * np.pi)",
        "promised[-1] + 1 / (3 * np.pi)",
    ),
    "threshold: a minimum above it": ("for factor in (0.3, 0.99):", "for factor in (0.3, 1.5):"),
    "threshold: none below it": ("e = 1.2 * threshold", "e = 0.8 * threshold"),
    "flat: another jump": ("[0, 1, 1])", "[0, 0.9, 1])"),
    "max pooling: no jump": ("np.allclose(sides, [1, 3]", "np.allclose(sides, [2, 2]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])


# --- records ----------------------------------------------------------------------------------


def test_the_page_names_only_claims_of_the_ledger(chapter):
    named = set(re.findall(r'recorded\("([a-z0-9-]+)"', chapter.text))
    named |= set(re.findall(r'"(loo-masking-[a-z-]+)"', chapter.text))
    assert len(named) >= 6 and named <= {claim.id for claim in ledger.claims()}

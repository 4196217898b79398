"""The chapter on adversarial training: its hand-worked examples, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter, another_digit

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part1/adversarial_training"
SMALL = {"n_train": 600, "n_test": 64, "attack_steps": 2, "replays": 2}
#: The convolutional network, which no statement needs, and its evaluation.
LIVE = ("trained_by = {", "suite = {", "purse = price", "longer = epochs")
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, skip=LIVE)


# --- the examples for the hand --------------------------------------------------------------


def two_pixels() -> list[str]:
    """The decimals of the first example, in the order of the text, with the math module alone."""
    mu, eps, w = (0.3, 0.05), 0.1, (1.0, 1.0)
    clean = sum(a * b for a, b in zip(w, mu, strict=True))
    moved = [m - eps for m in mu]
    worst = sum(a * b for a, b in zip(w, moved, strict=True))
    doubt = 1 / (1 + math.exp(worst))
    images = [f"{0.5 + m:g}" for m in mu] + [f"{0.5 - m:g}" for m in mu]
    where = [f"{m:.2g}" for m in moved]
    gradient = [f"{-doubt * m:.4f}" for m in moved]
    return [
        *images, "0.3", "0.05", "0.1", f"{clean:g}", f"-{eps:g}", f"-{eps:g}", f"{worst:.2g}",
        f"{-worst:.2g}", f"{math.log1p(math.exp(-worst)):.4f}", *where, f"{-worst:.2g}",
        f"{-doubt:.4f}", f"{-doubt:.4f}", *where, *gradient,
    ]  # fmt: skip


def check_text(text: str) -> None:
    """Every decimal of the first example against the formulas."""
    start = text.index("Two images of two pixels")
    section = text[start : text.index("Is this the gradient of the maximum?", start)]
    assert re.findall(r"-?\d+\.\d+", section) == two_pixels()


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize("right", ["= 0.6210$", "= -0.4626$", "(-0.0925, 0.0231)$", "$0.35$"])
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    wrong = another_digit(right)
    start = chapter.text.index("Two images of two pixels")
    assert right in chapter.text[start:]
    with pytest.raises(AssertionError):
        check_text(chapter.text[:start] + chapter.text[start:].replace(right, wrong, 1))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    said = chapter.printed[chapter.cell("frozen = -(offset + eta)")]
    assert re.findall(r"-?\d\.\d{4}", said) == ["0.6210", "-0.0925", "0.0231"]


def test_a_step_from_a_random_start_has_the_mean_length_of_the_text(chapter):
    a = 1.25
    assert f"$1.25 - {a**2 / 4:g} = {a - a**2 / 4:g}$" in chapter.text
    below, above = (1 - (a - 1) ** 2) / 4, a / 2  # ends that are not cut off, and that are
    assert below + above == a - a**2 / 4


def test_the_uphill_slope_of_the_text(chapter):
    step, other = (-1, -2), (1, -2)
    assert sum(a * b for a, b in zip(step, other, strict=True)) == 3
    assert "$(-1, -2)^\\top (1, -2) = 3$" in chapter.text


def test_the_weak_features_of_the_exercise_are_as_good_as_it_says(chapter):
    share = (1 + math.erf(0.25 * math.sqrt(100) / math.sqrt(2))) / 2
    assert f"\\Phi(2.5) = {share:.3f}$" in chapter.text


def test_the_share_of_the_update_in_the_running_average(chapter):
    """A momentum of .9: the last of three passes in every batch."""
    average, share = 0.0, 0.0
    for _ in range(200):
        for last in (False, False, True):
            average, share = 0.9 * average + 0.1, 0.9 * share + 0.1 * last
    assert share / average == pytest.approx(0.1 / (1 - 0.9**3), rel=1e-6)
    assert f"bn_share = {share:.2f}" in chapter.printed[chapter.cell('"bn_share"')]


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another sign": ("[-0.0925, 0.0231]", "[-0.0925, -0.0231]"),
    "toy: another corner": ("loss_at(w, lattice).argmax()", "loss_at(w, lattice).argmin()"),
    "Danskin: the clean point": ("promised[best] - slope", "promised[220] - slope"),
    "ties: the mean slope": ("(turn @ ties.T).max(axis=1)", "(turn @ ties.T).mean(axis=1)"),
    "ties: any worst point": ("np.array([1.0, 0.0])", "np.array([1.0, -2.0])"),
    "wrong point: two thirds of the way": ("0.04 * shares", "0.03 * shares"),
    "error of the attack: a smaller bound": ("np.sqrt(2 * (inner", "np.sqrt((inner"),
    "kinks: one answer": ("lambda z: 2 * relu(z) - z}", "lambda z: jnp.abs(z)}"),
    "network: the clean loss": ("climb(moved, worst, 100, eps / 50)", "x"),
    "linear: no penalty": ("eps * jnp.abs(w).sum() - sign", "0.0 - sign"),
    "linear: another norm": ("jnp.abs(w).sum() -", "jnp.sqrt((w**2).sum() + 1e-9) -"),
    "linear: another exact number": (
        "(margins > eps * np.abs(w).sum())",
        "(margins > eps * np.linalg.norm(w))",
    ),
    "sandwich: the lower factor above": ("np.exp(margins - r))", "np.exp(margins))"),
    "soft: no threshold": ("np.maximum(np.abs(mu) - eps, 0)", "np.abs(mu)"),
    "random start: no loss of length": ("went.mean() - 0.859375", "went.mean() - 1.0"),
    "random start: another formula": ("(a - a**2 / 4)", "(a - a**2 / 2)"),
    "TRADES: errors counted twice": ("((truth * f > 0) & (closest <= 0))", "(closest <= 0)"),
    "TRADES: the first term alone": ("ell(nu * np.abs(f) * closest)", "0 * f"),
    "price: TRADES without its clean pass": ("7 + 2 * n", "6 + 2 * n"),
    "price: a free step": ('"RS-FGSM": 5', '"RS-FGSM": 3'),
    "price: PGD with backward passes for the weights": ('"PGD": 3 + 2 * n', '"PGD": 3 + 3 * n'),
    "BatchNorm: averages that move": ("statistics=mode)\n    z,", 'statistics="update")\n    z,'),
    "bend: seen before the end": ("slope(theta, 1.0)", "slope(theta, 0.9)"),
    "round ball: the same as the cube": ("v / np.linalg.norm(v)\n", "np.sign(v)\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

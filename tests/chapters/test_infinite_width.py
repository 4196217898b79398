"""The chapter on the infinite-width limit: its hand-worked example, and cells that can fail."""

import math
import os
import re
from pathlib import Path

import pytest
from statements import Chapter

ROOT = Path(__file__).resolve().parents[2]
NAME = "book/part1/infinite_width"
SMALL = {
    "n_images": 4, "largest_width": 128, "n_networks": 16, "n_draws": 16000, "n_train": 24,
    "train_steps": 40, "largest_channels": 64,
}  # fmt: skip
pytestmark = pytest.mark.skipif(
    not os.environ.get("NTKLAB_DATA"), reason="NTKLAB_DATA names no folder with the data sets."
)


@pytest.fixture(scope="module")
def chapter():
    return Chapter(NAME, ROOT, SMALL, last="fall = {}")


# --- the example for the hand ---------------------------------------------------------------


def by_formula() -> dict[str, str]:
    """The example with nothing but the math module, written as the text writes it."""

    def kappa_0(u):
        return (math.pi - math.acos(u)) / math.pi

    def kappa_1(u):
        return math.sqrt(1 - u * u) / math.pi + u * kappa_0(u)

    k_1 = kappa_1(0.5)
    theta_1 = k_1 + kappa_0(0.5) * 0.5
    return {
        "sine": f"{math.sqrt(3) / 2 / math.pi:.4f}",
        "angle": f"{kappa_0(0.5) * 0.5:.4f}",
        "k_1": f"{k_1:.4f}",
        "theta_1": f"{theta_1:.4f}",
        "omega": f"{math.acos(k_1):.4f}",
        "degrees": f"{math.degrees(math.acos(k_1)):.2f}",
        "kappa_0": f"{kappa_0(k_1):.4f}",
        "k_2": f"{kappa_1(k_1):.4f}",
        "theta_2": f"{kappa_1(k_1) + kappa_0(k_1) * theta_1:.4f}",
    }


def check_text(text: str) -> None:
    """Every decimal of the worked example against the formulas."""
    section = text[text.index("## What does a two-point") : text.index("for depth, k_hand")]
    exact = by_formula()
    e = exact
    assert re.findall(r"\d+\.\d+", section) == [
        e["sine"], e["angle"], e["k_1"],
        e["k_1"], e["k_1"], e["theta_1"],
        e["k_1"], e["omega"], e["degrees"], e["omega"], e["kappa_0"],
        e["omega"], e["k_1"], e["kappa_0"], e["k_2"],
        e["k_2"], e["k_2"], e["kappa_0"], e["theta_1"], e["theta_2"],
    ]  # fmt: skip


def test_the_numbers_of_the_text_are_those_of_the_formulas(chapter):
    check_text(chapter.text)


@pytest.mark.parametrize(
    "right", ["= 0.6090", "= 0.9423", "52.48 degrees", "= 0.7084", "is $1.3515$"]
)
def test_a_wrong_digit_of_the_text_is_noticed(chapter, right):
    digit = re.search(r"\d(?=\D*$)", right)[0]
    wrong = right.replace(digit, str((int(digit) + 1) % 10))
    assert right in chapter.text
    with pytest.raises(AssertionError):
        check_text(chapter.text.replace(right, wrong))


def test_the_code_prints_the_numbers_of_the_text(chapter):
    exact = by_formula()
    said = chapter.printed[chapter.cell("for depth, k_hand, ntk_hand in")]
    assert re.findall(r"\d\.\d{4}", said) == [
        exact["k_1"], exact["theta_1"], "2.0000", exact["k_2"], exact["theta_2"], "3.0000",
    ]  # fmt: skip


def test_exercises_have_the_numbers_that_they_promise(chapter):
    share = 1 - math.acos(1 / math.pi) / math.pi
    theta_2 = (math.sqrt(1 - math.pi**-2) + 2 * share) / math.pi
    assert f"\\Theta_2 \\approx {theta_2:.4f}$" in chapter.text


# --- statements that are broken on purpose --------------------------------------------------

BROKEN = {
    "toy: another number": ("(1, 0.6090, 0.9423)", "(1, 0.6090, 0.9323)"),
    "one layer: a covariance without activation": ("s[:, 1], 0.6090)", "s[:, 1], 0.5)"),
    "duals: a gate that is half open": ("lambda z: z > 0)", "lambda z: 0.5 + (z > 0) / 2)"),
    "duals: another slope of erf": ("2 / np.pi**0.5", "2 / np.pi"),
    "duals: not the derivative of each other": ("formulas[1], atol", "formulas[0], atol"),
    "recursion: the last layer alone": (", flat)[1]", ", flat)[0]"),
    "rate: a limit without the layers below": (
        "kernels.FullyConnected(depth=depth, **common)",
        'kernels.FullyConnected(depth=depth, kind="nngp", **common)',
    ),
    "tails: those of a Gaussian": ("3 * (1 + 5 / m)) for", "3.0) for"),
    "moments: a smaller variance a layer": ("(1 + 5 / m) ** depth", "(1 + 2 / m) ** depth"),
    "bias: with one hidden layer": ('(finite.loc[1, "bias"]', '(finite.loc[3, "bias"]'),
    "bias: none with three": ('(finite.loc[3, "bias"]', '(finite.loc[1, "bias"]'),
    "noise: of order 1/m": ('("noise", -0.5)', '("noise", -1.0)'),
    "movement: the same at every width": ('networks["erf", m]\n', 'networks["erf", 32]\n'),
    "angles: a faster contraction": ("/ (3 * np.pi)", "/ (2 * np.pi)"),
    "angles: layers that separate": ("1) < starts)", "1) > starts)"),
    "chaos: neighbours keep their distance": ("/ chi - 1)", "/ 1.0 - 1)"),
    "convolution: the other readout": ("depth=2, readout=readout)(few)", "depth=2)(few)"),
    "convolution: another limit": ("limits_conv[readout]\n", "1.5 * limits_conv[readout]\n"),
    "shift: up to the frame": ("[: margin - 1]", "[: margin + 1]"),
    "shift: no pooling": ('readout="pool"),', 'readout="flatten"),'),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_statement_fails_in_its_cell(chapter, name):
    with pytest.raises(AssertionError):
        chapter.run_broken(*BROKEN[name])

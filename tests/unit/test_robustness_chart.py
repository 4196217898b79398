"""The chart of an evaluation names the flags that its numbers carry."""

import numpy as np
import pytest

from ntklab import charts
from ntklab.attacks._flags import Flag
from ntklab.attacks._report import RobustnessReport, Row

WORDS = "Bars of accuracy under each attack of an evaluation, with the raised warning flags above."
ATTACKS = ("clean", "random noise", "FGSM", "Square")


def report(eps, accuracies, *raised):
    rows = [
        Row(name, "linf", eps if i else 0.0, 0, 1, 0, 0, 10, accuracy, 0.1)
        for i, (name, accuracy) in enumerate(zip(ATTACKS, accuracies, strict=True))
    ]
    flags = tuple(Flag(name, name in raised, "") for name in ("noise", "steps", "gradient_free"))
    broken_by = np.where(np.arange(10) < 10 * accuracies[-1], -1, 3)
    return RobustnessReport(tuple(rows), flags, (0.0, 1.0), (broken_by, np.zeros((10, 2))))


def table(chart):
    spec = charts.finish(chart, WORDS).to_dict()
    return spec, next(iter(spec["datasets"].values()))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def test_one_report_is_a_bar_an_attack_and_the_worst_case():
    chart = charts.robustness(report(0.1, (1.0, 0.9, 0.5, 0.2), "gradient_free"))
    spec, rows = table(chart)
    assert [row["attack"] for row in rows] == [*ATTACKS, "worst case"]
    assert [row["accuracy"] for row in rows] == [1.0, 0.9, 0.5, 0.2, 0.2]
    assert spec["title"]["text"] == ["FLAGS raised:", "⚑ gradient_free"]


def test_several_reports_are_a_line_an_attack():
    weak = report(0.1, (1.0, 0.9, 0.5, 0.4))
    strong = report(0.2, (1.0, 0.8, 0.3, 0.1), "noise")
    spec, rows = table(charts.robustness([strong, weak]))
    square = [(r["eps"], r["accuracy"]) for r in rows if r["attack"] == "Square"]
    assert square == [(0.0, 1.0), (0.1, 0.4), (0.2, 0.1)]
    assert {row["attack"] for row in rows} == {*ATTACKS[1:], "worst case"}
    assert spec["title"]["text"] == ["FLAGS raised:", "⚑ noise, eps 0.2"]


def test_no_flag_is_said_too():
    spec, _ = table(charts.robustness(report(0.1, (1.0, 0.9, 0.5, 0.2))))
    assert spec["title"]["text"] == ["no flags raised"]


def test_reports_that_do_not_belong_together_are_refused():
    one = report(0.1, (1.0, 0.9, 0.5, 0.2))
    with pytest.raises(ValueError, match="same eps"):
        charts.robustness([one, one])
    other = RobustnessReport(one.rows[:3], one.flags, one.bounds, one._worst)
    with pytest.raises(ValueError, match="different attacks"):
        charts.robustness([one, other])
    with pytest.raises(ValueError, match="at least one"):
        charts.robustness([])

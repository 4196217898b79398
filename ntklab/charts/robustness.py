"""Robust accuracy attack by attack and budget by budget, with the warning flags in the picture."""

from ntklab.charts.lines import lines
from ntklab.charts.theme import PALETTE, altair

_ROW = 26
_MOST_ATTACKS = 7


def robustness(reports, *, height: int = 280):
    """The reports of `ntklab.attacks.evaluate_robustness` as a chart that names their flags.

    One report: a bar an attack, and the worst case. Several: accuracy against the budget, one line
    an attack. Above the chart stands which flags are raised and at which budget, or that none is.

    Args:
      reports: one report, or several of one model at different eps, with the same attacks.
      height: of the line plot, in px.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: no report, two of the same eps, or reports with different attacks.

    Cost: time and memory proportional to attacks times reports.
    """
    reports = list(reports) if isinstance(reports, list | tuple) else [reports]
    if not reports:
        raise ValueError("robustness needs at least one report.")
    names = [row.attack for row in reports[0].rows]
    if any([row.attack for row in report.rows] != names for report in reports):
        raise ValueError("The reports hold different attacks: give one chart to each suite.")
    if len({report.eps for report in reports}) != len(reports):
        raise ValueError("Two reports have the same eps: a chart shows one model at several eps.")
    reports = sorted(reports, key=lambda report: report.eps)
    chart = _bars(reports[0]) if len(reports) == 1 else _lines(reports, names, height)
    title = {
        "text": _flag_words(reports),
        "fontSize": 12,
        "fontWeight": "normal",
        "limit": 0,
        "offset": 12,
    }
    return chart.properties(title=title)


def _flag_words(reports) -> list[str]:
    """Lines that say which flags are raised, short enough for a phone."""
    raised: dict[str, list[float]] = {}
    for report in reports:
        for name in report.raised:
            raised.setdefault(name, []).append(report.eps)
    if not raised:
        return ["no flags raised"]
    if len(reports) == 1:
        return ["FLAGS raised:", *(f"⚑ {name}" for name in raised)]
    return ["FLAGS raised:", *(f"⚑ {name}, eps {_listed(eps)}" for name, eps in raised.items())]


def _listed(values: list[float]) -> str:
    if len(values) > 4:
        return f"{values[0]:.3g} to {values[-1]:.3g} ({len(values)} budgets)"
    return ", ".join(f"{v:.3g}" for v in values)


def _bars(report):
    import pandas as pd

    alt = altair()
    accuracy, _ = report.accuracy.with_flags()
    worst = {"attack": "worst case", "accuracy": accuracy, "kind": "worst case"}
    rows = [{"attack": r.attack, "accuracy": r.accuracy, "kind": "attack"} for r in report.rows]
    frame = pd.DataFrame([*rows, worst])
    frame["words"] = [f"{v:.3f}" for v in frame["accuracy"]]
    y = alt.Y("attack:N", sort=list(frame["attack"]), title=None)
    x = alt.X("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    colours = alt.Scale(domain=["attack", "worst case"], range=[PALETTE[0], PALETTE[3]])
    base = alt.Chart(frame)
    bars = base.mark_bar(height=14).encode(
        x=x, y=y, color=alt.Color("kind:N", scale=colours, legend=None)
    )
    words = base.mark_text(align="left", dx=4).encode(x=x, y=y, text="words:N")
    return (bars + words).properties(height=_ROW * len(frame))


def _lines(reports, names: list[str], height: int):
    import pandas as pd

    kept = names[1:][:_MOST_ATTACKS]  # the clean row is the point at eps 0
    start = [(0.0, name, reports[0].clean) for name in (*kept, "worst case")]
    found = [
        (report.eps, row.attack, row.accuracy)
        for report in reports
        for row in report.rows
        if row.attack in kept
    ]
    worst = [(report.eps, "worst case", report.accuracy.with_flags()[0]) for report in reports]
    points = dict.fromkeys([*start, *found, *worst])
    frame = pd.DataFrame(list(points), columns=["eps", "attack", "accuracy"])
    return lines(
        frame, x="eps", y="accuracy", series="attack", x_title="budget", y_title="accuracy",
        y_domain=(0, 1), height=height,
    )  # fmt: skip

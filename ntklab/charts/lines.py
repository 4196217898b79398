"""Line plots of one or more series, told apart by colour, dash and shape together."""

import json

import numpy as np

from ntklab.charts._series import DASH, check_columns, check_values
from ntklab.charts._series import look as look_of
from ntklab.charts.theme import altair


def lines(
    frame,
    *,
    x: str,
    y: str,
    series: str | None = None,
    x_scale: str = "linear",
    y_scale: str = "linear",
    x_title: str | None = None,
    y_title: str | None = None,
    y_domain: tuple | None = None,
    low: str | None = None,
    high: str | None = None,
    height: int = 280,
):
    """A line plot, one line a series, with a band where `low` and `high` name its edges.

    Args:
      frame: a pandas table in long form, one row a point.
      x: column of the horizontal axis.
      y: column of the vertical axis.
      series: column that names the lines, at most eight of them, in order of appearance.
      x_scale: "linear", "log", "symlog" or "sqrt".
      y_scale: likewise.
      x_title: words under the axis; the column's name where None.
      y_title: likewise.
      y_domain: ends of the vertical axis, where they are known (accuracy: 0 and 1).
      low: column of a band's lower edge, for seeds.
      high: column of its upper edge.
      height: px.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, NaN, more than eight series, or values that a logarithmic axis
        cannot show.

    Cost: time and memory proportional to the rows.
    """
    alt = altair()
    _check(frame, series, x, [y, low, high], x_scale, y_scale)
    scale = alt.Scale(type=y_scale, **({"domain": list(y_domain)} if y_domain else {}))
    place = {
        "x": _axis_of("x", frame, x, x_title, alt.Scale(type=x_scale)),
        "y": _axis_of("y", frame, y, y_title, scale),
    }
    names = []
    if series:
        frame = frame.assign(**{series: frame[series].astype(str)})
        names = list(dict.fromkeys(frame[series]))
    look = look_of(series, names)
    order = f"indexof({json.dumps(names)}, datum[{json.dumps(series)}])"
    base = alt.Chart(frame).transform_calculate(**{DASH: order} if series else {})
    chart = base.mark_line().encode(**place, **look("color", "strokeDash"))
    chart += base.mark_point(size=55, filled=True, opacity=1).encode(
        **place, **look("color", "shape"), tooltip=[c for c in (series, x, y) if c]
    )
    if low is not None:
        edge = alt.Y(f"{low}:Q", title=y_title or y, scale=scale)
        band = base.mark_area(opacity=0.2)
        chart = band.encode(x=place["x"], y=edge, y2=f"{high}:Q", **look("color")) + chart
    return chart.properties(height=height)


def accuracy_curves(budgets, curves: dict, *, x_title: str = "budget", y_title: str = "accuracy"):
    """Accuracy against the budget of an attack, one line a predictor or attack.

    Args:
      budgets: (e,) budgets, in the units of the pixels.
      curves: name -> (e,) accuracies, or (seeds, e): the line is their mean and the band spans
        the smallest and the largest.
      x_title: words under the horizontal axis.
      y_title: words beside the vertical axis.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a curve of another length than `budgets`, or a value outside [0, 1].
    """
    import pandas as pd

    budgets, rows = np.asarray(budgets, dtype=np.float64), []
    for name, values in curves.items():
        seeds = np.atleast_2d(np.asarray(values, dtype=np.float64))
        if budgets.ndim != 1 or seeds.ndim != 2 or seeds.shape[1] != len(budgets):
            raise ValueError(f"{name} has shape {np.shape(values)} for {budgets.shape} budgets.")
        if not ((seeds >= 0) & (seeds <= 1)).all():
            raise ValueError(f"{name} has values outside [0, 1], which no accuracy has.")
        table = zip(budgets, seeds.mean(0), seeds.min(0), seeds.max(0), strict=True)
        rows += [dict(zip(_CURVE, (name, *row), strict=True)) for row in table]
    several = any(np.ndim(values) == 2 and len(values) > 1 for values in curves.values())
    band = {"low": "low", "high": "high"} if several else {}
    return lines(
        pd.DataFrame(rows, columns=_CURVE), x="budget", y="accuracy", series="series",
        x_title=x_title, y_title=y_title, y_domain=(0, 1), **band,
    )  # fmt: skip


def _axis_of(channel: str, frame, column: str, title: str | None, scale):
    """The encoding of a position: its column, its words, its scale and its ticks."""
    alt = altair()
    encoding = {"x": alt.X, "y": alt.Y}[channel]
    ticks = _axis(frame[column], scale.to_dict()["type"])
    return encoding(f"{column}:Q", title=title or column, scale=scale, axis=ticks)


_CURVE = ["series", "budget", "accuracy", "low", "high"]


def _axis(values, scale: str):
    """Ticks at powers of ten on a logarithmic axis, at most six of them; Vega's own elsewhere."""
    alt = altair()
    if scale != "log":
        return alt.Axis(tickCount=6)
    low, high = (np.log10(float(edge)) for edge in (min(values), max(values)))
    powers = np.arange(np.floor(low), np.ceil(high) + 1)
    if len(powers) < 3:
        return alt.Axis(format="~g", labelOverlap="greedy")
    kept = powers[:: -(-len(powers) // 6)]
    small = powers[0] >= -3 and powers[-1] <= 4
    ticks = [float(f"1e{int(k)}") for k in kept]
    return alt.Axis(values=ticks, format="~g" if small else ".0e")


def _check(frame, series, x: str, heights: list, x_scale: str, y_scale: str) -> None:
    """Raise one sentence when a column, a number or a scale of the plot will not do."""
    _, low, high = heights
    if (low is None) != (high is None):
        raise ValueError("A band needs both edges: low= and high=.")
    heights = [c for c in heights if c is not None]
    check_columns(frame, [x, *heights, *([series] if series else [])])
    check_values(frame, {x: x_scale, **dict.fromkeys(heights, y_scale)})

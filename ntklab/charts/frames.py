"""Lines that a slider moves: one picture a stop, all of them in the page."""

import json

import numpy as np

from ntklab.charts._series import DASH, check_columns, check_values, look
from ntklab.charts.plane import number_slider
from ntklab.charts.theme import altair

_INK = "currentColor"


def sliding_lines(
    frame,
    *,
    x: str,
    y: str,
    series: str,
    at: str,
    name: str,
    label: str,
    start: float,
    says: str | None = None,
    points=None,
    ticks=None,
    x_title: str | None = None,
    y_title: str | None = None,
    y_domain: tuple | None = None,
    height: int = 300,
):
    """Line plots at evenly spaced stops of a slider, with marks that stay and marks that move.

    Args:
      frame: a pandas table in long form, one row a point of a line at a stop.
      x: column of the horizontal axis.
      y: column of the vertical axis.
      series: column that names the lines, at most eight of them, in order of appearance.
      at: column of the slider's stops, evenly spaced numbers.
      name: of the slider in expressions; unique on its page.
      label: words beside the slider.
      start: the stop that is shown first; the nearest one is taken.
      says: column of the words above the lines, the same in all rows of a stop.
      points: a table with the columns `x` and `y`: diamonds that stay where they are.
      ticks: a table with the columns `x` and `at`: short marks at the bottom, a set a stop.
      x_title: words under the axis; the column's name where None.
      y_title: likewise.
      y_domain: ends of the vertical axis; what lies outside is cut off.
      height: px.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, NaN, stops that are not evenly spaced or only one.

    Cost: time and memory proportional to the rows.
    """
    alt = altair()
    check_columns(frame, [x, y, series, at, *([says] if says else [])])
    check_values(frame, dict.fromkeys((x, y, at), "linear"))
    stops, step = _stops(frame[at])
    first = float(stops[np.abs(stops - start).argmin()])
    slider = number_slider(name, label, float(stops[0]), float(stops[-1]), step, first)
    here = f"abs(datum[{json.dumps(at)}] - {name}) < {step / 2:.6g}"
    place = {
        "x": alt.X(f"{x}:Q", title=x_title or x, scale=_scale((frame[x].min(), frame[x].max()))),
        "y": alt.Y(f"{y}:Q", title=y_title or y, scale=_scale(y_domain)),
    }
    layers = [_lines(frame.drop(columns=[says] if says else []), series, here, place)]
    if points is not None:
        marks = alt.Chart(points).mark_point(shape="diamond", size=110, filled=True, opacity=1)
        layers.append(marks.encode(**place, color=alt.value(_INK)))
    if ticks is not None:
        marks = alt.Chart(ticks).transform_filter(here)
        marks = marks.mark_tick(clip=True, opacity=0.7, color=_INK)
        layers.append(marks.encode(x=place["x"], y=alt.value(height - 6)))
    if says:
        layers.append(_words(frame[[at, says]].drop_duplicates(ignore_index=True), says, here))
    return alt.layer(*layers).add_params(slider).properties(height=height)


def _lines(frame, series: str, here: str, place: dict):
    """The lines of the stop that is chosen, told apart by colour and dash."""
    frame = frame.assign(**{series: frame[series].astype(str)})
    names = list(dict.fromkeys(frame[series]))
    order = f"indexof({json.dumps(names)}, datum[{json.dumps(series)}])"
    chart = altair().Chart(frame).transform_filter(here).transform_calculate(**{DASH: order})
    style = look(series, names)("color", "strokeDash")
    return chart.mark_line(clip=True, strokeWidth=2.5).encode(**place, **style)


def _words(frame, says: str, here: str):
    """The words of the stop that is chosen, in the upper left corner."""
    alt = altair()
    words = alt.Chart(frame).transform_filter(here)
    words = words.mark_text(align="left", baseline="top", color=_INK)
    return words.encode(x=alt.value(4), y=alt.value(2), text=f"{says}:N")


def _stops(values) -> tuple[np.ndarray, float]:
    """The slider's stops in order, and their distance."""
    stops = np.unique(np.asarray(values, np.float64))
    gaps = np.diff(stops)
    if not len(gaps) or not np.allclose(gaps, gaps[0], rtol=1e-3):
        raise ValueError(f"A slider needs two or more evenly spaced stops, got {stops.tolist()}.")
    return stops, float(f"{gaps[0]:.6g}")


def _scale(domain: tuple | None):
    alt = altair()
    return alt.Scale(domain=[float(d) for d in domain], nice=False) if domain else alt.Scale()

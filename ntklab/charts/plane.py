"""Maps of a score over two inputs, marks on them, and the sliders that move them.

overlay(score_map(...), dashed_lines(...), kinds_map(...))
"""

import numpy as np

from ntklab._typing import Number
from ntklab.charts.theme import SHAPES, altair

_INK = "currentColor"
_SMALL, _LARGE = 14, 170
_FAINT = 0.55


def number_slider(name: str, label: str, low: Number, high: Number, step: Number, value: Number):
    """A slider whose value the expressions of a chart can read.

    Args:
      name: what expressions call it; unique on its page.
      label: words beside it.
      low: its left end.
      high: its right end.
      step: distance of two stops.
      value: where it stands at first.

    Returns:
      An Altair parameter, for `add_params`.
    """
    alt = altair()
    bind = alt.binding_range(min=low, max=high, step=step, name=f"{label} ")
    return alt.param(name=name, value=value, bind=bind)


def score_map(
    score,
    *,
    x: tuple[Number, Number] = (-1.0, 1.0),
    y: tuple[Number, Number] = (-1.0, 1.0),
    columns: int = 23,
    limit: Number = 1.0,
    titles: tuple[str, str] = ("first input", "second input"),
    headroom: Number = 0.0,
):
    """A score over a rectangle as coloured cells: violet below 0, orange above.

    Args:
      score: a function of points `(n, 2)` that gives `(n,)` scores at the centres of the cells, or
        a Vega expression in `datum.a` and `datum.b`, the centre, which may read sliders.
      x: ends of the horizontal axis.
      y: ends of the vertical axis.
      columns: cells in a row; cells are squares.
      limit: scores from here on have the darkest colour.
      titles: words at the axes.
      headroom: empty space above the map, in units of y, for words.

    Returns:
      An Altair chart, for `overlay`.

    Raises:
      ValueError: scores of another shape, or NaN.
    """
    import pandas as pd

    alt = altair()
    side = (x[1] - x[0]) / columns
    left, low = np.meshgrid(
        *(start + side * np.arange(round((end - start) / side)) for start, end in (x, y))
    )
    centres = np.stack([left.ravel(), low.ravel()], axis=1) + side / 2
    cells = {"x1": left.ravel(), "x2": low.ravel(), "r": left.ravel() + side}
    cells |= {"t": low.ravel() + side, "a": centres[:, 0], "b": centres[:, 1]}
    if not isinstance(score, str):
        cells["f"] = _scores(score, centres)
    chart = alt.Chart(pd.DataFrame(cells))
    chart = chart.transform_calculate(f=score) if isinstance(score, str) else chart
    place = _place(x, (y[0], y[1] + headroom), titles)
    shade = alt.Scale(scheme="purpleorange", domain=[-limit, limit], domainMid=0, clamp=True)
    legend = alt.Legend(orient="bottom", gradientLength=110)
    colour = alt.Color("f:Q", title="score", scale=shade, legend=legend)
    return chart.mark_rect(opacity=0.6, stroke=None).encode(
        x=place["x1"], y=place["x2"], x2="r:Q", y2="t:Q", color=colour
    )


def kinds_map(frame, *, kind: str, kinds: list[str], large: str):
    """Points in the plane, told apart by shape; one kind stands out by its size.

    Args:
      frame: a table with `x1`, `x2` and the column `kind`.
      kind: that column.
      kinds: its values, in the order of the legend.
      large: the one that is drawn large.

    Returns:
      An Altair chart, for `overlay`.
    """
    alt = altair()
    shapes = alt.Scale(domain=kinds, range=list(SHAPES[: len(kinds)]))
    legend = alt.Legend(orient="bottom", columns=1, title=None)
    stands_out = np.asarray(frame[kind] == large)
    frame = frame.assign(
        area=np.where(stands_out, _LARGE, _SMALL), ink=np.where(stands_out, 1.0, _FAINT)
    )
    marks = alt.Chart(frame).mark_point(strokeWidth=1.5, filled=False, color=_INK)
    return marks.encode(
        x="x1:Q",
        y="x2:Q",
        shape=alt.Shape(f"{kind}:N", scale=shapes, legend=legend),
        size=alt.Size("area:Q", scale=None, legend=None),
        opacity=alt.Opacity("ink:Q", scale=None, legend=None),
    )


def dashed_lines(ends):
    """Dashed straight lines, cut off at the edge of the map.

    Args:
      ends: `(n, 4)`, the two ends of each as x, y, x, y.

    Returns:
      An Altair chart, for `overlay`.
    """
    import pandas as pd

    alt = altair()
    table = pd.DataFrame(np.asarray(ends), columns=["x1", "x2", "u1", "u2"])
    marks = alt.Chart(table).mark_rule(clip=True, opacity=0.8, strokeDash=[5, 3], color=_INK)
    return marks.encode(x="x1:Q", y="x2:Q", x2="u1:Q", y2="u2:Q")


def overlay(field, *layers):
    """Marks on a map, with the map's words at the axes.

    Vega-Lite would join the names of all fields that share an axis.

    Args:
      field: what `score_map` made.
      *layers: Altair charts on the same axes.

    Returns:
      An Altair chart, to be given to `show` with a description.
    """
    alt = altair()
    titles = {channel: field.encoding[channel]["title"] for channel in ("x", "y")}
    layers = [layer.copy() for layer in layers]
    for layer in layers:
        for channel, title in titles.items():
            place = layer.encoding[channel]
            if isinstance(place, alt.X | alt.Y):  # not a fixed place in pixels
                place["title"] = title
    return alt.layer(field, *layers)


def _place(x: tuple, y: tuple, titles: tuple[str, str]) -> dict:
    """Axes that end where the map ends."""
    alt = altair()
    makers = {"x1": (alt.X, x, titles[0]), "x2": (alt.Y, y, titles[1])}
    return {
        name: make(
            f"{name}:Q",
            title=title,
            scale=alt.Scale(domain=list(ends), nice=False, zero=False),
        )
        for name, (make, ends, title) in makers.items()
    }


def _scores(score, centres: np.ndarray) -> np.ndarray:
    """What a function says of the cells' centres, checked."""
    values = np.asarray(score(centres), np.float64)
    if values.shape != (len(centres),) or not np.isfinite(values).all():
        raise ValueError(
            f"score must give ({len(centres)},) finite numbers for points {centres.shape}, got "
            f"shape {values.shape}."
        )
    return values

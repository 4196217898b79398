"""Paths in polar coordinates, with a menu of what is shown."""

import json

import numpy as np

from ntklab.charts._series import DASH, check_columns, check_values, look
from ntklab.charts.theme import altair

_INK = "currentColor"
_WIDTH = 320
_ARC = 24


def polar_paths(
    frame,
    *,
    angle: str,
    radius: str,
    series: str,
    time: str,
    part: str,
    name: str,
    label: str = "show",
):
    """Paths of points in polar coordinates, one line a series, angles counter-clockwise from right.

    A menu chooses one value of the column `part`. Both axes have one scale, so angles look as they
    are. Arcs and rays stand in the background; the rays say their degrees.

    Args:
      frame: a pandas table in long form, one row a point, in the order of time.
      angle: column of the angles, in radians, from 0 to pi/2.
      radius: column of the radii, 0 or more.
      series: column that names the lines, at most eight of them, in order of appearance.
      time: column that orders the points of a line.
      part: column that the menu chooses by, in order of appearance.
      name: of the menu in expressions; unique on its page.
      label: words beside the menu.

    Returns:
      An Altair chart, 320 px wide, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, NaN, angles or radii out of range, more than eight series.

    Cost: time and memory proportional to the rows.
    """
    alt = altair()
    check_columns(frame, [angle, radius, series, time, part])
    check_values(frame, dict.fromkeys((angle, radius, time), "linear"))
    rows = _rows(frame, angle, radius, (series, time, part))
    names, parts = (list(dict.fromkeys(rows[c])) for c in (series, part))
    reach = _reach(rows)
    height = round(_WIDTH * reach[1] / reach[0])
    place = {
        "x": alt.X("x:Q", title=None, axis=None, scale=_scale(reach[0], (0, _WIDTH))),
        "y": alt.Y("y:Q", title=None, axis=None, scale=_scale(reach[1], (height, 0))),
    }
    bind = alt.binding_select(options=parts, name=f"{label} ")
    menu = alt.param(name=name, value=parts[0], bind=bind)
    order = f"indexof({json.dumps(names)}, datum[{json.dumps(series)}])"
    base = alt.Chart(rows).transform_filter(f"datum[{json.dumps(part)}] == {name}")
    base, style = base.transform_calculate(**{DASH: order}), look(series, names)
    lines = base.mark_line(clip=True, strokeWidth=2).encode(
        **place, order=f"{time}:Q", **style("color", "strokeDash")
    )
    numbers = [alt.Tooltip("radius:Q", format=".3f"), alt.Tooltip("degrees:Q", format=".1f")]
    dots = base.mark_point(clip=True, size=45, filled=True, opacity=1).encode(
        **place, **style("color", "shape"), tooltip=[series, time, *numbers]
    )
    chart = alt.layer(*_grid(reach, place), lines, dots)
    return chart.add_params(menu).properties(width=_WIDTH, height=height)


def _rows(frame, angle: str, radius: str, others: tuple[str, str, str]):
    """The places of the points, beside what tells them apart."""
    import pandas as pd

    turned, far = (np.asarray(frame[c], np.float64) for c in (angle, radius))
    if turned.min() < 0 or turned.max() > np.pi / 2 + 1e-6 or far.min() < 0 or not far.max() > 0:
        raise ValueError("Angles lie between 0 and pi/2 here, and radii are 0 or more, not all 0.")
    series, time, part = others
    places = {"x": far * np.cos(turned), "y": far * np.sin(turned), "radius": far}
    kinds = {c: frame[c].astype(str).to_numpy() for c in (series, part)}
    return pd.DataFrame(
        places | {"degrees": np.degrees(turned), time: frame[time].to_numpy()} | kinds
    )


def _reach(rows) -> tuple[float, float]:
    """How far the picture goes to the right and up."""
    right = 1.12 * float(max(rows["x"].max(), 0.4 * rows["radius"].max()))
    return right, max(1.12 * float(rows["y"].max()), 0.35 * right)


def _scale(end: float, pixels: tuple[int, int]):
    return altair().Scale(domain=[0, end], range=list(pixels), nice=False, zero=True)


def _grid(reach: tuple[float, float], place: dict) -> list:
    """Arcs at round radii, rays every 15 degrees with their names, and the two numbers of arcs."""
    import pandas as pd

    alt = altair()
    longest = float(np.hypot(*reach))
    step = min((s for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 5) if longest / s <= 6), default=10.0)
    arcs, rays, words = [], [], []
    for number, r in enumerate(np.arange(step, longest, step)):
        angles = np.linspace(0, np.pi / 2, _ARC + 1)
        arcs += [{"x": r * np.cos(a), "y": r * np.sin(a), "arc": number} for a in angles]
        if r < reach[0]:
            words.append({"x": r, "y": 0.0, "text": f"{r:g}"})
    for degrees in range(0, 91, 15):
        way = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        end = min(e / w if w > 1e-9 else np.inf for e, w in zip(reach, way, strict=True))
        rays.append({"x": 0.0, "y": 0.0, "u": end * way[0], "v": end * way[1]})
        if 0 < degrees < 90:
            near = 0.94 * end
            words.append({"x": near * way[0], "y": near * way[1], "text": f"{degrees}°"})
    faint = {"color": _INK, "opacity": 0.22}
    circles = alt.Chart(pd.DataFrame(arcs)).mark_line(clip=True, strokeWidth=1, **faint)
    spokes = alt.Chart(pd.DataFrame(rays)).mark_rule(**faint)
    texts = alt.Chart(pd.DataFrame(words)).mark_text(
        fontSize=11, baseline="bottom", align="center", color=_INK, opacity=0.75
    )
    return [
        circles.encode(**place, detail="arc:N", order="y:Q"),
        spokes.encode(**place, x2="u:Q", y2="v:Q"),
        texts.encode(**place, text="text:N"),
    ]

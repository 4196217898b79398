"""Charts of points: several measures in a row, and one quantity against another."""

from ntklab.charts._series import check_columns, check_values, look
from ntklab.charts.theme import altair

_ROW = 34


def dumbbells(
    frame,
    *,
    name: str,
    measures: list[str],
    span: tuple[str, str],
    x_title: str,
    domain: tuple[float, float] = (0.0, 1.0),
):
    """Several measures of each of a few things, one row a thing, with a bar between two of them.

    Args:
      frame: a pandas table, one row a thing, one column a measure.
      name: column that names the things; rows keep their order.
      measures: columns that are shown, at most eight.
      span: the two measures that the bar joins.
      x_title: words under the axis.
      domain: its ends.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, or NaN.
    """
    alt = altair()
    check_columns(frame, [name, *measures, *span])
    check_values(frame, dict.fromkeys([*measures, *span], "linear"))
    y = alt.Y(f"{name}:N", sort=list(frame[name]), title=None)
    scale = alt.Scale(domain=list(domain))
    base = alt.Chart(frame)
    bar = base.mark_rule(opacity=0.5, strokeWidth=2).encode(
        x=alt.X(f"{span[0]}:Q", title=x_title, scale=scale), x2=f"{span[1]}:Q", y=y
    )
    dots = base.transform_fold(measures, as_=["measure", "value"]).mark_point(
        size=110, filled=True, opacity=1
    )
    dots = dots.encode(
        x=alt.X("value:Q", title=x_title, scale=scale),
        y=y,
        **look("measure", measures)("color", "shape"),
    )
    return (bar + dots).properties(height=_ROW * len(frame))


def against(frame, *, x: str, y: str, series: str, x_title: str, y_title: str, height: int = 260):
    """One quantity against another in the same units, with the line where they are equal.

    Args:
      frame: a pandas table in long form, one row a point.
      x: column of the horizontal axis.
      y: column of the vertical axis.
      series: column that tells the points apart.
      x_title: words under the axis.
      y_title: words beside the axis.
      height: px.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, or NaN.
    """
    import pandas as pd

    alt = altair()
    check_columns(frame, [x, y, series])
    check_values(frame, {x: "linear", y: "linear"})
    place = {"x": alt.X(f"{x}:Q", title=x_title), "y": alt.Y(f"{y}:Q", title=y_title)}
    names = list(dict.fromkeys(frame[series]))
    marks = alt.Chart(frame).mark_point(filled=False, size=45, opacity=0.9)
    marks = marks.encode(**place, **look(series, names)("color", "shape"))
    end = float(min(frame[x].max(), frame[y].max()))
    ends = pd.DataFrame({x: [0.0, end], y: [0.0, end]})
    line = alt.Chart(ends).mark_line(color="currentColor", strokeDash=[5, 3]).encode(**place)
    return (marks + line).properties(height=height)

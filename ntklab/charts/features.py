"""Features in the plane of usefulness and robustness: touch one to see what it looks for."""

import json

from ntklab.charts._series import check_columns, check_values
from ntklab.charts.theme import altair

_INK = "currentColor"
_SIDE, _HEIGHT = 92, 340


def feature_plane(frame, *, name: str, kinds: str = "kernel", chance: float, most: float = 1.0):
    r"""Usefulness against robustness; the feature that is touched shows its picture and its words.

    No feature lies above the diagonal, and the picture stands in that empty corner.

    Args:
      frame: a pandas table, one row a feature of a kind, with the columns `feature` (its number),
        `usefulness`, `robustness`, `picture` (a data URI from `image_uri`), `line1`, `line2`,
        `line3` (words beside the picture), and the one that `kinds` names.
      name: of the parameters in expressions; unique on its page.
      kinds: column that a menu chooses from, in order of appearance.
      chance: accuracy of the best constant, where a dotted line stands.
      most: end of both axes.

    Returns:
      An Altair chart, to be given to `show` with a description.

    Raises:
      ValueError: a missing column, NaN, or a robustness above its usefulness.
    """
    alt = altair()
    lines = ["line1", "line2", "line3"]
    check_columns(frame, ["feature", "usefulness", "robustness", "picture", *lines, kinds])
    check_values(frame, dict.fromkeys(("feature", "usefulness", "robustness"), "linear"))
    if (frame["robustness"] > frame["usefulness"] + 1e-9).any():
        raise ValueError("robustness is at most usefulness, by definition; this table has more.")
    options = list(dict.fromkeys(frame[kinds]))
    menu = alt.param(
        name=f"{name}_kind",
        value=options[0],
        bind=alt.binding_select(options=options, name=f"{kinds} "),
    )
    touched = alt.selection_point(
        name=f"{name}_touched", fields=["feature"], on="pointerover", nearest=True, empty=False,
        value=[{"feature": int(frame["feature"].iloc[min(1, len(frame) - 1)])}],
    )  # fmt: skip
    base = alt.Chart(frame).transform_filter(f"datum[{json.dumps(kinds)}] == {name}_kind")
    here = base.transform_filter(touched)
    layers = [*_frame(chance, most), _points(base, most).add_params(touched)]
    layers.append(_points(here, most, size=170, filled=False, strokeWidth=3, color=_INK))
    corner = {"align": "left", "baseline": "top"}
    picture = here.mark_image(**corner, width=_SIDE, height=_SIDE)
    layers.append(picture.encode(x=alt.value(8), y=alt.value(6), url="picture:N"))
    for row, line in enumerate(lines):
        words = here.mark_text(**corner, fontSize=12, color=_INK)
        place = {"x": alt.value(8), "y": alt.value(_SIDE + 12 + 16 * row)}
        layers.append(words.encode(**place, text=f"{line}:N"))
    return alt.layer(*layers).add_params(menu).properties(height=_HEIGHT)


def _points(base, most: float, **style):
    """One mark a feature; without a style, coloured by its number, the first ones darkest."""
    alt = altair()
    domain = alt.Scale(domain=[0, most], nice=False)
    place = {
        "x": alt.X("usefulness:Q", scale=domain, title="usefulness"),
        "y": alt.Y("robustness:Q", scale=domain, title="robustness"),
    }
    if style:
        return base.mark_point(opacity=1, **style).encode(**place)
    colour = alt.Color(
        "feature:Q",
        title="feature",
        scale=alt.Scale(scheme="viridis", type="sqrt"),
        legend=alt.Legend(orient="bottom", gradientLength=160),
    )
    # A thin rim in the ink of the page: the darkest colour vanishes on a dark one.
    marks = base.mark_point(filled=True, size=70, opacity=0.9, stroke=_INK, strokeWidth=0.8)
    return marks.encode(**place, color=colour)


def _frame(chance: float, most: float) -> list:
    """The diagonal, above which nothing lies, and what a constant reaches."""
    import pandas as pd

    alt = altair()
    ends = pd.DataFrame({"usefulness": [0.0, most], "robustness": [0.0, most]})
    line = alt.Chart(ends).mark_line(color=_INK, strokeDash=[5, 3], opacity=0.7)
    rule = alt.Chart(pd.DataFrame({"usefulness": [chance]}))
    rule = rule.mark_rule(color=_INK, strokeDash=[2, 3], opacity=0.7).encode(x="usefulness:Q")
    return [line.encode(x="usefulness:Q", y="robustness:Q"), rule]

"""The theme of every chart, and the last check that a chart passes before it is shown."""

import copy
import math
import os

#: Colours that keep a contrast of 3 and more on white and on #121212, and that stay apart from
#: each other for readers who see red, green or blue weakly.
PALETTE = ("#2993b9", "#d17d03", "#6858d1", "#c41929", "#90946c", "#9500ff", "#8d5369", "#f906ab")
#: One dash pattern and one shape beside every colour: colour alone never tells series apart.
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4), (12, 4), (1, 3), (10, 2, 2, 2, 2, 2))
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-left",
    "triangle-right",
)

MAX_ROWS = 2000
MIN_DESCRIPTION = 60
_INK = "#1a1a1a"
_ACTIONS = {"export": True, "source": False, "compiled": False, "editor": False}


def altair():
    """The Altair module.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import altair
    except ImportError as error:
        raise ImportError("Charts need Altair: pip install altair pandas.") from error
    return altair


def in_book() -> bool:
    """Whether the pages of the book are being built (`NTKLAB_BOOK=1`)."""
    return os.environ.get("NTKLAB_BOOK") == "1"


def config() -> dict:
    """The Vega-Lite configuration: colours from the page in the book, dark on white elsewhere."""
    ink = "currentColor" if in_book() else _INK
    words = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12}
    axis = {"domainColor": ink, "tickColor": ink, "gridColor": ink, "gridOpacity": 0.15}
    quiet = {"aria": False}  # the chart's description speaks; a label a point would drown it
    return {
        "background": "transparent" if in_book() else "white",
        "font": "sans-serif",
        "view": {"stroke": "transparent", "continuousWidth": 320, "continuousHeight": 280},
        "axis": {**words, **axis, "titleFontWeight": "normal"},
        "axisX": {"labelFlush": False},
        "legend": {**words, "labelLimit": 0, "symbolSize": 110, "titleFontWeight": "normal"},
        "title": {"color": ink, "subtitleColor": ink, "fontSize": 13, "anchor": "start"},
        "header": words,
        "text": {"fill": ink, "fontSize": 12},
        "rule": {"color": ink},
        "line": {"strokeWidth": 2},
        "range": {"category": list(PALETTE)},
        **{mark: quiet for mark in ("point", "circle", "square", "rect", "image")},
    }


def register() -> None:
    """Make the theme `ntklab` the one of every chart from here on, drawn as SVG.

    Calling it again is harmless. Works with Altair 5.5 and later.

    Raises:
      ImportError: Altair is not installed.

    >>> register()
    """
    alt = altair()

    @alt.theme.register("ntklab", enable=True)
    def theme() -> alt.theme.ThemeConfig:
        return alt.theme.ThemeConfig({"config": config()})

    alt.renderers.set_embed_options(renderer="svg", actions=_ACTIONS)


def finish(chart, description: str):
    """A chart ready for the page, or one sentence that says what it lacks.

    Args:
      chart: any Altair chart with its data in it.
      description: what a listener is told: the kind of chart, its axes, what it shows. At least
        60 characters.

    Returns:
      A new chart: described, its numbers rounded to four significant digits, as wide as its
      column (concatenated charts keep their own widths, which must be 320 px or less).

    Raises:
      ValueError: a short description, more than 2,000 rows, data behind an address, a
        concatenated chart that is wider than a phone.
      TypeError: not an Altair chart.

    Cost: time and memory proportional to the rows.

    >>> import altair as alt, pandas as pd
    >>> bars = alt.Chart(pd.DataFrame({"n": [1.23456]})).mark_bar().encode(x="n")
    >>> done = finish(bars, "One horizontal bar, whose length is the only number of the table.")
    >>> list(done.to_dict()["datasets"].values())
    [[{'n': 1.235}]]
    """
    alt = altair()
    if not hasattr(chart, "to_dict"):
        raise TypeError(f"finish takes an Altair chart, not {type(chart).__name__}.")
    words = " ".join(description.split())
    if len(words) < MIN_DESCRIPTION:
        raise ValueError(
            f"Describe the chart for those who hear it: {MIN_DESCRIPTION} characters or more "
            f"(kind of chart, axes, what it shows); this has {len(words)}."
        )
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.to_dict()
    spec = {key: value for key, value in spec.items() if key not in ("$schema", "config")}
    _check_data(spec)
    _check_width(spec)
    spec["datasets"] = {k: _rounded(rows) for k, rows in spec.get("datasets", {}).items()}
    spec["description"] = words
    if not in_book():
        spec = _inked(spec)
    return alt.Chart.from_dict(spec)


def show(chart, description: str) -> None:
    """Display a chart after the checks of `finish`.

    Args:
      chart: an Altair chart.
      description: as for `finish`.

    Raises:
      ValueError: as `finish`.
    """
    from IPython.display import display

    display(finish(chart, description))


def _check_data(spec: dict) -> None:
    addresses = [d["url"] for d in _nodes(spec, "data") if isinstance(d, dict) and "url" in d]
    if addresses:
        raise ValueError(f"The chart reads {addresses[0]!r}: put its data into the page instead.")
    inline = [d["values"] for d in _nodes(spec, "data") if isinstance(d, dict) and "values" in d]
    tables = [*spec.get("datasets", {}).values(), *inline]
    rows = sum(len(table) for table in tables)
    if rows > MAX_ROWS:
        raise ValueError(
            f"The chart carries {rows} rows and the page allows {MAX_ROWS}: summarise them first."
        )


def _check_width(spec: dict) -> None:
    views = [v for key in ("vconcat", "hconcat", "concat") for v in spec.get(key, [])]
    if not views:
        if "facet" not in spec and "repeat" not in spec:
            spec.setdefault("width", "container")
        return
    for view in views:
        width = view.get("width", 320)
        if not isinstance(width, int | float) or width > 320:
            raise ValueError("Views in a stack need a width of 320 px or less, for phones.")
    if len(spec.get("hconcat", [])) > 1:
        raise ValueError("Stack the views with &: two side by side do not fit a phone.")


def _nodes(value, key: str) -> list:
    """Everything that stands under `key`, at any depth outside the data themselves."""
    if isinstance(value, list):
        return [found for item in value for found in _nodes(item, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if key in value else []
    return own + [f for k, v in value.items() if k not in ("datasets", key) for f in _nodes(v, key)]


def _rounded(value):
    """Floats with four significant digits, inside lists and rows."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}")
    return value


def _inked(spec: dict) -> dict:
    """The same chart with dark ink for the page's colour: Colab's dark frame has light text."""
    spec = copy.deepcopy(spec)
    stack = [spec]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(items):
            if value == "currentColor":
                node[key] = _INK
            elif isinstance(value, dict | list) and key != "datasets":
                stack.append(value)
    return spec

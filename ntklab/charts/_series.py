"""What charts of several series share: how each looks, and which tables are refused."""

import numpy as np

from ntklab.charts.theme import DASHES, PALETTE, SHAPES, altair

SCALES = ("linear", "log", "symlog", "sqrt")
# The dash follows the place of a series in the list, not its name: Vega-Lite would join the legends
# of equal domains, and the legend shows colour and shape.
DASH = "dash"


def look(series: str | None, names: list[str]):
    """Encodings that show a series: the same names in the same order for each channel."""
    alt = altair()
    if len(names) > len(PALETTE):
        raise ValueError(
            f"{len(names)} lines cannot be told apart; show at most {len(PALETTE)} in one chart."
        )
    ranges = {"color": PALETTE, "strokeDash": [list(d) for d in DASHES], "shape": SHAPES}
    makers = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
    columns = 1 if max(map(len, names), default=0) > 16 else 2
    legend = alt.Legend(orient="top", title=None, columns=columns, symbolOpacity=1)

    def encoding(channel: str):
        dashed = channel == "strokeDash"
        domain = list(range(len(names))) if dashed else names
        scale = alt.Scale(domain=domain, range=list(ranges[channel][: len(names)]))
        field = f"{DASH if dashed else series}:N"
        return makers[channel](field, scale=scale, legend=None if dashed else legend)

    def encodings(*channels: str) -> dict:
        if not names:
            return {"color": alt.value(PALETTE[0])} if "color" in channels else {}
        return {c: encoding(c) for c in channels}

    return encodings


def check_columns(frame, columns: list[str]) -> None:
    """Raise where a column is missing or there are no rows."""
    missing = [c for c in columns if c not in getattr(frame, "columns", ())]
    if missing:
        raise ValueError(f"The table has no column {', '.join(missing)}.")
    if not len(frame):
        raise ValueError("The table has no rows.")


def check_values(frame, scales: dict[str, str]) -> None:
    """Raise where a column of `scales` cannot be drawn on its scale."""
    for column, scale in scales.items():
        if scale not in SCALES:
            raise ValueError(f"A scale is one of {', '.join(SCALES)}, not {scale!r}.")
        values = np.asarray(frame[column], dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"The column {column} holds NaN or infinities: errors, not points.")
        if scale == "log" and (values <= 0).any():
            raise ValueError(f"A logarithmic axis cannot show {column}: it has values <= 0.")

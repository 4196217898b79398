"""Paths in polar coordinates: places, scales, the menu, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from ntklab import charts

DESCRIPTION = "Two paths in polar coordinates from the origin, for two parts, chosen by a menu."


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def table() -> pd.DataFrame:
    """Two lines of three points, in two parts."""
    rows = [
        {"angle": 0.3 * t * s, "radius": 0.5 * t, "training": kind, "epoch": t, "part": part}
        for part, s in (("whole", 1.0), ("top", 0.5))
        for kind in ("standard", "pgd")
        for t in range(3)
    ]
    return pd.DataFrame(rows)


def made(frame: pd.DataFrame) -> dict:
    chart = charts.polar_paths(
        frame, angle="angle", radius="radius", series="training", time="epoch", part="part",
        name="which",
    )  # fmt: skip
    return charts.finish(chart, DESCRIPTION).to_dict()


def rows_with(spec: dict, column: str) -> list[dict]:
    (found,) = [rows for rows in spec["datasets"].values() if column in rows[0]]
    return found


def test_points_lie_where_angle_and_radius_say():
    rows = rows_with(made(table()), "training")
    assert len(rows) == 12
    for row in rows:
        angle, radius = np.radians(row["degrees"]), row["radius"]
        assert row["x"] == pytest.approx(radius * np.cos(angle), abs=2e-3)
        assert row["y"] == pytest.approx(radius * np.sin(angle), abs=2e-3)
    assert max(row["degrees"] for row in rows) == pytest.approx(np.degrees(0.6), abs=0.1)


def test_both_axes_have_one_scale():
    spec = made(table())
    encoding = spec["layer"][-1]["encoding"]
    ends = [encoding[c]["scale"]["domain"][1] for c in "xy"]
    assert spec["height"] / spec["width"] == pytest.approx(ends[1] / ends[0], rel=0.01)
    assert spec["width"] <= 320 and encoding["y"]["scale"]["range"] == [spec["height"], 0]


def test_the_menu_offers_the_parts_in_their_order():
    spec = made(table())
    (menu,) = [p for p in spec["params"] if p["name"] == "which"]
    assert menu["bind"]["options"] == ["whole", "top"] and menu["value"] == "whole"
    assert any("which" in str(layer.get("transform")) for layer in spec["layer"])


def test_rays_say_their_degrees():
    words = [row["text"] for row in rows_with(made(table()), "text")]
    assert {"15°", "30°", "45°"} <= set(words)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("angle", np.nan, "NaN"),
        ("angle", 2.0, "between 0 and pi/2"),
        ("radius", -0.5, "between 0 and pi/2"),
    ],
)
def test_bad_places_are_refused(column, value, message):
    frame = table()
    frame.loc[3, column] = value
    with pytest.raises(ValueError, match=message):
        made(frame)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column part"):
        made(table().drop(columns="part"))

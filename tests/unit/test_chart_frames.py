"""Lines that a slider moves: the stops, what stays and what moves, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from ntklab import charts

WORDS = "Lines against a horizontal axis, with a slider, described for those who cannot see them."
FRAME = pd.DataFrame(
    [
        {"u": u, "v": u * k, "line": name, "k": k, "words": f"stop {k}"}
        for k in (2, 4, 6)
        for name in ("one", "two")
        for u in (0.0, 1.0)
    ]
)
SETTINGS = {
    "x": "u", "y": "v", "series": "line", "at": "k", "name": "stop", "label": "k", "start": 4.4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def finished(**more):
    return charts.finish(charts.sliding_lines(FRAME, **SETTINGS, **more), WORDS).to_dict()


def test_the_slider_has_the_stops_of_the_table_and_starts_at_the_nearest():
    (param,) = finished()["params"]
    assert param["value"] == 4
    assert {k: param["bind"][k] for k in ("min", "max", "step")} == {"min": 2, "max": 6, "step": 2}


def test_lines_ticks_and_words_follow_the_slider_and_points_stay():
    points, ticks = pd.DataFrame({"u": [0.5], "v": [1.0]}), pd.DataFrame({"u": [0.1], "k": [4]})
    spec = finished(points=points, ticks=ticks, says="words", y_domain=(0, 3))
    moving = ["transform" in layer for layer in spec["layer"]]
    assert moving == [True, False, True, True]
    here = 'abs(datum["k"] - stop) < 1'
    assert all(here in str(layer["transform"]) for layer in spec["layer"] if "transform" in layer)
    tables = [spec["datasets"][layer["data"]["name"]] for layer in spec["layer"]]
    assert tables[3] == [{"k": k, "words": f"stop {k}"} for k in (2, 4, 6)]
    assert all("words" not in row for row in tables[0])
    assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [2, 2, 2, 2, 3, 3, 3, 3, 6, 6, 6, 6]}, "evenly spaced"),
        ({"k": [2] * 12}, "two or more"),
        ({"v": [np.nan] * 12}, "NaN"),
    ],
)
def test_tables_that_no_slider_can_show_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        charts.sliding_lines(FRAME.assign(**change), **SETTINGS)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column words"):
        charts.sliding_lines(FRAME.drop(columns="words"), **SETTINGS, says="words")

"""Charts of points and maps of the plane: what the marks stand for, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from ntklab import charts

WORDS = "A chart with a horizontal and a vertical axis, described for those who cannot see it."


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def finished(chart):
    """The specification, and the tables in the order of the layers."""
    spec = charts.finish(chart, WORDS).to_dict()
    layers = spec.get("layer", [spec])
    names = [layer.get("data", spec.get("data", {})).get("name") for layer in layers]
    return spec, [spec["datasets"][name] for name in names]


THREE = pd.DataFrame(
    {"model": ["a", "b"], "clean": [0.9, 0.8], "weak": [0.7, 0.6], "worst": [0.1, 0.5]}
)


def test_dumbbells_join_two_measures_and_show_all():
    chart = charts.dumbbells(
        THREE,
        name="model",
        measures=["clean", "weak", "worst"],
        span=("worst", "weak"),
        x_title="x",
    )
    spec, _ = finished(chart)
    bar, dots = spec["layer"]
    assert (bar["encoding"]["x"]["field"], bar["encoding"]["x2"]["field"]) == ("worst", "weak")
    assert dots["transform"] == [{"fold": ["clean", "weak", "worst"], "as": ["measure", "value"]}]
    assert dots["encoding"]["y"]["sort"] == ["a", "b"]
    colour, shape = (dots["encoding"][c]["scale"] for c in ("color", "shape"))
    assert colour["domain"] == shape["domain"] == ["clean", "weak", "worst"]
    assert len(set(colour["range"])) == len(set(shape["range"])) == 3


def test_against_draws_the_line_of_equals_where_both_have_points():
    frame = pd.DataFrame({"p": [0.1, 0.2], "q": [0.4, 0.9], "s": ["one", "two"]})
    chart = charts.against(frame, x="p", y="q", series="s", x_title="P", y_title="Q")
    spec, tables = finished(chart)
    assert tables[1] == [{"p": 0.0, "q": 0.0}, {"p": 0.2, "q": 0.2}]
    axes = [layer["encoding"][c]["title"] for layer in spec["layer"] for c in "xy"]
    assert axes == ["P", "Q", "P", "Q"]


def test_points_that_are_none_are_refused():
    settings = {"x": "p", "y": "q", "series": "s", "x_title": "P", "y_title": "Q"}
    frame = pd.DataFrame({"p": [0.1, np.inf], "q": [0.4, 0.9], "s": ["one", "two"]})
    with pytest.raises(ValueError, match="p holds NaN or infinities"):
        charts.against(frame, **settings)
    with pytest.raises(ValueError, match="no column worst"):
        charts.dumbbells(
            THREE.drop(columns="worst"),
            **{"name": "model", "measures": ["clean"], "span": ("worst", "clean"), "x_title": "x"},
        )


# Maps.


def test_a_map_shows_the_score_at_the_centre_of_each_cell():
    chart = charts.score_map(lambda z: z[:, 0] + 10 * z[:, 1], x=(-1, 1), y=(0, 1), columns=4)
    (cells,) = finished(chart)[1]
    assert len(cells) == 8
    first = {"x1": -1.0, "x2": 0.0, "r": -0.5, "t": 0.5, "a": -0.75, "b": 0.25, "f": 1.75}
    assert cells[0] == first
    assert all(c["f"] == pytest.approx(c["a"] + 10 * c["b"]) for c in cells)


def test_a_map_can_be_a_formula_that_reads_a_slider():
    chart = charts.score_map("k * datum.a - datum.b", columns=3, headroom=0.5)
    slider = charts.number_slider("k", "factor", -1, 1, 0.5, 0.5)
    spec, (cells,) = finished(chart.add_params(slider))
    assert spec["transform"] == [{"calculate": "k * datum.a - datum.b", "as": "f"}]
    assert len(cells) == 9 and "f" not in cells[0]
    bind = {"input": "range", "min": -1, "max": 1, "step": 0.5, "name": "factor "}
    assert spec["params"] == [{"name": "k", "value": 0.5, "bind": bind}]
    assert spec["encoding"]["y"]["scale"]["domain"] == [-1, 1.5]


def test_marks_on_a_map_keep_its_words():
    field = charts.score_map(lambda z: z[:, 0], columns=3, titles=("one", "two"))
    dots = pd.DataFrame({"x1": [0.0, 0.5], "x2": [0.1, 0.2], "fate": ["kept", "lost"]})
    marks = charts.kinds_map(dots, kind="fate", kinds=["kept", "lost"], large="lost")
    rules = charts.dashed_lines([[-1.0, 0.0, 1.0, 0.5]])
    before = marks.to_dict()
    spec, tables = finished(charts.overlay(field, rules, marks))
    for layer in spec["layer"]:
        assert [layer["encoding"][c]["title"] for c in "xy"] == ["one", "two"]
    assert tables[1] == [{"x1": -1.0, "x2": 0.0, "u1": 1.0, "u2": 0.5}]
    assert [row["area"] for row in tables[2]] == [14, 170]
    assert marks.to_dict() == before


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"must give \(9,\) finite numbers"):
        charts.score_map(lambda z: z, columns=3)
    with pytest.raises(ValueError, match="finite numbers"):
        charts.score_map(lambda z: z[:, 0] * np.nan, columns=3)

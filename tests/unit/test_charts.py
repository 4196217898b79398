"""Charts: the theme, the checks before a chart is shown, and the numbers that prose quotes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import altair as alt
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from ntklab import charts

ROOT = Path(__file__).resolve().parents[2]
WORDS = "A line plot of accuracy against the budget of an attack; it falls from one to zero."

# Machado, Oliveira and Fernandes 2009: full protanopia, deuteranopia and tritanopia, linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    xyz = rgb @ np.array([[0.412, 0.358, 0.180], [0.213, 0.715, 0.072], [0.019, 0.119, 0.950]]).T
    x, y, z = np.cbrt(np.maximum(xyz / [0.950, 1.0, 1.089], 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def dots(n=3):
    frame = pd.DataFrame({"a": np.arange(n) * 1.0, "b": np.linspace(0, 1, n)})
    return alt.Chart(frame).mark_point().encode(x="a", y="b")


# --- theme ----------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", charts.PALETTE)
@pytest.mark.parametrize("ground", ["#ffffff", "#121212"])
def test_palette_has_contrast_on_both_grounds(colour, ground):
    assert contrast(colour, ground) >= 3


@pytest.mark.parametrize("vision", VISIONS)
def test_palette_stays_apart_for_every_vision(vision):
    seen = [lab(np.clip(np.array(VISIONS[vision]) @ linear(c), 0, 1)) for c in charts.PALETTE]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 18


def test_every_colour_has_its_own_dash_and_shape():
    assert len(set(charts.DASHES)) == len(set(charts.SHAPES)) == len(charts.PALETTE)


def test_theme_follows_the_page_in_the_book():
    config = dots().to_dict()["config"]
    assert alt.theme.active == "ntklab"
    assert config["background"] == "transparent"
    for part in ("axis", "legend"):
        assert config[part]["labelColor"] == config[part]["titleColor"] == "currentColor"
    assert config["title"]["color"] == config["text"]["fill"] == "currentColor"
    assert config["axis"]["gridColor"] == "currentColor" and config["axis"]["gridOpacity"] < 0.3


def test_outside_the_book_ink_is_dark_on_white(monkeypatch):
    monkeypatch.delenv("NTKLAB_BOOK")
    charts.register()
    chart = dots().mark_point(color="currentColor") + dots().mark_line(stroke="currentColor")
    spec = charts.finish(chart, WORDS).to_dict()
    assert spec["config"]["background"] == "white"
    assert "currentColor" not in json.dumps(spec)


def test_charts_are_drawn_as_svg():
    assert alt.renderers.options["embed_options"]["renderer"] == "svg"


def test_registering_twice_changes_nothing():
    before = dots().to_dict()
    charts.register()
    assert dots().to_dict() == before


# --- finish ---------------------------------------------------------------------------------


def test_finish_sets_description_and_width():
    spec = charts.finish(dots(), "  " + WORDS.replace(" ", "\n ")).to_dict()
    assert spec["description"] == WORDS
    assert spec["width"] == "container"


def test_finish_keeps_a_given_width():
    assert charts.finish(dots().properties(width=200), WORDS).to_dict()["width"] == 200


@pytest.mark.parametrize("words", ["", "accuracy", " " * 100, "x" * 59])
def test_a_short_description_is_refused(words):
    with pytest.raises(ValueError, match="60 characters"):
        charts.finish(dots(), words)


def test_2000_rows_pass_and_2001_do_not():
    charts.finish(dots(2000), WORDS)
    with pytest.raises(ValueError, match="2001 rows and the page allows 2000"):
        charts.finish(dots(2001), WORDS)


def test_rows_of_all_layers_count_together():
    with pytest.raises(ValueError, match="2400 rows"):
        charts.finish(dots(1500) + dots(900), WORDS)


def test_rows_written_into_the_chart_count_too():
    chart = alt.Chart(alt.Data(values=[{"a": i} for i in range(2001)])).mark_tick().encode(x="a:Q")
    with pytest.raises(ValueError, match="2001 rows"):
        charts.finish(chart, WORDS)


def test_data_behind_an_address_are_refused():
    chart = alt.Chart("https://example.org/a.csv").mark_point().encode(x="a:Q")
    with pytest.raises(ValueError, match=r"reads 'https://example.org/a.csv'"):
        charts.finish(chart, WORDS)


def test_numbers_are_rounded_to_four_digits():
    frame = pd.DataFrame({"a": [1.234567, 123456.7, 1.23456e-9], "n": [1234567, 2, 3]})
    (rows,) = charts.finish(alt.Chart(frame).mark_point(), WORDS).to_dict()["datasets"].values()
    assert [row["a"] for row in rows] == [1.235, 123500.0, 1.235e-9]
    assert rows[0]["n"] == 1234567


def test_types_and_parameters_survive():
    frame = pd.DataFrame({"t": pd.to_datetime(["2030-01-01"]), "s": ["x"], "v": [1.0]})
    slider = alt.param(name="cut", value=1, bind=alt.binding_range(min=0, max=2))
    chart = alt.Chart(frame).mark_bar().encode(x="t", y="v", color="s").add_params(slider)
    spec = charts.finish(chart, WORDS).to_dict()
    kinds = {k: v["type"] for k, v in spec["encoding"].items()}
    assert kinds == {"x": "temporal", "y": "quantitative", "color": "nominal"}
    assert spec["params"][0]["bind"]["input"] == "range"


def test_stacked_views_must_fit_a_phone():
    wide = dots().properties(width=400)
    with pytest.raises(ValueError, match="320 px"):
        charts.finish(wide & dots(), WORDS)
    with pytest.raises(ValueError, match="do not fit a phone"):
        charts.finish(dots() | dots(), WORDS)
    assert "width" not in charts.finish(dots() & dots(), WORDS).to_dict()


def test_finish_refuses_what_is_no_chart():
    with pytest.raises(TypeError, match="takes an Altair chart, not str"):
        charts.finish("chart", WORDS)


# --- lines ----------------------------------------------------------------------------------


def curves(names=("clean", "attacked")):
    rows = [{"eps": e, "acc": 1 - e, "who": n} for n in names for e in (0.1, 0.2, 0.4)]
    return pd.DataFrame(rows)


def test_lines_use_colour_dash_and_shape():
    chart = charts.lines(curves(), x="eps", y="acc", series="who", y_domain=(0, 1))
    line, point = charts.finish(chart, WORDS).to_dict()["layer"]
    assert line["encoding"]["color"]["scale"]["domain"] == ["clean", "attacked"]
    assert line["encoding"]["strokeDash"]["scale"]["range"] == [list(d) for d in charts.DASHES[:2]]
    assert point["encoding"]["shape"]["scale"]["range"] == list(charts.SHAPES[:2])
    assert point["encoding"]["y"]["scale"] == {"domain": [0, 1], "type": "linear"}


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1e-4, 2e-3, 0.1], [1e-4, 1e-3, 1e-2, 0.1]),
        ([0.1, 1e6], [0.1, 10.0, 1e3, 1e5]),
        ([2.0, 5.0], None),
    ],
)
def test_logarithmic_axes_have_few_ticks_at_powers_of_ten(values, ticks):
    frame = pd.DataFrame({"t": values, "v": [0.5] * len(values)})
    spec = charts.finish(charts.lines(frame, x="t", y="v", x_scale="log"), WORDS).to_dict()
    assert spec["layer"][0]["encoding"]["x"]["axis"].get("values") == ticks


def test_series_that_are_numbers_keep_their_lines():
    frame = curves().assign(who=[1, 1, 1, 2, 2, 2])
    spec = charts.finish(charts.lines(frame, x="eps", y="acc", series="who"), WORDS).to_dict()
    (rows,) = spec["datasets"].values()
    assert {row["who"] for row in rows} == set(
        spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "budget"}, "no column budget"),
        ({"x_scale": "cubic"}, "not 'cubic'"),
        ({"low": "eps"}, "both edges"),
    ],
)
def test_lines_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        charts.lines(curves(), **({"x": "eps", "y": "acc", "series": "who"} | change))


def test_lines_refuse_values_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="cannot show acc"):
        charts.lines(curves().assign(acc=0.0), x="eps", y="acc", y_scale="log")
    with pytest.raises(ValueError, match="NaN"):
        charts.lines(curves().assign(acc=np.nan), x="eps", y="acc")
    with pytest.raises(ValueError, match="9 lines"):
        charts.lines(curves(list("abcdefghi")), x="eps", y="acc", series="who")
    with pytest.raises(ValueError, match="no rows"):
        charts.lines(curves().head(0), x="eps", y="acc")


def test_accuracy_curves_have_a_band_over_seeds():
    chart = charts.accuracy_curves([0.0, 0.1], {"pgd": [[1.0, 0.2], [0.8, 0.0]]})
    spec = charts.finish(chart, WORDS).to_dict()
    (rows,) = spec["datasets"].values()
    assert [(r["low"], r["accuracy"], r["high"]) for r in rows] == [
        (0.8, 0.9, 1.0),
        (0.0, 0.1, 0.2),
    ]
    assert spec["layer"][0]["mark"]["type"] == "area"


def test_accuracy_curves_of_one_seed_have_no_band():
    spec = charts.accuracy_curves([0.0, 0.1], {"pgd": jnp.array([1.0, 0.5])}).to_dict()
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["line", "point"]


def test_accuracy_curves_refuse_impossible_values():
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        charts.accuracy_curves([0.0], {"pgd": [1.2]})
    with pytest.raises(ValueError, match="budgets"):
        charts.accuracy_curves([0.0, 0.1], {"pgd": [1.0]})


# --- number ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fmt", "text"),
    [
        (0.91234, ".3f", "0.912"),
        (jnp.float32(0.5), ".3f", "0.500"),
        (np.int64(12), "d", "12"),
        (np.array([2.5e10]), ".1e", "2.5e+10"),
    ],
)
def test_number_prints_what_prose_will_show(capsys, value, fmt, text):
    charts.number("clean_acc", value, fmt)
    assert capsys.readouterr().out == f"clean_acc = {text}\n"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "1a", "a`"])
def test_number_refuses_names_that_prose_cannot_quote(name):
    with pytest.raises(ValueError, match="quoted in prose"):
        charts.number(name, 1.0)


def test_number_refuses_what_is_no_number():
    with pytest.raises(ValueError, match="an error, not a result"):
        charts.number("a", float("nan"))
    with pytest.raises(TypeError, match="takes one number"):
        charts.number("a", jnp.zeros(2))
    with pytest.raises(TypeError, match="takes one number"):
        charts.number("a", "0.5")
    with pytest.raises(ValueError, match="does not fit"):
        charts.number("a", 0.5, "d")


PAGE = """\
---
kernelspec:
  name: python3
---
# Page
```{code-cell} ipython3
from ntklab import charts
charts.number("clean_acc", 0.91234)
charts.number("images", 3000, "d")
```
Accuracy {glue:text}`clean_acc`, again {glue:text}`clean_acc:.2f`, on {glue:text}`images` images.
"""


def test_myst_nb_puts_the_number_into_prose(tmp_path):
    pytest.importorskip("myst_nb", reason="the book is built from the lock, which has MyST-NB")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    code = "from myst_nb.docutils_ import cli_html5 as run; run()"
    command = [sys.executable, "-c", code, "--nb-read-as-md=yes", str(page)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}
    env["JUPYTER_PREFER_ENV_PATH"] = "1"
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = re.sub(r"<[^>]*>", "", done.stdout)
    assert "Accuracy 0.912, again 0.91, on 3000 images." in words
    assert "clean_acc = 0.912" in words

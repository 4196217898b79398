"""The plane of features: what is drawn for a kind, and what is refused."""

import pandas as pd
import pytest

pytest.importorskip("altair")
from ntklab import charts

ROWS = pd.DataFrame(
    {
        "kernel": ["FC1", "FC1", "FC2", "FC2"],
        "feature": [0, 1, 0, 1],
        "usefulness": [0.5, 0.7, 0.5, 0.6],
        "robustness": [0.5, 0.4, 0.5, 0.1],
        "picture": ["data:image/png;base64,AA=="] * 4,
        "line1": "a", "line2": "b", "line3": "c",
    }
)  # fmt: skip


def spec_of(**changes):
    return charts.feature_plane(ROWS.assign(**changes), name="t", chance=0.5).to_dict()


def test_a_menu_chooses_the_kernel_and_a_touch_the_feature():
    spec = spec_of()
    menu, touch = spec["params"]
    menu, touch = (menu, touch) if "bind" in menu else (touch, menu)
    assert menu["bind"]["options"] == ["FC1", "FC2"] and menu["value"] == "FC1"
    assert touch["select"]["fields"] == ["feature"] and touch["select"]["nearest"]
    images = [layer for layer in spec["layer"] if layer["mark"]["type"] == "image"]
    (image,) = images
    filters = [t["filter"] for t in image["transform"]]
    assert filters[0] == 'datum["kernel"] == t_kind' and filters[1]["param"] == "t_touched"
    texts = [layer for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    said = [layer["encoding"]["text"]["field"] for layer in texts]
    assert said == ["line1", "line2", "line3"]
    charts.finish(charts.feature_plane(ROWS, name="t", chance=0.5), "Points with a picture. " * 3)


def test_both_axes_are_one_scale():
    points = [layer for layer in spec_of()["layer"] if layer["mark"]["type"] == "point"]
    for layer in points:
        scales = [layer["encoding"][axis]["scale"]["domain"] for axis in ("x", "y")]
        assert scales == [[0, 1.0], [0, 1.0]]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at most usefulness"):
        spec_of(robustness=[0.6, 0.4, 0.5, 0.1])
    with pytest.raises(ValueError, match="picture"):
        charts.feature_plane(ROWS.drop(columns="picture"), name="t", chance=0.5)

"""Matrices that a slider moves: stops, one scale for all of them, and what is refused."""

import base64
import struct
import zlib

import numpy as np
import pytest

from ntklab import charts

WORDS = "A matrix as a picture with a slider above it, described for those who cannot see it."
STACK = np.array([[[0.0, 1.0], [1.0, 0.0]], [[2.0, 1.0], [1.0, 2.0]]])


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


def finished(stack=STACK, says=("one", "two"), **more):
    chart = charts.sliding_matrices(stack, says, name="stop", label="when", **more)
    return charts.finish(chart, WORDS).to_dict()


def rows(spec):
    (table,) = spec["datasets"].values()
    return table


def pixels(uri):
    """The colours of a PNG that this package wrote: one IDAT, filter 0 in every line."""
    raw = base64.b64decode(uri.split(",")[1])
    width, height = struct.unpack(">II", raw[16:24])
    (length,) = struct.unpack(">I", raw[33:37])
    lines = np.frombuffer(zlib.decompress(raw[41 : 41 + length]), np.uint8)
    return lines.reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)


def test_one_row_a_stop_and_a_slider_over_all_of_them():
    spec = finished(start=1)
    (param,) = spec["params"]
    assert param["value"] == 1
    assert {k: param["bind"][k] for k in ("min", "max", "step")} == {"min": 0, "max": 1, "step": 1}
    assert [(row["stop"], row["says"]) for row in rows(spec)] == [(0, "one"), (1, "two")]
    assert all("datum.stop == stop" in str(layer["transform"]) for layer in spec["layer"])


def test_all_stops_share_one_scale():
    first, second = (pixels(row["picture"]) for row in rows(finished()))
    assert first.shape == (300, 300, 3)
    assert (first[0, -1] == second[0, -1]).all()  # the same value, 1
    assert not (first[0, 0] == second[0, 0]).all()  # 0 and 2: the two ends


def test_values_outside_a_given_domain_are_cut_off():
    first, second = (pixels(row["picture"]) for row in rows(finished(domain=(0.0, 1.0))))
    assert (first[0, -1] == second[0, 0]).all()  # 1 and 2


@pytest.mark.parametrize(
    ("stack", "says", "more", "message"),
    [
        (STACK[:1], ("one",), {}, "t >= 2"),
        (STACK[:, :1], ("one", "two"), {}, "takes"),
        (STACK * np.nan, ("one", "two"), {}, "NaN"),
        (STACK, ("one",), {}, "2 matrices and 1 texts"),
        (STACK, ("one", "two"), {"domain": (1.0, 1.0)}, "domain must grow"),
        (0 * STACK, ("one", "two"), {}, "domain must grow"),
    ],
)
def test_what_no_slider_can_show_is_refused(stack, says, more, message):
    with pytest.raises(ValueError, match=message):
        finished(stack, says, **more)

"""Pictures, the chart that the reader drives, and the ledger's rows inside a chapter."""

import base64
import html.parser
import io
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ntklab import charts, data, ledger
from ntklab.charts.slider import _Frames
from ntklab.charts.tables import SIGNS
from ntklab.ledger import judging

ALT = "Two digits, each with the same digit under attack beside it."
WORDS = "A digit under attack: a slider sets the budget, a menu the image; bars show class scores."


@pytest.fixture(autouse=True)
def in_the_book(monkeypatch):
    monkeypatch.setenv("NTKLAB_BOOK", "1")
    charts.register()


class Tags(html.parser.HTMLParser):
    """All start tags, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


# --- images ---------------------------------------------------------------------------------


def test_image_uri_is_a_png_of_the_same_pixels():
    levels = np.arange(6).reshape(2, 3) / 5
    assert (decoded(charts.image_uri(levels)) == np.round(levels * 255)).all()


def test_image_uri_scales_without_smoothing_and_clips():
    pixels = decoded(charts.image_uri(jnp.array([[-1.0, 2.0]])[..., None], scale=3))
    assert pixels.shape == (3, 6)
    assert (pixels[:, :3] == 0).all() and (pixels[:, 3:] == 255).all()


def test_image_uri_keeps_colour():
    colours = np.array([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    assert decoded(charts.image_uri(colours)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("image", [np.zeros(3), np.zeros((2, 2, 4)), np.full((2, 2), np.nan)])
def test_image_uri_refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match=r"image|NaN"):
        charts.image_uri(image)


def test_heatmap_has_alt_text_and_its_scale():
    page = Tags(charts.heatmap_png([[0.0, 2.0], [1.0, -4.0]], ALT, signed=True)._repr_html_())
    (image,) = page.all("img")
    assert image["alt"] == ALT
    assert {"-4", "4"} <= set(page.texts["span"])
    pixels = decoded(image["src"])
    assert pixels[0, 0].tolist() == [255, 255, 255]  # zero is white
    assert pixels[1, 1, 2] > pixels[1, 1, 0]  # the most negative entry is blue


def test_heatmap_of_a_constant_matrix_is_drawn():
    (image,) = Tags(charts.heatmap_png(np.ones((2, 2)), ALT).text).all("img")
    assert decoded(image["src"]).shape == (2, 2, 3)


def test_heatmap_and_grid_need_words_and_numbers():
    with pytest.raises(ValueError, match="20 characters"):
        charts.heatmap_png(np.ones((2, 2)), "kernel")
    with pytest.raises(ValueError, match="20 characters"):
        charts.image_grid([np.zeros((1, 2, 2))], "digits")
    with pytest.raises(ValueError, match="finite matrix"):
        charts.heatmap_png(np.array([[np.inf]]), ALT)
    with pytest.raises(ValueError, match="finite matrix"):
        charts.heatmap_png(np.zeros(3), ALT)


def test_grid_names_every_image_and_escapes_words():
    stacks = [np.zeros((2, 4, 4)), np.ones((2, 4, 4, 3))]
    grid = charts.image_grid(stacks, ALT + ' <"', row_titles=["clean", "attacked"], titles="ab")
    page = Tags(grid.text)
    assert [i["alt"] for i in page.all("img")] == ["clean 1", "clean 2", "attacked 1", "attacked 2"]
    assert page.tags[0][1]["aria-label"] == ALT + ' <"'
    assert "clean" in page.texts["div"] and "a" in page.texts["div"]


def test_grid_refuses_titles_that_do_not_match():
    with pytest.raises(ValueError, match="2 rows and 1 row titles"):
        charts.image_grid([np.zeros((1, 2, 2))] * 2, ALT, row_titles=["one"])
    with pytest.raises(ValueError, match="titles for rows"):
        charts.image_grid([np.zeros((1, 2, 2))], ALT, titles=["a", "b"])
    with pytest.raises(ValueError, match="stacks of images"):
        charts.image_grid([np.zeros((2, 2))], ALT)


# --- the slider -----------------------------------------------------------------------------


def attacked(k=3):
    budgets = np.linspace(0, 0.2, 5)
    clean = np.stack([np.full((8, 8, 1), 0.5), np.full((8, 8, 1), 0.4)])
    signs = np.where(np.arange(8) % 2, 1.0, -1.0)[None, None, :, None]
    images = np.stack([clean + e * signs for e in budgets])
    scores = np.zeros((5, 2, k))
    scores[..., 0] = 1.0
    scores[3:, :, 1] = 2.0
    return {
        "images": images,
        "scores": scores,
        "budgets": budgets,
        "labels": np.array([0, 2 % k]),
        "classes": ["cat", "dog", "owl"][:k],
        "description": WORDS,
    }


def frame(spec, budget, image):
    (rows,) = spec["datasets"].values()
    found = [r for r in rows if abs(r["budget"] - budget) < 1e-6 and r["image"] == image]
    assert len(found) == 1
    return found[0]


def test_slider_has_one_row_a_frame_and_says_what_changes():
    spec = charts.adversarial_slider(**attacked()).to_dict()
    (rows,) = spec["datasets"].values()
    assert len(rows) == 5 * 2
    before, after = frame(spec, 0.0, 0), frame(spec, 0.2, 0)
    assert (before["guess"], before["fooled"]) == ("prediction: cat", "right")
    assert (after["guess"], after["fooled"]) == ("prediction: dog", "wrong")
    assert after["role"] == ["true", "predicted", ""]
    assert frame(spec, 0.0, 1)["truth"] == "true class: owl"
    assert spec["description"] == WORDS


def test_slider_shows_the_perturbation_on_one_scale():
    spec = charts.adversarial_slider(**attacked()).to_dict()
    for image in (0, 1):
        seen = [np.unique(decoded(frame(spec, e, image)["change"])) for e in (0.0, 0.1, 0.2)]
        assert [levels.tolist() for levels in seen] == [[128], [64, 191], [0, 255]]


def test_slider_is_bound_to_inputs_and_fits_a_phone():
    spec = charts.adversarial_slider(**attacked()).to_dict()
    bound = {p["name"]: p["bind"] for p in spec["params"]}
    assert bound["budget"]["input"] == "range" and bound["budget"]["step"] == 0.05
    assert bound["picked"]["labels"] == ["1: cat", "2: owl"]
    assert [view["width"] for view in spec["vconcat"]] == [320, 320]


def test_every_slider_position_has_its_frame():
    spec = charts.adversarial_slider(**attacked()).to_dict()
    bind = next(p["bind"] for p in spec["params"] if p["name"] == "budget")
    steps = round((bind["max"] - bind["min"]) / bind["step"])
    for position in range(steps + 1):
        frame(spec, bind["min"] + position * bind["step"], 1)


def test_slider_takes_one_score_for_two_classes():
    options = attacked(k=2)
    options["scores"] = options["scores"][..., 1] - options["scores"][..., 0]
    spec = charts.adversarial_slider(**options).to_dict()
    assert frame(spec, 0.0, 0)["guess"] == "prediction: cat"
    assert frame(spec, 0.2, 0)["guess"] == "prediction: dog"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": np.array([0.1, 0.2, 0.3, 0.4, 0.5])}, "start at 0"),
        ({"budgets": np.array([0.0, 0.1, 0.15, 0.3, 0.4])}, "evenly spaced"),
        ({"labels": np.array([0, 1, 2])}, "images has shape"),
        ({"classes": ["cat"]}, "scores has shape"),
        ({"description": "a slider"}, "60 characters"),
        ({"scores": np.full((5, 2, 3), np.nan)}, "finite"),
    ],
)
def test_slider_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        charts.adversarial_slider(**(attacked() | change))


def test_gain_is_what_the_caption_says():
    frames = _Frames(*(attacked()[k] for k in ("images", "scores", "budgets", "labels", "classes")))
    assert frames.gain == pytest.approx(0.5 / 0.2)


# --- ledger table ---------------------------------------------------------------------------

ROW = {
    "id": "tk-1", "statement": "FGSM <fools> it", "where": "section 3", "reported": "0.02",
    "source": "notebook", "criterion": "a < 0.1\nb > 1", "measured": "a = 0.03\nb = 2",
    "verdict": "partly (single seed)", "size": "book", "chapter": "book/part2/x", "paper": "p",
}  # fmt: skip


@pytest.fixture
def rows(monkeypatch):
    def rows(chapter=None, paper=None):
        return [ROW, ROW | {"verdict": "not run", "measured": ""}] if chapter == "book/x" else []

    monkeypatch.setattr(ledger, "rows", rows)
    claims = (types.SimpleNamespace(chapter="book/x", paper="p"),)
    monkeypatch.setattr(ledger, "claims", lambda: claims)


@pytest.mark.parametrize("chapter", ["x", "book/x"])
def test_ledger_table_has_headers_caption_and_verdicts_in_words(rows, chapter):
    page = Tags(charts.ledger_table(chapter=chapter).text)
    assert [a["scope"] for a in page.all("th")] == ["col"] * 5 + ["row"] * 2
    assert page.texts["caption"] == ["2 rows of the ledger"]
    assert "FGSM <fools> it" in page.texts["th"]
    cells = "".join(page.texts["td"])
    assert "◐ partly (single seed) at size book" in cells and "– not run" in cells
    assert "a < 0.1" in cells


def test_ledger_table_without_rows_says_so(rows):
    with pytest.raises(ValueError, match="belongs to 'y'; it knows book/x, p"):
        charts.ledger_table(chapter="y")


def test_every_verdict_of_the_ledger_has_a_sign():

    words = (judging.REPRODUCED, judging.PARTLY, judging.NOT_REPRODUCED, judging.NOT_RUN)
    assert set(SIGNS) == set(words)


# --- chapter data ---------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch):
    real = data.load

    def load(name, **options):
        if name != "digits":
            raise RuntimeError(f"{name} is nowhere.")
        return real(name, **options)

    monkeypatch.setattr(data, "load", load)


def test_digits_stand_in_where_the_data_cannot_be_had(nowhere, capsys):
    options = {"classes": ("airplane", "automobile"), "n_train": 5000, "n_test": 20, "seed": 1}
    found = charts.chapter_data("cifar10", **options)
    assert found.name == "digits" and found.n_classes == 2 and len(found.x_test) == 20
    assert 200 < len(found.x_train) < 400
    assert "cifar10 cannot be had" in capsys.readouterr().out


def test_a_named_folder_without_the_data_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="NTKLAB_DATA"):
        charts.chapter_data("mnist", n_train=10)

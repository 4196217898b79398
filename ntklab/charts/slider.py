"""The chart that the reader drives: drag the budget and watch the image and the scores change."""

import numpy as np

from ntklab.charts.images import image_uri
from ntklab.charts.theme import PALETTE, altair, finish

_WIDTH, _PICTURE, _NAMES, _BAR = 320, 148, 96, 20


def adversarial_slider(images, scores, budgets, labels, classes, description: str, start=None):
    """Adversarial images against the budget, with a slider, an image picker and the scores.

    Everything that the reader can ask for travels with the page, so it needs no kernel: one row
    a frame with the image, the signed perturbation on a fixed scale, the scores and the verdict
    in words.

    Args:
      images: (e, b, H, W) or (e, b, H, W, C), the attacked images at each budget, in [0, 1];
        the first budget must be 0, so that the first images are the clean ones.
      scores: (e, b, k) class scores of these images, or (e, b) for two classes, where a positive
        score means the second class.
      budgets: (e,) evenly spaced, from 0, in the units of the pixels.
      labels: (b,) true classes, as indices.
      classes: k names.
      description: as for `finish`, 60 characters or more.
      start: the budget shown first; the middle one where None.

    Returns:
      A finished Altair chart, 320 px wide.

    Raises:
      ValueError: shapes that do not belong together, budgets that are not evenly spaced from 0,
        or NaN.

    Cost: e b PNG images of H W pixels, about 2 kB each for MNIST.
    """
    alt = altair()
    frames = _Frames(images, scores, budgets, labels, classes)
    step = float(frames.budgets[1])
    middle = float(frames.budgets[len(frames.budgets) // 2]) if start is None else float(start)
    budget = alt.param(
        name="budget",
        value=round(middle, 6),
        bind=alt.binding_range(
            min=0, max=round(float(frames.budgets[-1]), 6), step=round(step, 6), name="budget "
        ),
    )
    picker = alt.param(
        name="picked",
        value=0,
        bind=alt.binding_select(
            options=list(range(len(frames.labels))), labels=frames.menu(), name="image "
        ),
    )
    chosen = f"abs(datum.budget - budget) < {step / 2:.6g} && datum.image == picked"
    base = alt.Chart(alt.Data(values=frames.rows())).transform_filter(chosen)
    stack = alt.vconcat(_pictures(base, frames), _bars(base, frames), spacing=14)
    return finish(stack.add_params(budget, picker), description)


class _Frames:
    """What the reader can ask for, checked, and as one row a frame."""

    def __init__(self, images, scores, budgets, labels, classes):
        self.images = np.asarray(images, dtype=np.float64)
        self.scores = np.asarray(scores, dtype=np.float64)
        self.budgets = np.asarray(budgets, dtype=np.float64)
        self.labels, self.classes = np.asarray(labels), [str(c) for c in classes]
        if self.scores.ndim == 2:
            self.scores = np.stack([-self.scores, self.scores], axis=-1)
        self._check()

    def _check(self) -> None:
        frames = (len(self.budgets), len(self.labels))
        if self.images.ndim not in (4, 5) or self.images.shape[:2] != frames:
            raise ValueError(
                f"images has shape {self.images.shape}; {frames[0]} budgets and {frames[1]} labels "
                f"ask for {frames} and then the image."
            )
        if self.scores.shape != (*frames, len(self.classes)):
            raise ValueError(
                f"scores has shape {self.scores.shape}, not {(*frames, len(self.classes))}."
            )
        steps = np.diff(self.budgets)
        if len(steps) < 1 or self.budgets[0] != 0 or not np.allclose(steps, steps[0], rtol=1e-3):
            raise ValueError(
                "budgets must be evenly spaced and start at 0: np.linspace(0, eps, n)."
            )
        if steps[0] <= 0 or not np.isfinite(self.scores).all():
            raise ValueError("budgets must grow, and scores must be finite.")

    def menu(self) -> list[str]:
        """What the image picker offers."""
        return [f"{i + 1}: {self.classes[label]}" for i, label in enumerate(self.labels)]

    @property
    def gain(self) -> float:
        """Shown change over true change: the largest budget fills the grey scale."""
        return 0.5 / float(self.budgets[-1])

    def rows(self) -> list[dict]:
        """One row a frame."""
        scale = max(1, -(-_PICTURE // self.images.shape[2]))
        found = []
        for e, budget in enumerate(self.budgets):
            for i, label in enumerate(self.labels):
                image, delta = self.images[e, i], self.images[e, i] - self.images[0, i]
                guess = int(self.scores[e, i].argmax())
                found.append({
                    "budget": round(float(budget), 6), "image": i,
                    "picture": image_uri(image, scale),
                    "change": image_uri(0.5 + self.gain * delta, scale),
                    "truth": f"true class: {self.classes[label]}",
                    "guess": f"prediction: {self.classes[guess]}",
                    "fooled": "right" if guess == label else "wrong",
                    "score": self.scores[e, i].tolist(), "class": self.classes,
                    "role": [_role(r, int(label), guess) for r in range(len(self.classes))],
                })  # fmt: skip
        return found


def _role(index: int, label: int, guess: int) -> str:
    if index == label:
        return "true, predicted" if guess == label else "true"
    return "predicted" if index == guess else ""


def _pictures(base, frames: _Frames):
    alt = altair()
    right = _WIDTH - _PICTURE
    corner = {"align": "left", "baseline": "top", "width": _PICTURE, "height": _PICTURE}

    def picture(column: str, x: int):
        return base.mark_image(**corner).encode(x=alt.value(x), y=alt.value(22), url=f"{column}:N")

    def words(x: int, y: int, **text):
        mark = base.mark_text(align="left", baseline="top", fontSize=13, **text)
        return mark.encode(x=alt.value(x), y=alt.value(y))

    head = [words(0, 0, text="attacked image"), words(right, 0, text="perturbation")]
    below = 22 + _PICTURE + 10
    said = base.transform_calculate(said="datum.guess + ' (' + datum.fooled + ')'").mark_text(
        align="left", baseline="top", fontSize=13, fontWeight="bold"
    )
    parts = [
        picture("picture", 0), picture("change", right), *head,
        words(0, below).encode(text="truth:N"),
        said.encode(x=alt.value(0), y=alt.value(below + 20), text="said:N"),
        words(right, below, text=f"amplified {frames.gain:.3g}-fold"),
        words(right, below + 20, text="grey: no change"),
    ]  # fmt: skip
    return alt.layer(*parts).properties(width=_WIDTH, height=below + 40)


def _bars(base, frames: _Frames):
    alt = altair()
    low, high = float(frames.scores.min()), float(frames.scores.max())
    pad = 0.05 * (high - low or 1.0)
    scale = alt.Scale(domain=[min(low, 0) - pad, max(high, 0) + pad], range=[_NAMES, _WIDTH - 8])
    rows = base.transform_flatten(["score", "class", "role"])
    y = alt.Y("class:N", sort=frames.classes, axis=None)
    kind = "indexof(datum.role, 'true') == 0 ? 'true class' : datum.role ? 'prediction' : 'other'"
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(
            domain=["true class", "prediction", "other"], range=[PALETTE[0], PALETTE[3], PALETTE[4]]
        ),
        legend=None,
    )
    bars = rows.transform_calculate(kind=kind).mark_bar(height=11).encode(
        x=alt.X("score:Q", title="score of the class", scale=scale), y=y, color=colour
    )  # fmt: skip
    zero = base.mark_rule(opacity=0.6).encode(x=alt.datum(0, scale=scale))
    named = "datum.role ? datum['class'] + ', ' + datum.role : datum['class']"
    names = rows.transform_calculate(named=named).mark_text(align="left", fontSize=12)
    names = names.encode(x=alt.value(0), y=y, text="named:N")
    return alt.layer(bars, zero, names).properties(width=_WIDTH, height=_BAR * len(frames.classes))

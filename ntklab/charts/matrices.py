"""Matrices that a slider moves: one picture a stop, all of them in the page."""

import numpy as np

from ntklab.charts.images import _RAMP, _coloured, _data_uri
from ntklab.charts.plane import number_slider
from ntklab.charts.theme import altair

_SIDE = 300


def sliding_matrices(
    matrices,
    says,
    *,
    name: str,
    label: str,
    start: int = 0,
    domain: tuple[float, float] | None = None,
):
    """Matrices of one shape as pictures, one a stop of a slider, with words above them.

    Args:
      matrices: (t, n, n), finite; what stands at stop 0, 1, ... of the slider.
      says: t short texts, such as "after 4 epochs".
      name: of the slider in expressions; unique on its page.
      label: words beside the slider.
      start: the stop that is shown first.
      domain: the values that are darkest and brightest, for all stops; their smallest and largest
        where None. Values outside are cut off.

    Returns:
      An Altair chart, 300 px wide and high, to be given to `show` with a description.

    Raises:
      ValueError: no stack of square matrices, NaN, texts that do not match, an empty domain.

    Cost: one PNG a matrix, time and memory proportional to its pixels.
    """
    import pandas as pd

    alt = altair()
    stack, says = np.asarray(matrices, np.float64), [str(text) for text in says]
    if stack.ndim != 3 or len(stack) < 2 or stack.shape[1] != stack.shape[2]:
        raise ValueError(f"sliding_matrices takes (t, n, n) with t >= 2, got {stack.shape}.")
    if not np.isfinite(stack).all():
        raise ValueError("The matrices hold NaN or infinities; look at what computed them.")
    if len(says) != len(stack):
        raise ValueError(f"There are {len(stack)} matrices and {len(says)} texts.")
    low, high = domain or (float(stack.min()), float(stack.max()))
    if not low < high:
        raise ValueError(f"domain must grow from its first to its second end, got {domain}.")
    shares = np.clip((stack - low) / (high - low), 0, 1)
    rows = pd.DataFrame(
        {"stop": range(len(stack)), "picture": [_picture(s) for s in shares], "says": says}
    )
    slider = number_slider(name, label, 0, len(stack) - 1, 1, start)
    base = alt.Chart(rows).transform_filter(f"datum.stop == {name}")
    corner = {"align": "left", "baseline": "top"}
    words = base.mark_text(**corner, fontSize=14, color="currentColor")
    words = words.encode(x=alt.value(0), y=alt.value(0), text="says:N")
    picture = base.mark_image(**corner, width=_SIDE, height=_SIDE)
    picture = picture.encode(x=alt.value(0), y=alt.value(24), url="picture:N")
    chart = alt.layer(words, picture).add_params(slider)
    return chart.properties(height=_SIDE + 24)


def _picture(share: np.ndarray) -> str:
    """Shares of the scale as a PNG whose pixels stay sharp at the size of the page."""
    scale = max(1, -(-_SIDE // len(share)))
    return _data_uri(_coloured(share, _RAMP).repeat(scale, 0).repeat(scale, 1))

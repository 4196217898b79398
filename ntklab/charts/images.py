"""Pictures in a page: PNG data URIs, grids of images, kernel matrices, all with alt text."""

import base64
import html
import math
import struct
import zlib

import numpy as np

MIN_ALT = 20
#: Dark blue to yellow through grey: readable without colour, since lightness alone rises.
_RAMP = np.array([[0, 34, 78], [87, 92, 109], [124, 123, 120], [188, 174, 108], [254, 232, 56]])
#: Blue below, white at the centre, orange above.
_SIGNED = np.array([[20, 80, 150], [255, 255, 255], [190, 90, 0]])


class Html:
    """A piece of a page, which a notebook shows as it is."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Html({len(self.text)} characters)"


def image_uri(image, scale: int = 1) -> str:
    """An image as a PNG data URI.

    Args:
      image: (H, W), (H, W, 1) grey or (H, W, 3) colour, values in [0, 1]; values outside are
        clipped.
      scale: how many screen pixels a side each pixel becomes; edges stay sharp.

    Returns:
      `data:image/png;base64,...`

    Raises:
      ValueError: another shape, NaN, or a scale below 1.

    Cost: time and memory proportional to the scaled pixels.

    >>> image_uri(np.zeros((2, 2)))[:22]
    'data:image/png;base64,'
    """
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"An image is (H, W), (H, W, 1) or (H, W, 3), got {np.shape(image)}.")
    if not np.isfinite(pixels).all():
        raise ValueError("The image holds NaN or infinities; look at what computed it.")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}.")
    levels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return _data_uri(levels.repeat(scale, 0).repeat(scale, 1))


def heatmap_png(
    matrix, alt: str, *, label: str = "", signed: bool = False, side: int = 320
) -> Html:
    """A matrix as a picture with alt text and a scale below it.

    Args:
      matrix: (n, m), finite.
      alt: what the picture shows, for those who hear the page; 20 characters or more.
      label: what the colours measure.
      signed: white at zero, blue below and orange above, with a symmetric scale.
      side: width on the page in px, at most 320 by default, for phones.

    Returns:
      HTML with one `<img>`; the page scales it without smoothing.

    Raises:
      ValueError: no matrix, NaN, or too short an `alt`.

    Cost: time and memory proportional to n m.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"A heat map takes a finite matrix (n, m), got shape {values.shape}.")
    low, high = float(values.min()), float(values.max())
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    ramp = _SIGNED if signed else _RAMP
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    uri = _data_uri(_coloured(share, ramp))
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in ramp)
    caption = html.escape(label)
    return Html(
        f'<div class="ntklab-image" style="max-width:{side}px">'
        f'<img src="{uri}" alt="{_alt(alt)}" style="width:100%;image-rendering:pixelated">'
        f'<div style="display:flex;gap:0.5em;align-items:center"><span>{low:.3g}</span>'
        f'<span style="flex:1;height:0.7em;background:linear-gradient(to right, {stops})"></span>'
        f"<span>{high:.3g}</span></div><div>{caption}</div></div>"
    )


def image_grid(rows, alt: str, *, row_titles=None, titles=None, side: int = 72) -> Html:
    """Rows of small images with alt text.

    Args:
      rows: stacks of images, each (n, H, W) or (n, H, W, C), values in [0, 1]; one stack stands
        for one row.
      alt: what the whole shows, for those who hear the page; 20 characters or more.
      row_titles: one a row, written above it and read out with its images.
      titles: one an image of a row, written below each column's last image.
      side: largest width of an image on the page in px.

    Raises:
      ValueError: no images, titles that do not match, or too short an `alt`.

    Cost: time and memory proportional to the pixels.
    """
    stacks = [np.asarray(row) for row in (rows if isinstance(rows, list | tuple) else [rows])]
    if not stacks or any(s.ndim not in (3, 4) or not len(s) for s in stacks):
        raise ValueError("image_grid takes stacks of images (n, H, W) or (n, H, W, C), n >= 1.")
    heads = list(row_titles) if row_titles is not None else [""] * len(stacks)
    if len(heads) != len(stacks):
        raise ValueError(f"There are {len(stacks)} rows and {len(heads)} row titles.")
    if titles is not None and any(len(titles) != len(stack) for stack in stacks):
        raise ValueError(f"There are {len(titles)} titles for rows of {len(stacks[0])} images.")
    body = "".join(
        _grid_row(stack, head, titles if index == len(stacks) - 1 else None, side)
        for index, (stack, head) in enumerate(zip(stacks, heads, strict=True))
    )
    return Html(f'<div class="ntklab-image" role="group" aria-label="{_alt(alt)}">{body}</div>')


def _grid_row(stack: np.ndarray, head: str, titles, side: int) -> str:
    style = f"width:100%;max-width:{side}px;image-rendering:pixelated;display:block"
    cells = []
    for index, image in enumerate(stack):
        name = html.escape(f"{head or 'image'} {index + 1}", quote=True)
        below = f"<div>{html.escape(str(titles[index]))}</div>" if titles is not None else ""
        uri = image_uri(image, scale=max(1, math.ceil(side / image.shape[0])))
        cells.append(
            f'<div style="flex:1 1 0;max-width:{side}px"><img src="{uri}" alt="{name}" '
            f'style="{style}">{below}</div>'
        )
    title = f"<div>{html.escape(head)}</div>" if head else ""
    return f'{title}<div style="display:flex;gap:6px;margin-bottom:8px">{"".join(cells)}</div>'


def _alt(text: str) -> str:
    words = " ".join(text.split())
    if len(words) < MIN_ALT:
        raise ValueError(
            f"Say in {MIN_ALT} characters or more what the picture shows, for those who hear the "
            f"page; this alt text has {len(words)}."
        )
    return html.escape(words, quote=True)


def _coloured(share: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(ramp))
    channels = [np.interp(share, places, ramp[:, c]) for c in range(3)]
    return np.round(np.stack(channels, -1)).astype(np.uint8)


def _data_uri(levels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(levels)).decode()


def _png(levels: np.ndarray) -> bytes:
    """A PNG file of (H, W) grey or (H, W, 3) colour levels, eight bits each."""
    height, width = levels.shape[:2]
    colour = 2 if levels.ndim == 3 else 0
    rows = np.ascontiguousarray(levels).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )

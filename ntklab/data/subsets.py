"""Which images of a split make up a task: classes, balanced draws, averaging, checksum."""

import hashlib
import json
import operator
from collections.abc import Sequence

import numpy as np

from ntklab.data.formats import Images

#: What people call classes whose official name is longer.
_ALSO = {"plane": "airplane", "car": "automobile"}


def class_indices(name: str, known: Sequence[str], classes: Sequence | None) -> tuple[int, ...]:
    """The official index of each chosen class, in the order chosen.

    Raises:
      ValueError: a class is unknown or named twice, or none is named.
    """
    if classes is None:
        return tuple(range(len(known)))
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not len(classes):
        raise ValueError(f"classes must be a tuple of names or indices, got {classes!r}.")
    lookup = {c.casefold(): i for i, c in enumerate(known)}
    lookup |= {also: lookup[c] for also, c in _ALSO.items() if c in lookup}
    chosen = []
    for c in classes:
        key = c.casefold() if isinstance(c, str) else c
        index = lookup.get(key) if isinstance(c, str) else _position(c, len(known))
        if index is None:
            raise ValueError(
                f"{name} has no class {c!r}; its classes are "
                + ", ".join(f"{i} {k!r}" for i, k in enumerate(known))
                + "."
            )
        chosen.append(index)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"classes must differ from each other, got {tuple(classes)!r}.")
    return tuple(chosen)


def _position(value, n: int) -> int | None:
    try:
        index = operator.index(value)
    except TypeError:
        return None
    return index if 0 <= index < n else None


def draw(
    images: Images,
    chosen: tuple[int, ...],
    n: int | None,
    *,
    entropy: tuple[int, int],
    drop_inexact: bool,
    asked: str,
    names: Sequence[str],
) -> np.ndarray:
    """Positions of the images to take.

    All of the chosen classes in the order of the file where `n` is None. Otherwise `n` of them,
    the classes in turn (image `i` has class `i mod k`), each class in an order of its own which
    only `(seed, split, class)` decides. So a smaller draw is the head of a larger one, and the
    images of a class do not depend on which other classes are chosen. The order comes from the
    raw stream of PCG64, which NumPy keeps the same across versions and machines.

    Args:
      images: the split.
      chosen: official class indices.
      n: images in all; the first classes get one more where `n` is no multiple of `k`.
      entropy: seed and number of the split.
      drop_inexact: leave out images that are not byte-exact.
      asked: what was asked for, for the error.
      names: the official class names, for the error.

    Raises:
      ValueError: a class has too few images.
    """
    keep = images.exact if drop_inexact else np.ones(len(images.labels), bool)
    if n is None:
        return np.flatnonzero(np.isin(images.labels, chosen) & keep)
    orders = [_shuffled(images.labels, c, (*entropy, c)) for c in chosen]
    orders = [order[keep[order]] for order in orders]
    k = len(chosen)
    quotas = [(n - j + k - 1) // k for j in range(k)]
    if any(q > len(order) for q, order in zip(quotas, orders, strict=True)):
        has = ", ".join(f"{len(o)} of {names[c]!r}" for c, o in zip(chosen, orders, strict=True))
        raise ValueError(
            f"{asked} takes {quotas[0]} images of a class, and there are {has}: "
            f"ask for at most {k * min(map(len, orders))}, or for None, which takes them all."
        )
    out = np.empty(n, np.int64)
    for j, (order, quota) in enumerate(zip(orders, quotas, strict=True)):
        out[j::k] = order[:quota]
    return out


def _shuffled(labels: np.ndarray, label: int, entropy: tuple[int, ...]) -> np.ndarray:
    positions = np.flatnonzero(labels == label)
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(len(positions))
    return positions[np.argsort(raw, kind="stable")]


def take(images: Images, positions: np.ndarray, chosen: tuple[int, ...]) -> Images:
    """The images at `positions`, with labels `0 .. k-1` in the order of `chosen`."""
    renumbered = np.full(max(chosen) + 1, -1)
    renumbered[list(chosen)] = np.arange(len(chosen))
    return Images(
        np.ascontiguousarray(images.pixels[positions]),
        renumbered[images.labels[positions]],
        images.exact[positions],
    )


def to_unit(pixels: np.ndarray, white: int, side: int) -> np.ndarray:
    r"""Pixels as float32 in [0, 1], square blocks averaged down to `side`.

    .. math:: x = \frac{1}{w b^2} \sum_{\text{block}} p,
       \qquad w \text{ the value of white}, \; b \text{ the side of a block}

    The sum is exact and rounded once, so the result is the same on every machine.
    """
    n, height, _, channels = pixels.shape
    b = height // side
    if b > 1:
        blocks = pixels.reshape(n, side, b, side, b, channels)
        pixels = blocks.sum(axis=(2, 4), dtype=np.uint32)
    return np.divide(pixels, np.float32(white * b * b), dtype=np.float32, casting="same_kind")


def fingerprint(options: dict, *splits: Images) -> str:
    """16 hexadecimal digits of the SHA-256 of options, pixels and labels of all splits.

    Stored bytes are hashed, before scaling and averaging (the options name these), so that it
    does not depend on the machine, nor on the versions of JAX and NumPy.
    """
    total = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for split in splits:
        total.update(json.dumps(split.pixels.shape).encode())
        total.update(split.pixels.data)
        total.update(split.labels.astype("<i4").tobytes())
    return total.hexdigest()[:16]

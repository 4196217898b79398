"""What is measured on the tangent kernels of one run, on the same images at several times."""

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

from ntklab import dynamics
from ntklab._typing import Number

#: The kernel, its leading part, what is left.
PARTS = ("whole", "top", "rest")


def path_of(kernels: list, tops: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the kernels of one series do, by time; `past` holds all distances."""
    matrices = [dynamics.as_matrix(jnp.asarray(k)) for k in kernels]
    leading = [dynamics.truncate(k, top=tops[1]) for k in matrices]
    sizes = [float(jnp.linalg.norm(k)) for k in matrices]
    found = {
        "past": np.asarray(dynamics.pairwise_distances(matrices)),
        "norm": np.asarray(sizes),
        f"top{tops[0]}": np.asarray(
            [float(dynamics.norm_concentration(k, tops[0])) for k in matrices]
        ),
        f"top{tops[1]}": np.asarray([float(jnp.linalg.norm(k)) for k in leading]) ** 2
        / np.asarray(sizes) ** 2,
    }
    parts = (matrices, leading, [k - a for k, a in zip(matrices, leading, strict=True)])
    for part, some in zip(PARTS, parts, strict=True):
        places = [dynamics.polar(k, some[0], some[-1]) for k in some]
        found[f"radius_{part}"] = np.asarray([float(p.radius) for p in places])
        found[f"angle_{part}"] = np.asarray([float(p.angle) for p in places])
    steps = pairwise(matrices)
    return found | {"turned": np.asarray([float(dynamics.rotation(*pair)) for pair in steps])}


def class_means(kernel: Any, labels: np.ndarray) -> np.ndarray:
    """Mean entry of the traced kernel for each pair of classes, an image with itself left out."""
    trace = np.einsum("ijcc->ij", np.asarray(kernel))
    classes = np.unique(labels)
    member = (labels[:, None] == classes[None]).astype(float)
    sums = member.T @ (trace - np.diag(np.diag(trace))) @ member
    counts = member.sum(0)
    return sums / (np.outer(counts, counts) - np.diag(counts))


def contrast(blocks: np.ndarray) -> float:
    """Mean entry within a class over mean entry between classes."""
    inside = np.eye(len(blocks), dtype=bool)
    return float(blocks[inside].mean() / blocks[~inside].mean())


def spread(blocks: np.ndarray) -> float:
    """How unlike the classes' own blocks are: standard deviation over mean."""
    own = np.diag(blocks)
    return float(own.std() / own.mean())


def lazy_epoch(epochs: list, past: np.ndarray, share: float) -> Number:
    """The first epoch from which on the last kernel is never further away than a share."""
    far = np.flatnonzero(past[:, -1] > share * past[0, -1])
    return epochs[int(far[-1]) + 1]


def at_level(loss: np.ndarray, numbers: np.ndarray, level: float) -> float:
    """A quantity where a falling loss first reaches a level, linear between two times."""
    after = int(np.argmax(loss <= level))
    if after == 0:
        return float(numbers[0])
    high, low = loss[after - 1], loss[after]
    share = (high - level) / (high - low)
    return float(numbers[after - 1] + share * (numbers[after] - numbers[after - 1]))

"""The three formats: idx files (MNIST), Python pickles (CIFAR-10), and scikit-learn's digits."""

import gzip
import importlib
import io
import json
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntklab.data.sources import CIFAR_BATCHES, CIFAR_FOLDER, IDX_FILES, cifar_batches, corrupt

#: Seeds the split of the digits, which have none of their own. Never change it.
_DIGITS_SPLIT = 1797


class Images(NamedTuple):
    """One split as it is stored: nothing drawn, nothing scaled.

    Attributes:
      pixels: uint8 `(n, H, W, C)`.
      labels: int64 `(n,)`, indices into the classes of the data set.
      exact: bool `(n,)`, False where the pixels are known to be approximations.
    """

    pixels: np.ndarray
    labels: np.ndarray
    exact: np.ndarray


def read_idx(folder: Path, side: int, n_classes: int) -> tuple[Images, Images]:
    """Train and test images of a folder with the four files of MNIST or Fashion-MNIST."""
    paths = [folder / file for file in IDX_FILES]
    return _idx_split(*paths[:2], side, n_classes), _idx_split(*paths[2:], side, n_classes)


def _idx_split(images: Path, labels: Path, side: int, n_classes: int) -> Images:
    x, y = _idx(images, 3), _idx(labels, 1)
    if x.shape[1:] != (side, side):
        raise corrupt(images, f"its images are {x.shape[1]}x{x.shape[2]}, not {side}x{side}")
    if len(x) != len(y):
        raise corrupt(labels, f"it has {len(y)} labels for {len(x)} images")
    if y.max(initial=0) >= n_classes:
        raise corrupt(labels, f"it has a label {y.max()}, the largest is {n_classes - 1}")
    return Images(x[..., None], y.astype(np.int64), np.ones(len(y), bool))


def _idx(path: Path, rank: int) -> np.ndarray:
    """An idx file of bytes: two zeros, 8 for uint8, the rank, the big-endian shape, the values."""
    try:
        blob = gzip.decompress(path.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise corrupt(path, f"it cannot be unpacked, {error}") from error
    start = 4 * (1 + rank)
    if blob[:4] != bytes((0, 0, 8, rank)) or len(blob) < start:
        raise corrupt(path, f"it does not begin as an idx file of rank {rank} does")
    shape = tuple(np.frombuffer(blob[4:start], ">u4").tolist())
    if len(blob) - start != math.prod(shape):
        raise corrupt(path, f"its header says {math.prod(shape)} bytes, it has {len(blob) - start}")
    return np.frombuffer(blob, np.uint8, offset=start).reshape(shape)


def read_cifar(root: Path) -> tuple[Images, Images]:
    """Train and test images of CIFAR-10, from the folder of batches or from the archive."""
    inexact = _inexact(root / CIFAR_FOLDER / "inexact.json")
    batches = {}
    for batch, path, blob in cifar_batches(root):
        where = path if path.name == batch else path / batch
        batches[batch] = _batch(where, blob, inexact.get(batch, []))
    train = [batches[batch] for batch in CIFAR_BATCHES[:-1]]
    return Images(*map(np.concatenate, zip(*train, strict=True))), batches["test_batch"]


def _inexact(path: Path) -> dict[str, list[int]]:
    """The indices, by batch, of images that are not byte-exact; none where no list is."""
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text()).items()
        return {batch: [int(i) for i in indices] for batch, indices in listed}
    except (ValueError, TypeError, AttributeError) as error:
        raise corrupt(path, "it is not a JSON object of lists of indices") from error


def _batch(path: Path, blob: bytes, inexact: list[int]) -> Images:
    content = _unpickle(path, blob)
    try:
        named = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        planes, labels = named["data"].array(), np.asarray(named["labels"])
        x = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise corrupt(path, "it has no 'data' and 'labels' of 32x32 colour images") from error
    if labels.shape != (len(x),) or labels.dtype.kind != "i":
        raise corrupt(path, f"it has {labels.size} labels for {len(x)} images")
    if len(x) and not 0 <= labels.min() <= labels.max() <= 9:
        raise corrupt(path, "it has a label outside 0..9")
    exact = np.ones(len(x), bool)
    if inexact and not 0 <= min(inexact) <= max(inexact) < len(x):
        raise corrupt(path.with_name("inexact.json"), f"it lists an image that {path.name} lacks")
    exact[inexact] = False
    return Images(x, labels.astype(np.int64), exact)


class _Dtype:
    """Stands in for `numpy.dtype` in a pickle: remembers its name, computes nothing."""

    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        """Take no state: byte order and fields mean nothing for single bytes."""


class _Bytes:
    """Stands in for `numpy.ndarray` in a pickle: keeps shape and bytes, runs no NumPy code."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def array(self) -> np.ndarray:
        """The array of bytes that was pickled."""
        _, shape, dtype, fortran, content = self.state
        if dtype.name not in ("u1", b"u1") or fortran:
            raise ValueError("not an array of bytes in C order")
        return np.frombuffer(content, np.uint8).reshape(shape)


#: All that a batch of CIFAR-10 names, by the module of NumPy 1 and of NumPy 2.
_HARMLESS: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _Bytes,
    ("numpy._core.multiarray", "_reconstruct"): _Bytes,
    ("numpy", "ndarray"): _Bytes,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and arrays of bytes, and nothing else."""

    def find_class(self, module, name):
        """Refuse every name that the format does not need: a pickle can run any code."""
        if (module, name) not in _HARMLESS:
            raise _Refused(f"{module}.{name}")
        return _HARMLESS[module, name]


class _Refused(Exception):
    """A pickle asked for something that no image needs."""


def _unpickle(path: Path, blob: bytes):
    try:
        return _Unpickler(io.BytesIO(blob), encoding="bytes").load()
    except _Refused as refused:
        raise corrupt(path, f"it wants to run {refused}, which no CIFAR-10 batch needs") from None
    except Exception as error:  # a broken pickle can raise anything
        raise corrupt(path, f"it cannot be unpickled, {error}") from error


def read_digits() -> tuple[Images, Images]:
    """scikit-learn's digits: one fixed shuffle, then the last 360 of 1,797 images are the test."""
    try:
        bunch = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ImportError("'digits' come with scikit-learn: pip install scikit-learn.") from error
    x = bunch.images.astype(np.uint8)[..., None]
    y = bunch.target.astype(np.int64)
    order = np.argsort(np.random.PCG64(_DIGITS_SPLIT).random_raw(len(y)), kind="stable")
    train, test = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    everything = Images(x, y, np.ones(len(y), bool))
    return Images(*(a[train] for a in everything)), Images(*(a[test] for a in everything))

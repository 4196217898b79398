"""`load` and what it returns."""

import importlib.metadata
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array, Float, Int, UInt8
from ntklab.data import formats, sources, subsets


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images in [0, 1] with integer labels, split into train and test.

    Attributes:
      name: the data set's name, as given to `load`.
      x_train: training images, float32 `(n, H, W, C)`, 0 is black and 1 is white.
      y_train: their class indices, int32 `(n,)`.
      x_test: test images, float32 `(m, H, W, C)`.
      y_test: their class indices, int32 `(m,)`.
      classes: class names; the label is the position in this tuple.
      fingerprint: 16 hexadecimal digits that identify pixels, labels and options.
      source: where the files were read, in words.
      inexact: how many of the images are known not to be byte-exact copies.
    """

    name: str
    x_train: Float[Array, "n h w c"]
    y_train: Int[Array, "n"]
    x_test: Float[Array, "m h w c"]
    y_test: Int[Array, "m"]
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    inexact: int

    @property
    def n_classes(self) -> int:
        """How many classes there are, whether or not each has an image."""
        return len(self.classes)

    def __repr__(self) -> str:
        """One line: sizes, not pixels."""
        (n, h, w, c), m = self.x_train.shape, len(self.x_test)
        return (
            f"Dataset({self.name}: {n} train and {m} test images of {h}x{w}x{c}, "
            f"{self.n_classes} classes, fingerprint {self.fingerprint})"
        )

    def signed(self) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
        r"""Labels of a binary task as :math:`\pm 1`: :math:`2 y - 1`, the second class is +1.

        Returns:
          Training and test labels, float32.

        Raises:
          ValueError: there are not exactly two classes.

        >>> load("digits", classes=("3", "8"), n_train=4, n_test=2).signed()[0]
        Array([-1.,  1., -1.,  1.], dtype=float32)
        """
        if self.n_classes != 2:
            raise ValueError(
                f"signed labels need two classes and {self.name} has {self.n_classes} here: "
                "choose two with classes=, or use one_hot()."
            )
        return tuple(2.0 * y.astype(jnp.float32) - 1.0 for y in (self.y_train, self.y_test))

    def one_hot(self) -> tuple[Float[Array, "n k"], Float[Array, "m k"]]:
        """Labels as rows of the identity, float32.

        >>> load("digits", classes=("3", "8"), n_train=2, n_test=2).one_hot()[0]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        k = self.n_classes
        return tuple(jax.nn.one_hot(y, k, dtype=jnp.float32) for y in (self.y_train, self.y_test))

    def uint8(self) -> tuple[UInt8[Array, "n h w c"], UInt8[Array, "m h w c"]]:
        """Images rounded to 0..255: the stored bytes, where these are bytes and not averaged."""
        return tuple(jnp.round(255.0 * x).astype(jnp.uint8) for x in (self.x_train, self.x_test))


class _Spec(NamedTuple):
    """What is fixed of a data set: classes, side of an image, value of white."""

    classes: tuple[str, ...]
    side: int
    white: int


_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_SPECS = {
    "mnist": _Spec(_DIGITS, 28, 255),
    "fashion_mnist": _Spec(_FASHION, 28, 255),
    "cifar10": _Spec(_CIFAR, 32, 255),
    "digits": _Spec(_DIGITS, 8, 16),
}
#: The data sets that `load` knows.
NAMES = tuple(_SPECS)


def load(
    name: str,
    *,
    classes: Sequence[str | int] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    side: int | None = None,
    drop_inexact: bool = False,
) -> Dataset:
    """Images and labels of a data set, or of a balanced part of it.

    Args:
      name: "mnist" and "fashion_mnist" (28x28x1, 60,000 train and 10,000 test images), "cifar10"
        (32x32x3, 50,000 and 10,000) or "digits" (8x8x1, 1,437 and 360 after one fixed shuffle).
      classes: names or indices of the classes to keep; labels follow this order, so of two
        classes the second is +1. All where None.
      n_train: training images in all, as many of every class (the first classes get one more
        where it does not divide); all, in the order of the files, where None.
      n_test: the same for the test images.
      seed: decides which images are drawn; a smaller draw is the head of a larger one.
      side: pixels a side, a divisor of the original: 14 averages the 2x2 blocks of MNIST.
      drop_inexact: leave out images that an `inexact.json` beside the CIFAR-10 batches lists.

    Returns:
      A `Dataset`. Time on two cores: 0.3 s for a part of MNIST, 0.5 s for a part of CIFAR-10 (4 s
      where the archive is not unpacked), 3 s for all of CIFAR-10; memory: the stored bytes (55 or
      180 MB, twice for a moment) and 4 bytes a value returned.

    Raises:
      ValueError: an unknown name, class or side, too many images asked for, or a corrupt file.
      FileNotFoundError: `NTKLAB_DATA` names a folder that is missing or lacks a file.
      RuntimeError: the files are nowhere on this machine and no mirror gives them.
      ImportError: pooch (to download) or scikit-learn (for "digits") is not installed.

    References:
      LeCun, Bottou, Bengio and Haffner 1998 (MNIST); Xiao, Rasul and Vollgraf 2017
      (Fashion-MNIST); Krizhevsky 2009 (CIFAR-10); Alpaydin and Kaynak 1998 (digits).

    >>> load("digits", classes=(1, 7), n_train=100, n_test=20)
    Dataset(digits: 100 train and 20 test images of 8x8x1, 2 classes, fingerprint f59037426a5c08ec)
    """
    if name not in _SPECS:
        raise ValueError(f"there is no data set {name!r}; known are {', '.join(NAMES)}.")
    spec = _SPECS[name]
    chosen = subsets.class_indices(name, spec.classes, classes)
    sizes = [_count("n_train", n_train), _count("n_test", n_test)]
    seed, side = _seed(seed), _side(name, spec.side, side)
    *splits, source = _read(name, spec)
    parts = []
    for i, (split, n) in enumerate(zip(splits, sizes, strict=True)):
        asked = f"{('n_train', 'n_test')[i]}={n} from {name}"
        options = {"entropy": (seed, i), "drop_inexact": drop_inexact}
        positions = subsets.draw(split, chosen, n, **options, asked=asked, names=spec.classes)
        parts.append(subsets.take(split, positions, chosen))
    names = tuple(spec.classes[c] for c in chosen)
    train, test = (subsets.to_unit(part.pixels, spec.white, side) for part in parts)
    return Dataset(
        name=name,
        x_train=jnp.asarray(train),
        y_train=jnp.asarray(parts[0].labels.astype(np.int32)),
        x_test=jnp.asarray(test),
        y_test=jnp.asarray(parts[1].labels.astype(np.int32)),
        classes=names,
        fingerprint=subsets.fingerprint({"name": name, "classes": names, "side": side}, *parts),
        source=source,
        inexact=int(sum((~part.exact).sum() for part in parts)),
    )


def _read(name: str, spec: _Spec) -> tuple[formats.Images, formats.Images, str]:
    if name == "digits":
        return *formats.read_digits(), f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    root, source = sources.locate(name)
    if name == "cifar10":
        return *formats.read_cifar(root), source
    return *formats.read_idx(root / name, spec.side, len(spec.classes)), source


def _count(argument: str, n) -> int | None:
    if n is None:
        return None
    try:
        value = operator.index(n)
    except TypeError:
        value = 0
    if value < 1:
        raise ValueError(f"{argument} must be a positive whole number, or None for all; got {n!r}.")
    return value


def _seed(seed) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 2**32:
        raise ValueError(f"seed must be a whole number in 0 .. 2**32 - 1, got {seed!r}.")
    return value


def _side(name: str, original: int, side) -> int:
    sides = [s for s in range(1, original + 1) if original % s == 0]
    if side is None:
        return original
    if side not in sides:
        raise ValueError(
            f"{name} has {original}x{original} images, which average down to a side of "
            f"{', '.join(map(str, sides))}; got side={side!r}."
        )
    return int(side)

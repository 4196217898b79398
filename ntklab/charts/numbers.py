"""Numbers that the prose of a page quotes."""

import math
import re

import numpy as np

_PREFIX = "application/papermill.record/"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def number(name: str, value, fmt: str = ".3f") -> None:
    """Print a number, and hand it to the page under a name.

    In prose, the role ``{glue:text}`name` `` then shows the same digits that this prints. The
    record is what MyST-NB's `glue` writes, made without MyST-NB, which Colab lacks.

    Args:
      name: letters, digits, `_` and `-`, starting with a letter.
      value: one number, Python's, NumPy's or JAX's.
      fmt: how it is written, once and for all; a format specification of Python.

    Raises:
      ValueError: a name that prose could not quote, NaN or an infinity, or a format that does
        not fit the number.
      TypeError: not a single number.

    >>> number("clean", 0.91234)
    clean = 0.912
    >>> number("images", 3000, "d")
    images = 3000
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be quoted in prose: use letters, digits, _ and -.")
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise TypeError(f"number({name!r}) takes one number, got {array.dtype} {array.shape}.")
    item = array.item()
    if not math.isfinite(item):
        raise ValueError(f"The number {name!r} is {item}: an error, not a result.")
    try:
        text = format(item, fmt)
    except ValueError:
        raise ValueError(f"The format {fmt!r} does not fit {name} = {item!r}.") from None
    print(f"{name} = {text}")
    _record(name, repr(text))  # quoted: MyST-NB would read 0.400 as a number and show 0.4


def _record(name: str, text: str) -> None:
    """Emit the record where a notebook listens; in plain Python there is nobody to hear it."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is not None:
        metadata = {"scrapbook": {"name": name, "mime_prefix": _PREFIX}}
        display({f"{_PREFIX}text/plain": text}, raw=True, metadata=metadata)

"""What every floor needs: validation, atomic writes, progress and the float64 wrapper."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Compute in 64 bits inside the block, whatever the global setting is.

    JAX moved this switch: `jax.experimental.enable_x64` up to 0.7, `jax.enable_x64` later.
    """
    switch = getattr(jax, "enable_x64", None)
    if switch is None or not callable(switch):
        from jax.experimental import enable_x64 as switch
    with switch(True):
        yield


def check_finite(name: str, value) -> None:
    """Raise `ValueError` when `value` holds NaN or an infinity: an error, not a number."""
    bad = int(jnp.size(value) - jnp.isfinite(value).sum())
    if bad:
        raise ValueError(f"{name} has {bad} entries that are NaN or infinite; look at its input.")


def check_batch(name: str, x, ndim: int | None = None) -> None:
    """Raise when `x` is not a floating-point batch of finite numbers (of rank `ndim`)."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise TypeError(f"{name} must be floating point, got {jnp.result_type(x)}; divide by 255?")
    if jnp.ndim(x) < 2 or (ndim is not None and jnp.ndim(x) != ndim):
        wanted = "at least 2" if ndim is None else ndim
        raise ValueError(f"{name} must have rank {wanted} (batch first), got shape {jnp.shape(x)}.")
    check_finite(name, x)


def check_labels(y, n: int, n_classes: int) -> None:
    """Raise when `y` is not `n` integer class indices in `0 .. n_classes - 1`."""
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(f"y must hold integer class indices, got {jnp.result_type(y)}.")
    if jnp.shape(y) != (n,):
        raise ValueError(
            f"y must have shape ({n},), one class index an example, got {jnp.shape(y)}."
        )
    low, high = int(jnp.min(y)), int(jnp.max(y))
    if low < 0 or high >= n_classes:
        raise ValueError(f"y must lie in 0..{n_classes - 1}, got values from {low} to {high}.")


def write_atomically(path: str | os.PathLike, content: bytes | memoryview | str) -> Path:
    """Write a file so that a kill leaves the old one or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write `value` as JSON, atomically; NaN and infinities are refused."""
    return write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def progress(items: Iterable, label: str, total: int | None = None) -> Iterable:
    """`items`, with a progress bar on standard error where somebody watches.

    tqdm draws it where tqdm is installed and standard error is a terminal; elsewhere a line is
    printed at most every ten seconds, so that logs stay readable.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(items, desc=label, total=total)
    return _progress_lines(items, label, total)


def _progress_lines(items: Iterable, label: str, total: int | None) -> Iterator:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= 10:
            last = now
            left = (
                "" if not total else f", about {(now - start) / done * (total - done):.0f} s left"
            )
            print(f"{label}: {done} of {total or '?'}{left}", file=sys.stderr, flush=True)


def in_blocks(function: Callable, block: int, *arrays, label: str | None = None):
    """Concatenate `function(*rows)` over row blocks of `arrays`; the block size leaves no trace.

    Args:
      function: maps row blocks `(b, ...)` to an array `(b, ...)`.
      block: rows a call, at least 1.
      *arrays: arrays of equal length.
      label: name of the progress line; none is shown without it.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    starts = range(0, len(arrays[0]), block)
    starts = progress(starts, label) if label else starts
    parts = [np.asarray(function(*(a[i : i + block] for a in arrays))) for i in starts]
    return np.concatenate(parts)

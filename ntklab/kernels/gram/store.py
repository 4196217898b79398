"""A matrix on disk that is filled block by block and survives a kill.

While work goes on there are `NAME.npy.partial` (the array) and `NAME.npy.json` (what it is, and
which blocks are finished); at the end the first becomes `NAME.npy` in one step. The small file
stays: it says what the matrix is of.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from ntklab._common import write_json
from ntklab._memory import format_bytes


class Store:
    """A `.npy` file in the making.

    Args:
      path: where the finished array will be; its folder is made.
      problem: what identifies the matrix and its blocks, made of JSON; `"shape"`, `"dtype"` and
        `"probe"` (some entries, compared to 1e-3 of the largest) have a meaning here.

    Raises:
      OSError: no permission, or too little space on the disk.
      ValueError: the files there belong to another problem or are damaged.
    """

    def __init__(self, path: str | os.PathLike, problem: dict) -> None:
        self.path, self.problem = checked_path(path), problem
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.shape, self.dtype = tuple(problem["shape"]), np.dtype(problem["dtype"])
        known = manifest(self.path)
        if known is None:
            self.done = set()
            self._create()
            self._say()
        else:
            self._compare(known)
            self.done = set(known["done"])
            self._check_size(self.path if self.path.exists() else self.partial)
        self.array = None

    def open(self) -> np.ndarray:
        """The array to write into. It is mapped anew for each block: pages do not pile up."""
        if self.array is None:
            self.array = np.lib.format.open_memmap(self.partial, mode="r+")
        return self.array

    def finish(self, block: int) -> None:
        """Put a block on the disk, then say so."""
        self.array.flush()
        self.array = None
        self.done.add(block)
        self._say()

    def close(self) -> None:
        """All blocks are there: the array gets its name."""
        if self.partial.exists():
            os.replace(self.partial, self.path)

    def _say(self) -> None:
        write_json(_manifest_path(self.path), self.problem | {"done": sorted(self.done)})

    def _create(self) -> None:
        if self.path.exists():
            raise ValueError(
                f"{self.path} exists and nothing beside it says what it holds; delete it or "
                "choose another path."
            )
        needed = int(np.prod(self.shape)) * self.dtype.itemsize
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
            if needed > free:
                raise OSError(errno.ENOSPC, "")
            np.lib.format.open_memmap(self.partial, "w+", self.dtype, self.shape)
            _reserve(self.partial)
        except OSError as error:
            self.partial.unlink(missing_ok=True) if error.errno == errno.ENOSPC else None
            raise _reason(error, self.path, needed) from error

    def _compare(self, known: dict) -> None:
        """Raise unless the manifest is of this problem."""
        probe = (np.asarray(p.get("probe", ()), float) for p in (known, self.problem))
        there, here = (p.ravel() for p in probe)
        differ = [k for k in self.problem if k != "probe" and known.get(k) != self.problem[k]]
        if here.shape != there.shape or np.abs(here - there).max() > 1e-3 * np.abs(here).max():
            differ.append("kernel's values")
        if differ:
            raise ValueError(
                f"{self.path} is begun or finished for another problem (it differs in "
                f"{', '.join(differ)}); choose another path, or delete it, "
                f"{self.partial.name} and {_manifest_path(self.path).name}."
            )

    def _check_size(self, path: Path) -> None:
        try:
            whole = np.lib.format.open_memmap(path, mode="r")
            intact = whole.shape == self.shape and whole.dtype == self.dtype
        except (OSError, ValueError):
            intact = False
        if not intact:
            raise ValueError(
                f"{path} is missing or damaged, though {_manifest_path(self.path).name} lists "
                "finished blocks; delete both to begin again."
            )


def checked_path(path: str | os.PathLike) -> Path:
    """The path, which must end in `.npy`."""
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"path must name a .npy file, got {str(path)!r}.")
    return path


def manifest(path: str | os.PathLike) -> dict | None:
    """What the file beside `path` says of it; None where there is none."""
    path = _manifest_path(checked_path(path))
    try:
        known = json.loads(path.read_text())
        return {**known, "done": [int(block) for block in known["done"]]}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _reason(error, path, 0) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of finished blocks; delete it.") from error


def digest(x) -> str:
    """A checksum of an array: shape, dtype and values."""
    total = hashlib.blake2b(f"{x.shape}{np.dtype(x.dtype).str}".encode(), digest_size=16)
    for start in range(0, len(x), 1024):
        total.update(np.ascontiguousarray(x[start : start + 1024]))
    return total.hexdigest()


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _reserve(path: Path) -> None:
    """Take the space now: a mapped file that outgrows the disk kills the process instead."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _reason(error: OSError, path: Path, needed: int) -> OSError:
    """The same error in a sentence that says what to do."""
    if error.errno == errno.ENOSPC:
        text = f"the disk of {path} has no room for {format_bytes(needed)}; choose another path."
    else:
        text = f"{path} cannot be written ({error.strerror or error}); choose another path."
    return type(error)(error.errno, text)

"""Folders and files as checksummed parts of a chosen size; `ntklab._unpack` puts them together.

A pack is one tar stream, cut into `NAME.part-000`, `NAME.part-001`, ..., and `NAME.manifest.json`
with the SHA-256 of each part and of the whole. The same files give the same bytes: names are
sorted, and times and owners left out. Links are followed, so that what they point at travels.
Everything streams: memory is that of one buffer, whatever the size.
"""

import contextlib
import hashlib
import math
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ntklab._common import write_json

SCHEMA = 1
BUFFER = 2**20
MANIFEST = ".manifest.json"
#: What a kill leaves of `write_atomically`.
_LEFT_OVER = re.compile(r"\..*\.tmp")
_NAME = re.compile(r"[\w][\w.+-]*")


def pack(
    paths: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    part_mib: int | float,
    name: str | None = None,
) -> Path:
    """Cut folders and files into parts.

    Args:
      paths: folders and files; each travels under its own last name.
      out: folder for the parts and the manifest; made where missing.
      part_mib: largest size of a part, in MiB.
      name: of the pack; by default that of the first path.

    Returns:
      Path of the manifest, which is written last: without it there is no pack.

    Cost: one pass over the files; memory of one buffer; disk for a copy.

    Raises:
      ValueError: nothing to pack, a path that is missing, two of one name, a part size that is not
        positive, a file that is neither file nor folder or changes meanwhile, a pack of that name
        in `out`, or too little room.
      OSError: the disk is full or read-only.
    """
    sources = _sources(paths)
    name = next(iter(sources)) if name is None else name
    out = Path(out)
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"A pack cannot be called {name!r}: use letters, digits, dots, dashes (--name)."
        )
    if not 0 < part_mib < math.inf:
        raise ValueError(f"A part needs a size above 0 MiB, got {part_mib}.")
    if (out / (name + MANIFEST)).exists():
        raise ValueError(f"{out} holds a pack called {name} already; name another folder.")
    files = [entry for top, path in sources.items() for entry in _walk(top, path, ())]
    total = sum(path.stat().st_size for _, path in files if path.is_file())
    make_folder(out)
    need_room(out, total)
    with scratch(out, ".pack-") as folder:
        writer = _Cutter(folder, name, max(1, int(part_mib * 2**20)), meter("pack", total))
        with contextlib.closing(writer):
            listed = _write_tar(writer, files)
        for part in writer.parts:
            os.replace(folder / part["name"], out / part["name"])
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "bytes": writer.size,
        "sha256": writer.whole.hexdigest(),
        "parts": writer.parts,
        "top": list(sources),
        "files": listed,
    }
    return write_json(out / (name + MANIFEST), manifest)


def _sources(paths: Iterable) -> dict[str, Path]:
    found = {}
    for given in paths:
        path = Path(os.path.abspath(given))  # the name of a link, not of what it points at
        if not path.exists():
            raise ValueError(f"There is no {given} to pack.")
        if found.setdefault(path.name, path) != path:
            raise ValueError(
                f"Two of the paths are called {path.name}; pack them in separate packs."
            )
    if not found or "" in found:
        raise ValueError("Name at least one folder or file to pack, and not the whole disk.")
    return found


def _walk(name: str, path: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """`(name in the archive, path)` of a file, or of a folder and all it holds, sorted."""
    real = path.resolve()
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder; it cannot be packed.")
    if real in above:
        raise ValueError(f"{path} is a link to a folder above it; it cannot be packed.")
    yield name, path
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if not _LEFT_OVER.fullmatch(child.name):
                yield from _walk(f"{name}/{child.name}", child, (*above, real))


def _write_tar(writer: "_Cutter", files: list[tuple[str, Path]]) -> dict[str, int]:
    """Put every file into the stream; name -> bytes."""
    listed = {}
    with tarfile.open(fileobj=writer, mode="w|", bufsize=BUFFER, format=tarfile.PAX_FORMAT) as tar:
        for name, path in files:
            entry = tarfile.TarInfo(name)
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
                continue
            with _steady(path) as file:
                kept = os.fstat(file.fileno())
                entry.size = listed[name] = kept.st_size
                entry.mode = 0o755 if kept.st_mode & stat.S_IXUSR else 0o644
                tar.addfile(entry, file)
    return listed


@contextlib.contextmanager
def _steady(path: Path) -> Iterator[BinaryIO]:
    """An open file that is still there and does not shrink, or one sentence."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path} went away; stop the run that writes there, then pack.") from None
    with file:
        try:
            yield file
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(  # tarfile: "unexpected end of data"
                f"{path} became shorter; stop the run that writes there, then pack."
            ) from None


class _Cutter:
    """A file to write to that is cut into parts, with their checksums."""

    def __init__(self, folder: Path, name: str, size: int, count: Callable[[int], None]):
        self.parts: list[dict] = []
        self.size, self.whole = 0, hashlib.sha256()
        self._folder, self._name, self._limit, self._count = folder, name, size, count
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            if self._file is None:
                self._begin()
            piece = rest[: self._limit - self.parts[-1]["bytes"]]
            self._file.write(piece)
            self._hash.update(piece)
            self.whole.update(piece)
            self.size += len(piece)
            self.parts[-1]["bytes"] += len(piece)
            self._count(len(piece))
            rest = rest[len(piece) :]
            if self.parts[-1]["bytes"] == self._limit:
                self.close()
        return len(data)

    def close(self) -> None:
        """Finish the part that is open."""
        if self._file is not None:
            file, self._file = self._file, None
            with file:
                file.flush()
                os.fsync(file.fileno())
            self.parts[-1]["sha256"] = self._hash.hexdigest()

    def _begin(self) -> None:
        name = f"{self._name}.part-{len(self.parts):03d}"
        self.parts.append({"name": name, "bytes": 0, "sha256": ""})
        self._file, self._hash = (self._folder / name).open("wb"), hashlib.sha256()


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A hidden folder in `parent`, gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, or say in one sentence why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder} cannot be made, since a file is there; name a folder."
        ) from None


def need_room(folder: Path, size: int) -> None:
    """Raise one sentence unless `size` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(
            f"{folder} has {free / 2**20:.0f} MiB free and {size / 2**20:.0f} MiB are needed."
        )


def meter(label: str, total: int) -> Callable[[int], None]:
    """A function that counts bytes and prints a line at most every ten seconds."""
    done, last = 0, time.monotonic()

    def count(size: int) -> None:
        nonlocal done, last
        done += size
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            text = f"{label}: {done / 2**20:.0f} of {total / 2**20:.0f} MiB"
            print(text, file=sys.stderr, flush=True)

    return count

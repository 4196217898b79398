"""The parts that `ntklab._pack` makes, checked and put together again."""

import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ntklab._pack import BUFFER, MANIFEST, SCHEMA, make_folder, meter, need_room, scratch


def unpack(
    folder: str | os.PathLike,
    to: str | os.PathLike,
    *,
    replace: bool = False,
    move: Callable[[Path, Path], Any] | None = None,
) -> list[Path]:
    """Check every part, then put the files together and into their place.

    Nothing is seen in `to` before all of it is there: the files are made in a hidden folder
    inside `to` and renamed.

    Args:
      folder: where the parts and their manifest lie, or the path of one manifest.
      to: folder that gets what was packed; made where missing.
      replace: put a folder or file in the place of one of the same name; refused otherwise.
      move: `move(made, to)` brings what was made in the folder `made` into place, instead of
        renaming each of its entries.

    Returns:
      The paths of what was packed, in `to`.

    Cost: two passes over the parts; memory of one buffer; disk for a copy.

    Raises:
      ValueError: no manifest or several, parts missing or damaged (all are named), a name that is
        there already, a path that leads outside, or too little room.
      OSError: the disk is full or read-only.
    """
    manifest = _read_manifest(Path(folder))
    folder, to = manifest["folder"], Path(to)
    _check_parts(folder, manifest)
    if move is None and not replace:
        there = [n for n in manifest["top"] if os.path.lexists(to / n)]
        if there:
            raise ValueError(
                f"{to} holds {', '.join(there)} already; move it away, or allow it to be replaced "
                "with --replace."
            )
    make_folder(to)
    need_room(to, manifest["bytes"])
    with scratch(to, ".unpack-") as made:
        _read_tar(_Joined(folder, manifest, meter("unpack", manifest["bytes"])), made)
        if sorted(p.name for p in made.iterdir()) != sorted(manifest["top"]):
            raise ValueError(f"The archive of {folder} holds other names than its manifest.")
        if move is not None:
            move(made, to)
        else:
            _rename(made, to, manifest["top"])
    return [to / n for n in manifest["top"]]


def _read_manifest(place: Path) -> dict:
    """The one manifest in a folder (or the one named), with its folder."""
    found = [place] if place.is_file() else sorted(place.glob("*" + MANIFEST))
    if not found:
        raise ValueError(f"{place} holds no NAME{MANIFEST}: it is no pack, or an unfinished one.")
    if len(found) > 1:
        raise ValueError(
            f"{place} holds several packs: name one, {', '.join(str(f) for f in found)}."
        )
    try:
        content = json.loads(found[0].read_text(encoding="utf-8"))
        names = [part["name"] for part in content["parts"]] + content["top"]
        sound = content["schema"] == SCHEMA and all(_plain(n) for n in names) and content["top"]
        sound = sound and sum(p["bytes"] for p in content["parts"]) == content["bytes"]
        sound = sound and all(isinstance(p["sha256"], str) for p in [content, *content["parts"]])
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise ValueError(f"{found[0]} is damaged or of another version; copy it again.")
    return content | {"folder": found[0].parent}


def _plain(name: str) -> bool:
    """Whether this is the name of a file and no way to another folder."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _check_parts(folder: Path, manifest: dict) -> None:
    """Raise one sentence that names every part that is missing or damaged."""
    whole, missing, damaged = hashlib.sha256(), [], []
    count = meter("check", manifest["bytes"])
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            missing.append(part["name"])
            continue
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(BUFFER):
                digest.update(piece)
                whole.update(piece)
                count(len(piece))
        if (path.stat().st_size, digest.hexdigest()) != (part["bytes"], part["sha256"]):
            damaged.append(part["name"])
    both = {"missing": missing, "damaged": damaged}
    faults = [f"{word}: {', '.join(names)}" for word, names in both.items() if names]
    if faults:
        raise ValueError(f"Of the parts in {folder} some are {'; '.join(faults)}; copy them again.")
    if whole.hexdigest() != manifest["sha256"]:
        raise ValueError(f"The parts of {folder} do not make the whole of its manifest.")


class _Joined:
    """Parts that are read as one file."""

    def __init__(self, folder: Path, manifest: dict, count: Callable[[int], None]):
        self._paths = iter([folder / part["name"] for part in manifest["parts"]])
        self._file: BinaryIO | None = None
        self._count = count

    def read(self, size: int) -> bytes:
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return b""
                self._file = path.open("rb")
            data = self._file.read(size)
            if data:
                self._count(len(data))
                return data
            self.close()

    def close(self) -> None:
        """Close the part that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read_tar(stream: _Joined, made: Path) -> None:
    try:
        with (
            contextlib.closing(stream),
            tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER) as tar,
        ):
            tar.extractall(made, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(
            f"The archive holds {error.tarinfo.name}, which would not stay inside its folder; "
            "`pack` makes no such archive."
        ) from None
    except tarfile.TarError as error:
        raise ValueError(f"The parts make no archive that can be read: {error}.") from None


def _rename(made: Path, to: Path, names: list[str]) -> None:
    """Bring all entries into place, or none: what was there is kept aside until all stand."""
    aside, done = Path(tempfile.mkdtemp(dir=made)), []
    try:
        for name in names:
            if os.path.lexists(to / name):
                os.rename(to / name, aside / name)
            done.append(name)
            os.rename(made / name, to / name)
    except BaseException:
        for name in reversed(done):
            if os.path.lexists(to / name):
                os.rename(to / name, made / name)
            if os.path.lexists(aside / name):
                os.rename(aside / name, to / name)
        raise

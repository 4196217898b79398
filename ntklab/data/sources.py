"""Where the official archives are: the user's folder, the cache, or else a mirror."""

import contextlib
import hashlib
import importlib
import os
import queue
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

from ntklab._common import progress, write_atomically

#: Seconds within which some mirror must answer; after it, there is no network.
PATIENCE = 6.0
#: Seconds to wait for a connection, and for the next bytes of a download.
TIMEOUT = (4.0, 20.0)
_CHUNK = 1 << 18

CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


class Archive(NamedTuple):
    """One official file: its place in the layout, its checksum and where it can be had."""

    path: str
    sha256: str
    urls: tuple[str, ...]


def _idx(name: str, mirrors: tuple[str, ...], checksums: tuple[str, ...]) -> tuple[Archive, ...]:
    return tuple(
        Archive(f"{name}/{file}", checksum, tuple(mirror + file for mirror in mirrors))
        for file, checksum in zip(IDX_FILES, checksums, strict=True)
    )


#: The files of every data set that is downloaded.
FILES: dict[str, tuple[Archive, ...]] = {
    "mnist": _idx(
        "mnist",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": _idx(
        "fashion_mnist",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": (
        Archive(
            CIFAR_ARCHIVE,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            (
                f"https://www.cs.toronto.edu/~kriz/{CIFAR_ARCHIVE}",
                f"https://dataset.bj.bcebos.com/cifar/{CIFAR_ARCHIVE}",
            ),
        ),
    ),
}


def locate(name: str) -> tuple[Path, str]:
    """The folder with the official files of `name`, downloaded when they are nowhere.

    Args:
      name: a key of `FILES`.

    Returns:
      The folder in the official layout, and in words where that is (no path of the machine, so
      that it may stand in a committed record).

    Raises:
      FileNotFoundError: `NTKLAB_DATA` names a folder that is missing or lacks a file.
      RuntimeError: no mirror answers, or none has the official file.
      ImportError: a download is needed and pooch is not installed.
    """
    if folder := os.environ.get("NTKLAB_DATA"):
        root = Path(os.path.expanduser(folder))
        if not root.is_dir():
            raise FileNotFoundError(
                f"NTKLAB_DATA names {folder}, which is not a folder: "
                "correct it, or unset it so that the data are downloaded."
            )
        if lacking := missing(name, root):
            raise FileNotFoundError(
                f"NTKLAB_DATA names {folder}, which has no {lacking}: "
                "put the official file there, or unset NTKLAB_DATA so that it is downloaded."
            )
        return root, "official files in NTKLAB_DATA"
    root = cache_folder()
    if name != "cifar10" or missing(name, root, unpacked=True):
        _fetch(name, root)
    return root, "official files in the cache"


def missing(name: str, root: Path, *, unpacked: bool = False) -> str | None:
    """The first official file of `name` that `root` lacks, or None where it is complete."""
    if name != "cifar10":
        return next((f.path for f in FILES[name] if not (root / f.path).is_file()), None)
    lacking = [b for b in CIFAR_BATCHES if not (root / CIFAR_FOLDER / b).is_file()]
    if not lacking or (not unpacked and (root / CIFAR_ARCHIVE).is_file()):
        return None
    return f"{CIFAR_FOLDER}/{lacking[0]} (nor {CIFAR_ARCHIVE})"


def found() -> dict[str, str | None]:
    """For every data set that is downloaded: the folder that holds it, or None.

    Only looks whether the files are there, never raises, and needs no network.
    """
    try:
        folder = os.environ.get("NTKLAB_DATA")
        root = Path(os.path.expanduser(folder)) if folder else cache_folder()
    except ImportError:
        return dict.fromkeys(FILES)
    return {name: None if missing(name, root) else str(root) for name in FILES}


def cache_folder() -> Path:
    """Where downloads are kept: `NTKLAB_CACHE`, or the place of the operating system."""
    if folder := os.environ.get("NTKLAB_CACHE"):
        return Path(os.path.expanduser(folder))
    return Path(_pooch().os_cache("ntklab"))


def cifar_batches(root: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Yield (batch, file it is in, its bytes), from the folder of batches or the archive."""
    if missing("cifar10", root, unpacked=True) is None:
        for batch in CIFAR_BATCHES:
            path = root / CIFAR_FOLDER / batch
            yield batch, path, path.read_bytes()
    else:
        yield from _archive_members(root / CIFAR_ARCHIVE)


def _archive_members(path: Path) -> Iterator[tuple[str, Path, bytes]]:
    wanted = {f"{CIFAR_FOLDER}/{batch}": batch for batch in CIFAR_BATCHES}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.isfile() and member.name in wanted:
                    yield wanted.pop(member.name), path, archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise corrupt(path, f"it cannot be unpacked, {error}") from error
    if wanted:
        raise corrupt(path, f"it lacks {', '.join(wanted.values())}")


def corrupt(path: Path, why: str) -> ValueError:
    """The one sentence for a file that is not what it should be."""
    return ValueError(
        f"{path} is corrupt ({why}): delete it and load again, "
        "or put the official file there if NTKLAB_DATA names its folder."
    )


def _pooch() -> ModuleType:
    try:
        return importlib.import_module("pooch")
    except ImportError as error:
        raise ImportError(
            "downloading data needs pooch: pip install pooch, "
            "or set NTKLAB_DATA to a folder with the official files."
        ) from error


def _fetch(name: str, cache: Path) -> None:
    """Bring the files of `name` into the cache; one process at a time."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / ".lock"):
            for archive in FILES[name]:
                _retrieve(name, archive, cache)
            if name == "cifar10" and missing(name, cache, unpacked=True):
                for batch, _, blob in _archive_members(cache / CIFAR_ARCHIVE):
                    write_atomically(cache / CIFAR_FOLDER / batch, blob)
    except OSError as error:
        raise RuntimeError(
            f"{name} cannot be written to the cache {cache} ({error.strerror or error}): "
            "make room there, or set NTKLAB_CACHE to another folder."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file; a kill frees it. Where the system has no flock, do without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _retrieve(name: str, archive: Archive, cache: Path) -> None:
    """Download one file, unless the cache has it: each mirror in turn, SHA-256 checked."""
    target = cache / archive.path
    if target.is_file() and _sha256(target) == archive.sha256:
        return
    pooch = _pooch()
    import requests
    import urllib3

    advice = "set NTKLAB_DATA to a folder with the official files, or use 'digits'."
    if not _answer(archive.urls):
        raise RuntimeError(f"{name} is not in {cache} and no mirror answers: connect, {advice}")
    failures = []
    for url in archive.urls:
        try:
            pooch.retrieve(
                url,
                f"sha256:{archive.sha256}",
                fname=target.name,
                path=target.parent,
                downloader=partial(_download, part=target.with_name(f"{target.name}.part")),
            )
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            failures.append(f"{urlsplit(url).netloc}: {_reason(error)}")
    failed = "; ".join(failures)
    raise RuntimeError(f"no mirror gave {archive.path} ({failed}): try again later, {advice}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"HTTP {status}"
    return "wrong checksum" if isinstance(error, ValueError) else type(error).__name__


def _answer(urls: tuple[str, ...]) -> bool:
    """Whether any mirror answers at all within `PATIENCE` seconds; all are asked at once.

    The name server and every address of a host have time-outs of their own, which add up to
    minutes on a network that swallows packets; hence threads that are left behind.
    """
    import requests

    answers: queue.Queue[bool] = queue.Queue()

    def ask(url: str) -> None:
        try:
            requests.head(url, timeout=PATIENCE, allow_redirects=False)
            answers.put(True)
        except requests.RequestException:
            answers.put(False)

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(queue.Empty):
        for _ in urls:
            if answers.get(timeout=max(0.0, end - time.monotonic())):
                return True
    return False


def _download(url: str, output: str, _pooch_object: object, *, part: Path) -> None:
    """Pooch's downloader, resuming: what came is kept in `part` until the file is whole."""
    import requests

    with open(part, "ab", buffering=0) as file:
        have = file.tell()
        ask = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, stream=True, timeout=TIMEOUT, headers=ask) as answer:
            if have and answer.status_code == 416:  # the part is no part of this file
                file.truncate(0)
                return _download(url, output, _pooch_object, part=part)
            answer.raise_for_status()
            if answer.status_code != 206:
                have = file.truncate(0)
            length = int(answer.headers.get("content-length", 0))
            # `raw`: the archives are gzip files, and must not be unpacked on the way.
            chunks = answer.raw.stream(_CHUNK, decode_content=False)
            label = f"download {part.stem}"
            for chunk in progress(chunks, label, total=-(-length // _CHUNK) or None):
                file.write(chunk)
            if file.tell() < have + length:
                raise requests.ConnectionError(f"{url} stopped short")
    os.replace(part, output)

"""Downloads of `ntklab.data`: mirrors in turn, checksums, resuming, kills, no network."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time

import fake_archives as fake
import pytest

from ntklab.data import found, load, sources

pooch = pytest.importorskip("pooch", reason="pooch downloads data: pip install ntklab[data]")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A cache of this test's own, and no folder of data."""
    monkeypatch.setenv("NTKLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NTKLAB_DATA", raising=False)
    monkeypatch.setattr(sources, "PATIENCE", 1.0)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    pooch.get_logger().setLevel("ERROR")
    return tmp_path / "cache"


@pytest.fixture
def mirror():
    """A mirror of a small MNIST and a small CIFAR-10."""
    with fake.serving(fake.mnist_files() | {sources.CIFAR_ARCHIVE: fake.cifar_archive()}) as m:
        yield m


@pytest.fixture
def official(mirror, monkeypatch):
    """Make the data sets come from the mirror, in the manners named, in that order."""

    def use(*manners):
        urls = [f"{mirror.url}/{manner}/" for manner in manners]
        mnist = fake.archives(fake.mnist_files(), urls, "mnist/")
        cifar = fake.archives({k: v for k, v in mirror.files.items() if "cifar" in k}, urls)
        monkeypatch.setitem(sources.FILES, "mnist", mnist)
        monkeypatch.setitem(sources.FILES, "cifar10", cifar)
        return mirror

    return use


def names(folder):
    """The files of a folder that are not bookkeeping."""
    return sorted(f.name for f in folder.iterdir() if f.name != ".lock")


def test_downloads_once_and_reads_the_cache_after(official, empty_cache):
    mirror = official("good")
    first = load("mnist")
    assert [file for _, file, _ in mirror.gets] == list(sources.IDX_FILES)
    assert load("mnist").fingerprint == first.fingerprint and len(mirror.gets) == 4
    assert found()["mnist"] == str(empty_cache)
    assert names(empty_cache / "mnist") == sorted(sources.IDX_FILES)
    assert str(empty_cache) not in first.source


@pytest.mark.parametrize("bad", ["gone", "wrong", "short"])
def test_mirrors_are_tried_in_turn(official, empty_cache, bad):
    mirror = official(bad, "good")
    load("mnist")
    assert [manner for manner, _, _ in mirror.gets] == [bad, "good"] * 4
    assert names(empty_cache / "mnist") == sorted(sources.IDX_FILES)


def test_no_mirror_has_the_file(official, empty_cache):
    official("gone", "wrong")
    with pytest.raises(RuntimeError) as error:
        load("mnist")
    text = str(error.value)
    assert "HTTP 404" in text and "wrong checksum" in text and "NTKLAB_DATA" in text
    assert text.endswith(".") and "\n" not in text
    assert names(empty_cache / "mnist") == []


def test_a_download_that_stopped_is_resumed(official):
    mirror = official("short", "good")
    load("mnist")
    starts = [start for manner, _, start in mirror.gets if manner == "good"]
    sizes = [len(mirror.files[file]) for file in sources.IDX_FILES]
    assert starts == [size // 2 for size in sizes]


@pytest.mark.parametrize("left", [b"not a part of it", bytes(10**6)])
def test_rubbish_left_by_an_earlier_download_does_no_harm(official, empty_cache, left):
    official("good", "good")
    (empty_cache / "mnist").mkdir(parents=True)
    (empty_cache / "mnist" / f"{sources.IDX_FILES[0]}.part").write_bytes(left)
    load("mnist")
    assert names(empty_cache / "mnist") == sorted(sources.IDX_FILES)


def test_a_damaged_file_in_the_cache_is_fetched_again(official, empty_cache):
    mirror = official("good")
    before = load("mnist").fingerprint
    (empty_cache / "mnist" / sources.IDX_FILES[2]).write_bytes(b"damaged")
    assert load("mnist").fingerprint == before and len(mirror.gets) == 5


def test_cifar_is_unpacked_once(official, empty_cache, tmp_path, monkeypatch):
    mirror = official("good")
    first = load("cifar10")
    assert names(empty_cache / sources.CIFAR_FOLDER) == sorted(sources.CIFAR_BATCHES)
    (empty_cache / sources.CIFAR_ARCHIVE).unlink()
    assert load("cifar10").fingerprint == first.fingerprint and len(mirror.gets) == 1
    monkeypatch.setenv("NTKLAB_DATA", str(fake.write_cifar(tmp_path / "folder")))
    assert load("cifar10").fingerprint == first.fingerprint


def test_unpacking_that_was_stopped_is_finished(official, empty_cache):
    mirror = official("good")
    before = load("cifar10").fingerprint
    (empty_cache / sources.CIFAR_FOLDER / "data_batch_4").unlink()
    assert load("cifar10").fingerprint == before and len(mirror.gets) == 1


def test_two_at_a_time_download_once(official):
    mirror = official("slow")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.map(load, ["mnist", "mnist"])
    assert first.fingerprint == second.fingerprint and len(mirror.gets) == 4


KILLED = """
import sys
from ntklab.data import load, sources
sources.FILES["mnist"] = tuple(sources.Archive(*a) for a in {archives!r})
sources._CHUNK = 1000
load("mnist")
"""


def test_a_killed_download_leaves_nothing_half_written(official, empty_cache):
    mirror = official("slow")
    code = KILLED.format(archives=[tuple(a) for a in sources.FILES["mnist"]])
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part = empty_cache / "mnist" / f"{sources.IDX_FILES[0]}.part"
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    came = part.stat().st_size
    assert 0 < came < len(mirror.files[sources.IDX_FILES[0]])
    assert not (empty_cache / "mnist" / sources.IDX_FILES[0]).exists()
    official("good")
    load("mnist")
    assert ("good", sources.IDX_FILES[0], came) in mirror.gets


def offline_urls(kind):
    """A mirror that refuses connections, or one that accepts them and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    if kind == "refused":
        server.close()
        return server, "http://127.0.0.1:9/"
    return server, f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize("kind", ["refused", "silent", "no such host"])
def test_without_a_network_it_fails_soon_and_says_what_to_do(kind, monkeypatch, empty_cache):
    server, url = offline_urls(kind)
    url = "http://mirror.invalid/" if kind == "no such host" else url
    monkeypatch.setitem(
        sources.FILES, "mnist", fake.archives(fake.mnist_files(), [url, url], "mnist/")
    )
    begin = time.monotonic()
    with pytest.raises(RuntimeError) as error:
        load("mnist")
    server.close()
    assert time.monotonic() - begin < 5
    text = str(error.value)
    assert "no mirror answers" in text and "NTKLAB_DATA" in text and "'digits'" in text
    assert "\n" not in text and text.endswith(".")
    assert names(empty_cache) == []


def test_a_cache_that_cannot_be_written(official, empty_cache):
    official("good")
    empty_cache.write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="NTKLAB_CACHE") as error:
        load("mnist")
    assert str(error.value).endswith(".")


def test_without_pooch_it_says_what_to_install(official, monkeypatch):
    official("good")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install pooch"):
        load("mnist")
    monkeypatch.delenv("NTKLAB_CACHE")
    assert found() == dict.fromkeys(sources.FILES)


def test_without_scikit_learn_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load("digits")

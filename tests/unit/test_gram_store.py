"""`gram` on disk: killed and resumed, and files that are not what they should be."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntklab.kernels import FullyConnected, TwoLayerNTK, gram
from ntklab.kernels.gram import store as gram_store

ROOT = Path(__file__).parents[2]
KERNEL = FullyConnected(depth=2)
X = np.random.default_rng(0).normal(size=(150, 5)).astype(np.float32)

KILLED = """
import os, signal, sys
import numpy as np
from ntklab.kernels import FullyConnected, gram
from ntklab.kernels.gram import store as gram_store

finish = gram_store.Store.finish
def finish_or_die(store, block):
    if len(store.done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)  # the third block is written, but not on the list
    finish(store, block)
gram_store.Store.finish = finish_or_die
x = np.random.default_rng(0).normal(size=(150, 5)).astype(np.float32)
gram(FullyConnected(depth=2), x, path=sys.argv[1], memory_budget="1GiB")
"""


class Interruption(Exception):
    pass


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Work that stopped after two blocks."""
    path, finish = tmp_path / "k.npy", gram_store.Store.finish

    def finish_or_stop(store, block):
        finish(store, block)
        if len(store.done) == 2:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(gram_store.Store, "finish", finish_or_stop)
        with pytest.raises(Interruption):
            gram(KERNEL, X, path=path)
    return path


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


@pytest.mark.parametrize("x2", [None, X[:40]])
def test_a_file_holds_what_memory_would(tmp_path, x2):
    path = tmp_path / "new folder" / "k.npy"
    matrix = gram(KERNEL, X, x2, path=path)
    assert isinstance(matrix, np.memmap) and not matrix.flags.writeable
    assert (matrix == gram(KERNEL, X, x2)).all() and (np.load(path) == matrix).all()
    assert names(path) == ["k.npy", "k.npy.json"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_and_resumed_bit_for_bit(tmp_path):
    path = tmp_path / "k.npy"
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == -signal.SIGKILL
    assert names(path) == ["k.npy.json", "k.npy.partial"]
    assert json.loads((tmp_path / "k.npy.json").read_text())["done"] == [0, 1]
    assert (gram(KERNEL, X, path=path) == gram(KERNEL, X, path=tmp_path / "other.npy")).all()
    assert names(path) == ["k.npy", "k.npy.json", "other.npy", "other.npy.json"]
    assert path.read_bytes() == (tmp_path / "other.npy").read_bytes()


def test_only_what_is_missing_is_computed(interrupted, monkeypatch):
    finish, blocks = gram_store.Store.finish, []
    monkeypatch.setattr(
        gram_store.Store, "finish", lambda store, b: (blocks.append(b), finish(store, b))
    )
    # Another budget and another block would be cut differently: what was begun goes on as it was.
    gram(KERNEL, X, path=interrupted, memory_budget="1MB", block=150)
    assert blocks == [2, 3, 4]
    gram(KERNEL, X, path=interrupted)
    assert blocks == [2, 3, 4]


@pytest.mark.parametrize(
    ("kernel", "x1", "x2", "words"),
    [
        (KERNEL, X + 1, None, "differs in x1"),
        (KERNEL, X, X.copy(), "differs in x2"),
        (FullyConnected(depth=2, b_std=1e-9), X, None, "differs in kernel"),
        (KERNEL, X[:100], None, "differs in shape"),
    ],
)
def test_another_problem_is_refused(interrupted, kernel, x1, x2, words):
    with pytest.raises(ValueError, match=f"another problem .it {words}"):
        gram(kernel, x1, x2, path=interrupted)
    assert names(interrupted) == ["k.npy.json", "k.npy.partial"]


def test_functions_of_one_name_are_told_apart_by_their_values(tmp_path):
    def kernel(power):
        return lambda a, b: (a @ b.T + 30) ** power

    path = tmp_path / "k.npy"
    first = gram(kernel(1), X, path=path)
    assert (gram(kernel(1), X, path=path) == first).all()
    with pytest.raises(ValueError, match="differs in kernel's values"):
        gram(kernel(2), X, path=path)


def test_damaged_files(interrupted):
    partial = interrupted.with_name("k.npy.partial")
    content = partial.read_bytes()
    partial.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"k.npy.partial is missing or damaged.*delete both"):
        gram(KERNEL, X, path=interrupted)
    partial.unlink()
    with pytest.raises(ValueError, match=r"k.npy.partial is missing or damaged"):
        gram(KERNEL, X, path=interrupted)
    interrupted.with_name("k.npy.json").write_text('{"done": [0,')
    with pytest.raises(ValueError, match=r"k.npy.json is not a list of finished blocks; delete it"):
        gram(KERNEL, X, path=interrupted)
    interrupted.with_name("k.npy.json").write_text('{"done": [0]}')
    with pytest.raises(ValueError, match=r"k.npy.json is not a list of finished blocks; delete it"):
        gram(KERNEL, X, path=interrupted)


def test_an_array_without_a_list_is_begun_again(tmp_path):
    (tmp_path / "k.npy.partial").write_bytes(b"half")
    matrix = gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy")
    assert (matrix == gram(TwoLayerNTK(), X[:20])).all()


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    np.save(tmp_path / "k.npy", X)
    with pytest.raises(ValueError, match="exists and nothing beside it says what it holds"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy")
    assert (np.load(tmp_path / "k.npy") == X).all()


def test_paths_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/k.npy.* cannot be (written|read)"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "file" / "k.npy")
    with pytest.raises(ValueError, match=r"must name a .npy file"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.zip")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(gram_store.np.lib.format, "open_memmap", denied)
    with pytest.raises(PermissionError, match=r"k.npy cannot be written .Permission denied.; choo"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy")


def test_a_disk_without_room(tmp_path, monkeypatch):
    class Usage:
        free = 10

    monkeypatch.setattr(gram_store.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OSError, match=r"has no room for 1.56 KiB; choose another path"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    reserve = gram_store._reserve

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gram_store, "_reserve", full)
    with pytest.raises(OSError, match=r"has no room for 1.56 KiB"):
        gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(gram_store, "_reserve", reserve)
    assert gram(TwoLayerNTK(), X[:20], path=tmp_path / "k.npy").shape == (20, 20)

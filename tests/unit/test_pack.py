"""Parts with checksums and back again: equal files, and one sentence for all that can go wrong."""

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from ntklab import _pack, _unpack
from ntklab.__main__ import main
from ntklab._pack import pack
from ntklab._unpack import unpack

KIB = 1 / 1024


@pytest.fixture
def state(tmp_path) -> Path:
    """A folder such as a run leaves: several sizes, an empty folder, a link, left-overs."""
    top = tmp_path / "from" / "toy-paper"
    (top / "seed-0").mkdir(parents=True)
    (top / "nothing here").mkdir()
    (top / "seed-0" / "state.npz").write_bytes(os.urandom(50_000))
    (top / "seed-0" / "empty").write_bytes(b"")
    (top / "ünï.json").write_text("{}")
    (top / "run.sh").write_text("true\n")
    (top / "run.sh").chmod(0o755)
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(b"data" * 1000)
    (top / "link.bin").symlink_to(elsewhere)
    (top / "seed-0" / ".state.npz.x8d.tmp").write_bytes(b"half")
    return top


def content(top: Path) -> dict:
    """Relative name -> bytes, None for a folder."""
    return {
        str(p.relative_to(top)): p.read_bytes() if p.is_file() else None
        for p in sorted(top.rglob("*"))
        if not p.name.endswith(".tmp")
    }


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden or not."""
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("part_kib", [1, 13, 64, 4096])
def test_there_and_back(state, tmp_path, part_kib):
    manifest = pack([state], tmp_path / "parts", part_kib * KIB)
    listed = json.loads(manifest.read_text())
    parts = [tmp_path / "parts" / p["name"] for p in listed["parts"]]
    assert names(tmp_path / "parts") == sorted([*(p.name for p in parts), manifest.name])
    assert parts[0].name == "toy-paper.part-000"
    assert all(p.stat().st_size == part_kib * 1024 for p in parts[:-1])
    assert 0 < parts[-1].stat().st_size <= part_kib * 1024
    assert unpack(tmp_path / "parts", tmp_path / "to" / "here") == [
        tmp_path / "to" / "here" / "toy-paper"
    ]
    assert content(tmp_path / "to" / "here" / "toy-paper") == content(state)
    assert names(tmp_path / "to" / "here") == ["toy-paper"]
    back = tmp_path / "to" / "here" / "toy-paper"
    assert os.access(back / "run.sh", os.X_OK) and not (back / "link.bin").is_symlink()


def test_the_parts_are_a_tar_stream_whose_checksums_are_those_of_sha256(state, tmp_path):
    listed = json.loads(pack([state], tmp_path / "parts", 13 * KIB).read_text())
    whole = b"".join((tmp_path / "parts" / p["name"]).read_bytes() for p in listed["parts"])
    assert hashlib.sha256(whole).hexdigest() == listed["sha256"] and len(whole) == listed["bytes"]
    for part in listed["parts"]:
        data = (tmp_path / "parts" / part["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == part["sha256"]
    inside = tarfile.open(fileobj=io.BytesIO(whole)).getmembers()
    sizes = {m.name: m.size for m in inside if m.isfile()}
    assert sizes == listed["files"] and sizes["toy-paper/seed-0/state.npz"] == 50_000


def test_equal_files_give_equal_parts(state, tmp_path):
    copy = shutil.copytree(state, tmp_path / "copy" / "toy-paper")
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    for folder, top in (("one", state), ("two", copy)):
        pack([top], tmp_path / folder, 16 * KIB)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_several_paths_and_a_name(state, tmp_path):
    other = tmp_path / "mnist.gz"
    other.write_bytes(b"images")
    manifest = pack([state, other], tmp_path / "parts", 1, name="all.2030")
    assert manifest.name == "all.2030.manifest.json"
    made = unpack(manifest, tmp_path / "to")
    assert [p.name for p in made] == ["toy-paper", "mnist.gz"]
    assert (tmp_path / "to" / "mnist.gz").read_bytes() == b"images"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"paths": []}, "at least one folder or file"),
        ({"paths": ["nowhere"]}, "There is no nowhere to pack"),
        ({"paths": ["from/toy-paper", "twin/toy-paper"]}, "Two of the paths are called toy-paper"),
        ({"part_mib": 0}, "above 0 MiB, got 0"),
        ({"part_mib": float("nan")}, "above 0 MiB"),
        ({"name": "../up"}, "cannot be called '../up'"),
        ({"out": "full"}, "already; name another folder"),
        ({"out": "twin/toy-paper/run.sh"}, "since a file is there"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_wrong_request_writes_nothing(state, tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(state, "twin/toy-paper")
    pack([state], "full", 1)
    request = {"paths": ["from/toy-paper"], "out": "parts", "part_mib": 1} | change
    with pytest.raises(ValueError, match=says) as caught:
        pack(**request)
    assert str(caught.value).endswith(".")
    assert names(tmp_path / "parts") == []


def test_links_that_cannot_travel(state, tmp_path):
    (state / "loop").symlink_to(state)
    with pytest.raises(ValueError, match="a link to a folder above it"):
        pack([state], tmp_path / "parts", 1)
    (state / "loop").unlink()
    (state / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        pack([state], tmp_path / "parts", 1)


@pytest.mark.parametrize("fault", ["away", "shorter"])
def test_files_that_change_meanwhile(state, tmp_path, monkeypatch, fault):
    listed, meter = state / "seed-0" / "state.npz", _pack.meter

    def begin(label, total):
        """Called once the files are listed: another process goes on writing."""
        if fault == "away":
            listed.unlink()
        return meter(label, total)

    class Lying:
        """A file that ends before the size it had when it was opened."""

        def __init__(self, result):
            self.true, self.st_size = result, result.st_size + 10

        def __getattr__(self, name):
            return getattr(self.true, name)

    monkeypatch.setattr(_pack, "meter", begin)
    if fault == "shorter":
        true = os.fstat
        monkeypatch.setattr(_pack.os, "fstat", lambda n: Lying(true(n)))
    with pytest.raises(ValueError, match=f"{'went away' if fault == 'away' else 'became shorter'}"):
        pack([state], tmp_path / "parts", 1)
    assert names(tmp_path / "parts") == []


def test_missing_and_damaged_parts_are_all_named_and_nothing_is_written(state, tmp_path):
    pack([state], tmp_path / "parts", 10 * KIB)
    (tmp_path / "parts" / "toy-paper.part-001").unlink()
    (tmp_path / "parts" / "toy-paper.part-004").unlink()
    broken = tmp_path / "parts" / "toy-paper.part-002"
    data = bytearray(broken.read_bytes())
    data[5000] ^= 1
    broken.write_bytes(data)
    with (tmp_path / "parts" / "toy-paper.part-003").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError) as caught:
        unpack(tmp_path / "parts", tmp_path / "to")
    assert "missing: toy-paper.part-001, toy-paper.part-004;" in str(caught.value)
    assert "damaged: toy-paper.part-002, toy-paper.part-003;" in str(caught.value)
    assert not (tmp_path / "to").exists()


def forged(folder: Path, entry: tarfile.TarInfo, data: bytes = b"") -> None:
    """A pack whose one entry is what `pack` would never write, with right checksums."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    write_pack(folder, stream.getvalue(), "x")


def write_pack(folder: Path, data: bytes, top: str, change: dict | None = None) -> None:
    """A pack of one part."""
    sha = hashlib.sha256(data).hexdigest()
    part = {"name": "x.part-000", "bytes": len(data), "sha256": sha}
    manifest = {"schema": 1, "name": "x", "bytes": len(data), "sha256": sha, "parts": [part]}
    folder.mkdir()
    (folder / "x.part-000").write_bytes(data)
    text = json.dumps(manifest | {"top": [top], "files": {}} | (change or {}))
    (folder / "x.manifest.json").write_text(text)


def a_link(target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("x")
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize(
    "entry",
    [tarfile.TarInfo("../evil"), a_link("../../evil"), a_link("/etc/passwd")],
    ids=["up", "link up", "absolute link"],
)
def test_paths_outside_are_refused(tmp_path, entry):
    forged(tmp_path / "parts", entry)
    with pytest.raises(ValueError, match="would not stay inside its folder"):
        unpack(tmp_path / "parts", tmp_path / "to")
    assert names(tmp_path / "to") == [] and not (tmp_path / "evil").exists()


def test_an_archive_of_other_names_than_its_manifest(tmp_path):
    forged(tmp_path / "parts", tarfile.TarInfo("x"))
    manifest = json.loads((tmp_path / "parts" / "x.manifest.json").read_text())
    (tmp_path / "parts" / "x.manifest.json").write_text(json.dumps(manifest | {"top": ["y"]}))
    with pytest.raises(ValueError, match="other names than its manifest"):
        unpack(tmp_path / "parts", tmp_path / "to")
    assert names(tmp_path / "to") == []


def test_parts_that_are_no_archive(tmp_path):
    write_pack(tmp_path / "parts", b"no archive" * 100, "x")
    with pytest.raises(ValueError, match="make no archive that can be read"):
        unpack(tmp_path / "parts", tmp_path / "to")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 9},
        {"parts": 3},
        {"top": []},
        {"top": [".."]},
        {"bytes": 1},
        {"sha256": None},
        {"parts": [{"name": "../x.part-000", "bytes": 4, "sha256": ""}]},
    ],
    ids=["schema", "parts", "nothing", "top", "bytes", "sha256", "part outside"],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path, change):
    write_pack(tmp_path / "parts", b"data", "x", change)
    with pytest.raises(ValueError, match="is damaged or of another version"):
        unpack(tmp_path / "parts", tmp_path / "to")


def test_no_manifest_and_several(state, tmp_path):
    (tmp_path / "parts").mkdir()
    with pytest.raises(ValueError, match="it is no pack, or an unfinished one"):
        unpack(tmp_path / "parts", tmp_path / "to")
    for name in ("one", "two"):
        pack([state], tmp_path / "parts", 1, name=name)
    with pytest.raises(ValueError, match=r"several packs: name one, .*one\.manifest.*two\.mani"):
        unpack(tmp_path / "parts", tmp_path / "to")


def test_the_whole_must_be_that_of_the_manifest(tmp_path):
    write_pack(tmp_path / "parts", b"data", "x", {"sha256": "0" * 64})
    with pytest.raises(ValueError, match="do not make the whole"):
        unpack(tmp_path / "parts", tmp_path / "to")


def test_what_is_there_stays_unless_it_may_be_replaced(state, tmp_path):
    pack([state], tmp_path / "parts", 1)
    mine = tmp_path / "to" / "toy-paper"
    mine.mkdir(parents=True)
    (mine / "mine").write_text("mine")
    with pytest.raises(ValueError, match="holds toy-paper already"):
        unpack(tmp_path / "parts", tmp_path / "to")
    assert content(mine) == {"mine": b"mine"}
    unpack(tmp_path / "parts", tmp_path / "to", replace=True)
    assert content(mine) == content(state) and names(tmp_path / "to") == ["toy-paper"]


def test_a_replacement_that_fails_leaves_what_was_there(state, tmp_path, monkeypatch):
    other = tmp_path / "zz"
    other.write_text("new")
    pack([state, other], tmp_path / "parts", 1)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "toy-paper").write_text("mine")
    rename = os.rename

    def failing(source, target):
        if Path(source).name == "zz":
            raise OSError(errno.EACCES, "Permission denied", str(target))
        rename(source, target)

    monkeypatch.setattr(_unpack.os, "rename", failing)
    with pytest.raises(OSError, match="Permission denied"):
        unpack(tmp_path / "parts", tmp_path / "to", replace=True)
    assert content(tmp_path / "to") == {"toy-paper": b"mine"}


@pytest.mark.parametrize("fault", ["no room", "full"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    state, tmp_path, monkeypatch, capsys, fault
):
    class Full(io.BytesIO):
        def write(self, *data):
            raise OSError(errno.ENOSPC, "No space left on device")

        fileno = write

    if fault == "no room":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    else:
        true = Path.open
        full = lambda p, *a: Full() if ".part-" in p.name else true(p, *a)  # noqa: E731
        monkeypatch.setattr(Path, "open", full)
    out = tmp_path / "parts"
    assert main(["pack", str(state), "--out", str(out), "--part-mib", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("are needed" in said or "No space left" in said)
    assert names(out) == []


def test_a_read_only_folder_is_one_sentence(state, tmp_path, monkeypatch, capsys):
    def refused(dir, prefix):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(_pack.tempfile, "mkdtemp", refused)
    command = ["pack", str(state), "--out", str(tmp_path / "parts"), "--part-mib", "1"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Read-only file system" in said and "parts" in said


def test_memory_is_that_of_a_buffer(tmp_path):
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(2**20))
    tracemalloc.start()
    try:
        pack([large], tmp_path / "parts", 20)
        unpack(tmp_path / "parts", tmp_path / "to")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "to" / "large.bin").stat().st_size == 64 * 2**20
    assert peak < 8 * 2**20


def test_long_work_says_how_far_it_is(monkeypatch, capsys):
    now = iter([0.0, 1.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(_pack.time, "monotonic", lambda: next(now))
    count = _pack.meter("pack", 5 * 2**20)
    for _ in range(3):
        count(2**20)
    assert capsys.readouterr().err == "pack: 2 of 5 MiB\n"

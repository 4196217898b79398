"""Run records travel from one ledger to another as one archive; none is ever overwritten."""

import shutil

import pytest

from ntklab import ledger
from ntklab.__main__ import main
from ntklab._pack import pack


def content(top) -> dict:
    """Name -> bytes."""
    return {p.name: p.read_bytes() for p in sorted(top.iterdir())}


def names(folder) -> list[str]:
    """What a folder holds, hidden or not."""
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def two_ledgers(tmp_path, monkeypatch):
    """A ledger with the real records, and one with none; `use(name)` chooses."""
    real = ledger.folder()
    for name in ("here", "there"):
        (tmp_path / name / "runs").mkdir(parents=True)
        shutil.copy(real / "claims.yaml", tmp_path / name)
    for file in sorted((real / "runs").glob("*.json"))[:3]:
        shutil.copy(file, tmp_path / "here" / "runs")

    def use(name):
        monkeypatch.setenv("NTKLAB_LEDGER", str(tmp_path / name))
        return tmp_path / name / "runs"

    return use


def test_run_records_travel_as_one_archive(two_ledgers, tmp_path, capsys):
    here, parts = two_ledgers("here"), str(tmp_path / "parts")
    assert main(["pack", "--runs", "--out", parts, "--part-mib", "1"]) == 0
    there = two_ledgers("there")
    shutil.copy(here / names(here)[0], there)
    before = (there / names(here)[0]).stat()
    assert main(["unpack", parts, "--runs"]) == 0
    assert "3 records, 2 of them new" in capsys.readouterr().out
    assert content(there) == content(here) and len(ledger.runs()) == 3
    assert (there / names(here)[0]).stat().st_mtime_ns == before.st_mtime_ns


def test_records_of_one_experiment(two_ledgers, tmp_path, capsys):
    here, parts = two_ledgers("here"), str(tmp_path / "parts")
    name = ledger.runs()[0].experiment
    assert main(["pack", "--runs", name, "--out", parts, "--part-mib", "1"]) == 0
    there = two_ledgers("there")
    assert main(["unpack", parts, "--runs"]) == 0
    assert names(there) == [n for n in names(here) if n.startswith(f"{name}.")]
    assert main(["pack", "--runs", "no-such", "--out", parts, "--part-mib", "1"]) == 2
    assert "no run records of no-such" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["other content", "no record"])
def test_no_record_is_overwritten_and_nothing_else_comes_in(two_ledgers, tmp_path, capsys, fault):
    here, parts = two_ledgers("here"), str(tmp_path / "parts")
    if fault == "no record":
        (here.parent / "notes.json").write_text("{}")
        pack([here.parent / "notes.json", *here.iterdir()], parts, 1)
    else:
        assert main(["pack", "--runs", "--out", parts, "--part-mib", "1"]) == 0
    there = two_ledgers("there")
    if fault == "other content":
        last = names(here)[-1]
        (there / last).write_text((here / last).read_text() + "\n")
    before = content(there)
    assert main(["unpack", parts, "--runs"]) == 2
    said = capsys.readouterr().err
    assert ("never overwritten" if fault == "other content" else "not a run record") in said
    assert content(there) == before and names(there) == list(before)

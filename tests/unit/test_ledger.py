"""The ledger: schema, verdicts, records, provenance, and criteria that precede their runs."""

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from ntklab import _common, ledger
from ntklab.ledger import schema

TOP = Path(__file__).resolve().parents[2]
ROW = """
- id: one
  paper: somebody2020
  where: table 1
  statement: It is small.
  kind: number
  reported: {value: 0.1, source: table 1}
  criterion:
    - {name: a, op: "<=", target: 1, seeds: mean}
    - {name: b, op: within, target: [0, 1], seeds: every}
  experiment: toy
  chapter: part/page
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty ledger with one claim of two predicates."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "claims.yaml").write_text(ROW)
    monkeypatch.setenv("NTKLAB_LEDGER", str(tmp_path))
    return tmp_path


def make(a=(0.5, 0.7), b=(0.2, 0.3), **changes) -> ledger.Run:
    """A clean run of the claim above, judged by its criterion as it stands."""
    fields = {
        "experiment": "toy",
        "size": "book",
        "criteria": ledger.criteria_of("toy", "book"),
        "seeds": tuple(range(len(a))),
        "values": {"a": a, "b": b},
        "curves": {"c": {"x": [1.0, 2.0], "y": [[0.1, 0.2]] * len(a)}},
        "config": {"n": 3},
        "data": ({"name": "none", "fingerprint": "0"},),
        "device": "cpu",
        "versions": {"jax": "0"},
        "seconds": 1.0,
        "peak_memory_mib": 2.0,
        "commit": "a" * 40,
        "dirty": False,
        "time": "2030-01-01T00:00:00Z",
        "command": "python -m ntklab run toy --size book",
    }
    return ledger.Run(**(fields | changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  where: table 1\n", "", "lacks where"),
        ("  where:", "  wher:", "lacks where"),
        ("  chapter: part/page", "  chapter: part/page\n  extra: 1", "unknown key extra"),
        ("kind: number", "kind: hunch", "kind must be one of"),
        ("id: one", "id: One Two", "lower-case"),
        ("reported: {value: 0.1, source: table 1}", "reported: 0.1", "value and a source"),
        ("value: 0.1", "value: .nan", "finite number or a text"),
        ("seeds: mean", "seeds: median", "seeds must be one of"),
        ('"<="', '"<>"', "op must be one of"),
        ("target: [0, 1]", "target: [1, 0]", "low first"),
        ("target: [0, 1]", "target: 1", "must be \\[low, high\\]"),
        ("target: 1,", "target: .inf,", "finite number or the name"),
        ("target: 1,", "target: true,", "finite number or the name"),
        ("  kind: number", "  kind: number\n  kind: shape", "'kind' is given twice"),
        ("chapter: part/page", "chapter: part/page\n  sizes: [quick]", "sizes must be a list"),
        ("- id: one", "- id: [one", "not valid YAML"),
        (ROW, "a: 1", "must be a list of claims"),
        (ROW, ROW + ROW, "two rows with the id 'one'"),
        (ROW, "- 3", "must be a mapping"),
    ],
)
def test_schema_faults_are_one_sentence(book, old, new, message):
    assert old in ROW
    (book / "claims.yaml").write_text(ROW.replace(old, new, 1))
    with pytest.raises(ledger.LedgerError, match=message) as caught:
        ledger.claims()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_an_empty_criterion_is_refused(book):
    (book / "claims.yaml").write_text(
        ROW.split("  criterion:")[0] + "  criterion: []\n  experiment: toy\n  chapter: part/page\n"
    )
    with pytest.raises(ledger.LedgerError, match="at least one predicate"):
        ledger.claims()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.5, 1.4), (0.0, 1.0), "reproduced"),  # the mean of a is 0.95; both ends of b count
        ((0.5, 1.6), (0.0, 1.0), "partly"),  # the mean of a is 1.05
        ((0.5, 1.4), (0.0, 1.1), "partly"),  # one seed of b is out, its mean is not
        ((2.0, 2.0), (2.0, 2.0), "not reproduced"),
    ],
)
def test_verdicts_follow_the_values(book, a, b, expected):
    assert ledger.verdict("one").verdict == "not run"
    ledger.store(make(a, b))
    assert ledger.verdict("one").verdict == expected
    assert ledger.verdict("one", "paper").verdict == "not run"


@pytest.mark.parametrize(
    ("op", "value", "holds"),
    [
        ("<", 0.9, True),
        ("<", 1.0, False),
        ("<=", 1.0, True),
        ("<=", 1.1, False),
        (">", 1.1, True),
        (">", 1.0, False),
        (">=", 1.0, True),
        (">=", 0.9, False),
        ("==", 1.0, True),
        ("==", 1.1, False),
    ],
)
def test_each_operator_can_say_no(book, op, value, holds):
    (book / "claims.yaml").write_text(ROW.replace('"<="', f'"{op}"'))
    assert ledger.judge(ledger.claim("one"), make((value,), (0.5,)))[0].holds is holds


def test_targets_that_are_measured(book):
    text = ROW.replace("target: 1, seeds: mean", "target: b, seeds: every")
    (book / "claims.yaml").write_text(text)
    judged = [
        ledger.judge(ledger.claim("one"), make(a, (0.2, 0.6)))[0].holds
        for a in ((0.1, 0.5), (0.3, 0.5))
    ]
    assert judged == [True, False]  # each seed against its own target; both means are below
    (book / "claims.yaml").write_text(
        text.replace("target: b, seeds: every", "target: b, seeds: mean")
    )
    assert ledger.judge(ledger.claim("one"), make((0.3, 0.5), (0.2, 0.6)))[0].holds


def test_a_single_seed_says_so(book):
    ledger.store(make((0.5,), (0.5,)))
    assert str(ledger.verdict("one")) == "reproduced (single seed)"
    assert ledger.rows()[0]["verdict"] == "reproduced (single seed)"


def test_a_dirty_record_is_shown_and_never_counts(book):
    path = ledger.store(make(dirty=True))
    assert path.name.endswith(".dirty.json")
    assert [r.dirty for r in ledger.runs()] == [True]
    assert ledger.verdict("one").verdict == "not run"


def test_quick_is_never_a_record(book):
    with pytest.raises(ledger.LedgerError, match="never becomes a record"):
        ledger.store(make(size="quick"))
    assert not list((book / "runs").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": (float("nan"), 0.0)}, "values.a.0 is NaN or infinite"),
        ({"seconds": float("inf")}, "seconds is NaN or infinite"),
        ({"curves": {"c": {"x": [float("nan")], "y": []}}}, "curves.c.x.0 is NaN"),
        ({"seeds": (0, 0)}, "each only once"),
        ({"seeds": (0, 1, 2)}, "not one a seed"),
        ({"values": {"a": (0.5, 0.5)}}, "lacks b, which one needs"),
        ({"device": ""}, "lacks device"),
    ],
)
def test_faulty_records_are_refused(book, changes, message):
    with pytest.raises(ledger.LedgerError, match=message):
        ledger.store(make(**changes))
    assert not list((book / "runs").iterdir())


def test_records_survive_a_round_trip_and_are_not_overwritten(book):
    run = make((0.1 + 0.2, 1 / 3), (0.5, 0.5))
    path = ledger.store(run)
    assert ledger.runs() == (run,) and ledger.runs()[0].file == path.name
    before = path.read_bytes()
    with pytest.raises(ledger.LedgerError, match="never overwritten"):
        ledger.store(dataclasses.replace(run, device="other"))
    assert path.read_bytes() == before


def test_the_newest_run_counts_and_old_ones_stay(book):
    ledger.store(make((0.5,), (0.5,), time="2030-01-02T00:00:00Z", commit="b" * 40))
    ledger.store(make((5.0,), (5.0,), time="2030-01-01T00:00:00Z"))
    assert ledger.verdict("one").run.commit == "b" * 40
    ledger.store(make((5.0,), (5.0,), time="2030-01-03T00:00:00Z", commit="c" * 40))
    assert ledger.verdict("one").verdict == "not reproduced"
    assert len(ledger.runs()) == 3


def test_a_changed_criterion_is_not_judged_by_an_old_run(book):
    ledger.store(make((5.0,), (0.5,)))
    assert ledger.verdict("one").verdict == "partly"
    (book / "claims.yaml").write_text(ROW.replace("target: 1,", "target: 9,"))
    assert ledger.verdict("one").verdict == "not run"


def test_a_reworded_claim_keeps_its_runs(book):
    ledger.store(make())
    (book / "claims.yaml").write_text(ROW.replace("It is small.", "It is quite small."))
    assert ledger.verdict("one").verdict == "reproduced"


def test_a_killed_write_leaves_nothing(book, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_common.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.store(make())
    assert list((book / "runs").iterdir()) == [] and ledger.runs() == ()


def test_half_a_file_and_a_renamed_one_are_named(book):
    path = ledger.store(make())
    renamed = path.rename(path.with_name("other.json"))
    with pytest.raises(ledger.LedgerError, match="not renamed"):
        ledger.runs()
    renamed.write_text(renamed.read_text()[:100])
    with pytest.raises(ledger.LedgerError, match=r"other\.json is not a run record"):
        ledger.runs()


def test_value_and_rows(book):
    with pytest.raises(ledger.LedgerError, match="is not run at size book; `python -m ntklab run"):
        ledger.value("one", "a")
    assert [r["verdict"] for r in ledger.rows(chapter="part/page")] == ["not run"]
    assert ledger.rows(paper="nobody") == []
    run = make((0.5, 1.0), (0.5, 2.0))
    ledger.store(run)
    value = ledger.value("one", "a")
    assert (value.mean, value.low, value.high, value.per_seed) == (0.75, 0.5, 1.0, (0.5, 1.0))
    row = ledger.rows(id="one")[0]
    assert row["measured"] == "a = 0.75 [0.5, 1]\nb = 1.25 [0.5, 2] (fails)"
    assert (row["verdict"], row["size"], row["command"]) == ("partly", "book", run.command)
    with pytest.raises(ledger.LedgerError, match="has no value 'z'; it has a, b"):
        ledger.value("one", "z")
    with pytest.raises(ledger.LedgerError, match="no claim 'two'"):
        ledger.claim("two")
    with pytest.raises(ledger.LedgerError, match="size must be one of"):
        ledger.verdict("one", "quick")


def test_a_claim_of_one_size(book):
    (book / "claims.yaml").write_text(ROW + "  sizes: [paper]\n")
    assert ledger.criteria_of("toy", "book") == {}
    assert [v.size for v in ledger.verdicts()] == ["paper"]
    assert [r["size"] for r in ledger.rows()] == ["paper"]


def test_a_missing_ledger_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLAB_LEDGER", str(tmp_path))
    with pytest.raises(ledger.LedgerError, match=r"holds no claims\.yaml"):
        ledger.claims()


def test_the_copy_in_a_wheel_is_read_only(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKLAB_LEDGER", raising=False)
    monkeypatch.setattr(schema, "_PACKAGE", tmp_path / "ntklab")
    (tmp_path / "ntklab" / "_ledger").mkdir(parents=True)
    (tmp_path / "ntklab" / "_ledger" / "claims.yaml").write_text(ROW)
    assert ledger.claim("one").paper == "somebody2020"
    with pytest.raises(ledger.LedgerError, match="read only"):
        ledger.folder(write=True)


def git(top: Path, *arguments: str) -> str:
    """Run git in a scratch repository, untouched by the user's settings."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *names, "-C", str(top), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | settings
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A scratch repository whose first commit holds the claim above."""
    place = tmp_path / "book" / "ledger"
    (place / "runs").mkdir(parents=True)
    (place / "claims.yaml").write_text(ROW)
    monkeypatch.setenv("NTKLAB_LEDGER", str(place))
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "criterion")
    return tmp_path


def test_dirty_means_anything_but_records(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert ledger.commit_of_code(checkout) == (head, False)
    path = ledger.store(make())
    assert ledger.commit_of_code(checkout) == (head, False)
    path.with_name("notes.txt").write_text("x")
    assert ledger.commit_of_code(checkout) == (head, True)
    path.with_name("notes.txt").unlink()
    (checkout / "book" / "ledger" / "claims.yaml").write_text(ROW + "\n")
    assert ledger.commit_of_code(checkout).dirty


def test_without_git_a_variable_names_the_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("NTKLAB_COMMIT", raising=False)
    assert ledger.commit_of_code(tmp_path) == ("unknown", True)
    monkeypatch.setenv("NTKLAB_COMMIT", "c" * 40)
    assert ledger.commit_of_code(tmp_path) == ("c" * 40, False)
    monkeypatch.setenv("NTKLAB_COMMIT", "main")
    with pytest.raises(ledger.LedgerError, match="40 hex digits"):
        ledger.commit_of_code(tmp_path)


def test_a_criterion_after_its_run_is_found(checkout):
    before = git(checkout, "rev-parse", "HEAD")
    ledger.store(make(commit=before))
    assert ledger.late_criteria(checkout, ledger.runs()) == []
    (checkout / "book" / "ledger" / "claims.yaml").write_text(
        ROW.replace("target: 1,", "target: 2,")
    )
    git(checkout, "commit", "-qam", "criterion after the run")
    late = make(commit=before, time="2030-01-02T00:00:00Z")
    after = make(commit=git(checkout, "rev-parse", "HEAD"))
    stranger = make(commit="d" * 40)
    dirty = make(commit="d" * 40, dirty=True)
    assert ledger.late_criteria(checkout, (after, dirty)) == []
    assert "was not committed before the run" in ledger.late_criteria(checkout, (late,))[0]
    assert "not in the history" in ledger.late_criteria(checkout, (stranger,))[0]


def test_every_record_of_the_book_came_after_its_criteria(monkeypatch):
    monkeypatch.delenv("NTKLAB_LEDGER", raising=False)
    clean = [run for run in ledger.runs() if not run.dirty]
    assert clean and all(re.fullmatch("[0-9a-f]{40}", run.commit) for run in clean)
    shallow = (TOP / ".git").exists() and git(TOP, "rev-parse", "--is-shallow-repository")
    if shallow != "false":
        return  # an archive or a shallow clone has no history; CI and developers have all of it
    assert ledger.late_criteria(TOP, ledger.runs()) == []


def test_the_book_cites_what_exists(monkeypatch):
    monkeypatch.delenv("NTKLAB_LEDGER", raising=False)
    from ntklab.papers import EXPERIMENTS

    bibliography = (TOP / "book" / "references.bib").read_text(encoding="utf-8")
    for claim in ledger.claims():
        assert f"{{{claim.paper}," in bibliography, claim.id
        assert claim.experiment in EXPERIMENTS, claim.id
        assert (TOP / f"{claim.chapter}.md").is_file(), claim.id
    json.dumps(ledger.rows())

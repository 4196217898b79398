"""`python -m ntklab`: thin, one sentence an error, and the exit status says how it went."""

import dataclasses
import doctest
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntklab import __main__, _doctor, ledger, papers
from ntklab.__main__ import main

RUN = ledger.Run(
    experiment="tk-errata",
    size="quick",
    criteria={},
    seeds=(0, 1),
    values={"clean": (0.25, 0.75)},
    curves={},
    config={},
    data=(),
    device="a machine",
    versions={},
    seconds=1.0,
    peak_memory_mib=2.0,
    commit="0" * 40,
    dirty=False,
    time="2030-01-31T12:00:00Z",
    command="python -m ntklab run tk-errata --size quick",
)


def shell(*arguments, **environment):
    """Run the command line in a process of its own."""
    top = str(Path(__main__.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": top, "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-m", "ntklab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def failed(capsys, *arguments):
    """The sentence on standard error of a request that was wrong."""
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and caught.err.startswith("ntklab: ")
    assert caught.err.count("\n") == 1 and caught.err.endswith(".\n")
    return caught.err


def test_no_command_is_a_usage_error():
    done = shell()
    assert done.returncode == 2 and "usage: python -m ntklab" in done.stderr


def test_the_doctor_says_by_its_status_whether_something_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(_doctor, "problem", lambda seen: "")
    assert main(["doctor"]) == 0 and "Nothing is wrong." in capsys.readouterr().out
    monkeypatch.setattr(_doctor, "problem", lambda seen: "it is broken.")
    assert main(["doctor"]) == 1 and "Wrong: it is broken." in capsys.readouterr().out


def test_the_doctor_in_a_process_of_its_own(tmp_path):
    done = shell("doctor", NTKLAB_DATA=str(tmp_path / "gone"))
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("Wrong: NTKLAB_DATA names")


def test_where_the_data_sets_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["mnist", "fashion_mnist", "cifar10", "digits"]
    assert "not here yet" in lines[0] and "scikit-learn" in lines[3]


def test_one_data_set(capsys):
    assert main(["data", "digits"]) == 0
    text = capsys.readouterr().out
    assert "1437 train and 360 test" in text and "fingerprint e3b4dedaa6005543" in text
    assert "test: 0 35, 1 31" in text


def test_an_unknown_data_set(capsys):
    assert "known are mnist" in failed(capsys, "data", "imagenet")


def test_data_that_are_missing_end_in_a_sentence_not_a_traceback(tmp_path):
    done = shell("data", "mnist", NTKLAB_DATA=str(tmp_path))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "mnist/train-images-idx3-ubyte.gz" in done.stderr
    done = shell("--traceback", "data", "mnist", NTKLAB_DATA=str(tmp_path))
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_unknown_experiment_names_those_there_are(capsys):
    assert "tk-errata" in failed(capsys, "run", "nothing", "--size", "quick")


def test_a_size_must_be_one_of_three():
    with pytest.raises(SystemExit) as stop:
        main(["run", "tk-errata", "--size", "huge"])
    assert stop.value.code == 2


def test_list_shows_every_experiment_and_its_sizes(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(papers.EXPERIMENTS)
    sizes = [", ".join(experiment.presets) for experiment in papers.EXPERIMENTS.values()]
    assert [line.rpartition("[")[2] for line in lines] == [f"{size}]" for size in sizes]


@pytest.fixture
def recorded(monkeypatch):
    """Take note of what `record` is asked for, and of what is stored, and measure nothing."""
    calls, stored = [], []

    def record(name, size, *, workdir, resume, deadline, state_mib):
        calls.append((name, size, workdir, resume, deadline.minutes, state_mib))
        return dataclasses.replace(RUN, experiment=name, size=size)

    monkeypatch.setattr(papers, "record", record)
    monkeypatch.setattr(ledger, "store", lambda run: stored.append(run) or Path(run.name))
    monkeypatch.setattr(ledger, "verdicts", lambda size: ())
    return calls, stored


def test_a_quick_run_is_not_stored(recorded, capsys):
    calls, stored = recorded
    assert main(["run", "tk-errata", "--size", "quick"]) == 0
    assert calls == [("tk-errata", "quick", None, False, None, None)] and stored == []
    text = capsys.readouterr().out
    assert "clean = 0.5  (2 seeds)" in text and "no record" in text


def test_a_book_run_is_stored_once(recorded, capsys):
    calls, stored = recorded
    limits = ["--minutes", "2.5", "--state-mib", "64"]
    assert main(["run", "tk-errata", "--size", "book", "--resume", "--out", "there", *limits]) == 0
    assert calls == [("tk-errata", "book", "there", True, 2.5, 64.0)]
    assert [run.size for run in stored] == ["book"]
    assert "Record: tk-errata.book." in capsys.readouterr().out


def test_a_dirty_run_says_that_it_does_not_count(recorded, monkeypatch, capsys):
    dirty = dataclasses.replace(RUN, size="book", dirty=True)
    monkeypatch.setattr(papers, "record", lambda *a, **k: dirty)
    assert main(["run", "tk-errata", "--size", "book"]) == 0
    assert "never counts" in capsys.readouterr().out


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys):
    def record(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(papers, "record", record)
    assert main(["run", "tk-errata", "--size", "book", "--out", "d"]) == 130
    command = "python -m ntklab run tk-errata --size book --out d --resume"
    assert capsys.readouterr().err.strip().endswith(f"go on with: {command}.")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child")
def test_a_real_interrupt_ends_with_130(tmp_path):
    code = (
        # A runner in the background ignores interrupts, and a child would inherit that.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ntklab import papers, __main__\n"
        "papers.record = lambda *a, **k: print('begun', flush=True) or time.sleep(60)\n"
        "sys.exit(__main__.main(['run', 'tk-errata', '--size', 'book']))"
    )
    top = str(Path(__main__.__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": top, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "begun\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130 and "--resume" in error and "Traceback" not in error


def raise_in(module, statement):
    """Run a statement as if it stood in a module of that name."""
    exec(compile(statement, module, "exec"), {"__name__": module})


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("ntklab.kernels", "int('no number')"),
        ("ntklab.kernels", "a, b = ()"),
        ("ntklab.kernels", "import no_such_package"),
        ("ntklab.kernels", "from ntklab import no_such_name"),
        ("ntklab.kernels", "[].pop()"),
        ("somebody_else", "raise ValueError('A sentence.')"),
    ],
)
def test_a_bug_keeps_its_traceback(monkeypatch, module, statement):
    monkeypatch.setattr(papers, "record", lambda *a, **k: raise_in(module, statement))
    with pytest.raises((ValueError, IndexError, ImportError)):
        main(["run", "tk-errata", "--size", "quick"])


@pytest.mark.parametrize(
    "statement",
    [
        "raise ValueError('eps must be positive.')",
        "raise FileNotFoundError('NTKLAB_DATA names a folder that is not there.')",
        "raise RuntimeError('no mirror answers.')",
        "raise ImportError('digits need scikit-learn: pip install scikit-learn.')",
    ],
)
def test_an_error_meant_for_the_user_is_one_sentence(monkeypatch, capsys, statement):
    monkeypatch.setattr(papers, "record", lambda *a, **k: raise_in("ntklab.data", statement))
    assert statement.split("'")[1] in failed(capsys, "run", "tk-errata", "--size", "quick")


def test_a_full_disk_is_not_a_bug(monkeypatch, capsys):
    def record(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")

    monkeypatch.setattr(papers, "record", record)
    assert main(["run", "tk-errata", "--size", "quick"]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_the_ledger_lists_claims_and_what_is_missing(capsys):
    assert main(["ledger"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {claim.id for claim in ledger.claims()}
    assert main(["ledger", "--missing", "paper"]) == 0
    missing = capsys.readouterr().out.splitlines()
    waiting = [v.claim for v in ledger.verdicts(size="paper") if v.run is None]
    assert len(missing) == len({claim.experiment for claim in waiting})
    assert all(" --size paper --resume  # " in line for line in missing)
    named = [id for line in missing for id in line.split("; for ")[1].split(", ")]
    assert sorted(named) == sorted(claim.id for claim in waiting)


def test_what_is_missing_is_listed_oldest_first_with_what_it_would_take(monkeypatch, capsys):
    cost = papers.Cost(4.9e15, "float32", host_flops=30e12)
    rows = [papers.Missing("old", ("a", "b"), cost), papers.Missing("new", ("c",), None)]
    monkeypatch.setattr(papers, "missing", lambda size: rows)
    assert main(["ledger", "--missing", "book"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "python -m ntklab run old --size book --resume  # about T4 22 min, A100 12 min, H200 7 min;"
        " for a, b",
        "python -m ntklab run new --size book --resume  # cost not counted; for c",
    ]


def test_a_reader_that_has_seen_enough_is_no_error():
    top = str(Path(__main__.__file__).parents[1])
    read, write = os.pipe()
    os.close(read)
    command, env = [sys.executable, "-m", "ntklab", "data"], os.environ | {"PYTHONPATH": top}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""


def test_the_example_in_the_documentation():
    assert doctest.testmod(__main__) == (0, 1)

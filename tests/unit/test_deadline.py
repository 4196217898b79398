"""Minutes that run out: a run stops with everything saved, and goes on to the same values."""

import dataclasses
import doctest
import json

import pytest
import queue_toy
from queue_toy import Toy

from ntklab import _deadline, data, ledger, papers
from ntklab.__main__ import main
from ntklab._deadline import Deadline, OutOfTime
from ntklab.papers import _checkpoints, _cost
from ntklab.papers.tsilivis_kempe import transfer


class Clock:
    """`time.monotonic` that stands still until it is told to go on, in place of the module."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """Time that only `time.sleep` lets pass, in the experiment, its checkpoints and deadlines."""
    made = Clock()
    for module in (queue_toy, _checkpoints, _deadline):
        monkeypatch.setattr(module, "time", made)
    return made


def comparable(result) -> tuple:
    """What must not depend on interruptions."""
    return result.seeds, result.values, result.curves, result.data, result.criteria


def in_pieces(folder, config, minutes) -> tuple:
    """Run until it is done; the result, and where it stood at each interruption."""
    stands = []
    while True:
        deadline = Deadline(minutes)
        try:
            run = queue_toy.experiment().run
            result = run(config, workdir=folder, resume=True, deadline=deadline)
            return result, stands
        except OutOfTime as pause:
            stands.append(str(pause))


def test_a_deadline_knows_what_is_left(clock):
    deadline = Deadline(0.5)
    assert deadline.left() == 30 and not deadline.over()
    clock.sleep(30)
    assert deadline.left() == 0 and deadline.over()
    with pytest.raises(OutOfTime, match="step 3 of 9"):
        deadline.check("step 3 of 9")
    Deadline().check("never over")


@pytest.mark.parametrize("minutes", [-1, float("nan")])
def test_minutes_are_not_negative(minutes):
    with pytest.raises(ValueError, match="minutes must be a number of at least 0"):
        Deadline(minutes)


def test_each_call_gets_on_by_one_piece_of_work_however_few_the_minutes(tmp_path):
    config = Toy(seeds=(0, 4), steps=3)
    whole = queue_toy.experiment().run(config, workdir=tmp_path / "whole")
    result, stands = in_pieces(tmp_path / "pieces", config, 0)
    assert comparable(result) == comparable(whole)
    done = [f"{n} of 2 seeds are done, seed-{s} stands at " for n, s in ((0, 0), (1, 4))]
    steps = ["start", *(f"step {at} of 3" for at in (1, 2, 3))]
    first = [done[0] + place for place in ("a", "b", *steps)]
    second = [done[1] + place for place in steps]
    assert stands == [*first, "1 of 2 seeds are done", *second]


@pytest.mark.parametrize("minutes", [0.02, 0.07, 0.3])
def test_values_and_seconds_do_not_depend_on_interruptions(tmp_path, clock, minutes):
    config = Toy(pause=1.0)
    whole = queue_toy.experiment().run(config, workdir=tmp_path / "whole")
    assert whole.seconds == 45.0
    result, stands = in_pieces(tmp_path / "pieces", config, minutes)
    assert len(stands) >= 2 and comparable(result) == comparable(whole)
    assert result.seconds == 45.0


def test_pauses_are_no_work_and_lost_work_does_not_count(tmp_path, clock):
    config = Toy(seeds=(0,), steps=4, pause=1.0)

    def killed(config, seed, checkpoints):
        save = checkpoints.save

        def once(name, **arrays):
            if name == "state" and arrays["at"] == 3:
                checkpoints.keep_work = lambda: None  # who is killed writes nothing more
                raise SystemExit
            save(name, **arrays)

        checkpoints.save = once
        return queue_toy.measure(config, seed, checkpoints)

    toy = dataclasses.replace(queue_toy.experiment(), measure=killed)
    with pytest.raises(SystemExit):
        toy.run(config, workdir=tmp_path)
    clock.sleep(1000)
    result = queue_toy.experiment().run(config, workdir=tmp_path, resume=True)
    assert result.seconds == 4.0


def test_a_run_afresh_forgets_what_every_seed_had(tmp_path):
    config = Toy(seeds=(0, 1), steps=1)
    queue_toy.experiment().run(config, workdir=tmp_path)
    with pytest.raises(OutOfTime):
        queue_toy.experiment().run(config, workdir=tmp_path, deadline=Deadline(0))
    assert not (tmp_path / "seed-1" / "finished.json").exists()


def test_notes_of_seeds_reach_the_record(tmp_path):
    def measure(config, seed, checkpoints):
        checkpoints.note("it went on from a state in 8 bits")
        return queue_toy.measure(config, seed, checkpoints)

    toy = dataclasses.replace(queue_toy.experiment(), measure=measure)
    result = toy.run(Toy(seeds=(0, 1), steps=1), workdir=tmp_path)
    assert result.notes == ("it went on from a state in 8 bits",)
    assert _cost.throughput(None, 1.0, result.notes) == {"notes": list(result.notes)}


@pytest.fixture
def only_the_toy(tmp_path, monkeypatch):
    """The command line with the toy as its one experiment and an empty ledger."""
    monkeypatch.setattr(papers, "EXPERIMENTS", {"toy": queue_toy.experiment(Toy(steps=2))})
    (tmp_path / "ledger" / "runs").mkdir(parents=True)
    (tmp_path / "ledger" / "claims.yaml").write_text("[]\n")
    monkeypatch.setenv("NTKLAB_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(ledger, "commit_of_code", lambda: ledger.Commit("a" * 40, False))
    monkeypatch.chdir(tmp_path)


def test_the_command_goes_on_until_it_is_done(only_the_toy, capsys):
    command = ["run", "toy", "--size", "paper", "--minutes", "0", "--out", "some where"]
    assert main(command) == 75
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        "The time is up: 0 of 3 seeds are done, seed-0 stands at a; what is finished is kept, go "
        "on with: python -m ntklab run toy --size paper --out 'some where' --minutes 0 --resume."
    )
    calls = 1
    while main([*command, "--resume"]) == 75:
        calls += 1
    assert calls == 2 + 3 * 3 + 2
    stored = ledger.runs()
    assert [run.size for run in stored] == ["paper"] and stored[0].seeds == (0, 1, 2)
    text = json.loads((ledger.folder() / "runs" / stored[0].file).read_text())
    assert text["compute"] == {} and text["values"]["x"] == list(stored[0].values["x"])


class EveryFourth(Deadline):
    """Over each fourth time that it is asked."""

    asked = 0

    def over(self):
        self.asked += 1
        return self.asked % 4 == 0


@pytest.mark.slow
def test_out_of_time_in_the_long_loops_resumes_to_the_same_values(tmp_path):
    """The iterated kernel machine, both networks, and what is measured on them."""
    if not data.found()["mnist"]:
        pytest.skip("mnist is not on this machine")
    experiment = papers.EXPERIMENTS["tk-transfer-two-layer"]
    arms = (transfer.Arm("paper", 32, 0.01, False), transfer.Arm("lazy", 32, 1.0, True))
    changes = {"seeds": (3,), "arms": arms, "n_train": 40, "n_test": 20, "steps": (5, 20)}
    config = dataclasses.replace(
        experiment.presets["quick"], **changes, solver="iterated", save_every=5, eps=0.05
    )
    whole = experiment.run(config, workdir=tmp_path / "whole")
    stands = []
    while True:
        limits = {"resume": True, "deadline": EveryFourth()}
        try:
            result = experiment.run(config, workdir=tmp_path / "pieces", **limits)
            break
        except OutOfTime as pause:
            stands.append(str(pause).split("stands at ")[1])
    assert comparable(result) == comparable(whole)
    assert stands == [
        "step 20 of 20 of the kernel machine",
        "paper attacked at step 5",
        "paper attacked at step 20",
        "step 15 of 20 of the network lazy",
    ]


def test_the_example_in_the_documentation():
    assert doctest.testmod(_deadline) == (0, 1)

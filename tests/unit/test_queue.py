"""The queue as it is used: killed at any moment, packed, unpacked elsewhere, gone on with."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import queue_toy

import ntklab
from ntklab.__main__ import main

TOP = Path(ntklab.__file__).parents[1]


def child(*arguments, **settings) -> subprocess.Popen:
    """A process of its own on this checkout."""
    env = os.environ | {"PYTHONPATH": f"{TOP}{os.pathsep}{Path(__file__).parent}"}
    env |= {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=env, text=True, **settings)


def kill_at_random(folder: Path, moment: float) -> int:
    """Start or go on, kill -9 `moment` seconds after the first saved step; the exit status."""
    process = child(queue_toy.__file__, folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
        return process.wait(timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no kill -9")
def test_killed_packed_unpacked_elsewhere_and_resumed(tmp_path, capsys):
    whole = queue_toy.experiment().run(queue_toy.Toy(), workdir=tmp_path / "whole")
    # Where it was written to differs; what was written may not.
    choose, place = random.Random(), tmp_path / "toy-paper"
    for there in ("one", "two"):
        moment = choose.uniform(0, 0.4)
        assert kill_at_random(place, moment) == -9, f"after {moment} s"
        parts = str(tmp_path / there / "parts")
        assert main(["pack", str(place), "--out", parts, "--part-mib", "0.002"]) == 0
        assert main(["unpack", parts, "--to", str(tmp_path / there)]) == 0
        place = tmp_path / there / "toy-paper"
    begun = [p for p in place.glob("seed-*") if (p / "state.npz").exists()]
    resumed = queue_toy.experiment().run(queue_toy.SLOW, workdir=place, resume=True)
    assert begun and resumed.values == whole.values and resumed.curves == whole.curves
    assert "starts afresh" not in capsys.readouterr().err

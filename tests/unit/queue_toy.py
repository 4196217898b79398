"""An experiment of many small saved steps, to be killed at any moment by the tests of the queue.

As a program, `queue_toy.py FOLDER`, it runs or goes on, and says when the first step is saved.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntklab.papers import Experiment, SeedResult


@dataclass(frozen=True)
class Toy:
    """Arguments: seeds, steps of each seed, and the seconds that a step takes."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 15
    pause: float = 0.0


def measure(config, seed, checkpoints):
    """A chaotic recursion, so that one step too many or too few shows."""
    first = checkpoints.kept("start", lambda: {"x": 0.3 + seed / 10})
    state = checkpoints.load("state") or {"x": first["x"], "at": 0}
    x, at = float(state["x"]), int(state["at"])
    while at < config.steps:
        time.sleep(config.pause)
        x, at = 3.9 * x * (1 - x), at + 1
        checkpoints.save("state", x=x, at=at)
        print("saved", flush=True)
        checkpoints.deadline.check(f"step {at} of {config.steps}")
    return SeedResult({"x": x}, {"c": ([1.0], [x])}, ())


def prepare(config, checkpoints):
    """Two things that the seeds share."""
    return [float(checkpoints.kept(n, lambda: {"v": np.pi})["v"]) for n in "ab"]


def experiment(config=None) -> Experiment:
    """The experiment, whose presets are one config."""
    config = Toy() if config is None else config
    presets = dict.fromkeys(("quick", "book", "paper"), config)
    return Experiment("toy", "a recursion", presets, measure, prepare)


SLOW = Toy(pause=0.02)

if __name__ == "__main__":
    experiment().run(SLOW, workdir=Path(sys.argv[1]), resume=True)

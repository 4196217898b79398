"""What every experiment shares: the loop over seeds, checkpoints, and what a run returns."""

import hashlib
import io
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntklab import _common, ledger

_PACKAGE = Path(__file__).resolve().parents[1]


class SeedResult(NamedTuple):
    """What one seed of an experiment measured.

    Attributes:
      values: name -> number.
      curves: name -> `(x, y)`, two lists of equal length.
      data: what `describe` says of each data set that was read.
    """

    values: dict[str, float]
    curves: dict[str, tuple[list, list]]
    data: tuple[dict, ...]


class Result(NamedTuple):
    """What an experiment measured over its seeds.

    Attributes:
      seeds: the seeds.
      values: name -> one number a seed.
      curves: name -> `{"x": [...], "y": [[...] a seed]}`.
      data: descriptions of the data sets, over all seeds.
      seconds: wall time, without pauses between a kill and a resume.
      peak_memory_mib: the most memory that a process of the run held.
      commit: the code's commit when the first seed began; dirty if any seed's was.
      criteria: the claims whose criterion was the same at every seed, with its fingerprint.
    """

    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    curves: dict
    data: tuple[dict, ...]
    seconds: float
    peak_memory_mib: float
    commit: ledger.Commit
    criteria: dict[str, str]


class Checkpoints:
    """The state along the way of one seed: arrays in `.npz` files, written atomically.

    Wall time is kept with them, so that a resumed run reports the time of an undisturbed one.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._earlier = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of this seed so far, over all processes that worked on it."""
        return self._earlier + time.monotonic() - self._start

    def save(self, name: str, **arrays) -> None:
        """Keep arrays and numbers under a name, in place of what was there."""
        buffer = io.BytesIO()
        np.savez(buffer, _seconds=self.seconds, **arrays)
        _common.write_atomically(self._folder / f"{name}.npz", buffer.getvalue())

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under a name, or None."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            arrays = dict(file)
        spent = float(arrays.pop("_seconds"))
        if spent > self.seconds:
            self._earlier += spent - self.seconds
        return arrays


@dataclass(frozen=True)
class Experiment:
    """An experiment: a frozen dataclass of arguments, and what one seed of it measures.

    Attributes:
      name: name in `EXPERIMENTS` and on the command line.
      help: one line for `python -m ntklab list`.
      presets: size -> config; every config has a field `seeds`.
      measure: `measure(config, seed, checkpoints) -> SeedResult`.
    """

    name: str
    help: str
    presets: Mapping[str, Any]
    measure: Callable[[Any, int, Checkpoints], SeedResult]

    def run(self, config: Any, *, workdir: str | Path, resume: bool = False) -> Result:
        """Measure every seed of `config`.

        Args:
          config: a preset, or one changed with `dataclasses.replace`.
          workdir: folder for checkpoints; made where missing.
          resume: take up the checkpoints there instead of starting afresh.

        Returns:
          The values of all seeds; the same with and without a kill and a resume.

        Raises:
          ValueError: a measured number is NaN or infinite, or seeds disagree about the names.
        """
        code, commit = code_fingerprint(), ledger.commit_of_code()
        criteria = ledger.criteria_of(self.name)
        arguments = json.dumps([self.name, asdict(config) | {"seeds": None}, code])
        stamp = hashlib.sha256(arguments.encode()).hexdigest()
        begun = {"stamp": stamp, "commit": commit.name, "dirty": commit.dirty, "criteria": criteria}
        done = []
        for seed in _common.progress(config.seeds, self.name):
            folder = Path(workdir) / f"seed-{seed}"
            begun_here = _open(folder, begun, resume)
            finished = folder / "finished.json"
            if not finished.exists():
                _measure(self, config, seed, folder, begun_here, code)
            done.append(json.loads(finished.read_text(encoding="utf-8")))
        return _collect(tuple(config.seeds), done)


def describe(data, seed: int) -> dict:
    """What a record says of a data set: name, sizes, seed, classes, fingerprint, inexact images."""
    return {
        "name": data.name,
        "n_train": len(data.x_train),
        "n_test": len(data.x_test),
        "classes": list(data.classes),
        "seed": seed,
        "fingerprint": data.fingerprint,
        "inexact": data.inexact,
    }


def code_fingerprint() -> str:
    """SHA-256 over the package's Python files: what the values of a run depend on."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _open(folder: Path, begun: dict, resume: bool) -> dict:
    """Take up a seed's folder where that is wanted and allowed, else empty it; how it began."""
    mark = folder / "begun.json"
    if resume and mark.exists():
        earlier = json.loads(mark.read_text(encoding="utf-8"))
        if earlier["stamp"] == begun["stamp"]:
            return earlier
        print(
            f"{folder.name}: its checkpoints belong to another config or another state of the "
            "code, so this seed starts afresh.",
            file=sys.stderr,
        )
    shutil.rmtree(folder, ignore_errors=True)
    _common.write_json(mark, begun)
    return begun


def _measure(
    experiment: Experiment, config: Any, seed: int, folder: Path, begun: dict, code: str
) -> None:
    checkpoints = Checkpoints(folder)
    measured = experiment.measure(config, seed, checkpoints)
    bad = [n for n, v in measured.values.items() if not math.isfinite(v)]
    if bad:
        raise ValueError(
            f"{experiment.name}, seed {seed}: {', '.join(bad)} came out as NaN or infinite; "
            "that is an error, not a number."
        )
    changed = code_fingerprint() != code
    content = {
        "values": {n: float(v) for n, v in measured.values.items()},
        "curves": {n: [list(x), list(y)] for n, (x, y) in measured.curves.items()},
        "data": list(measured.data),
        "seconds": checkpoints.seconds,
        "peak_memory_mib": ledger.peak_memory_mib(),
        "commit": begun["commit"],
        # Modules load when first used: files edited meanwhile may or may not have taken part.
        "dirty": begun["dirty"] or changed,
        "criteria": begun["criteria"],
        "time": ledger.now(),
    }
    _common.write_json(folder / "finished.json", content)


def _collect(seeds: tuple[int, ...], done: list[dict]) -> Result:
    names = list(done[0]["values"])
    if any(list(d["values"]) != names for d in done):
        raise ValueError("The seeds of this experiment measured different values; it is broken.")
    first = min(done, key=lambda d: d["time"])
    commit = ledger.Commit(first["commit"], any(d["dirty"] for d in done))
    shared = set.intersection(*(set(d["criteria"].items()) for d in done))
    curves = {
        n: {"x": done[0]["curves"][n][0], "y": [d["curves"][n][1] for d in done]}
        for n in done[0]["curves"]
    }
    data = {json.dumps(entry, sort_keys=True): entry for d in done for entry in d["data"]}
    return Result(
        seeds,
        {n: tuple(d["values"][n] for d in done) for n in names},
        curves,
        tuple(data.values()),
        sum(d["seconds"] for d in done),
        max(d["peak_memory_mib"] for d in done),
        commit,
        dict(sorted(shared)),
    )

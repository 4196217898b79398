"""What every experiment shares: the loop over seeds, checkpoints, and what a run returns."""

import functools
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ntklab import _common, ledger
from ntklab._deadline import Deadline, OutOfTime
from ntklab.papers._checkpoints import Checkpoints, work_of
from ntklab.papers._cost import Cost

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
      notes: what the record must say of single seeds.
    """

    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    curves: dict
    data: tuple[dict, ...]
    seconds: float
    peak_memory_mib: float
    commit: ledger.Commit
    criteria: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """An experiment: a frozen dataclass of arguments, and what one seed of it measures.

    Attributes:
      name: name in `EXPERIMENTS` and on the command line.
      help: one line for `python -m ntklab list`.
      presets: size -> config; every config has a field `seeds`.
      measure: `measure(config, seed, checkpoints) -> SeedResult`.
      prepare: `prepare(config, checkpoints)`: what no seed changes, made once a run and handed to
        `measure` as `checkpoints.shared`. It must not read `config.seeds`, and must not be changed
        by `measure`. What takes long in it belongs in its checkpoints: a resume calls it again.
      cost: `cost(config) -> Cost`: operations of the whole run, all seeds, counted from the
        config; None where nobody counted.
    """

    name: str
    help: str
    presets: Mapping[str, Any]
    measure: Callable[[Any, int, Checkpoints], SeedResult]
    prepare: Callable[[Any, Checkpoints], Any] | None = None
    cost: Callable[[Any], Cost] | None = None

    def run(
        self,
        config: Any,
        *,
        workdir: str | Path,
        resume: bool = False,
        deadline: Deadline | None = None,
        state_mib: int | float | None = None,
    ) -> Result:
        """Measure every seed of `config`.

        Args:
          config: a preset, or one changed with `dataclasses.replace`.
          workdir: folder for checkpoints; made where missing.
          resume: take up the checkpoints there instead of starting afresh.
          deadline: when to stop, with everything saved. It is asked after each piece of work, so
            that every call gets on.
          state_mib: what a resumable state of a training may take, in MiB.

        Returns:
          The values of all seeds; the same with and without a kill and a resume.

        Raises:
          OutOfTime: the deadline is over; its message says what is done and what is left.
          ValueError: a measured number is NaN or infinite, or seeds disagree about the names.
        """
        seeds, code, commit = tuple(config.seeds), code_fingerprint(), ledger.commit_of_code()
        criteria = ledger.criteria_of(self.name)
        arguments = json.dumps([self.name, asdict(config) | {"seeds": None}, code])
        stamp = hashlib.sha256(arguments.encode()).hexdigest()
        begun = {"stamp": stamp, "commit": commit.name, "dirty": commit.dirty, "criteria": criteria}
        limits = {"deadline": deadline or Deadline(), "state_mib": state_mib}
        common, folders = _folders(Path(workdir), seeds, resume)

        @functools.cache
        def shared():
            """Made when the first seed that is not finished needs it."""
            if self.prepare is None:
                return None
            return _prepare(self, config, common, _open(common, begun, resume), code, limits)

        worked = False
        for done, folder in enumerate(_common.progress(folders, self.name)):
            begun_here = _open(folder, begun, resume)
            if _is_finished(folder):
                continue
            stands = f"{done} of {len(seeds)} seeds are done"
            if worked:
                limits["deadline"].check(stands)
            try:
                checkpoints = Checkpoints(folder, shared(), **limits)
                _measure(self, config, seeds[done], checkpoints, begun_here, code)
            except OutOfTime as pause:
                raise OutOfTime(f"{stands}, {folder.name} stands at {pause}") from None
            worked = True
        parts = [_read(common)] if self.prepare else []
        return _collect(seeds, [_read(folder) for folder in folders], parts)


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


def _folders(workdir: Path, seeds: tuple, resume: bool) -> tuple[Path, list[Path]]:
    """Of what the seeds share, and of each seed; emptied unless a run is to be taken up."""
    common, folders = workdir / "shared", [workdir / f"seed-{seed}" for seed in seeds]
    for folder in () if resume else (common, *folders):
        shutil.rmtree(folder, ignore_errors=True)
    return common, folders


def _open(folder: Path, begun: dict, resume: bool) -> dict:
    """Take up a seed's folder where that is wanted and allowed, else empty it; how it began."""
    mark = folder / "begun.json"
    if resume and mark.exists():
        earlier = json.loads(mark.read_text(encoding="utf-8"))
        if earlier["stamp"] == begun["stamp"]:
            return earlier
        print(
            f"{folder.name}: its checkpoints belong to another config or another state of the "
            "code, so it starts afresh.",
            file=sys.stderr,
        )
    shutil.rmtree(folder, ignore_errors=True)
    _common.write_json(mark, begun)
    return begun


def _is_finished(folder: Path) -> bool:
    return (folder / "finished.json").exists()


def _read(folder: Path) -> dict:
    """What is finished, with the work that went into it."""
    return json.loads((folder / "finished.json").read_text(encoding="utf-8")) | work_of(folder)


def _prepare(
    experiment: Experiment, config: Any, folder: Path, begun: dict, code: str, limits: dict
) -> Any:
    """What the seeds share; its provenance is kept from when it was first made."""
    checkpoints = Checkpoints(folder, **limits)
    try:
        shared = experiment.prepare(config, checkpoints)
    finally:
        checkpoints.keep_work()
    if not _is_finished(folder):
        _common.write_json(folder / "finished.json", _provenance(begun, code))
    return shared


def _measure(
    experiment: Experiment, config: Any, seed: int, checkpoints: Checkpoints, begun: dict, code: str
) -> None:
    try:
        measured = experiment.measure(config, seed, checkpoints)
    finally:
        checkpoints.keep_work()
    bad = [n for n, v in measured.values.items() if not math.isfinite(v)]
    if bad:
        raise ValueError(
            f"{experiment.name}, seed {seed}: {', '.join(bad)} came out as NaN or infinite; "
            "that is an error, not a number."
        )
    content = {
        "values": {n: float(v) for n, v in measured.values.items()},
        "curves": {n: [list(x), list(y)] for n, (x, y) in measured.curves.items()},
        "data": list(measured.data),
    }
    content |= _provenance(begun, code)
    _common.write_json(checkpoints.folder / "finished.json", content)


def _provenance(begun: dict, code: str) -> dict:
    """How a part of a run came about."""
    return {
        "commit": begun["commit"],
        # Modules load when first used: files edited meanwhile may or may not have taken part.
        "dirty": begun["dirty"] or code_fingerprint() != code,
        "criteria": begun["criteria"],
        "time": ledger.now(),
    }


def _collect(seeds: tuple[int, ...], done: list[dict], shared: list[dict]) -> Result:
    """One result of what the seeds left, and of what they share (one entry, or none)."""
    names = list(done[0]["values"])
    if any(list(d["values"]) != names for d in done):
        raise ValueError("The seeds of this experiment measured different values; it is broken.")
    parts = done + shared
    first = min(parts, key=lambda d: d["time"])
    commit = ledger.Commit(first["commit"], any(d["dirty"] for d in parts))
    criteria = set.intersection(*(set(d["criteria"].items()) for d in parts))
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
        sum(d["seconds"] for d in parts),
        max(d["peak_memory_mib"] for d in parts),
        commit,
        dict(sorted(criteria)),
        tuple(dict.fromkeys(note for d in parts for note in d["notes"])),
    )

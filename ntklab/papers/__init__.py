"""The experiments behind the book: `EXPERIMENTS[name].run(config, workdir=...)`.

    EXPERIMENTS: Mapping[str, Experiment]     names are free; a module loads when its entry is read
    Experiment: .name .help .presets .measure
        .presets: {"quick": config, "book": config, "paper": config}     frozen dataclasses
        .run(config, *, workdir, resume=False) -> Result
    Result: .seeds .values .curves .data .seconds .peak_memory_mib .commit .criteria
        .values: {"clean": (one number a seed), ...}      the names that criteria use
        .curves: {"eq8_by_eps": {"x": [...], "y": [[one list a seed]]}}      for figures
    record(name, size, *, workdir=None, resume=False) -> ntklab.ledger.Run
        runs the preset and adds provenance; `ntklab.ledger.store(run)` keeps it

`python -m ntklab run NAME --size SIZE [--resume]` is `record` and then, unless the size is quick,
`ledger.store`. `workdir` defaults to `.cache/runs/NAME-SIZE` in the current directory (git
ignores it).

A run is a loop over seeds. Each finished seed (and, in long trainings, the state along the way)
is written to `workdir` atomically. After a kill, `resume=True` takes up what is there and gives
the values of an undisturbed run. A checkpoint is used only when the config and the code of
the package are those that made it; otherwise that seed is computed again and a line says so.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from ntklab import ledger
from ntklab.papers._experiment import Checkpoints as Checkpoints
from ntklab.papers._experiment import Experiment as Experiment
from ntklab.papers._experiment import Result as Result
from ntklab.papers._experiment import SeedResult as SeedResult

_MODULES = {
    "chen-certificates": "chen.certificates",
    "tk-errata": "tsilivis_kempe.errata",
    "tk-mnist-training-free": "tsilivis_kempe.mnist",
    "tk-car-plane-training-free": "tsilivis_kempe.cars",
    "tk-transfer-two-layer": "tsilivis_kempe.transfer",
}


class _Experiments(Mapping):
    """Experiments by name. Listing the names imports nothing; reading an entry its module."""

    def __getitem__(self, name: str) -> Experiment:
        module = importlib.import_module(f"ntklab.papers.{_MODULES[name]}")
        return module.EXPERIMENT

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


EXPERIMENTS: Mapping[str, Experiment] = _Experiments()


def record(
    name: str, size: str, *, workdir: str | Path | None = None, resume: bool = False
) -> ledger.Run:
    """Run an experiment's preset and describe the run; `ledger.store` then keeps it.

    Args:
      name: one of `EXPERIMENTS`.
      size: `quick`, `book` or `paper`.
      workdir: folder for checkpoints; `.cache/runs/NAME-SIZE` where None.
      resume: take up the checkpoints in `workdir` instead of starting afresh.

    Returns:
      The run, not yet stored.

    Raises:
      ValueError: an unknown name or size.
      ledger.LedgerError: the record could not be stored afterwards, said before hours are spent.
    """
    config = _preset(name, size)
    if size in ledger.SIZES:
        ledger.folder(write=True)
    workdir = Path(workdir) if workdir is not None else Path(".cache", "runs", f"{name}-{size}")
    result = EXPERIMENTS[name].run(config, workdir=workdir, resume=resume)
    judged = ledger.criteria_of(name, size)
    return ledger.Run(
        experiment=name,
        size=size,
        criteria={id: mark for id, mark in result.criteria.items() if id in judged},
        seeds=result.seeds,
        values=result.values,
        curves=result.curves,
        config=asdict(config),
        data=result.data,
        **ledger.machine(),
        seconds=result.seconds,
        peak_memory_mib=result.peak_memory_mib,
        commit=result.commit.name,
        dirty=result.commit.dirty,
        time=ledger.now(),
        command=f"python -m ntklab run {name} --size {size}",
    )


def _preset(name: str, size: str):
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    presets = EXPERIMENTS[name].presets
    if size not in presets:
        raise ValueError(f"{name} has no size {size!r}; it has {', '.join(presets)}.")
    return presets[size]

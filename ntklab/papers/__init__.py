"""The experiments behind the book: `EXPERIMENTS[name].run(config, workdir=...)`.

    EXPERIMENTS: Mapping[str, Experiment]     names are free; a module loads when its entry is read
    Experiment: .name .help .presets .measure
        .presets: {"quick": config, "book": config, "paper": config}     frozen dataclasses
        .run(config, *, workdir, resume=False, deadline=None, state_mib=None) -> Result
        .cost(config) -> Cost: operations of the whole run, counted from the config
    Result: .seeds .values .curves .data .seconds .peak_memory_mib .commit .criteria .notes
        .values: {"clean": (one number a seed), ...}      the names that criteria use
        .curves: {"eq8_by_eps": {"x": [...], "y": [[one list a seed]]}}      for figures
    record(name, size, *, workdir=None, resume=False, deadline=None, state_mib=None)
        -> ntklab.ledger.Run: runs the preset, adds provenance; `ntklab.ledger.store(run)` keeps it
    missing(size) -> list[Missing]      what has not been run, oldest claim first, with its cost
    estimated_seconds(cost) -> {"T4": ..., "A100": ..., "H200": ...}

`python -m ntklab run NAME --size SIZE [--resume]` is `record` and then, unless the size is quick,
`ledger.store`. `workdir` defaults to `.cache/runs/NAME-SIZE` in the current directory (git
ignores it).

A run is a loop over seeds. Each finished seed (and, in long trainings, the state along the way)
is written to `workdir` atomically. After a kill, `resume=True` takes up what is there and gives
the values of an undisturbed run. A checkpoint is used only when the config and the code of
the package are those that made it; otherwise that seed is computed again and a line says so.

A run with a `deadline` stops at the first saved piece of work after it, by raising
`ntklab._deadline.OutOfTime`, and goes on with `resume=True`. However often that happens, the
values are those of an undisturbed run.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ntklab import ledger
from ntklab._deadline import Deadline
from ntklab.papers._cost import Cost as Cost
from ntklab.papers._cost import estimated_seconds as estimated_seconds
from ntklab.papers._cost import throughput
from ntklab.papers._experiment import Checkpoints as Checkpoints
from ntklab.papers._experiment import Experiment as Experiment
from ntklab.papers._experiment import Result as Result
from ntklab.papers._experiment import SeedResult as SeedResult

_MODULES = {
    "chen-certificates": "chen.certificates",
    "chen-networks": "chen.networks",
    "loo-cifar-fixed-kernel": "loo.cifar",
    "loo-toy-fixed-kernel": "loo.fixed_kernel",
    "loo-toy-fixed-kernel-linear": "loo.fixed_kernel:LINEAR",
    "loo-toy-kernel-evolution": "loo.evolution",
    "loo-toy-long-phase": "loo.long_phase",
    "loo-toy-masking": "loo.masking",
    "loo-toy-masking-robust-kernel": "loo.masking:ROBUST_KERNEL",
    "loo-toy-smooth-control": "loo.smooth",
    "loo-toy-soft-gate-training": "loo.soft_gate",
    "learning-curve": "simon.learning_curve",
    "loo-toy-training": "loo.toy",
    "robust-overfitting": "rice.robust_overfitting",
    "robust-overfitting-few": "rice.robust_overfitting:FEW",
    "single-step-overfitting": "wong.overfitting",
    "single-step-overfitting-longer": "wong.overfitting:LONGER",
    "tk-errata": "tsilivis_kempe.errata",
    "tk-gradient-clustering": "tsilivis_kempe.clustering",
    "tk-gradient-clustering-cars": "tsilivis_kempe.clustering:CARS",
    "tk-cifar-motion": "tsilivis_kempe.motion:CIFAR",
    "tk-mnist-motion": "tsilivis_kempe.motion",
    "tk-mnist-training-free": "tsilivis_kempe.mnist",
    "tk-car-plane-training-free": "tsilivis_kempe.cars",
    "tk-kernel-machines": "tsilivis_kempe.machines",
    "tk-linearised-training": "tsilivis_kempe.linearised_training",
    "tk-linearised-masking": "tsilivis_kempe.linearised_masking",
    "tk-linearised-collapse": "tsilivis_kempe.linearised_collapse",
    "tk-transfer-two-layer": "tsilivis_kempe.transfer",
    "tk-mnist-features": "tsilivis_kempe.feature_plane",
    "tk-car-plane-features": "tsilivis_kempe.feature_plane:CAR_PLANE",
    "tk-feature-selection": "tsilivis_kempe.feature_selection",
    "tk-feature-toy": "tsilivis_kempe.feature_toy:TOY",
    "tk-feature-draws": "tsilivis_kempe.feature_draws",
    "tk-features-10000": "tsilivis_kempe.feature_toy:LARGE",
}


class _Experiments(Mapping):
    """Experiments by name. Listing the names imports nothing; reading an entry its module."""

    def __getitem__(self, name: str) -> Experiment:
        module, _, attribute = _MODULES[name].partition(":")
        found = importlib.import_module(f"ntklab.papers.{module}")
        return getattr(found, attribute or "EXPERIMENT")

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


EXPERIMENTS: Mapping[str, Experiment] = _Experiments()


def record(
    name: str,
    size: str,
    *,
    workdir: str | Path | None = None,
    resume: bool = False,
    deadline: Deadline | None = None,
    state_mib: int | float | None = None,
) -> ledger.Run:
    """Run an experiment's preset and describe the run; `ledger.store` then keeps it.

    Args:
      name: one of `EXPERIMENTS`.
      size: `quick`, `book` or `paper`.
      workdir: folder for checkpoints; `.cache/runs/NAME-SIZE` where None.
      resume: take up the checkpoints in `workdir` instead of starting afresh.
      deadline: when to stop with everything saved.
      state_mib: what a resumable state of a training may take, in MiB.

    Returns:
      The run, not yet stored.

    Raises:
      OutOfTime: the deadline is over; the message says what is done and what is left.
      ValueError: an unknown name or size.
      ledger.LedgerError: the record could not be stored afterwards, said before hours are spent.
    """
    config = _preset(name, size)
    if size in ledger.SIZES:
        ledger.folder(write=True)
    workdir = Path(workdir) if workdir is not None else Path(".cache", "runs", f"{name}-{size}")
    experiment = EXPERIMENTS[name]
    result = experiment.run(
        config, workdir=workdir, resume=resume, deadline=deadline, state_mib=state_mib
    )
    cost = experiment.cost(config) if experiment.cost else None
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
        compute=throughput(cost, result.seconds, result.notes),
    )


class Missing(NamedTuple):
    """An experiment that has not been run at a size.

    Attributes:
      experiment: its name.
      claims: the claims that wait for it, in the order of the ledger.
      cost: operations of the run; None where nobody counted.
    """

    experiment: str
    claims: tuple[str, ...]
    cost: Cost | None


def missing(size: str) -> list[Missing]:
    """Experiments that no run at this size counts for, by the age of their oldest claim.

    Args:
      size: `book` or `paper`. The order of the rows in `claims.yaml` is their age.
    """
    waiting: dict[str, list[str]] = {}
    for verdict in ledger.verdicts(size=size):
        if verdict.run is None:
            waiting.setdefault(verdict.claim.experiment, []).append(verdict.claim.id)
    found = []
    for name, claims in waiting.items():
        experiment = EXPERIMENTS[name]
        known = experiment.cost is not None and size in experiment.presets
        cost = experiment.cost(experiment.presets[size]) if known else None
        found.append(Missing(name, tuple(claims), cost))
    return found


def _preset(name: str, size: str):
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    presets = EXPERIMENTS[name].presets
    if size not in presets:
        raise ValueError(f"{name} has no size {size!r}; it has {', '.join(presets)}.")
    return presets[size]

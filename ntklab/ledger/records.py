"""Run records: what was measured, with all that is needed to repeat it."""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from ntklab import _common
from ntklab.ledger.schema import SIZES, Claim, LedgerError, claims, folder

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One run of one experiment at one size, over all its seeds.

    Attributes:
      experiment: its name, as in `ntklab.papers.EXPERIMENTS`.
      size: `book` or `paper`; `quick` exists in tests and is never stored.
      criteria: claim id -> fingerprint of its criterion when the run began.
      seeds: the seeds, in the order of the values.
      values: name -> one finite number a seed.
      curves: name -> `{"x": [...], "y": [[...] a seed]}`, for figures.
      config: every argument of the experiment.
      data: `{"name", "seed", "fingerprint", ...}` of each data set that was read.
      device: processor or accelerator, in words.
      versions: library -> version.
      seconds: wall time over all seeds, without pauses between a kill and a resume.
      peak_memory_mib: the most memory the process held.
      commit: commit of the code, 40 hex digits, or `unknown`.
      dirty: the files differed from that commit: the record is shown and never counts.
      time: when the run ended, UTC, ISO 8601.
      command: the command that repeats it.
      compute: how fast it went, as far as known; empty in old records. `dtype`,
        `examples_per_second`, `flops_per_second`, `fraction_of_peak` (of a matrix product in that
        dtype on the same device), and `notes`: for instance that a seed went on from a state with
        momentum in fewer bits, and so is close to an undisturbed run and not equal to it.
      file: name of the record's file, once stored.
    """

    experiment: str
    size: str
    criteria: dict[str, str]
    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    curves: dict
    config: dict
    data: tuple[dict, ...]
    device: str
    versions: dict[str, str]
    seconds: float
    peak_memory_mib: float
    commit: str
    dirty: bool
    time: str
    command: str
    compute: dict = field(default_factory=dict)
    file: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The record's file name: experiment, size, commit, time, and `dirty` where it is."""
        stamp = re.sub(r"[^0-9TZ]", "", self.time)
        dirt = ".dirty" if self.dirty else ""
        return f"{self.experiment}.{self.size}.{self.commit[:12]}.{stamp}{dirt}.json"

    def counts_for(self, claim: Claim) -> bool:
        """Whether this run may judge `claim`: clean, and its criterion was this one."""
        return not self.dirty and self.criteria.get(claim.id) == claim.fingerprint


def now() -> str:
    """The time, UTC, to the second: `2030-01-31T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def criteria_of(experiment: str, size: str | None = None) -> dict[str, str]:
    """The claims that an experiment (at one size) judges, with their criteria's fingerprints."""
    rows = claims(experiment=experiment)
    return {c.id: c.fingerprint for c in rows if size is None or size in c.sizes}


def store(run: Run) -> Path:
    """Write a run into the ledger, atomically, beside the earlier ones.

    Args:
      run: the record; `run.criteria` names the claims it judges.

    Returns:
      The path of the new file.

    Raises:
      LedgerError: its size is quick, a number is not finite, a claim's value is missing, or a
        record of the same name exists.
    """
    if run.size not in SIZES:
        raise LedgerError(
            f"A run of size {run.size!r} never becomes a record; run it with --size book."
        )
    check(run)
    path = folder(write=True) / "runs" / run.name
    if path.exists():
        raise LedgerError(f"The record {path.name} exists, and records are never overwritten.")
    content = {"schema": SCHEMA, **asdict(run)}
    del content["file"]
    return _common.write_json(path, content)


def runs(experiment: str | None = None, size: str | None = None) -> tuple[Run, ...]:
    """The stored runs, oldest first; dirty ones are among them and say so.

    Raises:
      LedgerError: a record is damaged; one sentence names it.
    """
    found = [read(path) for path in sorted((folder() / "runs").glob("*.json"))]
    wanted = [r for r in found if experiment in (None, r.experiment) and size in (None, r.size)]
    return tuple(sorted(wanted, key=lambda r: (r.time, r.file)))


def read(path: Path) -> Run:
    """The run in one file.

    Raises:
      LedgerError: it is not a record of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise LedgerError(f"{path.name} has another schema than {SCHEMA}; run it again.")
        content["values"] = {k: tuple(map(float, v)) for k, v in content["values"].items()}
        content["seeds"] = tuple(content["seeds"])
        content["data"] = tuple(content["data"])
        run = replace(Run(**content), file=path.name)
    except LedgerError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerError(f"{path.name} is not a run record; restore it from git.") from error
    if run.name != path.name:
        raise LedgerError(f"{path.name} holds the record {run.name}; records are not renamed.")
    check(run)
    return run


def adopt(made: Path, to: Path) -> list[str]:
    """Bring records that another machine wrote into the ledger's folder of runs.

    Args:
      made: folder that holds the records and nothing else.
      to: the ledger's folder of runs, on the same disk.

    Returns:
      Names of the records that were new; those that were here already stay untouched.

    Raises:
      LedgerError: a file is no record, or one of its name is here with another content; then
        nothing is brought in.
    """
    found = sorted(made.iterdir())
    new = [path for path in found if not (to / path.name).exists()]
    for path in found:
        if path.is_dir() or path.suffix != ".json":
            raise LedgerError(f"{path.name} is no run record; unpack it with --to.")
        read(path)
        if path not in new and path.read_bytes() != (to / path.name).read_bytes():
            raise LedgerError(
                f"The record {path.name} is here with another content, and records are never "
                "overwritten."
            )
    for path in new:
        path.rename(to / path.name)
    return [path.name for path in new]


def check(run: Run) -> None:
    """Raise `LedgerError`, in one sentence, when a record is incomplete or not finite."""
    where = f"The record {run.name}"
    if not run.seeds or len(set(run.seeds)) != len(run.seeds):
        raise LedgerError(f"{where} needs at least one seed, and each only once.")
    for name, numbers in run.values.items():
        if len(numbers) != len(run.seeds):
            raise LedgerError(f"{where}: {name} has {len(numbers)} values, not one a seed.")
    empty = [f.name for f in fields(run) if f.name != "file" and getattr(run, f.name) == ""]
    if empty:
        raise LedgerError(f"{where} lacks {', '.join(empty)}.")
    for name in ("values", "curves", "config", "seconds", "peak_memory_mib", "compute"):
        bad = _not_finite(getattr(run, name), name)
        if bad:
            raise LedgerError(f"{where}: {bad} is NaN or infinite; that is an error, not a number.")
    known = {c.id: c for c in claims()}
    for id, fingerprint in run.criteria.items():
        claim = known.get(id)
        if claim is None or claim.fingerprint != fingerprint:
            continue  # the row was withdrawn or changed since; the record no longer judges it
        missing = [n for n in claim.names if n not in run.values]
        if missing:
            raise LedgerError(f"{where} lacks {', '.join(missing)}, which {id} needs.")


def _not_finite(value, name: str) -> str:
    """The path of the first number that is not finite, or an empty text."""
    if isinstance(value, float) and not math.isfinite(value):
        return name
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return ""
    return next((bad for k, v in items if (bad := _not_finite(v, f"{name}.{k}"))), "")

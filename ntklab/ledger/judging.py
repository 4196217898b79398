"""Verdicts, computed from criteria and runs; and the plain rows that tables show."""

import operator
from typing import NamedTuple

from ntklab.ledger.records import Run, runs
from ntklab.ledger.schema import SIZES, Claim, LedgerError, Predicate, claim, claims

REPRODUCED, PARTLY = "reproduced", "partly"
NOT_REPRODUCED, NOT_RUN = "not reproduced", "not run"

_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "within": lambda value, target: target[0] <= value <= target[1],
}


class Outcome(NamedTuple):
    """One predicate and whether it holds in a run.

    Attributes:
      predicate: the predicate.
      per_seed: the judged value, one number a seed.
      holds: whether the predicate holds.
    """

    predicate: Predicate
    per_seed: tuple[float, ...]
    holds: bool


class Verdict(NamedTuple):
    """What a claim has come to at one size.

    Attributes:
      claim: the claim.
      size: `book` or `paper`.
      verdict: `reproduced`, `partly`, `not reproduced` or `not run`.
      outcomes: one a predicate; empty when not run.
      run: the record that decided, or None.
      single_seed: the run had one seed, so it says nothing about spread.
    """

    claim: Claim
    size: str
    verdict: str
    outcomes: tuple[Outcome, ...]
    run: Run | None
    single_seed: bool

    def __str__(self) -> str:
        return self.verdict + (" (single seed)" if self.single_seed else "")


class Value(NamedTuple):
    """A measured value over seeds.

    Attributes:
      mean: mean over seeds.
      low: smallest.
      high: largest.
      per_seed: one number a seed.
      seeds: the seeds.
      run: the record it comes from.
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    seeds: tuple[int, ...]
    run: Run


def judge(claim: Claim, run: Run) -> tuple[Outcome, ...]:
    """Hold a run against a criterion, one outcome a predicate.

    Raises:
      LedgerError: the run lacks a value that the criterion names.
    """
    missing = [n for n in claim.names if n not in run.values]
    if missing:
        raise LedgerError(f"The run of {run.experiment} lacks {', '.join(missing)} ({claim.id}).")
    return tuple(Outcome(p, run.values[p.name], _holds(p, run.values)) for p in claim.criterion)


def _holds(predicate: Predicate, values: dict[str, tuple[float, ...]]) -> bool:
    compare = _COMPARE[predicate.op]
    measured = values[predicate.name]
    if isinstance(predicate.target, str):
        targets = values[predicate.target]
        if predicate.seeds == "mean":
            return compare(_mean(measured), _mean(targets))
    else:
        targets = (predicate.target,) * len(measured)
        if predicate.seeds == "mean":
            return compare(_mean(measured), predicate.target)
    return all(map(compare, measured, targets))


def verdict(id: str, size: str = "book") -> Verdict:
    """The verdict on one claim at one size: that of the newest run that counts.

    Raises:
      LedgerError: there is no such claim or size.
    """
    return _verdict(claim(id), _size(size), runs(size=size))


def verdicts(
    size: str | None = None, paper: str | None = None, chapter: str | None = None
) -> tuple[Verdict, ...]:
    """The verdicts on all claims, or those of one paper or chapter, in the order of the file.

    Args:
      size: `book`, `paper`, or None for every size that a claim is measured at.
      paper: key of the bibliography.
      chapter: page, as in `_toc.yml`.
    """
    sizes = SIZES if size is None else (_size(size),)
    records = runs()
    return tuple(
        _verdict(c, s, tuple(r for r in records if r.size == s))
        for c in claims(paper=paper, chapter=chapter)
        for s in sizes
        if s in c.sizes
    )


def _verdict(row: Claim, size: str, records: tuple[Run, ...]) -> Verdict:
    mine = [r for r in records if r.experiment == row.experiment and r.counts_for(row)]
    if not mine:
        return Verdict(row, size, NOT_RUN, (), None, False)
    newest = mine[-1]
    outcomes = judge(row, newest)
    held = sum(o.holds for o in outcomes)
    word = REPRODUCED if held == len(outcomes) else PARTLY if held else NOT_REPRODUCED
    return Verdict(row, size, word, outcomes, newest, len(newest.seeds) == 1)


def value(id: str, name: str, size: str = "book") -> Value:
    """A value that the deciding run of a claim measured, for prose.

    Args:
      id: the claim.
      name: the measured value; any of the run, not only those of the criterion.
      size: `book` or `paper`.

    Raises:
      LedgerError: the claim has not been run at this size, or nothing has this name.
    """
    run = verdict(id, size).run
    if run is None:
        experiment = claim(id).experiment
        raise LedgerError(
            f"{id} is not run at size {size}; `python -m ntklab run {experiment} --size {size}`."
        )
    if name not in run.values:
        raise LedgerError(f"{run.name} has no value {name!r}; it has {', '.join(run.values)}.")
    numbers = run.values[name]
    return Value(_mean(numbers), min(numbers), max(numbers), numbers, run.seeds, run)


def rows(
    chapter: str | None = None,
    paper: str | None = None,
    id: str | None = None,
    size: str | None = None,
) -> list[dict]:
    """The ledger as plain text, one dict a claim and size, for tables.

    Without `size`, a claim has one row for each size that was run, or a single row `not run`.

    Returns:
      dicts with the texts `id paper where statement kind reported source criterion measured
      verdict size seeds seconds device commit time command experiment chapter note`;
      `criterion` and `measured` hold one line a predicate.
    """
    found = [v for v in verdicts(size, paper, chapter) if id in (None, v.claim.id)]
    if size is None:
        ran = {v.claim.id for v in found if v.run}
        found = [
            v for v in found if v.run or (v.claim.id not in ran and v.size == v.claim.sizes[0])
        ]
    return [_row(v) for v in found]


def _row(v: Verdict) -> dict:
    c, run = v.claim, v.run
    row = {k: getattr(c, k) for k in ("id", "paper", "where", "statement", "kind")}
    reported = c.reported if isinstance(c.reported, str) else f"{c.reported:g}"
    row |= {"reported": reported, "source": c.source, "criterion": "\n".join(map(str, c.criterion))}
    row |= {"measured": "\n".join(map(_measured, v.outcomes)), "verdict": str(v), "size": v.size}
    row |= {"experiment": c.experiment, "chapter": c.chapter, "note": c.note}
    keys = ("seeds", "seconds", "device", "commit", "time")
    row |= dict.fromkeys(keys, "")
    row["command"] = f"python -m ntklab run {c.experiment} --size {v.size}"
    if run is not None:
        row |= {"device": run.device, "commit": run.commit, "time": run.time}
        row |= {"seeds": str(len(run.seeds)), "seconds": f"{run.seconds:.0f}"}
        row["command"] = run.command
    return row


def _measured(outcome: Outcome) -> str:
    numbers = outcome.per_seed
    text = f"{outcome.predicate.name} = {_mean(numbers):.4g}"
    if len(numbers) > 1:
        text += f" [{min(numbers):.4g}, {max(numbers):.4g}]"
    return text + ("" if outcome.holds else " (fails)")


def _mean(numbers: tuple[float, ...]) -> float:
    return sum(numbers) / len(numbers)


def _size(size: str) -> str:
    if size not in SIZES:
        raise LedgerError(f"size must be one of {', '.join(SIZES)}, got {size!r}.")
    return size

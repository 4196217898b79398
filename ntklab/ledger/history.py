"""Was the criterion there before the run? Asked of git, not of the records."""

import functools
import subprocess
from pathlib import Path

from ntklab.ledger.records import Run
from ntklab.ledger.schema import LedgerError, parse

_CLAIMS = "book/ledger/claims.yaml"


def late_criteria(top: Path, records: tuple[Run, ...]) -> list[str]:
    """Every way in which a clean record was not preceded by the criteria that it judges.

    The commit of a record must be part of the history of HEAD, and `claims.yaml` at that commit
    must hold each criterion with the fingerprint that the record carries. Then the commit that
    last changed the criterion is an ancestor of the run's commit, or is that commit.

    Args:
      top: a complete git checkout (a shallow one lacks the commits that are asked for).
      records: run records; dirty ones never count and are not asked about.

    Returns:
      One sentence a fault; empty when all is well.

    Raises:
      LedgerError: `top` is no complete checkout.
    """
    if _git(top, "rev-parse", "--is-shallow-repository") != "false":
        raise LedgerError(f"{top} is no complete git checkout; fetch its whole history first.")
    criteria = functools.cache(functools.partial(_criteria_at, top))
    faults = []
    for run in records:
        if run.dirty:
            continue
        if _git(top, "merge-base", "--is-ancestor", run.commit, "HEAD") is None:
            faults.append(f"{run.name}: its commit is not in the history of this checkout.")
            continue
        known = criteria(run.commit)
        faults += [
            f"{run.name}: the criterion of {id} was not committed before the run."
            for id, mark in run.criteria.items()
            if known.get(id) != mark
        ]
    return faults


def _criteria_at(top: Path, commit: str) -> dict[str, str]:
    text = _git(top, "show", f"{commit}:{_CLAIMS}")
    if text is None:
        return {}
    try:
        return {c.id: c.fingerprint for c in parse(text)}
    except LedgerError:
        return {}  # a file that does not parse commits to nothing


def _git(top: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails."""
    command = ["git", "-C", str(top), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LedgerError("git was not found; install it to read the history.") from None
    return done.stdout.strip() if done.returncode == 0 else None

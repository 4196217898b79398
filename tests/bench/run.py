"""`make bench`: our routines against their alternatives, side by side in one process.

Every `bench_*.py` beside this file has a function `pairs()` that yields `Pair`s. Both calls of a
pair run alternately, so that a busy machine slows both; the ratio is what counts, not the seconds.

    python tests/bench/run.py [WORDS]      only pairs whose name contains WORDS

A run of all pairs writes the table that the book's status page shows: `book/status/*`.
"""

import csv
import datetime
import importlib.metadata
import importlib.util
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
STATUS = ROOT / "book" / "status"
ROUNDS, SECONDS = 15, 20.0  # at most so many rounds, and about so much time, a pair


class Pair(NamedTuple):
    """Two ways to the same result.

    Attributes:
      name: what is computed, with its size.
      ours: the call under test.
      other: the alternative.
      at_most: the ratio ours / other that must not be exceeded; None where it is only shown.
      equal: takes both results and says whether they agree; None where that is tested elsewhere.
      note: what to know of the ratio, for the table.
      close: called when the pair has been measured.
    """

    name: str
    ours: Callable
    other: Callable
    at_most: float | None = None
    equal: Callable | None = None
    note: str = ""
    close: Callable | None = None


class Timing(NamedTuple):
    """Median seconds of both calls, and the median ratio of neighbouring calls."""

    ours: float
    other: float
    ratio: float
    rounds: int


def measure(pair: Pair, rounds: int = ROUNDS, seconds: float = SECONDS) -> Timing:
    """Time a pair after one warm-up call of each, which also compiles.

    Raises:
      AssertionError: the two results disagree.
    """
    results = [finish(pair.ours()), finish(pair.other())]
    if pair.equal is not None and not pair.equal(*results):
        raise AssertionError(f"{pair.name}: the two results differ, so their times say nothing.")
    times, end = [], time.perf_counter() + seconds
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() < end):
        calls = (pair.ours, pair.other)
        order = (0, 1) if len(times) % 2 == 0 else (1, 0)
        spent = [0.0, 0.0]
        for which in order:
            start = time.perf_counter()
            finish(calls[which]())
            spent[which] = time.perf_counter() - start
        times.append(spent)
    ours, other = zip(*times, strict=True)
    ratio = statistics.median(a / b for a, b in times)
    return Timing(statistics.median(ours), statistics.median(other), ratio, len(times))


def finish(result):
    """Wait for JAX, which answers before it has computed."""
    import jax

    return jax.block_until_ready(result)


def modules() -> Iterator:
    """The bench modules of this folder."""
    for path in sorted(FOLDER.glob("bench_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def main(words: str = "") -> int:
    """Measure all pairs and print a table; 1 where a ratio is over its bound."""
    sys.path[:0] = [str(ROOT), str(FOLDER)]
    sys.modules.setdefault("run", sys.modules[__name__])
    rows, slow = [], []
    print(f"{'what':70} {'ours':>10} {'other':>10} {'ratio':>8}  bound")
    for module in modules():
        for pair in module.pairs():
            if words in pair.name:
                row, ratio = measured_row(pair)
                rows.append(row)
                slow += [pair.name] if pair.at_most is not None and ratio > pair.at_most else []
            if pair.close is not None:
                pair.close()
    if not rows:
        print(f"No pair has {words!r} in its name." if words else "There is no bench_*.py yet.")
    elif not words:
        write_status(rows)
    for name in slow:
        print(f"over its bound: {name}")
    return int(bool(slow))


def measured_row(pair: Pair) -> tuple[list[str], float]:
    """One line of the table, printed as soon as it is known, and its ratio."""
    t = measure(pair)
    bound = "" if pair.at_most is None else f"{pair.at_most:.3g}"
    row = [pair.name, f"{t.ours:.4g}", f"{t.other:.4g}", f"{t.ratio:.3g}", bound, pair.note]
    print(f"{row[0]:70} {row[1]:>9}s {row[2]:>9}s {row[3]:>8}  {bound}", flush=True)
    return row, t.ratio


def write_status(rows: list[list[str]]) -> None:
    """The table and the sentence above it, for the book's status page."""
    from ntklab._common import write_atomically

    table = io.StringIO()
    head = ["What", "Ours, s", "Other, s", "Ratio", "At most"]
    lines = [[f"{what}; {note}" if note else what, *numbers] for what, *numbers, note in rows]
    csv.writer(table, lineterminator="\n").writerows([head, *lines])
    write_atomically(STATUS / "benchmarks.csv", table.getvalue())
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "neural-tangents")
    )
    text = (
        f"Measured on {datetime.date.today()} in one run of `make bench`: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}. "
        "Seconds are medians after a warm-up call; a ratio is the median over neighbouring calls.\n"
    )
    write_atomically(STATUS / "machine.txt", text)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))

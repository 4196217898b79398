"""Several ways to one result, timed side by side here; and what `make bench` measured."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ntklab._typing import Number


def side_by_side(
    ways: Mapping[str, Callable[[], Any]],
    *,
    equal: Callable[[Any, Any], bool] | None = None,
    rounds: int = 7,
    seconds: Number = 5.0,
):
    """Time calls that give the same result, one after the other in every round.

    Each is called once first, which compiles it, and the results of these calls are compared: times
    of ways that disagree say nothing. In a round every way is called once, in an order that
    turns, so that a machine that is busy for a while slows all of them. What counts is the ratio.

    Args:
      ways: name -> function without arguments; the first one is what the others are compared with.
      equal: `equal(first, other) -> bool`, whether two results agree; None where they need not.
      rounds: at most so many.
      seconds: no new round begins after so many, but three are made in any case.

    Returns:
      A pandas table, one row a way: `way`, `seconds` (median of the rounds), `ratio` to the first
      way (median over the rounds of the ratio in a round), and `rounds`.

    Raises:
      AssertionError: a result that `equal` refuses.
      ValueError: nothing to time, or fewer than one round.

    Cost: one call of each, then at most `rounds` calls of each.

    >>> table = side_by_side({"one": lambda: 1, "two": lambda: 1}, rounds=1)
    >>> list(table.columns), list(table.way), float(table.ratio[0])
    (['way', 'seconds', 'ratio', 'rounds'], ['one', 'two'], 1.0)
    """
    import pandas as pd

    if not ways or rounds < 1:
        raise ValueError("side_by_side needs a way to time and at least one round.")
    names = list(ways)
    first, *others = (jax.block_until_ready(ways[name]()) for name in names)
    for name, result in zip(names[1:], others, strict=True):
        if equal is not None and not equal(first, result):
            raise AssertionError(f"{name!r} and {names[0]!r} give different results.")
    del first, others  # their memory belongs to the calls that are timed
    times, end = [], time.perf_counter() + seconds
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() < end):
        turn = len(times) % len(names)
        spent = {name: _seconds(ways[name]) for name in names[turn:] + names[:turn]}
        times.append([spent[name] for name in names])
    columns = list(zip(*times, strict=True))
    ratios = [statistics.median(t[i] / t[0] for t in times) for i in range(len(names))]
    return pd.DataFrame(
        {
            "way": names,
            "seconds": [statistics.median(column) for column in columns],
            "ratio": ratios,
            "rounds": len(times),
        }
    )


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(way())
    return time.perf_counter() - start


def machine() -> str:
    """On what this process computes, in the words that belong beside a time.

    >>> machine().endswith(f"jax {jax.__version__}")
    True
    """
    device = jax.local_devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    parts = [
        f"{device.platform.upper()} ({platform.machine() or device.device_kind})"
        if device.platform == "cpu"
        else device.device_kind,
        f"{cores} core{'s' if cores != 1 else ''}",
        f"Python {platform.python_version()}",
        f"jax {jax.__version__}",
    ]
    if threads and device.platform == "cpu":
        parts.insert(2, f"OMP_NUM_THREADS={threads}")
    return ", ".join(parts)


_PACKAGE = Path(__file__).resolve().parents[1]


def benchmarks(words: str = ""):
    """The record of `make bench` that the status page shows, or those rows whose name has `words`.

    Args:
      words: part of the first column, such as the name of a network.

    Returns:
      A pandas table with the columns of `book/status/benchmarks.csv`. Its `attrs["machine"]` says
      on what, and when, the times were taken.

    Raises:
      FileNotFoundError: neither the checkout nor the installed package has the record.
      ValueError: no row has these words.
    """
    import pandas as pd

    folders = (_PACKAGE.parent / "book" / "status", _PACKAGE / "_status")
    found = [folder for folder in folders if (folder / "benchmarks.csv").is_file()]
    if not found:
        raise FileNotFoundError("There is no record of `make bench` here: run it in a checkout.")
    table = pd.read_csv(found[0] / "benchmarks.csv")
    chosen = table[table.iloc[:, 0].str.contains(words, regex=False)].reset_index(drop=True)
    if chosen.empty:
        raise ValueError(f"No row of the benchmarks has {words!r} in its name.")
    chosen.attrs["machine"] = (found[0] / "machine.txt").read_text(encoding="utf-8").strip()
    return chosen

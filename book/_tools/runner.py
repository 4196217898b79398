"""Run one chapter in a fresh kernel: show where it is, and measure what it costs."""

import datetime
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

TIMEOUT = 1200  # seconds a cell
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Asked of the kernel after the last cell. It sees the machine and the data that the chapter used.
_PROBE = """
def _ntklab_probe():
    import gc, json, os, platform, resource, sys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {"peak_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
              "python": platform.python_version(), "cores": os.cpu_count(), "data": {}}
    if "jax" in sys.modules:
        import jax
        device = jax.devices()[0]
        name = "CPU" if device.platform == "cpu" else device.device_kind
        report.update(jax=jax.__version__, device=name)
    if "ntklab.data" in sys.modules:
        for item in gc.get_objects():
            if isinstance(item, sys.modules["ntklab.data"].Dataset):
                report["data"][item.name] = item.fingerprint
    print(json.dumps(report))
_ntklab_probe()
del _ntklab_probe
"""


class ChapterError(Exception):
    """A chapter that did not run to its end: which cell, and why."""


class Progress:
    """One line that says which chapter and cell is running, and about how long is left."""

    def __init__(self, label: str, cells: int, expected: list[float] | None):
        """`expected` holds the seconds of each cell in an earlier run, if there was one."""
        self.label, self.cells = label, cells
        fits = expected is not None and len(expected) == cells
        self.expected = expected if fits else None
        self.start = self.printed = time.monotonic()

    def remaining(self, done: int) -> str:
        """The time left, from an earlier run's cells or else from the cells done so far."""
        if self.expected:
            return f"about {duration(sum(self.expected[done:]))} left"
        if done < 2:
            return "time left not known yet"
        spent = time.monotonic() - self.start
        return f"about {duration(spent / done * (self.cells - done))} left"

    def show(self, done: int) -> None:
        """Rewrite the line in a terminal; elsewhere print one at most every five seconds."""
        line = f"{self.label} · cell {done + 1} of {self.cells} · {self.remaining(done)}"
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)
        elif done == 0 or time.monotonic() - self.printed > 5:
            self.printed = time.monotonic()
            print(line, flush=True)

    def end(self, message: str) -> None:
        """Leave a last line."""
        start = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{start}{self.label} · {message}", flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: `40 s`, `3 min 20 s`."""
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 100 else f"{seconds // 60} min {seconds % 60:02d} s"


def run(notebook, folder: Path, progress: Callable, timeout: int | None = TIMEOUT) -> dict:
    """Execute `notebook` in place, in a kernel whose working directory is `folder`.

    Returns:
      The record of the run: seconds in all and a code cell, peak memory in MB of the kernel,
      versions, device and the data sets (name to fingerprint) that the chapter loaded.

    Raises:
      ChapterError: a cell failed, ran out of time, or took the kernel with it.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=40"],  # no advice about sockets on the reader's screen
    )
    started, seconds = time.monotonic(), []
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    with client.setup_kernel():
        for done, index in enumerate(code):
            progress(done)
            before = time.monotonic()
            _run_cell(client, notebook.cells[index], index, done + 1)
            seconds.append(round(time.monotonic() - before, 3))
        total = round(time.monotonic() - started, 1)
        report = _probe(client, notebook)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return report | {"seconds": total, "cell_seconds": seconds, "date": now}


def _run_cell(client, cell, index: int, count: int) -> None:
    first = next((line for line in cell.source.splitlines() if line.strip()), "(empty)")
    where = f"cell {count} ({first.strip()[:60]!r})"
    try:
        client.execute_cell(cell, index, execution_count=count)
    except CellTimeoutError as error:
        raise ChapterError(f"{where} ran longer than {client.timeout} s.") from error
    except DeadKernelError as error:
        raise ChapterError(f"{where} ended its kernel; most likely memory ran out.") from error
    except CellExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # the reader's, passed on by the terminal
            raise KeyboardInterrupt from error
        raise ChapterError(f"{where} failed.\n{_plain(error.traceback)}") from error


def _plain(traceback: str) -> str:
    """The end of a traceback, without colours."""
    return "\n".join(_COLOUR.sub("", traceback).splitlines()[-25:])


def _probe(client, notebook) -> dict:
    cell = nbformat.v4.new_code_cell(_PROBE)
    notebook.cells.append(cell)
    try:
        client.execute_cell(cell, len(notebook.cells) - 1, store_history=False)
    finally:
        notebook.cells.pop()
    return json.loads(cell.outputs[-1]["text"])

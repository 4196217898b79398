"""The check: rows are measured, printed and written one by one until all are or time is over."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ntklab._common import float64, write_json
from ntklab._deadline import Deadline
from ntklab._memory import available_bytes
from ntklab.gpu_check import plan
from ntklab.gpu_check.rows import Peaks, Row, finished, header, line, number
from ntklab.gpu_check.timing import complaint, timed

MINUTES = 8.0
#: Seconds of repetitions a row, by whether the run is quick.
ENOUGH = {False: 0.6, True: 0.15}
#: CIFAR-10, and what PGD-10 on ResNet-18 is measured by.
EPOCH, EPOCHS, TARGET_MINUTES = 50_000, 200, 20
#: Seconds an epoch at 790 TFLOP/s, the dense bfloat16 speed of one H200.
LIMIT = 1.6
_QUICK = (
    "Quick version: its sizes are small, and its times say nothing of the full sizes, nor of a GPU."
)


def check(
    quick: bool = False,
    minutes: float | None = MINUTES,
    out: str | Path | None = None,
    show: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Measure this device, and say what it makes of its peak.

    Args:
      quick: use small sizes, which take seconds; always so on a CPU.
      minutes: after which no further row is begun; None for as long as it takes.
      out: a JSON file, written anew after every row.
      show: takes each line of the table as soon as it is known.

    Returns:
      What the file holds: `device`, `jax`, `quick`, `peaks` in FLOP/s and bytes/s, `rows`,
      `not_measured`, `summary`, `finished`.

    Raises:
      ValueError: negative minutes.
      OSError: `out` cannot be written.
    """
    device, deadline = jax.devices()[0], Deadline(minutes)
    quick = quick or device.platform == "cpu"
    sizes = plan.QUICK if quick else plan.FULL
    record = _begun(device, quick)
    _write(out, record)  # an unwritable file is found now, not after the measurements
    for text in (*_machine(record), header()):
        show(text)
    peaks, rows, left = Peaks(), [], []
    for task in plan.tasks(sizes, available_bytes(device)):
        if rows and deadline.over():
            left.append(f"{task.row.what}, {task.row.size}")
            continue
        row = _measured(task, peaks, ENOUGH[quick])
        rows.append(row)
        show(line(row))
        _write(out, _filled(record, rows, peaks, left, False))
    record = _filled(record, rows, peaks, left, True)
    _write(out, record)
    for text in ("", *record["summary"]):
        show(text)
    return record


def _measured(task: plan.Task, peaks: Peaks, enough: float) -> Row:
    """The row with its time, or with one sentence that says why it has none."""
    digits = float64() if task.row.dtype == "float64" else contextlib.nullcontext()
    try:
        # Flax mixes dtypes by itself in bfloat16; a caller may have forbidden that.
        with digits, jax.numpy_dtype_promotion("standard"):
            timing = timed(task.build(), enough)
    except Exception as error:  # whatever a device says: the other rows go on
        return task.row._replace(note=complaint(error))
    row = finished(task.row, timing, peaks)
    if not task.peak:
        return row
    peaks.learn(row)
    return finished(row, timing, peaks)


def _begun(device: Any, quick: bool) -> dict[str, Any]:
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "flags": os.environ.get("XLA_FLAGS", ""),
        "quick": quick,
    }


def _machine(record: dict[str, Any]) -> list[str]:
    """What is measured, and with which sizes."""
    flags = f", XLA_FLAGS={record['flags']}" if record["flags"] else ""
    lines = [f"{record['device']} ({record['platform']}), jax {record['jax']}{flags}"]
    if record["devices"] > 1:
        lines.append(f"The first of {record['devices']} devices is measured.")
    if record["platform"] == "cpu":
        lines.append(
            "JAX sees no accelerator; `python -m ntklab doctor` says why where there is one."
        )
    return [*lines, _QUICK] if record["quick"] else lines


def _filled(record: dict, rows: list[Row], peaks: Peaks, left: list[str], done: bool) -> dict:
    return {
        **record,
        "peaks": dict(peaks),
        "rows": [row.as_json() for row in rows],
        "not_measured": list(left),
        "summary": summary(rows, peaks, left),
        "finished": done,
    }


def _write(out: str | Path | None, record: dict[str, Any]) -> None:
    if out is not None:
        write_json(out, record)


def summary(rows: list[Row], peaks: Peaks, left: list[str]) -> list[str]:
    """Peaks, seconds an epoch of adversarial training, and what was left out, in sentences."""
    found = [f"{speed / 1e12:.3g} TFLOP/s {d}" for d, speed in peaks.items() if d != "memory"]
    if "memory" in peaks:
        found.append(f"{peaks['memory'] / 1e9:.4g} GB/s copied")
    lines = [f"Peaks measured: {', '.join(found) or 'none'}.", epoch_sentence(rows)]
    failed = [row for row in rows if row.seconds is None]
    if failed:
        lines.append(f"{len(failed)} of {len(rows)} rows have no time; each says why.")
    if left:
        lines.append(f"Not measured, since the minutes were over: {'; '.join(left)}.")
    return lines


def epoch_sentence(rows: list[Row]) -> str:
    """Seconds an epoch of PGD-10 on ResNet-18, beside limit and target."""
    name = "ResNet-18, PGD-10 step"
    rates = {row.size: row.rate for row in rows if row.what == name and row.rate}
    target = 60 * TARGET_MINUTES / EPOCHS
    bounds = (
        f"limit {LIMIT} s (790 TFLOP/s), target {number(target)} s "
        f"({EPOCHS} epochs in {TARGET_MINUTES} minutes)"
    )
    if not rates:
        return f"PGD-10 on ResNet-18 was not measured; {bounds}."
    size = max(rates, key=rates.get)
    seconds = EPOCH / rates[size]
    verdict = "met" if seconds <= target else "missed"
    return (
        f"PGD-10 on ResNet-18: {number(seconds)} s for an epoch of {EPOCH:,} images "
        f"({size}), {number(seconds * EPOCHS / 60)} minutes for {EPOCHS}; {bounds}: target "
        f"{verdict}."
    )

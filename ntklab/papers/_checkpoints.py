"""The state along the way of one seed, and the time and memory that went into it."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ntklab import _common, ledger
from ntklab._deadline import Deadline


class Checkpoints:
    """The state along the way of one seed: arrays in `.npz` files, written atomically.

    The time of all processes that worked on the seed is kept with them: what was done twice, such
    as a set-up that a resume repeats, counts twice; what a kill threw away after the last save, and
    pauses, do not count.

    Attributes:
      folder: where they are.
      shared: what the experiment's `prepare` returned; None where it has none.
      deadline: to be asked in long loops, after a save: `deadline.check("step 500 of 1,000")`.
      state_mib: what a resumable state may take, for `ntklab._compact`; None without a limit.
      notes: what the record must say of this seed.
    """

    def __init__(
        self,
        folder: Path,
        shared: Any = None,
        deadline: Deadline | None = None,
        state_mib: int | float | None = None,
    ):
        self.folder = Path(folder)
        self.shared = shared
        self.deadline = Deadline() if deadline is None else deadline
        self.state_mib = state_mib
        before = work_of(self.folder)
        self.notes = list(before["notes"])
        self._seconds, self._memory = before["seconds"], before["peak_memory_mib"]
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of this seed so far, over all processes that worked on it."""
        return self._seconds + time.monotonic() - self._start

    def save(self, name: str, **arrays) -> None:
        """Keep arrays and numbers under a name, in place of what was there."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        _common.write_atomically(self.folder / f"{name}.npz", buffer.getvalue())
        self.keep_work()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under a name, or None."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return dict(file)

    def kept(self, name: str, compute: Callable[[], dict]) -> dict[str, np.ndarray]:
        """What is kept under a name; where nothing is, `compute()`, which is kept from then on.

        Args:
          name: of the file, and of the place where the work stands when the time is up.
          compute: arrays and numbers by name.

        Raises:
          OutOfTime: it was computed and saved, and the time is up.
        """
        known = self.load(name)
        if known is None:
            known = {n: np.asarray(v) for n, v in compute().items()}
            self.save(name, **known)
            self.deadline.check(name)
        return known

    def note(self, text: str) -> None:
        """Have the record say something of this seed, once."""
        if text not in self.notes:
            self.notes.append(text)
        self.keep_work()

    def keep_work(self) -> None:
        """Write down time, memory and notes so far."""
        work = {
            "seconds": self.seconds,
            "peak_memory_mib": max(self._memory, ledger.peak_memory_mib()),
            "notes": self.notes,
        }
        _common.write_json(self.folder / "work.json", work)


def work_of(folder: Path) -> dict:
    """Seconds, memory and notes of a folder of checkpoints, over all processes so far."""
    path = folder / "work.json"
    if not path.exists():
        return {"seconds": 0.0, "peak_memory_mib": 0.0, "notes": []}
    return json.loads(path.read_text(encoding="utf-8"))

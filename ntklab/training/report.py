"""What a person sees while a network trains: progress, and one sentence when something is wrong."""

import contextlib
import sys
import time
import warnings
from typing import Any

import numpy as np

from ntklab._typing import Number


class Diverged(RuntimeError):
    """The loss became NaN or infinite; the state of the last checkpoint is kept."""


class Progress:
    """A bar with loss, accuracy and time left where somebody watches, else a line in ten seconds.

    Args:
      total: steps in all.
      done: steps made before.
      label: name of the bar.
      shown: whether anything is shown.
    """

    def __init__(self, total: int, done: int, label: str, shown: bool):
        self.total, self.label, self.shown = total, label, shown
        self.first, self.start = done, time.monotonic()
        self.last, self.bar = self.start, None
        if shown and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(desc=label, total=total, initial=done)

    @property
    def due(self) -> bool:
        """Whether it is time to look at the numbers, which makes the device finish."""
        wait = 1.0 if self.bar is not None else 10.0
        return time.monotonic() - self.last >= wait

    def show(self, done: int, numbers: dict[str, Any]) -> None:
        """Say how far the run is, and its numbers."""
        self.last = time.monotonic()
        if not self.shown:
            return
        words = ", ".join(f"{name} {np.mean(value):.3g}" for name, value in numbers.items())
        if self.bar is not None:
            self.bar.set_postfix_str(words, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        rate = (self.last - self.start) / max(1, done - self.first)
        left = f"about {rate * (self.total - done):.0f} s left"
        print(
            f"{self.label}: {done} of {self.total} steps, {words}, {left}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


#: Steps in which a constant predictor is no longer a network at its beginning.
_LONG = 20


class Watch:
    """Looks at each row of metrics, and says once, in one sentence, that a run has gone wrong.

    Args:
      labels: of the training set; a data set of one class makes no collapse.
    """

    def __init__(self, labels: Any):
        counts = np.bincount(np.asarray(labels).astype(int))
        self.share = counts.max() / counts.sum()
        self.told: set[str] = set()
        self.constant = 0
        self.first_norm: float | None = None

    def predictions(self, epoch: Number, constant: Any, steps: int) -> str | None:
        """A sentence when each batch was given to one class, nearly whole, for 20 steps or more.

        Args:
          epoch: of the row.
          constant: fraction of a batch given to the class that gets most, mean over the row's
            steps, `()` or `(seeds,)`.
          steps: of the row.
        """
        most = float(np.max(constant))
        flat = most >= max(0.99, min(1.0, self.share + 0.05))
        self.constant = self.constant + steps if flat else 0
        if self.constant < _LONG:
            return None
        return self._tell(
            "collapse",
            f"epoch {epoch:g}: the network gives one class to {100 * most:.1f} % of each batch, so "
            "it has collapsed to a constant; lower the learning rate or eps, or train on clean "
            "examples too (DoubleStep).",
        )

    def kernel(self, epoch: Number, norm: float) -> str | None:
        """A sentence when the kernel's norm has fallen below a twentieth of its first value."""
        if self.first_norm is None:
            self.first_norm = norm
        if norm >= 0.05 * self.first_norm:
            return None
        return self._tell(
            "kernel",
            f"epoch {epoch:g}: the kernel's norm has vanished, from {self.first_norm:.3g} to "
            f"{norm:.3g}; units have died, lower the learning rate or eps.",
        )

    def _tell(self, kind: str, sentence: str) -> str | None:
        if kind in self.told:
            return None
        self.told.add(kind)
        warnings.warn(sentence, RuntimeWarning, stacklevel=4)
        return sentence

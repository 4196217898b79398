"""Minutes that a run may take, asked between two steps of its work."""

import math
import time


class OutOfTime(RuntimeError):
    """The minutes are over and everything is saved; the message says where the work stands."""


class Deadline:
    """A moment after which long work stops, saves and goes on at the next call.

    Who asks it asks *after* a unit of work has been saved. So every call gets on by one unit, and
    a run comes to its end however few the minutes are.

    Args:
      minutes: from now; 0 for one unit of work, None for as long as it takes.

    Raises:
      ValueError: negative minutes or NaN.

    >>> Deadline(None).over(), Deadline(0).over(), Deadline(None).left()
    (False, True, inf)
    """

    def __init__(self, minutes: int | float | None = None):
        if minutes is not None and not minutes >= 0:
            raise ValueError(f"minutes must be a number of at least 0, got {minutes}.")
        self.minutes = minutes
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds until the moment; 0 after it, infinity where there is none."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._end

    def check(self, stands: str) -> None:
        """Raise `OutOfTime` when the moment has come.

        Args:
          stands: where the work stands, without a full stop: `"step 500 of 1,000"`.
        """
        if self.over():
            raise OutOfTime(stands)

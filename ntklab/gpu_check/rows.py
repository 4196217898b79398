"""The table: a row a measurement, each beside the least time that the device needs for it."""

from typing import Any, NamedTuple

from ntklab.gpu_check.counts import Cost
from ntklab.gpu_check.timing import Timing


class Row(NamedTuple):
    """One measurement.

    Attributes:
      what: is computed.
      size: in words: batch, shape of an image, dtype.
      dtype: of the numbers that are multiplied; with " highest" where no digits are dropped.
      images: that a call takes; 0 where it takes none.
      flops: of a call, by hand.
      traffic: bytes of a call, by hand; 0 where they are not counted.
      seconds: of a call; None where there is no time.
      compilation: seconds.
      xla_flops: of a call, or None.
      xla_traffic: bytes that the compiled program's operations access, or None.
      compute_floor: `flops` at the measured peak, in seconds; None where there is no peak.
      memory_floor: `traffic` at the measured bandwidth, in seconds.
      note: why there is no time, or what to know of it.
    """

    what: str
    size: str
    dtype: str
    images: int
    flops: float
    traffic: float
    seconds: float | None = None
    compilation: float | None = None
    xla_flops: float | None = None
    xla_traffic: float | None = None
    compute_floor: float | None = None
    memory_floor: float | None = None
    note: str = ""

    @property
    def floor(self) -> float | None:
        """The least seconds that the device needs: the larger of both floors."""
        floors = [f for f in (self.compute_floor, self.memory_floor) if f]
        return max(floors) if floors else None

    @property
    def fraction(self) -> float | None:
        """Of the roofline that is reached, 1 at best."""
        return self.floor / self.seconds if self.floor and self.seconds else None

    @property
    def rate(self) -> float | None:
        """Images a second, else None."""
        return self.images / self.seconds if self.images and self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """All of it, with what follows from it."""
        derived = {"images_per_second": self.rate, "fraction_of_roofline": self.fraction}
        return {**self._asdict(), **derived}


class Peaks(dict):
    """What the device was measured to do: dtype -> FLOP/s, and "memory" -> bytes/s."""

    def learn(self, row: Row) -> None:
        """Take the peak of a matrix product, or the bandwidth of a copy, from its row."""
        if row.seconds and row.flops:
            self[row.dtype] = max(self.get(row.dtype, 0.0), row.flops / row.seconds)
        elif row.seconds:
            self["memory"] = row.traffic / row.seconds

    def floors(self, cost: Cost, dtype: str) -> tuple[float | None, float | None]:
        """Seconds for the FLOPs, and for the bytes; None where the peak is unknown."""
        peak, bandwidth = self.get(dtype), self.get("memory")
        compute = cost.flops / peak if peak and cost.flops else None
        return compute, cost.traffic / bandwidth if bandwidth and cost.traffic else None


def finished(row: Row, timing: Timing, peaks: Peaks) -> Row:
    """The row with its time and its rooflines."""
    seconds, compilation, flops, traffic = timing
    compute, memory = peaks.floors(Cost(row.flops, row.traffic), row.dtype)
    return row._replace(
        seconds=seconds,
        compilation=compilation,
        xla_flops=flops,
        xla_traffic=traffic,
        compute_floor=compute,
        memory_floor=memory,
    )


#: Heads of the table, and how wide each column is.
COLUMNS = (
    ("what", 28),
    ("size", 35),
    ("time", 9),
    ("images/s", 9),
    ("GFLOP", 9),
    ("by XLA", 9),
    ("TFLOP/s", 8),
    ("compute", 9),
    ("memory", 9),
    ("roofline", 8),
)


def header() -> str:
    """The head of the table, and what stands in its columns."""
    return (
        "GFLOP: by hand, a call; by XLA: its cost analysis. compute, memory: the least time at the "
        "measured peak\nand bandwidth. roofline: the larger of both over the time.\n\n"
        + _line([name for name, _ in COLUMNS])
    )


def line(row: Row) -> str:
    """One row of the table."""
    if row.seconds is None:
        return f"{_line([row.what, row.size]).rstrip()}  {row.note}"
    speed = row.flops / row.seconds / 1e12 if row.flops else None
    cells = [
        row.what,
        row.size,
        duration(row.seconds),
        number(row.rate),
        number(row.flops / 1e9 or None),
        number(row.xla_flops and row.xla_flops / 1e9),
        number(speed),
        duration(row.compute_floor),
        duration(row.memory_floor),
        f"{100 * row.fraction:.0f} %" if row.fraction else "-",
    ]
    return f"{_line(cells)}  {row.note}".rstrip()


def _line(cells: list[str]) -> str:
    padded = (
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, (_, width)) in enumerate(zip(cells, COLUMNS, strict=False))
    )
    return "  ".join(padded)


def number(value: float | None) -> str:
    """Three digits.

    >>> number(1234.5), number(0.01234), number(98765432.0), number(None)
    ('1,230', '0.0123', '98,800,000', '-')
    """
    if value is None:
        return "-"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as people read them.

    >>> duration(0.0123), duration(3.2e-5), duration(12.0), duration(None)
    ('12.3 ms', '32 us', '12 s', '-')
    """
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * scale or unit == "us":
            return f"{number(seconds / scale)} {unit}"
    raise AssertionError("every duration has a unit")

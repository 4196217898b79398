"""What an evaluation found. No robust number leaves this module without its warning flags."""

import html
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ntklab.attacks._flags import Flag


class RobustnessWarning(UserWarning):
    """A robust number is used as a plain number although a warning flag is raised."""


class Row(NamedTuple):
    """One attack of an evaluation.

    Attributes:
      attack: its name.
      norm: name of the norm.
      eps: radius, in the units of the bounds; 0 for the clean row.
      steps: gradient steps of a restart; 0 where there are none.
      restarts: runs of the attack.
      gradients: input gradients spent on each example.
      queries: forward passes spent on each example by an attack without gradients.
      tested: examples that it was run on.
      accuracy: share of all examples that it left correct.
      seconds: wall time, compilation included.
    """

    attack: str
    norm: str
    eps: float
    steps: int
    restarts: int
    gradients: int
    queries: int
    tested: int
    accuracy: float
    seconds: float


class WorstCase(NamedTuple):
    """Every example under the attack that broke it first, with the flags of the evaluation.

    Attributes:
      robust: whether the example is classified correctly under every attack, `(n,)`.
      broken_by: index of the first attack that broke it, in the order of the rows (0 is the clean
        row), -1 where none did, `(n,)`.
      x_adv: the input with which it was broken; the clean one where it was not, `(n, ...)`.
      flags: names of the raised flags.
    """

    robust: np.ndarray
    broken_by: np.ndarray
    x_adv: np.ndarray
    flags: tuple[str, ...]


@dataclass(frozen=True)
class RobustAccuracy:
    """A robust accuracy and its flags, in one piece.

    `str` and formats write both. `with_flags()` gives the number and the names of the raised flags.
    `float` gives the number alone, and issues a `RobustnessWarning` when a flag is raised.
    """

    _value: float
    threat: str
    flags: tuple[str, ...]

    def with_flags(self) -> tuple[float, tuple[str, ...]]:
        """The number, and the names of the raised flags."""
        return self._value, self.flags

    def __float__(self) -> float:
        """The number alone, with a warning when flags are raised."""
        if self.flags:
            warnings.warn(
                f"This robust accuracy has raised flags ({', '.join(self.flags)}): the truth may "
                "be far lower. with_flags() gives the number without this warning.",
                RobustnessWarning,
                stacklevel=2,
            )
        return self._value

    def __format__(self, spec: str) -> str:
        """The number in the format given, then threat and flags in brackets."""
        flags = "FLAGS: " + ", ".join(self.flags) if self.flags else "no flags"
        return f"{format(self._value, spec or '.3f')} [{self.threat}; {flags}]"

    def __str__(self) -> str:
        return format(self)

    __repr__ = __str__


@dataclass(frozen=True)
class RobustnessReport:
    """Result of `evaluate_robustness`: a table, the worst case per example, and warning flags.

    Printed, or shown in a notebook, it gives all three. As data:

    * `accuracy`: a `RobustAccuracy`, the number with its flags; `clean` the clean accuracy.
    * `table`: a list of dicts, one a row, each with the raised flags beside its accuracy;
      `pandas.DataFrame(report.table)` reads it. The first row is clean, the second random noise.
    * `worst_case`: a `WorstCase`, arrays with one entry an example.
    * `flags`: every check as a `Flag(name, raised, text)`; `raised` the names of the raised ones.
    """

    rows: tuple[Row, ...]
    flags: tuple[Flag, ...]
    bounds: tuple[float, float]
    _worst: tuple[np.ndarray, np.ndarray]

    @property
    def raised(self) -> tuple[str, ...]:
        """Names of the raised flags."""
        return tuple(f.name for f in self.flags if f.raised)

    @property
    def clean(self) -> float:
        """Share of the examples that are classified correctly without an attack."""
        return self.rows[0].accuracy

    @property
    def eps(self) -> float:
        """Radius of the ball."""
        return self.rows[1].eps

    @property
    def accuracy(self) -> RobustAccuracy:
        """Share of the examples that no attack broke, with the flags."""
        attacks, norm = len(self.rows) - 2, self.rows[0].norm
        threat = f"{norm}, eps {self.eps:.4g}, worst of {attacks} attacks"
        return RobustAccuracy(float((self._worst[0] < 0).mean()), threat, self.raised)

    @property
    def worst_case(self) -> WorstCase:
        """Every example under the attack that broke it first, with the flags."""
        broken_by, x_adv = self._worst
        return WorstCase(broken_by < 0, broken_by, x_adv, self.raised)

    @property
    def table(self) -> list[dict]:
        """One dict a row, with the raised flags beside the accuracy; the clean row has none."""
        flags = ", ".join(self.raised)
        return [{**row._asdict(), "flags": flags if i else ""} for i, row in enumerate(self.rows)]

    def __str__(self) -> str:
        lines = [self._headline(), *_table_lines(self.rows), self._verdict()]
        return "\n".join([*lines, *(f"  {_mark(f)} {f.name}: {f.text}" for f in self._sorted())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
        body = "".join(_html_row(row) for row in self.rows)
        checks = "".join(
            f"<li>{html.escape(f'{_mark(f)} {f.name}: {f.text}')}</li>" for f in self._sorted()
        )
        role = ' role="alert"' if self.raised else ""
        return (
            '<div class="ntklab-table" role="region" aria-label="robustness report" tabindex="0">'
            f"<p><strong>{html.escape(self._headline())}</strong></p><table>"
            f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
            f"<p{role}><strong>{html.escape(self._verdict())}</strong></p><ul>{checks}</ul></div>"
        )

    def _headline(self) -> str:
        low, high = self.bounds
        return (
            f"robust accuracy {self.accuracy} on {len(self._worst[0])} examples; clean "
            f"{self.clean:.3f}; bounds ({low:g}, {high:g})"
        )

    def _verdict(self) -> str:
        missing = sum(f.raised is None for f in self.flags)
        left = f", {missing} could not be made" if missing else ""
        if not self.raised:
            return f"{len(self.flags) - missing} checks passed{left}:"
        return f"WARNING: {len(self.raised)} of {len(self.flags)} checks raised a flag{left}:"

    def _sorted(self) -> list[Flag]:
        """Raised flags first, then what could not be checked, then what passed."""
        return sorted(self.flags, key=lambda f: {True: 0, None: 1, False: 2}[f.raised])


_COLUMNS = ("attack", "accuracy", "steps", "restarts", "gradients", "queries", "tested", "seconds")


def _mark(flag: Flag) -> str:
    return {True: "FLAG", None: "  ? ", False: " ok "}[flag.raised].strip().ljust(4)


def _cells(row: Row) -> list[str]:
    counts = [str(getattr(row, name)) for name in _COLUMNS[2:-1]]
    return [row.attack, f"{row.accuracy:.3f}", *counts, f"{row.seconds:.1f}"]


def _html_row(row: Row) -> str:
    name, *others = map(html.escape, _cells(row))
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{c}</td>" for c in others) + "</tr>"


def _table_lines(rows: tuple[Row, ...]) -> list[str]:
    lines = [list(_COLUMNS), *map(_cells, rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(_COLUMNS))]
    return [
        "  ".join(
            cell.ljust(w) if c == 0 else cell.rjust(w)
            for c, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]

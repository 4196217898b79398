r"""What a training run is made of: phases and learning rates, as data.

A run is a tuple of `Phase`s. "Train adversarially for ten epochs, linearise there, leave the
initial function out, and go on for eight" is

    (Phase(10, PGD(eps=0.1)), Phase(8, PGD(eps=0.1), model="centred", statistics="frozen"))

and `dataclasses.asdict` writes it into a record.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ntklab._typing import Number
from ntklab.training.strategies import Standard

MODELS = ("nonlinear", "linear", "centred")
STATISTICS = ("live", "frozen")
LOSSES = ("cross_entropy", "squared_error")
KINDS = ("constant", "steps", "linear")


@dataclass(frozen=True)
class Schedule:
    r"""The learning rate as a function of the epochs since the phase began.

    Attributes:
      kind: `"constant"`; `"steps"`, the rate of the last point that has been passed; `"linear"`,
        interpolated between the points, constant outside.
      points: `((epoch, rate), ...)`, epochs increasing, the first at 0.

    Raises:
      ValueError: an unknown kind, or points that are no such list.
    """

    kind: str
    points: tuple[tuple[Number, Number], ...]

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        epochs = [epoch for epoch, _ in self.points]
        if not epochs or epochs[0] != 0 or any(b <= a for a, b in pairwise(epochs)):
            raise ValueError(f"points must start at epoch 0 and increase, got epochs {epochs}.")
        if any(not (math.isfinite(rate) and rate >= 0) for _, rate in self.points):
            raise ValueError(f"learning rates must be finite and >= 0, got {self.points}.")

    def __call__(self, epoch: Number) -> Number:
        """The rate at an epoch, fractions included.

        >>> steps_down(0.1, (100, 150))(120.5)
        0.01
        """
        last = max(i for i, (start, _) in enumerate(self.points) if start <= max(epoch, 0))
        start, rate = self.points[last]
        if self.kind != "linear" or last + 1 == len(self.points):
            return rate
        end, other = self.points[last + 1]
        return rate + (other - rate) * (epoch - start) / (end - start)

    @property
    def last_change(self) -> Number:
        """The epoch after which the rate stays as it is."""
        return self.points[-1][0]


def constant(rate: Number) -> Schedule:
    """The same rate throughout.

    >>> constant(0.1)(7)
    0.1
    """
    return Schedule("constant", ((0.0, float(rate)),))


def steps_down(rate: Number, epochs: tuple[Number, ...], factor: Number = 0.1) -> Schedule:
    """A rate that is multiplied by `factor` at each of the epochs.

    >>> [round(steps_down(0.1, (2, 4))(epoch), 4) for epoch in (0, 2, 4)]
    [0.1, 0.01, 0.001]
    """
    rates = ((float(e), float(f"{rate * factor ** (i + 1):.12g}")) for i, e in enumerate(epochs))
    return Schedule("steps", ((0.0, float(rate)), *rates))


def cyclic(peak: Number, peak_epoch: Number, epochs: Number) -> Schedule:
    """From 0 up to `peak` at `peak_epoch`, then down to 0 at `epochs` (Wong et al. 2020).

    >>> [cyclic(0.2, 2, 6)(epoch) for epoch in (0, 1, 2, 4, 6)]
    [0.0, 0.1, 0.2, 0.1, 0.0]
    """
    points = ((0.0, 0.0), (float(peak_epoch), float(peak)), (float(epochs), 0.0))
    return Schedule("linear", points)


@dataclass(frozen=True)
class Phase:
    r"""A stretch of training in which nothing changes but the weights and the learning rate.

    Attributes:
      epochs: passes over the training set, fractions allowed; for `Free` each pass makes
        `replays` updates a batch.
      strategy: on which examples, and with which objective, a batch is learned.
      model: `"nonlinear"`, the network; `"linear"`, its tangent
        $f(p_0, x) + J(x)(p - p_0)$ at the parameters $p_0$ where the phase begins; `"centred"`,
        $J(x)(p - p_0)$ alone. A linear phase after a linear phase keeps $p_0$ and goes on.
      learning_rate: a `Schedule`.
      momentum: of stochastic gradient descent, `m <- momentum m + g`, `p <- p - rate m`; it starts
        from zero in every phase.
      nesterov: take the gradient ahead of the momentum.
      weight_decay: added to the gradient, times the parameters (in a linear phase: times
        $p - p_0$).
      statistics: of batch normalisation in the update of the weights: `"live"`, those of the batch,
        with the running ones updated; `"frozen"`, the running ones, kept.
      loss: `"cross_entropy"`, mean over the batch; `"squared_error"`, half the squared distance to
        the one-hot label, mean over the batch.

    Raises:
      ValueError: a setting out of range, or a learning rate that still changes after the phase's
        end, which is a schedule made for a longer run.
    """

    epochs: Number
    strategy: Any = field(default_factory=Standard)
    model: str = "nonlinear"
    learning_rate: Schedule = field(default_factory=lambda: constant(0.1))
    momentum: Number = 0.9
    nesterov: bool = False
    weight_decay: Number = 0.0
    statistics: str = "live"
    loss: str = "cross_entropy"

    def __post_init__(self):
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"epochs must be positive, got {self.epochs}.")
        for name, value, known in (
            ("model", self.model, MODELS),
            ("statistics", self.statistics, STATISTICS),
            ("loss", self.loss, LOSSES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if not isinstance(self.learning_rate, Schedule):
            raise ValueError("learning_rate must be a Schedule, such as constant(0.1).")
        if self.learning_rate.last_change > self.epochs:
            raise ValueError(
                f"the learning rate still changes at epoch {self.learning_rate.last_change:g}, but "
                f"the phase ends after {self.epochs:g}: shorten the schedule with the run."
            )
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                "momentum must be in [0, 1) and weight_decay >= 0, got "
                f"{self.momentum} and {self.weight_decay}."
            )

    @property
    def linearised(self) -> bool:
        """Whether the weights are a displacement from frozen parameters."""
        return self.model != "nonlinear"

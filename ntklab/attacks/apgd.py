r"""Auto-PGD: projected gradient descent that sets its own step size.

Croce & Hein 2020 walk with momentum from a step of `2 eps`, and look at the path at checkpoints
`w_0 < w_1 < ...`, which lie closer and closer. A step size that brings nothing is halved, and the
walk goes on from the best point so far.

It is algorithm 1 of the paper; only, `AttackResult` keeps the first misclassified point, as
everywhere here. *It differs from the authors' code* (`autopgd_base.py` of fra31/auto-attack) in:

* checkpoints are `ceil(p_j N)`; the code rounds each of .22 N, .06 N and .03 N down (the same
  numbers for N = 100);
* condition 1 is `rises < rho (w_j - w_{j-1})`; the code writes `<=`, which matters only where
  `rho (w_j - w_{j-1})` is whole;
* the first loss is compared with that of the start; the code compares it with zero;
* condition 2 may hold at the first checkpoint;
* after a return to the best point, the next loss is compared with the loss there; the code compares
  it with the loss of the point that was left;
* random starts are even in the ball; the code puts them on its surface;
* fooled examples walk on with the others (their result no longer changes), and the targets of
  APGD-T are ranked once, at the clean input: one program serves every batch.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

import jax.numpy as jnp

from ntklab._typing import Array, Number
from ntklab.attacks import losses
from ntklab.attacks._path import Aim
from ntklab.attacks._problem import per_example
from ntklab.attacks.gradient import GradientAttack, make_attack
from ntklab.attacks.projections import Norm

LOSSES = {"ce": losses.cross_entropy, "dlr": losses.dlr, "margin": losses.margin}
TARGETED_LOSSES = {"dlr": losses.dlr_targeted, "margin": losses.lead}


def apgd(
    eps: Number,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    loss: Any = "ce",
    bounds: tuple[Number, Number] = (0.0, 1.0),
    random_start: bool = True,
    keep: str = "best",
) -> GradientAttack:
    r"""Auto-PGD on one loss: APGD-CE and APGD-DLR.

    `z = P(x_k + a_k u(g_k))`, `x_{k+1} = P(x_k + .75 (z - x_k) + .25 (x_k - x_{k-1}))`, from
    `a_0 = 2 eps`. At the checkpoint w_j the step is halved and the walk returns to its best point
    if the loss rose in fewer than .75 of the steps since `w_{j-1}`, or if neither step size nor
    best loss has changed since `w_{j-1}`.

    Args:
      eps: radius of the ball, in the units of `bounds` (8/255, not 8, for images in [0, 1]).
      norm: `"linf"` or `"l2"`.
      steps: gradient steps of each restart.
      restarts: random starts.
      loss: `"ce"`, `"dlr"` (three classes or more), `"margin"` or `loss(logits, y) -> (b,)`.
      bounds: `(low, high)` of valid inputs.
      random_start: whether to start at a random point; the call then needs a key.
      keep: `"best"` or `"last"`, see `ntklab.attacks.gradient`.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: as for `pgd`; an unknown name of a loss. When called: `"dlr"` of two classes.

    Cost: `steps` forward and backward passes on the input and two forward passes a restart.
      Memory: one such pass and seven copies of `x`.

    References:
      Croce & Hein 2020, algorithm 1.

    >>> import jax, jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> linear = Partial(lambda w, x: x @ w, jnp.array([2.0, -1.0]))
    >>> attack = apgd(eps=0.125, steps=5)
    >>> result = attack(linear, jnp.array([[0.5, 0.5]]), jnp.array([1]), jax.random.key(0))
    >>> print(result.x_adv, result.success, result.gradients_used)
    [[0.375 0.625]] [False] 5
    """
    aim = Aim(norm, _named(loss, LOSSES), AdaptiveStep(steps), False, keep)
    return make_attack((eps, norm, bounds), (steps, 2 * eps, restarts), random_start, aim)


def apgd_targeted(
    eps: Number,
    norm: str = "linf",
    steps: int = 100,
    targets: int = 9,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    restarts: int = 1,
    loss: Any = "dlr",
    random_start: bool = True,
) -> GradientAttack:
    r"""Auto-PGD towards each of the wrong classes that come next at the clean input: APGD-T.

    Any misclassification counts as a success. Losses towards different classes cannot be compared,
    so an example that resists keeps its point of greatest `margin`, and `loss` is that margin.

    Args:
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      steps: gradient steps towards each class.
      targets: wrong classes, by falling score; of k classes at most k - 1 are there.
      bounds: `(low, high)` of valid inputs.
      restarts: random starts for each class.
      loss: `"dlr"` (four classes or more), `"margin"` for `f_t - f_y` (any number of classes, also
        scores `(b,)`), or `loss(logits, y, target) -> (b,)`.
      random_start: whether to start at random points; the call then needs a key.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: as for `apgd`; `targets` is below 1. When called: `"dlr"` of three classes.

    Cost: `targets` times the cost of `apgd`.

    References:
      Croce & Hein 2020, section 5.
    """
    if targets < 1:
        raise ValueError(f"targets must be at least 1, got {targets}.")
    aim = Aim(norm, _named(loss, TARGETED_LOSSES), AdaptiveStep(steps), False, "best")
    effort = (steps, 2 * eps, restarts)
    return make_attack((eps, norm, bounds), effort, random_start, aim, targets)


def checkpoints(steps: int) -> list[int]:
    r"""Steps before which Auto-PGD looks back: `w_j = ceil(p_j steps)`, below `steps`.

    `p_0 = 0`, `p_1 = .22`, `p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)`.

    Args:
      steps: gradient steps of a run.

    Returns:
      Checkpoints, rising, from 0.

    References:
      Croce & Hein 2020, section 3.1.

    >>> checkpoints(100)
    [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    before, p, found = Fraction(0), Fraction(22, 100), [0]
    while ceil(p * steps) < steps:
        if (w := ceil(p * steps)) > found[-1]:
            found.append(w)
        before, p = p, p + max(p - before - Fraction(3, 100), Fraction(6, 100))
    return found


class Memory(NamedTuple):
    """What Auto-PGD remembers of a run; arrays have one entry an example unless stated.

    Attributes:
      step: number of the coming step, one for all.
      previous: point before this one, `(b, ...)`.
      best: point of greatest loss, `(b, ...)`.
      best_gradient: gradient there, `(b, ...)`.
      best_loss: that loss.
      last_loss: loss of the previous point.
      rises: steps since the last checkpoint in which the loss rose.
      scale: step size over the first step size.
      halved: whether the last checkpoint halved it.
      best_before: best loss at the last checkpoint.
    """

    step: Array
    previous: Array
    best: Array
    best_gradient: Array
    best_loss: Array
    last_loss: Array
    rises: Array
    scale: Array
    halved: Array
    best_before: Array


@dataclass(frozen=True)
class AdaptiveStep:
    """The step rule of Auto-PGD: see `apgd`.

    Attributes:
      steps: gradient steps of a run.
      rho: share of steps that must raise the loss, above 0.
      inertia: weight of the new step against the last one.
    """

    steps: int
    rho: float = 0.75
    inertia: float = 0.75

    def init(self, x: Array, dtype: Any) -> Memory:
        """Nothing is known but the start."""
        b = len(x)
        low, zero = jnp.full(b, -jnp.inf, dtype), jnp.zeros(b, jnp.int32)
        one, no = jnp.ones(b, x.dtype), jnp.zeros(b, bool)
        return Memory(
            jnp.int32(0),
            x,
            x,
            jnp.zeros_like(x),
            low,
            jnp.full(b, jnp.inf, dtype),
            zero,
            one,
            no,
            low,
        )

    def move(self, here: Any, memory: Memory, ball: Norm) -> tuple[Array, Memory]:
        """The next point and the new memory."""
        memory = _remember(here, memory)
        halve, memory = self._look_back(memory)
        rows = per_example(halve, here.at)
        at = jnp.where(rows, memory.best, here.at)
        gradient = jnp.where(rows, memory.best_gradient, here.gradient)
        length = here.step_size * per_example(memory.scale, at)
        z = ball.project(at + length * ball.steepest(gradient), here.x, here.eps, here.bounds)
        weight = jnp.where(memory.step == 0, 1.0, self.inertia).astype(at.dtype)
        moved = at + weight * (z - at) + (1 - weight) * (at - memory.previous)
        memory = memory._replace(
            step=memory.step + 1,
            previous=at,
            last_loss=jnp.where(halve, memory.best_loss, here.losses),
        )
        return ball.project(moved, here.x, here.eps, here.bounds), memory

    def _look_back(self, memory: Memory) -> tuple[Array, Memory]:
        """At a checkpoint: which examples halve their step, and a new period for all."""
        needed = [0] * self.steps  # rises at each checkpoint
        for before, w in pairwise(checkpoints(self.steps)):
            needed[w] = ceil(self.rho * (w - before))
        rises = jnp.asarray(needed, jnp.int32)[memory.step]
        few_rises = memory.rises < rises  # condition 1
        no_gain = ~memory.halved & (memory.best_loss <= memory.best_before)  # condition 2
        halve = (rises > 0) & (few_rises | no_gain)
        new = (rises > 0) | (memory.step == 0)
        return halve, memory._replace(
            rises=jnp.where(new, 0, memory.rises),
            scale=jnp.where(halve, memory.scale / 2, memory.scale),
            halved=jnp.where(new, halve, memory.halved),
            best_before=jnp.where(new, memory.best_loss, memory.best_before),
        )


def _remember(here: Any, memory: Memory) -> Memory:
    """Count a rise, and keep the best point with its gradient."""
    better = here.losses > memory.best_loss
    rows = per_example(better, here.at)
    return memory._replace(
        best=jnp.where(rows, here.at, memory.best),
        best_gradient=jnp.where(rows, here.gradient, memory.best_gradient),
        best_loss=jnp.where(better, here.losses, memory.best_loss),
        rises=memory.rises + (here.losses > memory.last_loss).astype(jnp.int32),
    )


def _named(loss: Any, known: dict) -> Any:
    if callable(loss):
        return loss
    if loss not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"loss must be one of {names} or a function, got {loss!r}.")
    return known[loss]

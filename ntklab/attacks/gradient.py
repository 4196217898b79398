"""Attacks that follow the gradient of a loss: FGSM, PGD and PGD with momentum; see also `apgd`.

All walk the same path. Point 0 is the clean input; then come the start and the iterates of each
restart. One rule says what an example keeps of its path: **the first misclassified point, for good;
until there is one, the point of greatest loss so far** (the earlier one on a tie). So a clean
error counts as an error and comes back unchanged, more steps or restarts never lose a success, and
`eps = 0` returns the input bit for bit. `keep="last"` returns the last iterate instead, whatever
came before: that is what adversarial training and transfer attacks take.

*Targeted.* With `targeted=True` the labels of the call are the classes to be reached: the attack
lowers the loss towards them, `success` means that the target is predicted, and the reported loss is
minus that loss, so that greater is still better for the attack.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, LogitsFn, Number
from ntklab.attacks import _path
from ntklab.attacks._problem import (
    AttackResult,
    check_budget,
    prepare,
    refuse_nonfinite,
    warn_of_probabilities,
)
from ntklab.attacks.losses import cross_entropy
from ntklab.attacks.steps import MomentumStep, SteepestStep

KEEP = ("best", "last")


def fgsm(
    eps: Number,
    norm: str = "linf",
    loss: Any = cross_entropy,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    random_start: bool = False,
    targeted: bool = False,
    keep: str = "best",
) -> "GradientAttack":
    r"""Fast gradient sign method: one full step up the loss, `x + eps sign(grad_x L(f(x), y))`.

    With `norm="l2"` the step is `eps g / |g|_2`. With `random_start` (RS-FGSM) the step is
    `1.25 eps`, from a point drawn evenly from the ball, and is projected back.

    Args:
      eps: radius of the ball, in the units of `bounds` (8/255, not 8, for images in [0, 1]).
      norm: `"linf"` or `"l2"`.
      loss: `loss(logits, y) -> (b,)`, raised by the attack. Pass one function, not a new lambda
        each time: a new one is compiled anew.
      bounds: `(low, high)` of valid inputs.
      random_start: whether to start at a random point; the call then needs a key.
      targeted: whether `y` names the classes to be reached, rather than the true ones.
      keep: `"best"` or `"last"`, see the module.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`, or `norm` is unknown.

    Cost: one forward and one backward pass on the input, and one more forward pass (two with a
    random start).

    References:
      Goodfellow, Shlens & Szegedy 2015, eq. 1; Wong, Rice & Kolter 2020, algorithm 3.

    >>> import jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> linear = Partial(lambda w, x: x @ w, jnp.array([2.0, -1.0]))
    >>> result = fgsm(eps=0.25)(linear, jnp.array([[0.5, 0.5]]), jnp.array([1]))
    >>> print(result.x_adv, result.success)
    [[0.25 0.75]] [ True]
    """
    step_size = 1.25 * eps if random_start else eps
    return pgd(eps, norm, 1, step_size, 1, random_start, loss, bounds, targeted=targeted, keep=keep)


def pgd(
    eps: Number,
    norm: str = "linf",
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: Any = cross_entropy,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    step_rule: Any = SteepestStep(),  # noqa: B008 (frozen)
    targeted: bool = False,
    keep: str = "best",
) -> "GradientAttack":
    r"""Projected gradient descent: `x <- P(x + a u(grad_x L(f(x), y)))`, again and again.

    `P` returns to the ball round the *clean* input and to the box. `u` is the sign for
    `norm="linf"` and the gradient of unit length for `"l2"`. The gradient is taken at the current
    iterate. Of the whole path, over all restarts, each example keeps its first misclassified
    point, else its point of greatest loss.

    Args:
      eps: radius of the ball, in the units of `bounds` (8/255, not 8, for images in [0, 1]).
      norm: `"linf"` or `"l2"`.
      steps: gradient steps of each restart.
      step_size: `a`, in the units of `bounds`; `2.5 eps / steps` if not given.
      restarts: random starts; the first r of them are the same for every larger number.
      random_start: whether to start at a point drawn evenly from the ball, rather than at `x`; the
        call then needs a key.
      loss: `loss(logits, y) -> (b,)`, raised by the attack. Pass one function, not a new lambda
        each time: a new one is compiled anew.
      bounds: `(low, high)` of valid inputs.
      step_rule: how to move on from a gradient; see `ntklab.attacks.steps`.
      targeted: whether `y` names the classes to be reached, rather than the true ones.
      keep: `"best"` or `"last"`, see the module.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`; `norm` is unknown; `steps` or
        `restarts` is below 1, `step_size` negative; several restarts without a random start, or of
        which only the last point would be kept.

    Cost: each restart makes `steps` forward and backward passes on the input and one or two
    forward passes. Memory: one such pass and four copies of `x`. Pass blocks of rows where that is
    too much.

    References:
      Madry, Makelov, Schmidt, Tsipras & Vladu 2018, section 2.1.

    >>> import jax, jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> linear = Partial(lambda w, x: x @ w, jnp.array([2.0, -1.0]))
    >>> attack = pgd(eps=0.125, steps=5)
    >>> result = attack(linear, jnp.array([[0.5, 0.5]]), jnp.array([1]), jax.random.key(0))
    >>> print(result.x_adv, result.success, result.gradients_used)
    [[0.375 0.625]] [False] 5
    """
    step_size = 2.5 * eps / max(steps, 1) if step_size is None else step_size
    return make_attack(
        (eps, norm, bounds),
        (steps, step_size, restarts),
        random_start,
        _path.Aim(norm, loss, step_rule, targeted, keep),
    )


def mi_fgsm(
    eps: Number,
    norm: str = "linf",
    steps: int = 10,
    decay: Number = 1.0,
    loss: Any = cross_entropy,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    targeted: bool = False,
    keep: str = "last",
) -> "GradientAttack":
    r"""Momentum iterative FGSM: `m <- decay m + g / |g|_1`, `x <- P(x + (eps / steps) u(m))`.

    It starts at the clean input and by default returns the last iterate: it was made for transfer
    to other models. Against the model itself `pgd(..., step_rule=MomentumStep())` with
    `keep="best"` says more.

    Args:
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      steps: gradient steps, each of length `eps / steps`.
      decay: what is kept of the sum of gradients at each step.
      loss: `loss(logits, y) -> (b,)`.
      bounds: `(low, high)` of valid inputs.
      targeted: whether `y` names the classes to be reached, rather than the true ones.
      keep: `"best"` or `"last"`, see the module.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: as for `pgd`; a negative `decay`.

    Cost: `steps` forward and backward passes on the input and one forward pass.

    References:
      Dong, Liao, Pang, Su, Zhu, Hu & Li 2018, algorithm 1.
    """
    rule = MomentumStep(float(decay))
    return pgd(eps, norm, steps, eps / max(steps, 1), 1, False, loss, bounds, rule, targeted, keep)


def make_attack(budget: tuple, effort: tuple, random_start: bool, aim: Any, targets: int = 0):
    """Check `(eps, norm, bounds)` and `(steps, step_size, restarts)`; return the attack.

    Raises:
      ValueError: see `pgd`.
    """
    (eps, norm, (low, high)), (steps, step_size, restarts) = budget, effort
    check_budget(eps, norm, (low, high))
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}.")
    if not step_size >= 0:
        raise ValueError(f"step_size must be >= 0, got {step_size}.")
    if restarts > 1 and not random_start:
        raise ValueError("restarts without random_start repeat one run: set random_start=True.")
    if aim.keep not in KEEP:
        raise ValueError(f"keep must be one of {', '.join(map(repr, KEEP))}, got {aim.keep!r}.")
    if aim.keep == "last" and restarts > 1:
        raise ValueError(
            "keep='last' returns the last restart and drops the others: set restarts=1."
        )
    bounds, step_size = (float(low), float(high)), float(step_size)
    return GradientAttack(
        float(eps), norm, steps, step_size, restarts, random_start, aim, bounds, targets
    )


@dataclass(frozen=True)
class GradientAttack:
    """A gradient attack with its settings; made by `fgsm`, `pgd`, `mi_fgsm`, `apgd` and others.

    `attack(logits_fn, x, y, key=None)` takes

    * `logits_fn`: scores `(b, k)`, or `(b,)` for a binary machine, of a batch `(b, ...)`. Given a
      `jax.tree_util.Partial` over its arrays, an attack compiled once serves all predictors of
      equal shapes, and all values of eps, step size and bounds.
    * `x`: clean inputs `(b, ...)`, floating point, inside `bounds`;
    * `y`: class indices `(b,)`;
    * `key`: a PRNG key; needed when `random_start` is set, ignored otherwise.

    It returns an `AttackResult`, and raises `ValueError` or `TypeError` for inputs outside
    `bounds`, NaN (also in scores and gradients), and labels of wrong shape, dtype or range; scores
    that look like the output of a softmax bring a warning. No gradient of the weights is taken, and
    none flows through the result. Inside `jax.jit` values cannot be checked: NaN then shows as a
    loss of NaN.

    Attributes:
      eps: radius of the ball, in the units of `bounds`.
      norm: name of the norm.
      steps: gradient steps of each restart (for each target).
      step_size: length that the step rule starts from.
      restarts: runs (for each target).
      random_start: whether a run starts at a random point.
      aim: loss, step rule, whether targeted, and what is kept.
      bounds: `(low, high)` of valid inputs.
      targets: how many wrong classes are aimed at in turn; 0 for the loss of the true class.
    """

    eps: float
    norm: str
    steps: int
    step_size: float
    restarts: int
    random_start: bool
    aim: Any
    bounds: tuple[float, float]
    targets: int = 0

    def __call__(self, logits_fn: LogitsFn, x: Any, y: Any, key: Any = None) -> AttackResult:
        """Attack a batch: see the class."""
        if self.random_start and key is None:
            raise ValueError(
                "this attack starts at random: pass key=jax.random.key(seed), or make it with "
                "random_start=False."
            )
        logits_fn, x, y, logits = prepare(logits_fn, x, y, self.eps, self.norm, self.bounds)
        task = _path.Task(logits_fn, x, y, None, self.eps, self.step_size, self.bounds)
        aims = _wrong_classes(task, self.targets) if self.targets else [None]
        state = _path.begin(self.aim, x, logits.dtype)
        runs = [task._replace(target=target) for target in aims for _ in range(self.restarts)]
        if self.random_start and self.aim.keep == "best":
            state = _path.visit(runs[0], state, aim=self.aim)
        for number, run in enumerate(runs):
            start = jax.random.fold_in(key, number) if self.random_start else None
            if self.random_start or number:
                state = _path.restart(run, state, start, aim=self.aim, random=self.random_start)
            state = _path.visit(run, _path.walk(run, state, self.steps, self.aim), aim=self.aim)
        warn_of_probabilities(state.probabilities)
        return AttackResult(
            state.kept,
            refuse_nonfinite(state.bad, state.kept_loss),
            state.success,
            self.steps * len(runs),
            state.zero_gradients,
        )


def _wrong_classes(task: _path.Task, count: int) -> list[Array]:
    """For each example its wrong classes by falling score at the clean input, at most `count`."""
    order = _order_of_classes(task.logits_fn, task.x, task.y)
    return [order[:, r] for r in range(min(count, order.shape[1] - 1))]


@jax.jit
def _order_of_classes(logits_fn: Any, x: Array, y: Array) -> Array:
    logits = logits_fn(x)
    if logits.ndim == 1:
        return jnp.stack([1 - y, y], axis=1)
    is_label = jnp.arange(logits.shape[1])[None, :] == y[:, None]
    return jnp.argsort(jnp.where(is_label, -jnp.inf, logits), axis=1, descending=True)

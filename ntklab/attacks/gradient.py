"""Attacks that follow the gradient of a loss: FGSM and PGD.

Both walk the same path. Point 0 is the clean input; then come the start and the iterates of each
restart. One rule says what an example keeps of its path: **the first misclassified point, for good;
until there is one, the point of greatest loss so far** (the earlier one on a tie). So a clean
error counts as an error and comes back unchanged, more steps or restarts never lose a success, and
`eps = 0` returns the input bit for bit.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntklab._typing import Array, LogitsFn
from ntklab.attacks._problem import (
    AttackResult,
    Number,
    check_budget,
    nonfinite,
    prepare,
    refuse_nonfinite,
)
from ntklab.attacks.losses import correct, cross_entropy
from ntklab.attacks.projections import NORMS

# Steps compiled as one program on CPU. A convolution inside `lax.scan` is slow there, a program of
# all steps slow to compile, and one of a single step pays for its buffers at every call. PGD-20 on
# the MNIST CNN, 100 images, 2 cores, in CPU seconds a call: programs of 1, 2 and 5 steps take 1.2,
# 0.87 and 0.75, longer ones no less; 5 steps compile in 1.6. A scan takes 3.5 times as long. Kernel
# machines take 0.22 whichever it is.
_UNROLLED = 5


def fgsm(
    eps: Number,
    norm: str = "linf",
    loss: Any = cross_entropy,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    random_start: bool = False,
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
    return pgd(eps, norm, 1, step_size, 1, random_start, loss, bounds)


def pgd(
    eps: Number,
    norm: str = "linf",
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: Any = cross_entropy,
    bounds: tuple[Number, Number] = (0.0, 1.0),
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

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `GradientAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`; `norm` is unknown; `steps` or
        `restarts` is below 1, `step_size` negative; several restarts without a random start.

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
    check_budget(eps, norm, bounds)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}.")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    if not step_size >= 0:
        raise ValueError(f"step_size must be >= 0, got {step_size}.")
    if restarts > 1 and not random_start:
        raise ValueError("restarts without random_start repeat one run: set random_start=True.")
    low, high = bounds
    bounds = float(low), float(high)
    return GradientAttack(
        float(eps), norm, steps, float(step_size), restarts, random_start, loss, bounds
    )


@dataclass(frozen=True)
class GradientAttack:
    """A gradient attack with its settings; made by `fgsm` and `pgd`.

    `attack(logits_fn, x, y, key=None)` takes

    * `logits_fn`: scores `(b, k)`, or `(b,)` for a binary machine, of a batch `(b, ...)`. Given a
      `jax.tree_util.Partial` over its arrays, an attack compiled once serves all predictors of
      equal shapes, and all values of eps, step size and bounds.
    * `x`: clean inputs `(b, ...)`, floating point, inside `bounds`;
    * `y`: class indices `(b,)`;
    * `key`: a PRNG key; needed when `random_start` is set, ignored otherwise.

    It returns an `AttackResult`, and raises `ValueError` or `TypeError` for inputs outside
    `bounds`, NaN (also in scores and gradients), and labels of wrong shape, dtype or range. No
    gradient of the weights is taken, and none flows through the result. Inside `jax.jit` values
    cannot be checked: NaN then shows as a loss of NaN.
    """

    eps: float
    norm: str
    steps: int
    step_size: float
    restarts: int
    random_start: bool
    loss: Any
    bounds: tuple[float, float]

    def __call__(self, logits_fn: LogitsFn, x: Any, y: Any, key: Any = None) -> AttackResult:
        """Attack a batch: see the class."""
        if self.random_start and key is None:
            raise ValueError(
                "this attack starts at random: pass key=jax.random.key(seed), or make it with "
                "random_start=False."
            )
        logits_fn, x, y, logits = prepare(logits_fn, x, y, self.eps, self.norm, self.bounds)
        task = _Task(logits_fn, x, y, self.eps, self.step_size, self.bounds)
        rule = {"norm": self.norm, "loss": self.loss}
        state = _begin(x, logits.dtype)
        if self.random_start:
            state = _visit(task, state, loss=self.loss)
        for restart in range(self.restarts):
            if self.random_start:
                state = _restart(task, state, jax.random.fold_in(key, restart), norm=self.norm)
            state = _visit(task, _walk(task, state, self.steps, rule), loss=self.loss)
        return AttackResult(
            state.kept,
            refuse_nonfinite(state.bad, state.kept_loss),
            state.success,
            self.steps * self.restarts,
            state.zero_gradients,
        )


class _Task(NamedTuple):
    """What stays the same along a path. All of it is traced: no value is compiled in."""

    logits_fn: Any
    x: Any
    y: Any
    eps: Any
    step_size: Any
    bounds: Any


class _State(NamedTuple):
    """Where a path stands and what it has kept."""

    at: Array
    kept: Array
    kept_loss: Array
    success: Array
    zero_gradients: Array
    bad: Array


def _begin(x: Array, dtype: Any) -> _State:
    """A path at the clean input that has seen nothing yet: any loss beats minus infinity."""
    b = len(x)
    no = jnp.zeros(b, bool)
    return _State(x, x, jnp.full(b, -jnp.inf, dtype), no, jnp.zeros(b, jnp.int32), no)


@partial(jax.jit, static_argnames="norm")
def _restart(task: _Task, state: _State, key: Array, *, norm: str) -> _State:
    ball = NORMS[norm]
    start = task.x + ball.uniform(key, task.x, task.eps)
    return state._replace(at=ball.project(start, task.x, task.eps, task.bounds))


def _walk(task: _Task, state: _State, steps: int, rule: dict) -> _State:
    """Make `steps` steps: in unrolled programs on CPU, in one scan elsewhere."""
    if jax.default_backend() != "cpu":
        return _many_steps(task, state, steps=steps, scan=True, **rule)
    for done in range(0, steps, _UNROLLED):
        count = min(_UNROLLED, steps - done)
        state = _many_steps(task, state, steps=count, scan=False, **rule)
    return state


@partial(jax.jit, static_argnames=("steps", "scan", "norm", "loss"))
def _many_steps(task: _Task, state: _State, *, steps: int, scan: bool, norm: str, loss: Any):
    step = partial(_step, task, norm=norm, loss=loss)
    if scan:
        return jax.lax.scan(lambda s, _: (step(s), None), state, length=steps)[0]
    for _ in range(steps):
        state = step(state)
    return state


@partial(jax.jit, static_argnames=("norm", "loss"))  # so that many steps trace logits_fn once
def _step(task: _Task, state: _State, *, norm: str, loss: Any) -> _State:
    """Judge the current point, then move on from it up the gradient taken there."""
    task, at = jax.lax.stop_gradient((task, state.at))

    def total(z):
        logits, losses = _score(task, z, loss)
        return losses.sum(), (logits, losses)

    (_, (logits, losses)), gradient = jax.value_and_grad(total, has_aux=True)(at)
    state = _keep(task, state, logits, losses)
    ball = NORMS[norm]
    moved = at + task.step_size * ball.steepest(gradient)
    flat = (gradient == 0).reshape(len(at), -1).all(axis=1)
    return state._replace(
        at=ball.project(moved, task.x, task.eps, task.bounds),
        zero_gradients=state.zero_gradients + flat.astype(jnp.int32),
        bad=state.bad | nonfinite(gradient),
    )


@partial(jax.jit, static_argnames="loss")
def _visit(task: _Task, state: _State, *, loss: Any) -> _State:
    """Judge the current point and stay there."""
    task, at = jax.lax.stop_gradient((task, state.at))
    return _keep(task, state, *_score(task, at, loss))


def _score(task: _Task, z: Array, loss: Any) -> tuple[Array, Array]:
    logits = task.logits_fn(z)
    losses = loss(logits, task.y)
    if losses.shape != task.y.shape:
        raise ValueError(
            f"loss must return one value an example, {task.y.shape}; got {losses.shape}."
        )
    return logits, losses


def _keep(task: _Task, state: _State, logits: Array, losses: Array) -> _State:
    """The first misclassified point for good; until there is one, the greatest loss."""
    wrong = ~correct(logits, task.y)
    losses = losses.astype(state.kept_loss.dtype)
    better = ~state.success & (wrong | (losses > state.kept_loss))
    rows = better.reshape((-1,) + (1,) * (state.at.ndim - 1))
    return state._replace(
        kept=jnp.where(rows, state.at, state.kept),
        kept_loss=jnp.where(better, losses, state.kept_loss),
        success=state.success | wrong,
        bad=state.bad | nonfinite(logits, losses),
    )

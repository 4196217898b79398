"""Warning flags: how a robust number can be too good, and a measurement that would show it.

Each check returns a `Flag`, with one sentence that holds the figures. Checks look at a part of the
examples, as one batch; a flag counts examples, so that one odd example in a hundred raises none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array
from ntklab.attacks._parts import quietly, scores
from ntklab.attacks._problem import AttackResult, check_budget, nonfinite, prepare, refuse_nonfinite
from ntklab.attacks.gradient import fgsm, pgd
from ntklab.attacks.losses import correct, margin
from ntklab.attacks.projections import NORMS

#: Share of the examples that may misbehave before a flag is raised.
TOLERANCE = 0.01
#: Noise that breaks this share of what the gradient attacks break is as bad as they are.
AS_BAD_AS = 0.8
#: Scores of one input may differ by this share of the largest score between two calls.
_REPEATABLE = 1e-4
_LONG_STEPS = 40


class Flag(NamedTuple):
    """One check of an evaluation.

    Attributes:
      name: what is wrong if the flag is raised, in one word.
      raised: True or False; None where the check could not be made.
      text: one sentence with the figures.
    """

    name: str
    raised: bool | None
    text: str


# The model itself.


def forward_flags(logits_fn: Callable, x: Array) -> list[Flag]:
    """`random_forward`, `batch_dependent` and `probabilities`: is this a fixed function to scores?

    Args:
      logits_fn: scores of a batch.
      x: inputs `(b, ...)`.

    Returns:
      Three flags.

    Cost: five forward passes, two of them outside `jax.jit`, where Python's random numbers show.
    """
    direct, again = np.asarray(logits_fn(x)), np.asarray(logits_fn(x))
    compiled, once_more = np.asarray(scores(logits_fn, x)), np.asarray(scores(logits_fn, x))
    scale = max(float(np.abs(direct).max()), 1e-30)
    change = max(np.abs(direct - again).max(), np.abs(compiled - once_more).max()) / scale
    random = bool(change > _REPEATABLE)
    flags = [
        Flag(
            "random_forward",
            random,
            f"two calls on the same inputs differ by {change:.1e} of the largest score"
            + (": average the gradient over draws, or fix the draw" if random else ""),
        )
    ]
    return [*flags, _batch_flag(logits_fn, x, compiled, scale, random), _probability_flag(direct)]


def _batch_flag(logits_fn, x: Array, compiled: np.ndarray, scale: float, random: bool) -> Flag:
    """Scores of the first half, with the first half again in place of the second."""
    half = len(x) // 2
    if half == 0 or random:
        why = "the forward pass is random" if random else "there is one example only"
        return Flag("batch_dependent", None, f"not checked: {why}")
    twice = jnp.concatenate([x[:half], x[:half], x[2 * half :]])
    change = np.abs(np.asarray(scores(logits_fn, twice))[:half] - compiled[:half]).max() / scale
    text = f"scores move by {change:.1e} of the largest when the other examples of the batch change"
    raised = bool(change > _REPEATABLE)
    return Flag("batch_dependent", raised, text + (": batch statistics in use?" if raised else ""))


def _probability_flag(found: np.ndarray) -> Flag:
    inside = found.min() >= 0 and found.max() <= 1
    if found.ndim == 2:
        raised = bool(inside and np.abs(found.sum(axis=1) - 1).max() < 1e-3)
        said = "are probabilities (in [0, 1], rows sum to 1)"
    else:
        raised, said = bool(inside), "lie in [0, 1], and class 1 is where a score is positive"
    if raised:
        text = f"scores {said}: a second softmax flattens the loss; pass the scores before it"
    else:
        text = f"scores run from {found.min():.3g} to {found.max():.3g}: not probabilities"
    return Flag("probabilities", raised, text)


def gradient_flags(logits_fn: Callable, x: Array, y: Array, zero_share: float) -> list[Flag]:
    """`zero_gradients` and `saturated`: is there a gradient to follow?

    The first looks at the margin, whose gradient vanishes only where that of the scores does, and
    at what the attacks met on their way. The second counts where the softmax of the true class
    rounds to 1: the cross entropy then has lost the gradient of the true class to rounding.

    Args:
      logits_fn: scores of a batch.
      x: inputs `(b, ...)`.
      y: class indices `(b,)`.
      zero_share: share of the input gradients that were exactly zero, over all attacks and the
        examples that they did not break.

    Returns:
      Two flags.

    Cost: one forward and one backward pass.
    """
    logits, zero = _margin_gradient(logits_fn, x, y)
    logits, zero = np.asarray(logits), np.asarray(zero)
    lead = -np.asarray(margin(jnp.asarray(logits), y))
    right = lead > 0
    flat = _share(zero & right, right)
    lost = _share(right & (lead > -np.log(jnp.finfo(logits.dtype).eps)), right)
    return [
        Flag(
            "zero_gradients",
            bool(max(flat, zero_share) > TOLERANCE),
            f"the gradient of the margin is exactly zero at {flat:.1%} of the correct examples, "
            f"as were {zero_share:.1%} of the gradients of all attacks where they failed",
        ),
        Flag(
            "saturated",
            bool(lost > TOLERANCE),
            f"the softmax rounds to 1 at {lost:.1%} of the correct examples"
            + (": trust losses of the margin, not the cross entropy" if lost > TOLERANCE else ""),
        ),
    ]


# More steps and more budget must not do less.


def ladder_flags(
    logits_fn: Callable, x: Array, y: Array, eps: float, norm: str, bounds: Any, key: Array
) -> list[Flag]:
    """`steps`, `eps` and `unbounded`: short ladders of PGD on the margin.

    Args:
      logits_fn: scores of a batch.
      x: inputs `(b, ...)`.
      y: class indices `(b,)`.
      eps: radius of the evaluation, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      bounds: `(low, high)` of valid inputs.
      key: PRNG key.

    Returns:
      Three flags.

    Cost: some 330 gradients an example.
    """
    largest = widest(x, eps, norm, bounds)

    def broken(radius: float, steps: int, restarts: int = 1) -> np.ndarray:
        make = {"norm": norm, "loss": margin, "bounds": bounds}
        more = {"steps": steps, "restarts": restarts}
        attack = fgsm(radius, **make) if steps == 1 else pgd(radius, **more, **make)
        with quietly():
            return np.asarray(attack(logits_fn, x, y, key).success)

    longer = {f"{s} steps": broken(eps, s) for s in (1, 10, _LONG_STEPS)}
    radii = sorted({min(r, largest) for r in (eps / 4, eps / 2, eps, 2 * eps)})
    wider = {f"eps {r:.3g}": broken(r, 20) for r in radii}
    wider[f"eps {largest:.3g}"] = broken(largest, _LONG_STEPS, 5)
    left = 1 - wider[f"eps {largest:.3g}"].mean()
    return [
        ladder_flag("steps", longer),
        ladder_flag("eps", wider),
        Flag(
            "unbounded",
            bool(left > TOLERANCE),
            f"{left:.1%} of the examples stand at eps {largest:.3g}, where any input is allowed"
            if left > TOLERANCE
            else f"nothing stands at eps {largest:.3g}, where any input is allowed",
        ),
    ]


def widest(x: Array, eps: float, norm: str, bounds: Any) -> float:
    """Radius of a ball that holds the whole box; where the box has no end, a hundredfold eps."""
    width = float(bounds[1] - bounds[0])
    if not np.isfinite(width):
        return max(100 * eps, 10 * float(x.max() - x.min()))
    return width if norm == "linf" else width * float(np.sqrt(x[0].size))


def ladder_flag(name: str, rungs: dict[str, np.ndarray]) -> Flag:
    """Whether a rung that should be stronger breaks fewer examples than one before it.

    Args:
      name: of the flag.
      rungs: weakest first, what each broke, `(b,)`.

    Returns:
      The flag. A rung is behind when it loses more examples than it wins, by more than two
      standard errors of their difference and more than the tolerance.
    """
    names, broken = list(rungs), list(rungs.values())
    text = ", ".join(f"{n} {1 - b.mean():.3f}" for n, b in rungs.items())
    for j in range(1, len(names)):
        for i in range(j):
            if overtakes(broken[i], broken[j]):
                text = f"{names[i]} leaves less accuracy than {names[j]} ({text})"
                return Flag(name, True, text)
    return Flag(name, False, f"accuracy does not rise ({text})")


def overtakes(weaker: np.ndarray, stronger: np.ndarray) -> bool:
    """Whether the attack that should be weaker breaks clearly more of the same examples."""
    gained, lost = int((weaker & ~stronger).sum()), int((stronger & ~weaker).sum())
    enough = max(2 * np.sqrt(gained + lost), TOLERANCE * len(weaker))
    return bool(gained - lost > enough)


# What the attacks found, side by side.


def gradient_free_flag(by_gradient: np.ndarray | None, without: np.ndarray | None) -> Flag:
    """`gradient_free`: did attacks without gradients break what those with gradients could not?

    Args:
      by_gradient: what some gradient attack broke, `(n,)`; None where the suite has none.
      without: what some gradient-free attack broke, `(n,)`; None where the suite has none.

    Returns:
      The flag, raised when more than the tolerance (and more than one example) is broken only
      without gradients.
    """
    name = "gradient_free"
    if by_gradient is None or without is None:
        missing = "gradient" if by_gradient is None else "gradient-free"
        return Flag(name, None, f"not checked: the suite has no {missing} attack")
    only = int((without & ~by_gradient).sum())
    raised = bool(only > max(1, TOLERANCE * len(without)))
    text = f"{only} of {len(without)} examples are broken only by a gradient-free attack"
    return Flag(name, raised, text)


def noise_flag(correct_at_start: np.ndarray, noise: np.ndarray, attacked: np.ndarray) -> Flag:
    """`noise`: is random noise of size eps as bad as the attacks?

    Args:
      correct_at_start: clean predictions that are right, `(n,)`.
      noise: what noise broke, `(n,)`.
      attacked: what some attack broke, `(n,)`.

    Returns:
      The flag, raised when noise breaks more than the tolerance and 0.8 of what the attacks break.
    """
    by_noise, by_attack = (int((b & correct_at_start).sum()) for b in (noise, attacked))
    raised = by_noise > TOLERANCE * len(noise) and by_noise >= AS_BAD_AS * by_attack
    text = f"noise of size eps breaks {by_noise} examples and the attacks {by_attack}"
    return Flag("noise", bool(raised), text)


@dataclass(frozen=True)
class RandomNoise:
    """The control: one random point on the surface of the ball, clipped to the bounds."""

    eps: float
    norm: str
    bounds: tuple[float, float]

    def __call__(self, logits_fn: Callable, x: Any, y: Any, key: Any = None) -> AttackResult:
        """Disturb a batch: see the class."""
        if key is None:
            raise ValueError("noise is random: pass key=jax.random.key(seed).")
        logits_fn, x, y, _ = prepare(logits_fn, x, y, self.eps, self.norm, self.bounds)
        x_adv = _noisy(x, self.eps, self.bounds, key, norm=self.norm)
        loss, success, bad = _judged(logits_fn, x_adv, y)
        none = jnp.zeros(len(x), jnp.int32)
        return AttackResult(x_adv, refuse_nonfinite(bad, loss), success, 0, none, 1)


def random_noise(eps: Any, norm: str = "linf", bounds: Any = (0.0, 1.0)) -> RandomNoise:
    """Random noise of size eps, to be compared with an attack: it should do far less.

    Args:
      eps: size of the noise, in the units of `bounds`.
      norm: `"linf"`: every coordinate moves by eps, up or down; `"l2"`: a random direction.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `noise(logits_fn, x, y, key) -> AttackResult`, with the margin as loss.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`, or `norm` is unknown.

    Cost: one forward pass.

    >>> import jax, jax.numpy as jnp
    >>> linear = lambda x: x @ jnp.array([2.0, -1.0])
    >>> noise = random_noise(0.25)
    >>> found = noise(linear, jnp.full((1, 2), 0.5), jnp.array([1]), jax.random.key(0))
    >>> print(jnp.abs(found.x_adv - 0.5))
    [[0.25 0.25]]
    """
    check_budget(eps, norm, bounds)
    return RandomNoise(float(eps), norm, (float(bounds[0]), float(bounds[1])))


@partial(jax.jit, static_argnames="norm")
def _noisy(x, eps, bounds, key, *, norm: str):
    ball = NORMS[norm]
    step = eps * ball.steepest(jax.random.normal(key, x.shape, x.dtype))
    return ball.project(x + step, x, eps, bounds)


@jax.jit
def _judged(logits_fn, x_adv, y):
    logits = logits_fn(x_adv)
    return margin(logits, y), ~correct(logits, y), nonfinite(logits)


@jax.jit
def _margin_gradient(logits_fn, x, y):
    def total(z):
        logits = logits_fn(z)
        return margin(logits, y).sum(), logits

    gradient, logits = jax.grad(total, has_aux=True)(x)
    return logits, (gradient == 0).reshape(len(x), -1).all(axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / max(int(whole.sum()), 1))

"""What every attack shares: its result, its budget, and the refusal of senseless input."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntklab._common import check_batch, check_labels
from ntklab._typing import Array, Number
from ntklab.attacks.projections import NORMS


class AttackResult(NamedTuple):
    """What an attack found. Every array has one entry an example.

    Attributes:
      x_adv: perturbed inputs `(b, ...)`, in the ball round the clean input and inside the bounds.
      loss: the attack's loss at `x_adv`, `(b,)`.
      success: whether `x_adv` is misclassified, `(b,)`. Robust accuracy is `1 - success.mean()`.
      gradients_used: input gradients spent on each example (an output gradient counts as one).
      zero_gradients: how many of them were exactly zero, `(b,)`. A zero gradient is no error, but
        a robust number that rests on them is masked: the attack had nothing to follow.
      queries: forward passes spent on each example by an attack that takes no gradient, without
        the look at the clean input; 0 for gradient attacks.
    """

    x_adv: Array
    loss: Array
    success: Array
    gradients_used: int
    zero_gradients: Array
    queries: int = 0


#: `attack(logits_fn, x, y, key=None) -> AttackResult`.
Attack = Callable[..., AttackResult]


def check_budget(eps: Number, norm: str, bounds: tuple[Number, Number]) -> None:
    """Raise `ValueError` unless `eps`, `norm` and `bounds` describe a threat model.

    An l-infinity `eps` above the width of `bounds` is refused: it is a radius in other units.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}.")
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds}.")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be a finite number >= 0, got {eps}.")
    if norm == "linf" and eps > high - low:
        scale = "" if high - low == 1 else f" * {high - low:g}"
        raise ValueError(
            f"eps = {eps:g} is wider than bounds {bounds}: eps is in the units of bounds; "
            f"did you mean {eps:g}/255{scale}?"
        )


def prepare(
    logits_fn: Callable, x: Any, y: Any, eps: float, norm: str, bounds: tuple[float, float]
) -> tuple[Callable, Array, Array, jax.ShapeDtypeStruct]:
    """Check one call of an attack; return what it computes with.

    Args:
      logits_fn: scores of a batch; any callable.
      x: clean inputs `(b, ...)`, floating point, inside `bounds`.
      y: class indices `(b,)`.
      eps: radius of the ball, in the units of `bounds`.
      norm: name of the norm.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `logits_fn` as a pytree, `x` and `y` as arrays, and shape and dtype of the scores. Inside
      `jax.jit` values are unknown, and only shapes are checked.

    Raises:
      TypeError: `x` is not floating point, `y` not integer.
      ValueError: NaN or values outside `bounds` in `x`, labels of wrong shape or range, scores of
        wrong shape, an l2 `eps` larger than the diagonal of the box.
    """
    logits_fn = as_pytree(logits_fn)
    # Arrays of Python numbers are weakly typed, as no iterate is: the code would compile twice.
    x, y = (a.astype(a.dtype) for a in (jnp.asarray(x), jnp.asarray(y)))
    if x.size == 0:
        raise ValueError(f"x is empty: its shape is {x.shape}.")
    if not is_traced(logits_fn, x, y):
        check_batch("x", x)
        _check_inside(x, bounds)
    logits = apply.eval_shape(logits_fn, x)
    n_classes = _count_classes(logits, len(x))
    if not is_traced(logits_fn, x, y):
        check_labels(y, len(x), n_classes)
    diagonal = (bounds[1] - bounds[0]) * math.sqrt(x[0].size)
    if norm == "l2" and eps > diagonal:
        raise ValueError(
            f"eps = {eps:g} is longer than the diagonal {diagonal:g} of the box {bounds}: eps is "
            f"in the units of bounds; did you mean {eps:g}/255?"
        )
    return logits_fn, x, y, logits


def as_pytree(logits_fn: Callable) -> Callable:
    """`logits_fn` itself if it is a pytree such as `jax.tree_util.Partial`, else wrapped in one.

    A pytree carries its arrays as arguments: code compiled for one predictor serves every other
    with equal shapes. A closure is compiled anew, with its arrays baked in.
    """
    return Partial(logits_fn) if jax.tree_util.all_leaves([logits_fn]) else logits_fn


def is_traced(*values: Any) -> bool:
    """Whether any array in `values` is a tracer, its numbers unknown."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def refuse_nonfinite(bad: Array, loss: Array) -> Array:
    """Raise `ValueError` where NaN or an infinity was met; inside `jax.jit` make the loss NaN.

    Args:
      bad: whether each example met one, `(b,)`.
      loss: losses `(b,)`.

    Returns:
      `loss`.
    """
    if is_traced(bad):
        return jnp.where(bad, jnp.nan, loss)
    where = np.flatnonzero(np.asarray(bad))
    if where.size:
        raise ValueError(
            f"{where.size} of {bad.size} examples met NaN or infinite scores, losses or gradients "
            f"(first: example {where[0]}); look at logits_fn there."
        )
    return loss


def are_probabilities(logits: Array) -> Array:
    """Whether each row of scores `(b, k)` looks like the output of a softmax; `(b,)`, never binary.

    The rows of a softmax are non-negative and sum to 1. Scores of a machine that happens to predict
    probabilities (regression on one-hot labels) fall below 0 somewhere in almost any batch.
    """
    if logits.ndim == 1:
        return jnp.zeros(len(logits), bool)
    sums_to_one = jnp.abs(logits.sum(axis=1) - 1) <= 1e-2 * jnp.finfo(logits.dtype).eps ** 0.5
    return (logits >= 0).all(axis=1) & sums_to_one


def warn_of_probabilities(rows: Array) -> None:
    """Warn where every score of every example that an attack saw looks like a softmax output."""
    if not is_traced(rows) and bool(rows.all()):
        warnings.warn(
            "logits_fn seems to return softmax probabilities: their gradients vanish where the "
            "model is sure, and the attack looks weaker than it is. Pass the scores before the "
            "softmax.",
            stacklevel=3,
        )


def per_example(a: Array, like: Array) -> Array:
    """`a`, `(b,)`, with axes of length 1, so that it broadcasts against `like`, `(b, ...)`."""
    return a.reshape((-1,) + (1,) * (like.ndim - 1))


def nonfinite(*arrays: Array) -> Array:
    """Whether any entry of each example, over all `arrays` `(b, ...)`, is NaN or infinite."""
    rows = [jnp.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays]
    return ~jnp.stack(rows).all(axis=0)


@jax.jit
def apply(logits_fn, x):
    """`logits_fn(x)`; its `eval_shape` and `trace` are kept for all models of one kind."""
    return logits_fn(x)


def _check_inside(x: Array, bounds: tuple[float, float]) -> None:
    low, high = float(x.min()), float(x.max())
    if low < bounds[0] or high > bounds[1]:
        raise ValueError(
            f"x runs from {low:g} to {high:g}, outside bounds {bounds}: rescale x, or pass the "
            "bounds it has."
        )


def _count_classes(logits: Any, b: int) -> int:
    shape = getattr(logits, "shape", None)
    if shape is None or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits_fn must return one floating-point array, got {logits}.")
    if len(shape) not in (1, 2) or shape[0] != b or shape[1:] == (1,):
        raise ValueError(
            f"logits_fn must return ({b}, k) scores, or ({b},) for a binary machine, for {b} "
            f"inputs; got {shape}."
        )
    return 2 if len(shape) == 1 else shape[1]

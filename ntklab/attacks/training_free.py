r"""Attacks written down from a kernel and its training data, without training a network.

Tsilivis & Kempe perturb kernel regression by `eta = eps sign(direction)`, where the direction is
made of the output gradients `z_r = grad_x f_r(x)`. For a kernel machine these have a closed form
(eq. 9), here `ntklab.predictors.class_gradients`; any other predictor is attacked the same way, at
one backward pass a class. One factory an equation:

===========================  ====  ==========================================================
factory                      eq.   direction
===========================  ====  ==========================================================
`binary_cross_entropy`       6     `-y z`
`multiclass_cross_entropy`   8     `sum_r softmax(f)_r z_r - z_y`
`training_point`             16    `-y z`, with the label of a training point
`label_free`                 18    `-sign(f) z`, with the predicted label
`max_of_l1`                  20    `z_s - z_y` for the one class s that gains most
`sum_of_differences`         22    `sum_{r != y} (z_r - z_y)`
===========================  ====  ==========================================================

In each case x_adv is the one step itself, `clip(x + eta, bounds)`, and `loss` (cross entropy) and
`success` are judged there: unlike FGSM and PGD nothing is kept of the clean point. Where clean
errors must count as errors, combine `success` with `~correct(logits_fn(x), y)`.

*The box.* For a linear objective the clipped step is still optimal over the part of the ball inside
the bounds, since every coordinate moves as far as it may. Only the choice of the class in eq. 20
counts on the whole ball.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, LogitsFn, Number
from ntklab.attacks._problem import (
    AttackResult,
    check_budget,
    nonfinite,
    prepare,
    refuse_nonfinite,
)
from ntklab.attacks.losses import correct, cross_entropy
from ntklab.attacks.projections import project_linf
from ntklab.predictors import class_gradients


def binary_cross_entropy(
    eps: Number, bounds: tuple[Number, Number] = (0.0, 1.0)
) -> "TrainingFreeAttack":
    r"""Optimal one-step attack on the binary cross entropy: `eta = -eps y sign(z)`.

    The loss gradient is `(sigmoid(f) - (y + 1)/2) z`. Its factor has the sign of -y whatever f is,
    so time t, temperature and loss all drop out. Eqs. 6, 16 and 18 are one attack, up to the label
    that stands for y.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: one output gradient an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 4-6.

    >>> import jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> linear = Partial(lambda w, x: x @ w, jnp.array([2.0, -1.0]))
    >>> result = binary_cross_entropy(eps=0.25)(linear, jnp.array([[0.5, 0.5]]), jnp.array([1]))
    >>> print(result.x_adv, result.success)
    [[0.25 0.75]] [ True]
    """
    return _attack(eps, bounds, _against_label, binary=True)


def training_point(eps: Number, bounds: tuple[Number, Number] = (0.0, 1.0)) -> "TrainingFreeAttack":
    r"""Push a training point towards the boundary: `eta_i = -eps y_i sign(z_i)`.

    The supplement gets there from `f(x_i + eta) = y_i + eta . z_i`, with `z_i = A_i^T Theta^-1 Y`.
    The result is `binary_cross_entropy`: only the derivation differs, and what it promises. Smooth
    kernels keep the promise to O(eps^2). ReLU kernels do not: `Theta(x_i, x_i)` has no gradient,
    and the prediction misses a term of order eps, `-alpha_i |x_i| |eta_perp| / (2 pi)` for eq. 29
    with `alpha_i = (Theta^-1 Y)_i`. The direction stays a sensible one (the symmetric derivative);
    see `ntklab.attacks.linearised.remainders`.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`. The labels are
      those of the training points x.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: one output gradient an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 12-16.
    """
    return binary_cross_entropy(eps, bounds)


def label_free(eps: Number, bounds: tuple[Number, Number] = (0.0, 1.0)) -> "TrainingFreeAttack":
    r"""Push any point towards the boundary without its label: `eta = -eps sign(f) sign(z)`.

    The predicted class stands for the true one. On a point that is already wrong the step can
    therefore *repair* the prediction: `success` may be false where the clean point was an error.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`. `y` is used
      only to judge the result.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: one output gradient an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 17 and 18.
    """
    return _attack(eps, bounds, _against_prediction, binary=True)


def multiclass_cross_entropy(
    eps: Number, bounds: tuple[Number, Number] = (0.0, 1.0)
) -> "TrainingFreeAttack":
    r"""Optimal one-step attack on the cross entropy of k classes.

    `eta = eps sign(-z_y + sum_r softmax(f)_r z_r)`. The direction is computed over the wrong
    classes only, `sum_{r != y} q_r (z_r - z_y)` with `q` the softmax without class y. This is the
    same vector divided by `1 - softmax(f)_y`, so the sign is the same, and it does not round to
    zero where the true class leads by far.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: k output gradients an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 7 and 8.

    >>> import jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> scores = Partial(lambda w, x: x @ w, jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    >>> attack = multiclass_cross_entropy(eps=0.25)
    >>> print(attack(scores, jnp.array([[0.5, 0.5]]), jnp.array([0])).x_adv)
    [[0.25 0.75]]
    """
    return _attack(eps, bounds, _softmax_of_wrong, binary=False)


def max_of_l1(
    eps: Number, offsets: bool = True, bounds: tuple[Number, Number] = (0.0, 1.0)
) -> "TrainingFreeAttack":
    r"""Raise one wrong class over the true one: `eta = eps sign(z_s - z_y)`.

    The class is `s = argmax_{r != y} f_r - f_y + eps |z_r - z_y|_1`, which maximises
    `max_{r != y} f_r(x + eta) - f_y(x + eta)` to first order. The supplement prints
    `s = argmax |z_r - z_y|_1`: right at an interpolated training point, where all offsets
    `f_r - f_y` are -1, and often not optimal elsewhere.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      offsets: whether the offsets count; False gives the formula as printed.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: k output gradients an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 20 and 21.
    """
    return _attack(eps, bounds, _best_class if offsets else _longest_gap, binary=False)


def sum_of_differences(
    eps: Number, bounds: tuple[Number, Number] = (0.0, 1.0)
) -> "TrainingFreeAttack":
    r"""Raise all wrong classes over the true one alike: `eta = eps sign(sum_{r != y} (z_r - z_y))`.

    It maximises the first-order part of the cross entropy at an interpolated training point, and
    there equals `multiclass_cross_entropy`. Elsewhere it is that attack with uniform weights. The
    claim that it is also optimal to second order (footnote 1) is false.

    Args:
      eps: l-infinity radius, in the units of `bounds`.
      bounds: `(low, high)` of valid inputs.

    Returns:
      `attack(logits_fn, x, y, key=None) -> AttackResult`; see `TrainingFreeAttack`.

    Raises:
      ValueError: `eps` is negative or in other units than `bounds`.

    Cost: k output gradients an example.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 22 and 23 (the sum runs over k classes, not n).
    """
    return _attack(eps, bounds, _sum_of_gaps, binary=False)


@dataclass(frozen=True)
class TrainingFreeAttack:
    """A one-step attack made of output gradients, with its settings.

    `attack(logits_fn, x, y, key=None)` takes scores `(b, k)` (or `(b,)` where the equation is for
    binary machines), inputs `(b, ...)` inside `bounds` and class indices `(b,)`; the key is never
    used. It returns an `AttackResult` with the cross entropy at `x_adv`, and raises `ValueError` or
    `TypeError` for inputs outside `bounds`, NaN, labels of wrong shape, dtype or range, and for a
    binary equation on k-class scores or the other way round.
    """

    eps: float
    bounds: tuple[float, float]
    direction: Callable
    binary: bool

    def __call__(self, logits_fn: LogitsFn, x: Any, y: Any, key: Any = None) -> AttackResult:
        """Attack a batch: see the class."""
        logits_fn, x, y, logits = prepare(logits_fn, x, y, self.eps, "linf", self.bounds)
        if self.binary != (len(logits.shape) == 1):
            raise ValueError(
                f"scores of shape {logits.shape} do not fit: binary_cross_entropy, training_point "
                "and label_free need (b,), the other training-free attacks (b, k)."
            )
        x_adv, loss, success, zero, bad = _one_step(
            logits_fn, x, y, self.eps, self.bounds, direction=self.direction
        )
        gradients = 1 if self.binary else logits.shape[1]
        return AttackResult(x_adv, refuse_nonfinite(bad, loss), success, gradients, zero)


def _attack(eps: Number, bounds: Any, direction: Callable, binary: bool) -> TrainingFreeAttack:
    check_budget(eps, "linf", bounds)
    low, high = bounds
    return TrainingFreeAttack(float(eps), (float(low), float(high)), direction, binary)


@partial(jax.jit, static_argnames="direction")
def _one_step(logits_fn, x, y, eps, bounds, *, direction: Callable):
    logits_fn, x = jax.lax.stop_gradient((logits_fn, x))
    logits, gradients = class_gradients(logits_fn, x)
    flat = gradients.reshape(*logits.shape, x[0].size)
    way = direction(logits, flat, y, eps)
    step = eps * jnp.sign(way).reshape(x.shape)
    x_adv = project_linf(x + step, x, eps, bounds)
    after = logits_fn(x_adv)
    loss = cross_entropy(after, y)
    zero = (way == 0).all(axis=1).astype(jnp.int32)
    return x_adv, loss, ~correct(after, y), zero, nonfinite(logits, flat, after, loss)


# Directions: scores f `(b,)` or `(b, k)`, output gradients z `(b, d)` or `(b, k, d)`, labels `(b,)`
# and eps give `(b, d)`. Sums are spelled out: a matrix product may run in reduced precision on GPU.


def _against_label(f: Array, z: Array, y: Array, eps: Any) -> Array:
    return jnp.where(y[:, None] == 1, -z, z)


def _against_prediction(f: Array, z: Array, y: Array, eps: Any) -> Array:
    return _against_label(f, z, (f > 0).astype(jnp.int32), eps)


def _softmax_of_wrong(f: Array, z: Array, y: Array, eps: Any) -> Array:
    weights = jax.nn.softmax(jnp.where(_is_label(f, y), -jnp.inf, f), axis=1)
    return (weights[:, :, None] * _gaps(z, y)).sum(axis=1)


def _sum_of_gaps(f: Array, z: Array, y: Array, eps: Any) -> Array:
    return _gaps(z, y).sum(axis=1)


def _best_class(f: Array, z: Array, y: Array, eps: Any) -> Array:
    return _gap_of_class(z, y, f + eps * jnp.abs(_gaps(z, y)).sum(axis=2))


def _longest_gap(f: Array, z: Array, y: Array, eps: Any) -> Array:
    return _gap_of_class(z, y, jnp.abs(_gaps(z, y)).sum(axis=2))


def _gap_of_class(z: Array, y: Array, gain: Array) -> Array:
    """`z_s - z_y` for the wrong class s of greatest gain `(b, k)`."""
    best = jnp.where(_is_label(gain, y), -jnp.inf, gain).argmax(axis=1)
    return jnp.take_along_axis(_gaps(z, y), best[:, None, None], axis=1)[:, 0]


def _gaps(z: Array, y: Array) -> Array:
    """`z_r - z_y` for every class r: `(b, k, d)`, zero for r = y."""
    return z - jnp.take_along_axis(z, y[:, None, None], axis=1)


def _is_label(f: Array, y: Array) -> Array:
    return jnp.arange(f.shape[1])[None, :] == y[:, None]

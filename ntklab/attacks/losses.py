"""Losses that an attack raises, and the test of whether it has won.

Scores are `(b, k)`, one an integer class, or `(b,)` for a binary machine that says class 1 where
its score is positive. Labels are class indices `(b,)`; in formulas of the binary case
`y = 2 * index - 1` is -1 or +1.
"""

import jax
import jax.numpy as jnp
import optax

from ntklab._typing import Array, Bool, Float, Int


def cross_entropy(logits: Float[Array, "b *k"], y: Int[Array, "b"]) -> Float[Array, "b"]:
    r"""Cross entropy: `-f_y + log sum_r exp(f_r)`; binary: `log(1 + exp(-y f))`.

    Args:
      logits: scores `(b, k)` or `(b,)`.
      y: class indices `(b,)`.

    Returns:
      Loss of each example, in nats. In float32 the gradient of the true class rounds to zero once
      its score leads by about 17; `margin` does not saturate.

    Cost: O(b k) time and memory.

    References:
      Tsilivis & Kempe 2022, supplement, eqs. 4 and 7.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))
    [1.3862944]
    >>> print(cross_entropy(jnp.zeros(1), jnp.array([0])))
    [0.6931472]
    """
    if logits.ndim == 1:
        return optax.losses.sigmoid_binary_cross_entropy(logits, y)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)


def margin(logits: Float[Array, "b *k"], y: Int[Array, "b"]) -> Float[Array, "b"]:
    r"""How far the best wrong class leads: `max_{r != y} f_r - f_y`; binary: `-y f`.

    Args:
      logits: scores `(b, k)` or `(b,)`.
      y: class indices `(b,)`.

    Returns:
      Margin of each example in units of the scores: positive means misclassified.

    Cost: O(b k) time and memory.

    References:
      Carlini & Wagner 2017, objective f_6 without its cut-off.

    >>> import jax.numpy as jnp
    >>> print(margin(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([0])))
    [-0.5]
    """
    if logits.ndim == 1:
        return jnp.where(y == 1, -logits, logits)
    is_label = jnp.arange(logits.shape[1])[None, :] == y[:, None]
    other = jnp.where(is_label, -jnp.inf, logits).max(axis=1)
    return other - jnp.where(is_label, logits, 0).sum(axis=1)


def lead(
    logits: Float[Array, "b *k"], y: Int[Array, "b"], target: Int[Array, "b"]
) -> Float[Array, "b"]:
    r"""How far the target class leads the true one: `f_t - f_y`; binary: `-y f`.

    Args:
      logits: scores `(b, k)` or `(b,)`.
      y: class indices `(b,)`.
      target: class to be reached, `(b,)`; a binary machine has only one that is wrong.

    Returns:
      Lead of each example in units of the scores.

    Cost: O(b k) time and memory.

    >>> import jax.numpy as jnp
    >>> print(lead(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([0]), jnp.array([1])))
    [-2.]
    """
    if logits.ndim == 1:
        return margin(logits, y)
    return _of_class(logits, target) - _of_class(logits, y)


def dlr(logits: Float[Array, "b *k"], y: Int[Array, "b"]) -> Float[Array, "b"]:
    r"""Difference of logits ratio: `-(f_y - max_{r != y} f_r) / (f_p1 - f_p3)`.

    `p` orders the classes by falling score. Neither a shift nor a factor of the scores changes it,
    so a loud model masks nothing.

    Args:
      logits: scores `(b, k)`, k >= 3.
      y: class indices `(b,)`.

    Returns:
      Loss of each example, from -1 on; positive means misclassified.

    Raises:
      ValueError: fewer than three classes: the ratio is then constant. Use `margin`.

    Cost: O(b k) time and memory.

    References:
      Croce & Hein 2020, eq. 6; 1e-12 is added to the denominator, as in the authors' code.

    >>> import jax.numpy as jnp
    >>> print(dlr(jnp.array([[3.0, 1.0, 2.5]]), jnp.array([0])))
    [-0.25]
    """
    _need_classes(logits, 3, "dlr")
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(
    logits: Float[Array, "b *k"], y: Int[Array, "b"], target: Int[Array, "b"]
) -> Float[Array, "b"]:
    r"""Targeted difference of logits ratio: `-(f_y - f_t) / (f_p1 - (f_p3 + f_p4) / 2)`.

    Args:
      logits: scores `(b, k)`, k >= 4.
      y: class indices `(b,)`.
      target: class to be reached, `(b,)`.

    Returns:
      Loss of each example; positive means that the target leads the true class.

    Raises:
      ValueError: fewer than four classes. Use `lead`.

    Cost: O(b k) time and memory.

    References:
      Croce & Hein 2020, eq. 7; 1e-12 is added to the denominator, as in the authors' code.

    >>> import jax.numpy as jnp
    >>> print(dlr_targeted(jnp.array([[3.0, 1.0, 2.0, 0.0]]), jnp.array([0]), jnp.array([2])))
    [-0.4]
    """
    _need_classes(logits, 4, "dlr_targeted")
    top = jax.lax.top_k(logits, 4)[0]
    return lead(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _need_classes(logits: Array, least: int, name: str) -> None:
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    if classes < least:
        raise ValueError(
            f"{name} needs at least {least} classes, got {classes}: use loss='margin' instead."
        )


def _of_class(logits: Array, index: Array) -> Array:
    return jnp.take_along_axis(logits, index[:, None], axis=1)[:, 0]


def correct(logits: Float[Array, "b *k"], y: Int[Array, "b"]) -> Bool[Array, "b"]:
    """Whether each example is classified as its label: `argmax_r f_r = y`; binary: `(f > 0) = y`.

    Args:
      logits: scores `(b, k)` or `(b,)`. The lowest class wins a tie.
      y: class indices `(b,)`.

    Returns:
      One truth value an example.

    Cost: O(b k) time and memory.

    >>> import jax.numpy as jnp
    >>> print(correct(jnp.array([-2.0, 0.5]), jnp.array([1, 1])))
    [False  True]
    """
    predicted = logits > 0 if logits.ndim == 1 else logits.argmax(axis=1)
    return predicted.astype(y.dtype) == y

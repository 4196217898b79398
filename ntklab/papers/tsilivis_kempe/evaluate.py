"""Accuracies under attack, counted in one way for every experiment of this paper."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array, Float, Int, Key, LogitsFn
from ntklab.attacks import correct
from ntklab.predictors import class_gradients

_BLOCK = 500


def accuracy(logits_fn: LogitsFn, x: Float[Array, "b ..."], y: Int[Array, "b"]) -> float:
    """Share of examples that are classified as their label."""
    return float(np.mean(_correct(logits_fn, x, y)))


def robust_accuracy(
    attack: Callable,
    logits_fn: LogitsFn,
    x: Float[Array, "b ..."],
    y: Int[Array, "b"],
    key: Key[Array, ""],
    judge: LogitsFn | None = None,
) -> float:
    """Share of examples that are classified correctly both as they are and under attack.

    A clean error counts as an error whatever the attack does to it.

    Args:
      attack: `attack(logits_fn, x, y, key) -> AttackResult`.
      logits_fn: the model that the attack sees.
      x: clean inputs `(b, ...)` in [0, 1].
      y: class indices `(b,)`.
      key: randomness of the attack.
      judge: the model that is fooled or not; `logits_fn` itself where None.

    Returns:
      A number in [0, 1]; an upper bound on the true robust accuracy of `judge`.

    Cost: that of the attack, in blocks of 500 examples.
    """
    judge = logits_fn if judge is None else judge
    kept = 0
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        adversarial = attack(logits_fn, x[rows], y[rows], jax.random.fold_in(key, start)).x_adv
        kept += int(
            (_correct(judge, x[rows], y[rows]) & _correct(judge, adversarial, y[rows])).sum()
        )
    return kept / len(x)


def random_signs(eps: float) -> Callable:
    """The control: a random corner of the box round x, clipped to [0, 1] like every attack.

    Args:
      eps: l-infinity radius.

    Returns:
      `attack(logits_fn, x, y, key)`, whose result has `x_adv`; it never looks at `logits_fn`.
    """

    def attack(logits_fn, x, y, key) -> "_Moved":
        signs = jax.random.rademacher(key, x.shape, x.dtype)
        return _Moved(jnp.clip(x + eps * signs, 0.0, 1.0))

    return attack


class _Moved:
    """A result with the one field that `robust_accuracy` reads."""

    def __init__(self, x_adv: Array):
        self.x_adv = x_adv


def loss_gradients(
    logits_fn: LogitsFn, x: Float[Array, "b ..."], y: Int[Array, "b"]
) -> Float[Array, "b d"]:
    r"""Input gradients of the cross-entropy of k classes, `sum_r p_r z_r - z_y` (eq. 8).

    Args:
      logits_fn: scores `(b, k)`.
      x: inputs `(b, ...)`.
      y: class indices `(b,)`.

    Returns:
      One flat gradient an example.
    """
    blocks = []
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        logits, z = class_gradients(logits_fn, x[rows])
        weights = jax.nn.softmax(logits, axis=1)
        weights = weights - jax.nn.one_hot(y[rows], logits.shape[1], dtype=weights.dtype)
        blocks.append(jnp.einsum("bk,bkd->bd", weights, z.reshape(*logits.shape, -1)))
    return jnp.concatenate(blocks)


def mean_cosine(g1: Float[Array, "b d"], g2: Float[Array, "b d"]) -> float:
    """Mean over examples of the cosine between two gradients (eq. 30); a zero gradient gives 0.

    >>> import jax.numpy as jnp
    >>> mean_cosine(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[3.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    lengths = jnp.linalg.norm(g1, axis=1) * jnp.linalg.norm(g2, axis=1)
    products = (g1 * g2).sum(axis=1)
    return float(
        jnp.where(lengths > 0, products / jnp.where(lengths > 0, lengths, 1.0), 0.0).mean()
    )


def _correct(logits_fn: LogitsFn, x: Array, y: Array) -> np.ndarray:
    blocks = [
        np.asarray(correct(logits_fn(x[i : i + _BLOCK]), y[i : i + _BLOCK]))
        for i in range(0, len(x), _BLOCK)
    ]
    return np.concatenate(blocks)

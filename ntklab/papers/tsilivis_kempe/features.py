"""What the experiments on eigen-features share: kernels, the plane, trends, overlaps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ntklab import data, features, kernels, predictors
from ntklab._common import float64
from ntklab._typing import Array, Float, Int
from ntklab.attacks import cross_entropy

#: The architectures of the supplement's Figs. 2 and 3, with the settings of the authors' notebook.
DENSE = {f"fc{depth}": kernels.FullyConnected(depth=depth, b_std=0.1) for depth in range(1, 6)}
CONV = {f"conv{depth}": kernels.Convolutional(depth=depth, b_std=0.1) for depth in (1, 2)}
_BLOCK = 250


class Plane(NamedTuple):
    """Features in the plane of usefulness and robustness, one entry a feature.

    Attributes:
      usefulness: clean accuracy, `(r,)`.
      robustness: accuracy that is left by one gradient step, one row a budget, `(e, r)`.
      named: how many classes each names on all inputs it saw, clean and moved, `(r,)`.
    """

    usefulness: np.ndarray
    robustness: np.ndarray
    named: np.ndarray


def plane(
    fitted: predictors.FittedKernelRegression,
    indices,
    x: Float[Array, "b ..."],
    y: Int[Array, "b"],
    budgets: tuple[float, ...],
    block: int = _BLOCK,
) -> Plane:
    r"""Usefulness of features, and their robustness to FGSM at several budgets.

    A feature is $\phi_i(x)\,c_i$, so that the loss has the gradient of $\phi_i$, up to sign: on an
    input that the feature gets right, FGSM is $-\varepsilon\,\mathrm{sign}\,\phi_i\,
    \mathrm{sign}\nabla\phi_i$. One pass gives the gradients of all features, and one more for each
    feature and budget its scores at the moved inputs. It gives what `features.measure` with
    `fgsm` gives, for a third of the work.

    Args:
      fitted: a regression with its spectrum.
      indices: numbers of the features.
      x: inputs in [0, 1].
      y: class indices.
      budgets: l-infinity radii.
      block: inputs at a time.
    """
    named = features.classes_named(fitted, indices)
    together, parts = features.basis(fitted, indices), []
    for start in range(0, len(x), block):
        some, labels = x[start : start + block], np.asarray(y[start : start + block])
        scores, slopes = predictors.class_gradients(together, some)
        sides = [np.asarray(scores).T]
        for eps in budgets:
            # One program serves all: the other columns cost little beside the kernel's entries.
            moved = [
                together(_step(some, scores[:, i], slopes[:, i], eps))[:, i]
                for i in range(len(indices))
            ]
            sides.append(np.asarray(jnp.stack(moved)))
        side = np.stack(sides)  # (1 + budgets, r, b)
        says = np.where(side > 0, named[:, :1], named[:, 1:])
        parts.append((says, says == labels))
    says, right = (np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    held = (right[1:] & right[0]).mean(axis=-1)
    kinds = [len(np.unique(says[:, i])) for i in range(len(indices))]
    return Plane(right[0].mean(axis=-1), held, np.array(kinds))


@jax.jit
def _step(x, score, slope, eps):
    """FGSM against one feature: down where the score is positive, up where it is not."""
    side = jnp.where(score > 0, 1.0, -1.0).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.clip(x - jnp.asarray(eps, x.dtype) * side * jnp.sign(slope), 0.0, 1.0)


def trend(values, where=None) -> float:
    """Spearman's rank correlation of values with their place; 0 where one of them is constant.

    Args:
      values: one a feature, in the order of the eigenvalues.
      where: which of them count; all where None.

    >>> trend([3.0, 2.0, 1.0])
    -1.0
    """
    place = np.arange(len(values))
    values = np.asarray(values, float)
    if where is not None:
        place, values = place[where], values[where]
    if len(values) < 3 or np.ptp(values) == 0:
        return 0.0
    return round(float(scipy.stats.spearmanr(place, values).statistic), 12)


def top_share(values, top: int) -> float:
    """Share of the sum that the first `top` values have; `top / len` if all are equal."""
    total = float(np.sum(values))
    return float(np.sum(values[:top])) / total if total > 0 else 0.0


def overlap(vectors, others) -> float:
    r"""Mean squared cosine between two spaces, $|V^\top V'|_F^2 / r$, from 0 to 1.

    Args:
      vectors: orthonormal columns, `(n, r)`.
      others: the same shape; a random space of `r` dimensions gives `r / n` on average.

    >>> overlap(np.eye(3)[:, :2], np.eye(3)[:, 1:])
    0.5
    """
    return float(np.sum((vectors.T @ others) ** 2) / vectors.shape[1])


def leading(kernel: Callable, x: Array, top: int) -> np.ndarray:
    """The leading eigenvectors of a kernel matrix, largest eigenvalue first, `(n, top)`."""
    fitted = predictors.KernelRegression(kernel, solver="eigh").fit(x, jnp.zeros(len(x)))
    return fitted.eigenvectors[:, ::-1][:, :top]


def linear(x1: Array, x2: Array | None = None) -> Array:
    """The kernel of the pixels themselves, with the bias of the other kernels: a control."""
    flat = x1.reshape(len(x1), -1)
    other = flat if x2 is None else x2.reshape(len(x2), -1)
    return flat @ other.T / flat.shape[1] + 0.005


def identities(kernel: Callable, x, targets, x_new, y_new) -> dict[str, float]:
    """Equation 31 and proposition 1 in 64 bits, all features of a small machine.

    Returns:
      `sum_error`: of the sum of all features against the machine, over the largest score;
      `prop_error`: of the weighted sum of loss gradients against that of the machine;
      `alpha_least`: the smallest weight; `alpha_negative`: the share of weights below zero.
    """
    with float64():
        x, targets, x_new = (jnp.asarray(np.asarray(a, np.float64)) for a in (x, targets, x_new))
        fitted = predictors.KernelRegression(kernel, solver="eigh").fit(x, targets)
        machine, every = fitted.logits_fn(), range(len(x))
        parts = [features.feature(fitted, i) for i in every]
        whole = np.asarray(machine(x_new))
        alpha, _ = features.loss_gradient_weights(fitted, every, x_new, y_new)
        pull = _loss_gradient(machine, x_new, y_new)
        total, summed = np.zeros(pull.shape), np.zeros(whole.shape)
        for i, part in enumerate(parts):
            summed += np.asarray(part(x_new))
            weights = alpha[:, i].reshape(-1, *[1] * (x_new.ndim - 1))
            total += weights * np.asarray(_loss_gradient(part, x_new, y_new))
        pull = np.asarray(pull)
    return {
        "sum_error": float(np.abs(summed - whole).max() / np.abs(whole).max()),
        "prop_error": float(np.abs(total - pull).max() / np.abs(pull).max()),
        "alpha_least": float(alpha.min()),
        "alpha_negative": float((alpha < 0).mean()),
    }


@jax.jit
def _loss_gradient(logits_fn, x, y):
    return jax.grad(lambda z: cross_entropy(logits_fn(z), y).sum())(x)


def targets_of(images: data.Dataset) -> Array:
    """Signs for two classes, one-hot rows for more; of the training images."""
    return (images.signed() if images.n_classes == 2 else images.one_hot())[0]


def majority(y) -> float:
    """The share of the largest class: the accuracy of the best constant."""
    return float(np.bincount(np.asarray(y)).max() / len(y))

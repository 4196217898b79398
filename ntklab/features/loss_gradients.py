"""Proposition 1 of Tsilivis and Kempe: the loss gradient, feature by feature."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ntklab._common import check_batch, check_labels, float64
from ntklab._typing import Array, Float, Int
from ntklab.features.eigen import Indices, class_weights, positions
from ntklab.predictors import FittedKernelRegression, KernelMachine, kernel_logits


class Decomposition(NamedTuple):
    r"""How the loss gradient of the machine is made of those of its features.

    Attributes:
      alpha: $\alpha_i(x)$, `(b, r)`, float64; 0 where it is not defined.
      defined: whether the feature's own loss gradient is a multiple of $\nabla\phi_i$ other than
        zero, so that $\alpha_i$ exists, `(b, r)`.
    """

    alpha: np.ndarray
    defined: np.ndarray


def loss_gradient_weights(
    fitted: FittedKernelRegression,
    indices: Indices,
    x: Float[Array, "b ..."],
    y: Int[Array, "b"],
) -> Decomposition:
    r"""Proposition 1: how the loss gradient of the machine is made of those of its features.

    $$\nabla_x L(f_\infty, y) = \sum_i \alpha_i \nabla_x L(f^{(i)}, y).$$

    Binary, with $y = \pm 1$ and the logistic function $\sigma$,

    $$\alpha_i = \frac{\sigma(f_\infty) - (y+1)/2}{\sigma(f^{(i)}) - (y+1)/2}
               = \frac{\sigma(-y f_\infty)}{\sigma(-y f^{(i)})} > 0.$$

    For k classes and a kernel that is the same for all of them, with p the softmax of $f_\infty$
    and $p^{(i)}$ that of $f^{(i)}$,

    $$\alpha_i = \frac{p \cdot c_i - c_{iy}}{p^{(i)} \cdot c_i - c_{iy}},$$

    which can be negative, and is not defined where the feature's loss has no gradient. The sum
    runs over all features that are not zero to rounding.

    Args:
      fitted: as for `feature`.
      indices: features whose weights are wanted.
      x: inputs, `(b, ...)`.
      y: class indices; for a binary machine 1 stands for +1 and 0 for -1.

    Returns:
      Weights, and where they exist.

    Cost: `b n` kernel entries and `2 b n (r + k)` operations, in float64.

    Raises:
      ValueError: what `feature` refuses, labels of wrong shape or range.

    Source: Tsilivis and Kempe (2022), proposition 1.
    """
    check_batch("x", x)
    binary = np.ndim(fitted.targets) == 1
    check_labels(y, len(x), 2 if binary else fitted.targets.shape[1])
    weights, labels = class_weights(fitted, indices), np.asarray(y)
    rows = positions(fitted, indices)
    columns = fitted.eigenvectors[:, rows] / (fitted.eigenvalues[rows] + fitted.ridge)
    joined = np.concatenate([columns, fitted.coefficients().reshape(len(columns), -1)], axis=1)
    with float64():
        wide = (jnp.asarray(np.asarray(a, np.float64)) for a in (fitted.x, joined, x))
        centres, joined, points = wide
        machine = KernelMachine(centres, joined, fitted.kernel)
        scores = np.asarray(kernel_logits(machine, points))
    phi, total = scores[:, : len(rows)], scores[:, len(rows) :]
    if binary:
        sign = 2.0 * labels[:, None] - 1.0
        alpha = np.exp(_log_sigmoid(-sign * total) - _log_sigmoid(-sign * phi * weights))
        return Decomposition(alpha, np.ones(alpha.shape, bool))
    own = weights[:, labels].T
    top = _softmax(total) @ weights.T - own
    bottom = (_softmax(phi[:, :, None] * weights) * weights).sum(axis=2) - own
    defined = np.abs(bottom) > 1e-12 * np.abs(weights).max(axis=1)
    return Decomposition(np.where(defined, top / np.where(defined, bottom, 1.0), 0.0), defined)


def _log_sigmoid(z: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -z)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

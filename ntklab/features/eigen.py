"""Eigen-features as kernel machines."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array, Int
from ntklab.predictors import FittedKernelRegression, KernelMachine, kernel_logits

#: Numbers of features.
Indices = Sequence[int] | np.ndarray


def feature(fitted: FittedKernelRegression, index: int) -> jax.tree_util.Partial:
    r"""The feature $f^{(i)}$ as a logits function, `Partial(kernel_logits, machine)`.

    Args:
      fitted: a regression with its spectrum, `KernelRegression(kernel, solver="eigh").fit(...)`. A
        ridge $\rho$ stands beside each eigenvalue, $\lambda_i + \rho$, so that the sum of all
        features is still the machine at infinite time.
      index: number of the feature, 0 at the largest eigenvalue.

    Returns:
      Scores `(b, k)`, or `(b,)` for targets `(n,)`, in the dtype of the training inputs.

    Cost: `2 n k` operations. Accuracy: float32 rounds terms of size $|\Theta| / \lambda_i$, so that
    features whose eigenvalue is below 1e-5 of the largest need float64 inputs.

    Raises:
      ValueError: a number out of range, an eigenvalue of zero to rounding, a regression that was
        not fitted by eigendecomposition.

    Source: Tsilivis and Kempe (2022), supplement, eq. 31.

    >>> import jax.numpy as jnp
    >>> from ntklab.kernels import TwoLayerNTK
    >>> from ntklab.predictors import KernelRegression
    >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> fitted = KernelRegression(TwoLayerNTK()).fit(x, jnp.array([1.0, -1.0]))
    >>> print(feature(fitted, 0)(x), feature(fitted, 1)(x))
    [1. 0.] [ 0. -1.]
    """
    return select(fitted, [index])


def select(fitted: FittedKernelRegression, indices: Indices) -> jax.tree_util.Partial:
    r"""The sum of some features, $f'_r = \sum_{i \in r} f^{(i)}$, as a logits function.

    With `range(r)` it is the spectral cut-off at the r largest eigenvalues; with the most robust
    features (`most_robust`) the kernel machine of the supplement's section D.3. Its
    $\Theta'_r = \sum_{i \in r} \lambda_i v_i v_i^\top$ is singular, and the inverse printed there
    is the pseudo-inverse.

    Args:
      fitted: as for `feature`.
      indices: numbers of the features, each once; 0 has the largest eigenvalue.

    Returns:
      Scores `(b, k)` or `(b,)`.

    Cost: `4 n k` operations a feature. Errors: those of `feature`, and for a number given twice.

    Source: Tsilivis and Kempe (2022), supplement, section D.3.
    """
    rows = positions(fitted, indices)
    y = np.asarray(fitted.targets, np.float64)
    vectors = fitted.eigenvectors[:, rows].astype(np.float64)
    divided = vectors / (fitted.eigenvalues[rows] + fitted.ridge)
    coefficients = jnp.asarray((divided @ (vectors.T @ y)).astype(fitted.x.dtype))
    machine = KernelMachine(fitted.x, coefficients, fitted.kernel)
    return jax.tree_util.Partial(kernel_logits, machine)


def basis(fitted: FittedKernelRegression, indices: Indices) -> jax.tree_util.Partial:
    r"""The functions $\phi_i$ of some features as one logits function `(b, ...) -> (b, r)`.

    `class_gradients` of it gives the pictures of the features, $\nabla_x \phi_i$, one a column.

    Args:
      fitted: as for `feature`.
      indices: numbers of the features.

    Cost and errors: those of `select`; the scores of all r cost hardly more than those of one.
    """
    rows = positions(fitted, indices)
    weights = fitted.eigenvectors[:, rows] / (fitted.eigenvalues[rows] + fitted.ridge)
    machine = KernelMachine(fitted.x, jnp.asarray(weights.astype(fitted.x.dtype)), fitted.kernel)
    return jax.tree_util.Partial(kernel_logits, machine)


def class_weights(fitted: FittedKernelRegression, indices: Indices) -> np.ndarray:
    r"""The weights $c_i = \mathcal{Y}^\top v_i$ of some features, `(r, k)`, or `(r,)` if binary."""
    rows = positions(fitted, indices)
    return fitted.eigenvectors[:, rows].astype(np.float64).T @ np.asarray(
        fitted.targets, np.float64
    )


def classes_named(fitted: FittedKernelRegression, indices: Indices) -> np.ndarray:
    r"""The classes that each feature can name, `(r, 2)`: where $\phi_i > 0$ and where it is < 0.

    For a binary machine they are 0 and 1 in the order of the sign of $c_i$.
    """
    weights = class_weights(fitted, indices)
    if weights.ndim == 1:
        positive = (weights > 0).astype(int)
        return np.stack([positive, 1 - positive], axis=1)
    return np.stack([weights.argmax(axis=1), weights.argmin(axis=1)], axis=1)


def cap(fitted: FittedKernelRegression, indices: Indices, y: Int[Array, "b"]) -> np.ndarray:
    """The most that each feature's usefulness can be: the share of its two classes in `y`, `(r,)`.

    About 0.2 for ten balanced classes, whatever the feature; 1 for a binary machine.
    """
    labels = np.asarray(y)
    return np.array([np.isin(labels, two).mean() for two in classes_named(fitted, indices)])


def positions(fitted: FittedKernelRegression, indices: Indices) -> np.ndarray:
    """Positions of features in the ascending spectrum, checked."""
    n = len(fitted.eigenvalues)
    chosen = np.asarray(indices)
    if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"indices must be a list of feature numbers, got {indices}.")
    if chosen.min() < 0 or chosen.max() >= n or len(np.unique(chosen)) < len(chosen):
        raise ValueError(
            f"feature numbers must lie in 0..{n - 1}, 0 at the largest eigenvalue, each once; got "
            f"{chosen.min()} to {chosen.max()}."
        )
    rows = n - 1 - chosen
    zero = fitted.eigenvalues[rows] + fitted.ridge <= fitted.floor
    if zero.any():
        raise ValueError(
            f"feature {chosen[zero][0]} has an eigenvalue that is zero to rounding, so that it has "
            f"no scale: the kernel matrix is singular; take fewer features (the first "
            f"{int((fitted.eigenvalues + fitted.ridge > fitted.floor).sum())}), or a ridge."
        )
    return rows

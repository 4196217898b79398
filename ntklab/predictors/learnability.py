r"""Eigen-learnability: how much of a function a training set lets a kernel learn.

On a finite set of N points with kernel matrix $\Theta_N$, a training set of n of its rows maps the
targets of all N points to predictions at all N points, by a matrix T that is linear in nothing but
the targets. The learnability of a unit vector w is $\nu(w) = w^\top T w$: the share of w that is
found again. Without a ridge T is a projection of rank n, so that the learnabilities of any
orthonormal basis sum to n.

`learnabilities` computes them for a given training set. `eigenlearning` predicts those of the
kernel's eigenvectors, and the error on new points, from the eigenvalues alone.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.optimize

from ntklab._typing import Array, Float, Int, Number
from ntklab.predictors.flow import gradient_flow
from ntklab.predictors.gram_matrix import gram_matrix
from ntklab.predictors.kernel_regression import check_time


def learnabilities(
    matrix: Float[np.ndarray, "N N"] | Float[Array, "N N"],
    rows: Int[np.ndarray, " n"] | Int[Array, " n"],
    directions: Float[np.ndarray, "N r"] | Float[Array, "N r"],
    ridge: Number = 0.0,
    t: Number = math.inf,
) -> np.ndarray:
    r"""The learnabilities of some directions for one training set, exactly.

    $$\nu(w) = w^\top T w, \qquad T = \Theta(\cdot, \mathcal{X})\,(\Theta + \rho I)^{-1}
      \big(I - e^{-(\Theta + \rho I) t}\big)\,R,$$

    where $R$ takes the training rows. Over any orthonormal basis they sum to $\operatorname{tr} T =
    \sum_i \frac{\lambda_i}{\lambda_i + \rho} (1 - e^{-(\lambda_i + \rho) t})$ with the eigenvalues
    of the training matrix: to n at infinite time without a ridge.

    Args:
      matrix: kernel matrix of all points, `(N, N)`.
      rows: which of them are trained on, each once, `(n,)`.
      directions: unit vectors, one a column, `(N, r)`.
      ridge: $\rho \ge 0$, added to the diagonal as it is.
      t: time of gradient flow at learning rate 1; infinity by default.

    Returns:
      float64 on the host, `(r,)`. Of an eigenvector of `matrix` it lies in [0, 1].

    Cost: about `9 n^3 + 4 N n r` operations.

    Raises:
      ValueError: shapes that do not fit, rows out of range or given twice, a matrix of the training
        rows that is singular (without a ridge, at infinite time).

    Source: Simon et al. (2023), "The eigenlearning framework", definition of learnability and the
    conservation law; with time it is ours.

    >>> import numpy as np
    >>> print(learnabilities(np.diag([3.0, 2.0, 1.0]), np.array([0, 2]), np.eye(3)))
    [1. 0. 1.]
    """
    matrix, rows = np.asarray(matrix, np.float64), np.asarray(rows)
    directions = np.asarray(directions, np.float64)
    n, total = len(rows), len(matrix)
    if not n or rows.min() < 0 or rows.max() >= total or len(np.unique(rows)) < n:
        raise ValueError(f"rows must be different numbers in 0..{total - 1}, at least one.")
    if not ridge >= 0:
        raise ValueError(f"ridge must be a number >= 0, got {ridge}.")
    trained = gram_matrix(matrix[np.ix_(rows, rows)], n, "float64", "scipy")
    _, solution = gradient_flow(trained, directions[rows], float(ridge), "eigh")
    found = directions.T @ matrix[:, rows]
    return (found * solution.coefficients(check_time(t)).T).sum(axis=1)


class Eigenlearning(NamedTuple):
    r"""What the mean-field theory says of a kernel with given eigenvalues and n examples.

    Attributes:
      effective_ridge: $\bar\rho$.
      learnability: $\nu_i = n\mu_i / (n\mu_i + \bar\rho)$, as many as eigenvalues.
      overfitting: the factor $n / (n - \sum_i \nu_i^2)$; infinite at an interpolation peak.
    """

    effective_ridge: float
    learnability: np.ndarray
    overfitting: float

    def error(self, power: np.ndarray, noise: Number = 0.0) -> float:
        r"""The expected squared error on a new example.

        $$\frac{n}{n - \sum_i \nu_i^2} \Big( \sum_i (1 - \nu_i)^2 c_i^2 + \sigma^2 \Big)$$

        Args:
          power: $c_i^2$, squared coefficients of the target in eigenfunctions of mean square 1,
            `(r,)` for one output or `(r, k)`, then summed over outputs. From targets `y` on N
            points and unit eigenvectors `v` they are `(v.T @ y) ** 2 / N`.
          noise: variance $\sigma^2$ of the labels, summed over outputs; the new label has it too.

        Raises:
          ValueError: another number of coefficients than of eigenvalues.
        """
        power = np.asarray(power, np.float64)
        if power.ndim not in (1, 2) or len(power) != len(self.learnability):
            raise ValueError(
                f"power must have {len(self.learnability)} rows, one an eigenvalue, got shape "
                f"{power.shape}."
            )
        missed = (1 - self.learnability) ** 2 @ power.reshape(len(power), -1).sum(axis=1)
        return float(self.overfitting * (missed + noise))


def eigenlearning(
    eigenvalues: Float[np.ndarray, " r"] | Float[Array, " r"], n: int, ridge: Number = 0.0
) -> Eigenlearning:
    r"""Learnabilities from the eigenvalues of the kernel alone, in the mean field.

    The effective ridge $\bar\rho$ is the one number for which

    $$\sum_i \frac{n \mu_i}{n \mu_i + \bar\rho} = n \Big( 1 - \frac{\rho}{\bar\rho} \Big).$$

    Simon et al. write $\kappa = \bar\rho / n$. The theory takes the values of eigenfunctions at
    training points for independent; no bound of its error is known for real data.

    Args:
      eigenvalues: $\mu_i \ge 0$ of the kernel under the distribution of the data: those of the
        matrix of N points divided by N; `(r,)`, in any order.
      n: training examples.
      ridge: $\rho \ge 0$, as for `KernelRegression`.

    Returns:
      The prediction; learnabilities in the order of the eigenvalues.

    Cost: some 50 sums over the eigenvalues.

    Raises:
      ValueError: no eigenvalues, a negative one, `n` below 1, a negative ridge.

    Source: Simon et al. (2023), "The eigenlearning framework", the eigenlearning equations.

    >>> theory = eigenlearning(np.array([1.0, 1.0, 1.0, 1.0]), 2)
    >>> print(round(theory.effective_ridge, 9), theory.learnability, round(theory.overfitting, 9))
    2.0 [0.5 0.5 0.5 0.5] 2.0
    """
    scaled = n * _checked(eigenvalues, n, ridge)
    rank = int((scaled > 0).sum())
    if ridge == 0 and rank <= n:  # every function that the kernel has is learned
        rho, learned = 0.0, (scaled > 0).astype(np.float64)
    else:
        rho = _effective_ridge(scaled, n, float(ridge), rank)
        learned = scaled / (scaled + rho)
    left = n - float((learned**2).sum())
    return Eigenlearning(rho, learned, n / left if left > 0 else math.inf)


def _effective_ridge(scaled: np.ndarray, n: int, ridge: float, rank: int) -> float:
    """The root, on a logarithmic scale between bounds that are proved to hold it."""

    def excess(log_rho: float) -> float:
        rho = math.exp(log_rho)
        return float((scaled / (scaled + rho)).sum()) + n * ridge / rho - n

    # Every term is at most its numerator over rho; and with no ridge at least rank / n times what
    # is asked for at the lower bound.
    high = float(scaled.sum()) / n + ridge
    least = float(scaled[scaled > 0].min()) if rank else 0.0
    low = max(ridge, least * (rank / n - 1))
    a, b = math.log(low) - 1e-9, math.log(high) + 1e-9
    return math.exp(scipy.optimize.brentq(excess, a, b, xtol=1e-13, rtol=1e-14))


def _checked(eigenvalues: np.ndarray, n: int, ridge: Number) -> np.ndarray:
    """Eigenvalues in float64, those of zero to rounding as zeros, or one sentence."""
    values = np.asarray(eigenvalues, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues must be finite numbers (r,), got shape {values.shape}.")
    if n < 1 or not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"n must be at least 1 and ridge a finite number >= 0, got {n}, {ridge}.")
    floor = len(values) * np.finfo(np.float64).eps * max(float(values.max()), 0.0)
    if values.min() < -floor:
        raise ValueError(f"the eigenvalue {values.min():.1e} is negative: no kernel has it.")
    return np.where(values > floor, values, 0.0)

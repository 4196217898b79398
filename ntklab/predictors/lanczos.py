r"""Gradient flow by Lanczos: a few times of a matrix too large to decompose.

After `m` products with $\Theta$, the flow $\dot\alpha = \mathcal{Y} - (\Theta + \rho I)\,\alpha$ is
followed exactly in the Krylov space of each column $y$ of the targets,

$$\alpha_m(t) = |y|\,V_m\, g_t(T_m + \rho)\, e_1, \qquad
  \Theta V_m = V_m T_m + \beta_m v_{m+1} e_m^T.$$

Its residual is $\beta_m |e_m^T g_t(T_m + \rho)\,e_1|\,|y|$ and grows with $t$ (the corner entry of
$e^{-sT_m}$ has one sign for all $s$), so that it bounds the error of the scores on the training set
at time $t$. The iteration stops by it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from ntklab._common import float64
from ntklab.predictors.cholesky import Solved, solve
from ntklab.predictors.gram_matrix import GramMatrix
from ntklab.predictors.spectrum import SINGULAR_SHARE, flow_factor, refuse_negative

# Residuals are compared with the targets; sums are float64 whatever the matrix is stored in.
TOLERANCE = 1e-11
_MOST, _CHUNK = 2048, 64


@dataclasses.dataclass(frozen=True, eq=False)
class Krylov:
    r"""A matrix that is kept, and flows along it.

    Attributes:
      matrix: $\Theta$.
      targets: `(n, k)`, float64.
      ridge: $\rho$.
      direct: whether infinite time is solved by Cholesky.
    """

    matrix: GramMatrix
    targets: np.ndarray
    ridge: float
    direct: bool

    @functools.cached_property
    def solved(self) -> Solved:
        """The Cholesky solution, once."""
        return solve(self.matrix, self.targets, self.ridge)

    @property
    def condition_number(self) -> float:
        """Of the Cholesky solution."""
        if not self.direct:
            raise ValueError('solver="lanczos" gives no condition number: use "auto" or "eigh".')
        return self.solved.condition_number

    @property
    def jitter(self) -> float:
        """Of the Cholesky solution; Lanczos needs none."""
        return self.solved.jitter if self.direct else 0.0

    @functools.cached_property
    def largest_eigenvalue(self) -> float:
        r"""Of $\Theta$, by ARPACK."""
        return largest_eigenvalue(self.matrix)

    def coefficients(self, time: float) -> np.ndarray:
        """The coefficients at a time, `(n, k)`."""
        if time == 0:
            return np.zeros_like(self.targets)
        if time == math.inf and self.direct:
            return self.solved.coefficients(time)
        return lanczos_flow(self.matrix, self.targets, self.ridge, time)


def lanczos_flow(
    matrix: GramMatrix, targets: np.ndarray, ridge: float, time: float, most: int = _MOST
) -> np.ndarray:
    r"""The coefficients $g_t(\Theta + \rho I)\,\mathcal{Y}$ at one time, all columns in step.

    Args:
      matrix: $\Theta$.
      targets: `(n, k)`, float64.
      ridge: $\rho$.
      time: learning rate times time, above 0; infinity is allowed.
      most: products at most.

    Returns:
      float64, `(n, k)`; the scores on the training set are right to `TOLERANCE` of the targets.

    Cost: `m` products of `2 n^2 k` operations and `8 m^2 n k` for orthogonality (in full, twice);
    memory `m n k` float64 numbers. `m` grows at most as the root of largest eigenvalue times time.

    Raises:
      ValueError: no convergence, a matrix that is not positive semidefinite, or, at infinite time,
        one that is singular with targets that contradict it.

    Source: Saad (1992), "Analysis of some Krylov subspace approximations to the matrix exponential
    operator", section 5; Botchev, Grimm and Hochbruck (2013) for the residual.
    """
    columns = _Columns(matrix, targets)
    size = math.inf
    for m in range(1, min(most, len(matrix)) + 1):
        columns.extend()
        if m % 8 == 0 or m == len(matrix) or not columns.next_norms.any():
            weights, size = columns.project(ridge, time)
            if size <= TOLERANCE or not columns.next_norms.any() or m == len(matrix):
                break
    else:
        raise ValueError(
            f"Lanczos did not converge in {most} products (residual {size:.0e} of the targets): "
            'use solver="eigh" or "cholesky", a shorter time or a larger ridge.'
        )
    alpha = columns.combine(weights)
    if time == math.inf:
        left = targets - np.asarray(matrix.product(alpha.T)).T - ridge * alpha
        if np.linalg.norm(left) > SINGULAR_SHARE * np.linalg.norm(targets):
            raise ValueError(
                "the kernel matrix is singular and the targets contradict it, for example by one "
                "input with two targets: use a ridge above 0, or a finite time."
            )
    return alpha


class _Columns:
    """One Krylov space for each column of the targets, as chunks `(k, 64, n)` of basis vectors."""

    def __init__(self, matrix: GramMatrix, targets: np.ndarray):
        self.matrix, self.xp = matrix, jnp if matrix.on_device else np
        self.norms = np.linalg.norm(targets, axis=0)
        self.chunks, self.diagonal, self.beside = [], [], []
        self.next_norms, self.scale = self.norms, 0.0
        with float64():
            self.next = self._unit(self.xp.asarray(targets.T), self.norms)

    def extend(self) -> None:
        """One product with the matrix, and the next basis vector."""
        with float64():
            self._append(self.next)
            w = self.matrix.product(self.next)
            self.diagonal.append(np.asarray((self.next * w).sum(axis=1)))
            for _ in range(2):
                for chunk in self.chunks:
                    w = w - _onto(self.xp, chunk, w)
            norms = np.asarray(self.xp.sqrt((w * w).sum(axis=1)))
            self.scale = max(self.scale, float(np.abs(self.diagonal[-1]).max()), norms.max())
            # The space is invariant to rounding: this column is done.
            norms = np.where(norms > 64 * np.finfo(float).eps * self.scale, norms, 0.0)
            self.next, self.next_norms = self._unit(w, norms), norms
            self.beside.append(norms)

    def project(self, ridge: float, time: float) -> tuple[np.ndarray, float]:
        """Weights `(k, m)` of the basis vectors, and the largest residual over the targets."""
        diagonal, beside = np.stack(self.diagonal), np.stack(self.beside)
        weights, residual = np.zeros(diagonal.T.shape), 0.0
        for c in np.flatnonzero(self.norms):
            # A column that is done has a shorter matrix than the others.
            m = int(np.argmax(beside[:, c] == 0)) + 1 if not beside[:, c].all() else len(diagonal)
            ritz, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:m, c], beside[: m - 1, c])
            floor = self.matrix.floor(float(ritz[-1]))
            refuse_negative(float(ritz[0]), floor)
            weights[c, :m] = vectors @ (flow_factor(ritz, ridge, time, floor) * vectors[0])
            residual = max(residual, float(beside[m - 1, c] * abs(weights[c, m - 1])))
        return weights, residual

    def combine(self, weights: np.ndarray) -> np.ndarray:
        """The sums of the basis vectors, `(n, k)`, on the host."""
        total = 0.0
        for i, chunk in enumerate(self.chunks):
            part = np.zeros((len(weights), 1, _CHUNK))
            given = weights[:, i * _CHUNK : (i + 1) * _CHUNK]
            part[:, 0, : given.shape[1]] = given
            with float64():
                total = total + np.asarray(self.xp.matmul(self.xp.asarray(part), chunk))[:, 0]
        return (total * self.norms[:, None]).T

    def _append(self, vectors: Any) -> None:
        place = len(self.diagonal) % _CHUNK
        if place == 0:
            self.chunks.append(self.xp.zeros((vectors.shape[0], _CHUNK, vectors.shape[1])))
        if self.matrix.on_device:
            self.chunks[-1] = self.chunks[-1].at[:, place].set(vectors)
        else:
            self.chunks[-1][:, place] = vectors

    def _unit(self, vectors: Any, norms: np.ndarray) -> Any:
        inverse = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1.0), 0.0)
        return vectors * self.xp.asarray(inverse)[:, None]


def _onto(xp: Any, chunk: Any, w: Any) -> Any:
    """The part of each `w` in the span of its chunk's rows."""
    shares = xp.matmul(chunk, w[:, :, None])
    return xp.matmul(xp.swapaxes(shares, 1, 2), chunk)[:, 0]


def largest_eigenvalue(matrix: GramMatrix) -> float:
    """The largest eigenvalue to a relative 1e-8, through ARPACK; about 20 products."""
    n = len(matrix)
    if n < 3:  # ARPACK needs room
        return float(np.linalg.eigvalsh(np.asarray(matrix.values, np.float64))[-1])
    operator = scipy.sparse.linalg.LinearOperator(
        (n, n), lambda v: np.asarray(matrix.product(v.reshape(1, n)))[0], dtype=np.float64
    )
    start = np.ones(n)
    return float(
        scipy.sparse.linalg.eigsh(operator, k=1, v0=start, tol=1e-8, return_eigenvectors=False)[0]
    )

r"""Kernel regression at $t = \infty$ from one Cholesky factorisation, refined in float64."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from ntklab._common import float64
from ntklab.predictors.gram_matrix import GramMatrix
from ntklab.predictors.spectrum import SINGULAR_SHARE

_REFINEMENTS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    r"""The solution of $(\Theta + \rho I)\,\alpha = \mathcal{Y}$.

    Attributes:
      solution: $\alpha$, float64, `(n, k)`.
      condition_number: estimate in the 1-norm, which is at least that of the 2-norm and at most
        `n` times it.
      jitter: what was added to the diagonal of the factorised matrix. Refinement takes its effect
        on the solution away again.
      residual: $|\mathcal{Y} - (\Theta + \rho I)\,\alpha| / |\mathcal{Y}|$, in float64.
    """

    solution: np.ndarray
    condition_number: float
    jitter: float
    residual: float

    def coefficients(self, time: float) -> np.ndarray:
        """The solution, at infinite time; zeros at time zero."""
        if 0 < time < math.inf:
            raise ValueError(
                'solver="cholesky" has no finite times: use solver="eigh" for a sweep of times, '
                '"lanczos" for a few, or "auto".'
            )
        return self.solution if time else np.zeros_like(self.solution)


def solve(matrix: GramMatrix, targets: np.ndarray, ridge: float) -> Solved:
    r"""Solve $(\Theta + \rho I)\,\alpha = \mathcal{Y}$ for targets `(n, k)`.

    A factorisation that breaks down is repeated with a jitter of $4\sqrt n$ roundoffs of the
    largest entry, and then a hundred times that; a warning says so.

    Cost: `n^3 / 3` operations, and `6 n^2 k` for every one of up to 10 refinements; one more array
    of the matrix's size (three on a device).

    Raises:
      ValueError: a matrix that is not positive semidefinite to rounding, or one that is singular
        with targets that contradict it.
    """
    least = 4 * math.sqrt(len(matrix)) * matrix.roundoff * matrix.scale
    factorise = _factorise_on_device if matrix.on_device else _factorise
    for jitter in (0.0, least, 100 * least):
        factor = factorise(matrix, ridge + jitter)
        if factor is not None:
            break
    else:
        raise ValueError(
            f"the kernel matrix is not positive semidefinite: its Cholesky factorisation breaks "
            f"down even with {jitter:.1e} added to the diagonal."
        )
    if jitter:
        warnings.warn(
            f"the kernel matrix is singular to rounding: {jitter:.1e} was added to its diagonal "
            "for the factorisation; a ridge above 0 would make it regular.",
            stacklevel=2,
        )
    backward, condition = factor
    solution, residual = _refined(matrix, targets, ridge, backward)
    # A matrix known to 7 digits only lets a solution miss the targets by more than one known to 16.
    if residual > max(SINGULAR_SHARE, 100 * math.sqrt(len(matrix)) * matrix.roundoff):
        raise ValueError(
            f"the kernel matrix is singular to rounding (condition about {condition:.0e}) and the "
            f"targets contradict it (residual {residual:.0e}), for example by one input with two "
            "targets: use a ridge above 0, or a finite time."
        )
    return Solved(solution, math.inf if jitter else condition, jitter, residual)


def _refined(matrix: GramMatrix, targets: np.ndarray, ridge: float, backward: Callable) -> Any:
    """Iterative refinement while it halves the residual: `(alpha, relative residual)`."""
    norm = max(float(np.linalg.norm(targets)), np.finfo(float).tiny)
    best, alpha, left, size = None, np.zeros_like(targets), targets, math.inf
    for _ in range(_REFINEMENTS + 1):
        alpha = alpha + backward(left)
        left = targets - np.asarray(matrix.product(alpha.T)).T - ridge * alpha
        before, size = size, float(np.linalg.norm(left)) / norm
        if best is None or size < best[1]:
            best = alpha, size
        if not size < before / 2:
            break
    return best


def _factorise(matrix: GramMatrix, shift: float) -> tuple[Callable, float] | None:
    """Backward solves and condition through LAPACK; None when the matrix is not positive."""
    n = len(matrix)
    copy = np.array(matrix.values, matrix.dtype, order="F")
    copy[np.arange(n), np.arange(n)] += matrix.dtype.type(shift)
    potrf, pocon, lange = scipy.linalg.get_lapack_funcs(("potrf", "pocon", "lange"), (copy,))
    norm = lange("1", copy)
    factor, info = potrf(copy, lower=True, clean=False, overwrite_a=True)
    if info != 0:
        return None
    reciprocal, _ = pocon(factor, norm, uplo="L")

    def backward(right):
        right = right.astype(matrix.dtype)
        return scipy.linalg.cho_solve((factor, True), right, check_finite=False).astype(np.float64)

    return backward, float(1 / reciprocal) if reciprocal > 0 else math.inf


def _factorise_on_device(matrix: GramMatrix, shift: float) -> tuple[Callable, float] | None:
    """The same through JAX; the condition by SciPy's estimator of the norm of the inverse."""
    n = len(matrix)
    with float64():
        factor, norm = _device_factor(
            matrix.values.astype(matrix.dtype), jnp.asarray(shift, matrix.dtype)
        )
        if not bool(jnp.isfinite(factor[-1, -1])):
            return None

    def backward(right):
        with float64():
            right = jnp.asarray(np.asarray(right, matrix.dtype).reshape(n, -1))
            return np.asarray(_device_solve(factor, right)).astype(np.float64)

    inverse = scipy.sparse.linalg.LinearOperator(
        (n, n), backward, rmatvec=backward, matmat=backward, rmatmat=backward, dtype=np.float64
    )
    # Its default, two columns, starts from random numbers.
    estimate = scipy.sparse.linalg.onenormest(inverse, t=1)
    return backward, float(norm) * float(estimate)


@jax.jit
def _device_factor(values: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cholesky factor (NaN where it breaks down) and 1-norm of `values + shift I`."""
    shifted = values + shift * jnp.eye(len(values), dtype=values.dtype)
    norm = jnp.abs(shifted).sum(axis=0).max()
    return jax.scipy.linalg.cho_factor(shifted, lower=True)[0], norm


@jax.jit
def _device_solve(factor: jax.Array, right: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve((factor, True), right)

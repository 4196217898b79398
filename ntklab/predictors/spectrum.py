r"""Gradient flow from one eigendecomposition: every time, at `n^2` each."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special

from ntklab._common import float64
from ntklab.predictors.gram_matrix import GramMatrix

# Targets may have this share of their norm on null directions and still count as consistent:
# rounding tilts the computed null space by about the unit roundoff times the condition of the rest.
SINGULAR_SHARE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Eigenvalues and eigenvectors of $\Theta$, with targets and ridge.

    Attributes:
      targets: `(n, k)`, float64.
      ridge: $\rho$.
      eigenvalues: of $\Theta$, ascending, float64, `(n,)`.
      eigenvectors: one a column, `(n, n)`.
      floor: eigenvalues up to this are zero to rounding.
    """

    targets: np.ndarray
    ridge: float
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    floor: float
    jitter: float = 0.0

    @property
    def condition_number(self) -> float:
        r"""Largest over smallest eigenvalue of $\Theta + \rho I$; infinite when singular."""
        smallest, largest = self.eigenvalues[[0, -1]] + self.ridge
        return float(largest / smallest) if smallest > self.floor else math.inf

    @property
    def largest_eigenvalue(self) -> float:
        r"""Of $\Theta$."""
        return float(self.eigenvalues[-1])

    def coefficients(self, time: float) -> np.ndarray:
        """`V g(Lambda + ridge) V^T Y`, `(n, k)`."""
        projected = self.eigenvectors.T @ self.targets.astype(self.eigenvectors.dtype)
        scale = flow_factor(self.eigenvalues, self.ridge, time, self.floor)
        if time == math.inf:
            lost = scale == 0
            if np.linalg.norm(projected[lost]) > SINGULAR_SHARE * np.linalg.norm(projected):
                raise ValueError(
                    f"the kernel matrix is singular ({lost.sum()} of {len(lost)} eigenvalues are "
                    "zero to rounding) and the targets contradict it, for example by one input "
                    "with two targets: use a ridge above 0, or a finite time."
                )
        return (self.eigenvectors @ (scale[:, None] * projected)).astype(np.float64)


def decompose(matrix: GramMatrix, targets: np.ndarray, ridge: float) -> Spectrum:
    """The spectrum of a positive semidefinite matrix.

    Cost: about `9 n^3` operations; three arrays of the matrix's size in its dtype, on the device
    if it is there.

    Raises:
      ValueError: an eigenvalue below zero by more than rounding.
    """
    if matrix.on_device:
        with float64():
            pair = jnp.linalg.eigh(matrix.values.astype(matrix.dtype), symmetrize_input=False)
            eigenvalues, eigenvectors = (np.asarray(a) for a in pair)
    else:
        copy = np.array(matrix.values, matrix.dtype, order="F")
        eigenvalues, eigenvectors = scipy.linalg.eigh(
            copy, driver="evd", overwrite_a=True, check_finite=False
        )
    eigenvalues = eigenvalues.astype(np.float64)
    floor = matrix.floor(float(eigenvalues[-1]))
    refuse_negative(float(eigenvalues[0]), floor)
    return Spectrum(targets, ridge, eigenvalues, eigenvectors, floor)


def flow_factor(eigenvalues: np.ndarray, ridge: float, time: float, floor: float) -> np.ndarray:
    r"""$(1 - e^{-s t}) / s$ at $s = \max(\lambda, 0) + \rho$; at infinite time 0 where $s$ is 0."""
    spectrum = np.maximum(eigenvalues, 0.0) + ridge
    if time < math.inf:
        # exprel(z) = (exp(z) - 1) / z, exact at and near 0: no cancellation, no division.
        return time * scipy.special.exprel(-time * spectrum)
    zero = spectrum <= floor
    return np.where(zero, 0.0, 1 / np.where(zero, 1.0, spectrum))


def refuse_negative(smallest: float, floor: float) -> None:
    """Raise one sentence for an eigenvalue below zero by more than rounding."""
    if smallest < -floor:
        raise ValueError(
            f"the kernel matrix has the eigenvalue {smallest:.1e}, below zero by more than "
            f"rounding ({floor:.1e}): the kernel is not positive semidefinite."
        )

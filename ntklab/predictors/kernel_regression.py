r"""Kernel regression by gradient flow, solved exactly from one eigendecomposition."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special

from ntklab._common import check_batch, check_finite, float64
from ntklab._typing import Array, Float
from ntklab.predictors.kernel_machine import KernelMachine, kernel_logits

# Targets may have this share of their norm on null directions and still count as consistent:
# rounding tilts the computed null space by about the unit roundoff times the condition of the rest.
_SINGULAR_SHARE = 1e-6

Number = float | int | np.floating | np.integer


@dataclasses.dataclass(frozen=True, eq=False)
class FittedKernelRegression:
    r"""What `KernelRegression.fit` returns: the spectrum, from which every time follows.

    With $\Theta = V \Lambda V^\top$, ridge $\rho$ and learning rate $\lambda$,

    $$\alpha(t) = V\, g_t(\Lambda + \rho)\, V^\top \mathcal{Y}, \qquad
      g_t(s) = \frac{1 - e^{-\lambda s t}}{s}, \qquad f_t(x) = \Theta(x, \mathcal{X})\,\alpha(t),$$

    which is $\Theta^{-1}(I - e^{-\lambda \Theta t})\mathcal{Y}$ without a ridge, and
    $(\Theta + \rho I)^{-1}\mathcal{Y}$ at $t = \infty$.

    Attributes:
      kernel: the kernel.
      x: training inputs as given, `(n, ...)`.
      targets: as given, `(n,)` or `(n, k)`.
      ridge: $\rho$.
      learning_rate: $\lambda$.
      eigenvalues: of $\Theta$, without the ridge, float64, ascending, `(n,)`. Rounding may leave
        the smallest ones just below zero.
      eigenvectors: $V$, one a column, float64, `(n, n)`.
      floor: eigenvalues up to this are zero to rounding: $n$ times the largest times the unit
        roundoff of the kernel matrix.
    """

    kernel: Callable
    x: Array
    targets: Array
    ridge: float
    learning_rate: float
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    floor: float

    @property
    def condition_number(self) -> float:
        r"""Largest over smallest eigenvalue of $\Theta + \rho I$; infinite when singular."""
        smallest, largest = self.eigenvalues[[0, -1]] + self.ridge
        return float(largest / smallest) if smallest > self.floor else math.inf

    def coefficients(self, t: Number = math.inf) -> np.ndarray:
        r"""The coefficients $\alpha(t)$ of the kernel machine at time `t`.

        Args:
          t: time, at least 0; infinity by default. In units of `1 / (learning_rate eigenvalue)`.

        Returns:
          float64 on the host, `(n,)` or `(n, k)` as the targets are.

        Cost: `4 n^2 k` operations, memory `2 n k`.

        Raises:
          ValueError: a negative or NaN time; `t = inf` with a singular kernel matrix whose targets
            contradict it.
        """
        y = np.asarray(self.targets, np.float64)
        projected = self.eigenvectors.T @ y
        scale = self._flow(_time(t), projected)
        return self.eigenvectors @ (scale.reshape(-1, *[1] * (y.ndim - 1)) * projected)

    def logits_fn(self, t: Number = math.inf) -> jax.tree_util.Partial:
        r"""The predictor $f_t$ as a logits function: `Partial(kernel_logits, machine)`.

        It computes in the dtype of the training inputs, to which the coefficients are rounded;
        `kernel_logits` states what float32 costs. `predict` computes in float64.

        Args:
          t: time, at least 0; infinity by default.

        Returns:
          A pytree and function `(b, ...) -> (b, k)`, or `(b,)` for targets `(n,)`.

        Cost and errors: those of `coefficients`.
        """
        coefficients = jnp.asarray(self.coefficients(t).astype(self.x.dtype))
        return jax.tree_util.Partial(
            kernel_logits, KernelMachine(self.x, coefficients, self.kernel)
        )

    def predict(self, x: Float[Array, "b ..."], times: Iterable[Number]) -> Float[Array, "t b ..."]:
        r"""The scores $f_t(x)$ at many times, computed in float64.

        Args:
          x: inputs, `(b, ...)`.
          times: times, at least 0; infinity is allowed.

        Returns:
          `(len(times), b)` or `(len(times), b, k)`, rounded to the dtype of `x`.

        Cost: `b n` kernel entries once, in float64, and `2 b n k` operations a time.

        Raises:
          ValueError: no times, or one that `coefficients` refuses.
        """
        check_batch("x", x)
        each = [self.coefficients(t) for t in times]
        if not each:
            raise ValueError("times is empty: give at least one, for example [float('inf')].")
        stacked = np.stack(each, axis=1).reshape(len(each[0]), -1)
        with float64():
            machine = KernelMachine(_wide(self.x), jnp.asarray(stacked), self.kernel)
            scores = np.asarray(kernel_logits(machine, _wide(x)))
        scores = scores.reshape(len(scores), len(each), *each[0].shape[1:])
        return jnp.asarray(np.moveaxis(scores, 1, 0).astype(x.dtype))

    def _flow(self, t: float, projected: np.ndarray) -> np.ndarray:
        """The factor `g_t` of every eigendirection."""
        spectrum = np.maximum(self.eigenvalues, 0.0) + self.ridge
        if t < math.inf:
            # exprel(z) = (exp(z) - 1) / z, exact at and near 0: no cancellation, no division.
            time = self.learning_rate * t
            return time * scipy.special.exprel(-time * spectrum)
        zero = spectrum <= self.floor
        if np.linalg.norm(projected[zero]) > _SINGULAR_SHARE * np.linalg.norm(projected):
            raise ValueError(
                f"the kernel matrix is singular ({zero.sum()} of {len(zero)} eigenvalues are zero "
                "to rounding) and the targets contradict it, for example by one input with two "
                "targets: use a ridge above 0, or a finite time."
            )
        return np.where(zero, 0.0, 1 / np.where(zero, 1.0, spectrum))


@dataclasses.dataclass(frozen=True)
class KernelRegression:
    r"""Gradient flow on the squared error, in the space of the kernel, from zero.

    The flow $\dot\alpha = -\lambda\,((\Theta + \rho I)\,\alpha - \mathcal{Y})$ descends
    $\tfrac12 |f(\mathcal{X}) - \mathcal{Y}|^2 + \tfrac{\rho}{2} |f|^2_{\mathcal{H}}$, a sum over
    examples and not a mean. Its solution is

    $$f_t(x) = \Theta(x, \mathcal{X})\,(\Theta + \rho I)^{-1}
      \big(I - e^{-\lambda (\Theta + \rho I) t}\big)\,\mathcal{Y}.$$

    So at $t = \infty$ it is ridge regression, and without a ridge it interpolates. A time `t` here
    is the time `t N` of neural-tangents, whose loss is a mean over `N = y.size` numbers.

    Args:
      kernel: a hashable function `kernel(x1, x2=None)`; those of `ntklab.kernels` have closed
        gradients.
      ridge: $\rho \ge 0$, absolute: it is added to the diagonal as it is.
      learning_rate: $\lambda > 0$; only `learning_rate * t` matters.

    Raises:
      ValueError: a negative ridge, or a learning rate that is not positive.

    Source: Jacot et al. (2018), section 5; Tsilivis and Kempe (2022), eq. 3; with a ridge, Lee
    et al. (2020), "Finite versus infinite neural networks", section 2.

    >>> import jax.numpy as jnp
    >>> from ntklab.kernels import TwoLayerNTK
    >>> fitted = KernelRegression(TwoLayerNTK()).fit(jnp.eye(2), jnp.array([1.0, -1.0]))
    >>> print(fitted.coefficients(), fitted.condition_number)
    [ 2. -2.] 1.0
    """

    kernel: Callable
    ridge: Number = 0.0
    learning_rate: Number = 1.0

    def __post_init__(self):
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge must be a finite number >= 0, got {self.ridge}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(
                f"learning_rate must be a finite number > 0, got {self.learning_rate}."
            )

    def fit(
        self, x: Float[Array, "n ..."], targets: Float[Array, "n ..."]
    ) -> FittedKernelRegression:
        """Compute the kernel matrix and its eigendecomposition, both in float64.

        Args:
          x: training inputs, `(n, ...)`.
          targets: `(n,)` for one score, `(n, k)` for `k`; floating point.

        Returns:
          The fitted regression, from which every time costs `n^2 k`.

        Cost: `n^2 / 2` kernel entries and about `9 n^3` operations, on one core 5 to 15 s for 3,000
        inputs and several minutes for 12,000; memory about `6 n^2` float64 numbers (0.4 GB, 7 GB).

        Raises:
          TypeError: inputs or targets that are not floating point.
          ValueError: NaN or infinities, shapes that do not fit, a kernel matrix that is not
            symmetric and positive semidefinite.
        """
        check_batch("x", x)
        _check_targets(targets, len(x))
        with float64():
            gram = np.asarray(self.kernel(_wide(x)))
        roundoff = float(np.finfo(gram.dtype).eps)
        gram = gram.astype(np.float64)
        _check_gram(gram, len(x), roundoff)
        eigenvalues, eigenvectors = scipy.linalg.eigh(
            gram, driver="evd", overwrite_a=True, check_finite=False
        )
        floor = max(len(x), 16) * roundoff * max(float(eigenvalues[-1]), 0.0)
        if eigenvalues[0] < -floor:
            raise ValueError(
                f"the kernel matrix has the eigenvalue {eigenvalues[0]:.1e}, below zero by more "
                f"than rounding ({floor:.1e}): the kernel is not positive semidefinite."
            )
        return FittedKernelRegression(
            self.kernel,
            x,
            targets,
            float(self.ridge),
            float(self.learning_rate),
            eigenvalues,
            eigenvectors,
            floor,
        )


def _wide(x: Array) -> Array:
    """`x` in float64; to be called inside `float64()`."""
    return jnp.asarray(np.asarray(x, np.float64))


def _time(t: Any) -> float:
    """`t` as a float, or one sentence."""
    if np.ndim(t) != 0 or not t >= 0:
        raise ValueError(f"a time must be one number >= 0 (float('inf') is allowed), got {t}.")
    return float(t)


def _check_targets(targets: Array, n: int) -> None:
    """Raise one sentence unless `targets` are floating point, finite, `(n,)` or `(n, k)`."""
    if not jnp.issubdtype(jnp.result_type(targets), jnp.floating):
        raise TypeError(
            f"targets must be floating point, got {jnp.result_type(targets)}: use +1 and -1 or "
            "one-hot rows (`Dataset.signed`, `Dataset.one_hot`)."
        )
    if jnp.ndim(targets) not in (1, 2) or len(targets) != n:
        raise ValueError(f"targets must have shape ({n},) or ({n}, k), got {jnp.shape(targets)}.")
    check_finite("targets", targets)


def _check_gram(gram: np.ndarray, n: int, roundoff: float) -> None:
    """Raise one sentence unless the kernel gave a finite symmetric matrix."""
    if gram.shape != (n, n):
        raise ValueError(f"the kernel must give an ({n}, {n}) matrix, got {gram.shape}.")
    check_finite("the kernel matrix", gram)
    if np.abs(gram - gram.T).max() > 100 * roundoff * np.abs(gram).max():
        raise ValueError("the kernel matrix is not symmetric; look at the kernel.")

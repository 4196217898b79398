r"""Kernel regression by gradient flow: exact at every time, by the solver that fits the size."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import check_batch, check_finite, float64
from ntklab._typing import Array, Float, Number
from ntklab.predictors.flow import Solution, check_flow_settings, gradient_flow
from ntklab.predictors.gram_matrix import engine_of, evaluate, gram_matrix
from ntklab.predictors.kernel_machine import KernelMachine, kernel_logits


@dataclasses.dataclass(frozen=True, eq=False)
class FittedKernelRegression:
    r"""What `KernelRegression.fit` returns: from it every time follows that its solver has.

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
      solver: `"eigh"`, `"cholesky"`, `"lanczos"`, or `"cholesky and lanczos"`.
      solution: what the solver computed.
    """

    kernel: Callable
    x: Array
    targets: Array
    ridge: float
    learning_rate: float
    solver: str
    solution: Solution

    @property
    def eigenvalues(self) -> np.ndarray:
        r"""Of $\Theta$, without the ridge, float64, ascending, `(n,)`; `solver="eigh"` only.

        Rounding may leave the smallest ones just below zero.
        """
        return self._spectrum("eigenvalues")

    @property
    def eigenvectors(self) -> np.ndarray:
        r"""$V$, one a column, `(n, n)`; `solver="eigh"` only."""
        return self._spectrum("eigenvectors")

    @property
    def floor(self) -> float:
        """Eigenvalues up to this are zero to rounding: `n` roundoffs of the largest one."""
        return self._spectrum("floor")

    @property
    def condition_number(self) -> float:
        r"""Of $\Theta + \rho I$; infinite when singular.

        By eigenvalues, largest over smallest. By Cholesky, LAPACK's estimate in the 1-norm, which
        is at least as large and at most `n` times that.
        """
        return self.solution.condition_number

    @property
    def jitter(self) -> float:
        """What the Cholesky factorisation had to add to the diagonal; 0 for other solvers."""
        return self.solution.jitter

    @property
    def max_learning_rate(self) -> float:
        r"""Gradient descent on the same loss converges below $2 / (\lambda_{\max} + \rho)$."""
        if not hasattr(self.solution, "largest_eigenvalue"):
            self._spectrum("largest eigenvalue")
        return 2 / (self.solution.largest_eigenvalue + self.ridge)

    def _spectrum(self, name: str) -> Any:
        if not hasattr(self.solution, name):
            raise ValueError(
                f'solver="{self.solver}" gives no {name}: fit with solver="eigh" for the spectrum.'
            )
        return getattr(self.solution, name)

    def coefficients(self, t: Number = math.inf) -> np.ndarray:
        r"""The coefficients $\alpha(t)$ of the kernel machine at time `t`.

        Args:
          t: time, at least 0; infinity by default. In units of `1 / (learning_rate eigenvalue)`.

        Returns:
          float64 on the host, `(n,)` or `(n, k)` as the targets are.

        Cost: `4 n^2 k` operations, memory `2 n k`, after an eigendecomposition; nothing after
        Cholesky; for Lanczos `m` products with the matrix, see `KernelRegression`.

        Raises:
          ValueError: a negative or NaN time; `t = inf` with a singular kernel matrix whose targets
            contradict it; a finite time with `solver="cholesky"`.
        """
        return self.solution.coefficients(self.learning_rate * check_time(t)).reshape(
            jnp.shape(self.targets)
        )

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
      solver: how the flow is solved.

        * `"eigh"`: one eigendecomposition, about `9 n^3` operations, from which every time, the
          spectrum and the condition number follow. For a sweep of times.
        * `"cholesky"`: `n^3 / 3` operations, infinite time only. For one regression.
        * `"lanczos"`: some ten to a thousand products of `2 n^2 k` operations for each time, and
          the matrix stays where it is, on disk too. For a few times of many examples.
        * `"auto"` (default): `"eigh"` up to 4,096 examples (12,288 with JAX on an accelerator),
          where it takes less than a minute; above, Cholesky for infinite time and Lanczos for
          finite ones, each when asked for.
      engine: `"scipy"` (host), `"jax"` (JAX's default device), or `"auto"`: JAX where its default
        device is an accelerator.
      dtype: `"float64"` (default) or `"float32"`, in which the kernel is computed and decomposed.
        Products for Lanczos and for refinement are summed in float64 either way.

    Raises:
      ValueError: a negative ridge, a learning rate that is not positive, an unknown solver,
        engine or dtype.

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
    solver: str = "auto"
    engine: str = "auto"
    dtype: str = "float64"

    def __post_init__(self):
        check_flow_settings(self.ridge, self.learning_rate, self.solver, self.engine, self.dtype)

    def fit(
        self,
        x: Float[Array, "n ..."],
        targets: Float[Array, "n ..."],
        gram: Any = None,
    ) -> FittedKernelRegression:
        """Compute the kernel matrix, check it, and decompose or keep it.

        Args:
          x: training inputs, `(n, ...)`.
          targets: `(n,)` for one score, `(n, k)` for `k`; floating point.
          gram: the kernel matrix of `x`, `(n, n)`, when it is there already: a NumPy or JAX array,
            or a memory map such as `np.load(path, mmap_mode="r")`. Float32 entries are taken as
            exact to their 7 digits. It is never changed.

        Returns:
          The fitted regression.

        Cost: `n^2 / 2` kernel entries, unless `gram` is given, and those of the solver; memory in
        matrices of `8 n^2` bytes: about 6 for `"eigh"`, 2 for `"cholesky"`, 1 for `"lanczos"` (0
        with a memory map). CPU seconds measured on two cores, kernel included: 3,000 MNIST images
        19 by `"eigh"` and 5 by `"cholesky"`; 12,000 images 46 by `"cholesky"`, in 2.6 GiB.

        Raises:
          TypeError: inputs, targets or `gram` that are not floating point.
          ValueError: NaN or infinities, shapes that do not fit, a kernel matrix that is not
            symmetric and positive semidefinite.
        """
        check_batch("x", x)
        check_targets(targets, len(x))
        engine = engine_of(self.engine)
        values = evaluate(self.kernel, x, self.dtype, engine) if gram is None else gram
        matrix = gram_matrix(values, len(x), self.dtype, engine)
        del values
        columns = np.asarray(targets, np.float64).reshape(len(x), -1)
        solver, solution = gradient_flow(matrix, columns, float(self.ridge), self.solver)
        settings = float(self.ridge), float(self.learning_rate)
        return FittedKernelRegression(self.kernel, x, targets, *settings, solver, solution)


def _wide(x: Array) -> Array:
    """`x` in float64; to be called inside `float64()`."""
    return jnp.asarray(np.asarray(x, np.float64))


def check_time(t: Any) -> float:
    """`t` as a float, or one sentence."""
    if np.ndim(t) != 0 or not t >= 0:
        raise ValueError(f"a time must be one number >= 0 (float('inf') is allowed), got {t}.")
    return float(t)


def check_targets(targets: Array, n: int) -> None:
    """Raise one sentence unless `targets` are floating point, finite, `(n,)` or `(n, k)`."""
    if not jnp.issubdtype(jnp.result_type(targets), jnp.floating):
        raise TypeError(
            f"targets must be floating point, got {jnp.result_type(targets)}: use +1 and -1 or "
            "one-hot rows (`Dataset.signed`, `Dataset.one_hot`)."
        )
    if jnp.ndim(targets) not in (1, 2) or len(targets) != n:
        raise ValueError(f"targets must have shape ({n},) or ({n}, k), got {jnp.shape(targets)}.")
    check_finite("targets", targets)

r"""Kernel machines with a margin: hinge, squared hinge and epsilon-insensitive losses."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import check_batch, float64, progress
from ntklab._typing import Array, Float, Number
from ntklab.predictors import dual_ascent
from ntklab.predictors.dual_ascent import LOSSES, primal_and_dual
from ntklab.predictors.gram_matrix import evaluate, gram_matrix
from ntklab.predictors.kernel_machine import KernelMachine, kernel_logits
from ntklab.predictors.kernel_regression import check_targets

# Steps of the flow in one compiled program.
_CHUNK = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class FittedKernelSVM:
    r"""What `KernelSVM` returns: coefficients, and how far they are from the optimum.

    Attributes:
      kernel: the kernel.
      x: training inputs as given, `(n, ...)`.
      coefficients: $\alpha$ in $f(x) = \Theta(x, \mathcal{X})\,\alpha$, float64 on the host, `(n,)`
        or `(n, k)`. The label is in it: $y_i \alpha_i \ge 0$ for the hinge losses.
      regularisation: $\lambda$ of the sum form that the coefficients solve or approach.
      primal: the objective of `KernelSVM` at $\alpha$, one number a column.
      dual: a lower bound of the least objective, from the feasible point nearest to $\alpha$; equal
        to `primal` at the optimum.
    """

    kernel: Callable
    x: Array
    coefficients: np.ndarray
    regularisation: float
    primal: np.ndarray
    dual: np.ndarray

    @property
    def gap(self) -> float:
        """Largest relative duality gap of the columns: an upper bound on the excess objective."""
        return float(np.max((self.primal - self.dual) / np.maximum(np.abs(self.primal), 1e-300)))

    @property
    def support(self) -> np.ndarray:
        """Indices of the training inputs with a coefficient that is not zero."""
        return np.flatnonzero(np.any(self.coefficients.reshape(len(self.x), -1) != 0, axis=1))

    def logits_fn(self, sparse: bool = True) -> jax.tree_util.Partial:
        """The machine as a logits function, `Partial(kernel_logits, machine)`.

        It computes in the dtype of the training inputs; `kernel_logits` states what that costs.

        Args:
          sparse: keep the support only, often a small part of the data. Machines of different
            support then have different shapes, and code is compiled for each.

        Returns:
          A pytree and function `(b, ...) -> (b, k)`, or `(b,)` for targets `(n,)`.
        """
        rows = self.support if sparse and len(self.support) else np.arange(len(self.x))
        weights = jnp.asarray(self.coefficients[rows].astype(self.x.dtype))
        machine = KernelMachine(self.x[jnp.asarray(rows)], weights, self.kernel)
        return jax.tree_util.Partial(kernel_logits, machine)

    def predict(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The scores of `x`, `(b,)` or `(b, k)`, computed in float64 and rounded to its dtype.

        Cost: `b n` kernel entries in float64.
        """
        check_batch("x", x)
        with float64():
            centres, points = (jnp.asarray(np.asarray(a, np.float64)) for a in (self.x, x))
            machine = KernelMachine(centres, jnp.asarray(self.coefficients), self.kernel)
            scores = np.asarray(kernel_logits(machine, points))
        return jnp.asarray(scores.astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class KernelSVM:
    r"""Kernel machine without an intercept that minimises a regularised sum of losses.

    $$\frac{\lambda}{2}\,\alpha^\top \Theta\,\alpha + \sum_i \ell\big(y_i, f(x_i)\big), \qquad
      f(x) = \Theta(x, \mathcal{X})\,\alpha,$$

    a *sum* over examples, with $\ell(y, f)$ one of

    * `"hinge"`: $\max(0, 1 - y f)$, the soft-margin SVM with $C = 1 / \lambda$;
    * `"squared_hinge"`: $\max(0, 1 - y f)^2$, the 2-norm SVM;
    * `"epsilon_insensitive"`: $\max(0, |y - f| - \epsilon)$, support vector regression.

    The squared loss $(y - f)^2$ is `KernelRegression(kernel, ridge=regularisation / 2)`. A mean
    over n examples with weight $\lambda$ is the sum with $\lambda n$. There is no intercept, since
    the network's kernel has none; scikit-learn's `SVC` has one, so that its plain solution differs.

    Targets are `(n,)`, or `(n, k)` for one machine a column (one against the rest). For the hinge
    losses they are +1 and -1.

    Args:
      kernel: a hashable function `kernel(x1, x2=None)`.
      loss: one of the three.
      regularisation: $\lambda > 0$. The limit $\lambda \to 0$ of the hinge is the hard margin.
      epsilon: half width of the tube; for `"epsilon_insensitive"` only.

    Raises:
      ValueError: an unknown loss, a regularisation that is not positive, a negative epsilon.

    Source: Chen et al. (2021), table 1 and section 3.

    >>> import jax.numpy as jnp
    >>> from ntklab.kernels import TwoLayerNTK
    >>> machine = KernelSVM(TwoLayerNTK(), regularisation=1.0)
    >>> print(machine.fit(jnp.eye(2), jnp.array([1.0, -1.0])).coefficients)
    [ 1. -1.]
    """

    kernel: Callable
    loss: str = "hinge"
    regularisation: Number = 1.0
    epsilon: Number = 0.1

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if not (self.regularisation > 0 and math.isfinite(self.regularisation)):
            raise ValueError(
                f"regularisation must be a finite number > 0, got {self.regularisation}: for none, "
                "take a small one, the limit is the hard margin."
            )
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon must be a finite number >= 0, got {self.epsilon}.")

    def fit(
        self,
        x: Float[Array, "n ..."],
        targets: Float[Array, "n ..."],
        solver: str = "dual_ascent",
        tolerance: float = 1e-6,
        gram: Any = None,
    ) -> FittedKernelSVM:
        """The minimiser, to a relative duality gap of `tolerance`.

        Args:
          x: training inputs, `(n, ...)`.
          targets: `(n,)` or `(n, k)`, floating point; +1 and -1 for the hinge losses.
          solver: `"dual_ascent"`, which needs nothing else, or `"scikit-learn"`, its `SVR` on the
            same matrix with the intercept pinned to zero (see `dual_ascent.scikit_learn`).
          tolerance: the gap to reach. It bounds the distance to the optimum in the norm of the
            kernel's space: at most `sqrt(2 gap primal / regularisation)`. Dual ascent goes far
            lower at little cost; scikit-learn stops near 1e-7.
          gram: the kernel matrix of `x` in NumPy, `(n, n)`, when it is there already.

        Returns:
          The fitted machine. A singular kernel matrix (equal inputs) leaves the scores unique, not
          the coefficients.

        Cost: `n^2 / 2` kernel entries in float64, held (1.3 GB for 12,665 inputs, 7 s on two
        cores), then `n` operations a step; 3,000 steps (0.2 s) for MNIST's 0 and 1 at 0.064.

        Raises:
          TypeError: inputs or targets that are not floating point.
          ValueError: shapes that do not fit, NaN, labels that are not +1 and -1, a kernel
            matrix that is not symmetric.
          RuntimeError: the gap was not reached (a kernel that is not positive semidefinite?).
          ImportError: scikit-learn is asked for and not installed.
        """
        if solver not in dual_ascent.SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(dual_ascent.SOLVERS)}.")
        gram, columns = self._prepare(x, targets, gram)
        solve = dual_ascent.SOLVERS[solver]
        problem = (self.loss, float(self.regularisation), float(self.epsilon))
        found = [solve(gram, y, *problem, tolerance) for y in columns.T]
        return self._fitted(x, targets, gram, np.stack(found, axis=1), self.regularisation)

    def flow(
        self,
        x: Float[Array, "n ..."],
        targets: Float[Array, "n ..."],
        t: Number,
        step: Number,
        gram: Any = None,
    ) -> FittedKernelSVM:
        r"""Subgradient flow of the objective in function space from zero, by Euler steps.

        $$\dot\alpha_i = -\lambda\,\alpha_i - \partial_f \ell(y_i, f(x_i)), \qquad \text{so that}
          \quad \dot f = -\lambda f - \sum_i \partial_f \ell(y_i, f(x_i))\,\Theta(\cdot, x_i).$$

        For the hinge $-\partial_f \ell = y_i\,1[y_i f(x_i) < 1]$. This is full-batch descent with
        learning rate `step`, in the sum form. Where the exact flow slides along a margin the steps
        chatter about it, by `step` in the coefficients.

        Args:
          x: training inputs, `(n, ...)`.
          targets: as for `fit`.
          t: time to integrate to; the distance to the optimum shrinks as `exp(-regularisation t)`.
          step: length of an Euler step in time, at most `1 / regularisation`.
          gram: as for `fit`.

        Returns:
          The machine at the time `ceil(t / step) * step`.

        Cost: the kernel matrix as for `fit`, and `2 n^2 k` operations a step.

        Raises:
          ValueError: as `fit`, and for a time or a step that is out of range.
        """
        if not (t >= 0 and math.isfinite(t)):
            raise ValueError(f"t must be a finite number >= 0, got {t}.")
        _check_rate("step", step, self.regularisation)
        gram, columns = self._prepare(x, targets, gram)
        steps = math.ceil(t / step)
        with float64():
            force = self._force()
            settings = (float(self.regularisation), float(step), jnp.asarray(columns))
            matrix, alpha = jnp.asarray(gram), jnp.zeros(columns.shape)
            for start in progress(range(0, steps, _CHUNK), "flow"):
                count = jnp.asarray(min(_CHUNK, steps - start))
                alpha = _euler(matrix, alpha, settings, count, force=force)
            alpha = np.asarray(alpha)
        return self._fitted(x, targets, gram, alpha, self.regularisation)

    def sgd(
        self,
        x: Float[Array, "n ..."],
        targets: Float[Array, "n ..."],
        key: Any,
        learning_rate: Number = 1.0,
        batch: int = 64,
        epochs: int = 300,
        shrink: str = "batch",
        gram: Any = None,
    ) -> FittedKernelSVM:
        r"""Mini-batch subgradient descent, as coded by the authors or with full weight decay.

        For a batch $B$, with $\eta$ the learning rate,

        $$\alpha_i \leftarrow (1 - \eta\lambda)\,\alpha_i
          - \frac{\eta}{|B|}\,\partial_f \ell(y_i, f(x_i)), \qquad i \in B.$$

        * `shrink="batch"`, as coded: the other coefficients stay. Each shrinks once an epoch, so
          that the fixed point is the optimum of the sum form with $\lambda |B|$.
        * `shrink="all"`: the others are multiplied by $1 - \eta\lambda$ too, as weight decay does
          in a network: the sum form with $\lambda n$.

        Args:
          x: training inputs, `(n, ...)`.
          targets: as for `fit`.
          key: order of the batches; every epoch is a new permutation, its last batch the rest.
          learning_rate: $\eta$, at most `1 / regularisation`.
          batch: examples a step.
          epochs: passes over the data.
          shrink: `"batch"` or `"all"`.
          gram: as for `fit`.

        Returns:
          The last iterate; its `regularisation` is that of the sum form it approaches.

        Cost: the kernel matrix as for `fit`, and `2 n^2 k` operations an epoch.

        Raises:
          ValueError: as `fit`, and for a rate, batch, number of epochs or `shrink` out of range.

        Source: the authors' train_sgd.py; Chen et al. (2021), section 5.
        """
        _check_rate("learning_rate", learning_rate, self.regularisation)
        if not (1 <= batch <= len(x) and epochs >= 1):
            raise ValueError(
                f"batch must lie in 1..{len(x)} and epochs be at least 1, got {batch}, {epochs}."
            )
        if shrink not in ("batch", "all"):
            raise ValueError(f'shrink must be "batch" or "all", got {shrink!r}.')
        gram, columns = self._prepare(x, targets, gram)
        with float64():
            settings = (float(self.regularisation), float(learning_rate), jnp.asarray(columns))
            rule = {"force": self._force(), "batch": batch, "everywhere": shrink == "all"}
            matrix, alpha = jnp.asarray(gram), jnp.zeros(columns.shape)
            for epoch in progress(range(epochs), "sgd"):
                order = jax.random.permutation(jax.random.fold_in(key, epoch), len(x))
                alpha = _epoch(matrix, alpha, settings, order, **rule)
            alpha = np.asarray(alpha)
        weight = self.regularisation * (batch if shrink == "batch" else len(x))
        return self._fitted(x, targets, gram, alpha, weight)

    def _prepare(self, x: Array, targets: Array, gram: Any) -> tuple[np.ndarray, np.ndarray]:
        """The kernel matrix and the targets `(n, k)`, in float64 and checked."""
        check_batch("x", x)
        check_targets(targets, len(x))
        columns = np.asarray(targets, np.float64).reshape(len(x), -1)
        if self.loss != "epsilon_insensitive" and not np.all(np.abs(columns) == 1):
            raise ValueError(
                f"targets must be +1 and -1 for the {self.loss} loss, got values such as "
                f"{columns[np.abs(columns) != 1][0]:g}: use `Dataset.signed`, or 2 * one_hot - 1."
            )
        values = evaluate(self.kernel, x, "float64", "scipy") if gram is None else gram
        matrix = gram_matrix(values, len(x), "float64", "scipy").values
        return np.asarray(matrix, np.float64), columns

    def _force(self) -> "_Force":
        return _Force(self.loss, float(self.epsilon))

    def _fitted(self, x, targets, gram, alpha, regularisation) -> FittedKernelSVM:
        columns = np.asarray(targets, np.float64).reshape(len(x), -1)
        problem = (self.loss, float(regularisation), float(self.epsilon))
        primal, dual = [], []
        for a, y in zip(alpha.T, columns.T, strict=True):
            # The bound needs a feasible point: the iterates of sgd can be a little outside.
            feasible = LOSSES[self.loss].project(a, y, 1 / regularisation)
            primal.append(primal_and_dual(gram @ a, a, y, *problem)[0])
            dual.append(primal_and_dual(gram @ feasible, feasible, y, *problem)[1])
        coefficients = np.array(alpha).reshape(targets.shape)
        ends = np.array(primal), np.array(dual)
        return FittedKernelSVM(self.kernel, x, coefficients, float(regularisation), *ends)


class _Force(NamedTuple):
    """`-dl/df` of a loss; hashable, so that steps compile once a loss."""

    loss: str
    epsilon: float

    def __call__(self, y: Array, f: Array) -> Array:
        return LOSSES[self.loss].force(y, f, self.epsilon)


def _check_rate(name: str, rate: Number, regularisation: Number) -> None:
    """Raise unless a step shrinks: `0 < rate * regularisation <= 1`."""
    if not 0 < rate * regularisation <= 1:
        raise ValueError(
            f"{name} must lie in (0, 1 / regularisation] = (0, {1 / regularisation:g}], got {rate}."
        )


@partial(jax.jit, static_argnames="force")
def _euler(gram, alpha, settings, count, *, force: _Force):
    decay, rate, y = settings

    def step(_, alpha):
        return alpha + rate * (force(y, jnp.matmul(gram, alpha)) - decay * alpha)

    return jax.lax.fori_loop(0, count, step, alpha)


@partial(jax.jit, static_argnames=("force", "batch", "everywhere"))
def _epoch(gram, alpha, settings, order, *, force: _Force, batch: int, everywhere: bool):
    """One pass; the last batch is filled up with the index n, whose writes are dropped."""
    decay, rate, y = settings
    n = len(order)
    missing = -n % batch
    batches = jnp.pad(order, (0, missing), constant_values=n).reshape(-1, batch)

    def step(alpha, rows):
        here = jnp.minimum(rows, n - 1)
        count = (rows < n).sum(dtype=alpha.dtype)
        push = force(y[here], jnp.matmul(gram[here], alpha)) / count
        shrunk = (1 - rate * decay) * alpha
        base = shrunk if everywhere else alpha.at[rows].set(shrunk[here], mode="drop")
        return base.at[rows].add(rate * push, mode="drop"), None

    return jax.lax.scan(step, alpha, batches)[0]

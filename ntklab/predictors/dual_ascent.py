r"""The quadratic programmes behind `KernelSVM`, in the coefficients of the machine.

The three objectives $\tfrac\lambda2 \alpha^\top\Theta\alpha + \sum_i \ell(y_i, f_i)$ without an
intercept have duals with no constraint that ties examples together. In the coefficients $\alpha$
(the dual variables are $\lambda\alpha$) they are, up to the factor $\lambda$,

$$\max_\alpha\; y^\top\alpha - \tfrac12\alpha^\top\Theta\alpha - \sum_i r(\alpha_i), \qquad
  \begin{array}{ll} \text{hinge} & 0 \le y_i\alpha_i \le 1/\lambda,\; r = 0 \\
  \text{squared hinge} & 0 \le y_i\alpha_i,\; r = \lambda\alpha_i^2 / 4 \\
  \text{epsilon-insensitive} & |\alpha_i| \le 1/\lambda,\; r = \epsilon|\alpha_i|. \end{array}$$
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

_STEPS_MAX = 10_000_000
_STEPS_BETWEEN_CHECKS = 200


class Loss(NamedTuple):
    """One loss: values and forces of the primal, the feasible set and penalty of the dual.

    Attributes:
      value: `value(y, f, epsilon)`.
      force: `-dl/df` as `force(y, f, epsilon)`, for arrays of JAX.
      project: `project(a, y, limit)`, nearest feasible coefficient; `limit` is `1 / lambda`.
      ridge: quadratic part of the penalty, `r = ridge * lambda * a^2 / 2`.
      tube: whether `epsilon |a|` is part of the penalty.
    """

    value: Callable
    force: Callable
    project: Callable
    ridge: float
    tube: bool


LOSSES = {
    "hinge": Loss(
        lambda y, f, epsilon: np.maximum(0, 1 - y * f),
        lambda y, f, epsilon: jnp.where(y * f < 1, y, 0.0),
        lambda a, y, limit: y * np.clip(y * a, 0, limit),
        ridge=0.0,
        tube=False,
    ),
    "squared_hinge": Loss(
        lambda y, f, epsilon: np.maximum(0, 1 - y * f) ** 2,
        lambda y, f, epsilon: 2 * y * jnp.maximum(0, 1 - y * f),
        lambda a, y, limit: y * np.maximum(y * a, 0),
        ridge=0.5,
        tube=False,
    ),
    "epsilon_insensitive": Loss(
        lambda y, f, epsilon: np.maximum(0, np.abs(y - f) - epsilon),
        lambda y, f, epsilon: jnp.where(jnp.abs(y - f) > epsilon, jnp.sign(y - f), 0.0),
        lambda a, y, limit: np.clip(a, -limit, limit),
        ridge=0.0,
        tube=True,
    ),
}


def primal_and_dual(
    f: np.ndarray, a: np.ndarray, y: np.ndarray, loss: str, regularisation: float, epsilon: float
) -> tuple[float, float]:
    """Objective at `a` and a lower bound of its least value, both from one product `f = gram @ a`.

    The bound is the dual objective, which is one for feasible coefficients only; it is minus
    infinity for others.

    Args:
      f: scores at the training points, `(n,)`.
      a: coefficients, `(n,)`.
      y: targets, `(n,)`.
      loss: name of the loss.
      regularisation: of the sum form.
      epsilon: half width of the tube.

    Cost: O(n).
    """
    rule = LOSSES[loss]
    norm = a @ f
    primal = regularisation / 2 * norm + rule.value(y, f, epsilon).sum()
    feasible = rule.project(a, y, 1 / regularisation)
    slack = 1e-12 * max(1.0, float(np.abs(a).max()))
    if np.abs(feasible - a).max() > slack:
        return float(primal), -np.inf
    penalty = rule.ridge * regularisation / 2 * (a @ a)
    penalty += epsilon * np.abs(a).sum() if rule.tube else 0.0
    return float(primal), float(regularisation * (y @ a - norm / 2 - penalty))


def coordinate_ascent(
    gram: np.ndarray,
    y: np.ndarray,
    loss: str,
    regularisation: float,
    epsilon: float,
    tolerance: float,
) -> np.ndarray:
    """Maximise the dual one coefficient at a time, each time the one that gains most.

    The best value of one coefficient has a closed form, as nothing ties it to the others.

    Args:
      gram: kernel matrix, float64 `(n, n)`.
      y: targets, `(n,)`.
      loss: name of the loss.
      regularisation: of the sum form.
      epsilon: half width of the tube.
      tolerance: relative duality gap to reach.

    Returns:
      The coefficients, `(n,)`.

    Cost: O(n) a step; the number of steps grows with the condition of `gram`, restricted to the
    support, plus the ridge of the loss.

    Raises:
      ValueError: the steps met a direction in which the kernel is negative.
      RuntimeError: ten million steps did not reach the gap.

    Source: Steinwart, Hush and Scovel (2011), "Training SVMs without offset", algorithm 1.
    """
    rule, limit = LOSSES[loss], 1 / regularisation
    ridge = rule.ridge * regularisation
    tube = epsilon if rule.tube else 0.0
    curvature = np.diagonal(gram) + ridge
    curvature = np.maximum(curvature, max(1e-15 * curvature.max(), 1e-300))
    a, f = np.zeros(len(y)), np.zeros(len(y))
    for step in range(_STEPS_MAX):
        if step % _STEPS_BETWEEN_CHECKS == 0:
            if a @ f < -1e-9 * (np.abs(a) @ np.abs(f)):
                raise ValueError(
                    "the kernel matrix has a negative eigenvalue, below zero by more than "
                    "rounding: the kernel is not positive semidefinite."
                )
            primal, dual = primal_and_dual(f, a, y, loss, regularisation, epsilon)
            if primal - dual <= tolerance * primal:
                return a
        slope = y - f - ridge * a
        wanted = a + slope / curvature
        wanted = np.sign(wanted) * np.maximum(np.abs(wanted) - tube / curvature, 0)
        move = rule.project(wanted, y, limit) - a
        gain = move * (slope - move * curvature / 2) - tube * (np.abs(a + move) - np.abs(a))
        i = int(gain.argmax())
        a[i] += move[i]
        f += move[i] * gram[i]
    raise RuntimeError(
        f"the duality gap is {(primal - dual) / primal:.1e} after {_STEPS_MAX} steps: raise the "
        'regularisation or the tolerance, or use solver="scikit-learn".'
    )


def scikit_learn(
    gram: np.ndarray,
    y: np.ndarray,
    loss: str,
    regularisation: float,
    epsilon: float,
    tolerance: float,
) -> np.ndarray:
    """The same optimum by scikit-learn's `SVR` with a precomputed kernel.

    Its intercept is pinned to zero by two more points with a zero row in the kernel matrix and
    targets `+tube` and `-tube`, which no other intercept fits. The hinge `max(0, 1 - y f)` is the
    tube loss with target `y (1 + tube)` as long as `y f <= 1 + 2 tube`, so that the tube is widened
    until this holds; the squared hinge adds `regularisation / 2` to the diagonal and has no upper
    limit.

    Arguments and result are those of `coordinate_ascent`.

    Cost: a few copies of `gram`; time as for `coordinate_ascent`.

    Raises:
      ImportError: scikit-learn is not installed.
      RuntimeError: it did not reach the gap.
    """
    try:
        from sklearn.svm import SVR
    except ImportError as missing:
        raise ImportError(
            'solver="scikit-learn" needs scikit-learn: install it, or use solver="dual_ascent".'
        ) from missing
    rule, n = LOSSES[loss], len(y)
    limit = np.inf if loss == "squared_hinge" else 1 / regularisation
    pinned = np.zeros((n + 2, n + 2))
    pinned[:n, :n] = gram + rule.ridge * regularisation * np.eye(n)
    tube, accuracy = epsilon if rule.tube else 4.0, 1e-3
    for _ in range(12):
        targets = np.r_[y if rule.tube else y * (1 + tube), tube, -tube]
        weights = np.r_[np.ones(n), 2.0 * n, 2.0 * n]
        model = SVR(kernel="precomputed", C=min(limit, 1e10), epsilon=tube, tol=accuracy)
        model.fit(pinned, targets, sample_weight=weights)
        a = np.zeros(n + 2)
        a[model.support_] = model.dual_coef_[0]
        a = rule.project(a[:n], y, limit)
        f = gram @ a
        primal, dual = primal_and_dual(f, a, y, loss, regularisation, epsilon)
        if primal - dual <= tolerance * primal:
            return a
        if not rule.tube and np.max(y * f) > 1 + 1.9 * tube:
            tube *= 2
        else:
            accuracy /= 10
    raise RuntimeError(
        f"scikit-learn stopped at a duality gap of {(primal - dual) / primal:.1e}: raise the "
        'tolerance, or use solver="dual_ascent".'
    )


SOLVERS = {"dual_ascent": coordinate_ascent, "scikit-learn": scikit_learn}

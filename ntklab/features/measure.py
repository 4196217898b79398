"""Usefulness and robustness of features."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ntklab._common import check_batch, check_labels, progress
from ntklab._typing import Array, Float, Int
from ntklab.attacks import correct
from ntklab.features.eigen import Indices, feature, positions
from ntklab.predictors import FittedKernelRegression

_BLOCK = 500


class FeatureReport(NamedTuple):
    """Accuracies of features, one entry a feature.

    Attributes:
      index: numbers of the features, `(r,)`.
      eigenvalue: of each, `(r,)`.
      usefulness: clean accuracy, `(r,)`.
      robustness: name of attack -> accuracy under it, `(r,)`; an error on the clean input counts.
      worst: accuracy under the worst of all perturbations found, an upper bound on the robustness.
      majority: share of the largest class in the labels: what a constant reaches.
    """

    index: np.ndarray
    eigenvalue: np.ndarray
    usefulness: np.ndarray
    robustness: dict[str, np.ndarray]
    worst: np.ndarray
    majority: float


def measure(
    fitted: FittedKernelRegression,
    indices: Indices,
    x: Float[Array, "b ..."],
    y: Int[Array, "b"],
    attacks: Mapping[str, Callable],
    key: Any = None,
    block: int = _BLOCK,
) -> FeatureReport:
    r"""Usefulness and robustness of features, each attacked on its own.

    $$\rho_i = \mathbb{E}\,1\{\arg\max f^{(i)}(x) = y\}, \qquad
      \gamma_i = \mathbb{E}\inf_{\delta} 1\{\arg\max f^{(i)}(x + \delta) = y\}.$$

    A feature is useful above `majority`, and useful but not robust where $\gamma_i$ is close to 0.
    Robustness is at most usefulness by definition: compare `worst / usefulness` too.

    Args:
      fitted: as for `feature`.
      indices: numbers of the features.
      x: inputs, `(b, ...)`.
      y: class indices; for a binary machine 0 and 1.
      attacks: name -> attack, such as `{"fgsm": fgsm(eps), "pgd": pgd(eps, steps=10)}`.
      key: randomness of the attacks that need it; each feature and block gets its own.
      block: inputs at a time.

    Returns:
      A `FeatureReport`.

    Cost: for each feature that of its attacks; a gradient of 1,000 inputs against 2,000 centres of
    784 pixels takes 0.1 s on two cores and grows with the product of both (FGSM on 100 features
    with 10,000 of each would be about a quarter of an hour; not run). The code compiles once for
    all features.

    Raises:
      ValueError: no attacks; what `feature` and the attacks refuse.

    Source: Tsilivis and Kempe (2022), main text, eqs. 3 and 4; supplement, eqs. 1 and 2.
    """
    if not attacks:
        raise ValueError('attacks is empty: give at least one, for example {"fgsm": fgsm(eps)}.')
    check_batch("x", x)
    check_labels(y, len(x), 2 if np.ndim(fitted.targets) == 1 else fitted.targets.shape[1])
    rows, table = positions(fitted, indices), []
    for index in progress([int(i) for i in indices], "features"):
        own_key = None if key is None else jax.random.fold_in(key, index)
        table.append(_accuracies(feature(fitted, index), x, y, attacks, own_key, block))
    clean, under, worst = zip(*table, strict=True)
    return FeatureReport(
        np.asarray(indices),
        fitted.eigenvalues[rows],
        np.array(clean),
        {name: np.array([u[name] for u in under]) for name in attacks},
        np.array(worst),
        float(np.bincount(np.asarray(y)).max() / len(x)),
    )


def _accuracies(logits_fn, x, y, attacks: Mapping, key: Any, block: int) -> tuple:
    """Shares that stay right: clean, under each attack, under all of them."""
    kept = {name: 0 for name in attacks}
    clean = worst = 0
    for start in range(0, len(x), block):
        part, labels = x[start : start + block], y[start : start + block]
        right = np.asarray(correct(logits_fn(part), labels))
        clean, always = clean + right.sum(), right
        for name, attack in attacks.items():
            own_key = None if key is None else jax.random.fold_in(key, start)
            moved = attack(logits_fn, part, labels, own_key).x_adv
            still = right & np.asarray(correct(logits_fn(moved), labels))
            kept[name] += still.sum()
            always = always & still
        worst += always.sum()
    n = len(x)
    return clean / n, {name: count / n for name, count in kept.items()}, worst / n


def most_robust(report: FeatureReport, r: int) -> np.ndarray:
    """Numbers of the `r` features of the report that are most robust, most robust first.

    Ties go to the more useful, then to the larger eigenvalue. Make the report on validation data
    and judge `select(fitted, most_robust(report, r))` on other data: the choice has seen the first.

    Raises:
      ValueError: more features asked for than the report has, or none.
    """
    if not 1 <= r <= len(report.index):
        raise ValueError(f"r must lie in 1..{len(report.index)}, got {r}.")
    order = np.lexsort((-report.eigenvalue, -report.usefulness, -report.worst))
    return report.index[order[:r]]

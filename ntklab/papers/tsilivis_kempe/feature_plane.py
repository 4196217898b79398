"""The plane of usefulness and robustness for seven kernels (section 4; supplement, Figs. 2 and 3).

Two experiments share this code: `tk-mnist-features` and `tk-car-plane-features`. The second has
the authors' list of features beside it.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, features, predictors
from ntklab._common import float64
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import features as parts

#: The authors' notebook, FC1 on 2,000 cars and planes, 100 test images, budget 8/255, from 0 at
#: the largest eigenvalue: usefulness, robustness.
NOTEBOOK = {
    0: (0.50, 0.50), 1: (0.68, 0.49), 2: (0.54, 0.47), 3: (0.61, 0.44), 4: (0.49, 0.33),
    5: (0.56, 0.33), 10: (0.59, 0.25), 25: (0.51, 0.07), 1500: (0.47, 0.0), 1987: (0.57, 0.0),
}  # fmt: skip
#: A feature counts as robust to nothing up to this accuracy under attack.
BARE = 0.05


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-mnist-features` and `tk-car-plane-features`.

    Attributes:
      seeds: each draws its own balanced images.
      name: of the data set.
      classes: of it; all where None.
      eps: budget of the supplement.
      eps_small: budget at which features can be told apart.
      kernels: names in `features.DENSE` and `features.CONV`.
      n_train: training images of the fully connected kernels.
      n_test: test images of theirs.
      n_features: features of theirs, from the largest eigenvalue.
      n_conv: training images of the convolutional kernels, and of the overlaps of all.
      n_test_conv: test images of theirs.
      n_features_conv: features of theirs.
      n_pgd: features of FC1 that PGD attacks too, on the test images of the convolutional kernels.
      top: dimensions of the spaces that are compared.
      n_exact: training images on which the identities are checked.
      notebook: whether the authors' list of features is measured.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    name: str = "mnist"
    classes: tuple[str, ...] | None = None
    eps: float = 0.3
    eps_small: float = 0.05
    kernels: tuple[str, ...] = (*parts.DENSE, *parts.CONV)
    n_train: int = 2000
    n_test: int = 500
    n_features: int = 100
    n_conv: int = 500
    n_test_conv: int = 100
    n_features_conv: int = 12
    n_pgd: int = 10
    top: int = 20
    n_exact: int = 100
    notebook: bool = False


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: every kernel's plane, and what is said of it.

    Values. Of each kernel, with its name in front: `_top_share` of the robustness that the first
    tenth of the features has; `_trend`, rank correlation of robustness over usefulness with the
    number of the feature at the small budget; `_trend_useful`, that among features above chance;
    `_useful_bare`, how many are useful and not robust; `_excess`, the largest robustness above the
    majority. Over all kernels: `first_constant`, the share of kernels whose first feature names one
    class everywhere; `named_most`; `cap_exceeded`; `overlap_*`; `identities`; `pgd_gap`.
    """
    many = max(config.n_train, config.n_conv, config.n_exact)
    settings = {"classes": config.classes, "n_train": many, "n_test": config.n_test, "seed": seed}
    images = data.load(config.name, **settings)
    values, curves, first, named, over = {}, {}, [], [], 0
    for name, kernel in _kernels(config).items():
        sizes = _sizes(config, name in parts.CONV)
        found = checkpoints.kept(
            name, lambda k=kernel, s=sizes: one_kernel(k, s, images, config.eps, config.eps_small)
        )
        values |= {f"{name}_{n}": v for n, v in summary(found).items()}
        place = list(range(sizes[2]))
        for curve in ("usefulness", "robustness", "robustness_small", "eigenvalue"):
            curves[f"{name}_{curve}"] = (place, found[curve].tolist())
        first.append(int(found["named"][0] == 1))
        named.append(int(found["named"].max()))
        over += int((found["usefulness"] > found["cap"] + 1e-9).sum())
    values |= {"first_constant": float(np.mean(first)), "named_most": float(max(named))}
    values["cap_exceeded"] = float(over)
    values |= _floats(checkpoints.kept("overlaps", lambda: overlaps(config, images)))
    curves["overlap_by_top"] = _overlap_curve(config, images)
    values |= _floats(checkpoints.kept("identities", lambda: _identities(config, images)))
    values |= _floats(checkpoints.kept("pgd", lambda: _pgd(config, images)))
    if config.notebook:
        values |= _floats(checkpoints.kept("notebook", lambda: notebook(config, images)))
    return SeedResult(values, curves, (describe(images, seed),))


def _kernels(config: Config) -> dict:
    return {name: (parts.DENSE | parts.CONV)[name] for name in config.kernels}


def _sizes(config: Config, conv: bool) -> tuple[int, int, int]:
    """Training images, test images, features."""
    if conv:
        return config.n_conv, config.n_test_conv, config.n_features_conv
    return config.n_train, config.n_test, config.n_features


def one_kernel(kernel, sizes: tuple[int, int, int], images, eps: float, eps_small: float) -> dict:
    """The plane of one kernel: arrays, one entry a feature, and the majority."""
    n, b, count = sizes
    x, y = images.x_test[:b], images.y_test[:b]
    targets = parts.targets_of(images)[:n]
    fitted = predictors.KernelRegression(kernel, solver="eigh").fit(images.x_train[:n], targets)
    found = parts.plane(fitted, range(count), x, y, (eps, eps_small))
    share = fitted.eigenvalues[::-1][:count] / fitted.eigenvalues[-1]
    return {
        "usefulness": found.usefulness,
        "robustness": found.robustness[0],
        "robustness_small": found.robustness[1],
        "named": found.named,
        "cap": features.cap(fitted, range(count), y),
        "eigenvalue": share,
        "majority": parts.majority(y),
        "count": b,
    }


def summary(found: dict) -> dict[str, float]:
    """What is said of one kernel's plane; names as in `measure`."""
    rho, gamma, small = (found[n] for n in ("usefulness", "robustness", "robustness_small"))
    chance = float(found["majority"])
    error = np.sqrt(chance * (1 - chance) / float(found["count"]))
    ratio = small / np.maximum(rho, 1e-9)
    useful = rho > chance + 3 * error
    return {
        "top_share": parts.top_share(gamma, max(1, len(gamma) // 10)),
        "trend": parts.trend(ratio),
        "trend_useful": parts.trend(ratio, np.flatnonzero(useful)),
        "useful": float(useful.sum()),
        "useful_bare": float(((rho > chance + 4 * error) & (gamma <= BARE)).sum()),
        "excess": float(gamma.max() - chance),
    }


def overlaps(config: Config, images) -> dict[str, float]:
    """How much of the leading eigenspaces the kernels share, on the same images."""
    x = images.x_train[: config.n_conv]
    spaces = {n: parts.leading(k, x, config.top) for n, k in _kernels(config).items()}
    pixels = parts.leading(parts.linear, x, config.top)
    pairs = {(a, b): parts.overlap(spaces[a], spaces[b]) for a, b in combinations(spaces, 2)}
    dense = [v for (a, b), v in pairs.items() if b in parts.DENSE]
    mixed = [v for (a, b), v in pairs.items() if a in parts.DENSE and b in parts.CONV]
    return {
        "overlap_least": min(pairs.values()),
        "overlap_dense": min(dense),
        "overlap_mixed": min(mixed),
        "overlap_linear": min(parts.overlap(v, pixels) for v in spaces.values()),
        "overlap_null": config.top / len(x),
    }


def _overlap_curve(config: Config, images) -> tuple[list, list]:
    """The overlap of FC1 and FC5 in the leading 1, 2, ... dimensions."""
    x, most = images.x_train[: config.n_conv], 2 * config.top
    one, other = (parts.leading(parts.DENSE[name], x, most) for name in ("fc1", "fc5"))
    tops = list(range(1, most + 1))
    return tops, [parts.overlap(one[:, :r], other[:, :r]) for r in tops]


def _identities(config: Config, images) -> dict[str, float]:
    n, few = config.n_exact, slice(0, 10)
    return parts.identities(
        parts.DENSE["fc1"], images.x_train[:n], parts.targets_of(images)[:n],
        images.x_test[few], images.y_test[few],
    )  # fmt: skip


def _pgd(config: Config, images) -> dict[str, float]:
    """FGSM and PGD10 on the first features of FC1: how far apart they are at most."""
    n, b = config.n_train, config.n_test_conv
    fitted = predictors.KernelRegression(parts.DENSE["fc1"], solver="eigh").fit(
        images.x_train[:n], parts.targets_of(images)[:n]
    )
    suite = {"fgsm": attacks.fgsm(config.eps), "pgd": attacks.pgd(config.eps, steps=10)}
    some = images.x_test[:b], images.y_test[:b]
    key = jax.random.key(0)
    report = features.measure(fitted, range(config.n_pgd), *some, suite, key, block=b)
    gap = report.robustness["fgsm"] - report.robustness["pgd"]
    return {"pgd_gap": float(np.abs(gap).max())}


def notebook(config: Config, images) -> dict[str, float]:
    """The authors' list, feature by feature, in 64 bits: small eigenvalues need them."""
    n, wanted = config.n_train, [i for i in NOTEBOOK if i < config.n_train]
    with float64():
        x, targets, x_new = (
            jnp.asarray(np.asarray(a, np.float64))
            for a in (images.x_train[:n], parts.targets_of(images)[:n], images.x_test)
        )
        fitted = predictors.KernelRegression(parts.DENSE["fc1"], solver="eigh").fit(x, targets)
        found = parts.plane(fitted, wanted, x_new, images.y_test, (config.eps,))
    ours = np.stack([found.usefulness, found.robustness[0]], axis=1)
    theirs = np.array([NOTEBOOK[i] for i in wanted])
    pairs = np.abs(ours[:, None] - theirs[None]).mean(axis=(0, 1))
    apart = np.abs(ours - theirs).mean(axis=0)
    values = {"notebook_useful_error": apart[0], "notebook_robust_error": apart[1]}
    values |= {"notebook_useful_null": pairs[0], "notebook_robust_null": pairs[1]}
    for i, (rho, gamma) in zip(wanted, ours, strict=True):
        values |= {f"notebook_useful_{i}": rho, f"notebook_robust_{i}": gamma}
    return values


def _floats(found: dict) -> dict[str, float]:
    return {name: float(value) for name, value in found.items()}


def cost(config: Config) -> Cost:
    r"""Kernel entries of the planes, in float32, and eigendecompositions on the host.

    With r features, e = 2 budgets: one pass of r class gradients and r e scores. A convolutional
    entry counts 30 operations a position and layer, its gradient twice that.
    """
    d = 784 if config.name == "mnist" else 3072
    n, b, r = _sizes(config, False)
    dense = _cost.class_gradients(b, n, d, r) + 2 * r * _cost.scores(b, n, d, 1)
    flops = len(set(config.kernels) & set(parts.DENSE)) * (dense + _cost.gram(n, n, d))
    n, b, r = _sizes(config, True)
    conv = 30.0 * (d if config.name == "mnist" else 1024) * (n * n / 2 + 4 * r * b * n)
    flops += 3 * conv * len(
        set(config.kernels) & set(parts.CONV)
    ) / 2 + 12 * config.n_pgd * _cost.pull(b, config.n_train, d, 1)
    host = (len(parts.DENSE) + 1) * _cost.eigh(config.n_train) + 10 * _cost.eigh(config.n_conv)
    if config.notebook:
        host += _cost.eigh(config.n_train)
    seeds = len(config.seeds)
    return Cost(seeds * flops, "float32", seeds * host)


_QUICK = {
    "seeds": (0, 1), "kernels": ("fc1", "fc2", "fc5", "conv1"), "n_train": 40, "n_test": 16,
    "n_features": 12, "n_conv": 40, "n_test_conv": 16, "n_features_conv": 4, "n_pgd": 2, "top": 4,
    "n_exact": 12,
}  # fmt: skip
_PAPER = {"n_train": 10_000, "n_test": 1000, "n_conv": 10_000, "n_test_conv": 1000}
_PAPER |= {"n_features_conv": 100, "n_pgd": 100}
MNIST = Config()
CARS = replace(
    MNIST, name="cifar10", classes=("airplane", "automobile"), eps=8 / 255, eps_small=2 / 255,
    notebook=True,
)  # fmt: skip
EXPERIMENT = Experiment(
    name="tk-mnist-features",
    help="usefulness and robustness of eigen-features, seven kernels, MNIST",
    presets={"quick": replace(MNIST, **_QUICK), "book": MNIST, "paper": replace(MNIST, **_PAPER)},
    measure=measure,
    cost=cost,
)
CAR_PLANE = Experiment(
    name="tk-car-plane-features",
    help="the same on cars and planes, with the authors' list of features",
    presets={"quick": replace(CARS, **_QUICK), "book": CARS, "paper": replace(CARS, **_PAPER)},
    measure=measure,
    cost=cost,
)

"""Two small runs on features: trial values met or explained, and 10,000 images.

`tk-feature-toy` repeats a trial that came before this package, on two kinds of draws.
`tk-features-10000` takes the supplement's number of images, with matrix and spectrum on the disk.
"""

import shutil
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, features, kernels, predictors
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import feature_plane
from ntklab.papers.tsilivis_kempe import features as parts
from ntklab.papers.tsilivis_kempe.evaluate import accuracy, robust_accuracy

#: The trial: 3,000 MNIST images, kernel of equation 29. Usefulness and robustness (eps 0.3) of the
#: features 0 to 5; clean accuracy and that under FGSM (eps 0.1) of the first so many features.
TRIAL = {
    "useful": (0.09, 0.196, 0.21, 0.194, 0.196, 0.194),
    "robust": (0.09, 0.06, 0.014, 0.018, 0.024, 0.004),
}
CUTS = {5: (0.508, 0.390), 20: (0.784, 0.544), 100: (0.878, 0.550), 300: (0.934, 0.584)}


@dataclass(frozen=True)
class ToyConfig:
    """Arguments of `tk-feature-toy`.

    Attributes:
      seeds: of the balanced draws; the other kind of draw takes the seed's block of the files.
      n_train: training images.
      n_test: test images.
      eps: budget of the features.
      eps_cut: budget of the cut-offs.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    n_train: int = 3000
    n_test: int = 1000
    eps: float = 0.3
    eps_cut: float = 0.1


def measure_toy(config: ToyConfig, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed, two draws: balanced classes (no prefix), and images as they stand in the files.

    Values: `useful_I` and `robust_I` of features 0 to 5, `clean_K` and `fgsm_K` of cut-offs,
    `full_clean`, `full_fgsm`, `mass`, and the largest distance from the trial over features and
    over cut-offs, `features_apart`, `cuts_apart`; those of the second draw begin with `file_`.
    """
    balanced = data.load("mnist", n_train=config.n_train, n_test=config.n_test, seed=seed)
    whole = data.load("mnist")
    train = slice(seed * config.n_train, (seed + 1) * config.n_train)
    test = slice(seed * config.n_test, (seed + 1) * config.n_test)
    draws = {
        "": (balanced.x_train, balanced.y_train, balanced.x_test, balanced.y_test),
        "file_": (
            *(whole.x_train[train], whole.y_train[train]),
            *(whole.x_test[test], whole.y_test[test]),
        ),
    }
    values = {}
    for prefix, draw in draws.items():
        found = checkpoints.kept(f"{prefix}draw", lambda d=draw: measured(config, *d))
        values |= {prefix + name: float(v) for name, v in found.items()}
    return SeedResult(values, {}, (describe(balanced, seed), describe(whole, seed)))


def measured(config: ToyConfig, x, y, x_test, y_test) -> dict[str, float]:
    """What the trial has, on these images: the values of `measure_toy`, without a prefix."""
    targets = jnp.eye(10, dtype=x.dtype)[y]
    regression = predictors.KernelRegression(kernels.TwoLayerNTK(), solver="eigh")
    fitted = regression.fit(x, targets)
    first = range(len(TRIAL["useful"]))
    found = parts.plane(fitted, first, x_test, y_test, (config.eps,))
    columns = {"useful": found.usefulness, "robust": found.robustness[0]}
    values = {f"{c}_{i}": v[i] for c, v in columns.items() for i in first}
    apart = [np.abs(v - np.array(TRIAL[c])).max() for c, v in columns.items()]
    squares = fitted.eigenvalues**2
    values |= {"mass": squares[-20:].sum() / squares.sum(), "features_apart": max(apart)}
    attack, apart = attacks.fgsm(config.eps_cut), []
    for cut in (*CUTS, len(x)):
        machine = features.select(fitted, range(cut)) if cut < len(x) else fitted.logits_fn()
        clean = accuracy(machine, x_test, y_test)
        robust = robust_accuracy(attack, machine, x_test, y_test, jax.random.key(0))
        name = str(cut) if cut < len(x) else "full"
        values |= {f"clean_{name}": clean, f"fgsm_{name}": robust}
        if cut in CUTS:
            apart += [abs(clean - CUTS[cut][0]), abs(robust - CUTS[cut][1])]
    values["cuts_apart"] = max(apart)
    return values


def toy_cost(config: ToyConfig) -> Cost:
    """Two eigendecompositions and some forty scores and gradients a seed."""
    shape = (config.n_test, config.n_train, 784, 10)
    flops = 2 * (25 * _cost.scores(*shape) + 10 * _cost.pull(*shape))
    flops += 2 * _cost.gram(config.n_train, config.n_train, 784)
    seeds = len(config.seeds)
    return Cost(seeds * flops, "float32", seeds * 2 * _cost.eigh(config.n_train))


@dataclass(frozen=True)
class LargeConfig:
    """Arguments of `tk-features-10000`.

    Attributes:
      seeds: each draws its own balanced images.
      n_train: training images.
      n_small: the head of them, on which the same is measured.
      n_test: test images.
      n_features: features from the largest eigenvalue.
      eps: budget of the supplement.
      eps_small: budget at which features can be told apart.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    n_train: int = 10_000
    n_small: int = 1000
    n_test: int = 500
    n_features: int = 100
    eps: float = 0.3
    eps_small: float = 0.05


def measure_large(config: LargeConfig, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: the plane of FC2 at `n_train` images and at `n_small`.

    Values: those of `feature_plane.summary`, those of the small matrix with `small_` in front,
    `plane_apart`, the mean distance of the two lists of robustness, and `mass`. The matrix and its
    spectrum stand in the seed's folder until its numbers are saved.
    """
    images = data.load("mnist", n_train=config.n_train, n_test=config.n_test, seed=seed)
    folder = checkpoints.folder / "matrix"
    few = config.n_small, config.n_test, config.n_features
    budgets = config.eps, config.eps_small
    kernel = parts.DENSE["fc2"]
    large = checkpoints.kept("large", lambda: _large(config, kernel, images, folder))
    shutil.rmtree(folder, ignore_errors=True)
    small = checkpoints.kept(
        "small", lambda: feature_plane.one_kernel(kernel, few, images, *budgets)
    )
    values = feature_plane.summary(large)
    values |= {f"small_{n}": v for n, v in feature_plane.summary(small).items()}
    values["plane_apart"] = float(np.abs(large["robustness"] - small["robustness"]).mean())
    values |= {"mass": float(large["mass"]), "fit_seconds": float(large["fit_seconds"])}
    curves = {
        n: (list(range(config.n_features)), large[n].tolist())
        for n in ("usefulness", "robustness", "robustness_small", "eigenvalue")
    }
    return SeedResult(values, curves, (describe(images, seed),))


def _large(config: LargeConfig, kernel, images, folder) -> dict:
    start, r = time.monotonic(), range(config.n_features)
    regression = predictors.KernelRegression(kernel, solver="eigh")
    fitted = predictors.fit_stored(regression, images.x_train, parts.targets_of(images), folder)
    taken = time.monotonic() - start
    x, y = images.x_test, images.y_test
    found = parts.plane(fitted, r, x, y, (config.eps, config.eps_small))
    squares = np.maximum(fitted.eigenvalues, 0.0) ** 2
    return {
        "usefulness": found.usefulness,
        "robustness": found.robustness[0],
        "robustness_small": found.robustness[1],
        "eigenvalue": fitted.eigenvalues[::-1][: len(r)] / fitted.eigenvalues[-1],
        "majority": parts.majority(y),
        "count": len(x),
        "mass": squares[-20:].sum() / squares.sum(),
        "fit_seconds": taken,
    }


def large_cost(config: LargeConfig) -> Cost:
    """The planes, and two eigendecompositions on the host."""
    flops = 0.0
    for n in (config.n_train, config.n_small):
        b, r = config.n_test, config.n_features
        flops += _cost.class_gradients(b, n, 784, r) + 2 * r * _cost.scores(b, n, 784, 1)
        flops += _cost.gram(n, n, 784)
    host = _cost.eigh(config.n_train) + _cost.eigh(config.n_small)
    return Cost(len(config.seeds) * flops, "float32", len(config.seeds) * host)


TOY = Experiment(
    name="tk-feature-toy",
    help="features and spectral cut-offs of the two-layer kernel on MNIST, two kinds of draws",
    presets={"quick": ToyConfig(seeds=(0, 1), n_train=320, n_test=60), "book": ToyConfig()},
    measure=measure_toy,
    cost=toy_cost,
)
LARGE = Experiment(
    name="tk-features-10000",
    help="features of FC2 on 10,000 MNIST images; matrix and spectrum are kept on disk meanwhile",
    presets={
        "quick": LargeConfig(seeds=(0, 1), n_train=80, n_small=40, n_test=30, n_features=20),
        "book": LargeConfig(),
    },
    measure=measure_large,
    cost=large_cost,
)

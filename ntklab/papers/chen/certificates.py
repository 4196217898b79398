"""Kernel regression and SVM on zeros and ones of MNIST: accuracy and certified radius."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import data, kernels, predictors
from ntklab._common import float64, progress
from ntklab.certificates import Certificate, kernel_certificate
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.chen.measures import mean_of_finite, smallest_found, summary

KERNEL = kernels.FullyConnected(depth=1, w_std=1.0)


@dataclass(frozen=True)
class Config:
    """Arguments of `chen-certificates`.

    Attributes:
      seeds: each its own order of the mini-batches and its own start of the attack; all else is
        the same for every seed, and computed once.
      n_train: training images, None for all 12,665.
      n_test: test images, None for all 2,115.
      n_first: test images in the paper's means over 100, taken from the front.
      regularisations: lambda of kernel regression, whose ridge is half of it.
      svm: lambda of the SVM in the sum form, 0.001 times a batch of 64.
      batch: mini-batch of the authors' descent.
      learning_rate: of their descent.
      epochs: of their descent.
      eps: budgets of the attack that certificates are held against.
      steps: steps of PGD at each budget.
      n_attacked: test images that are attacked, from the front.
    """

    seeds: tuple[int, ...] = (0,)
    n_train: int | None = None
    n_test: int | None = None
    n_first: int = 100
    regularisations: tuple[float, ...] = (0.0, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    svm: float = 0.064
    batch: int = 64
    learning_rate: float = 1.0
    epochs: int = 300
    eps: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
    steps: int = 20
    n_attacked: int = 100


class Shared(NamedTuple):
    """What no seed changes.

    Attributes:
      images: zeros and ones.
      signs: -1 for zeros, +1 for ones.
      gram: the kernel matrix in float64.
      svm: the optimum.
      tables: machine -> scores and radii of the test images.
    """

    images: data.Dataset
    signs: jax.Array
    gram: np.ndarray
    svm: predictors.FittedKernelSVM
    tables: dict[str, dict[str, np.ndarray]]


def prepare(config: Config, checkpoints: Checkpoints) -> Shared:
    """The kernel matrix, the machines that are solved exactly, and their certificates."""
    images = data.load("mnist", classes=(0, 1), n_train=config.n_train, n_test=config.n_test)
    x, signs = images.x_train, images.signed()[0]
    with float64():
        gram = np.asarray(KERNEL(jnp.asarray(np.asarray(x, np.float64))))
    svm = predictors.KernelSVM(KERNEL, "hinge", config.svm)
    svm = svm.fit(x, signs, tolerance=1e-10, gram=gram)
    shared = Shared(images, signs, gram, svm, {})

    def regression(ridge: float) -> dict:
        model = predictors.KernelRegression(
            KERNEL, ridge=ridge, solver="cholesky", engine="scipy"
        ).fit(x, signs, gram=gram)
        found = _certify(model.coefficients(), images)
        return found | {"jitter": np.asarray(model.jitter)}

    for regularisation in progress(config.regularisations, "kernel regression"):
        name, ridge = name_of(regularisation), regularisation / 2
        shared.tables[name] = checkpoints.kept(name, lambda ridge=ridge: regression(ridge))
    shared.tables["svm"] = checkpoints.kept("svm", lambda: _certify(svm.coefficients, images))
    return shared


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: every machine on the same kernel matrix, certified on the whole test set.

    Values, each with the machine's name in front, `krr_0`, `krr_0_001` and so on, `svm` for the
    exact optimum and `sgd` for the authors' descent: `_accuracy`; `_certificate`, mean published
    radius of the correctly classified; `_deviation`, its standard deviation; `_certificate_100`,
    the mean over the first 100; `_tight`, the mean radius with tight ranges. Further
    `krr_0_jitter`, `svm_gap` and `sgd_gap`, relative duality gaps; `sgd_svm_apart`, the
    largest difference of their test scores over the largest score; `svm_attack`, mean smallest
    perturbation that PGD finds for the attacked images; `attacked`, for how many it finds one; and
    `violations`, how many of those lie below a certificate of the same machine.
    """
    shared: Shared = checkpoints.shared
    images = shared.images
    sgd = checkpoints.kept("sgd", lambda: _descent(config, seed, shared))
    tables = shared.tables | {"sgd": sgd}
    values = {
        "krr_0_jitter": float(tables["krr_0"]["jitter"]),
        "svm_gap": shared.svm.gap,
        "sgd_gap": float(sgd["gap"]),
    }
    for name, table in tables.items():
        radius = table["published"]
        found = summary(name, table["score"], radius, images.y_test, config.n_first)
        right = (table["score"] > 0) == np.asarray(images.y_test == 1)
        values |= found | {f"{name}_tight": float(table["tight"][right].mean())}
    scores = tables["svm"]["score"], sgd["score"]
    values["sgd_svm_apart"] = float(np.abs(scores[0] - scores[1]).max() / np.abs(scores[0]).max())
    values |= _attacked(config, shared.svm, tables["svm"], images, seed)
    used = [r for r in config.regularisations if r > 0]
    curves = {
        f"krr_{kind}": (used, [values[f"{name_of(r)}_{kind}"] for r in used])
        for kind in ("accuracy", "certificate", "tight")
    }
    return SeedResult(values, curves, (describe(images, seed),))


def _descent(config: Config, seed: int, shared: Shared) -> dict[str, np.ndarray]:
    """The authors' mini-batch descent, certified."""
    settings = {"learning_rate": config.learning_rate, "batch": config.batch}
    model = predictors.KernelSVM(KERNEL, "hinge", config.svm / config.batch).sgd(
        *(shared.images.x_train, shared.signs, jax.random.key(seed)),
        **(settings | {"epochs": config.epochs}),
        gram=shared.gram,
    )
    return _certify(model.coefficients, shared.images) | {"gap": np.asarray(model.gap)}


def name_of(regularisation: float) -> str:
    """`krr_0_001` for 0.001."""
    return f"krr_{regularisation:g}".replace(".", "_")


def _certify(coefficients, images) -> dict[str, np.ndarray]:
    """Scores and both radii of every test image.

    The coefficients stay in float64: at lambda = 0 float32 is too coarse for them.
    """
    machine = predictors.KernelMachine(images.x_train, np.asarray(coefficients, np.float64), KERNEL)
    published: Certificate = kernel_certificate(machine, images.x_test, ranges="published")
    tight = kernel_certificate(machine, images.x_test)
    return {"score": published.score, "published": published.radius, "tight": tight.radius}


def _attacked(config: Config, svm, table: dict, images, seed: int) -> dict[str, float]:
    """What PGD finds on the SVM, against its certificates."""
    some = slice(0, config.n_attacked)
    score, x = table["score"][some], images.x_test[some]
    smallest = smallest_found(config, svm.logits_fn(), score, x, seed)
    longest = np.maximum(table["published"], table["tight"])[some]
    return {
        "svm_attack": mean_of_finite(smallest),
        "attacked": float(np.isfinite(smallest).sum()),
        "violations": float((smallest < longest).sum()),
    }


#: Images of zeros and ones in MNIST.
_TRAIN, _TEST = 12_665, 2_115


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, mostly of certificates in float64, and of SciPy's factorisations.

    A certificate of b images takes $2\,b n\,(2 d + 64\,E)$, by 32 halvings of two angles for each
    kind of range, where E stands for the operations of one arc tangent; every ridge has one and a
    factorisation, the SVM one, and each seed one, $2 n^2$ operations an epoch, and PGD in float32.
    """
    n, b, d = config.n_train or _TRAIN, config.n_test or _TEST, 784
    certified = len(config.regularisations) + 1 + len(config.seeds)
    certificate = 2 * b * n * (2.0 * d + 64 * _cost.ENTRY)
    flops = _cost.gram(n, n, d) + certified * certificate
    attacked = len(config.eps) * config.steps * _cost.pull(config.n_attacked, n, d, 1)
    flops += len(config.seeds) * (attacked + config.epochs * 2.0 * n**2)
    return Cost(flops, "float64", len(config.regularisations) * _cost.cholesky(n))


EXPERIMENT = Experiment(
    name="chen-certificates",
    help="kernel regression and SVM on zeros and ones of MNIST with certified radii",
    presets={
        "quick": Config(
            n_train=200,
            n_test=40,
            n_first=20,
            regularisations=(0.0, 0.001, 0.1, 1.0, 10.0, 1000.0),
            epochs=20,
            eps=(0.1, 0.3),
            steps=5,
            n_attacked=20,
        ),
        "book": Config(seeds=(0, 1, 2)),
        "paper": Config(seeds=(0, 1, 2, 3, 4)),
    },
    measure=measure,
    prepare=prepare,
    cost=cost,
)

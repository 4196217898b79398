"""Kernel regression and SVM on zeros and ones of MNIST: accuracy and certified radius."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, kernels, predictors
from ntklab._common import float64, progress
from ntklab.certificates import Certificate, kernel_certificate
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe

KERNEL = kernels.FullyConnected(depth=1, w_std=1.0)


@dataclass(frozen=True)
class Config:
    """Arguments of `chen-certificates`.

    Attributes:
      seeds: each its own order of the mini-batches; all else is the same for every seed.
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
    images = data.load("mnist", classes=(0, 1), n_train=config.n_train, n_test=config.n_test)
    x, signs = images.x_train, images.signed()[0]
    with float64():
        gram = np.asarray(KERNEL(jnp.asarray(np.asarray(x, np.float64))))
    values, tables = {}, {}
    for regularisation in progress(config.regularisations, "kernel regression"):
        name = name_of(regularisation)
        known = checkpoints.load(name)
        if known is None:
            model = predictors.KernelRegression(
                KERNEL, ridge=regularisation / 2, solver="cholesky", engine="scipy"
            ).fit(x, signs, gram=gram)
            known = _certify(_wide(x, model.coefficients()), images)
            known["jitter"] = np.asarray(model.jitter)
            checkpoints.save(name, **known)
        tables[name] = known
    values["krr_0_jitter"] = float(tables["krr_0"]["jitter"])
    svm = predictors.KernelSVM(KERNEL, "hinge", config.svm).fit(
        x, signs, tolerance=1e-10, gram=gram
    )
    sgd = predictors.KernelSVM(KERNEL, "hinge", config.svm / config.batch).sgd(
        *(x, signs, jax.random.key(seed)),
        **{"learning_rate": config.learning_rate, "batch": config.batch, "epochs": config.epochs},
        gram=gram,
    )
    for name, model in (("svm", svm), ("sgd", sgd)):
        tables[name] = _certify(_wide(x, model.coefficients), images)
        values[f"{name}_gap"] = model.gap
    for name, table in tables.items():
        values |= _summary(name, table, images.y_test, config.n_first)
    scores = tables["svm"]["score"], tables["sgd"]["score"]
    values["sgd_svm_apart"] = float(np.abs(scores[0] - scores[1]).max() / np.abs(scores[0]).max())
    values |= _attacked(config, svm.logits_fn(), tables["svm"], images, seed)
    used = [r for r in config.regularisations if r > 0]
    curves = {
        f"krr_{kind}": (used, [values[f"{name_of(r)}_{kind}"] for r in used])
        for kind in ("accuracy", "certificate", "tight")
    }
    return SeedResult(values, curves, (describe(images, seed),))


def name_of(regularisation: float) -> str:
    """`krr_0_001` for 0.001."""
    return f"krr_{regularisation:g}".replace(".", "_")


def _wide(x, coefficients) -> predictors.KernelMachine:
    """The machine with its float64 coefficients: at lambda = 0 float32 is too coarse for them."""
    return predictors.KernelMachine(x, np.asarray(coefficients, np.float64), KERNEL)


def _certify(machine, images) -> dict[str, np.ndarray]:
    """Scores and both radii of every test image."""
    published: Certificate = kernel_certificate(machine, images.x_test, ranges="published")
    tight = kernel_certificate(machine, images.x_test)
    return {"score": published.score, "published": published.radius, "tight": tight.radius}


def _summary(name: str, table: dict, y, n_first: int) -> dict[str, float]:
    """Accuracy, and radii of the correctly classified."""
    right = (table["score"] > 0) == np.asarray(y == 1)
    first = np.arange(len(right)) < n_first
    radius = table["published"]
    return {
        f"{name}_accuracy": float(right.mean()),
        f"{name}_certificate": float(radius[right].mean()),
        f"{name}_deviation": float(radius[right].std()),
        f"{name}_certificate_100": float(radius[right & first].mean()),
        f"{name}_tight": float(table["tight"][right].mean()),
    }


def _attacked(config: Config, logits_fn, table: dict, images, seed: int) -> dict[str, float]:
    """The smallest perturbations that PGD finds, against the certificates."""
    some = slice(0, config.n_attacked)
    x = images.x_test[some]
    predicted = jnp.asarray((table["score"][some] > 0).astype(np.int32))
    smallest = np.full(len(x), np.inf)
    for eps in config.eps:
        found = attacks.pgd(eps, steps=config.steps)(logits_fn, x, predicted, jax.random.key(seed))
        size = np.abs(np.asarray(found.x_adv - x)).reshape(len(x), -1).max(axis=1)
        smallest = np.where(found.success, np.minimum(smallest, size), smallest)
    hit = np.isfinite(smallest)
    longest = np.maximum(table["published"], table["tight"])[some]
    return {
        "svm_attack": float(smallest[hit].mean()) if hit.any() else 0.0,
        "attacked": float(hit.sum()),
        "violations": float((smallest < longest).sum()),
    }


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
)

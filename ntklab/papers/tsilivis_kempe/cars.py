"""Training-free attacks on cars and planes: the setting of the authors' notebook."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ntklab import attacks, data, kernels, predictors
from ntklab.attacks import training_free
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe.evaluate import accuracy, random_signs, robust_accuracy


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-car-plane-training-free`.

    Attributes:
      seeds: each draws its own balanced training and test images.
      n_train: training images, half of them planes.
      n_test: attacked test images.
      n_attacked_train: training images attacked by equation 16.
      eps_255: budget in 1/255.
      pgd_steps: steps of PGD.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_train: int = 2000
    n_test: int = 1000
    n_attacked_train: int = 500
    eps_255: float = 8.0
    pgd_steps: int = 10


#: The notebook's kernel (one hidden layer, both layers trained, biases), and equation 29.
KERNELS = {
    "fc1": kernels.FullyConnected(depth=1, b_std=0.1),
    "two_layer": kernels.TwoLayerNTK(),
}


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: both kernels on the same images.

    Values, each with `fc1_` or `two_layer_` in front: `clean`; robust accuracy under `noise`,
    `fgsm`, `eq6`, `eq18`, `pgd10`; `train_eq16`, that of training images under equation 16;
    `eq6_eq18_differ`, the share of correctly classified images whose perturbations by equations
    6 and 18 differ; `eq18_repaired`, the share of clean errors that equation 18 puts right.
    """
    images = data.load(
        "cifar10",
        classes=("airplane", "automobile"),
        n_train=config.n_train,
        n_test=config.n_test,
        seed=seed,
    )
    values = {}
    for name, kernel in KERNELS.items():
        key = jax.random.key(seed)
        measured = checkpoints.kept(
            name, lambda kernel=kernel, key=key: _one_kernel(config, kernel, images, key)
        )
        values |= {f"{name}_{what}": float(value) for what, value in measured.items()}
    return SeedResult(values, {}, (describe(images, seed),))


def _one_kernel(config: Config, kernel, images, key) -> dict[str, float]:
    signs, _ = images.signed()
    machine = predictors.KernelRegression(kernel).fit(images.x_train, signs).logits_fn()
    x, y, eps = images.x_test, images.y_test, config.eps_255 / 255
    suite = {
        "noise": random_signs(eps),
        "fgsm": attacks.fgsm(eps),
        "eq6": training_free.binary_cross_entropy(eps),
        "eq18": training_free.label_free(eps),
        "pgd10": attacks.pgd(eps, steps=config.pgd_steps),
    }
    values = {"clean": accuracy(machine, x, y)}
    values |= {name: robust_accuracy(a, machine, x, y, key) for name, a in suite.items()}
    some = slice(0, config.n_attacked_train)
    values["train_eq16"] = robust_accuracy(
        training_free.training_point(eps), machine, images.x_train[some], images.y_train[some], key
    )
    return values | _compare(suite, machine, x, y)


def _compare(suite: dict, machine, x, y) -> dict[str, float]:
    """Equations 6 and 18 side by side: one attack where the prediction is right."""
    right = attacks.correct(machine(x), y)
    labelled, free = suite["eq6"](machine, x, y), suite["eq18"](machine, x, y)
    axes = tuple(range(1, x.ndim))
    differ = jnp.any(labelled.x_adv != free.x_adv, axis=axes)
    wrong = int((~right).sum())
    return {
        "eq6_eq18_differ": float((differ & right).sum() / right.sum()),
        "eq18_repaired": float((~right & ~free.success).sum()) / max(wrong, 1),
    }


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, in float32 but for the eigendecomposition.

    With G the kernel matrix, S the scores of all test images, P an input gradient of the loss and
    C one of the score, each kernel of a seed takes $G + 9 n^3 + (s + 1) P + 4 C + 13 S$ with s
    steps of PGD, and equation 16 takes $C + 2 S$ on the attacked training images.
    """
    n, d = config.n_train, 3072
    test, train = (config.n_test, n, d, 1), (config.n_attacked_train, n, d, 1)
    flops = _cost.gram(n, n, d) + (config.pgd_steps + 1) * _cost.pull(*test)
    flops += 4 * _cost.class_gradients(*test) + 13 * _cost.scores(*test)
    flops += _cost.class_gradients(*train) + 2 * _cost.scores(*train)
    machines = len(KERNELS) * len(config.seeds)
    return Cost(machines * flops, "float32", machines * _cost.eigh(n))


EXPERIMENT = Experiment(
    name="tk-car-plane-training-free",
    help="kernel machines on CIFAR-10 cars and planes; the authors' notebook has the numbers",
    presets={
        "quick": Config(seeds=(0, 1), n_train=200, n_test=60, n_attacked_train=40),
        "book": Config(),
        "paper": Config(seeds=(0, 1, 2), n_train=10_000, n_test=2_000),
    },
    measure=measure,
    cost=cost,
)

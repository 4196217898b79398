"""Catastrophic overfitting: where training on single steps stops to protect against many."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from ntklab import attacks, data, training
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import share, train
from ntklab.papers.loo.toy import PRODUCTS, Images


@dataclass(frozen=True)
class Config:
    """Arguments of `single-step-overfitting`.

    Attributes:
      seeds: each draws its own images, weights, batches and starts.
      images: MNIST averaged to 14x14.
      eps: budgets, linf, on [0, 1] images; training and test use the same.
      epochs: of training on attacked images.
      warm_epochs: of training on clean images before that, the same in all arms.
      batch_size: examples a step.
      learning_rate: of SGD with momentum .9, constant.
      train_steps: of the arm `pgd`, of length `eps / 3`.
      test_steps: of the attack on the trained networks, of length `eps / 8`.
      probe: test images whose robust accuracy is taken after every epoch.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    images: Images = field(default_factory=Images)
    eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    epochs: int = 15
    warm_epochs: int = 0
    batch_size: int = 100
    learning_rate: float = 0.01
    train_steps: int = 7
    test_steps: int = 20
    probe: int = 250


def strategies(eps: float, steps: int) -> dict:
    """Name -> how a batch is attacked."""
    return {
        "fgsm": training.FGSM(eps),
        "rs": training.RSFGSM(eps),
        "pgd": training.PGD(eps, steps, eps / 3),
    }


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `ARM_WHAT_EPS`: `clean`, `fgsm` and `pgd` accuracy, `gap` (fgsm - pgd).

    `ARM_worst_gap` is the greatest gap over eps. Curves `ARM_EPS`: robust accuracy by epoch;
    `ARM_worst_fall` is the most that one of them loses from one epoch to the next, over eps, among
    the epochs on attacked images.
    """
    images = config.images.load(seed)
    values, curves = {}, {}
    for eps in config.eps:
        found = _one_budget(config, eps, seed, images, checkpoints, curves)
        values |= found
    for arm in strategies(0.1, 1):
        values[f"{arm}_worst_gap"] = max(values[f"{arm}_gap_{eps}"] for eps in config.eps)
        values[f"{arm}_worst_fall"] = max(_fall(config, *curves[f"{arm}_{e}"]) for e in config.eps)
    return SeedResult(values, curves, (describe(images, seed),))


def _one_budget(
    config: Config,
    eps: float,
    seed: int,
    images: data.Dataset,
    checkpoints: Checkpoints,
    curves: dict,
) -> dict[str, float]:
    key = jax.random.fold_in(jax.random.key(seed), 1)
    many = attacks.pgd(eps, steps=config.test_steps, step_size=eps / 8)
    one, values = attacks.fgsm(eps), {}
    x, y = images.x_test[: config.probe], images.y_test[: config.probe]

    def evaluate(network, epoch):
        return {"robust": 1 - float(jnp.mean(many(network, x, y, key).success))}

    for arm, strategy in strategies(eps, config.train_steps).items():
        name, phases = f"{arm}-{eps}", _phases(config, strategy)
        trained = train(name, phases, images, config.batch_size, seed, checkpoints, evaluate)
        network = trained.logits_fn()
        clean = share(lambda a, b, f=network: f(a).argmax(1) == b, images)
        single = share(lambda a, b, f=network: ~one(f, a, b).success, images)
        robust = share(lambda a, b, f=network: ~many(f, a, b, key).success, images)
        values |= {f"{arm}_clean_{eps}": clean, f"{arm}_fgsm_{eps}": single}
        values |= {f"{arm}_pgd_{eps}": robust, f"{arm}_gap_{eps}": single - robust}
        rows = [(r["epoch"], r["robust"]) for r in trained.metrics]
        curves[f"{arm}_{eps}"] = tuple(map(list, zip(*rows, strict=True)))
    return values


def _phases(config: Config, strategy: Any) -> list[training.Phase]:
    rate = training.constant(config.learning_rate)
    attacked = training.Phase(config.epochs, strategy, learning_rate=rate)
    if not config.warm_epochs:
        return [attacked]
    return [training.Phase(config.warm_epochs, learning_rate=rate), attacked]


def _fall(config: Config, epochs: list, robust: list) -> float:
    """The most that is lost from one epoch on attacked images to the next; 0 where nothing is."""
    after = [value for e, value in zip(epochs, robust, strict=True) if e > config.warm_epochs]
    return max((a - b for a, b in pairwise(after)), default=0.0)


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2, update 3: `2 PRODUCTS` operations each, all runs and seeds."""
    one, epochs = 2.0 * PRODUCTS, config.warm_epochs + config.epochs
    passes = 3 * 3 * epochs + 2 * (1 + 1 + config.train_steps) * config.epochs
    tests = 3 * (2 * config.test_steps + 6) * config.images.n_test
    tests += 3 * epochs * config.probe * (2 * config.test_steps + 1)
    runs, n = len(config.seeds) * len(config.eps), config.images.n_train
    return Cost(runs * (n * passes + tests) * one, examples=3.0 * runs * n * epochs)


EXPERIMENT = Experiment(
    name="single-step-overfitting",
    help="FGSM, RS-FGSM and PGD-7 training of the small CNN by eps, MNIST 14x14",
    presets={
        "quick": Config(
            seeds=(0, 1),
            images=Images(200, 50),
            eps=(0.1, 0.3),
            epochs=2,
            train_steps=2,
            test_steps=3,
            probe=20,
        ),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

#: Networks that have learned the clean images first, at a higher rate, three times as long.
LONGER = replace(
    EXPERIMENT,
    name="single-step-overfitting-longer",
    help="as single-step-overfitting, after clean epochs, at a higher rate, three times as long",
    presets={
        "quick": replace(EXPERIMENT.presets["quick"], eps=(0.2,), warm_epochs=1),
        "book": Config(eps=(0.1, 0.2), epochs=45, warm_epochs=5, learning_rate=0.03),
    },
)

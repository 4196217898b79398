"""Adversarial training on a fixed benign kernel, against an attack that sees the jumps."""

from dataclasses import dataclass

import numpy as np

from ntklab import attacks
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import PRODUCTS


@dataclass(frozen=True)
class Config(two.Setting):
    """Arguments of `loo-toy-soft-gate-training`.

    Attributes:
      beta: sharpness of the soft gate in training.
      betas: those of the attacks on the result.
      long_steps: of each of these attacks.
    """

    beta: float = 10.0
    betas: tuple[float, ...] = (2.0, 10.0, 50.0)
    long_steps: int = 100


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `soft_COLUMN`, and `benign_COLUMN` of benign training on the same kernel.

    Columns as in `table_row`, with `_gate`, the accuracy under all soft gates, in `_worst`.
    `gain_worst` is what adversarial training adds to the worst case.
    """
    images = config.images.load(seed)
    place = (images, seed, checkpoints)
    parent = two.parent(config, "benign", *place)
    values = {}
    for name, attack in (("soft", trained_against(config)), ("benign", None)):
        second = two.phase(config, attack)
        trained = two.follow(name, parent.weights, second, config, *place)
        more = {"gate": lambda x, y, key, t=trained: _broken(config, t, x, y, key)}
        values |= two.table_row(config, name, trained.logits_fn(), *place, more)
        values[f"{name}_seconds"] = trained.seconds
    values["gain_worst"] = values["soft_worst"] - values["benign_worst"]
    return SeedResult(values, {}, (describe(images, seed),))


def trained_against(config: Config) -> two.SoftGatePGD:
    """The attack of adversarial training, by the soft gate."""
    return two.SoftGatePGD(config.eps, config.train_steps, config.eps / 3, beta=config.beta)


def _broken(config: Config, trained, x, y, key) -> np.ndarray:
    """Whether any sharpness breaks an example."""
    attack = attacks.pgd(config.eps, steps=config.long_steps, loss=attacks.margin)
    found = [attack(two.soft_gated(trained, b), x, y, key).success for b in config.betas]
    return np.any([np.asarray(f) for f in found], axis=0)


def cost(config: Config) -> Cost:
    """Passes as `second_phase` counts them, `2 PRODUCTS` operations each."""
    n = config.images.n_train
    passes = n * config.epochs * two.training_passes(config, "benign")
    passes += n * config.second_epochs * sum(two.second_passes(config, k) for k in two.KINDS)
    gates = config.n_searched * len(config.betas) * config.long_steps * 6
    passes += 2 * (two.row_passes(config) + gates)
    seeds = len(config.seeds)
    seen = n * (config.epochs + 3 * config.second_epochs)
    return Cost(seeds * passes * 2.0 * PRODUCTS, examples=float(seeds * seen))


EXPERIMENT = Experiment(
    name="loo-toy-soft-gate-training",
    help="adversarial training on the benign kernel against an attack that sees the jumps",
    presets={
        "quick": Config(**two.QUICK, betas=(10.0,), long_steps=3),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

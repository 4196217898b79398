"""Robust overfitting: where longer adversarial training begins to cost robust test accuracy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, training
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import train
from ntklab.papers.loo.toy import PRODUCTS


@dataclass(frozen=True)
class Images:
    """Fashion-MNIST averaged to 14x14.

    Attributes:
      n_train: training images.
      n_validation: held-out images on which the time to stop is chosen.
      n_test: held-out images that judge the choice.
    """

    n_train: int = 1000
    n_validation: int = 500
    n_test: int = 1000

    def load(self, seed: int) -> data.Dataset:
        """The images of a seed; validation images stand before the test images."""
        held = self.n_validation + self.n_test
        return data.load("fashion_mnist", side=14, n_train=self.n_train, n_test=held, seed=seed)


@dataclass(frozen=True)
class Config:
    """Arguments of `robust-overfitting`.

    Attributes:
      seeds: each draws its own images, weights, batches and starts.
      images: how many.
      eps: budget of training and test, linf, on [0, 1] images.
      epochs: of training.
      batch_size: examples a step.
      learning_rate: of SGD with momentum .9; a tenth after half of the epochs, a hundredth after
        three quarters.
      train_steps: PGD steps in training, of length `eps / 2`, from a uniform start.
      test_steps: PGD steps of the measurement, of length `eps / 4`, from a uniform start.
      every: epochs between two measurements.
      probe: training images on which robust accuracy is measured.
      last: measurements that are averaged for the end of training.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    images: Images = field(default_factory=Images)
    eps: float = 0.05
    epochs: int = 120
    batch_size: int = 50
    learning_rate: float = 0.03
    train_steps: int = 5
    test_steps: int = 10
    every: int = 5
    probe: int = 500
    last: int = 3


ARMS = ("standard", "adversarial")
SPLITS = ("train", "validation", "test")


def phase(config: Config, arm: str) -> training.Phase:
    """How an arm is trained: on clean examples, or on those of PGD."""
    strategy = training.PGD(config.eps, config.train_steps, config.eps / 2)
    rate = training.steps_down(config.learning_rate, (config.epochs / 2, 0.75 * config.epochs))
    if arm == "standard":
        strategy = training.Standard()
    return training.Phase(config.epochs, strategy, learning_rate=rate)


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Curves `ARM_SPLIT`: accuracy by epoch, robust in the arm `adversarial`, else clean.

    Values, for each arm: `ARM_stop`, the epoch of the highest validation accuracy;
    `ARM_stopped_SPLIT` and `ARM_final_SPLIT`, the accuracy at that epoch and the mean over the last
    measurements; `ARM_drop`, what test accuracy loses from the one to the other, and
    `ARM_train_rise`, what training accuracy gains. `adversarial_clean` is clean test accuracy at
    the end.
    """
    images = config.images.load(seed)
    values, curves = {}, {}
    for arm in ARMS:
        evaluate = evaluation(config, images, seed, arm)
        steps = [phase(config, arm)]
        trained = train(arm, steps, images, config.batch_size, seed, checkpoints, evaluate)
        rows = [row for row in trained.metrics if "test" in row]
        table = {name: np.array([row[name] for row in rows]) for name in ("epoch", *SPLITS)}
        values |= {f"{arm}_{name}": v for name, v in summary(table, config.last).items()}
        for split in SPLITS:
            curves[f"{arm}_{split}"] = table["epoch"].tolist(), table[split].tolist()
        if arm == "adversarial":
            x, y = held_out(config, images, "test")
            values["adversarial_clean"] = _share(trained.logits_fn()(x).argmax(1) == y)
    return SeedResult(values, curves, (describe(images, seed),))


def evaluation(config: Config, images: data.Dataset, seed: int, arm: str) -> Callable:
    """`evaluate(network, epoch)`: accuracies of the three splits every few epochs."""
    attack = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 4)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    splits = {split: held_out(config, images, split) for split in SPLITS}

    def accuracy(network, x, y):
        if arm == "standard":
            return _share(network(x).argmax(1) == y)
        return _share(~attack(network, x, y, key).success)

    def evaluate(network, epoch):
        if epoch % config.every:
            return {}
        return {split: accuracy(network, x, y) for split, (x, y) in splits.items()}

    return evaluate


def held_out(config: Config, images: data.Dataset, split: str) -> tuple:
    """Images and labels of a split: `train` (its first few), `validation` or `test`."""
    if split == "train":
        return images.x_train[: config.probe], images.y_train[: config.probe]
    n = config.images.n_validation
    part = slice(n) if split == "validation" else slice(n, None)
    return images.x_test[part], images.y_test[part]


def summary(table: dict[str, np.ndarray], last: int) -> dict[str, float]:
    """What a run's curves come to: where validation would stop, and what follows after it.

    Args:
      table: `epoch`, `train`, `validation` and `test`, one entry a measurement.
      last: measurements that are averaged for the end.

    >>> curve = np.array([0.5, 0.7, 0.6])
    >>> table = {"epoch": np.arange(3.0), "train": curve, "validation": curve, "test": curve}
    >>> found = summary(table, 1)
    >>> found["stop"], round(found["drop"], 2)
    (1.0, 0.1)
    """
    best = int(table["validation"].argmax())
    stopped = {split: float(table[split][best]) for split in SPLITS}
    final = {split: float(table[split][-last:].mean()) for split in SPLITS}
    return {
        "stop": float(table["epoch"][best]),
        **{f"stopped_{split}": value for split, value in stopped.items()},
        **{f"final_{split}": value for split, value in final.items()},
        "drop": stopped["test"] - final["test"],
        "train_rise": final["train"] - stopped["train"],
    }


def _share(right) -> float:
    return float(jnp.mean(right))


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2, update 3: `2 PRODUCTS` operations each, all seeds and arms."""
    images, one, seeds = config.images, 2.0 * PRODUCTS, len(config.seeds)
    steps = images.n_train * config.epochs * (3 + 3 + 2 * config.train_steps)
    measured = config.probe + images.n_validation + images.n_test
    tests = (config.epochs // config.every) * measured * (1 + 2 * config.test_steps + 1)
    examples = 2.0 * seeds * images.n_train * config.epochs
    return Cost(seeds * (steps + tests) * one, examples=examples)


EXPERIMENT = Experiment(
    name="robust-overfitting",
    help="PGD-5 and standard training of the small CNN, 1,000 Fashion-MNIST images, 120 epochs",
    presets={
        "quick": Config(
            seeds=(0, 1),
            images=Images(100, 20, 20),
            epochs=4,
            train_steps=1,
            test_steps=2,
            every=2,
            probe=20,
            last=1,
        ),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

#: A fifth of the images for as many steps, which a network of this size can learn by heart.
FEW = replace(
    EXPERIMENT,
    name="robust-overfitting-few",
    help="as robust-overfitting, 200 images for as many steps: 600 epochs",
    presets={
        "quick": replace(EXPERIMENT.presets["quick"], images=Images(50, 20, 20)),
        "book": Config(images=Images(n_train=200), epochs=600, every=25, probe=200),
    },
)

"""The parents of the toy setting: standard and adversarial training of the small CNN."""

from dataclasses import dataclass, field

import jax

from ntklab import attacks, data, training
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import share, train

#: Multiplications of one forward pass of `nets.ToyCNN` on a 14x14 image.
PRODUCTS = 292_160


@dataclass(frozen=True)
class Images:
    """MNIST averaged to 14x14.

    Attributes:
      n_train: training images.
      n_test: test images, which are attacked.
    """

    n_train: int = 4000
    n_test: int = 1000

    def load(self, seed: int) -> data.Dataset:
        """The images of a seed."""
        return data.load("mnist", side=14, n_train=self.n_train, n_test=self.n_test, seed=seed)


@dataclass(frozen=True)
class Config:
    """Arguments of `loo-toy-training`.

    Attributes:
      seeds: each draws its own images, weights, batches and starts.
      images: how many.
      epochs: of training.
      batch_size: examples a step.
      learning_rate: of SGD with momentum .9, constant.
      eps: budget of attack and training, linf, on [0, 1] images.
      train_steps: PGD steps in training, of length `eps / 3`, from a uniform start.
      test_steps: PGD steps against the trained network, of length `eps / 8`.
      collapse_eps: budget of the run that is expected to collapse: adversarial batches only.
      collapse_rate: its learning rate.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    images: Images = field(default_factory=Images)
    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 0.03
    eps: float = 0.1
    train_steps: int = 7
    test_steps: int = 20
    collapse_eps: float = 0.2
    collapse_rate: float = 0.05


def phases(config: Config) -> dict[str, training.Phase]:
    """Name -> the phase: `standard`, `adversarial`, and `collapse`, which is too strong."""
    rate = training.constant(config.learning_rate)
    strong = training.PGD(config.collapse_eps, config.train_steps, config.collapse_eps / 3)
    return {
        "standard": training.Phase(config.epochs, learning_rate=rate),
        "adversarial": training.Phase(
            config.epochs,
            training.PGD(config.eps, config.train_steps, config.eps / 3),
            learning_rate=rate,
        ),
        "collapse": training.Phase(
            config.epochs, strong, learning_rate=training.constant(config.collapse_rate)
        ),
    }


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `ARM_clean`, `ARM_pgd`, `ARM_pgd_last`, `ARM_seconds` of training.

    `pgd` counts an example as lost when any point of the path is misclassified, `pgd_last` only
    when the last one is. Of the arm `collapse` also `collapse_reported`: whether the engine said
    so, 0 or 1.
    """
    images = config.images.load(seed)
    attack = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8)
    last = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8, keep="last")
    values, curves = {}, {}
    for arm, phase in phases(config).items():
        trained = train(arm, [phase], images, config.batch_size, seed, checkpoints)
        network, key = trained.logits_fn(), jax.random.fold_in(jax.random.key(seed), 1)
        values[f"{arm}_clean"] = share(lambda x, y, f=network: f(x).argmax(1) == y, images)
        values[f"{arm}_pgd"] = share(
            lambda x, y, f=network, k=key: ~attack(f, x, y, k).success, images
        )
        values[f"{arm}_pgd_last"] = share(
            lambda x, y, f=network, k=key: ~last(f, x, y, k).success, images
        )
        values[f"{arm}_seconds"] = trained.seconds
        rows = [(r["epoch"], r["loss"]) for r in trained.metrics]
        curves[f"{arm}_loss"] = tuple(map(list, zip(*rows, strict=True)))
        if arm == "collapse":
            said = any("collapsed" in r.get("warning", "") for r in trained.metrics)
            values["collapse_reported"] = float(said)
    return SeedResult(values, curves, (describe(images, seed),))


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2, update 3: `2 PRODUCTS` operations each, all seeds and arms."""
    images, one = config.images, 2.0 * PRODUCTS
    passes = 3 * 3 + 2 * 2 * config.train_steps
    training_flops = images.n_train * config.epochs * passes * one
    tests = 3 * images.n_test * 2 * (2 * config.test_steps + 3) * one
    seeds = len(config.seeds)
    return Cost(
        seeds * (training_flops + tests), examples=seeds * 3.0 * images.n_train * config.epochs
    )


EXPERIMENT = Experiment(
    name="loo-toy-training",
    help="standard and PGD-7 training of the small CNN, MNIST 14x14, and a collapse",
    presets={
        "quick": Config(
            seeds=(0, 1), images=Images(200, 50), epochs=2, train_steps=2, test_steps=3
        ),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

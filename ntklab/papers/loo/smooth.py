"""The smooth control: the same second phase on networks whose tangent does not jump."""

from dataclasses import dataclass
from typing import Any

from ntklab import nets
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import share
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import PRODUCTS


@dataclass(frozen=True)
class Config(two.Setting):
    """Arguments of `loo-toy-smooth-control`.

    Attributes:
      activations: `"relu"`, `"gelu"`, or the sharpness of a softplus.
    """

    activations: tuple[str | float, ...] = ("relu", "gelu", 2.0, 10.0, 50.0)


def network(activation: str | float) -> nets.ToyCNN:
    """The toy CNN with an activation of the config."""
    return nets.ToyCNN(activation=activation_of(activation))


def activation_of(activation: str | float) -> Any:
    """What a network takes: a name, or a softplus of this sharpness."""
    return activation if isinstance(activation, str) else nets.Softplus(activation)


def name_of(activation: str | float) -> str:
    """`relu`, `gelu`, `softplus_5`."""
    return activation if isinstance(activation, str) else f"softplus_{activation:g}"


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `ACTIVATION_COLUMN`: adversarial training on the benign kernel.

    Columns as in `table_row`; `ACTIVATION_parent_clean` is the parent's clean accuracy.
    `clean_spread` is the largest clean accuracy less the smallest.
    """
    images, values = config.images.load(seed), {}
    for activation in config.activations:
        values |= _one(config, activation, images, seed, checkpoints)
    clean = [values[f"{name_of(a)}_clean"] for a in config.activations]
    values["clean_spread"] = max(clean) - min(clean)
    return SeedResult(values, {}, (describe(images, seed),))


def _one(
    config: Config, activation: str | float, images: Any, seed: int, checkpoints: Checkpoints
) -> dict[str, float]:
    """A parent with this activation, and what is trained on its kernel."""
    name, module, place = name_of(activation), network(activation), (images, seed, checkpoints)
    parent = two.parent(config, "benign", *place, module, f"{name}-parent")
    second = two.phase(config, two.plain_attack(config))
    trained = two.follow(f"{name}-second", parent.weights, second, config, *place, module)
    clean = share(lambda x, y: parent.logits_fn()(x).argmax(1) == y, images)
    return two.table_row(config, name, trained.logits_fn(), *place) | {
        f"{name}_parent_clean": clean,
        f"{name}_seconds": trained.seconds,
    }


def cost(config: Config) -> Cost:
    """Passes as `second_phase` counts them, `2 PRODUCTS` operations each."""
    n, arms = config.images.n_train, len(config.activations)
    passes = n * config.epochs * two.training_passes(config, "benign")
    passes += n * config.second_epochs * two.second_passes(config, "adversarial")
    passes += two.row_passes(config)
    runs = len(config.seeds) * arms
    seen = n * (config.epochs + 2 * config.second_epochs)
    return Cost(runs * passes * 2.0 * PRODUCTS, examples=float(runs * seen))


EXPERIMENT = Experiment(
    name="loo-toy-smooth-control",
    help="adversarial training on kernels of ReLU, GELU and softplus networks",
    presets={
        "quick": Config(**two.QUICK | {"train_steps": 1, "test_steps": 1}),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

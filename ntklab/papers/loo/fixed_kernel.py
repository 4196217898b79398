"""The spawn table: kernels of both kinds of parents, each trained on in both ways.

Two experiments share this code: `loo-toy-fixed-kernel`, centred, at three spawn epochs, and
`loo-toy-fixed-kernel-linear`, with the parent's function left in, at the last one.
"""

from dataclasses import dataclass, replace

from ntklab import data, training
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import PRODUCTS

#: What is compared between two ways of training, and its name in a gain.
_GAINS = {"pgd": "", "worst": "_worst"}


@dataclass(frozen=True)
class Config(two.Setting):
    """Arguments of `loo-toy-fixed-kernel` and of its sibling.

    Attributes:
      early: epochs of the parents at the first spawn; 0 for none.
      late: epochs of the parents at the last one.
      initial: whether the kernel of the initial weights, which both share, is trained on too.
      model: `"centred"` or `"linear"`.
    """

    early: int = 3
    late: int = 10
    initial: bool = True
    model: str = "centred"

    @property
    def spawns(self) -> dict[str, int]:
        """Name -> epochs of the parents."""
        return {name: e for name, e in (("early", self.early), ("late", self.late)) if e}


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Rows `KERNEL_kernel_SPAWN_TRAINING` and `initial_kernel_TRAINING`.

    KERNEL and TRAINING are `benign` or `adversarial`, SPAWN `early` or `late`; the parents have the
    rows `KERNEL_parent_SPAWN`. Values: each row's columns, as in `table_row`, and `_seconds`.
    `KERNEL_gain_SPAWN` is what adversarial training on the kernel adds under PGD over benign
    training, `KERNEL_gain_worst_SPAWN` under all attacks; `kernel_gain_SPAWN` and
    `kernel_gain_worst_SPAWN` what the adversarial kernel adds over the benign one, both trained on
    benignly.
    """
    images, values, curves = config.images.load(seed), {}, {}
    place = (images, seed, checkpoints)
    if config.initial:
        _both(config, "initial_kernel", two.initial(seed), *place, values, curves)
    for spawn, epochs in config.spawns.items():
        for kernel in two.KINDS:
            name = f"{kernel}_parent_{spawn}"
            short = replace(config, epochs=epochs)
            parent = two.parent(short, kernel, *place, name=name)
            values |= two.table_row(config, name, parent.logits_fn(), *place)
            start, name = parent.weights, f"{kernel}_kernel_{spawn}"
            _both(config, name, start, *place, values, curves)
            for column, suffix in _GAINS.items():
                one, other = (values[f"{name}_{kind}_{column}"] for kind in two.KINDS)
                values[f"{kernel}_gain{suffix}_{spawn}"] = other - one
        for column, suffix in _GAINS.items():
            one, other = (values[f"{k}_kernel_{spawn}_benign_{column}"] for k in two.KINDS)
            values[f"kernel_gain{suffix}_{spawn}"] = other - one
    return SeedResult(values, curves, (describe(images, seed),))


def _both(
    config: Config,
    kernel: str,
    start: training.Weights,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    values: dict,
    curves: dict,
) -> None:
    """Train on one kernel benignly and adversarially; add to `values` and `curves`."""
    place = (images, seed, checkpoints)
    for kind in two.KINDS:
        attack = two.plain_attack(config) if kind == "adversarial" else None
        name, second = f"{kernel}_{kind}", two.phase(config, attack, config.model)
        trained = two.follow(name, start, second, config, *place)
        values |= two.table_row(config, name, trained.logits_fn(), *place)
        values[f"{name}_seconds"] = trained.seconds
        rows = [(r["epoch"], r["loss"]) for r in trained.metrics]
        curves[f"{name}_loss"] = tuple(map(list, zip(*rows, strict=True)))


def cost(config: Config) -> Cost:
    """Passes as `second_phase` counts them, `2 PRODUCTS` operations each."""
    n, parents = config.images.n_train, len(config.spawns)
    kernels = 2 * parents + config.initial
    second = sum(two.second_passes(config, kind) for kind in two.KINDS)
    first = sum(two.training_passes(config, kind) for kind in two.KINDS)
    epochs = sum(config.spawns.values())
    passes = kernels * (n * config.second_epochs * second + 2 * two.row_passes(config))
    passes += n * epochs * first + 2 * parents * two.row_passes(config, tangent=False)
    seen = n * (2 * epochs + 3 * kernels * config.second_epochs)
    seeds = len(config.seeds)
    return Cost(seeds * passes * 2.0 * PRODUCTS, examples=float(seeds * seen))


QUICK = Config(**two.QUICK, early=1, late=2)
EXPERIMENT = Experiment(
    name="loo-toy-fixed-kernel",
    help="training on kernels of trained networks, three spawn epochs, with searches",
    presets={"quick": QUICK, "book": Config()},
    measure=measure,
    cost=cost,
)
_LINEAR = {"early": 0, "initial": False, "model": "linear"}
LINEAR = Experiment(
    name="loo-toy-fixed-kernel-linear",
    help="the same at the last spawn epoch with the parent's function left in",
    presets={"quick": replace(QUICK, **_LINEAR), "book": Config(**_LINEAR)},
    measure=measure,
    cost=cost,
)

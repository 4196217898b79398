"""What the tangent withstands, by where the examples of its training come from, and by smoothness.

Every arm linearises one network after the same adversarial training and trains the tangent on to
the same end.
"""

from dataclasses import dataclass, replace
from typing import Any

from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.smooth import activation_of, name_of
from ntklab.papers.tsilivis_kempe import linearised_training as linear
from ntklab.papers.tsilivis_kempe import networks
from ntklab.papers.tsilivis_kempe.linearised_training import Judging

#: Where the examples come from: the tangent, the network at the same parameters (the authors'
#: code), the tangent by the gradient of soft gates.
SOURCES = ("own", "network", "gate")
SETTING = replace(linear.TOY, epochs=12)
JUDGING = Judging(probe=60, queries=400, n_searched=150)


@dataclass(frozen=True)
class Config(linear.Config):
    """Arguments of `tk-linearised-masking`; of `spawns` only `early` is used.

    Attributes:
      beta: sharpness of the soft gate in training.
      smooth: activations of further arms, which train on the tangent's own examples: `"gelu"`, or
        the sharpness of a softplus.
    """

    setting: networks.Setting = SETTING
    spawns: tuple[int, int, int] = (0, 2, 3)
    judging: Judging = JUDGING
    beta: float = 10.0
    smooth: tuple[str | float, ...] = ("gelu",)

    @property
    def early(self) -> int:
        """Epochs before the network is linearised."""
        return self.spawns[1]


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Arms `own`, `network` and `gate`, see `SOURCES`; `gelu` and others of `smooth`.

    Values `ARM_COLUMN` with columns as in `linearised_training.judged`, and `ARM_seconds`.
    `pgd_lost` is PGD's figure of the arm `own` less that of `network`; `worst_won_network` and
    `worst_won_gate` what these arms have more than `own` under all attacks. Curves as in
    `linearised_training.measure`.
    """
    images = networks.load(config.setting, seed)
    place, values, curves = (images, seed, checkpoints), {}, {}
    start = linear.network(config, *place, name="parent", epochs=config.early).weights
    runs = {
        name: linear.tangent(config, name, start, _left(config), *place, source(config, name))
        for name in SOURCES
    }
    for activation in config.smooth:
        name, module = name_of(activation), config.module(activation_of(activation))
        rest = {"module": module, "name": f"parent-{name}", "epochs": config.early}
        begun = linear.network(config, *place, **rest).weights
        runs[name] = linear.tangent(config, name, begun, _left(config), *place, module=module)
    for name, run in runs.items():
        values |= linear.judged(config, name, run, *place)
        curves |= linear.curves_of(name, run, config.early)
        values[f"{name}_seconds"] = run.seconds
    values["pgd_lost"] = values["own_pgd"] - values["network_pgd"]
    for name in ("network", "gate"):
        values[f"worst_won_{name}"] = values[f"{name}_worst"] - values["own_worst"]
    return SeedResult(values, curves, (describe(images, seed),))


def source(config: Config, name: str) -> Any:
    """The attack of training, by the name of the arm."""
    s = config.setting
    settings = {"step_size": s.step_size, "random_start": s.random_start}
    if name == "network":
        return linear.NetworkPGD(s.eps, s.train_steps, **settings)
    if name == "gate":
        return two.SoftGatePGD(s.eps, s.train_steps, **settings, beta=config.beta)
    return networks.strategy(s, "pgd")


def _left(config: Config) -> int:
    return config.setting.epochs - config.early


def cost(config: Config) -> Cost:
    """As `linearised_training.cost`; a step of `network`'s attack is one of a network."""
    s, n, smooth = config.setting, config.setting.n_train or 50_000, len(config.smooth)
    arms, left, before = len(SOURCES) + smooth, _left(config), config.early
    passes = n * before * (1 + smooth) * (3.0 + 2 * s.train_steps)
    passes += n * left * ((arms - 1) * linear.tangent_passes(s.train_steps) + 6 + 2 * s.train_steps)
    passes += arms * linear.judging_passes(config, left, True)
    seeds = len(config.seeds)
    seen = n * (before * (1 + smooth) + left * arms)
    return Cost(seeds * passes * 2.0 * config.products, examples=float(seeds * seen))


EXPERIMENT = Experiment(
    name="tk-linearised-masking",
    help="adversarial training of one tangent on examples of three sources, and of smooth ones",
    presets={
        "quick": Config(**linear.QUICK, spawns=(0, 1, 1)),
        "book": Config(),
        "paper": Config(
            seeds=(0,),
            setting=networks.CIFAR,
            toy=False,
            spawns=(0, 25, 50),
            judging=linear.PAPER,
        ),
    },
    measure=measure,
    cost=cost,
)

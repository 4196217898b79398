"""Training on single steps: the network fails suddenly; does its tangent?"""

from dataclasses import dataclass, replace
from itertools import pairwise

from ntklab import attacks
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import share
from ntklab.papers.tsilivis_kempe import linearised_training as linear
from ntklab.papers.tsilivis_kempe import networks
from ntklab.papers.tsilivis_kempe.linearised_training import Judging

#: What is trained on single steps.
ARMS = {"network": "nonlinear", "tangent": "linear"}
SETTING = replace(
    *(linear.TOY,),
    n_train=4000,
    epochs=45,
    batch_size=100,
    eps=0.2,
    step_size=0.05,
)
JUDGING = Judging(every=3, probe_queries=100, n_searched=150)


@dataclass(frozen=True)
class Config(linear.Config):
    """Arguments of `tk-linearised-collapse`; `spawns` are not used.

    Attributes:
      warm_epochs: of training on clean images, the same for all arms; there tangents begin.
    """

    setting: networks.Setting = SETTING
    judging: Judging = JUDGING
    warm_epochs: int = 5


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Arms: `network` and `tangent`, both trained on FGSM examples of their own.

    Values `ARM_COLUMN` with columns as in `linearised_training.judged`, and `ARM_fgsm`, accuracy
    under FGSM; `ARM_blind`, `fgsm - pgd` over all test images; `ARM_fall`, the most that accuracy
    under PGD on the probe loses between neighbouring points of its curve; `ARM_seconds`. Curves as
    in `linearised_training.measure`.
    """
    images = networks.load(config.setting, seed)
    place, values, curves = (images, seed, checkpoints), {}, {}
    warm = networks.phase(config.setting, "standard", config.warm_epochs)
    start = linear.follow(config, "warm", warm, *place).weights
    single = attacks.fgsm(config.setting.eps)
    for name, model in ARMS.items():
        phase = networks.phase(config.setting, "fgsm", model=model)
        run = linear.follow(config, name, phase, *place, start=start)
        values |= linear.judged(config, name, run, *place)
        logits_fn = run.logits_fn()
        found = share(lambda x, y, f=logits_fn: ~single(f, x, y).success, images)
        values |= {f"{name}_fgsm": found, f"{name}_blind": found - values[f"{name}_pgd"]}
        curves |= linear.curves_of(name, run, config.warm_epochs)
        values[f"{name}_fall"] = _fall(curves[f"{name}_pgd"][1])
        values[f"{name}_seconds"] = run.seconds
    return SeedResult(values, curves, (describe(images, seed),))


def _fall(robust: list) -> float:
    return max((a - b for a, b in pairwise(robust)), default=0.0)


def cost(config: Config) -> Cost:
    """As `linearised_training.cost`."""
    s, n = config.setting, config.setting.n_train or 60_000
    passes = n * config.warm_epochs * 3.0 + linear.judging_passes(config, config.warm_epochs, False)
    for tangent, update in ((False, 5.0), (True, linear.tangent_passes(1))):
        passes += n * s.epochs * update + linear.judging_passes(config, s.epochs, tangent)
    seeds = len(config.seeds)
    seen = n * (config.warm_epochs + len(ARMS) * s.epochs)
    return Cost(seeds * passes * 2.0 * config.products, examples=float(seeds * seen))


_QUICK = linear.QUICK | {"setting": replace(linear.QUICK["setting"], eps=0.2, step_size=0.05)}
EXPERIMENT = Experiment(
    name="tk-linearised-collapse",
    help="training on single steps, of a network and of its tangent",
    presets={"quick": Config(**_QUICK, warm_epochs=1), "book": Config()},
    measure=measure,
    cost=cost,
)

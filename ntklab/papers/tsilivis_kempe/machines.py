"""Every kernel machine of chapter 1 under restarts and under searches that need no gradient.

The infinitely wide kernel has no jumps, so nothing should hide from its gradient; a control, which
the supplement does not have.
"""

from dataclasses import dataclass

import jax
import numpy as np

from ntklab import attacks, data, kernels, predictors
from ntklab._common import progress
from ntklab.attacks import training_free
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import features


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-kernel-machines`.

    Attributes:
      seeds: each draws its own balanced images.
      machines: kernels, of `KERNELS`; each is fitted on both tasks.
      n_train: training images of each task.
      n_test: attacked test images of each task.
      eps: budget for MNIST; small, so that something is left for the strongest attack.
      eps_cars_255: budget for cars and planes in 1/255, small for the same reason.
      pgd_steps: steps of PGD.
      restarts: random starts of the PGD that has several.
      queries: of each search.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    machines: tuple[str, ...] = ("two_layer", "fc1", "fc3", "fc5")
    n_train: int = 1000
    n_test: int = 200
    eps: float = 0.05
    eps_cars_255: float = 2.0
    pgd_steps: int = 20
    restarts: int = 5
    queries: int = 1000


#: Equation 29, and the fully connected kernels of the authors' notebook by hidden layers.
KERNELS = {"two_layer": kernels.TwoLayerNTK(), **features.DENSE}
_GRADIENT, _SEARCH = ("step", "pgd", "margin", "restarts"), ("square", "block")


def suite(config: Config, eps: float, binary: bool) -> dict:
    """Every attack at one budget, by name; the last two ask for scores only.

    Args:
      config: steps, restarts and queries.
      eps: l-infinity radius, in units of the pixels.
      binary: whether the machine has one output.
    """
    one = training_free.binary_cross_entropy if binary else training_free.max_of_l1
    by_margin = {"steps": config.pgd_steps, "loss": attacks.margin}
    return {
        "step": one(eps),
        "pgd": attacks.pgd(eps, steps=config.pgd_steps),
        "margin": attacks.pgd(eps, **by_margin),
        "restarts": attacks.pgd(eps, restarts=config.restarts, **by_margin),
        "square": attacks.square(eps, queries=config.queries),
        "block": attacks.random_block(eps, queries=config.queries),
    }


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `TASK_MACHINE_*`: accuracies, a clean error counting as an error.

    `clean`; `step`, the training-free step on the margin (equation 6, or 20 with its offsets);
    `pgd` on the cross-entropy; `margin`, PGD on the margin; `restarts`, the same from several
    random points; `square`, `block`; `all` together. Differences of them: `restarts_won`,
    share that `restarts` breaks and `margin` does not; `search_won`, that a search breaks and no
    gradient attack does; `search_lost`, the other way round; `step_gap`, `step` less `all`. The
    first two and `step_gap` also as `_most` over all machines, `search_lost` as `_least`.
    """
    values, described = {}, []
    for task in ("mnist", "cars"):
        images = _load(config, task, seed)
        for name in progress(config.machines, f"machines on {task}"):
            found = checkpoints.kept(
                f"{task} {name}",
                lambda n=name, t=task, i=images: _one(config, t, n, i, jax.random.key(seed)),
            )
            values |= {f"{task}_{name}_{what}": v for what, v in _counted(found).items()}
        described.append(describe(images, seed))
    for what in ("restarts_won", "search_won", "step_gap"):
        values[f"{what}_most"] = max(v for n, v in values.items() if n.endswith(what))
    lost = [v for n, v in values.items() if n.endswith("search_lost")]
    return SeedResult(values | {"search_lost_least": min(lost)}, {}, tuple(described))


def _load(config: Config, task: str, seed: int) -> data.Dataset:
    sizes = {"n_train": config.n_train, "n_test": config.n_test, "seed": seed}
    if task == "mnist":
        return data.load("mnist", **sizes)
    return data.load("cifar10", classes=("airplane", "automobile"), **sizes)


def _one(config: Config, task: str, name: str, images: data.Dataset, key) -> dict[str, np.ndarray]:
    """Attack -> whether each test image is classified rightly both as it is and under it."""
    fitted = predictors.KernelRegression(KERNELS[name])
    machine = fitted.fit(images.x_train, features.targets_of(images)).logits_fn()
    x, y = images.x_test, images.y_test
    eps = config.eps if task == "mnist" else config.eps_cars_255 / 255
    found = {"clean": np.asarray(attacks.correct(machine(x), y))}
    for attack, run in suite(config, eps, binary=task == "cars").items():
        moved = run(machine, x, y, key).x_adv
        found[attack] = found["clean"] & np.asarray(attacks.correct(machine(moved), y))
    return found


def _counted(found: dict[str, np.ndarray]) -> dict[str, float]:
    by_gradient = np.all([found[n] for n in _GRADIENT], axis=0)
    by_search = np.all([found[n] for n in _SEARCH], axis=0)
    counted = found | {
        "all": by_gradient & by_search,
        "restarts_won": found["margin"] & ~found["restarts"],
        "search_won": by_gradient & ~by_search,
        "search_lost": by_search & ~by_gradient,
    }
    counted = {name: float(np.mean(v)) for name, v in counted.items()}
    return counted | {"step_gap": counted["step"] - counted["all"]}


def cost(config: Config) -> Cost:
    """Gradients of the PGD runs, queries of both searches, and one solve a machine."""
    n, total = config.n_train, 0.0
    for d, k in ((784, 10), (3072, 1)):
        test = config.n_test, n, d, k
        pulls = config.pgd_steps * (2 + config.restarts)
        one = _cost.gram(n, n, d) + _cost.class_gradients(*test) + pulls * _cost.pull(*test)
        total += one + 2 * config.queries * _cost.scores(*test)
    machines = len(config.machines) * len(config.seeds)
    return Cost(machines * total, "float32", 2 * machines * _cost.eigh(n))


EXPERIMENT = Experiment(
    name="tk-kernel-machines",
    help="every kernel machine of the first chapter under restarts and gradient-free searches",
    presets={
        "quick": Config(
            seeds=(0, 1), machines=("two_layer", "fc1"), n_train=100, n_test=40, pgd_steps=5,
            restarts=2, queries=20,
        ),
        "book": Config(),
        "paper": Config(n_train=10_000, n_test=1000, queries=5000),
    },
    measure=measure,
    cost=cost,
)  # fmt: skip

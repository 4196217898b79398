"""Training-free attacks on the two-layer kernel machine, MNIST (sections B.1 and B.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, kernels, predictors
from ntklab.attacks import training_free
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe.evaluate import accuracy, random_signs, robust_accuracy


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-mnist-training-free`.

    Attributes:
      seeds: each draws its own balanced training and test images.
      n_train: training images.
      n_test: attacked test images.
      eps: budget of the supplement, in units of the pixels.
      eps_small: budget at which the attacks can be told apart.
      eps_curve: budgets of the accuracy curves.
      eps_unbounded: budget that reaches every image: accuracy must go to zero.
      pgd_steps: steps of PGD.
      restarts: random starts of the strongest attack.
      times: training times for the curves, in units of the time of the fastest mode.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_train: int = 3000
    n_test: int = 1000
    eps: float = 0.3
    eps_small: float = 0.05
    eps_curve: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    eps_unbounded: float = 1.0
    pgd_steps: int = 10
    restarts: int = 5
    times: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)


def suite(config: Config, eps: float) -> dict:
    """Every attack of the experiment at one budget, by name.

    Args:
      config: steps and restarts of PGD.
      eps: l-infinity radius, in units of the pixels.
    """
    return {
        "noise": random_signs(eps),
        "fgsm": attacks.fgsm(eps),
        "eq8": training_free.multiclass_cross_entropy(eps),
        "eq20": training_free.max_of_l1(eps),
        "eq20_printed": training_free.max_of_l1(eps, offsets=False),
        "eq22": training_free.sum_of_differences(eps),
        "pgd10": attacks.pgd(eps, steps=config.pgd_steps),
        "pgd_restarts": attacks.pgd(eps, steps=config.pgd_steps, restarts=config.restarts),
    }


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: draw images, fit the machine once, attack it.

    Values: `clean`, `condition`; each attack's robust accuracy at `eps` under its own name and
    at `eps_small` with `_small`; `eq8_unbounded` and `pgd10_unbounded`; `eq8_fgsm_differ`, the
    share of pixels in which equation 8 and FGSM differ on images that are classified correctly;
    `small_best`, `small_early_gain` and `clean_at_best` along training.
    """
    images = data.load("mnist", n_train=config.n_train, n_test=config.n_test, seed=seed)
    targets, _ = images.one_hot()
    fitted = predictors.KernelRegression(kernels.TwoLayerNTK()).fit(images.x_train, targets)
    machine, x, y = fitted.logits_fn(), images.x_test, images.y_test
    key = jax.random.key(seed)

    def attacked(name: str, eps: float) -> float:
        def compute():
            return {"robust": robust_accuracy(suite(config, eps)[name], machine, x, y, key)}

        return float(checkpoints.kept(f"{name} at eps {eps:g}", compute)["robust"])

    values = {"clean": accuracy(machine, x, y), "condition": float(fitted.condition_number)}
    for suffix, eps in (("", config.eps), ("_small", config.eps_small)):
        values |= {name + suffix: attacked(name, eps) for name in suite(config, eps)}
    for name in ("eq8", "pgd10"):
        values[f"{name}_unbounded"] = attacked(name, config.eps_unbounded)
    values["eq8_fgsm_differ"] = _differ(config, machine, x, y)
    curves = _by_budget(config, attacked)
    along, curves["clean_by_time"], curves["eq8_by_time"] = _by_time(
        config, fitted, x, y, key, checkpoints
    )
    return SeedResult(values | along, curves, (describe(images, seed),))


def _differ(config: Config, machine, x, y) -> float:
    """Share of pixels where eq. 8 and FGSM differ; FGSM returns clean errors unchanged."""
    right = attacks.correct(machine(x), y)
    ours = suite(config, config.eps)["eq8"](machine, x, y).x_adv
    fgsm = suite(config, config.eps)["fgsm"](machine, x, y).x_adv
    return float(jnp.mean(jnp.abs(ours - fgsm)[right] > 1e-6))


def _by_budget(config: Config, attacked: Callable[[str, float], float]) -> dict:
    """Accuracy against the budget, without the costly restarts; known values are not made anew."""
    curves = {}
    for name in [n for n in suite(config, config.eps) if n != "pgd_restarts"]:
        robust = [attacked(name, eps) for eps in config.eps_curve]
        curves[f"{name}_by_eps"] = (list(config.eps_curve), robust)
    return curves


def _by_time(config: Config, fitted, x, y, key, checkpoints) -> tuple[dict, tuple, tuple]:
    """Clean and attacked accuracy along gradient flow; the last entry is t = infinity."""
    unit = 1.0 / float(np.max(fitted.eigenvalues))
    attack = training_free.multiclass_cross_entropy(config.eps_small)

    def at(t: float) -> dict[str, float]:
        machine = fitted.logits_fn(unit * t)
        robust = robust_accuracy(attack, machine, x, y, key)
        return {"clean": accuracy(machine, x, y), "robust": robust}

    times = (*config.times, math.inf)
    found = [checkpoints.kept(f"time {t:g}", lambda t=t: at(t)) for t in times]
    clean, robust = ([float(f[name]) for f in found] for name in ("clean", "robust"))
    best = int(np.argmax(robust[:-1]))
    values = {
        "small_best": robust[best],
        "small_early_gain": robust[best] - robust[-1],
        "clean_at_best": clean[best],
    }
    return values, (list(config.times), clean[:-1]), (list(config.times), robust[:-1])


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, in float32 but for the eigendecomposition.

    With G the kernel matrix, S the scores of all test images, P an input gradient of the loss and
    C one for each class, a seed takes

    $$G + 9 n^3 + 2\,(P + 4C + (1 + r)\,s P) + e\,(P + 4C + s P) + t\,(C + S)$$

    and two or three S to judge each attack: s steps of PGD, r restarts, e further budgets, t times.
    """
    shape = (config.n_test, config.n_train, 784, 10)
    judged = 2 * _cost.scores(*shape)
    pull, classes = _cost.pull(*shape), _cost.class_gradients(*shape)
    cheap = judged + (pull + judged) + 4 * (classes + judged) + (config.pgd_steps * pull + judged)
    restarts = config.restarts * config.pgd_steps * pull + judged
    others = len({*config.eps_curve} - {config.eps, config.eps_small})
    rest = 2 * (classes + judged) + (config.pgd_steps * pull + judged) + pull
    times = (len(config.times) + 1) * (1.5 * judged + classes)
    flops = _cost.gram(config.n_train, config.n_train, 784) + (2 + others) * cheap + 2 * restarts
    seeds = len(config.seeds)
    return Cost(seeds * (flops + rest + times), "float32", seeds * _cost.eigh(config.n_train))


EXPERIMENT = Experiment(
    name="tk-mnist-training-free",
    help="two-layer kernel machine on MNIST under every attack of the supplement",
    presets={
        "quick": Config(
            seeds=(0, 1),
            n_train=200,
            n_test=100,
            eps_curve=(0.05, 0.3),
            restarts=2,
            times=(1.0, 100.0, 1e4),
        ),
        "book": Config(),
        "paper": Config(n_train=10_000, n_test=10_000, seeds=(0, 1, 2)),
    },
    measure=measure,
    cost=cost,
)

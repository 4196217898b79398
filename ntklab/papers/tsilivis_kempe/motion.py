"""Section 5: where the tangent kernel goes under standard, FGSM and PGD training.

Kernels are full, images times outputs, and always of the same images: the first ones of the
training set. A second series is of their PGD examples against the network of the moment. (The
authors' code compares the first batch, clean, with the last one, attacked; `mixed` measures what
that does.)
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, dynamics, nets, training
from ntklab._typing import Number
from ntklab.kernels import empirical_ntk
from ntklab.papers._cost import Cost, eigh
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import train
from ntklab.papers.tsilivis_kempe import networks
from ntklab.papers.tsilivis_kempe.kernel_paths import (
    PARTS,
    at_level,
    class_means,
    contrast,
    lazy_epoch,
    path_of,
    spread,
)

#: Of which images a kernel is.
SERIES = ("clean", "attacked")


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-mnist-motion` and `tk-cifar-motion`.

    Attributes:
      seeds: each its own images (where not all are taken), weights and, if any, order.
      setting: data, network, training and attacks.
      arms: kinds of training, `standard` and `pgd` among them.
      n_probe: training images, from the front, on which kernels are taken.
      at: epochs at which kernels are taken, the first 0, the last `setting.epochs`.
      tops: dimensions of the leading eigenspaces; polar plots show the second.
      n_curve: images of each split, from the front, for accuracies and losses.
      lazy: a kernel is called lazy from the epoch on after which its distance to the last kernel
        never exceeds this share of the whole distance.
    """

    seeds: tuple[int, ...] = (0,)
    setting: networks.Setting = field(default_factory=lambda: networks.MNIST)
    arms: tuple[str, ...] = networks.ARMS
    n_probe: int = 250
    at: tuple[Number, ...] = (0, 1, 2, 3, 5, 8, 12, 20, 35, 50, 75, 100, 150, 200)
    tops: tuple[int, int] = (10, 20)
    n_curve: int = 1000
    lazy: float = 0.1


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. ARM is `standard`, `fgsm` or `pgd`; N one of `tops`.

    Values, at the end unless something else is said, of kernels on clean images:
    `ARM_distance` from the start; `ARM_angle`, `ARM_angle_top`, `ARM_angle_rest`, rotation of the
    kernel, of its leading part and of what is left; `ARM_top_differs`, how far the first two are
    apart, as a share of the first; `ARM_topN`, concentration, and `start_topN`; `ARM_growth` of
    the Frobenius norm; `ARM_contrast`, mean entry within a class over mean entry between classes;
    `ARM_spread`, standard deviation over mean of the classes' own mean entries; `ARM_lazy_epoch`;
    `ARM_left_half`, distance from the middle of the run to its end, as a share of the whole;
    `ARM_turn_first`, `_last`, radians per learning rate times step in the first and last interval;
    `ARM_pace_first`, `_last`, radians per relative change of the parameters there. The same of
    kernels on attacked images: `ARM_attacked_...` for distance, topN, growth, left_half;
    `ARM_moved`, the distance between both kernels.

    `ARM_train_HOW`, `ARM_test_HOW`, accuracies, HOW being `clean`, `fgsm` or `pgd`;
    `ARM_overfits`, test accuracy under FGSM less that under PGD; `ARM_fall`, the most that test
    accuracy under PGD loses from one time to a later one.

    At equal training loss, each arm's own, at the larger one of both ends: `ARM_distance_equal`,
    `_topN_equal`, `_growth_equal`, `_contrast_equal`, `_turn_equal` for standard and PGD.
    `lazy_ratio`, PGD over standard.

    `mixed_start`, the distance of two kernels of one untrained network, of the first images and of
    attacked last ones, `mixed_start_clean` of clean last ones; `ARM_mixed`, at the end.
    """
    images = networks.load(config.setting, seed)
    values, curves, paths = {}, {}, {}
    for arm in config.arms:
        paths[arm] = followed(config, arm, images, seed, checkpoints)
        more = _of_arm(config, arm, paths[arm])
        values |= more[0]
        curves |= more[1]
    first = paths[config.arms[0]]
    values |= {f"start_top{n}": first[f"clean_top{n}"][0] for n in config.tops}
    values |= {name: first[name] for name in ("mixed_start", "mixed_start_clean")}
    values |= _at_equal_loss(config, {arm: paths[arm] for arm in ("standard", "pgd")})
    values["lazy_ratio"] = values["pgd_lazy_epoch"] / values["standard_lazy_epoch"]
    curves |= _blocks("start", first["blocks"][0])
    return SeedResult(values, curves, (describe(images, seed),))


def probe(config: Config, images: data.Dataset) -> tuple:
    """The images on which kernels are taken, and their classes, sorted by class."""
    x, y = images.x_train[: config.n_probe], images.y_train[: config.n_probe]
    order = np.argsort(np.asarray(y), kind="stable")
    return x[order], y[order]


def followed(
    config: Config, arm: str, images: data.Dataset, seed: int, checkpoints: Checkpoints
) -> dict[str, np.ndarray]:
    """Train an arm and follow its kernel; what is kept of that, by time.

    Weights are kept only until everything has been measured on them.
    """
    known = checkpoints.kept(
        f"followed-{arm}", lambda: _follow(config, arm, images, seed, checkpoints)
    )
    for path in (checkpoints.folder / arm).glob("epoch-*.npz"):
        path.unlink()
    return known


def _follow(
    config: Config, arm: str, images: data.Dataset, seed: int, checkpoints: Checkpoints
) -> dict:
    s, key = config.setting, jax.random.fold_in(jax.random.key(seed), 1)
    trained = train(
        *(arm, [networks.phase(s, arm)], images, s.batch_size, seed, checkpoints),
        module=networks.module(s),
        shuffle=s.shuffle,
        save_at=config.at,
    )
    x, y = probe(config, images)
    attack, weights = networks.test_attack(s), [trained.at(t)[1].trained for t in config.at]
    kernels: dict[str, list] = {name: [] for name in SERIES}
    judged: list[dict] = []
    for epoch, params in zip(config.at, weights, strict=True):
        network = trained.logits_fn(epoch)
        z = attack(network, x, y, key).x_adv
        for name, points in zip(SERIES, (x, z), strict=True):
            kernels[name].append(kernel_of(trained, params, points))
        judged.append(_judged(config, network, images, key))
    found = {name: np.asarray([row[name] for row in judged]) for name in judged[0]}
    for name, some in kernels.items():
        found |= {f"{name}_{what}": v for what, v in path_of(some, config.tops).items()}
    pairs = zip(*kernels.values(), strict=True)
    found["moved"] = np.asarray([float(dynamics.distance(*pair)) for pair in pairs])
    found["blocks"] = np.stack([class_means(k, np.asarray(y)) for k in kernels["clean"]])
    found["change"] = np.asarray([float(dynamics.relative_change(*p)) for p in pairwise(weights)])
    return found | _mixed(config, trained, weights, images, key)


def kernel_of(trained: training.Trained, params: Any, x: Any) -> Any:
    """The full tangent kernel of a network at given parameters, `(n, n, k, k)`."""
    f, params = nets.as_function(trained.module, {"params": params})
    return jnp.asarray(empirical_ntk(f, params, x, mode="full"))


def _judged(config: Config, network: Any, images: data.Dataset, key: Any) -> dict[str, float]:
    """Accuracy, and mean loss, on both splits: clean, under FGSM and under PGD."""
    hows = {"fgsm": attacks.fgsm(config.setting.eps), "pgd": networks.test_attack(config.setting)}
    found = {}
    for split in ("train", "test"):
        x, y = (getattr(images, f"{a}_{split}")[: config.n_curve] for a in "xy")
        logits = network(x)
        found[f"{split}_clean"] = jnp.mean(logits.argmax(1) == y)
        found[f"{split}_clean_loss"] = jnp.mean(attacks.cross_entropy(logits, y))
        for how, attack in hows.items():
            result = attack(network, x, y, key)
            found[f"{split}_{how}"] = 1 - jnp.mean(result.success)
            found[f"{split}_{how}_loss"] = jnp.mean(result.loss)
    return {name: float(v) for name, v in found.items()}


def _mixed(config: Config, trained: Any, weights: list, images: data.Dataset, key: Any) -> dict:
    """Distances as the authors' code takes them: first images clean, last ones attacked."""
    x, _ = probe(config, images)
    n = len(images.x_train)
    last = n - 1 - np.random.default_rng(0).permutation(len(x))
    x_last, y_last = images.x_train[last], images.y_train[last]
    first, attack = kernel_of(trained, weights[0], x), networks.test_attack(config.setting)
    found = {"mixed_start_clean": kernel_of(trained, weights[0], x_last)}
    for name, epoch, params in (
        ("mixed_start", config.at[0], weights[0]),
        ("mixed", config.at[-1], weights[-1]),
    ):
        z = attack(trained.logits_fn(epoch), x_last, y_last, key).x_adv
        found[name] = kernel_of(trained, params, z)
    return {name: float(dynamics.distance(first, k)) for name, k in found.items()}


def _of_arm(config: Config, arm: str, path: dict) -> tuple[dict, dict]:
    """Values and curves of one arm."""
    epochs, values = list(config.at), {}
    turn, pace = _rates(config, path)
    for name, rates in (("turn", turn), ("pace", pace)):
        values |= {f"{name}_first": rates[0], f"{name}_last": rates[-1]}
    for series, prefix in zip(SERIES, ("", "attacked_"), strict=True):
        past = path[f"{series}_past"]
        middle = int(np.argmin(np.abs(np.asarray(epochs) - epochs[-1] / 2)))
        values[f"{prefix}distance"] = past[0, -1]
        values[f"{prefix}left_half"] = past[middle, -1] / past[0, -1]
        values[f"{prefix}growth"] = path[f"{series}_norm"][-1] / path[f"{series}_norm"][0]
        values |= {f"{prefix}top{n}": path[f"{series}_top{n}"][-1] for n in config.tops}
    angles = {part: path[f"clean_angle_{part}"][-1] for part in PARTS}
    values |= {"angle": angles["whole"], "angle_top": angles["top"], "angle_rest": angles["rest"]}
    values["top_differs"] = abs(angles["top"] / angles["whole"] - 1)
    ends = path["blocks"][-1]
    values |= {"contrast": contrast(ends), "spread": spread(ends)}
    values |= {"mixed": path["mixed"], "moved": path["moved"][-1]}
    values["lazy_epoch"] = lazy_epoch(epochs, path["clean_past"], config.lazy)
    hows = [f"{split}_{how}" for split in ("train", "test") for how in ("clean", "fgsm", "pgd")]
    values |= {how: path[how][-1] for how in hows}
    values["overfits"] = values["test_fgsm"] - values["test_pgd"]
    robust = path["test_pgd"]
    values["fall"] = float(np.max(np.maximum.accumulate(robust) - robust))
    whole = [f"{s}_{w}" for s in SERIES for w in _curves_of(config)]
    named = {w: path[w] for w in (*whole, *hows, "moved", *(f"{h}_loss" for h in hows))}
    for series in SERIES:
        named[f"{series}_distance"] = path[f"{series}_past"][0]
    curves = {f"{arm}_{w}": (epochs, np.asarray(v).tolist()) for w, v in named.items()}
    for name, rates in (("turn", turn), ("pace", pace)):
        curves[f"{arm}_{name}"] = (epochs[1:], rates.tolist())
    curves |= _blocks(arm, ends)
    return {f"{arm}_{name}": float(v) for name, v in values.items()}, curves


def _curves_of(config: Config) -> list[str]:
    """What of a series becomes a curve."""
    places = [f"{what}_{part}" for part in PARTS for what in ("radius", "angle")]
    return ["norm", *(f"top{n}" for n in config.tops), *places]


def _blocks(name: str, blocks: np.ndarray) -> dict:
    """Class means, a curve a row."""
    classes = list(range(len(blocks)))
    return {f"{name}_blocks_{c}": (classes, row.tolist()) for c, row in enumerate(blocks)}


def _rates(config: Config, path: dict) -> tuple[np.ndarray, np.ndarray]:
    """Radians per learning rate times step, and per relative change, in each interval."""
    s, n = config.setting, len(config.at)
    steps_an_epoch = (s.n_train or _FILES[s.data]) // s.batch_size
    clock = np.diff(config.at) * steps_an_epoch * s.learning_rate / (1 - s.momentum)
    turned = path["clean_turned"]
    assert turned.shape == clock.shape == (n - 1,)
    return turned / clock, turned / path["change"]


def _at_equal_loss(config: Config, paths: dict[str, dict]) -> dict[str, float]:
    """Quantities where each arm's own training loss first comes down to the higher one's end."""
    own = {"standard": "train_clean_loss", "pgd": "train_pgd_loss"}
    losses = {arm: np.minimum.accumulate(path[own[arm]]) for arm, path in paths.items()}
    level = max(loss[-1] for loss in losses.values())
    found = {"equal_loss": level}
    for arm, path in paths.items():
        series = {
            "distance": path["clean_past"][0],
            "growth": path["clean_norm"] / path["clean_norm"][0],
            "contrast": np.asarray([contrast(b) for b in path["blocks"]]),
            "turn": np.append(_rates(config, path)[0], _rates(config, path)[0][-1]),
            **{f"top{n}": path[f"clean_top{n}"] for n in config.tops},
        }
        for name, numbers in series.items():
            found[f"{arm}_{name}_equal"] = float(at_level(losses[arm], numbers, level))
    return found


#: Training images in the files.
_FILES = {"mnist": 60_000, "cifar10": 50_000}


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2, update 3; a kernel 3 passes for each image and output.

    Contracting the convolutions' gradients and two eigendecompositions a kernel come on top.
    """
    s, one = config.setting, 2.0 * networks.products(config.setting)
    n = s.n_train or _FILES[s.data]
    passes = {"standard": 3.0, "fgsm": 5.0, "pgd": 3.0 + 2 * s.train_steps}
    flops = n * s.epochs * sum(passes[arm] for arm in config.arms) * one
    rows, times = 10 * config.n_probe, len(config.arms) * len(config.at)
    judged = 2 * config.n_curve * (2 * s.test_steps + 6) * one
    weights = 19_000 if s.data == "mnist" else 300_000
    kernels = 2 * (3 * rows * one + rows**2 * 2.0 * weights + 2 * eigh(rows))
    seeds, arms = len(config.seeds), len(config.arms)
    return Cost(
        seeds * (flops + times * (judged + kernels)), examples=float(seeds * arms * n * s.epochs)
    )


#: Section 5 with fewer and smaller images. Steps times the rate are 150 (paper: 400), the rate
#: over the batch size, which sets how much the weights jitter, 6e-4 (paper: 3e-5): at a given
#: cost more of the one is more of the other. At budget .3 the smaller network of
#: `single-step-overfitting` learned nothing, so it is .2.
SMALL = replace(
    networks.MNIST,
    n_train=2000,
    n_test=500,
    side=14,
    epochs=120,
    batch_size=80,
    learning_rate=0.05,
    shuffle=True,
    eps=0.2,
    step_size=0.2 / 3,
    train_steps=5,
    test_steps=10,
)
QUICK = replace(SMALL, n_train=100, n_test=20, epochs=2, batch_size=50, train_steps=1, test_steps=1)
_QUICK_AT = {"n_probe": 20, "at": (0, 1, 2), "tops": (10, 20), "n_curve": 20}
EXPERIMENT = Experiment(
    name="tk-mnist-motion",
    help="tangent kernels along standard, FGSM and PGD training of the MNIST CNN",
    presets={
        "quick": Config(seeds=(0, 1), setting=QUICK, **_QUICK_AT),
        "book": Config(
            seeds=(0, 1, 2),
            setting=SMALL,
            n_probe=40,
            at=(0, 1, 2, 4, 8, 12, 20, 30, 40, 50, 60, 72, 84, 96, 108, 120),
            n_curve=100,
        ),
        "paper": Config(),
    },
    measure=measure,
    cost=cost,
)

#: The deeper network on CIFAR-10, of the paper's size only.
CIFAR = replace(
    EXPERIMENT,
    name="tk-cifar-motion",
    help="tangent kernels along standard, FGSM and PGD training of the CIFAR-10 CNN",
    presets={
        "quick": Config(
            seeds=(0,),
            setting=replace(
                networks.CIFAR,
                n_train=40,
                n_test=20,
                side=8,
                epochs=1,
                batch_size=20,
                learning_rate=0.1,
                train_steps=1,
                test_steps=1,
            ),
            arms=("standard", "pgd"),
            **_QUICK_AT | {"at": (0, 1)},
        ),
        "paper": Config(setting=networks.CIFAR),
    },
)

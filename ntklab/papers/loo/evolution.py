"""The tangent kernel followed through standard and adversarial training, and what chance does."""

from dataclasses import dataclass, replace
from itertools import combinations, pairwise, permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, dynamics, nets, training
from ntklab._typing import Number
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import train
from ntklab.papers.loo import second_phase, toy
from ntklab.papers.loo.toy import PRODUCTS, Images

KINDS = ("standard", "adversarial")
#: Names of the epochs at which values are recorded.
MARKS = ("first", "middle", "last")


@dataclass(frozen=True)
class Config(toy.Config):
    """Arguments of `loo-toy-kernel-evolution`.

    Attributes:
      n_probe: test images, from the front, on which kernels are taken.
      at: epochs at which kernels are taken, the last one at most `epochs`.
      marks: three of them, for the values `first`, `middle` and `last`.
      top: dimensions of the leading eigenspaces that are compared.
      other_seeds: runs of the null with other weights and another order of the data.
      other_orders: runs of the null with another order alone.
      other_rates: factors of the learning rate, a run of the null each.
    """

    n_probe: int = 40
    at: tuple[Number, ...] = (0, 0.125, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    marks: tuple[Number, Number, Number] = (1, 5, 10)
    top: int = 20
    other_seeds: int = 2
    other_orders: int = 2
    other_rates: tuple[Number, ...] = (0.5, 2.0)


class Variant(NamedTuple):
    """A run of the same kind of training with one thing changed.

    Attributes:
      name: of its checkpoints.
      seed: of the order of the data and of the attacks.
      start: seed of the initial weights.
      rate: factor of the learning rate.
    """

    name: str
    seed: int
    start: int
    rate: Number = 1.0


def variants(config: Config, seed: int) -> list[Variant]:
    """The run itself, then those of the null."""
    others = [Variant("base", seed, seed)]
    for i in range(1, config.other_seeds + 1):
        others.append(Variant(f"seed-{i}", seed + 100 * i, seed + 100 * i))
    for i in range(1, config.other_orders + 1):
        others.append(Variant(f"order-{i}", seed + 1000 * i, seed))
    return others + [Variant(f"rate-{r:g}", seed, seed, r) for r in config.other_rates]


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. MARK is `first`, `middle` or `last`, KIND `standard` or `adversarial`.

    Values of the two kinds against each other: `between_MARK` and `between_cka_MARK`, distances of
    their kernels, the second centred, and `between_space_MARK`, of their leading eigenspaces; the
    95th percentile of each over pairs of one kind, `null_MARK` and so on; the same over pairs from
    the same initial weights, `null_start_MARK`; the mean over pairs from different initial weights,
    of two kinds `across_MARK` and of one kind `null_across_MARK`.

    Of one kind: `KIND_velocity_first` and `_last`, the distance that an epoch makes at the
    beginning and end of training; `KIND_norm_MARK` and `KIND_rank_MARK`, Frobenius norm and
    effective rank; `KIND_specialised_MARK`, mean diagonal of the specialisation matrix, and
    `KIND_own_MARK`, its mean off-diagonal in the other normalisation; `KIND_aligned_MARK`, centred
    alignment with the targets; `KIND_attacked_MARK`, the centred distance from the kernel of the
    images to that of their adversarial examples. `norm_ratio` is adversarial over standard at the
    end.

    Of the network with a zero last layer: `zero_outputs_apart`, how far its first kernel is from
    one matrix for all outputs; `zero_norm` and `zero_rank`, over those of He weights;
    `zero_from_he`, the centred distance of both; `zero_moved` and `he_moved`, the distance that the
    first epoch makes, and centred `zero_moved_cka`, `he_moved_cka`.
    """
    images = config.images.load(seed)
    runs = {
        (kind, v.name): kernels(config, kind, v, images, seed, checkpoints)
        for kind in KINDS
        for v in variants(config, seed)
    }
    base = {kind: runs[kind, "base"] for kind in KINDS}
    values, curves = _between(config, runs)
    for kind in KINDS:
        more = _of_one_kind(config, kind, base[kind], images)
        values |= more[0]
        curves |= more[1]
    values["norm_ratio"] = values["adversarial_norm_last"] / values["standard_norm_last"]
    values |= _zero_last(config, base["standard"]["clean"], images, seed, checkpoints)
    return SeedResult(values, curves, (describe(images, seed),))


def kernels(
    config: Config,
    kind: str,
    variant: Variant,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    module: Any = None,
) -> dict[str, np.ndarray]:
    """`clean`, kernels `(t, n, n, k, k)`, and for the run itself `adversarial`, of its attacks."""
    x, y = images.x_test[: config.n_probe], images.y_test[: config.n_probe]
    attack = None
    if variant.name == "base":
        attack = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8)
    changed = replace(config, learning_rate=variant.rate * config.learning_rate)
    trained = train(
        *(f"{kind}-{variant.name}", [toy.phases(changed)[kind]], images, config.batch_size),
        *(variant.seed, checkpoints),
        module=module,
        start=second_phase.initial(variant.start, module),
        kernels=training.KernelProbe(x, config.at, mode="full", y=y, attack=attack),
    )
    taken = [trained.kernel(epoch) for epoch in config.at]
    return {name: np.stack([t[name] for t in taken]) for name in taken[0]}


def _between(config: Config, runs: dict) -> tuple[dict, dict]:
    """Both kinds against each other, beside pairs of one kind."""
    names = list(dict.fromkeys(name for _, name in runs))
    starts = [name for name in names if name == "base" or name.startswith("seed")]
    pairs = {
        "between": [tuple((kind, "base") for kind in KINDS)],
        "null": [((k, a), (k, b)) for k in KINDS for a, b in combinations(names, 2)],
        "across": [((KINDS[0], a), (KINDS[1], b)) for a, b in permutations(starts, 2)],
        "null_across": [((k, a), (k, b)) for k in KINDS for a, b in combinations(starts, 2)],
    }
    pairs["null_start"] = [p for p in pairs["null"] if not _has_other_start(p)]
    values, curves = {}, {}
    for suffix, (measured, epochs) in _measures(config).items():
        rows = [config.at.index(epoch) for epoch in epochs]
        clean = {key: run["clean"][rows] for key, run in runs.items()}
        known = {
            p: along(measured, *(clean[key] for key in p)) for p in set().union(*pairs.values())
        }
        found = {}
        for name, some in pairs.items():
            of = np.stack([known[p] for p in some])
            highest = name in ("null", "null_start")
            found[name] = np.quantile(of, 0.95, axis=0) if highest else of.mean(axis=0)
        for name, series in found.items():
            curves[f"{name}{suffix}"] = (list(epochs), series.tolist())
            for mark, epoch in zip(MARKS, config.marks, strict=True):
                values[f"{name}{suffix}_{mark}"] = series[epochs.index(epoch)]
    return values, curves


def _has_other_start(pair: tuple) -> bool:
    return any(name.startswith("seed") for _, name in pair)


def _measures(config: Config) -> dict:
    """Suffix -> a distance of two kernels, and the epochs at which it is taken."""
    spaces = jax.jit(lambda a, b: dynamics.eigenspace_distance(a, b, config.top))
    return {
        "": (dynamics.distance, config.at),
        "_cka": (_centred, config.at),
        "_space": (spaces, config.marks),  # two eigendecompositions each
    }


def _centred(kernel: Any, other: Any) -> Any:
    return dynamics.distance(kernel, other, centred=True)


def along(measured: Any, a: Any, b: Any) -> np.ndarray:
    """A measure of two kernels at each epoch of two runs."""
    pairs = zip(jnp.asarray(a), jnp.asarray(b), strict=True)
    return np.asarray([float(measured(k, other)) for k, other in pairs])


def _of_one_kind(config: Config, kind: str, run: dict, images: data.Dataset) -> tuple[dict, dict]:
    """How one run's kernel moves, grows, spreads and specialises."""
    clean, epochs = jnp.asarray(run["clean"]), list(config.at)
    targets = jax.nn.one_hot(images.y_test[: config.n_probe], 10)
    present = np.asarray(targets).any(axis=0)  # a class without an image has no target
    targets, some = targets[:, present], clean[..., present, :][..., present]
    matrices = {
        rule: [np.asarray(dynamics.specialisation(k, targets, normalised_by=rule)) for k in some]
        for rule in ("target", "own")
    }
    series = {
        "norm": [float(_size(k)) for k in clean],
        "rank": [float(dynamics.effective_rank(k)) for k in clean],
        "specialised": [float(m.diagonal().mean()) for m in matrices["target"]],
        "own": [float(m[~np.eye(len(m), dtype=bool)].mean()) for m in matrices["own"]],
        "aligned": [float(dynamics.target_alignment(k, targets, centred=True)) for k in some],
        "attacked": along(_centred, clean, run["adversarial"]).tolist(),
    }
    curves = {f"{kind}_{name}": (epochs, numbers) for name, numbers in series.items()}
    values = {
        f"{kind}_{name}_{mark}": numbers[epochs.index(epoch)]
        for name, numbers in series.items()
        for mark, epoch in zip(MARKS, config.marks, strict=True)
    }
    for centred, suffix in ((False, ""), (True, "_cka")):
        past = np.asarray(dynamics.pairwise_distances(clean, centred=centred))
        for epoch, row in zip(epochs, past, strict=True):
            curves[f"{kind}_past{suffix}_{epoch:g}"] = (epochs, row.tolist())
        whole = [i for i, epoch in enumerate(epochs) if epoch == int(epoch)]
        steps = [float(past[i, j]) for i, j in pairwise(whole)]
        values[f"{kind}_velocity{suffix}_first"] = steps[0]
        values[f"{kind}_velocity{suffix}_last"] = steps[-1]
        curves[f"{kind}_velocity{suffix}"] = ([epochs[i] for i in whole[1:]], steps)
    for number, row in enumerate(matrices["target"][-1]):
        curves[f"{kind}_matrix_{number}"] = (list(range(len(row))), row.tolist())
    return values, curves


def _size(kernel: Any) -> Any:
    return jnp.linalg.norm(kernel.ravel())


def _zero_last(
    config: Config, he: np.ndarray, images: data.Dataset, seed: int, checkpoints: Checkpoints
) -> dict[str, float]:
    """The first kernel of a network whose last layer is zero, and where an epoch takes it."""
    variant = Variant("zero-last", seed, seed)
    module = nets.ToyCNN(zero_last=True)
    zero = kernels(config, "standard", variant, images, seed, checkpoints, module)["clean"]
    zero, he = jnp.asarray(zero), jnp.asarray(he)
    first, later = zero[0], list(config.at).index(config.marks[0])
    one = jnp.einsum("ijcc->ij", first) / first.shape[2]
    apart = first - jnp.einsum("ij,cd->ijcd", one, jnp.eye(first.shape[2]))
    found = {
        "zero_outputs_apart": _size(apart) / _size(first),
        "zero_norm": _size(first) / _size(he[0]),
        "zero_rank": dynamics.effective_rank(first) / dynamics.effective_rank(he[0]),
        "zero_from_he": _centred(first, he[0]),
        "zero_moved": dynamics.distance(first, zero[later]),
        "he_moved": dynamics.distance(he[0], he[later]),
        "zero_moved_cka": _centred(first, zero[later]),
        "he_moved_cka": _centred(he[0], he[later]),
    }
    return {name: float(value) for name, value in found.items()}


def cost(config: Config) -> Cost:
    """Training as `second_phase` counts it; a kernel takes a pass back for each image and output.

    Contracting two images' gradients of the 43,082 parameters, for each pair of outputs, comes on
    top, `2 * 43082` operations.
    """
    n, runs = config.images.n_train, len(variants(config, 0))
    passes = runs * sum(
        second_phase.training_passes(config, k) for k in ("benign", "adversarial")
    ) + second_phase.training_passes(config, "benign")
    rows = 10 * config.n_probe
    kernel = 3 * rows * 2.0 * PRODUCTS + rows**2 * 2.0 * 43_082
    taken = len(config.at) * (2 * runs + 3)
    seeds, trained = len(config.seeds), (2 * runs + 1) * config.epochs
    flops = n * config.epochs * passes * 2.0 * PRODUCTS + taken * kernel
    return Cost(seeds * flops, examples=float(seeds * trained * n))


EXPERIMENT = Experiment(
    name="loo-toy-kernel-evolution",
    help="tangent kernels along standard and PGD-7 training, beside other seeds, orders and rates",
    presets={
        "quick": Config(
            seeds=(0, 1),
            images=Images(200, 40),
            epochs=2,
            train_steps=1,
            test_steps=2,
            n_probe=12,
            at=(0, 0.5, 1, 2),
            marks=(0.5, 1, 2),
            top=10,
            other_seeds=1,
            other_orders=1,
            other_rates=(0.5,),
        ),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

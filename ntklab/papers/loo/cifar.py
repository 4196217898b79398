"""The paper's own scale: ResNet-18 on CIFAR-10, second phases on kernels of both kinds of parents.

As in the authors' code: no augmentation, no weight decay, a zero last layer, batches of 128, rate
.1 and a tenth from epoch 100 on; adversarial training takes a clean step and then a step on PGD-20
examples; the second phase is centred, with the running statistics of batch normalisation frozen,
rate .01, 100 epochs. Training computes in bfloat16, evaluation in float32.

A run stops and goes on wherever it is: in a training, between two blocks of an attack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, dynamics, nets, training
from ntklab._typing import Number
from ntklab.attacks import SoftGate
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import train

KINDS = ("benign", "adversarial")
#: Names of the two epochs at which second phases begin.
SPAWNS = ("early", "late")


@dataclass(frozen=True)
class Config:
    """Arguments of `loo-cifar-fixed-kernel`.

    Attributes:
      seeds: each its own weights, order of the data and starts of attacks.
      n_train: training images, None for all.
      n_test: test images, None for all.
      side: pixels a side.
      blocks: of the residual network's groups.
      widths: their channels.
      batch_size: examples a step.
      epochs: of the parents.
      drop: epoch from which their rate is a tenth.
      learning_rate: theirs, SGD with momentum .9.
      spawns: two epochs at which second phases begin.
      second_epochs: of the second phase.
      second_rate: its learning rate, constant.
      eps: budget of attack and training, linf, on [0, 1] images.
      train_steps: PGD steps in training, of length `2 eps / train_steps`.
      test_steps: PGD steps against the result, of length `2 eps / test_steps`.
      dtype: in which training computes.
      n_suite: test images, from the front, for all other attacks.
      suite_steps: of each gradient attack on them.
      queries: of each search.
      betas: sharpnesses of the soft gate.
      block: test images a call.
      n_probe: training images, from the front, on which kernels are taken.
      at: epochs at which they are.
      null_at: the last of them for a second seed, which makes the null.
    """

    seeds: tuple[int, ...] = (0,)
    n_train: int | None = None
    n_test: int | None = None
    side: int = 32
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    batch_size: int = 128
    epochs: int = 101
    drop: int = 100
    learning_rate: float = 0.1
    spawns: tuple[Number, Number] = (20, 100)
    second_epochs: int = 100
    second_rate: float = 0.01
    eps: float = 4 / 255
    train_steps: int = 20
    test_steps: int = 100
    dtype: str = "bfloat16"
    n_suite: int = 500
    suite_steps: int = 100
    queries: int = 5000
    betas: tuple[float, ...] = (2.0, 10.0, 50.0)
    block: int = 250
    n_probe: int = 500
    at: tuple[Number, ...] = (0, 0.125, 0.5, 1, 2, 5, 20, 100)
    null_at: Number = 5

    def network(self) -> nets.ResNet:
        """The network."""
        return nets.ResNet(blocks=self.blocks, widths=self.widths, zero_last=True)

    def load(self, seed: int) -> tuple[data.Dataset, Any]:
        """Images, and those on which kernels are taken: as many of each class."""
        sizes = {"n_train": self.n_train, "n_test": self.n_test, "side": self.side}
        images = data.load("cifar10", seed=seed, **sizes)
        probe = data.load("cifar10", n_train=self.n_probe, n_test=10, side=self.side)
        return images, probe.x_train


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. KERNEL and TRAINING are `benign` or `adversarial`, SPAWN `early` or `late`.

    Values of models `KERNEL_parent_SPAWN` and `KERNEL_kernel_TRAINING_SPAWN`: `_clean` and `_pgd`
    on all test images; on the first `n_suite`: `_pgd_some`; `_margin`, `_apgd`, `_targeted`,
    `_soft`, `_transfer`, `_square`, `_block`; `_worst`, under all of them; `_masked`, `pgd_some -
    worst`. `best_adversarial_pgd` is the best of adversarial training on a kernel.

    Kernels: `between_cka_first` and `_middle`, centred distance of the two kinds' at epoch 1 and at
    `null_at`; `null_cka_first`, `_middle`, the larger one of two seeds of one kind;
    `KIND_zero_moved`, the centred distance that the first epoch makes.
    """
    images, probe = config.load(seed)
    place, here = (images, probe, checkpoints), (images, seed, checkpoints)
    parents = {kind: parent(config, kind, seed, config.epochs, *place) for kind in KINDS}
    others = {kind: parent(config, kind, seed + 100, config.null_at, *place) for kind in KINDS}
    values, curves = _kernels(config, parents, others)
    for spawn, epoch in zip(SPAWNS, config.spawns, strict=True):
        for kernel, trained in parents.items():
            network = _exact(trained, epoch)
            values |= _row(config, f"{kernel}_parent_{spawn}", network, {}, *here)
            for kind in KINDS:
                name = f"{kernel}_kernel_{kind}_{spawn}"
                fixed = second(config, name, kind, trained.at(epoch)[1], seed, *place)
                more = _against(config, fixed, network)
                values |= _row(config, name, _exact(fixed), more, *here)
    trained_on = [f"{k}_kernel_adversarial_{spawn}_pgd" for k in KINDS for spawn in SPAWNS]
    values["best_adversarial_pgd"] = max(values[name] for name in trained_on)
    return SeedResult(values, curves, (describe(images, seed),))


def parent(
    config: Config,
    kind: str,
    seed: int,
    epochs: Number,
    images: data.Dataset,
    probe: Any,
    checkpoints: Checkpoints,
) -> training.Trained:
    """A network trained in one of both ways, kept at the spawn epochs, its kernel followed."""
    rate = training.constant(config.learning_rate)
    if config.drop < epochs:
        rate = training.steps_down(config.learning_rate, (config.drop,))
    phase = training.Phase(epochs, strategy(config, kind), learning_rate=rate)
    at = tuple(epoch for epoch in config.at if epoch <= epochs)
    spawns = tuple(epoch for epoch in config.spawns if epoch <= epochs)
    kernels = training.KernelProbe(probe, at, mode="trace")
    name = f"parent-{kind}-{seed}"
    settings = {"kernels": kernels, "save_at": spawns, "dtype": config.dtype}
    place = (images, config.batch_size, seed, checkpoints)
    return train(name, [phase], *place, module=config.network(), **settings)


def second(
    config: Config,
    name: str,
    kind: str,
    start: training.Weights,
    seed: int,
    images: data.Dataset,
    probe: Any,
    checkpoints: Checkpoints,
) -> training.Trained:
    """The centred tangent at a parent's weights, trained in one of both ways."""
    phase = training.Phase(
        config.second_epochs,
        strategy(config, kind),
        model="centred",
        learning_rate=training.constant(config.second_rate),
        statistics="frozen",
    )
    place = (images, config.batch_size, seed, checkpoints)
    settings = {"start": start, "dtype": config.dtype}
    return train(name, [phase], *place, module=config.network(), **settings)


def strategy(config: Config, kind: str) -> Any:
    """Clean steps, or a clean and an adversarial one for each batch."""
    if kind == "benign":
        return training.Standard()
    step = 2 * config.eps / config.train_steps
    return training.DoubleStep(training.PGD(config.eps, config.train_steps, step))


def _exact(trained: training.Trained, epoch: Number | None = None) -> Any:
    """The trained function in float32."""
    return trained._replace(dtype="float32").logits_fn(epoch)


def _kernels(config: Config, parents: dict, others: dict) -> tuple[dict, dict]:
    """Distances of kernels: of both kinds, of two seeds of one kind, of each to its own past."""

    def apart(one, other, epoch):
        pair = (jnp.asarray(run.kernel(epoch)["clean"]) for run in (one, other))
        return float(dynamics.distance(*pair, centred=True))

    epochs = [e for e in config.at if e <= config.epochs]
    early = [e for e in epochs if e <= config.null_at]
    between = [apart(*parents.values(), e) for e in epochs]
    null = [max(apart(parents[k], others[k], e) for k in KINDS) for e in early]
    curves = {"between_cka": (epochs, between), "null_cka": (early, null)}
    values = {}
    for mark, epoch in (("first", 1), ("middle", config.null_at)):
        values[f"between_cka_{mark}"] = between[epochs.index(epoch)]
        values[f"null_cka_{mark}"] = null[early.index(epoch)]
    for kind, run in parents.items():
        kernels = [jnp.asarray(run.kernel(e)["clean"]) for e in epochs]
        past = np.asarray(dynamics.pairwise_distances(kernels, centred=True))
        for epoch, row in zip(epochs, past, strict=True):
            curves[f"{kind}_past_{epoch:g}"] = (epochs, row.tolist())
        curves[f"{kind}_rank"] = (epochs, [float(dynamics.effective_rank(k)) for k in kernels])
        curves[f"{kind}_norm"] = (epochs, [float(jnp.linalg.norm(k)) for k in kernels])
        values[f"{kind}_zero_moved"] = float(past[epochs.index(0), epochs.index(1)])
    return values, curves


def _against(config: Config, fixed: training.Trained, network: Any) -> dict[str, Callable]:
    """Attacks that know what a fixed kernel is: soft gates, and transfer from the parent."""
    settings = {"steps": config.suite_steps, "loss": attacks.margin}
    pgd = attacks.pgd(config.eps, **settings)
    soft = [
        _exact(fixed._replace(module=fixed.module.clone(activation=SoftGate(beta))))
        for beta in config.betas
    ]
    last = attacks.pgd(config.eps, keep="last", **settings)

    def by_soft_gates(_, x, y, key):
        return np.any([np.asarray(pgd(f, x, y, key).success) for f in soft], axis=0)

    def by_transfer(f, x, y, key):
        return attacks.transfer(last, network)(f, x, y, key).success

    return {"soft": by_soft_gates, "transfer": by_transfer}


def _suite(config: Config) -> dict[str, Callable]:
    """Name -> whether an attack breaks each example, of the attacks on every model."""
    steps = config.suite_steps
    made = {
        "margin": attacks.pgd(config.eps, steps=steps, restarts=5, loss=attacks.margin),
        "apgd": attacks.apgd(config.eps, steps=steps),
        "targeted": attacks.apgd_targeted(config.eps, steps=steps),
        "square": attacks.square(config.eps, queries=config.queries),
        "block": attacks.random_block(config.eps, queries=config.queries),
    }
    return {n: (lambda f, x, y, key, a=a: a(f, x, y, key).success) for n, a in made.items()}


def _row(
    config: Config,
    name: str,
    network: Any,
    more: dict[str, Callable],
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
) -> dict[str, float]:
    """One model under all attacks, each block of images kept as it is done."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    step = 2 * config.eps / config.test_steps
    pgd = attacks.pgd(config.eps, steps=config.test_steps, step_size=step)
    everywhere = {
        "clean": lambda f, x, y, key: ~attacks.correct(f(x), y),
        "pgd": lambda f, x, y, key: pgd(f, x, y, key).success,
    }
    found = {}
    for attack, breaks in (everywhere | _suite(config) | more).items():
        n = len(images.x_test) if attack in everywhere else config.n_suite
        parts = []
        for first in range(0, n, config.block):
            rows = slice(first, min(first + config.block, n))

            def one(breaks=breaks, rows=rows, first=first):
                part = (images.x_test[rows], images.y_test[rows])
                return {
                    "right": ~np.asarray(breaks(network, *part, jax.random.fold_in(key, first)))
                }

            parts.append(checkpoints.kept(f"{name}-{attack}-{first}", one)["right"])
        found[attack] = np.concatenate(parts)
    some = np.stack([v[: config.n_suite] for v in found.values()])
    values = {n: float(v.mean()) for n, v in found.items()}
    values["pgd_some"] = float(found["pgd"][: config.n_suite].mean())
    values["worst"] = float(some.all(axis=0).mean())
    values["masked"] = values["pgd_some"] - values["worst"]
    return {f"{name}_{n}": v for n, v in values.items()}


#: Multiplications of one forward pass of ResNet-18 on a 32x32 image, and its parameters.
PRODUCTS, PARAMETERS = 555e6, 11.2e6
_TRAIN, _TEST = 50_000, 10_000


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2 (in training) or 3, update 3; of a tangent twice as much.

    Kernels take `2 k p` operations a pair of images, both halves being one. Evaluation computes in
    float32, which is slower by more than its share of the operations says.
    """
    n, b = config.n_train or _TRAIN, config.n_test or _TEST
    one = {"benign": 3.0, "adversarial": 6.0 + 2 * config.train_steps}
    twice = {"benign": 6.0, "adversarial": 12.0 + 6 * config.train_steps}
    epochs = config.epochs + config.null_at
    passes = n * (epochs * sum(one.values()))
    passes += 2 * 2 * n * config.second_epochs * sum(twice.values())
    gradients = config.suite_steps * (5 + 1 + 9)
    special = config.suite_steps * (len(config.betas) * 6 + 3)
    for forward, gradient, models in ((1, 3, 4), (2, 6, 8)):
        suite = gradients * gradient + 2 * config.queries * forward
        suite += special if forward == 2 else 0
        passes += models * (b * config.test_steps * gradient + config.n_suite * suite)
    kernels = 4 * len(config.at) * config.n_probe**2 * 10 * PARAMETERS
    seeds = len(config.seeds)
    seen = n * (3 * epochs + 2 * 2 * 3 * config.second_epochs)
    flops = seeds * (passes * 2 * PRODUCTS + kernels)
    return Cost(flops, config.dtype, examples=float(seeds * seen))


EXPERIMENT = Experiment(
    name="loo-cifar-fixed-kernel",
    help="ResNet-18 on CIFAR-10: kernels of both kinds of training, and second phases on them",
    presets={
        "quick": Config(
            seeds=(0, 1),
            n_train=40,
            n_test=10,
            side=8,
            blocks=(1,),
            widths=(4,),
            batch_size=20,
            epochs=2,
            drop=1,
            spawns=(1, 2),
            second_epochs=1,
            train_steps=1,
            test_steps=2,
            dtype="float32",
            n_suite=10,
            suite_steps=1,
            queries=2,
            betas=(10.0,),
            block=10,
            n_probe=10,
            at=(0, 0.5, 1, 2),
            null_at=1,
        ),
        "paper": Config(),
    },
    measure=measure,
    cost=cost,
)

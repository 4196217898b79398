"""The kernel's adversarial examples on finite networks that were really trained (section C)."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntklab import attacks, data, kernels, predictors
from ntklab._common import progress
from ntklab.attacks import training_free
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import two_layer
from ntklab.papers.tsilivis_kempe.evaluate import (
    accuracy,
    loss_gradients,
    mean_cosine,
    random_signs,
    robust_accuracy,
)


@dataclass(frozen=True)
class Arm:
    """One kind of network.

    Attributes:
      name: prefix of its values.
      width: hidden units.
      weight_std: standard deviation of W at the start.
      centred: train `f - f_0` instead of `f`. The supplement trains f and subtracts f_0 when it
        measures. That is nearly the same where f_0 is small, as with 0.01; with 1 it is not.
    """

    name: str
    width: int
    weight_std: float
    centred: bool


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-transfer-two-layer`.

    Attributes:
      seeds: each draws its own images and its own network.
      arms: the networks: `paper` as printed, `lazy` with weights of standard deviation 1.
      n_train: MNIST images that network and kernel see.
      n_test: attacked test images.
      steps: training steps after which the network is attacked.
      learning_rate: of full-batch gradient descent on half the mean squared error.
      eps: budget, in units of the pixels.
      solver: how the kernel machine at time t is found: `spectral` (one eigendecomposition) or
        `iterated` (as many kernel steps as the network makes; for n above 12,000).
      save_every: steps between checkpoints.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[Arm, ...] = (Arm("paper", 1000, 0.01, False), Arm("lazy", 1000, 1.0, True))
    n_train: int = 1000
    n_test: int = 500
    steps: tuple[int, ...] = (10, 100, 1000)
    learning_rate: float = 0.01
    eps: float = 0.3
    solver: str = "spectral"
    save_every: int = 500


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: the kernel machine at every time, then each arm's network at the same times.

    Values `ARM_WHAT_STEPS`: `clean`; robust accuracy of the network under its `own` equation-8
    step, under the `kernel`'s and under random signs (`noise`); `noise_gap`, noise minus kernel;
    `cosine` of the loss gradients (eq. 30); `flips` of hidden units; `kernel_distance`.
    Values `ntk_WHAT_STEPS`: `clean` and `own` of the kernel machine itself.
    """
    images = data.load("mnist", n_train=config.n_train, n_test=config.n_test, seed=seed)
    machines = kernel_machines(config, images, checkpoints)
    key = jax.random.key(seed)
    values = {}

    def keep(name, steps, compute):
        found = checkpoints.kept(f"{name} attacked at step {steps}", compute)
        values.update({f"{name}_{what}_{steps}": float(v) for what, v in found.items()})

    for steps, machine in machines.items():
        keep("ntk", steps, lambda machine=machine: attack_kernel(config, machine, images, key))
    for number, arm in enumerate(config.arms):
        start = jax.random.fold_in(key, number)
        for steps, network in trained(config, arm, images, start, checkpoints):
            pair = network, machines[steps]
            keep(arm.name, steps, lambda pair=pair: _attack(config, *pair, images, key))
    return SeedResult(values, {}, (describe(images, seed),))


def kernel_machines(config: Config, images, checkpoints: Checkpoints) -> dict:
    """Steps -> logits function of the kernel machine at time `learning_rate * steps / n`."""
    kernel, x = kernels.TwoLayerNTK(), images.x_train
    targets, _ = images.one_hot()
    rate = config.learning_rate / len(x)
    if config.solver == "spectral":
        fitted = predictors.KernelRegression(kernel, learning_rate=rate).fit(x, targets)
        return {steps: fitted.logits_fn(float(steps)) for steps in config.steps}
    if config.solver != "iterated":
        raise ValueError(f"solver must be 'spectral' or 'iterated', got {config.solver!r}.")
    found = _iterated(config, functools.cache(lambda: kernel(x)), targets, rate, checkpoints)
    machines = {
        steps: predictors.KernelMachine(kernel=kernel, x_train=x, coefficients=alpha)
        for steps, alpha in found.items()
    }
    return {steps: Partial(predictors.kernel_logits, m) for steps, m in machines.items()}


def _iterated(config: Config, gram, targets, rate: float, checkpoints: Checkpoints) -> dict:
    """Steps -> coefficients, from checkpoints where there are any; `gram()` is the matrix."""
    kept = checkpoints.load("kernel") or {"at": 0}
    measured = {s: jnp.asarray(kept[f"{s}"]) for s in config.steps if f"{s}" in kept}
    alpha, at = jnp.asarray(kept.get("alpha", jnp.zeros_like(targets))), int(kept["at"])
    for stop in progress([s for s in _stops(config) if s > at], "kernel machine"):
        alpha, at = _kernel_steps(gram(), alpha, targets, rate, stop - at), stop
        if stop in config.steps:
            measured[stop] = alpha
        checkpoints.save("kernel", alpha=alpha, at=at, **{f"{s}": a for s, a in measured.items()})
        checkpoints.deadline.check(f"step {at:,} of {max(config.steps):,} of the kernel machine")
    return measured


def _stops(config: Config) -> list[int]:
    """Steps after which the state is saved, those that are measured among them."""
    return sorted({*config.steps, *range(0, max(config.steps), config.save_every)} - {0})


@jax.jit
def _kernel_steps(gram, alpha, targets, rate, steps):
    """Gradient descent in function space: `alpha <- alpha + rate (Y - Theta alpha)`."""

    def step(_, alpha):
        fitted = jnp.matmul(gram, alpha, precision=jax.lax.Precision.HIGHEST)
        return alpha + rate * (targets - fitted)

    return jax.lax.fori_loop(0, steps, step, alpha)


def trained(config: Config, arm: Arm, images, key, checkpoints: Checkpoints):
    """Yield `(steps, (w, w_0, a))` at every wanted step, from checkpoints where there are any."""
    x, (targets, _) = images.x_train, images.one_hot()
    w_0, a = two_layer.initialise(key, arm.width, x[0].size, targets.shape[1], arm.weight_std)
    kept = checkpoints.load(arm.name)
    w, at = (w_0, 0) if kept is None else (jnp.asarray(kept["w"]), int(kept["at"]))
    measured = {} if kept is None else {int(s): kept[f"w_{s}"] for s in kept["measured"]}
    for steps, w_then in measured.items():
        yield steps, (jnp.asarray(w_then), w_0, a)
    for stop in progress([s for s in _stops(config) if s > at], f"{arm.name} network"):
        w = two_layer.train(
            w, w_0, a, x, targets, config.learning_rate, stop - at, centred=arm.centred
        )
        at = stop
        if stop in config.steps:
            measured[stop] = w
        then = {f"w_{s}": v for s, v in measured.items()}
        checkpoints.save(arm.name, w=w, at=at, measured=list(measured), **then)
        done = f"step {at:,} of {max(config.steps):,}"
        checkpoints.deadline.check(f"{done} of the network {arm.name}")
        if stop in config.steps:
            yield stop, (w, w_0, a)


def attack_kernel(config: Any, machine, images, key) -> dict[str, float]:
    """Accuracy of the kernel machine itself: `clean`, and under its `own` equation-8 step."""
    attack = training_free.multiclass_cross_entropy(config.eps)
    x, y = images.x_test, images.y_test
    return {
        "clean": accuracy(machine, x, y),
        "own": robust_accuracy(attack, machine, x, y, key),
    }


def _attack(config: Config, params, machine, images, key) -> dict[str, float]:
    w, w_0, _ = params
    network, x, y = Partial(two_layer.moved, params), images.x_test, images.y_test
    attack = training_free.multiclass_cross_entropy(config.eps)
    noise = robust_accuracy(random_signs(config.eps), network, x, y, key)
    kernel = robust_accuracy(attack, machine, x, y, key, judge=network)
    gradients = (loss_gradients(f, x, y) for f in (network, machine))
    return {
        "clean": accuracy(network, x, y),
        "own": robust_accuracy(attacks.fgsm(config.eps), network, x, y, key),
        "kernel": kernel,
        "noise": noise,
        "noise_gap": noise - kernel,
        "cosine": mean_cosine(*gradients),
        "flips": two_layer.flipped_gates(w, w_0, images.x_train[:1000]),
        "kernel_distance": two_layer.kernel_distance(w, w_0, images.x_train[:200]),
    }


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, in float32 but for the eigendecomposition.

    A training step of n images, m hidden units and d pixels takes $4 n m d$ (W alone moves), a
    step of the iterated kernel machine $2 n^2 k$. At each wanted step the machine is attacked, by
    gradients of all classes, and each network four times.
    """
    n, b, d, k = config.n_train, config.n_test, 784, 10
    steps, stops = max(config.steps), len(config.steps)
    classes, scores = _cost.class_gradients(b, n, d, k), _cost.scores(b, n, d, k)
    flops, host = _cost.gram(n, n, d) + stops * (classes + 3 * scores), 0.0
    if config.solver == "spectral":
        host = _cost.eigh(n)
    else:
        flops += steps * 2.0 * n**2 * k
    for arm in config.arms:
        forward = 2.0 * b * arm.width * (d + k)
        attacked = 2 * classes + (10 + k) * forward + 4.0 * 1000 * arm.width * d
        flops += steps * 4.0 * n * arm.width * d + stops * attacked
    seeds = len(config.seeds)
    return Cost(seeds * flops, "float32", seeds * host, float(seeds * steps * n * len(config.arms)))


_WIDE = Arm("wide", 10_000, 0.01, False)

EXPERIMENT = Experiment(
    name="tk-transfer-two-layer",
    help="the kernel's adversarial examples on trained two-layer networks, MNIST",
    presets={
        "quick": Config(
            seeds=(0, 1),
            arms=(
                Arm("paper", 128, 0.01, False),
                Arm("lazy", 128, 1.0, True),
                Arm("wide", 256, 0.01, False),
            ),
            n_train=100,
            n_test=50,
        ),
        "book": Config(),
        "paper": Config(
            arms=(*Config().arms, _WIDE),
            n_train=60_000,
            n_test=2_000,
            steps=(10, 100, 1000, 10_000, 100_000),
            solver="iterated",
            save_every=2_000,
        ),
    },
    measure=measure,
    cost=cost,
)

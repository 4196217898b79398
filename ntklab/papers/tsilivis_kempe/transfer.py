"""The kernel's adversarial examples on finite networks that were really trained (section C)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntklab import attacks, data, kernels, predictors
from ntklab._common import progress
from ntklab.attacks import training_free
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
    machines = kernel_machines(config, images)
    key = jax.random.key(seed)
    values = {}
    for steps, machine in machines.items():
        attack = training_free.multiclass_cross_entropy(config.eps)
        x, y = images.x_test, images.y_test
        values[f"ntk_clean_{steps}"] = accuracy(machine, x, y)
        values[f"ntk_own_{steps}"] = robust_accuracy(attack, machine, x, y, key)
    for number, arm in enumerate(config.arms):
        start = jax.random.fold_in(key, number)
        for steps, network in _trained(config, arm, images, start, checkpoints):
            found = _attack(config, network, machines[steps], images, key)
            values |= {f"{arm.name}_{what}_{steps}": value for what, value in found.items()}
    return SeedResult(values, {}, (describe(images, seed),))


def kernel_machines(config: Config, images) -> dict:
    """Steps -> logits function of the kernel machine at time `learning_rate * steps / n`."""
    kernel, x = kernels.TwoLayerNTK(), images.x_train
    targets, _ = images.one_hot()
    rate = config.learning_rate / len(x)
    if config.solver == "spectral":
        fitted = predictors.KernelRegression(kernel, learning_rate=rate).fit(x, targets)
        return {steps: fitted.logits_fn(float(steps)) for steps in config.steps}
    if config.solver != "iterated":
        raise ValueError(f"solver must be 'spectral' or 'iterated', got {config.solver!r}.")
    gram, alpha, at, machines = kernel(x), jnp.zeros_like(targets), 0, {}
    for steps in sorted(config.steps):
        alpha = _kernel_steps(gram, alpha, targets, rate, steps - at)
        machine = predictors.KernelMachine(kernel=kernel, x_train=x, coefficients=alpha)
        machines[steps], at = Partial(predictors.kernel_logits, machine), steps
    return machines


@jax.jit
def _kernel_steps(gram, alpha, targets, rate, steps):
    """Gradient descent in function space: `alpha <- alpha + rate (Y - Theta alpha)`."""

    def step(_, alpha):
        fitted = jnp.matmul(gram, alpha, precision=jax.lax.Precision.HIGHEST)
        return alpha + rate * (targets - fitted)

    return jax.lax.fori_loop(0, steps, step, alpha)


def _trained(config: Config, arm: Arm, images, key, checkpoints: Checkpoints):
    """Yield `(steps, (w, w_0, a))` at every wanted step, from checkpoints where there are any."""
    x, (targets, _) = images.x_train, images.one_hot()
    w_0, a = two_layer.initialise(key, arm.width, x[0].size, targets.shape[1], arm.weight_std)
    stops = sorted({*config.steps, *range(0, max(config.steps), config.save_every)} - {0})
    kept = checkpoints.load(arm.name)
    w, at = (w_0, 0) if kept is None else (jnp.asarray(kept["w"]), int(kept["at"]))
    measured = {} if kept is None else {int(s): kept[f"w_{s}"] for s in kept["measured"]}
    for steps, w_then in measured.items():
        yield steps, (jnp.asarray(w_then), w_0, a)
    for stop in progress([s for s in stops if s > at], f"{arm.name} network"):
        w = two_layer.train(
            w, w_0, a, x, targets, config.learning_rate, stop - at, centred=arm.centred
        )
        at = stop
        if stop in config.steps:
            measured[stop] = w
        then = {f"w_{s}": v for s, v in measured.items()}
        checkpoints.save(arm.name, w=w, at=at, measured=list(measured), **then)
        if stop in config.steps:
            yield stop, (w, w_0, a)


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
)

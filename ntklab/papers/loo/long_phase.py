r"""A very long second phase: does adversarial training on a fixed kernel end in plain training?

Fu & Wang 2024 state so in their abstract, for squared loss. On the fixed kernels of this paper, in
miniature: few images, full batches, thousands of steps, and two adversaries, one that steps along
the gradient as far as it is long, and PGD, which goes to the edge of the ball.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, nets, training
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import each, train
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo import toy
from ntklab.training.forward import LOSS_FUNCTIONS, logits_fn

LOSS = "squared_error"


@dataclass(frozen=True)
class Config(two.Setting):
    """Arguments of `loo-toy-long-phase`.

    Attributes:
      widths: of the small CNN.
      n_few: training images of the second phase, from the front, one batch.
      moments: epochs of the second phase at which it is judged, the last one its end.
      gamma: length of the weak adversary's step over that of the gradient.
      inner_steps: of PGD in the second phase, of length `eps / 2`.
      beta: sharpness of the soft gate of the attack that judges.
      gate_steps: its steps.
    """

    images: toy.Images = field(default_factory=lambda: toy.Images(2000, 300))
    epochs: int = 5
    batch_size: int = 50
    widths: tuple[int, int, int] = (8, 16, 64)
    n_few: int = 60
    moments: tuple[int, ...] = (1, 4, 16, 64, 250, 1000, 4000)
    second_rate: float = 0.003
    gamma: float = 2.0
    inner_steps: int = 3
    beta: float = 10.0
    gate_steps: int = 40


@dataclass(frozen=True)
class GradientStep(training.PGD):
    r"""One step along the gradient, as long as it is: $x + \gamma \nabla_x \ell$, in [0, 1].

    Attributes:
      gamma: the factor; `eps` and the settings of PGD are not used.
    """

    gamma: float = 1.0

    def attack(self, problem: Any, state: Any, x: Any, y: Any, key: Any):
        """The moved batch, and the state as it was."""
        f = logits_fn(problem.forward, state.weights)
        return moved(f, x, y, self.gamma), state


def moved(f: Any, x: Any, y: Any, gamma: float) -> jax.Array:
    r"""Where the weak adversary takes a batch: $x + \gamma \nabla_x \ell(f(x), y)$, in [0, 1].

    Args:
      f: scores `(b, k)` of a batch.
      x: images `(b, ...)` in [0, 1].
      y: class indices `(b,)`.
      gamma: length of the step over that of the gradient of half the squared error.

    Source: the weak adversary of the chapter on fixed kernels, after Fu & Wang (2024).
    """
    slope = jax.grad(lambda z: LOSS_FUNCTIONS[LOSS](f(z), y).sum())(x)
    return jax.lax.stop_gradient(jnp.clip(x + gamma * slope, 0.0, 1.0))


def strategies(config: Config) -> dict[str, Any]:
    """Arm -> on which examples its second phase learns."""
    return {
        "plain": training.Standard(),
        "weak": GradientStep(config.eps, gamma=config.gamma),
        "strong": training.PGD(config.eps, config.inner_steps, config.eps / 2),
    }


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed, on the benign kernel of one parent. Values at the end, and curves by epoch.

    `ARM_clean`, `ARM_pgd`, `ARM_gate` (PGD by soft gates): test accuracies. `ARM_loss`: half
    squared error on the clean training images. `ARM_apart`: distance of the test scores from those
    of `plain` at its end, over their length. `ARM_push`: by how much the weak adversary would move
    a pixel of a training image at most, mean over images; `ARM_push_most` over all moments.
    `ARM_gain`: gate accuracy less that of `plain`, at the end;
    `ARM_kept`: the same as a share of the arm's best gate accuracy less that of `plain` at its end.
    """
    images, arms = config.images.load(seed), list(strategies(config))
    few = replace(
        images, x_train=images.x_train[: config.n_few], y_train=images.y_train[: config.n_few]
    )
    runs = _trained(config, images, few, seed, checkpoints)
    end = np.asarray(runs["plain"].logits_fn(config.moments[-1])(images.x_test))
    table = {}
    for arm in arms:
        for epoch in config.moments:
            f = runs[arm], epoch
            table[arm, epoch] = checkpoints.kept(
                f"{arm} after {epoch}", lambda f=f: _judged(config, *f, few, end, seed)
            )
    values, curves = {}, {}
    for arm in arms:
        for name in table[arm, config.moments[0]]:
            line = [float(table[arm, e][name]) for e in config.moments]
            curves[f"{arm}_{name}"] = list(config.moments), line
            values[f"{arm}_{name}"] = line[-1]
    base = values["plain_gate"]
    for arm in arms[1:]:
        values[f"{arm}_push_most"] = max(curves[f"{arm}_push"][1])
        best = max(curves[f"{arm}_gate"][1]) - base
        values[f"{arm}_gain"] = values[f"{arm}_gate"] - base
        values[f"{arm}_kept"] = values[f"{arm}_gain"] / best if best > 0 else 0.0
    return SeedResult(values, curves, (describe(images, seed),))


def _trained(config: Config, images: data.Dataset, few, seed: int, checkpoints) -> dict[str, Any]:
    """Arm -> the tangent of one benign parent, trained on the few images."""
    module = nets.ToyCNN(widths=config.widths)
    parent = two.parent(config, "benign", images, seed, checkpoints, module)
    runs, place = {}, (few, config.n_few, seed, checkpoints)
    for arm, strategy in strategies(config).items():
        second = replace(two.phase(config, None), strategy=strategy, loss=LOSS)
        second = replace(second, epochs=config.moments[-1])
        settings = {"module": module, "start": parent.weights, "save_at": config.moments}
        runs[arm] = train(arm, [second], *place, **settings)
    return runs


def _judged(config: Config, run: Any, epoch: int, few, end: np.ndarray, seed: int) -> dict:
    f, key = run.logits_fn(epoch), two.attack_key(seed)
    pgd = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8)
    climb = attacks.pgd(config.eps, steps=config.gate_steps, loss=attacks.margin)
    weights = run.at(epoch)[1]
    soft = two.soft_gated(run._replace(weights=weights), config.beta)
    x, y = few.x_train, few.y_train
    gate = each(
        lambda x, y: (f(x).argmax(1) == y) & (f(climb(soft, x, y, key).x_adv).argmax(1) == y), few
    )
    return {
        "clean": each(lambda x, y: f(x).argmax(1) == y, few).mean(),
        "pgd": each(lambda x, y: ~pgd(f, x, y, key).success, few).mean(),
        "gate": gate.mean(),
        "loss": float(LOSS_FUNCTIONS[LOSS](f(x), y).mean()),
        "apart": np.linalg.norm(f(few.x_test) - end) / np.linalg.norm(end),
        "push": float(jnp.abs(moved(f, x, y, config.gamma) - x).max(axis=(1, 2, 3)).mean()),
    }


def cost(config: Config) -> Cost:
    """Passes as `second_phase` counts them; the narrow network has at most `PRODUCTS`."""
    passes = config.images.n_train * config.epochs * two.training_passes(config, "benign")
    each_step = 6.0 + 12.0 + 6.0 + 6.0 * config.inner_steps
    passes += config.n_few * config.moments[-1] * each_step
    judged = 3 * len(config.moments) * config.images.n_test
    passes += judged * 6.0 * (config.test_steps + config.gate_steps)
    seeds = len(config.seeds)
    seen = config.images.n_train * config.epochs + 3 * config.n_few * config.moments[-1]
    return Cost(seeds * passes * 2.0 * toy.PRODUCTS, examples=float(seeds * seen))


EXPERIMENT = Experiment(
    name="loo-toy-long-phase",
    help="thousands of steps on a fixed kernel, without, with a weak and with a strong adversary",
    presets={
        "quick": Config(**two.QUICK, n_few=20, moments=(1, 3), gate_steps=2),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

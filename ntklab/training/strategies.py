r"""On which examples a batch is learned: clean ones, or adversarial ones of seven kinds.

A strategy is a frozen dataclass. `update(problem, state, x, y, key, rate)` makes its updates of the
weights for one batch and returns the new state with what it saw. Attacks know the weights of the
moment, cost `steps` forward and backward passes on the input, and take no gradient of the weights.

*BatchNorm in the attack.* `statistics="running"` attacks the network as it will be tested;
`"batch"` normalises by the attacked batch; `"update"` does so and lets every forward pass of the
attack move the running statistics, which is what code does that never leaves training mode.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Number
from ntklab.attacks import _path
from ntklab.attacks._problem import check_budget
from ntklab.attacks.projections import NORMS
from ntklab.training.forward import LOSS_FUNCTIONS, logits_fn
from ntklab.training.inner import BOUNDS, ascend, check_mode
from ntklab.training.update import Problem, Seen, TrainState, accuracy, seen


@dataclass(frozen=True)
class Standard:
    """Clean examples: empirical risk minimisation. One forward and backward pass."""

    name: str = field(default="standard", init=False)

    def update(
        self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array, rate: Any
    ) -> tuple[TrainState, Seen]:
        """One update on the batch as it is."""
        return problem.fit(state, x, y, rate)


@dataclass(frozen=True)
class PGD:
    r"""Adversarial training: `min_p E max_{|z - x| <= eps} L(f(z), y)` with PGD for the maximum.

    Attributes:
      eps: radius of the ball, in the units of [0, 1] images.
      steps: gradient steps of the attack.
      step_size: length of a step; `2.5 eps / steps` where None.
      norm: `"linf"` or `"l2"`.
      random_start: start at a point drawn evenly from the ball.
      statistics: of batch normalisation in the attack, see the module.

    Raises:
      ValueError: a budget in other units, no steps, an unknown norm or mode.

    References:
      Madry, Makelov, Schmidt, Tsipras & Vladu 2018, section 2.1.
    """

    eps: Number
    steps: int = 10
    step_size: Number | None = None
    norm: str = "linf"
    random_start: bool = True
    statistics: str = "running"
    name: str = field(default="pgd", init=False)

    def __post_init__(self):
        _check(self.eps, self.norm, self.steps, self.step_size, self.statistics)

    def attack(self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array):
        """Adversarial examples of the batch, and the state with its statistics after the attack."""
        start = x
        if self.random_start:
            start = _path.random_start(key, x, self.eps, BOUNDS, norm=self.norm)
        z, weights = ascend(
            *(problem.forward, state.weights, x, y, start, _settings(self)),
            LOSS_FUNCTIONS[problem.loss],
            self.statistics,
        )
        return z, state._replace(weights=weights)

    def update(
        self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array, rate: Any
    ) -> tuple[TrainState, Seen]:
        """One update on adversarial examples."""
        z, state = self.attack(problem, state, x, y, key)
        return problem.fit(state, z, y, rate)


@dataclass(frozen=True)
class FGSM(PGD):
    """Adversarial training with one full step from the clean example, `x + eps sign(g)`.

    It is PGD of one step of length eps; see there for the attributes. It can overfit to its own
    step ("catastrophic overfitting", Wong, Rice & Kolter 2020): the network then withstands FGSM
    and not PGD. Test with many steps.

    References:
      Goodfellow, Shlens & Szegedy 2015, section 6.
    """

    steps: int = field(default=1, init=False)
    step_size: Number | None = field(default=None, init=False)
    random_start: bool = field(default=False, init=False)
    name: str = field(default="fgsm", init=False)

    def __post_init__(self):
        object.__setattr__(self, "step_size", self.eps)
        super().__post_init__()


@dataclass(frozen=True)
class RSFGSM(PGD):
    """FGSM with a random start and a step of `1.25 eps`, projected back.

    References:
      Wong, Rice & Kolter 2020, algorithm 3.
    """

    steps: int = field(default=1, init=False)
    step_size: Number | None = field(default=None, init=False)
    random_start: bool = field(default=True, init=False)
    name: str = field(default="rs-fgsm", init=False)

    def __post_init__(self):
        object.__setattr__(self, "step_size", 1.25 * self.eps)
        super().__post_init__()


@dataclass(frozen=True)
class DoubleStep:
    """First one update on the clean batch, then one on adversarial examples of the new network.

    Attributes:
      attack: a `PGD`, `FGSM` or `RSFGSM`, for the second update.

    References:
      Loo, Hasani, Amini & Rus 2022, in their code (run_exp.py); not said in the paper.
    """

    attack: PGD
    name: str = field(default="double-step", init=False)

    def update(
        self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array, rate: Any
    ) -> tuple[TrainState, Seen]:
        """Two updates; `Seen` is of the second, with the first's loss and accuracy as `clean`."""
        state, clean = problem.fit(state, x, y, rate)
        state, adversarial = self.attack.update(problem, state, x, y, key, rate)
        return state, adversarial._replace(clean_loss=clean.loss, clean_correct=clean.correct)


@dataclass(frozen=True)
class TRADES:
    r"""`min E [L(f(x), y) + beta max_{|z - x| <= eps} KL(p(x) || p(z))]`, $p$ the softmax of $f$.

    The attack starts at `x` with Gaussian noise of standard deviation .001, since the divergence
    has no gradient at `x`, and climbs it with PGD.

    Attributes:
      eps: radius of the ball, in the units of [0, 1] images.
      beta: weight of the divergence, `1 / lambda` of the paper.
      steps: gradient steps of the attack.
      step_size: length of a step; `2.5 eps / steps` where None.
      norm: `"linf"` or `"l2"`.
      statistics: of batch normalisation in the attack, see the module.

    Raises:
      ValueError: as `PGD`; a negative `beta`.

    References:
      Zhang, Yu, Jiao, Xing, El Ghaoui & Jordan 2019, eq. 5 and algorithm 1.
    """

    eps: Number
    beta: Number = 6.0
    steps: int = 10
    step_size: Number | None = None
    norm: str = "linf"
    statistics: str = "running"
    name: str = field(default="trades", init=False)

    def __post_init__(self):
        _check(self.eps, self.norm, self.steps, self.step_size, self.statistics)
        if not self.beta >= 0:
            raise ValueError(f"beta must be >= 0, got {self.beta}.")

    def update(
        self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array, rate: Any
    ) -> tuple[TrainState, Seen]:
        """One update of the joint objective; `Seen.correct` is of the adversarial examples."""
        z, state = self._attack(problem, state, x, y, key)

        def objective(weights):
            logits, statistics = problem.forward(weights, x, problem.live)
            weights = weights._replace(statistics=statistics)
            other, statistics = problem.forward(weights, z, problem.live)
            clean = problem.losses(logits, y).mean()
            loss = clean + self.beta * divergence(logits, other).mean()
            return loss, (statistics, seen(loss, other, y, (clean, accuracy(logits, y))))

        return problem.descend(state, objective, rate)

    def _attack(self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array):
        live = self.statistics != "running"
        reference = logits_fn(problem.forward, state.weights, live)(x)
        start = x + 0.001 * jax.random.normal(key, x.shape, x.dtype)
        beside = _Beside(problem.forward)
        weights = state.weights._replace(statistics=(state.weights.statistics, reference))
        z, weights = ascend(
            beside, weights, x, y, start, _settings(self), _divergence_beside, self.statistics
        )
        seen_by = weights.statistics[0]
        return z, state._replace(weights=weights._replace(statistics=seen_by))


@dataclass(frozen=True)
class Free:
    r"""Each batch is learned `replays` times, and every backward pass moves weights and attack.

    The gradient of one pass at `x + d` updates the weights and the perturbation,
    `d <- clip(d + eps sign(g), -eps, eps)`, which is carried over to the next batch. With
    `epochs / replays` passes over the data it costs what standard training costs.

    Attributes:
      eps: radius of the l-infinity ball, in the units of [0, 1] images.
      replays: updates a batch, `m` of the paper.

    Raises:
      ValueError: as `PGD`; `replays` below 1.

    References:
      Shafahi et al. 2019, algorithm 1.
    """

    eps: Number
    replays: int = 8
    name: str = field(default="free", init=False)

    def __post_init__(self):
        _check(self.eps, "linf", self.replays, None, "running")

    def initial_noise(self, x: Array) -> Array:
        """No perturbation before the first batch."""
        return jnp.zeros_like(x)

    def update(
        self, problem: Problem, state: TrainState, x: Array, y: Array, key: Array, rate: Any
    ) -> tuple[TrainState, Seen]:
        """`replays` updates; `Seen` is of the last of them."""
        for _ in range(self.replays):
            state, last = self._replay(problem, state, x, y, rate)
        return state, last

    def _replay(self, problem: Problem, state: TrainState, x: Array, y: Array, rate: Any):
        weights = state.weights

        def objective(trained, noise):
            z = jnp.clip(x + noise, *BOUNDS)
            logits, statistics = problem.forward(weights._replace(trained=trained), z, problem.live)
            loss = problem.losses(logits, y).mean()
            return loss, (statistics, seen(loss, logits, y))

        both = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (gradient, slope), (statistics, last) = both(weights.trained, state.noise)
        noise = jnp.clip(state.noise + self.eps * jnp.sign(slope), -self.eps, self.eps)
        state = problem.apply(state, gradient, rate)
        weights = state.weights._replace(statistics=statistics)
        return state._replace(weights=weights, noise=noise), last


#: Every strategy by its name.
STRATEGIES = {
    "standard": Standard,
    "fgsm": FGSM,
    "rs-fgsm": RSFGSM,
    "pgd": PGD,
    "trades": TRADES,
    "free": Free,
    "double-step": DoubleStep,
}


def divergence(logits: Array, other: Array) -> Array:
    r"""`KL(softmax(logits) || softmax(other))` of each row, in nats, `(b,)`."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=1)


@dataclass(frozen=True)
class _Beside:
    """The function's logits with fixed ones beside them; these travel with the statistics."""

    forward: Any

    def __call__(self, weights: Any, x: Array, live: bool) -> tuple[Array, Any]:
        statistics, reference = weights.statistics
        logits, new = self.forward(weights._replace(statistics=statistics), x, live)
        return jnp.concatenate([logits, reference], axis=1), (new, reference)


def _divergence_beside(logits: Array, y: Array) -> Array:
    k = logits.shape[1] // 2
    return divergence(jax.lax.stop_gradient(logits[:, k:]), logits[:, :k])


def _settings(strategy: Any) -> tuple[Number, str, int, Number]:
    """What `ascend` asks for."""
    s = strategy
    size = 2.5 * s.eps / s.steps if s.step_size is None else s.step_size
    return s.eps, s.norm, s.steps, size


def _check(eps: Number, norm: str, steps: int, step_size: Number | None, statistics: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}.")
    check_budget(eps, norm, BOUNDS)
    if steps < 1 or (step_size is not None and not step_size >= 0):
        raise ValueError(f"steps must be >= 1 and step_size >= 0, got {steps} and {step_size}.")
    check_mode(statistics)

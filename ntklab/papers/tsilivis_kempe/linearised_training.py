r"""Section E.1: adversarial training that goes on with the tangent after some epochs.

A network is trained adversarially. At three epochs it is linearised, $f(p_0, x) + J(x)(p - p_0)$,
and the tangent is trained adversarially to the end, on examples made against the tangent itself, as
the supplement says. The authors' code makes them against the network at the parameters $p$:
`NetworkPGD`, for comparison.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, nets, training
from ntklab._typing import Number
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers._networks import train
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import PRODUCTS
from ntklab.papers.tsilivis_kempe import networks

#: Names of the three epochs at which networks are linearised: 0, 25 and 50 of 200 in the paper.
SPAWNS = ("start", "early", "late")
#: The same at toy scale; the test attack and the training attack take steps of one length.
TOY = networks.Setting(
    n_train=2000,
    n_test=500,
    side=14,
    epochs=16,
    batch_size=50,
    learning_rate=0.03,
    momentum=0.9,
    shuffle=True,
    eps=0.1,
    step_size=0.025,
    train_steps=5,
    random_start=True,
)


@dataclass(frozen=True)
class Judging:
    """How trained models are judged.

    Attributes:
      every: epochs between two points of a curve.
      probe: test images, from the front, of the curves.
      probe_queries: of Square in the curves.
      queries: of each search without gradients at the end.
      n_searched: test images, from the front, that searches and adaptive attacks see at the end.
      betas: sharpnesses of the soft gate.
      gate_steps: of each attack by the soft gate, and of the transferred one.
    """

    every: int = 2
    probe: int = 100
    probe_queries: int = 150
    queries: int = 500
    n_searched: int = 200
    betas: tuple[float, ...] = (2.0, 10.0, 50.0)
    gate_steps: int = 40


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-linearised-training`.

    Attributes:
      seeds: each draws its own images, weights, batches and starts.
      setting: data, and how is trained.
      toy: whether the network is `nets.ToyCNN`, or that of the paper for the data.
      spawns: epochs at which the network is linearised.
      judging: how the results are judged.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    setting: networks.Setting = TOY
    toy: bool = True
    spawns: tuple[int, int, int] = (0, 2, 4)
    judging: Judging = field(default_factory=Judging)

    def module(self, activation: Any = "relu") -> Any:
        """The network."""
        if self.toy:
            return nets.ToyCNN(activation=activation)
        return networks.module(self.setting).clone(activation=activation)

    @property
    def products(self) -> Number:
        """Multiplications of a forward pass."""
        return PRODUCTS if self.toy else networks.products(self.setting)


@dataclass(frozen=True)
class NetworkPGD(training.PGD):
    """PGD on the network at the parameters $p$, while the tangent is trained.

    What the authors' code does after it has linearised.
    """

    def attack(self, problem: Any, state: Any, x: Any, y: Any, key: Any):
        """As `PGD`, on the function that is not linearised."""
        weights = state.weights
        params = jax.tree.map(jnp.add, weights.start, weights.trained)
        network = replace(problem, forward=replace(problem.forward, model="nonlinear"))
        moved = state._replace(weights=weights._replace(trained=params, start=None))
        return super().attack(network, moved, x, y, key)[0], state


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. MODEL is `network`, never linearised, or an epoch of `SPAWNS`.

    Values, beside the columns of `judged`: `MODEL_fall`, what accuracy under PGD on the probe
    loses from its best point to the end; `MODEL_growth`, what accuracy on the attacked training
    batches gains over the second half of the run; `MODEL_seconds` of training. `SPAWN_above` is the
    network's growth less that of the tangent.

    Curves: `MODEL_train`, accuracy on attacked training batches, by epochs of the whole run;
    `MODEL_clean`, `MODEL_pgd`, `MODEL_square` on the probe.
    """
    images, total = networks.load(config.setting, seed), config.setting.epochs
    place, values, curves = (images, seed, checkpoints), {}, {}
    runs = {"network": (network(config, *place), 0)}
    for name, epoch in zip(SPAWNS, config.spawns, strict=True):
        start = runs["network"][0].at(epoch)[1]
        run = tangent(config, name, start, total - epoch, *place)
        runs[name] = run, epoch
    for name, (run, epoch) in runs.items():
        values |= judged(config, name, run, *place)
        found = curves_of(name, run, epoch)
        curves |= found
        robust = found[f"{name}_pgd"][1]
        values[f"{name}_fall"] = max(robust) - robust[-1]
        values[f"{name}_growth"] = growth(*found[f"{name}_train"], total)
        values[f"{name}_seconds"] = run.seconds
    for name in SPAWNS:
        values[f"{name}_above"] = values["network_growth"] - values[f"{name}_growth"]
    return SeedResult(values, curves, (describe(images, seed),))


def network(
    config: Config,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    module: Any = None,
    name: str = "network",
    epochs: Number | None = None,
) -> training.Trained:
    """Adversarial training of the network, kept at the epochs of linearisation."""
    total = config.setting.epochs if epochs is None else epochs
    return follow(
        *(config, name, networks.phase(config.setting, "pgd", total), images, seed, checkpoints),
        module=module,
        save_at=tuple(epoch for epoch in config.spawns if epoch <= total),
    )


def tangent(
    config: Config,
    name: str,
    start: training.Weights,
    epochs: Number,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    strategy: Any = None,
    module: Any = None,
) -> training.Trained:
    """Adversarial training of the tangent at `start`; PGD against the tangent where None."""
    phase = networks.phase(config.setting, "pgd", epochs, model="linear")
    phase = phase if strategy is None else replace(phase, strategy=strategy)
    return follow(config, name, phase, images, seed, checkpoints, module=module, start=start)


def follow(
    config: Any,
    name: str,
    phase: training.Phase,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    module: Any = None,
    **settings: Any,
) -> training.Trained:
    """One phase of training, resumable, with points of the curves on the way."""
    judging, key = config.judging, two.attack_key(seed)
    some = images.x_test[: judging.probe], images.y_test[: judging.probe]
    found = {
        "pgd": networks.test_attack(config.setting),
        "square": attacks.square(config.setting.eps, queries=judging.probe_queries),
    }

    def evaluate(logits_fn, epoch):
        if epoch % judging.every:
            return {}
        row = {"clean": float(attacks.correct(logits_fn(some[0]), some[1]).mean())}
        left = {n: 1 - float(a(logits_fn, *some, key).success.mean()) for n, a in found.items()}
        return row | left

    place = (images, config.setting.batch_size, seed, checkpoints)
    module = config.module() if module is None else module
    settings |= {"shuffle": config.setting.shuffle}
    return train(name, [phase], *place, evaluate, module, **settings)


def judged(
    config: Any, name: str, run: training.Trained, images: data.Dataset, seed: int, checkpoints: Any
) -> dict[str, float]:
    """The end of a run, `NAME_COLUMN`; columns as in `second_phase.table_row`.

    And `gate`, under PGD on the margin by soft gates, or plainly where units are smooth;
    `transfer`, under examples made against the network at the same parameters; both are in `worst`.
    `gap` is `clean - pgd`, over all test images, `gap_worst` is `clean - worst` over the first
    `n_searched`.
    """
    judging, eps = config.judging, config.setting.eps
    setting = two.Setting(
        eps=eps,
        test_steps=config.setting.test_steps,
        queries=judging.queries,
        n_searched=judging.n_searched,
    )
    more = {"gate": partial(_by_gates, config, run), "transfer": partial(_by_network, config, run)}
    logits_fn, place = run.logits_fn(), (images, seed, checkpoints)
    values = two.table_row(setting, name, logits_fn, *place, more)
    some = images.x_test[: judging.n_searched], images.y_test[: judging.n_searched]
    clean = float(attacks.correct(logits_fn(some[0]), some[1]).mean())
    values[f"{name}_gap"] = values[f"{name}_clean"] - values[f"{name}_pgd"]
    values[f"{name}_gap_worst"] = clean - values[f"{name}_worst"]
    return values


def as_network(run: training.Trained) -> Any:
    """The network, not linearised, at the parameters of a run."""
    weights = run.weights
    if weights.start is not None:
        params = jax.tree.map(jnp.add, weights.start, weights.trained)
        weights = weights._replace(trained=params, start=None)
    return run._replace(weights=weights, model="nonlinear").logits_fn()


def _by_gates(config: Any, run: training.Trained, x: Any, y: Any, key: Any) -> np.ndarray:
    """Whether soft gates break an example; smooth units have none: then as many plain runs."""
    judging, gates = config.judging, len(config.judging.betas)
    settings = {"steps": judging.gate_steps, "loss": attacks.margin}
    if run.module.activation != "relu":
        plain = attacks.pgd(config.setting.eps, restarts=gates, **settings)
        return np.asarray(plain(run.logits_fn(), x, y, key).success)
    attack = attacks.pgd(config.setting.eps, **settings)
    found = [attack(two.soft_gated(run, b), x, y, key).success for b in judging.betas]
    return np.any([np.asarray(f) for f in found], axis=0)


def _by_network(config: Any, run: training.Trained, x: Any, y: Any, key: Any) -> np.ndarray:
    settings = {"steps": config.judging.gate_steps, "loss": attacks.margin, "keep": "last"}
    attack = attacks.transfer(attacks.pgd(config.setting.eps, **settings), as_network(run))
    return np.asarray(attack(run.logits_fn(), x, y, key).success)


def curves_of(name: str, run: training.Trained, before: Number) -> dict[str, tuple[list, list]]:
    """Curves by epochs of the whole run, `before` of which came before this one."""
    named = {"train": "accuracy", "clean": "clean", "pgd": "pgd", "square": "square"}
    found = {}
    for curve, column in named.items():
        rows = [(before + r["epoch"], r[column]) for r in run.metrics if column in r]
        found[f"{name}_{curve}"] = tuple(map(list, zip(*rows, strict=True)))
    return found


def growth(epochs: list, accuracy: list, total: Number) -> float:
    """What an accuracy gains from half of the run to its end."""
    return float(accuracy[-1] - np.interp(total / 2, epochs, accuracy))


# Operations, in forward passes of the network; a pass of the tangent is two.


def tangent_passes(steps: int) -> float:
    """Of adversarial training of the tangent, an image and epoch."""
    return 6.0 + 6 * steps


def judging_passes(config: Any, epochs: Number, tangent: bool) -> float:
    """Of the curves over `epochs` and of the row at the end."""
    judging, steps = config.judging, config.setting.test_steps
    forward, gradient = (2, 6) if tangent else (1, 3)
    curve = judging.probe * (steps * gradient + judging.probe_queries * forward)
    gates = judging.gate_steps * (len(judging.betas) * gradient + 3)
    searches = 2 * judging.queries * forward
    end = (config.setting.n_test or 10_000) * steps * gradient
    return float(epochs // judging.every * curve + judging.n_searched * (gates + searches) + end)


def cost(config: Config) -> Cost:
    """Forward 1, step up the loss 2, update 3; of the tangent 2, 6 and 6."""
    s, n = config.setting, config.setting.n_train or 50_000
    passes = n * s.epochs * (3.0 + 2 * s.train_steps) + judging_passes(config, s.epochs, False)
    seen = n * s.epochs
    for epoch in config.spawns:
        passes += n * (s.epochs - epoch) * tangent_passes(s.train_steps)
        passes += judging_passes(config, s.epochs - epoch, True)
        seen += n * (s.epochs - epoch)
    seeds = len(config.seeds)
    return Cost(seeds * passes * 2.0 * config.products, examples=float(seeds * seen))


#: What the experiments on linearised training share at quick size.
QUICK = {
    "seeds": (0, 1),
    "setting": replace(TOY, n_train=200, n_test=20, epochs=3, train_steps=1, test_steps=1),
    "judging": Judging(2, 10, 4, 6, 10, (10.0,), 1),
}
PAPER = Judging(every=5, probe=500, probe_queries=300, queries=5000, n_searched=500, gate_steps=100)
EXPERIMENT = Experiment(
    name="tk-linearised-training",
    help="adversarial training that goes on with the tangent after some epochs",
    presets={
        "quick": Config(**QUICK, spawns=(0, 1, 1)),
        "book": Config(),
        "paper": Config(
            seeds=(0,), setting=networks.CIFAR, toy=False, spawns=(0, 25, 50), judging=PAPER
        ),
    },
    measure=measure,
    cost=cost,
)

"""How much of a fixed kernel's robustness is left once the attack does not trust its gradient.

Two experiments share this code. `loo-toy-masking`: adversarial training on the benign kernel, the
setting of the paper's 76.1 %. `loo-toy-masking-robust-kernel`: benign training on the adversarial
kernel. In each the parent network of that kernel, which is not linearised, is the control.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntklab import attacks
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.loo import second_phase as two
from ntklab.papers.loo.toy import PRODUCTS


@dataclass(frozen=True)
class Config(two.Setting):
    """Arguments of `loo-toy-masking` and of its sibling.

    Attributes:
      kernel: whose kernel, `"benign"` or `"adversarial"`.
      second: how is trained on it.
      long_steps: of an attack on the margin, in each of three runs: restarts of the plain one,
        sharpnesses of the soft gate.
      betas: three sharpnesses of the soft gate.
      noisy_steps: of the attacks whose gradient is averaged or estimated.
      sigma: their noise, on [0, 1] images.
      averaged: gradients in a mean.
      estimated: pairs of scores in an estimate.
    """

    queries: int = 2000
    n_searched: int = 200
    kernel: str = "benign"
    second: str = "adversarial"
    long_steps: int = 100
    betas: tuple[float, float, float] = (2.0, 10.0, 50.0)
    noisy_steps: int = 30
    sigma: float = 0.02
    averaged: int = 8
    estimated: int = 32


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `fixed_ATTACK` and `parent_ATTACK`: accuracy on the first `n_searched`.

    ATTACK is `clean`; `pgd`, PGD-20 on the cross entropy; `margin`, three runs on the margin;
    `soft`, the same by the soft gate, and `soft_BETA` each; `averaged`; `estimated`; `transfer`,
    examples made against the other of the two networks; `square`, `block`. Over groups: `gradient`
    is what `pgd` and `margin` leave together, `adaptive` what all attacks but the two searches and
    the estimate leave, `search` what the searches leave, `all`. `late_share` is the share of what
    the searches break that the last quarter of their queries breaks.

    Curves `fixed_square`, `fixed_block`, and those of the parent: accuracy by queries.
    """
    images = config.images.load(seed)
    place = (images, seed, checkpoints)
    parent = two.parent(config, config.kernel, *place)
    attack = two.plain_attack(config) if config.second == "adversarial" else None
    fixed = two.follow("fixed", parent.weights, two.phase(config, attack), config, *place)
    some = images.x_test[: config.n_searched], images.y_test[: config.n_searched]
    values, curves = {"fixed_seconds": fixed.seconds}, {}
    for name, trained, other in (("fixed", fixed, parent), ("parent", parent, fixed)):
        found = _withstood(config, name, trained, other, some, seed, checkpoints)
        for kind in ("square", "block"):
            queries = found.pop(f"{kind}_queries")
            curves[f"{name}_{kind}"] = (queries.tolist(), found.pop(f"{kind}_curve").tolist())
        values |= {f"{name}_{k}": float(v.mean()) for k, v in (found | _groups(found)).items()}
        curve = [np.interp([0.75 * config.queries], *curves[f"{name}_{k}"])[0] for k in SEARCHES]
        broken = [values[f"{name}_clean"] - values[f"{name}_{k}"] for k in SEARCHES]
        late = sum(c - values[f"{name}_{k}"] for c, k in zip(curve, SEARCHES, strict=True))
        values[f"{name}_late_share"] = float(late) / max(sum(broken), 1 / config.n_searched)
    return SeedResult(values, curves, (describe(images, seed),))


SEARCHES = ("square", "block")


def _groups(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which examples withstand several attacks together."""
    adaptive = [n for n in found if n not in (*SEARCHES, "estimated")]
    groups = {"gradient": ("pgd", "margin"), "adaptive": adaptive, "search": SEARCHES, "all": found}
    return {g: np.all([found[n] for n in names], axis=0) for g, names in groups.items()}


def _withstood(
    config: Config,
    name: str,
    trained: Any,
    other: Any,
    some: tuple,
    seed: int,
    checkpoints: Checkpoints,
) -> dict[str, np.ndarray]:
    """Attack -> whether each example is classified rightly under it; and the searches' curves."""
    network, key = trained.logits_fn(), two.attack_key(seed)
    pgd = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8)
    found = {
        "clean": np.asarray(attacks.correct(network(some[0]), some[1])),
        **_kept(checkpoints, f"{name}-pgd", lambda: {"pgd": pgd(network, *some, key)}),
        **_kept(checkpoints, f"{name}-adaptive", lambda: _adaptive(config, trained, some, key)),
        **_kept(checkpoints, f"{name}-noisy", lambda: _noisy(config, network, some, key)),
        **_kept(
            *(checkpoints, f"{name}-transfer"),
            lambda: {"transfer": _transferred(config, other)(network, *some, key)},
        ),
    }
    found["soft"] = np.all([found[f"soft_{beta:g}"] for beta in config.betas], axis=0)
    for kind, make in (("square", attacks.square), ("block", attacks.random_block)):
        search = make(config.eps, queries=config.queries)
        found |= checkpoints.kept(
            f"{name}-{kind}", lambda k=kind, s=search: _curve(k, s, network, some, key)
        )
    return found


def _kept(checkpoints: Checkpoints, name: str, make: Any) -> dict[str, np.ndarray]:
    return checkpoints.kept(name, lambda: {n: ~np.asarray(r.success) for n, r in make().items()})


def _adaptive(config: Config, trained: Any, some: tuple, key: Any) -> dict:
    """Three runs of the plain gradient, and one for each sharpness of the soft gate."""
    settings = {"steps": config.long_steps, "loss": attacks.margin}
    plain = attacks.pgd(config.eps, restarts=3, **settings)
    once = attacks.pgd(config.eps, **settings)
    soft = {
        f"soft_{beta:g}": once(two.soft_gated(trained, beta), *some, key) for beta in config.betas
    }
    return {"margin": plain(trained.logits_fn(), *some, key)} | soft


def _noisy(config: Config, network: Any, some: tuple, key: Any) -> dict:
    attack = attacks.pgd(config.eps, steps=config.noisy_steps, loss=attacks.margin)
    averaged = attacks.averaged_gradient(network, key, config.sigma, config.averaged)
    estimated = attacks.estimated_gradient(network, key, config.sigma, config.estimated)
    return {"averaged": attack(averaged, *some, key), "estimated": attack(estimated, *some, key)}


def _transferred(config: Config, other: Any) -> attacks.TransferAttack:
    attack = attacks.pgd(config.eps, steps=config.long_steps, loss=attacks.margin, keep="last")
    return attacks.transfer(attack, other.logits_fn())


def _curve(kind: str, search: Any, network: Any, some: tuple, key: Any) -> dict:
    result, seen = search.curve(network, *some, key, points=20)
    # A search that has broken everything stops early: the curve goes on as it is.
    queries = np.linspace(0, search.queries, 21).round()
    left = np.interp(queries, seen.queries, 1 - seen.success.mean(axis=1))
    return {
        kind: ~np.asarray(result.success),
        f"{kind}_queries": queries,
        f"{kind}_curve": left,
    }


def cost(config: Config) -> Cost:
    """Passes as `second_phase` counts them, `2 PRODUCTS` operations each."""
    n = config.images.n_train
    passes = n * config.epochs * two.training_passes(config, config.kernel)
    passes += n * config.second_epochs * two.second_passes(config, config.second)
    for forward, gradient in ((2, 6), (1, 3)):
        steps = config.test_steps + 7 * config.long_steps
        noisy = config.noisy_steps * (config.averaged * gradient + 2 * config.estimated * forward)
        one = steps * gradient + noisy + 2 * config.queries * forward
        passes += config.n_searched * one
    seeds = len(config.seeds)
    seen = n * (config.epochs + 2 * config.second_epochs)
    return Cost(seeds * passes * 2.0 * PRODUCTS, examples=float(seeds * seen))


def experiment(name: str, help: str, **settings) -> Experiment:
    """One of the two; `settings` are those in which it differs."""
    quick = Config(
        **two.QUICK,
        long_steps=3,
        noisy_steps=2,
        averaged=2,
        estimated=2,
        **settings,
    )
    presets = {"quick": quick, "book": Config(**settings)}
    return Experiment(name=name, help=help, presets=presets, measure=measure, cost=cost)


EXPERIMENT = experiment(
    "loo-toy-masking", "adaptive and gradient-free attacks on adversarial training on a kernel"
)
ROBUST_KERNEL = experiment(
    "loo-toy-masking-robust-kernel",
    "the same attacks on benign training on the adversarial kernel",
    kernel="adversarial",
    second="benign",
)

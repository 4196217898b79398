r"""The second phase at toy scale: a network's tangent, trained from where a parent stands.

From a parent's parameters $p_0$ the second phase trains $J(x)(p - p_0)$ (`"centred"`) or
$f(p_0, x) + J(x)(p - p_0)$ (`"linear"`), with $J$ frozen: a kernel machine with the parent's
tangent kernel. Benign training takes a step on each clean batch; adversarial training a clean one
and then an adversarial one (`training.DoubleStep`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, nets, training
from ntklab.attacks import SoftGate
from ntklab.papers._experiment import Checkpoints
from ntklab.papers._networks import each, train
from ntklab.papers.loo import toy

#: How a parent, and a second phase, is trained.
KINDS = ("benign", "adversarial")


@dataclass(frozen=True)
class Setting(toy.Config):
    """What experiments on fixed kernels share, besides the training of the parents.

    Attributes:
      second_epochs: of the second phase.
      second_rate: its learning rate, constant.
      queries: of each search without gradients.
      n_searched: test images, from the front, that searches attack.
    """

    second_epochs: int = 8
    second_rate: float = 0.01
    queries: int = 600
    n_searched: int = 250


#: What experiments on fixed kernels share at quick size.
QUICK = {
    "seeds": (0, 1),
    "images": toy.Images(200, 40),
    "epochs": 1,
    "train_steps": 2,
    "test_steps": 3,
    "second_epochs": 1,
    "queries": 10,
    "n_searched": 40,
}


@dataclass(frozen=True)
class SoftGatePGD(training.PGD):
    """PGD in training that follows the soft gate's gradient; the update stays exact.

    Attributes:
      beta: sharpness of `attacks.SoftGate`.
    """

    beta: float = 10.0

    def attack(self, problem: Any, state: Any, x: Any, y: Any, key: Any):
        """As `PGD`, on a network with the same values and another gradient."""
        module = problem.forward.module.clone(activation=SoftGate(self.beta))
        soft = replace(problem, forward=replace(problem.forward, module=module))
        return super().attack(soft, state, x, y, key)


def initial(seed: int, module: Any = None) -> training.Weights:
    """The weights that a parent of this seed starts from."""
    module = nets.ToyCNN() if module is None else module
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return training.Weights(_init(module, key)["params"], None, {})


@partial(jax.jit, static_argnums=0)
def _init(module: Any, key: Any) -> Any:
    return module.init(key, jnp.zeros((1, 14, 14, 1)))


def parent(
    config: Setting,
    kind: str,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    module: Any = None,
    name: str = "",
) -> training.Trained:
    """A network trained for `config.epochs`, `"benign"` or `"adversarial"`."""
    phase = toy.phases(config)["standard" if kind == "benign" else kind]
    rest = (images, config.batch_size, seed, checkpoints)
    return train(name or f"parent-{kind}", [phase], *rest, module=module)


def plain_attack(config: Setting) -> training.PGD:
    """The attack of adversarial training, the same in both phases."""
    return training.PGD(config.eps, config.train_steps, config.eps / 3)


def phase(config: Setting, attack: training.PGD | None, model: str = "centred") -> training.Phase:
    """The second phase; benign where there is no attack."""
    return training.Phase(
        config.second_epochs,
        training.Standard() if attack is None else training.DoubleStep(attack),
        model=model,
        learning_rate=training.constant(config.second_rate),
        statistics="frozen",
    )


def follow(
    name: str,
    start: training.Weights,
    second: training.Phase,
    config: Setting,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    module: Any = None,
) -> training.Trained:
    """Train the tangent at `start`, resumable under the name."""
    rest = (images, config.batch_size, seed, checkpoints)
    return train(name, [second], *rest, module=module, start=start)


def soft_gated(trained: training.Trained, beta: float) -> Any:
    """The trained function with the same values and the gradient of soft gates."""
    return trained._replace(module=trained.module.clone(activation=SoftGate(beta))).logits_fn()


def attack_key(seed: int) -> Any:
    """What the attacks of a seed draw with."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def table_row(
    config: Setting,
    name: str,
    network: Any,
    images: data.Dataset,
    seed: int,
    checkpoints: Checkpoints,
    more: dict[str, Callable] | None = None,
) -> dict[str, float]:
    """One network's row of a table, each value with its name in front.

    `_clean`, `_pgd` (PGD-20 on the cross entropy): over all test images. Over the first
    `n_searched` of them: `_pgd_some`; `_square` and `_block`, the two searches; `_worst`, what is
    left after all of these and of `more`; `_masked`, `pgd_some - worst`. `more` holds attacks
    `(x, y, key) -> success` by name, each a column over the first images too.
    """
    known = checkpoints.kept(
        f"row-{name}", lambda: _withstood(config, network, images, seed, more or {})
    )
    some = {k: v[: config.n_searched] for k, v in known.items() if k != "clean"}
    worst = np.all(list(some.values()), axis=0)
    values = {k: v.mean() for k, v in known.items()} | {"pgd_some": some["pgd"].mean()}
    values |= {"worst": worst.mean(), "masked": values["pgd_some"] - worst.mean()}
    return {f"{name}_{k}": float(v) for k, v in values.items()}


def _withstood(config: Setting, network: Any, images: data.Dataset, seed: int, more: dict) -> dict:
    """Whether each test image is classified rightly, clean and under each attack."""
    key, n = attack_key(seed), config.n_searched
    some = images.x_test[:n], images.y_test[:n]
    pgd = attacks.pgd(config.eps, steps=config.test_steps, step_size=config.eps / 8)
    searches = {
        "square": attacks.square(config.eps, queries=config.queries),
        "block": attacks.random_block(config.eps, queries=config.queries),
    }
    found = {
        "clean": each(lambda x, y: network(x).argmax(1) == y, images),
        "pgd": each(lambda x, y: ~pgd(network, x, y, key).success, images),
    }
    for name, search in searches.items():
        found[name] = ~np.asarray(search(network, *some, key).success)
    return found | {name: ~np.asarray(attack(*some, key)) for name, attack in more.items()}


# Operations, in forward passes of the network; a pass of the tangent is two.


def training_passes(config: toy.Config, kind: str) -> float:
    """Of a parent, an image and epoch: an update 3, a step of its attack 2."""
    return 3.0 if kind == "benign" else 3.0 + 2 * config.train_steps


def second_passes(config: Setting, kind: str) -> float:
    """Of a second phase, an image and epoch: an update 6, a step of its attack 6."""
    return 6.0 if kind == "benign" else 12.0 + 6 * config.train_steps


def row_passes(config: Setting, tangent: bool = True) -> float:
    """Of a row of the table."""
    forward, gradient = (2, 6) if tangent else (1, 3)
    pgd = config.images.n_test * (config.test_steps * gradient + 3 * forward)
    return pgd + 2.0 * config.n_searched * config.queries * forward

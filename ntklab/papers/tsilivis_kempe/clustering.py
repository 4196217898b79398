"""Networks of several seeds on the same images: do their loss gradients lie round the kernel's?"""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntklab import attacks, data
from ntklab._typing import Array, Float, Int
from ntklab.attacks import training_free
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import transfer, two_layer
from ntklab.papers.tsilivis_kempe.evaluate import loss_gradients, mean_cosine, random_signs

_BLOCK = 500


@dataclass(frozen=True)
class Arm(transfer.Arm):
    """One kind of network, drawn several times.

    Attributes:
      networks: how many, each with its own weights; all arms draw the same directions and signs.
      steps: training steps after which all of them are measured.
      late: later steps, at which the first one alone is measured.
    """

    networks: int = 2
    steps: tuple[int, ...] = (10, 100, 1000)
    late: tuple[int, ...] = ()


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-gradient-clustering` and `tk-gradient-clustering-cars`.

    Attributes:
      seeds: each draws its own images and its own networks.
      arms: the networks.
      dataset: `mnist`, or `cifar10` for cars and planes.
      n_train: images that networks and kernel see.
      n_test: attacked test images.
      learning_rate: of full-batch gradient descent on half the mean squared error.
      eps: budget, in units of the pixels.
      solver: of the kernel machine, as in `tk-transfer-two-layer`.
      save_every: steps between checkpoints.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[Arm, ...] = (
        Arm("paper", 1000, 0.01, False, 3, late=(3000,)),
        Arm("centred", 1000, 0.01, True, 1, (10, 100)),
        Arm("middle", 1000, 0.1, True, 1),
        Arm("lazy", 1000, 1.0, True, 2),
        Arm("huge", 1000, 30.0, True, 1),
    )
    dataset: str = "mnist"
    n_train: int = 1000
    n_test: int = 500
    learning_rate: float = 0.01
    eps: float = 0.3
    solver: str = "spectral"
    save_every: int = 500

    def training(self, steps: tuple[int, ...]) -> transfer.Config:
        """How one network is trained, and the kernel machine with it, up to these steps."""
        return transfer.Config(
            steps=steps,
            learning_rate=self.learning_rate,
            solver=self.solver,
            save_every=self.save_every,
        )

    def load(self, seed: int) -> data.Dataset:
        """The images of a seed."""
        cars = {"classes": ("airplane", "automobile")} if self.dataset == "cifar10" else {}
        return data.load(self.dataset, n_train=self.n_train, n_test=self.n_test, seed=seed, **cars)


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed. Values `ARM_WHAT_STEPS`, means over the arm's networks, as `compare` has them.

    Values `ntk_WHAT_STEPS`: `clean` and `own` of the kernel machine itself.
    """
    images, key = config.load(seed), jax.random.key(seed)
    wanted = sorted({s for arm in config.arms for s in (*arm.steps, *arm.late)})
    machines = transfer.kernel_machines(config.training(tuple(wanted)), images, checkpoints)
    values = {}

    def keep(name, steps, compute):
        found = checkpoints.kept(f"{name} measured at step {steps}", compute)
        values.update({f"{name}_{what}_{steps}": float(v) for what, v in found.items()})

    for steps, machine in machines.items():
        keep("ntk", steps, lambda f=machine: transfer.attack_kernel(config, f, images, key))
    for arm in config.arms:
        for steps, networks in _trained(config, arm, images, key, checkpoints).items():
            pair = networks, machines[steps]
            keep(arm.name, steps, lambda pair=pair: compare(config, *pair, images, key))
    return SeedResult(values, {}, (describe(images, seed),))


def _trained(config: Config, arm: Arm, images, key, checkpoints: Checkpoints) -> dict:
    """Steps -> the arm's networks then, each as `(w, w_0, a)`."""
    found: dict[int, list] = {}
    for number in range(arm.networks):
        steps = (*arm.steps, *(arm.late if number == 0 else ()))
        one, start = replace(arm, name=f"{arm.name} {number}"), jax.random.fold_in(key, number)
        course = transfer.trained(config.training(steps), one, images, start, checkpoints)
        for at, network in course:
            found.setdefault(at, []).append(network)
    return found


def compare(config: Config, networks: list, machine, images, key) -> dict[str, float]:
    """Networks of one kind beside the kernel machine of the same time.

    Values, means over networks or pairs of them: `clean`; robust accuracy of a network under its
    `own` step, the `kernel`'s, that of each `other` network, and random signs (`noise`);
    `noise_gap`, noise minus kernel; `excess`, kernel minus own; `own_counted` and
    `kernel_counted`, where a clean error that the attack puts right counts as right; `flips`,
    `kernel_distance`; what `gradients_compared` has; `borrowed`, robust accuracy under the signs
    of the kernel's gradient at the next test image of the same class.
    """
    x, y = images.x_test, images.y_test
    models = [Partial(two_layer.moved, params) for params in networks]
    clean = [np.asarray(attacks.correct(f(x), y)) for f in models]
    step = attacks.fgsm(config.eps)
    own = [_moved(step, f, x, y, key) for f in models]
    by_kernel = _moved(training_free.multiclass_cross_entropy(config.eps), machine, x, y, key)
    noisy = _moved(random_signs(config.eps), machine, x, y, key)

    def right(i, x_adv):
        return np.asarray(attacks.correct(models[i](x_adv), y))

    def left(i, x_adv):
        return float(np.mean(clean[i] & right(i, x_adv)))

    each, start = range(len(models)), images.x_train
    values = {
        "clean": np.mean(clean),
        "own": np.mean([left(i, own[i]) for i in each]),
        "kernel": np.mean([left(i, by_kernel) for i in each]),
        "noise": np.mean([left(i, noisy) for i in each]),
        "own_counted": np.mean([right(i, own[i]) for i in each]),
        "kernel_counted": np.mean([right(i, by_kernel) for i in each]),
        "flips": np.mean([two_layer.flipped_gates(w, w_0, start[:1000]) for w, w_0, _ in networks]),
        "kernel_distance": np.mean(
            [two_layer.kernel_distance(w, w_0, start[:200]) for w, w_0, _ in networks]
        ),
    }
    if len(models) > 1:
        others = itertools.permutations(each, 2)
        values["other"] = np.mean([left(i, own[j]) for i, j in others])
    values["noise_gap"] = values["noise"] - values["kernel"]
    values["excess"] = values["kernel"] - values["own"]
    values |= gradients_compared(networks, machine, x, y)
    signs = jnp.sign(loss_gradients(machine, x, y)[_next_of_its_class(y)]).reshape(x.shape)
    borrowed = jnp.clip(x + config.eps * signs, 0.0, 1.0)
    values["borrowed"] = np.mean([left(i, borrowed) for i in each])
    return {name: float(v) for name, v in values.items()}


def gradients_compared(networks: list, machine, x, y) -> dict[str, float]:
    """Loss gradients of networks beside the kernel machine's: what `cluster` has, and four more.

    `share`: first-order gain of the kernel's sign step over that of the network's own; `frozen`:
    cosine to the kernel's with the gates held as they were at the start; `stranger`: cosine to
    the kernel's gradient at the next test image of the same class, the control; `own_image`: what
    the right image adds to that.
    """
    ours = loss_gradients(machine, x, y)
    theirs = [loss_gradients(Partial(two_layer.moved, p), x, y) for p in networks]
    still = [loss_gradients(Partial(frozen_gates, p), x, y) for p in networks]
    elsewhere = ours[_next_of_its_class(y)]
    gained = [(g * jnp.sign(ours)).sum(1) / jnp.maximum(jnp.abs(g).sum(1), 1e-30) for g in theirs]
    found, stranger = cluster(theirs, ours), [mean_cosine(g, elsewhere) for g in theirs]
    return found | {
        "share": float(np.mean([g.mean() for g in gained])),
        "frozen": float(np.mean([mean_cosine(g, ours) for g in still])),
        "stranger": float(np.mean(stranger)),
        "own_image": found["to_kernel"] - float(np.mean(stranger)),
    }


def cluster(theirs: list[Float[Array, "b d"]], ours: Float[Array, "b d"]) -> dict[str, float]:
    r"""How gradients of several networks lie to one another and to the kernel's.

    With unit gradients $g_s = c_s h + e_s$ and $e_s \perp h$, for the kernel's direction $h$:
    $g_s^\top g_{s'} = c_s c_{s'} + e_s^\top e_{s'}$.

    Args:
      theirs: one array of gradients a network, `(b, d)` each, at the same examples.
      ours: gradients of the kernel machine there.

    Returns:
      Means over examples, and over networks or pairs: `to_kernel`, $c_s$; with two networks or
      more also `to_each_other`, $g_s^\top g_{s'}$; `product`, $c_s c_{s'}$; `residual`, the
      cosine between $e_s$ and $e_{s'}$; `mean_to_kernel`, the cosine of $\sum_s g_s$ to $h$.

    Cost: `s^2 b d` operations for s networks.

    Source: Tsilivis and Kempe (2022), section C, in words.

    >>> import jax.numpy as jnp
    >>> found = cluster([jnp.array([[1.0, 1.0]]), jnp.array([[1.0, -1.0]])], jnp.eye(2)[:1])
    >>> {name: round(v, 2) for name, v in found.items() if name.endswith("kernel")}
    {'to_kernel': 0.71, 'mean_to_kernel': 1.0}
    """
    h, g = _unit(ours), [_unit(each) for each in theirs]
    c = [(each * h).sum(1, keepdims=True) for each in g]
    values = {"to_kernel": np.mean([each.mean() for each in c])}
    if len(g) > 1:
        rest = [_unit(each - along * h) for each, along in zip(g, c, strict=True)]
        pairs = list(itertools.combinations(range(len(g)), 2))
        values |= {
            "to_each_other": np.mean([(g[i] * g[j]).sum(1).mean() for i, j in pairs]),
            "product": np.mean([(c[i] * c[j]).mean() for i, j in pairs]),
            "residual": np.mean([(rest[i] * rest[j]).sum(1).mean() for i, j in pairs]),
            "mean_to_kernel": (_unit(sum(g)) * h).sum(1).mean(),
        }
    return {name: float(v) for name, v in values.items()}


def frozen_gates(
    params: tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m k"]],
    x: Float[Array, "b ..."],
) -> Float[Array, "b k"]:
    """`f - f_0` with the hidden units on that were on at the start: the tangent.

    Args:
      params: W now, W at the start, A.
      x: inputs.
    """
    w, w_0, a = params
    x = x.reshape(len(x), -1)
    on = (x @ w_0.T > 0).astype(x.dtype)
    return (on * (x @ (w - w_0).T)) @ a / jnp.sqrt(jnp.float32(len(a)))


def _unit(g: Array) -> Array:
    return g / jnp.maximum(jnp.linalg.norm(g, axis=1, keepdims=True), 1e-30)


def _next_of_its_class(y: Int[Array, "b"]) -> np.ndarray:
    """For each example the index of the next one of the same class, in a circle."""
    labels = np.asarray(y)
    after = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        after[places] = np.roll(places, -1)
    return after


def _moved(attack, f, x, y, key) -> Array:
    """The attacked images, in blocks."""
    rows = [slice(i, i + _BLOCK) for i in range(0, len(x), _BLOCK)]
    return jnp.concatenate([attack(f, x[r], y[r], key).x_adv for r in rows])


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, in float32 but for the eigendecomposition.

    A training step takes $4 n m d$ a network. At each wanted step the machine gives gradients of
    all classes for itself and twice an arm, and each network about $40 + 6 k$ passes.
    """
    n, b = config.n_train, config.n_test
    d, k = (3072, 2) if config.dataset == "cifar10" else (784, 10)
    classes, wanted = _cost.class_gradients(b, n, d, k), set()
    flops, host, examples = _cost.gram(n, n, d), 0.0, 0.0
    for arm in config.arms:
        wanted |= {*arm.steps, *arm.late}
        steps = arm.networks * max(arm.steps)
        steps += max(arm.late) - max(arm.steps) if arm.late else 0
        flops += steps * 4.0 * n * arm.width * d
        flops += len(arm.steps) * arm.networks * (40 + 6 * k) * 2.0 * b * arm.width * d
        flops += 2 * len((*arm.steps, *arm.late)) * classes
        examples += steps * n
    flops += len(wanted) * classes
    if config.solver == "spectral":
        host = _cost.eigh(n)
    else:
        flops += max(wanted) * 2.0 * n**2 * k
    seeds = len(config.seeds)
    return Cost(seeds * flops, "float32", seeds * host, seeds * examples)


_FEW = (
    Arm("paper", 32, 0.01, False, 2, late=(3000,)),
    Arm("centred", 32, 0.01, True, 1, (10,)),
    Arm("middle", 32, 0.1, True, 1, (1000,)),
    Arm("lazy", 32, 1.0, True, 2, (1000,)),
    Arm("huge", 32, 30.0, True, 1, (1000,)),
)
_LATE = (100, 1000, 10_000)
_BOTH_WIDTHS = (
    Arm("paper", 1000, 0.01, False, 3, _LATE),
    Arm("wide", 10_000, 0.01, False, 3, _LATE),
    Arm("lazy", 1000, 1.0, True, 2),
)

EXPERIMENT = Experiment(
    name="tk-gradient-clustering",
    help="loss gradients of two-layer networks of several seeds beside the kernel's, MNIST",
    presets={
        "quick": Config(seeds=(0, 1), arms=_FEW, n_train=40, n_test=20),
        "book": Config(),
        "paper": Config(
            arms=_BOTH_WIDTHS, n_train=60_000, n_test=2_000, solver="iterated", save_every=2_000
        ),
    },
    measure=measure,
    cost=cost,
)

_CARS = Config(arms=(Arm("paper", 1000, 0.01, False, 2),), dataset="cifar10", eps=8 / 255)

CARS = Experiment(
    name="tk-gradient-clustering-cars",
    help="the same on cars and planes of CIFAR-10, at eps 8/255",
    presets={
        "quick": replace(
            _CARS, seeds=(0, 1), arms=(Arm("paper", 32, 0.01, False, 2),), n_train=40, n_test=20
        ),
        "book": _CARS,
        "paper": replace(_CARS, arms=_BOTH_WIDTHS[:2], n_train=10_000, n_test=2_000),
    },
    measure=measure,
    cost=cost,
)

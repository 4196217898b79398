"""Finite two-layer networks on zeros and ones of MNIST, with interval bounds (table 2)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntklab import data
from ntklab._common import in_blocks, progress
from ntklab.certificates import network_certificate
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.chen.measures import mean_of_finite, smallest_found, summary
from ntklab.papers.chen.network import Weights, epoch, initialise, scores

_BLOCK_BYTES = 2**28


@dataclass(frozen=True)
class Config:
    """Arguments of `chen-networks`.

    Attributes:
      seeds: each its own start, order of the mini-batches and start of the attack.
      widths: hidden units of each network.
      n_train: training images, None for all 12,665.
      n_test: test images, None for all 2,115.
      n_first: test images in the paper's means over 100, taken from the front.
      regularisation: lambda of the mean form.
      batch: mini-batch.
      learning_rate: of the descent.
      epochs: of the descent.
      save_every: epochs between checkpoints.
      eps: budgets of the attack that certificates are held against.
      steps: steps of PGD at each budget.
      n_attacked: test images that are attacked, from the front.
    """

    seeds: tuple[int, ...] = (0,)
    widths: tuple[int, ...] = (250, 1000)
    n_train: int | None = None
    n_test: int | None = None
    n_first: int = 100
    regularisation: float = 0.001
    batch: int = 64
    learning_rate: float = 1.0
    epochs: int = 300
    save_every: int = 50
    eps: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
    steps: int = 20
    n_attacked: int = 100


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: a network of each width, certified on the whole test set.

    Values, each with the network's name in front, `nn_1000` for a width of 1,000: `_accuracy` of
    `f - f_0`; `_certificate`, mean radius as coded by the authors, of the correctly classified;
    `_deviation`, its standard deviation; `_certificate_100`, the mean over the first 100; `_sound`,
    the mean radius with `f_0` bounded over the ball too; `_sound_share`, the mean of its share of
    the coded radius; `_attack`, mean smallest perturbation that PGD finds for the attacked images;
    `_attacked`, for how many it finds one; `_violations`, how many of those lie below the sound
    radius. Further `certificate_change` and `attack_change`: those means for the second width over
    those for the first.
    """
    images = data.load("mnist", classes=(0, 1), n_train=config.n_train, n_test=config.n_test)
    values = {}
    for width in progress(config.widths, "widths"):
        name = f"nn_{width}"
        known = checkpoints.kept(
            name, lambda width=width: _one_width(config, width, seed, images, checkpoints)
        )
        right = (known["score"] > 0) == np.asarray(images.y_test == 1)
        coded, sound, smallest = known["coded"], known["sound"], known["smallest"]
        values |= summary(name, known["score"], coded, images.y_test, config.n_first)
        values |= {
            f"{name}_sound": float(sound[right].mean()),
            f"{name}_sound_share": float((sound[right] / coded[right]).mean()),
            f"{name}_attack": mean_of_finite(smallest),
            f"{name}_attacked": float(np.isfinite(smallest).sum()),
            f"{name}_violations": float((smallest < sound[: len(smallest)]).sum()),
        }
    for kind in ("certificate", "attack"):
        first, second = (values[f"nn_{width}_{kind}"] for width in config.widths[:2])
        values[f"{kind}_change"] = second / first
    curves = {
        f"nn_{kind}": (list(config.widths), [values[f"nn_{w}_{kind}"] for w in config.widths])
        for kind in ("accuracy", "certificate", "sound", "attack")
    }
    return SeedResult(values, curves, (describe(images, seed),))


def _one_width(config: Config, width: int, seed: int, images, checkpoints) -> dict[str, np.ndarray]:
    """Scores, both radii and the smallest perturbations of one trained network."""
    start_key, order_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), width))
    start = initialise(start_key, images.x_train[0].size, width)
    trained = _train(config, start, order_key, images, checkpoints)
    block = max(1, _BLOCK_BYTES // (4 * width))
    found = {
        subtract: [
            network_certificate(trained, images.x_test[i : i + block], start, subtract)
            for i in range(0, len(images.x_test), block)
        ]
        for subtract in ("clean", "interval")
    }
    score = np.concatenate([part.score for part in found["clean"]])
    some = slice(0, config.n_attacked)
    attacked = (Partial(moved, start, trained), score[some], images.x_test[some])
    return {
        "score": score,
        "coded": np.concatenate([part.radius for part in found["clean"]]),
        "sound": np.concatenate([part.radius for part in found["interval"]]),
        "smallest": smallest_found(config, *attacked, seed),
    }


def moved(start: Weights, trained: Weights, x):
    """`f - f_0`: the classifier."""
    flat = x.reshape(len(x), -1)
    return scores(trained, flat) - scores(start, flat)


def _train(config: Config, start: Weights, key, images, checkpoints: Checkpoints) -> Weights:
    """The weights after all epochs, from the latest checkpoint."""
    x, signs = images.x_train.reshape(len(images.x_train), -1), images.signed()[0]
    n, width = len(x), len(start.last)
    block = max(1, _BLOCK_BYTES // (4 * width))
    offset = jnp.asarray(in_blocks(partial(scores, start), block, x))
    name = f"training_{width}"
    known = checkpoints.load(name) or {"done": 0, "first": start.first, "last": start.last}
    # A copy: an epoch reuses the memory of what it is given, and the start is needed later.
    weights, done = Weights(*(jnp.array(known[k]) for k in Weights._fields)), int(known["done"])
    for each in progress(range(done, config.epochs), f"training, width {width}"):
        order = jax.random.permutation(jax.random.fold_in(key, each), n)
        rows = jnp.pad(order, (0, -n % config.batch), constant_values=n)
        batches = rows.reshape(-1, config.batch)
        weights = epoch(
            weights, (x, signs, offset), batches, config.learning_rate, config.regularisation
        )
        if (each + 1) % config.save_every == 0 and each + 1 < config.epochs:
            checkpoints.save(name, done=each + 1, **weights._asdict())
            checkpoints.deadline.check(f"epoch {each + 1} of {config.epochs} at width {width}")
    return weights


#: Images of zeros and ones in MNIST.
_TRAIN, _TEST = 12_665, 2_115


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, in float32.

    A network of width m takes $4 n d m$ an epoch (every batch has an example inside its margin;
    without one half of it), $2 \cdot 32 \cdot 2 \cdot 4\,b d m$ for both certificates of b images,
    bounded from both sides, and $8 d m$ a step of PGD and image, since $f_0$ is attacked too.
    """
    n, b, d = config.n_train or _TRAIN, config.n_test or _TEST, 784
    width = float(sum(config.widths))
    training = config.epochs * 4 * n * d * width
    certificates = 2 * 32 * 2 * 4 * b * d * width
    attacked = len(config.eps) * config.steps * config.n_attacked * 8 * d * width
    seeds, networks = len(config.seeds), len(config.widths)
    passed = float(seeds * networks * config.epochs * n)
    return Cost(seeds * (training + certificates + attacked), "float32", examples=passed)


EXPERIMENT = Experiment(
    name="chen-networks",
    help="two-layer networks on zeros and ones of MNIST with interval bounds",
    presets={
        "quick": Config(
            n_train=200, n_test=40, n_first=20, epochs=4, eps=(0.1, 0.3), steps=5, n_attacked=20
        ),
        "book": Config(seeds=(0, 1, 2)),
        "paper": Config(
            seeds=(0, 1, 2, 3, 4), widths=(250, 1000, 10_000, 100_000, 1_000_000), save_every=100
        ),
    },
    measure=measure,
    cost=cost,
)

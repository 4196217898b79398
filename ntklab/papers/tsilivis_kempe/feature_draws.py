"""Is the trial on features one draw among many? Random draws of images, and an exchange test."""

from dataclasses import dataclass

import numpy as np

from ntklab import data
from ntklab._common import progress
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import feature_toy as toy


@dataclass(frozen=True)
class Config(toy.ToyConfig):
    """Arguments of `tk-feature-draws`: those of `tk-feature-toy`, and how many draws a seed.

    Attributes:
      n_draws: of images from the files, with classes as they come.
    """

    n_draws: int = 12


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: several draws. The numbers of a draw are those of `feature_toy.measured`.

    Values: `mean_NAME`, `low_NAME`, `high_NAME` over the draws, for the names of `trial()`;
    `outside`, how many of the trial's numbers lie outside the range; `trial_apart`, the largest
    distance of one of its numbers from the draws' mean in standard deviations of the draws;
    `draw_apart_most`, the largest such distance of a draw from all the others.
    """
    whole = data.load("mnist")
    rng, names = np.random.default_rng(seed), list(trial())
    table = []
    for number in progress(range(config.n_draws), "draws"):
        train, test = (
            np.sort(rng.choice(len(x), size, replace=False))
            for x, size in ((whole.x_train, config.n_train), (whole.x_test, config.n_test))
        )
        draw = whole.x_train[train], whole.y_train[train], whole.x_test[test], whole.y_test[test]
        found = checkpoints.kept(f"draw {number}", lambda d=draw: toy.measured(config, *d))
        table.append([float(found[name]) for name in names])
    table, held = np.array(table), np.array(list(trial().values()))
    low, high = table.min(axis=0), table.max(axis=0)
    values = {"outside": float(((held < low) | (held > high)).sum())}
    values |= {"trial_apart": apart(held, table)}
    others = [apart(row, np.delete(table, i, axis=0)) for i, row in enumerate(table)]
    values["draw_apart_most"] = max(others)
    for i, name in enumerate(names):
        values |= {
            f"mean_{name}": table[:, i].mean(),
            f"low_{name}": low[i],
            f"high_{name}": high[i],
        }
    return SeedResult({n: float(v) for n, v in values.items()}, {}, (describe(whole, seed),))


def trial() -> dict[str, float]:
    """Name of a value -> what the trial had."""
    held = {f"{c}_{i}": v for c, row in toy.TRIAL.items() for i, v in enumerate(row)}
    for cut, (clean, fgsm) in toy.CUTS.items():
        held |= {f"clean_{cut}": clean, f"fgsm_{cut}": fgsm}
    return held


def apart(row: np.ndarray, others: np.ndarray) -> float:
    """Largest distance of an entry from the others' mean, in the others' standard deviations.

    An entry in which the others do not differ counts from a standard deviation of 0.001.

    >>> import numpy as np
    >>> round(apart(np.array([3.0, 0.0]), np.array([[0.0, 0.0], [2.0, 0.0]])), 4)
    1.4142
    """
    spread = np.maximum(others.std(axis=0, ddof=1), 1e-3)
    return float((np.abs(row - others.mean(axis=0)) / spread).max())


def cost(config: Config) -> Cost:
    """That of `tk-feature-toy`, which has two draws a seed."""
    two = toy.toy_cost(config)
    times = config.n_draws / 2
    return Cost(times * two.flops, two.dtype, times * two.host_flops)


EXPERIMENT = Experiment(
    name="tk-feature-draws",
    help="features and spectral cut-offs on many random draws of MNIST: is the trial one of them?",
    presets={
        "quick": Config(seeds=(0, 1), n_train=320, n_test=60, n_draws=3),
        "book": Config(),
    },
    measure=measure,
    cost=cost,
)

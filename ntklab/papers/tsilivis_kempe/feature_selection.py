"""Keeping the most robust features only (supplement, section D.3, Figs. 4 and 5), with controls."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from ntklab import attacks, data, features, predictors
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe
from ntklab.papers.tsilivis_kempe import features as parts
from ntklab.papers.tsilivis_kempe.evaluate import accuracy, robust_accuracy


@dataclass(frozen=True)
class Task:
    """A data set with its budgets.

    Attributes:
      name: in the values.
      data: name of the data set.
      classes: of it; all where None.
      eps: budget of the supplement.
      eps_small: a smaller one, for the curves of early stopping.
    """

    name: str
    data: str
    classes: tuple[str, ...] | None
    eps: float
    eps_small: float


TASKS = (
    Task("mnist", "mnist", None, 0.3, 0.1),
    Task("cars", "cifar10", ("airplane", "automobile"), 8 / 255, 2 / 255),
)


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-feature-selection`.

    Attributes:
      seeds: each draws its own balanced images.
      tasks: what is classified.
      n_train: training images.
      n_valid: images of the training files, others, on which features are ranked and r is chosen.
      n_test: test images, of which all reported numbers are.
      n_ranked: features that are ranked; the rest follows in the order of the eigenvalues.
      kept: numbers of features that are kept, besides all.
      n_removed: most robust features that are taken away, for the machine of the others.
      pgd_steps: steps of PGD.
      times: of early stopping, in units of the time of the fastest mode.
      n_searched: test images of the search without gradients.
      queries: of that search.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[Task, ...] = field(default=TASKS)
    n_train: int = 2000
    n_valid: int = 500
    n_test: int = 500
    n_ranked: int = 200
    kept: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 200, 500)
    n_removed: int = 20
    pgd_steps: int = 10
    times: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5)
    n_searched: int = 200
    queries: int = 300


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed, every task. Values, with the name of the task in front.

    `full_*`, `best_*` (r chosen on validation data among machines half-way at least from the best
    constant to the full machine), `accurate_*` (among those within .02 of the full machine),
    `easy_*` (all within half-way, the largest test value of them): columns `clean`, `fgsm`, `pgd`,
    `transfer_fgsm`, `transfer_pgd`. `majority`; `best_r`; `gap` and `transfer_gap`, largest
    distance of FGSM and PGD over all r; `search` and `search_pgd` of the chosen machine on the same
    few images; `rest_*` without the most robust features, `robust_*` with them alone;
    `early_*` along training; `cut_best`, the best spectral cut-off under FGSM.
    """
    values, curves, described = {}, {}, []
    for task in config.tasks:
        images = _load(config, task, seed)
        one = _Task(config, task, images, jax.random.key(seed), checkpoints)
        found, lines = one.measured()
        values |= {f"{task.name}_{name}": float(v) for name, v in found.items()}
        curves |= {f"{task.name}_{name}": line for name, line in lines.items()}
        described.append(describe(images, seed))
    return SeedResult(values, curves, tuple(described))


def _load(config: Config, task: Task, seed: int) -> data.Dataset:
    return data.load(
        task.data,
        classes=task.classes,
        n_train=config.n_train + config.n_valid,
        n_test=config.n_test,
        seed=seed,
    )


class _Task:
    """One data set of one seed: the machine, its features in order of robustness, the attacks."""

    def __init__(self, config: Config, task: Task, images, key, checkpoints: Checkpoints):
        self.config, self.task, self.key, self.checkpoints = config, task, key, checkpoints
        n = config.n_train
        self.valid = images.x_train[n:], images.y_train[n:]
        self.test = images.x_test, images.y_test
        self.fitted = predictors.KernelRegression(parts.DENSE["fc1"], solver="eigh").fit(
            images.x_train[:n], parts.targets_of(images)[:n]
        )
        self.order = self._ranked()

    def kept(self, name: str, compute: Callable[[], dict]) -> dict:
        return self.checkpoints.kept(f"{self.task.name} {name}", compute)

    def _ranked(self) -> np.ndarray:
        """Every feature once: the ranked ones by robustness on validation data, then the rest."""
        many = min(self.config.n_ranked, self.config.n_train)

        def rank():
            found = parts.plane(self.fitted, range(many), *self.valid, (self.task.eps,))
            order = np.lexsort((np.arange(many), -found.usefulness, -found.robustness[0]))
            return {"order": order, "robustness": found.robustness[0][order]}

        order = self.kept("ranks", rank)["order"]
        return np.concatenate([order, np.arange(many, self.config.n_train)])

    def suite(self) -> dict:
        eps = self.task.eps
        return {"fgsm": attacks.fgsm(eps), "pgd": attacks.pgd(eps, steps=self.config.pgd_steps)}

    def row(self, machine, others: dict) -> dict[str, float]:
        """Clean accuracy and accuracies under attack, on test data, and FGSM on validation data."""
        x, y = self.test
        found = {"clean": accuracy(machine, x, y)}
        for name, attack in self.suite().items():
            found[name] = robust_accuracy(attack, machine, x, y, self.key)
            right = attacks.correct(machine(x), y) & attacks.correct(machine(others[name]), y)
            found[f"transfer_{name}"] = float(np.mean(right))
        x, y = self.valid
        found["valid_clean"] = accuracy(machine, x, y)
        found["valid_fgsm"] = robust_accuracy(self.suite()["fgsm"], machine, x, y, self.key)
        return found

    def measured(self) -> tuple[dict, dict]:
        """Values and curves of the task, without its name."""
        machine = self.fitted.logits_fn()
        x, y = self.test
        others = self.kept(
            "examples of the full machine",
            lambda: {n: a(machine, x, y, self.key).x_adv for n, a in self.suite().items()},
        )
        others = {name: jnp.asarray(moved) for name, moved in others.items()}
        n = self.config.n_train
        counts = [r for r in self.config.kept if r < n] + [n]
        chosen = {r: features.select(self.fitted, self.order[:r]) for r in counts[:-1]}
        chosen[n] = machine
        table = {}
        for r in counts:
            row = self.kept(f"r {r}", lambda r=r: self.row(chosen[r], others))
            table[r] = {column: float(v) for column, v in row.items()}
        values = self._choices(table, n)
        values |= self._search(chosen[int(values["best_r"])])
        values |= self._parts(others)
        early, lines = self._early()
        for column in ("clean", "fgsm", "pgd", "transfer_fgsm", "transfer_pgd"):
            lines[column] = (counts, [table[r][column] for r in counts])
        return values | early, lines

    def _choices(self, table: dict, n: int) -> dict:
        """What is read from the table of all r; only validation columns choose."""
        chance, full = parts.majority(self.test[1]), table[n]
        halfway = (chance + full["valid_clean"]) / 2
        fair = [r for r in table if table[r]["valid_clean"] >= halfway]
        best = max(fair, key=lambda r: (table[r]["valid_fgsm"], -r))
        close = [r for r in table if table[r]["valid_clean"] >= full["valid_clean"] - 0.02]
        accurate = max(close, key=lambda r: (table[r]["valid_fgsm"], -r))
        values = {"majority": chance, "best_r": best, "accurate_r": accurate}
        for name, r in (("full", n), ("best", best), ("accurate", accurate)):
            values |= {f"{name}_{column}": v for column, v in table[r].items()}
        values["easy_pgd"] = max(table[r]["pgd"] for r in fair)
        for name, prefix in (("gap", ""), ("transfer_gap", "transfer_")):
            apart = [abs(row[f"{prefix}fgsm"] - row[f"{prefix}pgd"]) for row in table.values()]
            values[name] = max(apart)
        return values

    def _search(self, machine) -> dict[str, float]:
        """A search without gradients beside PGD, on the same few images."""
        few = self.config.n_searched
        x, y = (a[:few] for a in self.test)

        def search():
            square = attacks.square(self.task.eps, queries=self.config.queries)
            suite = {"search": square, "search_pgd": self.suite()["pgd"]}
            return {n: robust_accuracy(a, machine, x, y, self.key) for n, a in suite.items()}

        return {name: float(v) for name, v in self.kept("search", search).items()}

    def _parts(self, others: dict) -> dict[str, float]:
        """The most robust features alone, and all the others without them."""
        cut = min(self.config.n_removed, self.config.n_train - 1)
        sets = {"robust": self.order[:cut], "rest": self.order[cut:]}
        found = {}
        for name, indices in sets.items():
            machine = features.select(self.fitted, indices)
            row = self.kept(name, lambda m=machine: self.row(m, others))
            found |= {f"{name}_{column}": float(v) for column, v in row.items()}
        return found

    def _early(self) -> tuple[dict, dict]:
        """FGSM along gradient flow beside the spectral cut-off at the largest eigenvalues."""
        unit, (x, y) = 1.0 / float(self.fitted.eigenvalues[-1]), self.test
        attack = attacks.fgsm(self.task.eps_small)

        def at(machine) -> dict:
            robust = robust_accuracy(attack, machine, x, y, self.key)
            return {"clean": accuracy(machine, x, y), "robust": robust}

        times = [*self.config.times, math.inf]
        flow = [
            self.kept(f"time {t:g}", lambda t=t: at(self.fitted.logits_fn(unit * t))) for t in times
        ]
        cuts = [r for r in self.config.kept if r < self.config.n_train]
        cut = [
            self.kept(f"cut {r}", lambda r=r: at(features.select(self.fitted, range(r))))
            for r in cuts
        ]
        clean, robust = ([float(f[name]) for f in flow] for name in ("clean", "robust"))
        best = int(np.argmax(robust[:-1]))
        learned = np.sum(-np.expm1(-self.fitted.eigenvalues * unit * times[best]))
        hard = max(float(c["robust"]) for c in cut)
        values = {
            "early_best": robust[best], "early_gain": robust[best] - robust[-1],
            "early_clean": clean[best], "early_features": float(learned), "late": robust[-1],
            "cut_best": hard, "early_cut_apart": robust[best] - hard,
        }  # fmt: skip
        lines = {
            "clean_by_time": (times[:-1], clean[:-1]), "robust_by_time": (times[:-1], robust[:-1]),
            "clean_by_cut": (cuts, [float(c["clean"]) for c in cut]),
            "robust_by_cut": (cuts, [float(c["robust"]) for c in cut]),
        }  # fmt: skip
        return values, lines


def cost(config: Config) -> Cost:
    """Gradients of PGD and of the ranks, scores that judge, and one eigendecomposition a task."""
    n, total = config.n_train, 0.0
    for task in config.tasks:
        d, k = (784, 10) if task.data == "mnist" else (3072, 1)
        test, valid = (config.n_test, n, d, k), (config.n_valid, n, d, k)
        machines = len([r for r in config.kept if r < n]) + 3
        pulls = (config.pgd_steps + 1) * _cost.pull(*test) + _cost.pull(*valid)
        total += machines * (pulls + 7 * _cost.scores(*test) + 3 * _cost.scores(*valid))
        ranked = min(config.n_ranked, n)
        total += _cost.class_gradients(config.n_valid, n, d, ranked)
        total += ranked * _cost.scores(config.n_valid, n, d, 1)
        along = len(config.times) + len(config.kept) + 1
        total += along * (_cost.pull(*test) + 3 * _cost.scores(*test)) + _cost.gram(n, n, d)
        total += config.queries * _cost.scores(config.n_searched, n, d, k)
    seeds = len(config.seeds)
    return Cost(seeds * total, "float32", seeds * len(config.tasks) * _cost.eigh(n))


EXPERIMENT = Experiment(
    name="tk-feature-selection",
    help="kernel machines of the most robust features, MNIST and cars and planes",
    presets={
        "quick": Config(
            seeds=(0, 1), n_train=60, n_valid=40, n_test=40, n_ranked=20, kept=(1, 5),
            n_removed=5, pgd_steps=2, times=(10.0, 100.0), n_searched=40, queries=3,
        ),
        "book": Config(),
        "paper": Config(
            n_train=10_000, n_valid=2000, n_test=2000, n_ranked=1000,
            kept=(1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000),
        ),
    },
    measure=measure,
    cost=cost,
)  # fmt: skip

"""Learning curves on MNIST: a kernel, networks of its architecture, and what theory predicts."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from ntklab import data, kernels, nets, predictors
from ntklab._common import float64
from ntklab._typing import Array
from ntklab.papers import _cost
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult, describe

#: The architecture: one hidden layer, NTK parameterisation; the kernel is that of infinite width.
DEPTH, B_STD = 1, 0.1
KERNEL = kernels.FullyConnected(depth=DEPTH, b_std=B_STD)
#: Networks as they are, and without their initial function.
ARMS = ("network", "centred")
PIXELS, CLASSES = 784, 10
_POOL_SEED, _BLOCK = 1000, 500


@dataclass(frozen=True)
class Config:
    """Arguments of `learning-curve`.

    Attributes:
      seeds: each draws its own images, weights and batches.
      sizes: training images; a smaller training set is the head of a larger one.
      small: sizes up to it count as small; the power law is fitted from it on.
      n_test: test images.
      pool: images, of a draw of their own, whose kernel spectrum the theory starts from. It
        answers for sizes from `small` to a quarter of the pool.
      n_law: points of the finite set on which the conservation law is checked; a quarter of them
        is trained on.
      width: hidden units of the networks.
      steps: of stochastic gradient descent with momentum .9, the same for every size.
      batch: images a step, drawn with replacement.
      rate: learning rate in units of the inverse of the largest eigenvalue of `Theta / n`.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 12000)
    small: int = 100
    n_test: int = 2000
    pool: int = 12000
    n_law: int = 400
    width: int = 512
    steps: int = 3000
    batch: int = 100
    rate: float = 0.3

    def answers(self, n: int) -> bool:
        """Whether the spectrum of the pool is fine enough for the theory to speak of `n` images."""
        return 4 * n <= self.pool


def _pool(config: Config) -> data.Dataset:
    return data.load("mnist", n_train=config.pool, n_test=CLASSES, seed=_POOL_SEED)


def prepare(config: Config, checkpoints: Checkpoints) -> dict[str, np.ndarray]:
    """Eigenvalues of the kernel on the pool, and the share of the targets along each of them."""

    def spectrum() -> dict:
        images = _pool(config)
        matrix = _gram(images.x_train)
        values, vectors = scipy.linalg.eigh(matrix, driver="evd", overwrite_a=True)
        power = (vectors.T @ _targets(images.y_train)) ** 2 / config.pool
        return {"eigenvalues": np.maximum(values, 0) / config.pool, "power": power}

    return checkpoints.kept("spectrum of the pool", spectrum)


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: the kernel at every size, then both networks at every size.

    Curves by size: `error` (share of test images misclassified) and `mse` (squared error, summed
    over classes) of `kernel`, `network` and `centred`; `condition`; `agree_ARM`, the share of test
    images of which a network and the kernel name the same class; `float32_change`, of which the
    kernel's class changes when matrix and solution are float32. For sizes up to a quarter of the
    pool also `predicted_mse`, `effective_ridge` and `predicted_effective_ridge`.

    Values: what the claims need of these, see `_summary`, and the errors of the conservation law.
    """
    images = data.load("mnist", n_train=max(config.sizes), n_test=config.n_test, seed=seed)
    rows = {n: {} for n in config.sizes}
    kernel_scores = {}
    problem = _Problem(config, images)
    for n in config.sizes:
        found = checkpoints.kept(f"kernel, {n} images", functools.partial(problem.kernel, n))
        kernel_scores[n] = found.pop("scores")
        rows[n] |= {name: float(v) for name, v in found.items()}
        if config.answers(n):
            theory = predictors.eigenlearning(checkpoints.shared["eigenvalues"], n)
            rows[n]["predicted_mse"] = theory.error(checkpoints.shared["power"])
            rows[n]["predicted_effective_ridge"] = theory.effective_ridge
    law = checkpoints.kept("conservation", problem.conservation)
    problem.forget()
    for arm in ARMS:
        for n in config.sizes:
            train = functools.partial(problem.network, arm, n, seed)
            scores = checkpoints.kept(f"{arm}, {n} images", train)["scores"]
            rows[n] |= problem.judged(arm, scores)
            same = scores.argmax(1) == kernel_scores[n].argmax(1)
            rows[n][f"agree_{arm}"] = float(same.mean())
    values = _summary(config, rows) | {name: float(v) for name, v in law.items()}
    curves = {}
    for name in rows[config.sizes[0]]:
        kept = {n: row[name] for n, row in rows.items() if name in row}
        curves[name] = (list(kept), list(kept.values()))
    return SeedResult(values, curves, (describe(images, seed), describe(_pool(config), _POOL_SEED)))


def _summary(config: Config, rows: dict[int, dict]) -> dict[str, float]:
    r"""What the claims judge.

    `small_gap`: error of the network less that of the kernel, mean over small sizes; `large_gap`
    at the largest. `ARM_small_mse`, `agree_ARM`: means over small sizes, over all. `exponent`: of
    the power law $n^{-\beta}$ of `kernel_mse` from `small` on; `bend`: its largest residual, in
    logarithms. `theory_worst`, `ridge_worst`: largest relative error of the predicted squared error
    and effective ridge, from `small` to a quarter of the pool. `float32_worst` over all sizes.
    """
    small = [r for n, r in rows.items() if n <= config.small]
    middle = [r for n, r in rows.items() if n >= config.small and config.answers(n)]
    late = {n: r["kernel_mse"] for n, r in rows.items() if n >= config.small}
    logs = np.log([list(late), list(late.values())])
    line = np.polyfit(*logs, 1)

    def mean(name: str, chosen: list[dict]) -> float:
        return float(np.mean([r[name] for r in chosen]))

    def worst(name: str, measured: str) -> float:
        return max(abs(r[name] / r[measured] - 1) for r in middle)

    everything, last = list(rows.values()), rows[max(rows)]
    return {
        "small_gap": mean("network_error", small) - mean("kernel_error", small),
        "large_gap": last["network_error"] - last["kernel_error"],
        "kernel_small_mse": mean("kernel_mse", small),
        **{f"{arm}_small_mse": mean(f"{arm}_mse", small) for arm in ARMS},
        **{f"agree_{arm}": mean(f"agree_{arm}", everything) for arm in ARMS},
        "exponent": -float(line[0]),
        "bend": float(np.abs(logs[1] - np.polyval(line, logs[0])).max()),
        "theory_worst": worst("predicted_mse", "kernel_mse"),
        "ridge_worst": worst("predicted_effective_ridge", "effective_ridge"),
        "float32_worst": max(r["float32_change"] for r in everything),
        "kernel_error_last": last["kernel_error"],
        "network_error_last": last["network_error"],
    }


class _Problem:
    """The images of a seed, and matrices that are made when they are first needed."""

    def __init__(self, config: Config, images: data.Dataset):
        self.config, self.images = config, images
        self.targets, self.wanted = _targets(images.y_train), _targets(images.y_test)
        self.labels = np.asarray(images.y_test)
        self._made = {}

    def forget(self) -> None:
        """Let the matrices go."""
        self._made.clear()

    @property
    def matrix(self) -> np.ndarray:
        """The kernel matrix of the largest training set, float64."""
        if "matrix" not in self._made:
            self._made["matrix"] = _gram(self.images.x_train)
        return self._made["matrix"]

    @property
    def cross(self) -> np.ndarray:
        """The kernel between test images and training images, float64."""
        if "cross" not in self._made:
            self._made["cross"] = _gram(self.images.x_test, self.images.x_train)
        return self._made["cross"]

    def judged(self, name: str, scores: np.ndarray) -> dict[str, float]:
        """Error and squared error of scores of the test images."""
        wrong = scores.argmax(1) != self.labels
        mse = ((scores - self.wanted) ** 2).sum(axis=1)
        return {f"{name}_error": float(wrong.mean()), f"{name}_mse": float(mse.mean())}

    def kernel(self, n: int) -> dict:
        """Kernel regression on the first `n` images, in float64 and in float32."""
        matrix, cross, targets = self.matrix[:n, :n], self.cross[:, :n], self.targets[:n]
        model = predictors.KernelRegression(KERNEL, solver="cholesky", engine="scipy")
        fitted = model.fit(self.images.x_train[:n], jnp.asarray(targets, jnp.float32), gram=matrix)
        scores = cross @ fitted.coefficients()
        rounded = _solved_in_float32(matrix, cross, targets)
        changed = 1.0 if rounded is None else (rounded.argmax(1) != scores.argmax(1)).mean()
        found = self.judged("kernel", scores)
        found |= {"condition": fitted.condition_number, "float32_change": float(changed)}
        if self.config.answers(n):
            found["effective_ridge"] = _harmonic_mean(matrix)
        return found | {"scores": scores}

    def conservation(self) -> dict[str, float]:
        """Relative errors of the law, for a random basis: at the end, early, and with a ridge."""
        total, rng = self.config.n_law, np.random.default_rng(0)
        matrix, rows = self.matrix[:total, :total], rng.permutation(total)[: total // 4]
        basis = np.linalg.qr(rng.standard_normal((total, total)))[0]
        modes = np.linalg.eigvalsh(matrix[np.ix_(rows, rows)])
        unit, found = float(modes.max()), {}
        for name, ridge, t in (
            ("conservation", 0.0, math.inf),
            ("conservation_time", 0.0, 10 / unit),
            ("conservation_ridge", 0.01 * unit, math.inf),
        ):
            law = (modes / (modes + ridge) * -np.expm1(-(modes + ridge) * t)).sum()
            sum_of_all = predictors.learnabilities(matrix, rows, basis, ridge, t).sum()
            found[name] = float(abs(sum_of_all / law - 1))
        return found

    def network(self, arm: str, n: int, seed: int) -> dict[str, np.ndarray]:
        """Test scores of a network trained on the first `n` images."""
        config, images = self.config, self.images
        f, start = network(config.width, jax.random.fold_in(jax.random.key(seed), 0))
        first = np.asarray(images.x_train[: min(n, config.batch)])
        largest = np.linalg.eigvalsh(_gram(first))[-1] / len(first)
        trained = descend(
            *(f, start, images.x_train, jnp.asarray(self.targets, jnp.float32), jnp.int32(n)),
            *(jnp.float32(config.rate / largest), jax.random.fold_in(jax.random.key(seed), n)),
            *(jnp.int32(config.steps), config.batch, arm == "centred"),
        )
        parts = []
        for i in range(0, len(images.x_test), _BLOCK):
            x = images.x_test[i : i + _BLOCK]
            parts.append(f(trained, x) - (f(start, x) if arm == "centred" else 0))
        return {"scores": np.concatenate([np.asarray(p, np.float64) for p in parts])}


def network(width: int, key: Array) -> tuple[Any, Any]:
    """The finite network as `f(params, x)`, with random parameters."""
    module = nets.FC((width,) * DEPTH, CLASSES, parameterisation="ntk", b_std=B_STD)
    return nets.as_function(module, module.init(key, jnp.zeros((1, PIXELS))))


@functools.partial(jax.jit, static_argnums=(8, 9))
def descend(
    f: Any,
    start: Any,
    x: Array,
    targets: Array,
    n: Array,
    rate: Array,
    key: Array,
    steps: Array,
    batch: int,
    centred: bool,
) -> Any:
    r"""Parameters after gradient descent with momentum .9 on half the mean squared error.

    Args:
      f: the network.
      start: its parameters.
      x: images, of which the first `n` are trained on.
      targets: `(len(x), k)`.
      n: how many.
      rate: learning rate.
      key: of the batches.
      steps: how many.
      batch: images a step, drawn with replacement.
      centred: train `f - f_0`.

    Cost: three forward passes of a batch a step, and one more when centred.
    """

    def loss(params, rows):
        shift = f(start, x[rows]) if centred else 0.0
        return 0.5 * ((f(params, x[rows]) - shift - targets[rows]) ** 2).sum(axis=1).mean()

    def step(i, state):
        params, velocity = state
        rows = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, n)
        slope = jax.grad(loss)(params, rows)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope)
        return jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity

    still = jax.tree.map(jnp.zeros_like, start)
    return jax.lax.fori_loop(0, steps, step, (start, still))[0]


def _gram(x1: Any, x2: Any = None) -> np.ndarray:
    with float64():
        wide = [None if x is None else np.asarray(x, np.float64) for x in (x1, x2)]
        return kernels.gram(KERNEL, *wide, show_progress=False)


def _targets(labels: Array) -> np.ndarray:
    """One-hot rows less their mean."""
    return np.eye(CLASSES)[np.asarray(labels)] - 1 / CLASSES


def _harmonic_mean(matrix: np.ndarray) -> float:
    """`n / tr(matrix^-1)`, by one Cholesky factorisation."""
    copy = np.array(matrix, order="F")
    factor = scipy.linalg.cholesky(copy, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    return len(matrix) / float(np.einsum("ij,ij->", inverse, inverse))


def _solved_in_float32(
    matrix: np.ndarray, cross: np.ndarray, targets: np.ndarray
) -> np.ndarray | None:
    """Test scores with everything in float32; None where the factorisation breaks down."""
    single = np.array(matrix, np.float32, order="F")
    try:
        factor = scipy.linalg.cho_factor(single, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError:
        return None
    alpha = scipy.linalg.cho_solve(factor, targets.astype(np.float32))
    return cross.astype(np.float32) @ alpha


def cost(config: Config) -> Cost:
    """Operations of all seeds: kernel matrices and networks in float32, solves on the host."""
    last, b, seeds = max(config.sizes), config.n_test, len(config.seeds)
    flops = _cost.gram(last, last, PIXELS) + _cost.gram(b, last, PIXELS)
    passes = (3 + 4) * 2.0 * PIXELS * config.width * config.batch * config.steps
    flops += len(config.sizes) * passes
    host = sum((4 if config.answers(n) else 2) * _cost.cholesky(n) for n in config.sizes)
    pool = _cost.eigh(config.pool) + 2.0 * config.pool**2 * CLASSES
    seen = float(len(ARMS) * len(config.sizes) * config.steps * config.batch)
    shared = _cost.gram(config.pool, config.pool, PIXELS)
    return Cost(seeds * flops + shared, "float32", seeds * host + pool, seeds * seen)


EXPERIMENT = Experiment(
    name="learning-curve",
    help="kernel, networks and theory from 10 to 12,000 images of MNIST",
    presets={
        "quick": Config(
            seeds=(0, 1),
            sizes=(10, 30, 100),
            small=30,
            n_test=100,
            pool=400,
            n_law=40,
            width=32,
            steps=40,
            batch=20,
        ),
        "book": Config(),
        "paper": Config(
            seeds=(0, 1, 2, 3, 4),
            sizes=(10, 30, 100, 300, 1000, 3000, 12000, 30000),
            n_test=10_000,
            pool=24_000,
            width=4096,
            steps=20_000,
        ),
    },
    measure=measure,
    prepare=prepare,
    cost=cost,
)

"""The equations of the supplement's sections B.1 and B.2, checked by brute force.

Small random problems: no data set, no training. Every count is out of `cases`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial

from ntklab import kernels, predictors
from ntklab._common import float64
from ntklab.attacks import linearised, training_free
from ntklab.papers._cost import Cost
from ntklab.papers._experiment import Checkpoints, Experiment, SeedResult

_WIDE_BOUNDS = (-100.0, 100.0)  # no clipping: the statements are about the ball alone


@dataclass(frozen=True)
class Config:
    """Arguments of `tk-errata`.

    Attributes:
      seeds: each draws its own problems.
      cases: random linear problems for each count.
      d: pixels of a random problem; all 2^d corners of the box are tried.
      k: classes of a random problem.
      eps: budget at which rules are compared.
      eps_small: smallest budget for footnote 1.
      eps_large: largest budget for footnote 1.
      n: training points of the kernel machines.
      directions: random directions at each training point, for the remainders.
      samples: hidden units of the Monte Carlo check of equation 29.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    cases: int = 300
    d: int = 6
    k: int = 4
    eps: float = 0.1
    eps_small: float = 0.01
    eps_large: float = 1.0
    n: int = 12
    directions: int = 8
    samples: int = 1_000_000


def measure(config: Config, seed: int, checkpoints: Checkpoints) -> SeedResult:
    """One seed: draw the problems in 64 bits and hold every equation against them."""
    with float64():
        keys = jax.random.split(jax.random.key(seed), 5)
        values = kernel_checks(config, keys[0])
        values |= binary_checks(config, keys[1])
        values |= multiclass_checks(config, keys[2])
        values |= interpolated_checks(config, keys[3])
        values |= remainder_checks(config, keys[4])
        values |= footnote_example()
    return SeedResult(values, {}, ())


def kernel_checks(config: Config, key) -> dict[str, float]:
    """Equations 3, 9 and 29 against matrix exponential, autodiff and Monte Carlo."""
    keys = jax.random.split(key, 3)
    x, y, machine = _machine(config, keys[0])
    x_new = jax.random.normal(keys[1], (20, config.d))
    t = 1.0 / float(np.max(machine.eigenvalues))
    gram = np.asarray(machine.kernel(x))
    exact = np.linalg.solve(gram, (np.eye(len(x)) - scipy.linalg.expm(-t * gram)) @ np.asarray(y))
    _, closed = predictors.class_gradients(machine.logits_fn(), x_new)
    automatic = jax.vmap(jax.grad(lambda p: machine.logits_fn()(p[None])[0]))(x_new)
    return {
        "eq3_error": _relative(machine.coefficients(t), exact),
        "eq9_error": _relative(closed, automatic),
        "eq29_standard_errors": _monte_carlo(config, keys[2]),
    }


def _monte_carlo(config: Config, key) -> float:
    """Formula minus sample mean, in standard errors of the mean, for one pair of points."""
    key_x, key_w = jax.random.split(key)
    x1, x2 = jax.random.normal(key_x, (2, config.d))
    w = jax.random.normal(key_w, (config.samples, config.d))
    samples = jnp.where((w @ x1 > 0) & (w @ x2 > 0), jnp.dot(x1, x2), 0.0)
    error = samples.std() / np.sqrt(config.samples)
    formula = kernels.TwoLayerNTK()(x1[None], x2[None])[0, 0]
    return float(jnp.abs(formula - samples.mean()) / error)


def binary_checks(config: Config, key) -> dict[str, float]:
    """Equations 6, 16 and 18: optimal, and one attack up to the label."""
    keys = jax.random.split(key, 4)
    f, z = jax.random.normal(keys[0], (config.cases,)), _normal(keys[1], config)
    y = jax.random.bernoulli(keys[2], shape=(config.cases,)).astype(int)
    scores, x = Partial(_linear_scores, (f, z)), jnp.zeros((config.cases, config.d))
    run = {"eps": config.eps, "bounds": _WIDE_BOUNDS}
    eq6 = training_free.binary_cross_entropy(**run)(scores, x, y).x_adv
    eq16 = training_free.training_point(**run)(scores, x, y).x_adv
    eq18 = training_free.label_free(**run)(scores, x, y)
    right = (f > 0) == (y == 1)
    sign = 2.0 * y.astype(f.dtype) - 1.0
    loss = jax.nn.softplus(-sign * (f + (eq6 * z).sum(1)))
    corners = config.eps * _corners(config.d)
    best = jax.nn.softplus(-sign[:, None] * (f[:, None] + z @ corners.T)).max(axis=1)
    return {
        "eq6_missed": _count(best - loss > 1e-9),
        "eq16_eq6_differ": _count((eq16 != eq6).any(axis=1)),
        "eq18_differs_where_right": _count((eq18.x_adv != eq6).any(axis=1) & right),
        "eq18_opposite_where_wrong": _count((eq18.x_adv == -eq6).all(axis=1) & ~right),
        "wrong_before": _count(~right),
        "eq18_repaired": _count(~right & ~eq18.success),
    }


def multiclass_checks(config: Config, key) -> dict[str, float]:
    """Equations 8 and 20, and footnote 1, against the enumeration of all corners."""
    key_f, key_z = jax.random.split(key)
    f, z = _normal(key_f, config, config.k)[..., 0], _normal(key_z, config, config.k)
    scores, x = Partial(_linear_scores, (f, z)), jnp.zeros((config.cases, config.d))
    y = jnp.zeros(config.cases, int)
    run = {"eps": config.eps, "bounds": _WIDE_BOUNDS}
    corners = config.eps * _corners(config.d)
    gap, slope = f[:, 1:] - f[:, :1], z[:, 1:] - z[:, :1]

    def lead(eta):
        return (gap[:, None] + jnp.einsum("cpd,crd->cpr", eta, slope)).max(axis=2)

    every = jnp.broadcast_to(corners, (config.cases, *corners.shape))
    best = lead(every).max(axis=1)
    values = {}
    for name, offsets in (("eq20_missed", True), ("eq20_printed_missed", False)):
        eta = training_free.max_of_l1(offsets=offsets, **run)(scores, x, y).x_adv
        values[name] = _count(best - lead(eta[:, None])[:, 0] > 1e-9)
    pull = jax.vmap(jax.grad(lambda p, f, z: -jax.nn.log_softmax(f + z @ p)[0]))(x, f, z)
    eta = training_free.multiclass_cross_entropy(**run)(scores, x, y).x_adv
    values["eq8_missed"] = _count((pull @ corners.T).max(1) - (eta * pull).sum(1) > 1e-9)
    for name in ("eps_small", "eps", "eps_large"):
        values[f"footnote_missed_{name}"] = _footnote(getattr(config, name), scores, slope, x, y)
    return values


def _footnote(eps: float, scores, slope, x, y) -> float:
    """Cases in which equation 22 misses the maximum of the second-order objective of eq. 23."""
    attack = training_free.sum_of_differences(eps=eps, bounds=_WIDE_BOUNDS)
    reached = _second_order(attack(scores, x, y).x_adv[:, None], slope)[:, 0]
    corners = eps * _corners(x.shape[1])
    best = _second_order(jnp.broadcast_to(corners, (len(x), *corners.shape)), slope).max(axis=1)
    return _count(best - reached > 1e-9 * eps)


def _second_order(eta, slope):
    """`sum_r a_r + a_r^2 / 2` with `a_r = eta . (z_r - z_y)`: exponentials to second order."""
    a = jnp.einsum("cpd,crd->cpr", eta, slope)
    return (a + a**2 / 2).sum(axis=2)


def footnote_example() -> dict[str, float]:
    """The counter-example for the hand: differences (2, 1) and (-1.9, 3), budget 0.1."""
    slope = jnp.array([[[2.0, 1.0], [-1.9, 3.0]]])
    reached, best = _second_order(0.1 * jnp.array([[[1.0, 1.0], [-1.0, 1.0]]]), slope)[0]
    return {"footnote_example": float(best - reached)}


def interpolated_checks(config: Config, key) -> dict[str, float]:
    """Equation 22 is equation 8 at interpolated one-hot points; equation 23's constant."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (10 * config.k, config.d))
    y = jax.random.randint(key_y, (len(x),), 0, config.k)
    targets = jax.nn.one_hot(y, config.k, dtype=x.dtype)
    fitted = predictors.KernelRegression(kernels.TwoLayerNTK()).fit(x, targets)
    run = {"eps": config.eps, "bounds": _WIDE_BOUNDS}
    eq8, eq22 = (
        attack(**run)(fitted.logits_fn(), x, y).x_adv
        for attack in (training_free.multiclass_cross_entropy, training_free.sum_of_differences)
    )
    _, z = predictors.class_gradients(fitted.logits_fn(), x)
    first_order = targets + jnp.einsum("bd,bkd->bk", eq22 - x, z)
    loss = -jnp.take_along_axis(jax.nn.log_softmax(first_order), y[:, None], axis=1)[:, 0]
    gaps = z - jnp.take_along_axis(z, y[:, None, None], axis=1)
    grown = jnp.exp(jnp.einsum("bd,bkd->bk", eq22 - x, gaps)).sum(axis=1) - 1.0
    return {
        "interpolation_error": float(jnp.abs(fitted.logits_fn()(x) - targets).max()),
        "eq22_eq8_differ": float((jnp.abs(eq8 - eq22) > 1e-9).mean()),
        "eq23_error": _relative(jnp.log1p(jnp.exp(-1.0) * grown), loss),
    }


def remainder_checks(config: Config, key) -> dict[str, float]:
    """Growth exponents of the first-order remainder at training points (eqs. 12 to 16).

    The mean over points and directions of |f(x_i + s v) - f(x_i) - s v . z_i|: slope 1 where the
    kernel has a cusp, slope 2 with the cusp term taken off, slope 2 for a smooth kernel.
    """
    key_data, key_v = jax.random.split(key)
    x, y, machine = _machine(config, key_data)
    alpha = machine.coefficients()
    _, z = predictors.class_gradients(machine.logits_fn(), x)
    v = jax.random.normal(key_v, (config.directions, config.d))
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    sizes = jnp.geomspace(1e-4, 1e-2, 9)
    smooth = _gaussian_machine(x, y)
    smooth_z = jax.vmap(jax.grad(lambda p: smooth(p[None])[0]))(x)
    lengths = jnp.linalg.norm(x, axis=1)
    across = jnp.sqrt(1.0 - (x @ v.T / lengths[:, None]) ** 2)  # |v_perp| for each point, direction
    cusp = -(alpha * lengths)[:, None, None] * across[:, :, None] * sizes[None, None] / (2 * jnp.pi)
    relu = _remainders(machine.logits_fn(), x, z, v, sizes)
    series = {
        "slope_relu": relu,
        "slope_cusp_removed": relu - cusp,
        "slope_gaussian": _remainders(smooth, x, smooth_z, v, sizes),
    }
    means = {name: jnp.abs(rows).mean(axis=(0, 1)) for name, rows in series.items()}
    return {n: linearised.growth_exponent(sizes, mean) for n, mean in means.items()}


def _remainders(logits_fn, x, z, v, sizes):
    """First-order remainders at every point in every direction: `(points, directions, sizes)`."""

    def of(point, gradient, direction):
        return linearised.remainders(logits_fn, point, gradient, direction, sizes)

    over_directions = jax.vmap(of, in_axes=(None, None, 0))
    return jax.jit(jax.vmap(over_directions, in_axes=(0, 0, None)))(x, z, v)


def _machine(config: Config, key):
    """A binary machine of the two-layer kernel that interpolates random signs."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (config.n, config.d))
    y = jax.random.rademacher(key_y, (config.n,), x.dtype)
    return x, y, predictors.KernelRegression(kernels.TwoLayerNTK()).fit(x, y)


def _gaussian_machine(x, y):
    """A smooth kernel for comparison: `exp(-|x - x'|^2 / 2)`."""

    def gram(x1, x2):
        return jnp.exp(-0.5 * ((x1[:, None] - x2[None]) ** 2).sum(axis=-1))

    alpha = jnp.linalg.solve(gram(x, x), y)
    return lambda p: gram(p, x) @ alpha


def _linear_scores(params, x):
    """Each row its own linear model: `f + z . x`."""
    f, z = params
    return f + jnp.einsum("b...d,bd->b...", z, x)


def _normal(key, config: Config, *k: int):
    return jax.random.normal(key, (config.cases, *k, config.d))


def _corners(d: int):
    """All sign patterns, `(2^d, d)`."""
    bits = (jnp.arange(2**d)[:, None] >> jnp.arange(d)[None, :]) & 1
    return jnp.where(bits == 1, 1.0, -1.0)


def _count(cases) -> float:
    return float(jnp.sum(cases))


def _relative(found, expected) -> float:
    """Largest difference, relative to the largest expected entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def cost(config: Config) -> Cost:
    r"""Operations of all seeds, float64: `2^d` corners of each case, and the Monte Carlo check.

    $$2\,c\,2^d d\,(9 (k - 1) + 2) + 4 d\,s$$ for c cases, k classes and s samples. The problems
    are so small that compiling takes longer than this.
    """
    corners = 2 * config.cases * 2**config.d * config.d * (9 * (config.k - 1) + 2)
    return Cost(len(config.seeds) * float(corners + 4 * config.d * config.samples), "float64")


EXPERIMENT = Experiment(
    name="tk-errata",
    help="equations 3 to 29 of the supplement held against brute force; errata counted",
    presets={
        "quick": Config(seeds=(0, 1), cases=60, directions=2, samples=20_000),
        "book": Config(),
        "paper": Config(seeds=tuple(range(20)), cases=3000),
    },
    measure=measure,
    cost=cost,
)

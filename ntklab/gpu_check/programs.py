"""The programs that are timed, on random arrays; networks run through the training engine."""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array
from ntklab.attacks import cross_entropy
from ntklab.gpu_check.timing import Program
from ntklab.kernels.empirical import EmpiricalNTK
from ntklab.nets import ResNet, as_function
from ntklab.training.augment import CropFlip
from ntklab.training.forward import Forward, Weights
from ntklab.training.phase import Phase
from ntklab.training.step import Plan, advance, no_totals, plan_of
from ntklab.training.strategies import PGD, Standard
from ntklab.training.update import TrainState

#: The threat model of adversarial training on CIFAR-10.
EPS, STEP_SIZE = 8 / 255, 2 / 255


#: Random numbers that are drawn; more are the same again. It divides no size, so no rows are equal.
DRAWN = 65_521


def numbers(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
    """Gaussian numbers, drawn by NumPy: compiling a generator takes longer."""
    drawn = scale * np.random.default_rng(seed).standard_normal(DRAWN, np.float32)
    return jnp.asarray(np.resize(drawn.astype(jnp.dtype(dtype)), shape))


def matmul(n: int, dtype: str, precision: str) -> Program:
    """A product of two matrices; `precision` is JAX's, `"default"` or `"highest"`."""
    call = jax.jit(partial(jnp.matmul, precision=None if precision == "default" else precision))
    return Program(call, (numbers(0, (n, n), dtype), numbers(1, (n, n), dtype)))


def copy(numbers: int) -> Program:
    """Each number of an array plus one, float32."""
    return Program(jax.jit(lambda x: x + 1), (jnp.zeros(numbers, jnp.float32),))


def convolution(channels: int, size: int, batch: int, dtype: str, what: str) -> Program:
    """A 3x3 convolution, NHWC, padding SAME: forward, with its input's gradient, with both."""
    x = numbers(0, (batch, size, size, channels), dtype)
    w = numbers(1, (3, 3, channels, channels), dtype, 1 / (3 * channels**0.5))
    return Program(_CONVOLUTIONS[what], (x, w))


def _convolve(x: Array, w: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)


def _energy(x: Array, w: Array) -> Array:
    """Its gradient with respect to the output is the output, so that all passes are needed."""
    return 0.5 * (_convolve(x, w).astype(jnp.float32) ** 2).sum()


_CONVOLUTIONS = {
    "forward": jax.jit(_convolve),
    "input gradient": jax.jit(jax.grad(_energy)),
    "train step": jax.jit(jax.grad(_energy, argnums=(0, 1))),
}


@partial(jax.jit, static_argnums=0)
def _scores(forward: Forward, weights: Weights, x: Array) -> Array:
    return forward(weights, x, False)[0]


@partial(jax.jit, static_argnums=0)
def _input_gradient(forward: Forward, weights: Weights, x: Array, y: Array) -> Array:
    return jax.grad(lambda z: cross_entropy(forward(weights, z, False)[0], y).sum())(x)


def network(model: ResNet, size: int, batch: int, dtype: str, what: str) -> Program:
    """A network in evaluation mode: forward, or with the gradient of its images."""
    weights, forward = _weights(model, size), Forward(model, dtype=dtype)
    x, y = _images(size, batch)
    x = jnp.asarray(np.asarray(x, np.float32) / 255)
    if what == "forward":
        return Program(_scores, (forward, weights, x), fixed=1)
    return Program(_input_gradient, (forward, weights, x, y), fixed=1)


def training(model: ResNet, size: int, batch: int, dtype: str, steps: int) -> Program:
    """The engine's step: cut and mirrored images, `steps` of PGD (0: none), descent."""
    standard = _plan(model, batch, dtype, Standard())
    data, weights = _images(size, 2 * batch), _weights(model, size)
    momentum = standard.problem.optimiser().init(weights.trained)
    state = TrainState(weights, momentum, None)
    order, rate = jnp.asarray(np.arange(2 * batch, dtype=np.int32)), jnp.float32(0.01)
    place = (order, jnp.int32(0), jax.random.key(0), jnp.int32(0), rate)
    arguments = (state, no_totals(0), data, *place)
    if not steps:
        return Program(advance, (standard, *arguments), 2, fixed=1)
    plan = _plan(model, batch, dtype, PGD(EPS, steps, STEP_SIZE))
    shapes = jax.eval_shape(lambda *a: a, *arguments)
    attacked = network(model, size, batch, dtype, "input gradient")
    counted = [(steps, attacked.call, attacked.arguments), (1, advance, (standard, *shapes))]
    return Program(advance, (plan, *arguments), 2, counted, fixed=1)


def _plan(model: ResNet, batch: int, dtype: str, strategy: Any) -> Plan:
    phase = Phase(1, strategy, weight_decay=5e-4)
    return plan_of(model, phase, dtype, (batch, CropFlip(), None, 0))


def _weights(model: ResNet, size: int) -> Weights:
    """On the device, not shared: a step of training gives its arguments away."""
    return jax.tree.map(jnp.array, _drawn(model, size))


@functools.cache
def _drawn(model: ResNet, size: int) -> Weights:
    """Weights of variance 1 / fan_in, drawn by NumPy: compiling an initialisation takes longer."""
    random = np.random.default_rng(0)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)

    def one(path: tuple, leaf: Any) -> np.ndarray:
        if leaf.ndim > 1:
            scale = np.float32((leaf.shape[-1] / leaf.size) ** 0.5)
            return scale * random.standard_normal(leaf.shape, np.float32)
        positive = path[-1].key in ("scale", "var")
        return np.ones(leaf.shape, leaf.dtype) if positive else np.zeros(leaf.shape, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(one, dict(shapes))
    return Weights(variables.pop("params"), None, variables)


def _images(size: int, count: int) -> tuple[Array, Array]:
    x = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)
    return jnp.asarray(x), jnp.asarray(np.arange(count, dtype=np.int32) % 10)


def kernel(model: ResNet, size: int, images: int, mode: str) -> Program:
    """The empirical kernel between two blocks of images, captures included."""
    one, two = (numbers(seed, (images, size, size, 3), "float32") for seed in (0, 1))
    return Program(_block, (_tangent_kernel(model, size, mode, _weights(model, size)), one, two))


def contraction(model: ResNet, size: int, images: int, mode: str) -> float:
    """FLOPs of all products of Jacobians in `kernel`, as it plans them; computes nothing."""
    x = jnp.zeros((images, size, size, 3))
    rows = _tangent_kernel(model, size, mode, _drawn(model, size)).explain(x, x)
    return float(sum(row.flops for row in rows))


def _tangent_kernel(model: ResNet, size: int, mode: str, weights: Weights) -> EmpiricalNTK:
    f, params = as_function(model, {"params": weights.trained, **weights.statistics})
    return EmpiricalNTK(f, params, mode)


@jax.jit
def _block(ntk: EmpiricalNTK, one: Array, two: Array) -> Array:
    return ntk.tile(ntk.prepare(one), ntk.prepare(two))


def eigh(n: int) -> Program:
    """Eigenvalues and eigenvectors of a random symmetric matrix, float32."""
    a = np.random.default_rng(0).standard_normal((n, n), np.float32)  # none twice: full rank
    return Program(jax.jit(jnp.linalg.eigh), (jnp.asarray(a + a.T),), counted=[])

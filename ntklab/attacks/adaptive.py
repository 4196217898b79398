r"""Attacks on functions whose own gradient misleads: the values of one, the gradient of another.

The tangent of a ReLU network, $f_0(x) + J(x)\,\delta$, jumps where a gate $1[z > 0]$ switches, and
its gradient does not see the jumps. Each function here returns a **logits function with exactly the
values of the one that is attacked**, and another input gradient; any `GradientAttack` then follows
that gradient and is judged by the true values.

| | gradient | sees a jump |
|---|---|---|
| `SoftGate(beta)` as activation of the network | gates as sigmoids, in the backward pass | yes |
| `borrowed_gradient(f, g)` | that of any differentiable `g` | if `g` does |
| `averaged_gradient(f, key, sigma)` | the mean of gradients nearby | no: it has none anywhere |
| `estimated_gradient(f, key, sigma)` | of `f` smoothed by noise, from values alone | yes |

`transfer(attack, source)` attacks another model and tries its examples on this one.

    soft = trained._replace(module=trained.module.clone(activation=SoftGate(10.0))).logits_fn()
    attacks.pgd(eps=0.1, steps=100)(soft, x, y, key)
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntklab._typing import Array, Key, LogitsFn, Number
from ntklab.attacks._problem import (
    AttackResult,
    as_pytree,
    nonfinite,
    per_example,
    refuse_nonfinite,
)
from ntklab.attacks.losses import correct, margin


@dataclasses.dataclass(frozen=True)
class SoftGate:
    r"""A ReLU with its exact values and first derivative, and a second derivative that is not zero.

    Its derivative is the gate $1[z > 0]$, whose own derivative is 0 wherever it exists. Here that
    derivative is the one of a sigmoid, $\beta \sigma(\beta z)(1 - \sigma(\beta z))$, in forward and
    reverse mode. A network computes what it computes with `"relu"`, input gradient included; its
    tangent in the parameters (a first derivative, which the input gradient differentiates again)
    keeps its values, and its gradient gets the term that the jumps stand for.

    Attributes:
      beta: sharpness of the sigmoid, above 0; `1 / beta` in the units of the pre-activations. Where
        it is small against them the term vanishes almost everywhere again: try several.

    Raises:
      ValueError: beta not above 0.

    References:
      Ours; a backward pass that is another function's: Athalye, Carlini & Wagner 2018 (BPDA).

    >>> import jax, jax.numpy as jnp
    >>> act = SoftGate(beta=4.0)
    >>> slope = jax.grad(act)
    >>> print(act(2.0), slope(2.0), slope(-2.0), jax.grad(slope)(0.0))
    2.0 1.0 0.0 1.0
    """

    beta: float = 10.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}.")

    def __call__(self, z: Any) -> Array:
        """Element by element."""
        return _relu(self.beta, jnp.asarray(z))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gate(beta, z):
    return (z > 0).astype(z.dtype)


@_gate.defjvp
def _soft_slope(beta, primals, tangents):
    (z,), (dz,) = primals, tangents
    open_ = jax.nn.sigmoid(beta * z)
    return _gate(beta, z), beta * open_ * (1 - open_) * dz


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _relu(beta, z):
    return jnp.maximum(z, 0)


@_relu.defjvp
def _gated(beta, primals, tangents):
    (z,), (dz,) = primals, tangents
    return _relu(beta, z), _gate(beta, z) * dz


def borrowed_gradient(logits_fn: LogitsFn, surrogate: LogitsFn) -> Partial:
    """The values of one function, bit for bit, with the gradient of another.

    Args:
      logits_fn: what is attacked, scores `(b, k)` or `(b,)`.
      surrogate: scores of the same shape, differentiable in the input.

    Returns:
      A logits function for attacks; compiled code serves all pairs of equal functions.

    Raises:
      ValueError: scores of two shapes, when they are first computed.

    Cost: a forward pass of both, and a backward pass of the surrogate.

    References:
      Athalye, Carlini & Wagner 2018 (BPDA).

    >>> import jax, jax.numpy as jnp
    >>> step = lambda x: jnp.where(x > 0, 1.0, 0.0)[:, 0]
    >>> f = borrowed_gradient(step, lambda x: 3 * x[:, 0])
    >>> print(f(jnp.ones((1, 1))), jax.grad(lambda x: f(x)[0])(jnp.ones((1, 1))))
    [1.] [[3.]]
    """
    return Partial(_borrowed, as_pytree(logits_fn), as_pytree(surrogate))


def _borrowed(logits_fn, surrogate, x):
    value, other = jax.lax.stop_gradient(logits_fn(x)), surrogate(x)
    if value.shape != other.shape:
        raise ValueError(
            f"the surrogate gives scores {other.shape} where the attacked function gives "
            f"{value.shape}: they must be of one shape."
        )
    return _with(value, other)


def _with(value: Array, other: Array) -> Array:
    """The value, with the gradient of `other`, which adds exactly zero."""
    return value + (other - jax.lax.stop_gradient(other))


def averaged_gradient(
    logits_fn: LogitsFn, key: Key[Array, ""], sigma: Number, draws: int = 8
) -> Partial:
    r"""The same values, with the mean of the gradients at noisy inputs.

    $$\frac1R \sum_{r=1}^R \frac{\partial f}{\partial x}(x + \sigma u_r), \qquad
      u_r \sim \mathcal{N}(0, I).$$

    It helps against gradients that are shattered, and not against jumps: no gradient in the mean
    sees them. The noise is a function of `key` and of the batch, so that an attack meets other
    noise at every step and the function stays one.

    Args:
      logits_fn: what is attacked.
      key: of the noise.
      sigma: its standard deviation, in the units of the input; 0 gives the plain gradient.
      draws: $R$.

    Returns:
      A logits function for attacks.

    Raises:
      ValueError: no draws, or a negative sigma.

    Cost: `draws` forward and backward passes, in one batch of `draws b` inputs.

    References:
      Smilkov et al. 2017; Athalye, Carlini & Wagner 2018 (EOT).

    >>> import jax, jax.numpy as jnp
    >>> f = averaged_gradient(lambda x: x @ jnp.ones(2), jax.random.key(0), 0.1)
    >>> print(jax.grad(lambda x: f(x)[0])(jnp.ones((1, 2))))
    [[1. 1.]]
    """
    return _noisy(_Averaged(draws), logits_fn, key, sigma, draws, sigma >= 0)


@dataclasses.dataclass(frozen=True)
class _Averaged:
    draws: int

    def __call__(self, logits_fn, data, sigma, x):
        z = x[None] + sigma * _noise(data, x, self.draws)
        around = logits_fn(z.reshape(-1, *x.shape[1:]))
        around = around.reshape(self.draws, len(x), *around.shape[1:])
        return _with(jax.lax.stop_gradient(logits_fn(x)), around.mean(axis=0))


def estimated_gradient(
    logits_fn: LogitsFn, key: Key[Array, ""], sigma: Number, draws: int = 32
) -> Partial:
    r"""The same values, with the gradient of the smoothed function, from values alone.

    $$\nabla\, \mathbb{E}_u f(x + \sigma u) \approx \frac1R \sum_{r=1}^R
      \frac{f(x + \sigma u_r) - f(x - \sigma u_r)}{2 \sigma}\, u_r^\top,
      \qquad u_r \sim \mathcal{N}(0, I).$$

    A jump counts here: within some sigma of it the estimate points across.

    Args:
      logits_fn: what is attacked; it need not have a gradient.
      key: of the noise, see `averaged_gradient`.
      sigma: radius of the smoothing, above 0, in the units of the input.
      draws: $R$. The error of the estimate falls with its root, and grows with that of the
        dimension.

    Returns:
      A logits function for attacks.

    Raises:
      ValueError: no draws, or sigma not above 0.

    Cost: `2 draws` forward passes, in one batch, and no backward pass.

    References:
      Ilyas, Engstrom, Athalye & Lin 2018 (NES, antithetic).

    >>> import jax, jax.numpy as jnp
    >>> step = lambda x: jnp.where(x > 0, 1.0, 0.0)[:, 0]
    >>> f = estimated_gradient(step, jax.random.key(0), 0.5, draws=10_000)
    >>> print(jax.grad(lambda x: f(x)[0])(jnp.zeros((1, 1))).round(1))  # 2 / sqrt(2 pi)
    [[0.8]]
    """
    return _noisy(_Estimated(draws), logits_fn, key, sigma, draws, sigma > 0)


@dataclasses.dataclass(frozen=True)
class _Estimated:
    draws: int

    def __call__(self, logits_fn, data, sigma, x):
        noise = _noise(data, x, self.draws)
        points = jnp.concatenate([x[None] + sigma * noise, x[None] - sigma * noise])
        scores = jax.lax.stop_gradient(logits_fn(points.reshape(-1, *x.shape[1:])))
        scores = scores.reshape(2, self.draws, len(x), -1)
        slopes = (scores[0] - scores[1]) / (2 * sigma)
        # Zero in value; its gradient is each draw's direction.
        moved = (noise * (x - jax.lax.stop_gradient(x))[None]).reshape(self.draws, len(x), -1)
        value = jax.lax.stop_gradient(logits_fn(x))
        change = jnp.einsum("rbk,rb->bk", slopes, moved.sum(axis=2)) / self.draws
        return value + change.reshape(value.shape)


def _noisy(wrapped: Any, logits_fn, key, sigma, draws: int, right: bool) -> Partial:
    if draws < 1 or not right:
        raise ValueError(
            f"draws must be at least 1 and sigma not negative (above 0 for an estimate), got "
            f"{draws} and {sigma}."
        )
    data = jax.random.key_data(key)
    return Partial(wrapped, as_pytree(logits_fn), data, float(sigma))


def _noise(data: Array, x: Array, draws: int) -> Array:
    """Normal numbers `(draws, b, ...)` that key and batch decide."""
    here = jax.lax.stop_gradient(x).astype(jnp.float32).sum()
    place = jax.lax.bitcast_convert_type(here, jnp.uint32)
    key = jax.random.fold_in(jax.random.wrap_key_data(data), place)
    return jax.random.normal(key, (draws, *x.shape), x.dtype)


def transfer(attack: Any, source: LogitsFn) -> "TransferAttack":
    r"""An attack on `source` whose examples are tried on another model.

    Make the attack with `keep="last"`: the first point that fools the source lies just behind the
    source's boundary, not the target's.

    Args:
      attack: any attack, such as `pgd(eps, keep="last")`.
      source: the logits function that is attacked: a parent network, a surrogate.

    Returns:
      `attack(logits_fn, x, y, key) -> AttackResult`, judged on `logits_fn`; a clean error counts,
      and comes back unchanged. `loss` is the margin on `logits_fn`.

    Raises:
      ValueError: when it is called: NaN or infinite scores, and what the attack refuses.

    Cost: that of the attack on the source, and two forward passes.

    References:
      Papernot, McDaniel & Goodfellow 2016.

    >>> import jax, jax.numpy as jnp
    >>> from ntklab.attacks import fgsm
    >>> one = lambda x: x[:, 0] - 0.5
    >>> other = lambda x: 2 * x[:, 0] - 0.9
    >>> result = transfer(fgsm(0.25), one)(other, jnp.array([[0.625]]), jnp.array([1]))
    >>> print(result.x_adv, result.success)
    [[0.375]] [ True]
    """
    return TransferAttack(attack, source, attack.eps, attack.norm)


@dataclasses.dataclass(frozen=True, eq=False)
class TransferAttack:
    """An attack on another model; see `transfer`.

    Attributes:
      attack: how the source is attacked.
      source: a logits function.
      eps: of the attack.
      norm: of the attack.
    """

    attack: Any
    source: Any
    eps: float
    norm: str

    def __call__(self, logits_fn: LogitsFn, x: Any, y: Any, key: Any = None) -> AttackResult:
        """Attack a batch: see `transfer`."""
        x, y = jnp.asarray(x), jnp.asarray(y)
        found = self.attack(self.source, x, y, key)
        kept, loss, success, bad = _judged(as_pytree(logits_fn), x, found.x_adv, y)
        loss = refuse_nonfinite(bad, loss)
        return AttackResult(kept, loss, success, found.gradients_used, found.zero_gradients)


@jax.jit
def _judged(logits_fn, x, x_adv, y):
    clean = logits_fn(x)
    already = ~correct(clean, y)
    kept = jnp.where(per_example(already, x), x, x_adv)
    scores = logits_fn(kept)
    return kept, margin(scores, y), ~correct(scores, y), nonfinite(clean, scores)

r"""Radii for binary machines of two-layer ReLU kernels without biases.

Such a kernel is homogeneous in both arguments,

$$\Theta(x, x') = c\,|x||x'|\,h(u), \qquad u = \cos\angle(x, x'), \qquad
  h(u) = a\,u\,(\pi - \arccos u) + b\sqrt{1 - u^2}.$$

Chen et al. write theirs $|x||x'|\,h(u) / (2\pi d)$ with $a = 2$, $b = 1$: it is
`FullyConnected(depth=1, w_std=1.0)`. `TwoLayerNTK` has $a = 1$, $b = 0$.
"""

import dataclasses
import functools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from ntklab._common import check_batch, check_finite, float64, progress
from ntklab._typing import Array, Float
from ntklab.certificates.result import Certificate
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelMachine

# A bisection of [0, |x|] this long leaves 3e-10 of the length of x.
_HALVINGS = 32
_BLOCK_BYTES = 512 * 2**20
_ARRAYS = 16


def kernel_certificate(
    machine: Any, x: Float[Array, "b ..."], norm: str = "linf", ranges: str = "tight"
) -> Certificate:
    r"""Certified radius of a binary kernel machine round each input.

    Over the l2 ball of radius r the norm of x' lies in $[|x| - r, |x| + r]$ and the cosine with
    each centre in a range $[u_-, u_+]$, so that every kernel entry lies in a range, and

    $$f(x') \ge \sum_{\alpha_j > 0} \alpha_j \Theta_j^- + \sum_{\alpha_j < 0} \alpha_j \Theta_j^+.$$

    The radius is the largest for which this stays above 0 (mirrored where f(x) < 0), found by
    bisection. An l-infinity ball of radius r lies in the l2 ball of radius $\sqrt d\,r$.

    * `ranges="published"`: $u_\pm$ from the ranges of inner product and norm, each taken by
      itself: $u_- = (x \cdot x_j - r|x_j|) / (|x_j| N)$ with N the upper end of the norm, or the
      lower end where the numerator is negative.
    * `ranges="tight"`: the exact range of the angle, $\angle(x, x_j) \pm \arcsin(r / |x|)$. For
      `norm="linf"` also the exact ranges of inner product ($\pm r |x_j|_1$) and norm over the
      cube, whichever is tighter.

    The authors' code divides by a norm of zero where r reaches |x|, lets $u_-$ fall below -1, where
    h is not defined, and stops the search at margins below 1e-3, which costs a little. Here the
    range is clipped to [-1, 1], is all of it where r reaches |x|, and the search goes to the end.

    Args:
      machine: a `KernelMachine` with coefficients `(n,)`, or a logits function of one. It is read
        in float64, to which float32 arrays convert exactly.
      x: clean inputs, `(b, ...)`. The bounds of valid inputs are not used.
      norm: `"linf"` or `"l2"`.
      ranges: `"tight"` or `"published"`.

    Returns:
      Radii and scores. Radii are below the true bound by at most 3e-10 |x|; the bound counts
      float64 rounding as if it were adversarial.

    Cost: `2 b n d` operations and about 32 times `b n` pairs of arc tangents, in blocks: 2,000
    inputs and 12,665 centres take a minute or two on one core, and half a gigabyte.

    Raises:
      TypeError: a machine that is none, or has a kernel of another shape.
      ValueError: NaN, shapes that do not fit, a machine of several classes.

    Source: Chen et al. (2021), section 4.2, and the authors' robust_svm.py.

    >>> import jax.numpy as jnp
    >>> one = KernelMachine(jnp.array([[0.0, 2.0]]), jnp.array([1.0]), TwoLayerNTK())
    >>> found = kernel_certificate(one, jnp.array([[1.0, 1.0]]), norm="l2")
    >>> print(found.radius.round(4))  # the score is positive up to a right angle
    [1.]
    """
    if norm not in ("linf", "l2") or ranges not in ("tight", "published"):
        raise ValueError(
            'norm must be "linf" or "l2" and ranges "tight" or "published", got '
            f"{norm!r} and {ranges!r}."
        )
    check_batch("x", x)
    machine = _machine(machine, x)
    centres = np.asarray(machine.x_train, np.float64).reshape(len(machine.x_train), -1)
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    profile = _profile(machine.kernel, flat.shape[1])
    block = max(1, _BLOCK_BYTES // (8 * _ARRAYS * len(centres)))
    with float64():
        weights = jnp.asarray(np.asarray(machine.coefficients, np.float64))
        task = (jnp.asarray(centres), weights)
        rule = {"profile": profile, "linf": norm == "linf", "tight": ranges == "tight"}
        parts = [
            jax.device_get(_certify(task, jnp.asarray(flat[i : i + block]), **rule))
            for i in progress(range(0, len(flat), block), "certificates")
        ]
    radius, score = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Certificate(radius, score)


class _Profile(NamedTuple):
    """`scale |x| |x'| (a u (pi - arccos u) + b sqrt(1 - u^2))`, least at `u = turn`."""

    a: float
    b: float
    scale: float
    turn: float

    def __call__(self, u: Array) -> Array:
        sine = jnp.sqrt((1 - u) * (1 + u))
        return self.a * u * jnp.arctan2(sine, -u) + self.b * sine

    @property
    def largest(self) -> float:
        """`h(1)`, the largest absolute value of `h`."""
        return self.a * math.pi


def _profile(kernel: Any, d: int) -> _Profile:
    """The profile of a kernel on inputs of `d` entries, or one sentence."""
    if isinstance(kernel, TwoLayerNTK):
        return _Profile(1.0, 0.0, 1 / (2 * math.pi), _turn(1.0, 0.0))
    plain = isinstance(kernel, FullyConnected) and kernel.depth == 1 and kernel.b_std == 0
    if not plain or kernel.activation != "relu":
        raise TypeError(
            "certificates need a two-layer ReLU kernel without biases, TwoLayerNTK() or "
            f"FullyConnected(depth=1, b_std=0.0); got {kernel}."
        )
    a = 2.0 if kernel.kind == "ntk" else 1.0
    return _Profile(a, 1.0, float(kernel.w_std) ** 4 / (2 * math.pi * d), _turn(a, 1.0))


@functools.cache
def _turn(a: float, b: float) -> float:
    """Where `h` is least: h falls from u = -1 to here and rises from here on."""
    if a <= b:
        return -1.0

    def slope(angle):
        return -a * math.sin(angle) * (math.pi - angle) - (a - b) * math.cos(angle)

    return math.cos(scipy.optimize.brentq(slope, math.pi / 2, math.pi - 1e-3, xtol=1e-14))


def _machine(given: Any, x: Array) -> KernelMachine:
    """The binary machine in `given`, checked against `x`."""
    if isinstance(given, jax.tree_util.Partial) and len(given.args) == 1:
        given = given.args[0]
    if not isinstance(given, KernelMachine):
        raise TypeError(
            f"machine must be a KernelMachine or its logits function, got {type(given).__name__}."
        )
    if np.shape(given.coefficients) != (len(given.x_train),):
        raise ValueError(
            f"certificates are for binary machines, coefficients ({len(given.x_train)},); got "
            f"{np.shape(given.coefficients)}: fit to +1 and -1, or take the difference of two "
            "columns."
        )
    if np.shape(given.x_train)[1:] != x.shape[1:]:
        raise ValueError(f"x has inputs {x.shape[1:]}, the machine {given.x_train.shape[1:]}.")
    check_finite("the machine's coefficients", given.coefficients)
    return dataclasses.replace(given)


class _Geometry(NamedTuple):
    """What does not change along the search: `(b, d)`, `(b, 1)`, twice `(b, n)`, twice `(1, n)`."""

    x: Array
    length: Array
    dot: Array
    cosine: Array
    centre_length: Array
    centre_l1: Array


@partial(jax.jit, static_argnames=("profile", "linf", "tight"))
def _certify(task, x, *, profile: _Profile, linf: bool, tight: bool):
    """Radii and scores of a block by bisection: the lower end is always certified."""
    centres, weights = task
    length, centre_length = (jnp.sqrt((a * a).sum(axis=1)) for a in (x, centres))
    dot = jnp.matmul(x, centres.T, precision=jax.lax.Precision.HIGHEST)
    both = length[:, None] * centre_length[None, :]
    cosine = jnp.clip(dot / jnp.where(both > 0, both, 1.0), -1.0, 1.0)
    l1 = jnp.abs(centres).sum(axis=1)
    at = _Geometry(x, length[:, None], dot, cosine, centre_length[None, :], l1[None, :])
    score = profile.scale * jnp.matmul(both * profile(cosine), weights)
    up, down = jnp.maximum(weights, 0.0), jnp.maximum(-weights, 0.0)
    mass = profile.scale * profile.largest * jnp.abs(weights * centre_length).sum()
    roundoff = (len(centres) + 16) * float(jnp.finfo(x.dtype).eps)

    def margin(radius):
        low, high, longest = _entries(profile, at, radius, linf, tight)
        below = profile.scale * (jnp.matmul(low, up) - jnp.matmul(high, down))
        above = profile.scale * (jnp.matmul(high, up) - jnp.matmul(low, down))
        return jnp.where(score > 0, below, -above) - roundoff * mass * longest

    # f(0) = 0, so that no radius is larger than the distance to 0.
    most = jnp.abs(x).max(axis=1) if linf and tight else length
    most = most / math.sqrt(x.shape[1]) if linf and not tight else most
    return _last_positive(margin, most, jnp.abs(score)), score


def _last_positive(margin, end, at_zero):
    """Where a falling margin changes sign in [0, end]: a point at which it is positive, or 0.

    At most `end / 2**_HALVINGS` below the sign change. Source: Oliveira and Takahashi (2020), "An
    enhancement of the bisection method average performance preserving minmax optimality" (ITP):
    never more than one evaluation slower than bisection, and usually three times as fast.
    """
    tolerance = end * 2.0**-_HALVINGS

    def narrow(state):
        low, high, at_low, at_high, step = state
        width, middle = high - low, (low + high) / 2
        drop = jnp.where(at_low > at_high, at_low - at_high, 1.0)
        secant = (high * at_low - low * at_high) / drop
        towards = jnp.sign(middle - secant)
        # The constant takes the far end along when the secant is there already, to rounding.
        nudge = 0.2 * width * width / jnp.where(end > 0, end, 1.0) + tolerance / 4
        guess = jnp.where(nudge <= jnp.abs(middle - secant), secant + towards * nudge, middle)
        reach = jnp.maximum(tolerance * 2.0 ** (_HALVINGS - step) - width / 2, 0.0)
        guess = jnp.where(jnp.abs(guess - middle) <= reach, guess, middle - towards * reach)
        guess = jnp.clip(guess, low, high)
        here = margin(guess)
        good = here > 0
        low, high = jnp.where(good, guess, low), jnp.where(good, high, guess)
        at_low, at_high = jnp.where(good, here, at_low), jnp.where(good, at_high, here)
        return low, high, at_low, at_high, step + 1.0

    def wide(state):
        return jnp.any(state[1] - state[0] > tolerance) & (state[-1] <= _HALVINGS)

    # The value at the end is not known; one of this size lets the search begin in the middle.
    start = (jnp.zeros_like(end), end, at_zero, -at_zero, jnp.zeros((), end.dtype))
    return jax.lax.while_loop(wide, narrow, start)[0]


def _entries(profile: _Profile, at: _Geometry, radius: Array, linf: bool, tight: bool):
    """Ranges of `|x'| |x_j| h(u)` over the balls, `(b, n)` each, and the largest `|x'|`."""
    l2 = radius * math.sqrt(at.x.shape[1]) if linf else radius
    shortest, longest = jnp.maximum(at.length - l2[:, None], 0.0), at.length + l2[:, None]
    if not tight:
        reach = l2[:, None] * at.centre_length
        u_low, u_high = _by_product(at, reach, shortest, longest)
    else:
        u_low, u_high = _by_angle(at, l2[:, None])
        if linf:
            size, r = jnp.abs(at.x), radius[:, None]
            inner, outer = jnp.maximum(size - r, 0.0), size + r
            shortest, longest = (
                jnp.sqrt((a * a).sum(axis=1, keepdims=True)) for a in (inner, outer)
            )
            reach = r * at.centre_l1
            low, high = _by_product(at, reach, shortest, longest)
            u_low, u_high = jnp.maximum(u_low, low), jnp.minimum(u_high, high)
    slack = 8 * float(jnp.finfo(u_low.dtype).eps)
    u_low, u_high = jnp.clip(u_low - slack, -1.0, 1.0), jnp.clip(u_high + slack, -1.0, 1.0)
    ends = profile(u_low), profile(u_high)
    inside = (u_low < profile.turn) & (profile.turn < u_high)
    least = profile(jnp.full((), profile.turn, u_low.dtype))
    low = jnp.where(inside, least, jnp.minimum(*ends))
    high = jnp.maximum(*ends)
    low = low * jnp.where(low >= 0, shortest, longest)
    high = high * jnp.where(high >= 0, longest, shortest)
    return low * at.centre_length, high * at.centre_length, longest[:, 0]


def _by_product(at: _Geometry, reach: Array, shortest: Array, longest: Array):
    """The range of the cosine from those of inner product and norm, before clipping."""
    low, high = at.dot - reach, at.dot + reach

    def ratio(a, norm, at_zero):
        divisor = at.centre_length * norm
        return jnp.where(divisor > 0, a / jnp.where(divisor > 0, divisor, 1.0), at_zero)

    u_low = ratio(low, jnp.where(low >= 0, longest, shortest), -1.0)
    return u_low, ratio(high, jnp.where(high >= 0, shortest, longest), 1.0)


def _by_angle(at: _Geometry, l2: Array):
    """The exact range of the cosine over an l2 ball: `cos(angle +- arcsin(l2 / |x|))`."""
    sine = jnp.minimum(l2 / jnp.where(at.length > 0, at.length, 1.0), 1.0)
    cosine = jnp.sqrt((1 - sine) * (1 + sine))
    slack = 8 * float(jnp.finfo(sine.dtype).eps)
    size = jnp.maximum(jnp.abs(at.cosine) - slack, 0.0)
    across = jnp.sqrt((1 - size) * (1 + size)) * sine  # |sin|, rounded up, at the centre's angle
    u_low = jnp.where(at.cosine <= -cosine, -1.0, at.cosine * cosine - across)
    u_high = jnp.where(at.cosine >= cosine, 1.0, at.cosine * cosine + across)
    return u_low, u_high

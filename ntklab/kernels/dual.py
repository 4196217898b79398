r"""Dual activations: what a layer of Gaussian pre-activations does to their covariance.

A pair of pre-activations $(a, b)$ is Gaussian with mean zero and covariance
$k_{11}, k_{12}, k_{22}$. The dual of an activation $\phi$ and of its derivative are

$$\hat\phi = \mathbb{E}\,\phi(a)\phi(b), \qquad \hat\phi' = \mathbb{E}\,\phi'(a)\phi'(b).$$

Everything is a function of the cosine $u = k_{12} / \sqrt{k_{11} k_{22}}$ for ReLU. Three points
need a convention, and all derivatives are finite there:

* $u = \pm 1$ (coincident or opposite inputs): $\hat\phi'$ has a cusp, $\kappa_0'(u) = \infty$. The
  derivative is the symmetric one: half the sum of the two one-sided derivatives, in which the
  cusp cancels. In practice $\kappa_0'(\pm 1) := 0$.
* $k_{11} = 0$ (a zero input): $u := 0$, the value halfway between a direction and its opposite.

Accuracy. $\kappa_1$ is as accurate as its argument. $\kappa_0$ is not: its slope is
$1 / (\pi \sin\theta)$ at the angle $\theta = \arccos u$, so an error $\delta$ of $u$ becomes
$\delta / (\pi\theta)$. With float32 data $\delta$ is about 4e-7: the error is 1e-6 at 0.1 rad and
1e-4 at 1e-3 rad. Cosines within `4 eps` of 1 or -1 (1e-3 rad in float32, 4e-8 rad in float64)
cannot be told from 1 or -1 and are set to it.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float

#: arccos(u) / (pi sqrt(1 - u)) for 0 <= u <= 1 to 1e-8: Abramowitz and Stegun, 4.4.46.
_ARCCOS = [
    c / math.pi
    for c in (
        *(-0.0012624911, 0.0066700901, -0.0170881256, 0.0308918810),
        *(-0.0501743046, 0.0889789874, -0.2145988016, 1.5707963050),
    )
]


def _snap(u: Array) -> Array:
    """`u` in [-1, 1], and exactly at an end when it is there to rounding."""
    near = 1 - 4 * float(jnp.finfo(u.dtype).eps)
    return jnp.where(u >= near, 1.0, jnp.where(u <= -near, -1.0, u))


def _sine(u: Array) -> Array:
    """sqrt(1 - u^2) without cancellation; its derivative at the ends is 0, not infinite."""
    square = (1 - u) * (1 + u)
    inside = square > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)


@jax.custom_jvp
def kappa0(u: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Arc-cosine function of order 0, $\kappa_0(u) = (\pi - \arccos u) / \pi$.

    It is twice the chance that two unit Gaussians of correlation $u$ are both positive.

    Args:
      u: cosines in [-1, 1], any shape; values outside are clipped.

    Returns:
      Values in [0, 1], same shape. The derivative is $1 / (\pi \sqrt{1 - u^2})$, and 0 at
      $u = \pm 1$ (the symmetric derivative, see the module).

    Cost: in float32 two square roots and twenty multiplications an entry; in float64 an arc
    tangent, ten times as much.

    Source: Cho and Saul (2009), "Kernel methods for deep learning", section 2.1, n = 0.

    >>> import jax.numpy as jnp
    >>> print(kappa0(jnp.array([-1.0, 0.0, 1.0])))
    [0.  0.5 1. ]
    """
    u = _snap(u)
    if u.dtype != jnp.float32:
        return jnp.arctan2(_sine(u), -u) / math.pi  # pi - arccos(u), accurate near u = -1 too
    # As accurate as the arc tangent, and twenty times as fast on a CPU.
    size = jnp.abs(u)
    share = jnp.sqrt(1 - size) * reduce(lambda value, c: value * size + c, _ARCCOS)
    return jnp.where(u >= 0, 1 - share, share)


@kappa0.defjvp
def _kappa0_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    sine = _sine(_snap(u))
    slope = jnp.where(sine > 0, 1 / (math.pi * jnp.where(sine > 0, sine, 1.0)), 0.0)
    return kappa0(u), slope * du


@jax.custom_jvp
def kappa1(u: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Arc-cosine function of order 1, $\kappa_1(u) = (\sqrt{1-u^2} + u(\pi - \arccos u)) / \pi$.

    It is $2\,\mathbb{E}\max(a, 0)\max(b, 0)$ for unit Gaussians of correlation $u$.

    Args:
      u: cosines in [-1, 1], any shape; values outside are clipped.

    Returns:
      Values in [0, 1], same shape. The derivative is $\kappa_0(u)$.

    Cost: one square root and one `kappa0` an entry.

    Source: Cho and Saul (2009), "Kernel methods for deep learning", section 2.1, n = 1.

    >>> import jax.numpy as jnp
    >>> print([f"{float(v):.4f}" for v in kappa1(jnp.array([-1.0, 0.0, 1.0]))])
    ['0.0000', '0.3183', '1.0000']
    """
    u = _snap(u)
    return _sine(u) / math.pi + u * kappa0(u)


@kappa1.defjvp
def _kappa1_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    return kappa1(u), kappa0(u) * du


def _root(k: Array) -> Array:
    """sqrt(k), and 0 with derivative 0 where k = 0."""
    return jnp.where(k > 0, jnp.sqrt(jnp.where(k > 0, k, 1.0)), 0.0)


def _ratio(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where b = 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


@jax.custom_jvp
def relu_duals(
    k12: Float[Array, "..."], k11: Float[Array, "..."], k22: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Duals of ReLU and of its derivative.

    $$\hat\phi = \tfrac{r}{2}\,\kappa_1(u), \qquad \hat\phi' = \tfrac12\,\kappa_0(u), \qquad
      r = \sqrt{k_{11} k_{22}}, \quad u = k_{12} / r.$$

    Derivatives, with $s = \sqrt{1 - u^2}$ and the terms in $1/s$ dropped where $s = 0$:
    $\partial\hat\phi/\partial k_{12} = \kappa_0/2$,
    $\partial\hat\phi/\partial k_{11} = \tfrac{s}{4\pi}\sqrt{k_{22}/k_{11}}$,
    $\partial\hat\phi'/\partial k_{12} = \tfrac{1}{2\pi s r}$,
    $\partial\hat\phi'/\partial k_{11} = -\tfrac{u}{4\pi s k_{11}}$.

    Args:
      k12: covariances of the pairs.
      k11: variances of the first of each pair, broadcastable to `k12`, at least 0.
      k22: variances of the second of each pair, broadcastable to `k12`, at least 0.

    Returns:
      The pair (dual of ReLU, dual of its derivative), broadcast shape.

    Cost: one square root and one `kappa0` an entry; a few temporaries of that shape.

    Source: Cho and Saul (2009), section 2.1; Jacot et al. (2018), section 4.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(())
    >>> print(*relu_duals(one, one, one), *relu_duals(-one, one, one))
    0.5 0.5 0.0 0.0
    """
    r, u = _norm_and_cosine(k12, k11, k22)
    half = kappa0(u) / 2
    return r * (_sine(u) / (2 * math.pi) + u * half), half


def _norm_and_cosine(k12: Array, k11: Array, k22: Array) -> tuple[Array, Array]:
    r = _root(k11) * _root(k22)
    return r, _snap(_ratio(k12, r))


@relu_duals.defjvp
def _relu_duals_jvp(primals, tangents):
    k12, k11, k22 = primals
    t12, t11, t22 = tangents
    r, u = _norm_and_cosine(k12, k11, k22)
    dual, step = relu_duals(k12, k11, k22)
    sine = _sine(u)
    twice_dr = _root(_ratio(k22, k11)) * t11 + _root(_ratio(k11, k22)) * t22
    slope = _ratio(jnp.ones_like(r), 2 * math.pi * sine * r)
    d_dual = step * t12 + sine / (4 * math.pi) * twice_dr
    d_step = slope * (t12 - u / 2 * twice_dr)
    return (dual, step), (d_dual, d_step)


def relu_variances(k: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`relu_duals(k, k, k)` without rounding: `(k / 2, 1 / 2)`."""
    return k / 2, jnp.full_like(k, 0.5)


def erf_duals(
    k12: Float[Array, "..."], k11: Float[Array, "..."], k22: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Duals of the error function and of its derivative; smooth everywhere.

    $$\hat\phi = \tfrac2\pi \arcsin\frac{2 k_{12}}{\sqrt D}, \qquad
      \hat\phi' = \tfrac4\pi \frac{1}{\sqrt{D - 4 k_{12}^2}}, \qquad
      D = (1 + 2 k_{11})(1 + 2 k_{22}).$$

    Args:
      k12: covariances of the pairs.
      k11: variances of the first of each pair, broadcastable to `k12`, at least 0.
      k22: variances of the second of each pair, broadcastable to `k12`, at least 0.

    Returns:
      The pair (dual of erf, dual of its derivative), broadcast shape.

    Cost: two square roots and one arc tangent an entry.

    Source: Williams (1997), "Computing with infinite networks", section 3.1.

    >>> import jax.numpy as jnp
    >>> print(erf_duals(jnp.zeros(()), jnp.ones(()), jnp.ones(()))[0])
    0.0
    """
    # D - 4 k12^2, with the determinant held at 0 or above as Cauchy and Schwarz demand.
    determinant = jnp.maximum(k11 * k22 - k12 * k12, 0.0)
    rest = jnp.sqrt(1 + 2 * k11 + 2 * k22 + 4 * determinant)
    return 2 / math.pi * jnp.arctan2(2 * k12, rest), 4 / math.pi / rest


def erf_variances(k: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`erf_duals(k, k, k)`, with `D - 4 k^2 = 1 + 4 k` taken without cancellation."""
    rest = jnp.sqrt(1 + 4 * k)
    return 2 / math.pi * jnp.arctan2(2 * k, rest), 4 / math.pi / rest


def leaky_relu_duals(
    k12: Float[Array, "..."],
    k11: Float[Array, "..."],
    k22: Float[Array, "..."],
    slope: float | int = 0.01,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Duals of leaky ReLU, $\phi(a) = \max(a, 0) + s \min(a, 0)$, and of its derivative.

    With the duals $\hat\rho, \hat\rho'$ of ReLU, because
    $\phi(a) = (1 - s)\max(a, 0) + s\,a$,

    $$\hat\phi = (1 - s)^2\,\hat\rho + s\,k_{12}, \qquad
      \hat\phi' = (1 - s)^2\,\hat\rho' + s.$$

    Args:
      k12: covariances of the pairs.
      k11: variances of the first of each pair, broadcastable to `k12`, at least 0.
      k22: variances of the second of each pair, broadcastable to `k12`, at least 0.
      slope: $s$; 0 is ReLU, 1 a linear layer, -1 the absolute value.

    Returns:
      The pair (dual of leaky ReLU, dual of its derivative), broadcast shape.

    Cost: that of `relu_duals`.

    Source: Tsuchida et al. (2018), "Invariance of weight distributions in rectified MLPs",
    section 3.2.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(())
    >>> print(*leaky_relu_duals(one, one, one, -1.0))
    1.0 1.0
    """
    dual, step = relu_duals(k12, k11, k22)
    bend = (1 - slope) ** 2
    return bend * dual + slope * k12, bend * step + slope


def leaky_relu_variances(
    k: Float[Array, "..."], slope: float | int = 0.01
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`leaky_relu_duals(k, k, k, slope)` without rounding: `(c k, c)`, `c = (1 + slope^2) / 2`."""
    half = (1 + slope**2) / 2
    return half * k, jnp.full_like(k, half)


#: activation -> (duals, duals of equal inputs); those of leaky ReLU take a slope besides.
DUALS = {
    "relu": (relu_duals, relu_variances),
    "erf": (erf_duals, erf_variances),
    "leaky_relu": (leaky_relu_duals, leaky_relu_variances),
}
LEAKY_SLOPE = 0.01


def check_activation(activation: str, slope: float | int) -> None:
    """Raise one sentence for an unknown activation, or a slope that would have no effect."""
    if activation not in DUALS:
        raise ValueError(f"activation must be one of {sorted(DUALS)}, got {activation!r}.")
    if not math.isfinite(slope):
        raise ValueError(f"slope must be a finite number, got {slope}.")
    if activation != "leaky_relu" and slope != LEAKY_SLOPE:
        raise ValueError(f'slope is that of "leaky_relu", but activation is {activation!r}.')


def duals_of(activation: str, slope: float | int) -> tuple[Callable, Callable]:
    """The functions `(k12, k11, k22) -> duals` and `k -> duals of equal inputs`."""
    duals, variances = DUALS[activation]
    if activation != "leaky_relu":
        return duals, variances
    return partial(duals, slope=slope), partial(variances, slope=slope)

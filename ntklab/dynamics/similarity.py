"""How far apart two kernels are, and how fast one moves."""

from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float
from ntklab.dynamics.matrices import centre, check_centred, check_pair, traced

NAMES = ("kernel", "other")


def unit(kernel: Array) -> Array:
    """The kernel over its Frobenius norm, without overflow."""
    kernel = kernel / jax.lax.stop_gradient(jnp.abs(kernel).max())
    return kernel / jnp.sqrt(jnp.sum(kernel * kernel))


def _directions(kernel: Array, other: Array, centred: bool) -> tuple[Array, Array]:
    check_pair(kernel, other, NAMES)
    if centred:
        originals = (kernel, other)
        kernel, other = centre(kernel), centre(other)
        for name, original, left in zip(NAMES, originals, (kernel, other), strict=True):
            check_centred(name, original, left)
    return unit(kernel), unit(other)


def similarity(
    kernel: Float[Array, "n ..."], other: Float[Array, "m ..."], *, centred: bool = False
) -> Float[Array, ""]:
    r"""The cosine between two kernels; centred, it is CKA.

    $$S(K, K') = \frac{\langle K, K' \rangle_F}{|K|_F\,|K'|_F}, \qquad
      \mathrm{CKA}(K, K') = S(HKH, HK'H).$$

    Between 0 and 1 for kernels of one set of images with itself, -1 and 1 otherwise. Without
    centring, the mean that all features share dominates it: report CKA first.

    Args:
      kernel: `(n, m)`, `(n, m, k)` or `(n, m, k, k)`.
      other: of the same shape, on the same images.
      centred: remove the features' mean over the examples, see `centre`.

    Returns:
      One number.

    Cost: three passes over both kernels; two copies of them.

    Raises:
      TypeError: kernels that are not floating point, or of two dtypes.
      ValueError: shapes that differ, NaN, a kernel that is zero (after centring).

    Source: Tsilivis and Kempe (2022), section 5; Fort et al. (2020), eq. 4; centred: Cortes et al.
    (2012), Kornblith et al. (2019).

    >>> import jax.numpy as jnp
    >>> print(round(float(similarity(jnp.eye(2), jnp.ones((2, 2)))), 4))
    0.7071
    """
    u, v = _directions(kernel, other, centred)
    return jnp.sum(u * v)


def distance(
    kernel: Float[Array, "n ..."], other: Float[Array, "m ..."], *, centred: bool = False
) -> Float[Array, ""]:
    r"""Kernel distance: one minus the cosine.

    $$1 - S(K, K') = \tfrac12\,\Big|\frac{K}{|K|} - \frac{K'}{|K'|}\Big|_F^2.$$

    The right-hand side is computed, which keeps small distances exact where `1 - similarity` loses
    them to rounding. For a small angle it is half of its square.

    Args, cost and errors: those of `similarity`.

    Source: Fort et al. (2020), section 4; Tsilivis and Kempe (2022), section 5.

    >>> import jax.numpy as jnp
    >>> print(distance(3 * jnp.eye(2), jnp.eye(2)))
    0.0
    """
    u, v = _directions(kernel, other, centred)
    return jnp.sum((u - v) ** 2) / 2


def rotation(
    kernel: Float[Array, "n ..."], other: Float[Array, "m ..."], *, centred: bool = False
) -> Float[Array, ""]:
    r"""The angle between two kernels, $\arccos S(K, K')$, in radians from 0 to $\pi$.

    Computed as $2 \arctan(|u - v| / |u + v|)$ of the unit kernels, exact for small angles, where
    the arc cosine is not. Its gradient at angle 0 does not exist and is given as 0.

    Args, cost and errors: those of `similarity`.

    Source: Tsilivis and Kempe (2022), section 5 and their measurements.py (the angle of polar
    plots).

    >>> import jax.numpy as jnp
    >>> kernel, other = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])
    >>> print(round(float(rotation(kernel, other)), 4))
    0.7854
    """
    u, v = _directions(kernel, other, centred)
    return 2 * jnp.arctan2(_norm(u - v), _norm(u + v))


def _norm(kernel: Array) -> Array:
    """Frobenius norm, with gradient 0 where it is 0."""
    square = jnp.sum(kernel * kernel)
    return jnp.where(square == 0, 0.0, jnp.sqrt(jnp.where(square == 0, 1.0, square)))


def velocity(
    before: Float[Array, "n ..."],
    after: Float[Array, "m ..."],
    elapsed: float | Float[Array, ""],
    *,
    centred: bool = False,
) -> Float[Array, ""]:
    r"""Kernel velocity: the distance moved over what has elapsed.

    $$v = \frac{1 - S(K_t, K_{t + \Delta})}{\mathrm{elapsed}}.$$

    What elapses is the reader's clock, and the conclusion can depend on it:

    | clock | `elapsed` | shows |
    |---|---|---|
    | epochs | $\Delta$ | what the papers plot; it follows the learning rate |
    | learning rate | $\sum \eta$ over the epochs | whether that was all |
    | parameters | `relative_change(before, after)` | kernel movement a unit of weight movement |

    A distance is quadratic in a small rotation, so that $v$ shrinks with $\Delta$: compare at one
    $\Delta$ only (Fort et al. have 0.4 epochs). `rotation(before, after) / elapsed` has a limit.

    Args:
      before: kernel at the start of the interval, any shape.
      after: kernel at its end, on the same images.
      elapsed: what the clock shows in between, above 0.
      centred: as for `similarity`.

    Returns:
      One number, in units of 1 over the clock's.

    Raises:
      ValueError: `elapsed` not above 0; what `similarity` refuses.

    Source: Fort et al. (2020), section 4; kernel evolution rate of Li et al. (2023).

    >>> import jax.numpy as jnp
    >>> print(round(float(velocity(jnp.eye(2), jnp.ones((2, 2)), 0.4)), 4))
    0.7322
    """
    forward = elapsed > 0
    if not traced(forward) and not forward:
        raise ValueError(f"elapsed must be above 0, got {elapsed}.")
    return distance(before, after, centred=centred) / elapsed


def relative_change(before: Any, after: Any) -> Float[Array, ""]:
    r"""How far parameters moved, over their size: $|\theta' - \theta| / |\theta|$, Euclidean.

    Args:
      before: parameters, any pytree of arrays.
      after: the same tree later.

    Raises:
      ValueError: trees that differ; NaN; parameters that are zero everywhere.

    Source: Chizat et al. (2019), section 1 (lazy training has a small change).

    >>> import jax.numpy as jnp
    >>> print(relative_change({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 5.0])}))
    0.2
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError("before and after must be the same tree of parameters, shape by shape.")
    moved = jax.tree.map(lambda a, b: jnp.sum((b - a) ** 2), before, after)
    size = jax.tree.map(lambda a: jnp.sum(a**2), before)
    change = _norm_of_squares(moved) / _norm_of_squares(size)
    if not traced(change) and not jnp.isfinite(change):
        raise ValueError("the parameters are NaN, infinite, or zero everywhere at the start.")
    return change


def _norm_of_squares(tree: Any) -> Array:
    return jnp.sqrt(jnp.stack(jax.tree.leaves(tree)).sum())

"""What the eigenvalues and eigenvectors of a kernel do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float
from ntklab.dynamics.matrices import (
    check_count,
    check_pair,
    eigenvalues,
    symmetric_matrix,
    traced,
)
from ntklab.dynamics.similarity import rotation


class Polar(NamedTuple):
    """Where a kernel is, seen from the start of training."""

    radius: Float[Array, ""]
    angle: Float[Array, ""]


def truncate(
    kernel: Float[Array, "n ..."], *, top: int | None = None, bottom: int | None = None
) -> Float[Array, "N N"]:
    r"""The part of a kernel in its own leading or trailing eigenspace.

    $$K_{\mathrm{top}\,r} = \sum_{i \le r} \lambda_i v_i v_i^\top, \qquad \lambda_1 \ge \lambda_2
      \ge \dots$$

    Args:
      kernel: symmetric, `(n, n)`, `(n, n, k)` or `(n, n, k, k)`.
      top: keep this many largest eigenvalues.
      bottom: or this many smallest ones. With neither, the kernel is kept whole.

    Returns:
      `as_matrix` of the kernel, truncated, `(N, N)` with `N = n` or `n k`.

    Cost: one eigendecomposition, about `9 N^3` operations, three matrices of memory. The gradient
    exists where all eigenvalues differ.

    Accuracy: eigenvalues are known to some 1e-6 of the largest in float32. A bottom part smaller
    than that is rounding: compute it in float64.

    Raises:
      ValueError: both or out of range; a kernel with NaN, not square or not symmetric.

    Source: Tsilivis and Kempe (2022), measurements.py (top 20, bottom 2480 of 2500).

    >>> import jax.numpy as jnp
    >>> print(truncate(jnp.diag(jnp.array([1.0, 3.0, 2.0])), top=2))
    [[0. 0. 0.]
     [0. 3. 0.]
     [0. 0. 2.]]
    """
    matrix = symmetric_matrix("kernel", kernel)
    if top is None and bottom is None:
        return matrix
    if top is not None and bottom is not None:
        raise ValueError("truncate keeps the top or the bottom of the spectrum, not both.")
    values, vectors = jnp.linalg.eigh(matrix)
    if top is not None:
        check_count("top", top, len(matrix))
        values, vectors = values[-top:], vectors[:, -top:]
    else:
        check_count("bottom", bottom, len(matrix))
        values, vectors = values[:bottom], vectors[:, :bottom]
    return (vectors * values[None, :]) @ vectors.T


def polar(
    kernel: Float[Array, "n ..."],
    start: Float[Array, "m ..."],
    end: Float[Array, "l ..."] | None = None,
    *,
    top: int | None = None,
    bottom: int | None = None,
) -> Polar:
    r"""Polar coordinates of a kernel seen from the start of training.

    $$r_t = \frac{|K_t - K_0|_F}{|K_T - K_0|_F}, \qquad \varphi_t = \arccos S(K_t, K_0).$$

    With `top` or `bottom`, each of the kernels is first truncated to **its own** leading or
    trailing eigenspace, as the authors do: the angle then also holds the turn of that space.

    Args:
      kernel: $K_t$, symmetric, any of the three shapes.
      start: $K_0$, on the same images.
      end: $K_T$, which has radius 1; without it the radius is $|K_t - K_0|_F$ itself.
      top: see `truncate`.
      bottom: see `truncate`.

    Returns:
      `Polar(radius, angle)`, the angle in radians.

    Cost: passes over the kernels; with `top` or `bottom` one eigendecomposition for each. Along a
    trace, truncate start and end once and pass only the kernels truncated.

    Raises:
      ValueError: what `similarity` and `truncate` refuse.

    Source: Tsilivis and Kempe (2022), section 5, and their measurements.py. (That code compares
    kernels of different images; here all are of the same.)

    >>> import jax.numpy as jnp
    >>> print(polar(3 * jnp.eye(2), jnp.eye(2), 2 * jnp.eye(2)))
    Polar(radius=Array(2., dtype=float32), angle=Array(0., dtype=float32))
    """
    check_pair(kernel, start, ("kernel", "start"))
    now, origin = (truncate(k, top=top, bottom=bottom) for k in (kernel, start))
    radius = jnp.linalg.norm(now - origin)
    if end is not None:
        check_pair(start, end, ("start", "end"))
        travelled = jnp.linalg.norm(truncate(end, top=top, bottom=bottom) - origin)
        if not traced(travelled) and travelled == 0:
            raise ValueError("start and end are the same kernel, so that no radius is defined.")
        radius = radius / travelled
    return Polar(radius, rotation(now, origin))


def norm_concentration(kernel: Float[Array, "n ..."], top: int) -> Float[Array, ""]:
    r"""The share of the squared Frobenius norm in the leading eigenspace ("top mass").

    $$\frac{\sum_{i \le r} \lambda_i^2}{\sum_i \lambda_i^2}, \qquad \lambda_1 \ge \lambda_2 \ge
      \dots$$

    Args:
      kernel: symmetric, any of the three shapes.
      top: $r$; the paper has 10 and 20 of 2,500.

    Returns:
      One number, at most 1.

    Cost: the eigenvalues, about `4/3 N^3` operations for `N = n` or `n k`; `4/3 n^3 k` for a
    stack.

    Raises:
      ValueError: `top` out of range; a kernel with NaN, zero, not square or not symmetric.

    Source: Tsilivis and Kempe (2022), section 5 and Fig. 7; their measurements.py.

    >>> import jax.numpy as jnp
    >>> print(norm_concentration(jnp.diag(jnp.array([1.0, 2.0, 2.0])), top=1))
    0.44444445
    """
    values = eigenvalues("kernel", kernel)
    check_count("top", top, len(values))
    squares = (values / jax.lax.stop_gradient(jnp.abs(values).max())) ** 2
    return squares[-top:].sum() / squares.sum()


def effective_rank(kernel: Float[Array, "n ..."]) -> Float[Array, ""]:
    r"""The exponential of the spectrum's entropy.

    $$\exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \lambda_i \Big/ \sum_j \lambda_j.$$

    1 for rank one, N for the identity. Eigenvalues below zero by rounding count as zero.

    Args:
      kernel: symmetric and positive semidefinite, any of the three shapes.

    Cost: as for `norm_concentration`. The gradient exists for positive definite kernels.

    Raises:
      ValueError: a kernel with NaN, zero, not square, not symmetric or not positive semidefinite.

    Source: Roy and Vetterli (2007), definition 1.

    >>> import jax.numpy as jnp
    >>> print(effective_rank(jnp.eye(3)))
    3.0
    """
    values = eigenvalues("kernel", kernel)
    if not traced(values):
        slack = 10 * len(values) * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
        if values[0] < -slack:
            raise ValueError(
                f"the kernel is not positive semidefinite: its smallest eigenvalue is "
                f"{float(values[0]):.3g}, its largest {float(values[-1]):.3g}."
            )
    values = jnp.maximum(values, 0)
    return jnp.exp(jax.scipy.special.entr(values / values.sum()).sum())


def principal_angles(
    kernel: Float[Array, "n ..."], other: Float[Array, "m ..."], top: int
) -> Float[Array, " r"]:
    r"""The angles between the leading eigenspaces of two kernels, in radians, ascending.

    With orthonormal eigenvectors $V, V'$ of the $r$ largest eigenvalues, $\cos \theta_i$ are the
    singular values of $V^\top V'$ and $\sin \theta_i$ those of $(I - V V^\top) V'$; both are used,
    so that small angles are exact.

    Args:
      kernel: symmetric, any of the three shapes.
      other: of the same shape, on the same images.
      top: $r$, dimensions of the eigenspaces. Where eigenvalue $r$ equals the next one, no leading
        eigenspace exists: a kernel $K \otimes I_k$ needs a multiple of $k$.

    Returns:
      `(r,)`, from 0 to $\pi / 2$.

    Cost: two eigendecompositions, and `4 N r^2` operations.

    Raises:
      ValueError: `top` out of range, no gap after it, what `truncate` and `similarity` refuse.

    Source: Bjorck and Golub (1973); eigenspaces as feature maps: Loo et al. (2022), claim 1.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.diag(jnp.array([3.0, 2.0, 1.0])), jnp.diag(jnp.array([3.0, 1.0, 2.0]))
    >>> print(principal_angles(a, b, top=2))
    [0.        1.5707964]
    """
    check_pair(kernel, other, ("kernel", "other"))
    v, w = _leading("kernel", kernel, top), _leading("other", other, top)
    overlap = v.T @ w
    cosines = jnp.linalg.svd(overlap, compute_uv=False)
    sines = jnp.linalg.svd(w - v @ overlap, compute_uv=False)[::-1]
    return jnp.arctan2(sines, cosines)


def _leading(name: str, kernel: Array, top: int) -> Array:
    """Eigenvectors of the `top` largest eigenvalues, after which there must be a gap."""
    matrix = symmetric_matrix(name, kernel)
    check_count("top", top, len(matrix))
    values, vectors = jnp.linalg.eigh(matrix)
    if top < len(matrix):
        gap = values[-top] - values[-top - 1]
        if not traced(gap) and gap <= 10 * jnp.finfo(matrix.dtype).eps * jnp.abs(values).max():
            raise ValueError(
                f"eigenvalues {top} and {top + 1} of {name} agree to rounding, so that its leading "
                f"eigenspace of {top} dimensions does not exist: choose another top."
            )
    return vectors[:, -top:]


def eigenspace_distance(
    kernel: Float[Array, "n ..."],
    other: Float[Array, "m ..."],
    top: int,
    *,
    kind: str = "chordal",
) -> Float[Array, ""]:
    r"""The distance between the leading eigenspaces of two kernels, from 0 to 1.

    | `kind` | formula | |
    |---|---|---|
    | `"chordal"` | $\sqrt{\sum_i \sin^2 \theta_i / r} = \Vert P - P' \Vert_F / \sqrt{2r}$ | mean |
    | `"projection"` | $\max_i \sin \theta_i = \Vert P - P' \Vert_2$ | worst |

    $P, P'$ are the projections on the eigenspaces and $\theta_i$ the angles of
    `principal_angles`. Two random spaces of $r$ of $N$ dimensions have a chordal distance of about
    $\sqrt{1 - r / N}$, not 1.

    Args:
      kernel: symmetric, any of the three shapes.
      other: of the same shape, on the same images.
      top: $r$, see `principal_angles`.
      kind: `"chordal"` or `"projection"`.

    Cost and errors: those of `principal_angles`; ValueError for another kind.

    Source: Edelman et al. (1998), section 4.3; Ye and Lim (2016), table 2.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.diag(jnp.array([3.0, 2.0, 1.0])), jnp.diag(jnp.array([3.0, 1.0, 2.0]))
    >>> print(round(float(eigenspace_distance(a, b, top=2)), 4))
    0.7071
    """
    if kind not in ("chordal", "projection"):
        raise ValueError(f'kind must be "chordal" or "projection", got {kind!r}.')
    sines = jnp.sin(principal_angles(kernel, other, top))
    return sines[-1] if kind == "projection" else jnp.sqrt(jnp.mean(sines**2))

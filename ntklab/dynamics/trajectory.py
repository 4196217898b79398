"""A whole run at once: how far each of its kernels is from each of another's, or of its own."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float
from ntklab.dynamics.matrices import centre, check_centred, check_pair
from ntklab.dynamics.similarity import unit


def pairwise_distances(
    kernels: Sequence[Array] | Float[Array, "t n ..."],
    others: Sequence[Array] | Float[Array, "u m ..."] | None = None,
    *,
    centred: bool = False,
) -> Float[Array, "t u"]:
    r"""The distance of every kernel of a run to every kernel of another, or of its own past.

    $$D_{st} = 1 - S(K_s, K'_t) = \tfrac12
      \Big|\frac{K_s}{|K_s|} - \frac{K'_t}{|K'_t|}\Big|_F^2.$$

    Without `others` the rows of D hold a run against its own past; then D is symmetric, its
    diagonal 0, and the entries beside it are the steps that `velocity` divides by time.

    Args:
      kernels: T kernels on the same images, all of one shape.
      others: U kernels on those images; the first ones where None.
      centred: as for `similarity`; report it first.

    Returns:
      `(T, U)`.

    Cost: `T U` passes over a kernel; all kernels twice in memory.

    Raises:
      TypeError: kernels that are not floating point, or of two dtypes.
      ValueError: shapes that differ, NaN, a kernel that is zero (after centring), no kernels.

    Source: Fort et al. (2020) (their matrices of kernel distances over time).

    >>> import jax.numpy as jnp
    >>> print(pairwise_distances([jnp.eye(2), 2 * jnp.eye(2), jnp.ones((2, 2))]).round(4))
    [[0.     0.     0.2929]
     [0.     0.     0.2929]
     [0.2929 0.2929 0.    ]]
    """
    first = kernels[0] if len(kernels) else jnp.zeros((0, 0))
    left = _units(kernels, first, centred)
    right = left if others is None else _units(others, first, centred)
    return jax.lax.map(lambda u: jnp.sum((right - u[None]) ** 2, axis=1) / 2, left)


def _units(kernels: Sequence[Array] | Array, first: Array, centred: bool) -> Array:
    """Each kernel as a row of length one, once it is checked against the first."""
    if len(kernels) == 0:
        raise ValueError("there are no kernels: give at least one.")
    rows = []
    for number, kernel in enumerate(kernels):
        check_pair(first, kernel, ("kernel 0", f"kernel {number}"))
        if centred:
            kernel, original = centre(kernel), kernel
            check_centred(f"kernel {number}", original, kernel)
        rows.append(unit(kernel).reshape(-1))
    return jnp.stack(rows)

"""Whether a kernel looks towards the targets, and which output looks at which."""

import jax.numpy as jnp

from ntklab._typing import Array, Float
from ntklab.dynamics.matrices import centre, check_centred, check_symmetric, per_class, traced


def target_alignment(
    kernel: Float[Array, "n ..."], targets: Float[Array, "p ..."], *, centred: bool = False
) -> Float[Array, ""]:
    r"""Kernel-target alignment: the cosine between a kernel and the kernel of the targets.

    $$A(K, yy^\top) = \frac{y^\top K y}{|K|_F\,|y|^2}, \qquad
      A(K, YY^\top) = \frac{\langle K, YY^\top \rangle_F}{|K|_F\,|YY^\top|_F}.$$

    The first is for targets `(n,)`, and for kernels with outputs, where $y$ holds all targets
    `(n, k)` example-major as `as_matrix` holds the kernel; the second is for a kernel `(n, n)` with
    targets `(n, k)`. For balanced one-hot targets and $K \otimes I_k$ the first is the second
    over $k$: compare only values of one shape.

    Args:
      kernel: symmetric, `(n, n)`, `(n, n, k)` or `(n, n, k, k)`.
      targets: `(n,)`, for example signs, or `(n, k)`, for example one-hot.
      centred: remove the mean over the examples from features and targets, as CKA does.

    Returns:
      One number, from 0 to 1 for positive semidefinite kernels.

    Cost: three passes over the kernel; `n^2 k` operations.

    Raises:
      ValueError: targets of another shape, NaN, zero (after centring); kernels that are zero, not
        square or not symmetric.

    Source: Cristianini et al. (2001), eq. 1; centred: Cortes et al. (2012), definition 4.

    >>> import jax.numpy as jnp
    >>> y = jnp.array([1.0, -1.0])
    >>> print(round(float(target_alignment(y[:, None] * y[None], y)), 4))
    1.0
    """
    check_symmetric("kernel", kernel)
    _check_targets(kernel, targets)
    if centred:
        kernel, targets = _centred(kernel, targets)
        _check_targets(kernel, targets)
    if kernel.ndim == 3:
        explained = jnp.einsum("ic,ijc,jc->", targets, kernel, targets)
    elif kernel.ndim == 4:
        explained = jnp.einsum("ic,ijcd,jd->", targets, kernel, targets)
    else:
        targets = targets.reshape(len(targets), -1)
        explained = jnp.einsum("ic,ij,jc->", targets, kernel, targets)
        # |Y Y^T|_F = |Y^T Y|_F, which is k x k.
        return explained / (jnp.linalg.norm(kernel) * jnp.linalg.norm(targets.T @ targets))
    return explained / (jnp.sqrt(jnp.sum(kernel**2)) * jnp.sum(targets**2))


def _centred(kernel: Array, targets: Array) -> tuple[Array, Array]:
    """Both less their means over the examples; one sentence where no kernel is left."""
    centred = centre(kernel)
    check_centred("kernel", kernel, centred)
    return centred, targets - targets.mean(axis=0, keepdims=True)


def _check_targets(kernel: Array, targets: Array) -> None:
    n, outputs = kernel.shape[0], kernel.shape[2:3]
    fits = jnp.shape(targets)[:1] == (n,) and jnp.ndim(targets) <= 2
    if not fits or (outputs and jnp.shape(targets) != (n, *outputs)):
        wanted = f"({n}, {outputs[0]})" if outputs else f"({n},) or ({n}, k)"
        raise ValueError(
            f"targets must have shape {wanted} beside a kernel {kernel.shape}, got "
            f"{jnp.shape(targets)}."
        )
    size = jnp.abs(targets).max()
    if not traced(size) and not 0 < size < jnp.inf:
        raise ValueError("targets (after centring, if asked for) are NaN, infinite or zero.")


def specialisation(
    kernel: Float[Array, "n m ..."],
    targets: Float[Array, "p c"],
    *,
    normalised_by: str = "target",
    centred: bool = False,
) -> Float[Array, "k k"]:
    r"""Kernel specialisation matrix: how much output c's kernel prefers class d's target.

    With $A_{cd} = A(K^{cc}, y_d y_d^\top)$, the alignment of output $c$'s own kernel with target
    $d$, and $C$ outputs,

    | `normalised_by` | $\mathrm{KSM}(c, d)$ | by construction |
    |---|---|---|
    | `"target"` | $A_{cd} \big/ \tfrac1C \sum_{d'} A_{d'd}$ | every column averages to 1 |
    | `"own"` | $A_{cd} \big/ \tfrac1C \sum_{d'} A_{d'd'}$ | the diagonal averages to 1 |

    A diagonal above 1 under `"target"` is specialisation: the kernel of class d aligns with class d
    better than the other kernels do. The diagonal under `"own"` cannot show it; its
    off-diagonal entries can.

    Args:
      kernel: symmetric with outputs, `(n, n, k)` or `(n, n, k, k)`.
      targets: `(n, k)`, one-hot; $y_d$ is column d.
      normalised_by: `"target"` or `"own"`.
      centred: remove means over the examples from features and targets.

    Returns:
      `(k, k)`, row c for the kernel, column d for the target.

    Cost: `n^2 k^2` multiplications.

    Raises:
      ValueError: an `(n, n)` kernel, a class without examples; what `target_alignment` refuses.

    Source: Shan and Bordelon (2021), eq. 9, after which Loo et al. (2022) and Li et al. (2023);
    `"own"` is a variant found in notes on them. The papers' own choice could not be verified:
    report both.

    >>> import jax.numpy as jnp
    >>> y = jnp.eye(2)
    >>> print(specialisation(jnp.einsum("ic,jc->ijc", y, y), y))
    [[2. 0.]
     [0. 2.]]
    """
    if normalised_by not in ("target", "own"):
        raise ValueError(f'normalised_by must be "target" or "own", got {normalised_by!r}.')
    if jnp.ndim(kernel) == 2:
        raise ValueError("specialisation needs one kernel an output, (n, n, k) or (n, n, k, k).")
    kernel = per_class(kernel) if jnp.ndim(kernel) == 4 else kernel
    check_symmetric("kernel", kernel)
    _check_targets(kernel, targets)
    if centred:
        kernel, targets = _centred(kernel, targets)
    sizes = jnp.sum(targets**2, axis=0)
    norms = jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1)))
    smallest = jnp.minimum(sizes.min(), norms.min())
    if not traced(smallest) and not smallest > 0:
        raise ValueError("a class has no examples or its kernel is zero: leave it out.")
    aligned = jnp.einsum("id,ijc,jd->cd", targets, kernel, targets)
    aligned = aligned / (norms[:, None] * sizes[None, :])
    if normalised_by == "own":
        return aligned / jnp.diagonal(aligned).mean()
    return aligned / aligned.mean(axis=0, keepdims=True)

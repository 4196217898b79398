r"""Kernel machines $f(x) = \Theta(x, \mathcal{X})\,\alpha$ and the gradients of their scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float, LogitsFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelMachine:
    r"""Centres and coefficients of $f(x) = \sum_j \alpha_j\,\Theta(x, x_j)$, a pytree.

    The arrays are leaves and the kernel is static, so that `jax.jit` compiles once for all
    machines with equal kernels and shapes. Leaves are not checked: inside JAX's transformations
    they may be anything.

    Args:
      x_train: centres $\mathcal{X}$, floating point, shape `(n, ...)`.
      coefficients: $\alpha$, same dtype, shape `(n,)` or `(n, k)`.
      kernel: a hashable function of two batches.
    """

    x_train: Any
    coefficients: Any
    kernel: Callable = dataclasses.field(metadata={"static": True})


def kernel_logits(machine: KernelMachine, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    r"""The scores $\Theta(x, \mathcal{X})\,\alpha$ of a kernel machine.

    Args:
      machine: centres, coefficients and kernel.
      x: inputs of the machine's dtype, shape `(b, ...)`.

    Returns:
      Scores, `(b, k)`, or `(b,)` for coefficients `(n,)`.

    Cost: `b n` kernel entries and `b n k` multiplications; memory of the kernel's blocks.

    Accuracy: float32 rounds the terms $\alpha_j \Theta(x, x_j)$, which are larger than their sum
    where the kernel matrix is ill-conditioned. Measured at $t = \infty$ on scores of size 1 to 2:
    1e-4 at most for 3,000 MNIST images and `TwoLayerNTK` (condition 4e4), 6e-3 at most and 1e-3 in
    the mean square for 2,000 CIFAR-10 cars and planes and `FullyConnected` (condition 2e5), where
    at most one of 2,000 test images changes its class. Gradients lose less: 1e-5 of the largest.
    For more, fit to float64 inputs (inside `ntklab._common.float64`), or use `predict`.

    Source: Tsilivis and Kempe (2022), eq. 3.

    >>> import jax.numpy as jnp
    >>> from ntklab.kernels import TwoLayerNTK
    >>> machine = KernelMachine(jnp.eye(2), jnp.array([2.0, -2.0]), TwoLayerNTK())
    >>> print(kernel_logits(machine, jnp.eye(2)))
    [ 1. -1.]
    """
    apply = getattr(machine.kernel, "apply", None)
    if apply is not None:
        return apply(x, machine.x_train, machine.coefficients)
    matrix = machine.kernel(x, machine.x_train)
    return jnp.matmul(matrix, machine.coefficients, precision=jax.lax.Precision.HIGHEST)


def class_gradients(
    logits_fn: LogitsFn, x: Float[Array, "b ..."]
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    r"""Scores and their input gradients, one gradient a class.

    For a kernel machine the gradient is the closed form

    $$\nabla_x f_r(x) = \sum_j \alpha_{jr}\,\nabla_x \Theta(x, x_j),$$

    with no automatic differentiation of the machine. Any other function takes one backward pass
    a class; it must score every example by itself (batch normalisation in training mode does not).

    Args:
      logits_fn: a logits function; `Partial(kernel_logits, machine)` is recognised.
      x: inputs, shape `(b, ...)`.

    Returns:
      The pair: scores `(b, k)` and gradients `(b, k, ...)`; or `(b,)` and `(b, ...)` for a binary
      machine.

    Cost: for a machine, see `input_gradient` of its kernel; otherwise one forward and `k` backward
    passes. Memory: `b k` inputs.

    Raises:
      ValueError: scores that are neither `(b,)` nor `(b, k)`.

    Source: Tsilivis and Kempe (2022), eq. 9.

    >>> import jax, jax.numpy as jnp
    >>> scores, gradients = class_gradients(lambda x: x @ jnp.array([[1.0], [2.0]]), jnp.eye(2))
    >>> print(gradients[0])
    [[1. 2.]]
    """
    machine = _machine_of(logits_fn)
    if machine is not None:
        weights = machine.coefficients
        return logits_fn(x), machine.kernel.input_gradient(x, machine.x_train, weights)
    logits, pull_back = jax.vjp(logits_fn, x)
    if logits.shape == (len(x),):
        return logits, pull_back(jnp.ones_like(logits))[0]
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(
            f"logits_fn must return ({len(x)}, k) or ({len(x)},) scores, got {logits.shape}."
        )
    one_class = jnp.eye(logits.shape[1], dtype=logits.dtype)[:, None]
    gradients = jax.lax.map(lambda c: pull_back(jnp.broadcast_to(c, logits.shape))[0], one_class)
    return logits, jnp.moveaxis(gradients, 0, 1)


def _machine_of(logits_fn: LogitsFn) -> KernelMachine | None:
    """The machine inside `logits_fn` when its gradient has a closed form."""
    if not isinstance(logits_fn, jax.tree_util.Partial) or logits_fn.func is not kernel_logits:
        return None
    if len(logits_fn.args) != 1 or logits_fn.keywords:
        return None
    machine = logits_fn.args[0]
    return machine if hasattr(machine.kernel, "input_gradient") else None

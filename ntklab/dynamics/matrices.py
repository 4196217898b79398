"""The three shapes of a kernel, and the checks that every measure makes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float, Shaped

SHAPES = "(n, m), (n, m, k) or (n, m, k, k)"


def as_matrix(kernel: Float[Array, "n ..."]) -> Float[Array, "N M"]:
    r"""The one matrix that a kernel of any shape stands for.

    $$K_{ik + c,\; jk + c'} = \Theta(x_i, x'_j)_{cc'},$$

    example-major, output-minor; a stack `(n, m, k)` has zeros where $c \ne c'$. The targets
    `(n, k)` are flattened alike by `y.reshape(-1)`. (The authors of the polar plots flatten
    output-major: a permutation of rows and columns, which no measure here sees.)

    Args:
      kernel: `(n, m)`, `(n, m, k)` or `(n, m, k, k)`.

    Returns:
      `(n, m)` as given, otherwise `(n k, m k)`.

    Cost: none for `(n, m)`; a copy of the result's size otherwise.

    Raises:
      ValueError: another rank, or output axes of different lengths.

    >>> import jax.numpy as jnp
    >>> print(as_matrix(jnp.array([[[1.0, 2.0]]])))
    [[1. 0.]
     [0. 2.]]
    """
    check_shape("kernel", kernel)
    if kernel.ndim == 3:
        kernel = kernel[..., None] * jnp.eye(kernel.shape[2], dtype=kernel.dtype)[None, None]
    if kernel.ndim == 4:
        n, m, k, _ = kernel.shape
        kernel = kernel.transpose(0, 2, 1, 3).reshape(n * k, m * k)
    return kernel


def per_class(kernel: Float[Array, "n m k k"]) -> Float[Array, "n m k"]:
    r"""The class-wise kernels $K^{cc}$ of a full kernel: one an output, `(n, m, k)`.

    Raises:
      ValueError: a kernel that is not `(n, m, k, k)`.

    >>> import jax.numpy as jnp
    >>> print(per_class(jnp.arange(4.0).reshape(1, 1, 2, 2)))
    [[[0. 3.]]]
    """
    check_shape("kernel", kernel)
    if kernel.ndim != 4:
        raise ValueError(f"per_class needs a full kernel (n, m, k, k), got shape {kernel.shape}.")
    return jnp.diagonal(kernel, axis1=2, axis2=3)


def class_wise(measure: Callable) -> Callable:
    r"""A measure of kernels, applied to each output by itself.

    Args:
      measure: any measure of this module; bind its settings with `functools.partial`.

    Returns:
      A function of stacks `(n, m, k)` or full kernels, with the results (arrays or tuples of
      arrays) stacked along the first axis, `(k, ...)`.

    Cost: that of `k` kernels `(n, m)`; the terms between outputs are not looked at.

    Raises:
      ValueError: a kernel `(n, m)`, which has no outputs to separate.

    >>> import jax.numpy as jnp
    >>> from ntklab import dynamics
    >>> kernel = jnp.stack([jnp.eye(3), jnp.ones((3, 3))], axis=2)
    >>> print(dynamics.class_wise(dynamics.effective_rank)(kernel))
    [3. 1.]
    """

    def each(*kernels: Array) -> Any:
        stacks = [per_class(k) if jnp.ndim(k) == 4 else k for k in kernels]
        for stack in stacks:
            if jnp.ndim(stack) != 3:
                raise ValueError(
                    f"class_wise needs kernels (n, m, k) or (n, m, k, k), got {jnp.shape(stack)}."
                )
        results = [measure(*(s[:, :, c] for s in stacks)) for c in range(stacks[0].shape[2])]
        return jax.tree.map(lambda *values: jnp.stack(values), *results)

    return each


def centre(kernel: Float[Array, "n m ..."]) -> Float[Array, "n m ..."]:
    r"""The kernel of features without their mean over the examples, $H K H$.

    $H = I - 11^\top / n$ acts on the examples of either side, for every pair of outputs: with
    $\Theta(x, x')_{cc'} = \langle \phi_c(x), \phi_{c'}(x') \rangle$ each $\phi_c$ loses its mean.

    Cost: three passes over the kernel.

    Source: Kornblith et al. (2019), section 3; Cortes et al. (2012), section 2.2.

    >>> import jax.numpy as jnp
    >>> print(centre(jnp.eye(2) + 5))
    [[ 0.5 -0.5]
     [-0.5  0.5]]
    """
    check_shape("kernel", kernel)
    kernel = kernel - kernel.mean(axis=0, keepdims=True)
    return kernel - kernel.mean(axis=1, keepdims=True)


def traced(value: Array | bool) -> bool:
    """Whether a value cannot be looked at, because the caller is being compiled.

    Ask it of what a check computed: under `jit`, operations on known arrays are traced as well.
    """
    return isinstance(value, jax.core.Tracer)


def check_shape(name: str, kernel: Array) -> None:
    """Raise when a kernel is not floating point or of none of the three shapes."""
    if not jnp.issubdtype(jnp.result_type(kernel), jnp.floating):
        raise TypeError(f"{name} must be floating point, got {jnp.result_type(kernel)}.")
    shape = jnp.shape(kernel)
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise ValueError(f"{name} must have shape {SHAPES}, got {shape}.")
    if len(shape) == 4 and shape[2] != shape[3]:
        raise ValueError(f"the output axes of {name} must be equally long, got shape {shape}.")


def check_values(name: str, kernel: Array) -> None:
    """Raise, outside `jit`, when a kernel has NaN or infinite entries, or only zeros."""
    check_shape(name, kernel)
    largest = jnp.abs(kernel).max()
    if traced(largest):
        return
    if not jnp.isfinite(largest):
        raise ValueError(f"{name} has entries that are NaN or infinite: look at its inputs.")
    if largest == 0:
        raise ValueError(f"{name} is zero everywhere, so that it has no direction.")


def check_centred(name: str, kernel: Array, centred: Array) -> None:
    """Raise, outside `jit`, when centring left nothing but rounding."""
    left = jnp.abs(centred).max() / jnp.abs(kernel).max()
    if not traced(left) and left < 10 * jnp.finfo(kernel.dtype).eps:
        raise ValueError(f"{name} is constant over the examples: centred, it is zero.")


def check_pair(kernel: Array, other: Array, names: tuple[str, str]) -> None:
    """Raise when two kernels are not comparable, or one of them has no direction."""
    for name, each in zip(names, (kernel, other), strict=True):
        check_values(name, each)
    if jnp.shape(kernel) != jnp.shape(other):
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, on the same images: got "
            f"{jnp.shape(kernel)} and {jnp.shape(other)}."
        )
    if jnp.result_type(kernel) != jnp.result_type(other):
        raise TypeError(
            f"{names[0]} and {names[1]} must have one dtype, got {jnp.result_type(kernel)} and "
            f"{jnp.result_type(other)}."
        )


def check_symmetric(name: str, kernel: Array) -> None:
    """Raise when a kernel is not one of a set of examples with itself: square and symmetric."""
    check_values(name, kernel)
    if kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"{name} must have the same examples on both sides, (n, n, ...), got shape "
            f"{kernel.shape}."
        )
    off = jnp.abs(kernel - _transpose(kernel)).max() / jnp.abs(kernel).max()
    if not traced(off) and off > 1e-3:
        raise ValueError(
            f"{name} is not symmetric, by {float(off):.1g} of its largest entry: are its two sides "
            "the same images in the same order?"
        )


def _transpose(kernel: Array) -> Array:
    """The transpose of `as_matrix`, in the kernel's own shape."""
    return kernel.swapaxes(0, 1) if kernel.ndim < 4 else kernel.transpose(1, 0, 3, 2)


def symmetric_matrix(name: str, kernel: Array) -> Shaped[Array, "N N"]:
    """`as_matrix` of a symmetric kernel, with what rounding left of asymmetry averaged away."""
    check_symmetric(name, kernel)
    return as_matrix((kernel + _transpose(kernel)) / 2)


def eigenvalues(name: str, kernel: Array) -> Shaped[Array, " N"]:
    """Of `as_matrix` of a symmetric kernel, ascending; those of a stack one output at a time."""
    if jnp.ndim(kernel) != 3:
        return jnp.linalg.eigvalsh(symmetric_matrix(name, kernel))
    check_symmetric(name, kernel)
    kernel = (kernel + _transpose(kernel)) / 2
    return jnp.sort(jnp.linalg.eigvalsh(jnp.moveaxis(kernel, 2, 0)).reshape(-1))


def check_count(name: str, count: int, most: int) -> None:
    """Raise when `count` is not a whole number from 1 to `most`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, got {count!r}.")

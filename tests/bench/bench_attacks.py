"""The closed-form input gradient of a kernel machine against automatic differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
from run import Pair

from ntklab import kernels

KERNEL = kernels.TwoLayerNTK()


@jax.jit
def closed_form(x, x_train, weights):
    """Equation 9 of Tsilivis & Kempe."""
    return KERNEL.input_gradient(x, x_train, weights)


@jax.jit
def autodiff(x, x_train, weights):
    """The same from JAX, one point at a time."""
    return jax.vmap(jax.jacrev(lambda point: (KERNEL(point[None], x_train) @ weights)[0]))(x)


def pairs():
    """One pair a size: n training points, b attacked points, d pixels, k classes."""
    for n, b, d, k in ((500, 100, 196, 2), (1000, 100, 784, 10)):
        keys = jax.random.split(jax.random.key(0), 3)
        x_train, x = jax.random.uniform(keys[0], (n, d)), jax.random.uniform(keys[1], (b, d))
        arguments = (x, x_train, jax.random.normal(keys[2], (n, k)))
        name = f"input gradient, closed form / autodiff, n={n} b={b} d={d} k={k}"
        equal = partial(jnp.allclose, rtol=1e-3, atol=1e-2)
        yield Pair(
            name, partial(closed_form, *arguments), partial(autodiff, *arguments), None, equal
        )

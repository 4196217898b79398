"""Empirical kernels against every implementation of neural-tangents that still runs."""

import functools

import jax
import jax.numpy as jnp
from legacy import Legacy
from networks import problem
from run import Pair

from ntklab import nets
from ntklab._nt import neural_tangents
from ntklab.kernels import empirical_ntk

#: network, images, mode, and the bound on the ratio to the best of the same JAX.
CASES = (
    ("FC 784-1024-1024-10", 32, "full", 1 / 100),
    ("FC 784-1024-1024-10", 256, "full", 1 / 100),
    ("MNIST CNN", 16, "full", 1 / 7),
    ("MNIST CNN", 64, "full", 1 / 7),
    ("CIFAR CNN", 32, "full", 1.0),
    ("ResNet-18", 8, "full", 1.0),
    ("ResNet-18", 64, "sum_logits", 1.0),
)
#: What neural-tangents has on this JAX, and the memory of its Jacobians, 4 bytes a number.
IMPLEMENTATIONS = {1: "Jacobian contraction", 2: "NTK-vector products"}
LARGEST = 10e9


def pairs():
    """A pair for each case and implementation, and one for each case against jax 0.4.25."""
    for network, n, mode, bound in CASES:
        model, variables, x = problem(network, n)
        f, params = nets.as_function(model, variables)
        ours = functools.partial(empirical_ntk, f, params, x, mode=mode)
        outputs = 1 if mode == "sum_logits" else 10
        size = 4 * n * outputs * sum(a.size for a in jax.tree.leaves(params))
        for number, name in IMPLEMENTATIONS.items():
            if number == 1 and size > LARGEST:
                continue
            other = functools.partial(stock(number, mode), f, params, x)
            title = f"{network}, n={n}, {mode}, against {name}"
            yield Pair(title, ours, other, bound, agree)
        legacy = Legacy(network, variables, x, mode)
        title = f"{network}, n={n}, {mode}, against structured derivatives (jax 0.4.25)"
        yield Pair(title, ours, legacy.call, 1.0, roughly, close=legacy.close)


@functools.cache
def stock(implementation: int, mode: str):
    """The kernel of neural-tangents on this JAX, compiled."""
    nt = neural_tangents()

    @jax.jit
    def kernel(f, params, x):
        def apply(params, x):
            logits = f(params, x)
            return logits.sum(axis=1, keepdims=True) if mode == "sum_logits" else logits

        ntk = nt.empirical_ntk_fn(
            apply, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation(implementation)
        )
        return ntk(x, None, params)

    return kernel


def agree(ours, other, tolerance: float = 1e-4) -> bool:
    """Equal to 1e-4 of the largest entry."""
    other = jnp.asarray(other).reshape(ours.shape)
    return bool(jnp.abs(ours - other).max() <= tolerance * jnp.abs(other).max())


#: For structured derivatives: on the CIFAR CNN they are off by 3.5e-4 of the largest entry, from
#: ours and from neural-tangents' Jacobian contraction alike; these two agree to 4e-7.
roughly = functools.partial(agree, tolerance=1e-3)

"""Kernel matrices: `gram` against the batching of neural-tangents."""

import functools
import os
from functools import partial

import jax.numpy as jnp
import numpy as np
from run import Pair, measure

from ntklab import kernels
from ntklab._nt import neural_tangents
from ntklab.data import load

#: Images, a multiple of 1,000, and batch sizes of which neural-tangents gets the fastest.
N, BATCH_SIZES = int(os.environ.get("GRAM_IMAGES", "10000")), (250, 500, 1000)


def images(n):
    """MNIST where it lies in NTKLAB_DATA, noise of its shape elsewhere."""
    if os.environ.get("NTKLAB_DATA"):
        return np.asarray(load("mnist", n_train=n).x_train).reshape(n, -1)
    return np.random.default_rng(0).random((n, 784), np.float32)


@functools.cache
def batched(n):
    """`neural_tangents.batch` at the batch size that is fastest for a matrix of 2,000."""
    stax = neural_tangents().stax
    layers = [stax.Dense(1, 2**0.5), stax.Relu()] * 3
    kernel_fn = stax.serial(*layers, stax.Dense(1, 2**0.5))[2]
    few = jnp.asarray(images(n)[:2000])
    tried = {b: neural_tangents().batch(kernel_fn, batch_size=b) for b in BATCH_SIZES}
    calls = {b: partial(tried[b], few, None, "ntk") for b in BATCH_SIZES}
    first = calls[BATCH_SIZES[0]]
    ratios = {b: measure(Pair("", calls[b], first), rounds=3).ratio for b in BATCH_SIZES}
    return tried[min(ratios, key=ratios.get)]


def pairs():
    """The fully connected NTK of three hidden layers on `N` images."""
    x = images(N)
    ours = partial(kernels.gram, kernels.FullyConnected(depth=3), x, show_progress=False)

    def other():
        return batched(N)(jnp.asarray(x), None, "ntk")

    equal = partial(np.allclose, rtol=1e-3, atol=1e-2)
    note = f"neural_tangents.batch at its fastest batch size of {BATCH_SIZES}"
    yield Pair(f"FC3 NTK matrix, gram / neural-tangents, n={N}", ours, other, 0.6, equal, note)

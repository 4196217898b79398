"""The networks of the benchmarks, for both interpreters: nothing here needs a recent JAX."""

from typing import NamedTuple

import jax

from ntklab import nets


class Network(NamedTuple):
    """How to make a network, and the shape of one of its images."""

    model: type
    shape: tuple[int, ...]


NETWORKS = {
    "FC 784-1024-1024-10": Network(nets.FC, (784,)),
    "MNIST CNN": Network(nets.MnistCNN, (28, 28, 1)),
    "CIFAR CNN": Network(nets.CNNMega, (32, 32, 3)),
    "ResNet-18": Network(nets.ResNet18, (32, 32, 3)),
}


def problem(name: str, n: int):
    """A network, its variables and `n` random images."""
    network = NETWORKS[name]
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.uniform(keys[0], (n, *network.shape))
    model = network.model()
    return model, jax.jit(model.init)(keys[1], x[:1]), x

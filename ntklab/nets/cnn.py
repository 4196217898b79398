"""The convolutional networks of Tsilivis and Kempe, and a smaller one."""

from collections.abc import Callable

import jax
from flax import linen as nn

from ntklab._typing import Array, Shaped
from ntklab.nets.layers import HE, LECUN, activation_fn, check_input, flat, last_layer


def conv(features: int, number: int, init: Callable) -> nn.Conv:
    """A 3x3 convolution with biases, SAME padding, named `conv_<number>`."""
    return nn.Conv(features, (3, 3), kernel_init=init, name=f"conv_{number}")


def halve(x: Array) -> Array:
    """Means of 2x2 windows, step 2; an odd last row or column is dropped."""
    # nn.avg_pool divides by an integer of 64 bits, which strict promotion refuses.
    return nn.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4


class ToyCNN(nn.Module):
    r"""conv 16 - pool - conv 32 - pool - dense 128 - 10, for 14x14 images: 43,082 parameters.

    Convolutions are 3x3 with SAME padding, pooling is 2x2 averaging; weights are He normal, biases
    zero. Average pooling and a smooth activation make the linearised network continuous in x;
    with ReLU it jumps where a gate switches.

    Args:
      outputs: logits.
      widths: channels of the two convolutions and units of the dense layer.
      activation: as for `FC`.
      zero_last: start with a zero last layer; `ResNet` says what that does.

    Cost: 292,160 multiplications a 14x14 image.

    Raises:
      ValueError: an input that is not `(b, height, width, c)`.
      TypeError: an input that is not floating point.

    Source: ours, the small setting in which the claims of Loo et al. (2022) are tested.

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(ToyCNN().init, jax.random.key(0), jnp.ones((1, 14, 14, 1)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    43082
    """

    outputs: int = 10
    widths: tuple[int, int, int] = (16, 32, 128)
    activation: str | Callable = "relu"
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of images `(b, h, w, c)`; `train` changes nothing."""
        check_input(x, 4)
        act = activation_fn(self.activation)
        for number, width in enumerate(self.widths[:2]):
            x = halve(act(conv(width, number, HE)(x)))
        x = act(nn.Dense(self.widths[2], kernel_init=HE, name="hidden")(flat(x)))
        return last_layer(self.outputs, self.zero_last, HE)(x)


class MnistCNN(nn.Module):
    r"""The MNIST network of Tsilivis and Kempe (`CNN` in their code): 824,458 parameters.

    conv 32 - average pool - conv 64 - average pool - dense 256 - 10. Convolutions are 3x3 with
    SAME padding, pooling is 2x2; weights as Flax initialises them (LeCun normal), biases zero.

    Args:
      outputs: logits.
      activation: as for `FC`.
      zero_last: start with a zero last layer; `ResNet` says what that does.

    Cost: 4,643,840 multiplications a 28x28 image.

    Raises: as `ToyCNN` does.

    Source: Tsilivis and Kempe (2022), section 5 and supplement E; their robust_train_CNN.py.

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(MnistCNN().init, jax.random.key(0), jnp.ones((1, 28, 28, 1)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    824458
    """

    outputs: int = 10
    activation: str | Callable = "relu"
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of images `(b, h, w, c)`; `train` changes nothing."""
        check_input(x, 4)
        act = activation_fn(self.activation)
        x = halve(act(conv(32, 0, LECUN)(x)))
        x = halve(act(conv(64, 1, LECUN)(x)))
        x = act(nn.Dense(256, name="hidden")(flat(x)))
        return last_layer(self.outputs, self.zero_last)(x)


class CNNMega(nn.Module):
    r"""The CIFAR-10 network of Tsilivis and Kempe (`CNN_mega` in their code): 368,938 parameters.

    conv 32, 32 - max pool - conv 64, 64, 128, 128 - average pool - 10. Convolutions are 3x3 with
    SAME padding, pooling is 2x2; weights as Flax initialises them (LeCun normal), biases zero.

    Args:
      outputs: logits.
      activation: as for `FC`.
      zero_last: start with a zero last layer; `ResNet` says what that does.

    Cost: 81.2 million multiplications a 32x32 image.

    Raises: as `ToyCNN` does.

    Source: Tsilivis and Kempe (2022), section 5 and supplement E; their robust_train_CNN.py.

    >>> import jax, jax.numpy as jnp
    >>> shapes = jax.eval_shape(CNNMega().init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    368938
    """

    outputs: int = 10
    activation: str | Callable = "relu"
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of images `(b, h, w, c)`; `train` changes nothing."""
        check_input(x, 4)
        act = activation_fn(self.activation)
        for number, width in enumerate((32, 32, 64, 64, 128, 128)):
            x = act(conv(width, number, LECUN)(x))
            x = nn.max_pool(x, (2, 2), (2, 2)) if number == 1 else x
        return last_layer(self.outputs, self.zero_last)(flat(halve(x)))

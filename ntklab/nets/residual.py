"""Residual networks for CIFAR: widths, blocks, three kinds of normalisation."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from ntklab._typing import Array, Shaped
from ntklab.nets.layers import HE, LECUN, activation_fn, check_input, last_layer

NORMS = ("batch", "group", "none")


class Norm(nn.Module):
    """Batch normalisation (decay 0.9, epsilon 1e-5), group normalisation, or nothing."""

    kind: str
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`(b, h, w, c)` to the same shape."""
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=1e-5, name="batch"
            )(x)
        if self.kind == "group":
            return nn.GroupNorm(self.groups, epsilon=1e-5, name="group")(x)
        return x


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    width: int
    stride: int
    norm: str
    groups: int
    activation: Callable

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`(b, h, w, c)` to `(b, h / stride, w / stride, width)`."""
        y = self._conv(3, self.stride, "conv_0")(x)
        y = self.activation(Norm(self.norm, self.groups, name="norm_0")(y, train))
        y = self._conv(3, 1, "conv_1")(y)
        y = Norm(self.norm, self.groups, name="norm_1")(y, train)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self._conv(1, self.stride, "shortcut")(x)
            x = Norm(self.norm, self.groups, name="shortcut_norm")(x, train)
        return self.activation(x + y)

    def _conv(self, size: int, stride: int, name: str) -> nn.Conv:
        return convolution(self.width, size, stride, self.norm, name)


def convolution(width: int, size: int, stride: int, norm: str, name: str) -> nn.Conv:
    """A convolution with SAME padding; it has a bias only where no normalisation follows."""
    bare = norm == "none"
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        use_bias=bare,
        kernel_init=HE if bare else LECUN,
        name=name,
    )


class ResNet(nn.Module):
    r"""Residual network (version 1, basic blocks) with a 3x3 stem, for 32x32 images.

    Stem 3x3 with step 1 and no max-pool; groups of blocks, of which every group but the first
    halves the image; global average pooling; logits. A block is
    $\phi(x + N(W_1 * \phi(N(W_0 * x))))$ with normalisation $N$, and $N(W * x)$ with a 1x1
    convolution instead of $x$ where the shape changes. Padding is SAME.

    **Zero last layer** (`zero_last=True`, as Loo et al. have it, from Haiku). Then $f_0 = 0$, and
    at epoch 0 the gradient of the logits with respect to every parameter below the last layer is
    zero, since it passes through the zero weights. With last features $h_0$, the tangent kernel is

    $$\Theta_0(x, x') = (\langle h_0(x), h_0(x') \rangle + 1)\, I_k,$$

    the kernel of the last layer alone: weaker than, and not comparable with, that of a network
    whose last layer is random. "Linearise at epoch 0" trains a linear classifier on random
    features; from the first step on the last layer is no longer zero, and the others take part.

    **Normalisation.** `"batch"`: in evaluation mode an affine map per channel with the running
    statistics; in training mode every example depends on its batch, and no kernel is defined.
    `"group"`: the same in both modes, smooth, per example. `"none"`: convolutions have biases and
    He weights; activations grow with every block.

    Args:
      blocks: blocks of each group.
      widths: channels of each group.
      outputs: logits.
      norm: `"batch"`, `"group"` or `"none"`.
      activation: as for `FC`: `"relu"`, `Softplus(beta=10.0)`, `"gelu"` ...
      zero_last: see above.
      groups: groups of `"group"` normalisation; every width must be a multiple.

    Raises:
      ValueError: an unknown name, widths that the groups do not divide, or an input that is not
        `(b, height, width, c)`.
      TypeError: an input that is not floating point.

    Source: He et al. (2016); Loo et al. (2022) and their modified_resnets.py. Haiku's running
    statistics have no bias towards their start, Flax's start at mean 0 and variance 1: they
    differ by a factor 0.9 a step, which is gone after some 50 steps.

    >>> import jax, jax.numpy as jnp
    >>> model, x = ResNet8(norm="group", zero_last=True), jnp.ones((1, 8, 8, 3))
    >>> print(model.apply(jax.jit(model.init)(jax.random.key(0), x), x).max())
    0.0
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    outputs: int = 10
    norm: str = "batch"
    activation: str | Callable = "relu"
    zero_last: bool = False
    groups: int = 8

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of images `(b, h, w, c)`; `train` is for batch normalisation."""
        check_input(x, 4)
        self._check()
        act = activation_fn(self.activation)
        x = convolution(self.widths[0], 3, 1, self.norm, "stem")(x)
        x = act(Norm(self.norm, self.groups, name="stem_norm")(x, train))
        for group, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for block in range(blocks):
                stride = 2 if group and not block else 1
                name = f"group_{group}_block_{block}"
                x = Block(width, stride, self.norm, self.groups, act, name=name)(x, train)
        init = HE if self.norm == "none" else LECUN
        return last_layer(self.outputs, self.zero_last, init)(jnp.mean(x, axis=(1, 2)))

    def _check(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}.")
        if self.norm == "group" and any(width % self.groups for width in self.widths):
            raise ValueError(f"groups = {self.groups} must divide the widths {self.widths}.")


class ResNet8(ResNet):
    """`ResNet` with 1-1-1 blocks of 16-32-64 channels: 78,042 parameters, 12.5 MMAC.

    For tests and CPUs. Numbers for 3x32x32 images, 10 outputs, batch normalisation.
    """

    blocks: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (16, 32, 64)


class ResNet20(ResNet):
    """`ResNet` with 3-3-3 blocks of 16-32-64 channels: 272,474 parameters, 40.8 MMAC.

    The parent network of Fort et al. (2020). He et al. (2016) pad the shortcut with zeros instead
    of projecting it, which saves 2,752 parameters.
    """

    blocks: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (16, 32, 64)


class ResNet18(ResNet):
    """`ResNet` with 2-2-2-2 blocks of 64-512 channels: 11,173,962 parameters, 555 MMAC.

    The network of Loo et al. (2022), there with `zero_last=True`, and of Li et al. (2023).
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)

"""FLOPs and bytes by hand: what a computation cannot do without, whatever becomes of it.

A multiplication with its addition is two FLOPs. A convolution counts all its taps, also those that
fall on padding, as papers count them; XLA leaves these out, which for 3x3 taps on a 4x4 image is
31 % of them. Bytes are those of operands read once and results written once: normalisation,
activation and the sum of a block are taken to be fused into the convolution beside them.
"""

from typing import NamedTuple

from ntklab.nets import ResNet


class Convolution(NamedTuple):
    """One convolution on one image, padding SAME.

    Attributes:
      size: height and width of what goes in.
      stride: step.
      taps: height and width of the kernel.
      inputs: channels in.
      outputs: channels out.
    """

    size: int
    stride: int
    taps: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Of one image, forward; the gradient of either operand costs the same."""
        out = -(-self.size // self.stride)
        return 2 * out * out * self.taps**2 * self.inputs * self.outputs

    @property
    def read(self) -> int:
        """Numbers that go in."""
        return self.size**2 * self.inputs

    @property
    def written(self) -> int:
        """Numbers that come out."""
        return (-(-self.size // self.stride)) ** 2 * self.outputs

    @property
    def weights(self) -> int:
        """Numbers of its kernel."""
        return self.taps**2 * self.inputs * self.outputs


class Cost(NamedTuple):
    """What a call costs at least.

    Attributes:
      flops: floating-point operations.
      traffic: bytes to and from the device's memory; 0 where they are not counted.
    """

    flops: float
    traffic: float


def convolutions(model: ResNet, size: int, channels: int = 3) -> list[Convolution]:
    """The convolutions of a residual network, the last layer as one of a single pixel.

    >>> from ntklab.nets import ResNet18
    >>> sum(layer.flops for layer in convolutions(ResNet18(), 32)) // 2
    555422720
    """
    width = model.widths[0]
    layers = [Convolution(size, 1, 3, channels, width)]
    for group, (blocks, wider) in enumerate(zip(model.blocks, model.widths, strict=True)):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            layers.append(Convolution(size, stride, 3, width, wider))
            if stride != 1 or width != wider:
                layers.append(Convolution(size, stride, 1, width, wider))
            size, width = -(-size // stride), wider
            layers.append(Convolution(size, 1, 3, width, width))
    return [*layers, Convolution(1, 1, 1, width, model.outputs)]


def matmul(n: int, itemsize: int) -> Cost:
    """The product of two `n` by `n` matrices."""
    return Cost(2 * n**3, 3 * n * n * itemsize)


def copy(numbers: int, itemsize: int) -> Cost:
    """An array read and another written."""
    return Cost(0, 2 * numbers * itemsize)


#: What is done -> passes of FLOPs, each as dear as the forward pass.
PASSES = {"forward": 1, "input gradient": 2, "train step": 3}


def convolution(layer: Convolution, batch: int, what: str, itemsize: int) -> Cost:
    """One layer on a batch: forward; with the gradient of its input; and with that of its kernel.

    Each pass reads two of input, output and kernel, and writes the third.
    """
    passes = PASSES[what]
    touched = batch * (layer.read + layer.written) + layer.weights
    return Cost(passes * batch * layer.flops, passes * touched * itemsize)


def network(layers: list[Convolution], batch: int, what: str, itemsize: int) -> Cost:
    """A network on a batch: forward; with the gradient of its images; a step of training.

    The backward pass also reads what went into each layer, to know which units were active. A
    step of training reads parameters, momentum and gradient, in 4 bytes a number, and writes the
    first two anew.
    """
    flops = PASSES[what] * batch * sum(layer.flops for layer in layers)
    read, written = (batch * sum(getattr(a, n) for a in layers) for n in ("read", "written"))
    weights = sum(layer.weights for layer in layers)
    numbers = read + written + weights
    if what != "forward":
        numbers += written + 2 * read + weights
    if what == "train step":
        return Cost(flops, (numbers + read + written) * itemsize + 5 * 4 * weights)
    return Cost(flops, numbers * itemsize)


def pgd_training(layers: list[Convolution], batch: int, steps: int, itemsize: int) -> Cost:
    """A step of training on examples of PGD: `2 steps + 3` forward passes, no more.

    >>> from ntklab.nets import ResNet18
    >>> layers = convolutions(ResNet18(), 32)
    >>> round(pgd_training(layers, 50_000, 10, 2).flops / 1e15, 3)
    1.277
    """
    attack = network(layers, batch, "input gradient", itemsize)
    learning = network(layers, batch, "train step", itemsize)
    return Cost(steps * attack.flops + learning.flops, steps * attack.traffic + learning.traffic)


def tangent_kernel(layers: list[Convolution], n: int, contraction: float, outputs: int) -> Cost:
    """An empirical kernel of `n` images: a forward pass, `outputs` backward ones, `contraction`.

    Args:
      layers: of the network.
      n: images.
      contraction: FLOPs of all products of Jacobians, from `empirical_ntk(..., explain=True)`.
      outputs: backward passes an image: the logits, or 1 for their sum.
    """
    forward = n * sum(layer.flops for layer in layers)
    return Cost((1 + outputs) * forward + contraction, 0)


def eigh(n: int, itemsize: int) -> Cost:
    """All eigenpairs of a symmetric matrix, by a tridiagonal one and divide and conquer.

    4/3 n^3 to the tridiagonal form, half of it in products of the matrix with single vectors, each
    of which reads what is left of the matrix; 8/3 n^3 at most to put eigenvectors together, 2 n^3
    to bring them back.

    Source: Golub and Van Loan (2013), sections 8.3 and 8.4.
    """
    return Cost(6 * n**3, n**3 / 3 * itemsize)

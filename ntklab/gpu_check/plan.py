"""What is measured, and in which order: what a decision hangs on comes first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ntklab.gpu_check import counts, programs
from ntklab.gpu_check.counts import Convolution, Cost
from ntklab.gpu_check.rows import Row
from ntklab.gpu_check.timing import Program
from ntklab.nets import ResNet, ResNet18

BYTES = {"bfloat16": 2, "float32": 4, "float32 highest": 4, "float64": 8}
#: Bytes that `eigh` needs for each entry of its matrix: argument, result, workspace and copies.
EIGH_BYTES = 28


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
      matmul: dtype -> rows of the matrices whose product gives the peak.
      copied: numbers of the array that gives the bandwidth.
      layers: `(channels, size)` of the convolutions; the first at all batch sizes.
      name: of the network.
      model: the network.
      image: height and width of its images.
      batches: batch sizes, the most telling first.
      attacked: batch sizes of adversarial training.
      steps: of its attack.
      dtypes: of convolutions and networks.
      kernel: images of a block of the kernel.
      eigh: rows of the matrix, where the memory is enough.
    """

    matmul: dict[str, int]
    copied: int
    layers: tuple[tuple[int, int], ...]
    name: str
    model: ResNet
    image: int
    batches: tuple[int, ...]
    attacked: tuple[int, ...]
    steps: int
    dtypes: tuple[str, ...]
    kernel: int
    eigh: int


FULL = Sizes(
    matmul={"bfloat16": 8192, "float32": 8192, "float32 highest": 8192, "float64": 4096},
    copied=2**28,
    layers=((128, 16), (64, 32), (256, 8), (512, 4)),
    name="ResNet-18",
    model=ResNet18(),
    image=32,
    batches=(512, 128, 2048),
    attacked=(512, 128, 1024),
    steps=10,
    dtypes=("bfloat16", "float32"),
    kernel=32,
    eigh=12_000,
)
#: Seconds on a laptop: it shows that the code runs, and says nothing of a GPU.
QUICK = Sizes(
    matmul={"bfloat16": 256, "float32": 512, "float32 highest": 512, "float64": 512},
    copied=2**22,
    layers=((16, 16),),
    name="small ResNet",
    model=ResNet((1, 1), (8, 16)),
    image=16,
    batches=(16,),
    attacked=(16,),
    steps=2,
    dtypes=("float32",),
    kernel=4,
    eigh=300,
)


@dataclass(frozen=True)
class Task:
    """A row that is still to be measured.

    Attributes:
      row: what it says before there is a time.
      build: makes the program, on the device.
      peak: whether its speed is the device's peak for that dtype, or its bandwidth.
    """

    row: Row
    build: Callable[[], Program]
    peak: bool = False


def tasks(sizes: Sizes, memory: int | None) -> Iterator[Task]:
    """Every task, in order; `memory` is what the device has free, in bytes, or None."""
    yield from peaks(sizes)
    for number, batch in enumerate(sizes.attacked):
        yield from (_training(sizes, batch, dtype, sizes.steps) for dtype in sizes.dtypes)
        if not number:
            yield from _batch(sizes, sizes.batches[0])
            yield from _kernels(sizes)
            yield eigh(eigh_rows(sizes.eigh, memory))
    for batch in sizes.batches[1:]:
        yield from _batch(sizes, batch)
    for layer in sizes.layers[1:]:
        yield _convolution(layer, sizes.batches[0], sizes.dtypes[0], "train step")


def peaks(sizes: Sizes) -> Iterator[Task]:
    """Matrix products, the fastest dtype first, and a copy."""
    copied = sizes.copied
    row = _row("copy", f"{4 * copied / 2**20:g} MiB, float32", "float32", 0, counts.copy(copied, 4))
    yield Task(row, partial(programs.copy, copied), True)
    for dtype, n in sizes.matmul.items():
        name, _, precision = dtype.partition(" ")
        row = _row("matmul", f"{n} x {n}, {dtype}", dtype, 0, counts.matmul(n, BYTES[dtype]))
        yield Task(row, partial(programs.matmul, n, name, precision or "default"), True)


def _batch(sizes: Sizes, batch: int) -> Iterator[Task]:
    """All that is done with batches of one size."""
    for dtype in sizes.dtypes:
        yield from (_network(sizes, batch, dtype, w) for w in ("forward", "input gradient"))
        yield _training(sizes, batch, dtype, 0)
    for dtype in sizes.dtypes:
        yield from (_convolution(sizes.layers[0], batch, dtype, what) for what in counts.PASSES)


def _convolution(layer: tuple[int, int], batch: int, dtype: str, what: str) -> Task:
    channels, size = layer
    one = Convolution(size, 1, 3, channels, channels)
    title = {"train step": "both gradients"}.get(what, what)
    return Task(
        _row(
            f"conv 3x3, {title}",
            f"batch {batch}, {size}x{size}x{channels}, {dtype}",
            dtype,
            batch,
            counts.convolution(one, batch, what, BYTES[dtype]),
        ),
        partial(programs.convolution, channels, size, batch, dtype, what),
    )


def _network(sizes: Sizes, batch: int, dtype: str, what: str) -> Task:
    layers = counts.convolutions(sizes.model, sizes.image)
    cost = counts.network(layers, batch, what, BYTES[dtype])
    build = partial(programs.network, sizes.model, sizes.image, batch, dtype, what)
    return Task(
        _row(f"{sizes.name}, {what}", _sized(sizes, batch, dtype), dtype, batch, cost), build
    )


def _training(sizes: Sizes, batch: int, dtype: str, steps: int) -> Task:
    layers = counts.convolutions(sizes.model, sizes.image)
    cost = counts.pgd_training(layers, batch, steps, BYTES[dtype])
    build = partial(programs.training, sizes.model, sizes.image, batch, dtype, steps)
    what = f"PGD-{steps} step" if steps else "train step"
    return Task(
        _row(f"{sizes.name}, {what}", _sized(sizes, batch, dtype), dtype, batch, cost), build
    )


def _kernels(sizes: Sizes) -> Iterator[Task]:
    """The kernel of summed logits, and the whole one, between two blocks of images."""
    n, size = sizes.kernel, sizes.image
    layers = counts.convolutions(sizes.model, size)
    for mode, outputs in (("sum_logits", 1), ("full", sizes.model.outputs)):
        made = partial(programs.kernel, sizes.model, size, n, mode)
        contraction = programs.contraction(sizes.model, size, n, mode)
        cost = counts.tangent_kernel(layers, 2 * n, contraction, outputs)
        title = f"{n} x {n} of {size}x{size}x3, float32"
        what = f"{sizes.name}, NTK {mode}"
        yield Task(_row(what, title, "float32 highest", 2 * n, cost), made)


def eigh(n: int) -> Task:
    """All eigenpairs of an `n` by `n` matrix."""
    row = _row("eigh", f"{n} x {n}, float32", "float32 highest", 0, counts.eigh(n, 4))
    return Task(row, partial(programs.eigh, n))


def eigh_rows(wanted: int, memory: int | None) -> int:
    """The rows that are wanted, or as many thousands as the memory holds.

    >>> eigh_rows(12_000, None), eigh_rows(12_000, 140 * 2**30), eigh_rows(12_000, 2**30)
    (12000, 12000, 6000)
    """
    if memory is None or EIGH_BYTES * wanted**2 <= memory:
        return wanted
    return max(1000, int((memory / EIGH_BYTES) ** 0.5) // 1000 * 1000)


def _row(what: str, size: str, dtype: str, images: int, cost: Cost) -> Row:
    return Row(what, size, dtype, images, float(cost.flops), float(cost.traffic))


def _sized(sizes: Sizes, batch: int, dtype: str) -> str:
    return f"batch {batch}, {sizes.image}x{sizes.image}x3, {dtype}"

"""Operations of an experiment, counted from its config, and what they take on a device."""

from typing import NamedTuple

from ntklab import ledger


class Cost(NamedTuple):
    """Operations of a whole run, over all seeds; a multiplication and its addition are two.

    Attributes:
      flops: on JAX's default device.
      dtype: `float32`, `bfloat16` or `float64`, in which most of them are made.
      host_flops: of solves that SciPy makes on the host, in float64.
      examples: training examples that pass through a network, each epoch anew; 0 for kernels.
    """

    flops: float
    dtype: str = "float32"
    host_flops: float = 0.0
    examples: float = 0.0


class Device(NamedTuple):
    """Operations a second that whole programs reach, by dtype; not the peak."""

    float32: float
    bfloat16: float
    float64: float


#: What programs with large products and convolutions reach; small ones stay below.
#:
#: bfloat16: ResNet-18 on CIFAR-10 trains at 77e12 on an A100, a quarter of its peak of 312e12
#: (KellerJordan/cifar10-airbench, README, the standard ResNet-18 of its table); the same quarter of
#: the H200's 989e12. The T4 has no bfloat16, and XLA computes in float32 instead.
#: float32 and float64: about 60 % of the peaks without tensor cores in NVIDIA's data sheets, T4
#: 8.1e12 and a 32nd of it, A100 19.5e12 and 9.7e12, H200 67e12 and 34e12: kernels ask for products
#: of full precision, which tensor cores do not make in float32.
DEVICES = {
    "T4": Device(4.9e12, 4.9e12, 0.15e12),
    "A100": Device(11.7e12, 78e12, 5.8e12),
    "H200": Device(40e12, 247e12, 20e12),
}
#: Float64 solves by LAPACK on two cores: `eigh` of 12,000 takes 140 to 170 s, at `9 n^3`.
HOST = 0.1e12
#: Operations of one kernel entry besides its inner product: arc cosine, square root and the rest.
ENTRY = 60


def estimated_seconds(cost: Cost) -> dict[str, float]:
    """Device -> estimated seconds; within a factor of about three where products dominate.

    Kernels of few pixels are bound by memory and take longer; compiling, reading data and
    what one process does twice after a pause come on top.

    >>> {name: round(s) for name, s in estimated_seconds(Cost(4.9e15, "float32")).items()}
    {'T4': 1000, 'A100': 419, 'H200': 122}
    """
    host = cost.host_flops / HOST
    return {name: cost.flops / getattr(d, cost.dtype) + host for name, d in DEVICES.items()}


def throughput(cost: Cost | None, taken: float, notes: tuple[str, ...]) -> dict:
    """What a record says of the speed of a run: `ledger.Run.compute`.

    Args:
      cost: operations of the run, None where unknown.
      taken: seconds of work.
      notes: what the record must say of single seeds.
    """
    found = {}
    if cost is not None and taken > 0:
        rate = (cost.flops + cost.host_flops) / taken
        found = {"dtype": cost.dtype, "flops_per_second": rate}
        found["fraction_of_peak"] = rate / ledger.measured_peak(cost.dtype)
        if cost.examples:
            found["examples_per_second"] = cost.examples / taken
    return found | ({"notes": list(notes)} if notes else {})


# --- the parts that experiments on kernels are made of -------------------------------------------


def gram(n: int, m: int, d: int) -> float:
    """An `(n, m)` kernel matrix of inputs with `d` pixels: `n m (2 d + ENTRY)`."""
    return n * m * (2.0 * d + ENTRY)


def eigh(n: int) -> float:
    """All eigenvalues and eigenvectors: `9 n^3`."""
    return 9.0 * n**3


def cholesky(n: int) -> float:
    """One factorisation: `n^3 / 3`."""
    return n**3 / 3


def scores(b: int, n: int, d: int, k: int) -> float:
    """Scores of a kernel machine of `n` centres and `k` outputs at `b` inputs."""
    return gram(b, n, d) + 2.0 * b * n * k


def pull(b: int, n: int, d: int, k: int) -> float:
    """One input gradient of a loss on these scores, with the scores: twice `scores`."""
    return 2 * scores(b, n, d, k)


def class_gradients(b: int, n: int, d: int, k: int) -> float:
    """The scores and an input gradient for each output: `scores + k b n (2 d + 2)`."""
    return scores(b, n, d, k) + k * b * n * (2.0 * d + 2)

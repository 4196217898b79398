"""Convolutional kernels: the recursion of the fully connected one, position by position."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.kernels.analytic import check_settings
from ntklab.kernels.base import Kernel
from ntklab.kernels.dual import LEAKY_SLOPE, check_activation, duals_of


@dataclasses.dataclass(frozen=True)
class Convolutional(Kernel):
    r"""NTK or NNGP kernel of a wide convolutional network: `depth` layers 3x3, then a readout.

    Let $p, p'$ be positions of two images with $C$ channels, and $\mathcal{A}$ the mean over the
    nine common shifts $\delta$ of a 3x3 window, zero outside the image (SAME padding: the border
    is divided by nine as well),

    $$\mathcal{A}[K]_{pp'} = \frac19 \sum_\delta K_{p+\delta, p'+\delta}.$$

    With $K_1 = \sigma_w^2 \mathcal{A}[\langle x_p, x'_{p'} \rangle / C] + \sigma_b^2$ and
    $\Theta_1 = K_1$, for $l = 1, \dots, L - 1$

    $$K_{l+1} = \sigma_w^2 \mathcal{A}[\hat\phi(K_l)] + \sigma_b^2, \qquad
      \Theta_{l+1} = K_{l+1} + \sigma_w^2 \mathcal{A}[\hat\phi'(K_l)\,\Theta_l],$$

    and the readout, a dense layer after the last activation, gives
    $K = \sigma_w^2\,\mathrm{mean}\,\hat\phi(K_L) + \sigma_b^2$ and
    $\Theta = K + \sigma_w^2\,\mathrm{mean}\,\hat\phi'(K_L)\,\Theta_L$. The mean is over equal
    positions $p = p'$ for `"flatten"` and over all pairs $(p, p')$ for `"pool"` (global average
    pooling). In neural-tangents: `stax.serial(Conv(.., (3, 3), padding="SAME", W_std=w_std,
    b_std=b_std), Relu(), ..., Flatten() or GlobalAvgPool(), Dense(1, w_std, b_std))`.

    Flatten needs the covariances of equal positions only, because a shift moves both images
    alike; pool needs those of all pairs of positions, `H W` times as many.

    Args:
      depth: convolutional layers $L$, at least 1.
      w_std: $\sigma_w$, standard deviation of the weights; sqrt(2) keeps ReLU variances equal.
      b_std: $\sigma_b$, standard deviation of the biases.
      readout: `"flatten"` or `"pool"`.
      kind: `"ntk"` or `"nngp"`.
      activation: `"relu"`, `"erf"` or `"leaky_relu"`.
      slope: of leaky ReLU for negative inputs.
      block_bytes: scratch memory, see `Kernel`.

    Cost, with `P = H W` (flatten) or `(H W)^2` (pool) numbers a pair of images: `n m P L` arc
    tangents and about `20 n m P L` additions. Scratch for one pair is `10 P` numbers, `30 P` beyond
    one layer (float32, 28x28: 31 or 94 kB for flatten, 25 or 74 MB for pool), and `block_bytes` in
    all where that is more. Without `x2` only half of the pairs are computed. `input_gradient` makes
    `k` backward passes, each about two evaluations.

    Accuracy: as for `TwoLayerNTK`, times the number of layers.

    Raises:
      ValueError: a setting out of range, or inputs that are not `(n, H, W, C)`.

    Source: Arora et al. (2019), section 4 and appendix H; Novak et al. (2019) and (2020).

    >>> import jax.numpy as jnp
    >>> print(Convolutional(w_std=3.0, kind="nngp")(jnp.ones((1, 1, 1, 1))))
    [[4.5]]
    """

    depth: int = 1
    w_std: float | int = math.sqrt(2)
    b_std: float | int = 0.0
    readout: str = "flatten"
    kind: str = "ntk"
    activation: str = "relu"
    slope: float | int = LEAKY_SLOPE

    def __post_init__(self):
        super().__post_init__()
        check_settings(self.depth, self.w_std, self.b_std, self.kind)
        check_activation(self.activation, self.slope)
        if self.readout not in ("flatten", "pool"):
            raise ValueError(f'readout must be "flatten" or "pool", got {self.readout!r}.')

    def _check(self, x1: Array, x2: Array | None, weights: Array | None = None) -> None:
        if jnp.ndim(x1) != 4:
            raise ValueError(
                f"a convolutional kernel needs images (n, H, W, C), got shape {jnp.shape(x1)}."
            )
        super()._check(x1, x2, weights)

    def _floats(self, shape: tuple[int, ...]) -> int:
        positions = shape[0] * shape[1]
        alive = 10 if self.depth == 1 else 30  # measured: arrays that XLA keeps at a time
        return alive * (positions if self.readout == "flatten" else positions**2)

    def _gradient_floats(self, shape: tuple[int, ...]) -> int:
        return 2 * self._floats(shape)

    def _tile(self, x1: Array, x2: Array) -> Array:
        """Entries `(b, c)`: the pair axes come first, the positions last."""
        return self._kernel(x1[:, None], x2[None, :])

    def _diagonal(self, x: Array) -> Array:
        return self._kernel(x, x)

    def _kernel(self, x1: Array, x2: Array) -> Array:
        """The kernel of images `(..., H, W, C)`, broadcast over the leading axes."""
        same, first, second, axes = _LAYOUTS[self.readout]
        duals, variances = duals_of(self.activation, self.slope)
        k12 = self._layer(_products(x1, x2, self.readout), axes)
        k11, k22 = (self._layer(jnp.mean(x * x, axis=-1), ((-2,), (-1,))) for x in (x1, x2))
        ntk = k12
        for layer in range(self.depth):
            dual, step = duals(k12, first(k11), second(k22))
            if layer == self.depth - 1:
                break
            k12 = self._layer(dual, axes)
            ntk = k12 + self.w_std**2 * _window(step * ntk, axes)
            k11, k22 = (self._layer(variances(k)[0], ((-2,), (-1,))) for k in (k11, k22))
        everywhere = tuple(range(-same, 0))
        k12 = self.w_std**2 * jnp.mean(dual, axis=everywhere) + self.b_std**2
        if self.kind == "nngp":
            return k12
        return k12 + self.w_std**2 * jnp.mean(step * ntk, axis=everywhere)

    def _layer(self, k: Array, axes: tuple[tuple[int, ...], ...]) -> Array:
        """A convolution's covariance from that of its input."""
        return self.w_std**2 * _window(k, axes) + self.b_std**2


def _products(x1: Array, x2: Array, readout: str) -> Array:
    """Mean over channels of the products, `(..., H, W)` or `(..., H, W, H', W')`."""
    if readout == "pool":
        x1, x2 = x1[..., :, :, None, None, :], x2[..., None, None, :, :, :]
    channels = x1.shape[-1]
    # One channel at a time: an array with all of them would be `channels` times the scratch.
    return sum(x1[..., c] * x2[..., c] for c in range(channels)) / channels


def _window(k: Array, axes: tuple[tuple[int, ...], ...]) -> Array:
    """A third of the sum over shifts -1, 0, 1, along each group of axes jointly; zero outside."""
    for group in axes:
        total = k
        for shift in (-1, 1):
            total = total + _shifted(k, group, shift)
        k = total / 3
    return k


def _shifted(k: Array, group: tuple[int, ...], shift: int) -> Array:
    """`k` moved by `shift` along every axis of the group, zeros moving in."""
    keep, pad = [slice(None)] * k.ndim, [(0, 0)] * k.ndim
    for axis in group:
        keep[axis] = slice(0, -1) if shift > 0 else slice(1, None)
        pad[axis] = (1, 0) if shift > 0 else (0, 1)
    return jnp.pad(k[tuple(keep)], pad)


def _as_first(k: Array) -> Array:
    return k[..., None, None]


def _as_second(k: Array) -> Array:
    return k[..., None, None, :, :]


def _as_is(k: Array) -> Array:
    return k


#: readout -> (number of position axes, layout of k11, layout of k22, axes that a shift moves).
_LAYOUTS: dict[str, tuple[int, Callable, Callable, tuple[tuple[int, ...], ...]]] = {
    "flatten": (2, _as_is, _as_is, ((-2,), (-1,))),
    "pool": (4, _as_first, _as_second, ((-4, -2), (-3, -1))),
}

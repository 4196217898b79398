r"""Fully connected kernels: functions of three scalars.

Of a pair of inputs they see only $c = \langle x, x' \rangle$, $q = |x|^2$ and $q' = |x'|^2$, so
that the gradient with respect to the input has a closed form,

$$\nabla_x \Theta(x, x') = F_1\,x' + 2 F_2\,x, \qquad
  F_1 = \partial\Theta/\partial c, \quad F_2 = \partial\Theta/\partial q,$$

and the gradient of a kernel machine is two matrix products.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.kernels.base import Kernel, product
from ntklab.kernels.dual import LEAKY_SLOPE, check_activation, duals_of, relu_duals


@dataclasses.dataclass(frozen=True)
class TwoLayerNTK(Kernel):
    r"""NTK of a wide two-layer ReLU network of which only the first layer is trained.

    $$\Theta(x, x') = \Big(\frac12 - \frac{\arccos u}{2\pi}\Big) \langle x, x' \rangle, \qquad
      u = \frac{\langle x, x' \rangle}{|x||x'|}.$$

    The network is $f(x) = A \max(Wx, 0) / \sqrt m$ with $A = \pm 1$ frozen and $W$ Gaussian;
    the kernel is $\mathbb{E}_w 1[w \cdot x > 0]\, 1[w \cdot x' > 0] \langle x, x' \rangle$. There
    is no factor $1/d$.

    Args:
      block_bytes: scratch memory, see `Kernel`.

    Cost: `2 n m d` operations and `n m` values of `kappa0`; `8 n m` numbers of scratch.
    `input_gradient`: `2 b m d k` operations more.

    Accuracy: see `ntklab.kernels.dual`; relative to $|x||x'|$ about 2e-7 in float32, and 1e-4 for
    pairs closer than 1e-3 rad.

    Source: Tsilivis and Kempe (2022), eq. 29; Du et al. (2019).

    >>> import jax.numpy as jnp
    >>> print(TwoLayerNTK()(jnp.array([[2.0, 0.0], [0.0, 1.0]])))
    [[2.  0. ]
     [0.  0.5]]
    """

    def _scalar(self, c: Array, q1: Array, q2: Array) -> Array:
        return c * relu_duals(c, q1, q2)[1]

    def _tile(self, x1: Array, x2: Array) -> Array:
        return self._scalar(*_scalars(x1, x2))

    def _diagonal(self, x: Array) -> Array:
        return _squares(x) / 2

    def _gradient_tile(self, x1: Array, x2: Array, weights: Array) -> Array:
        return _gradient_tile(self._scalar, x1, x2, weights)

    def _gradient_floats(self, shape: tuple[int, ...]) -> int:
        return 12


@dataclasses.dataclass(frozen=True)
class FullyConnected(Kernel):
    r"""NTK or NNGP kernel of a wide fully connected network with `depth` hidden layers.

    With $K_0 = \sigma_w^2 \langle x, x' \rangle / d + \sigma_b^2$ and $\Theta_0 = K_0$, for
    $l = 1, \dots, L$

    $$K_l = \sigma_w^2\,\hat\phi(K_{l-1}) + \sigma_b^2, \qquad
      \Theta_l = K_l + \sigma_w^2\,\hat\phi'(K_{l-1})\,\Theta_{l-1},$$

    where $\hat\phi$ and $\hat\phi'$ are the duals of `ntklab.kernels.dual`. The kernel is
    $\Theta_L$ (NTK: all layers trained) or $K_L$ (NNGP: the last layer only). The readout has the
    same $\sigma_w$ and $\sigma_b$ as the hidden layers. In neural-tangents:
    `stax.serial(Dense(.., w_std, b_std), Relu(), ..., Dense(1, w_std, b_std))`.

    Args:
      depth: hidden layers $L$, at least 1.
      w_std: $\sigma_w$, standard deviation of the weights; sqrt(2) keeps ReLU variances equal.
      b_std: $\sigma_b$, standard deviation of the biases.
      kind: `"ntk"` or `"nngp"`.
      activation: `"relu"`, `"erf"` or `"leaky_relu"`.
      slope: of leaky ReLU for negative inputs; `stax.LeakyRelu(slope)` or `ABRelu(slope, 1)`.
      block_bytes: scratch memory, see `Kernel`.

    Cost: `2 n m d` operations and `n m L` values of `kappa0`; `8 n m` numbers of scratch.
    `input_gradient`: `2 b m d k` operations more.

    Accuracy: as for `TwoLayerNTK`, times the number of layers.

    Raises:
      ValueError: a setting out of range.

    Source: Jacot et al. (2018), theorem 1; Lee et al. (2019); Arora et al. (2019), section 3.

    >>> import jax.numpy as jnp
    >>> print(FullyConnected(depth=2)(jnp.array([[1.0, 1.0]])))
    [[6.]]
    """

    depth: int = 1
    w_std: float | int = math.sqrt(2)
    b_std: float | int = 0.0
    kind: str = "ntk"
    activation: str = "relu"
    slope: float | int = LEAKY_SLOPE

    def __post_init__(self):
        super().__post_init__()
        check_settings(self.depth, self.w_std, self.b_std, self.kind)
        check_activation(self.activation, self.slope)

    def _recursion(self, k12: Array, k11: Array, k22: Array) -> Array:
        """The kernel from the covariances of the first layer's pre-activations."""
        duals, variances = duals_of(self.activation, self.slope)
        ntk = k12
        for _ in range(self.depth):
            dual, step = duals(k12, k11, k22)
            k12, k11, k22 = (self._dense(k) for k in (dual, variances(k11)[0], variances(k22)[0]))
            ntk = k12 + self.w_std**2 * step * ntk
        return ntk if self.kind == "ntk" else k12

    def _dense(self, k: Array) -> Array:
        return self.w_std**2 * k + self.b_std**2

    def _scalar(self, d: int) -> Callable:
        """The kernel as a function of `(c, q1, q2)`."""
        return lambda *scalars: self._recursion(*(self._dense(s / d) for s in scalars))

    def _tile(self, x1: Array, x2: Array) -> Array:
        return self._scalar(math.prod(x1.shape[1:]))(*_scalars(x1, x2))

    def _diagonal(self, x: Array) -> Array:
        _, variances = duals_of(self.activation, self.slope)
        k = self._dense(_squares(x) / math.prod(x.shape[1:]))
        ntk = k
        for _ in range(self.depth):
            dual, step = variances(k)
            k = self._dense(dual)
            ntk = k + self.w_std**2 * step * ntk
        return ntk if self.kind == "ntk" else k

    def _gradient_tile(self, x1: Array, x2: Array, weights: Array) -> Array:
        return _gradient_tile(self._scalar(math.prod(x1.shape[1:])), x1, x2, weights)

    def _gradient_floats(self, shape: tuple[int, ...]) -> int:
        return 12


def check_settings(depth: int, w_std: float, b_std: float, kind: str) -> None:
    """Raise one sentence when a setting of a network's kernel is out of range."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth counts hidden layers and must be at least 1, got {depth!r}.")
    if not (w_std > 0 and math.isfinite(w_std) and b_std >= 0 and math.isfinite(b_std)):
        raise ValueError(f"w_std must be positive and b_std not negative, got {w_std}, {b_std}.")
    if kind not in ("ntk", "nngp"):
        raise ValueError(f'kind must be "ntk" or "nngp", got {kind!r}.')


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _squares(x: Array) -> Array:
    x = _flat(x)
    return jnp.sum(x * x, axis=1)


def _scalars(x1: Array, x2: Array) -> tuple[Array, Array, Array]:
    """Inner products `(b, c)` and squared norms `(b, 1)` and `(1, c)` of two blocks.

    A pair that agrees, or is opposite, to the rounding error of a matrix product (16 eps in both
    norm and inner product) gets the inner product that it must have. Its slope stays that of the
    inner product.
    """
    c = product(_flat(x1), _flat(x2).T)
    q1, q2 = _squares(x1)[:, None], _squares(x2)[None, :]
    mean = (q1 + q2) / 2
    slack = 16 * float(jnp.finfo(c.dtype).eps) * mean
    same = (jnp.abs(q1 - q2) <= slack) & (jnp.abs(jnp.abs(c) - mean) <= slack)
    exact = jnp.where(same, jnp.sign(c) * mean, c)
    return c + jax.lax.stop_gradient(exact - c), q1, q2


def _gradient_tile(scalar: Callable, x1: Array, x2: Array, weights: Array) -> Array:
    """`sum_j w_jr (F1_ij x2_j + 2 F2_ij x1_i)`, shape `(b, k, *input)`."""
    c, q1, q2 = _scalars(x1, x2)
    _, f1 = jax.jvp(lambda c: scalar(c, q1, q2), (c,), (jnp.ones_like(c),))
    _, f2 = jax.jvp(lambda q: scalar(c, q, q2), (q1,), (jnp.ones_like(q1),))
    toward = jax.lax.map(lambda w: product(f1 * w, _flat(x2)), weights.T[:, None])
    along = 2 * product(f2, weights)[:, :, None] * _flat(x1)[:, None, :]
    return (jnp.moveaxis(toward, 0, 1) + along).reshape(len(x1), weights.shape[1], *x1.shape[1:])

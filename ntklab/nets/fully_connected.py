"""Fully connected networks: of any widths, and the two-layer one of which one layer moves."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from ntklab._typing import Array, Shaped
from ntklab.nets.layers import activation_fn, check_input, flat


class NTKDense(nn.Module):
    r"""A dense layer in NTK parameterisation: $\sigma_w W^\top x / \sqrt d + \sigma_b b$.

    W `(d, features)` and b `(features,)` are standard normal at initialisation, so that the step
    of gradient descent, and the tangent kernel, do not depend on the width. Without `b_std` there
    is no b.

    Source: Jacot et al. (2018), section 2.
    """

    features: int
    w_std: float = math.sqrt(2)
    b_std: float = 0.0
    kernel_init: Callable = nn.initializers.normal(1.0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`(b, d) -> (b, features)`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel)
        y = x @ kernel * (self.w_std / math.sqrt(x.shape[-1]))
        if self.b_std > 0:
            bias = self.param("bias", nn.initializers.normal(1.0), (self.features,))
            y = y + (self.b_std * bias.astype(y.dtype))[None, :]
        return y


class FC(nn.Module):
    r"""Fully connected network of any widths, $h_{l+1} = \phi(W_{l+1}^\top h_l + b_{l+1})$.

    | `parameterisation` | a layer | at initialisation |
    |---|---|---|
    | `"standard"` | $W^\top x + b$ | $W \sim N(0, \sigma_w^2 / d)$, $b \sim N(0, \sigma_b^2)$ |
    | `"ntk"` | $\sigma_w W^\top x / \sqrt d + \sigma_b b$ | $W, b \sim N(0, 1)$ |

    Both give the same distribution of functions; their tangent kernels differ. The kernel of the
    second tends to `ntklab.kernels.FullyConnected(depth=len(widths), w_std=..., b_std=...)` as the
    widths grow. The readout has the same $\sigma_w$ and $\sigma_b$ as the hidden layers.

    Args:
      widths: hidden units, one number a layer.
      outputs: logits k.
      activation: `"relu"`, `"erf"`, `"gelu"` (exact), `"softplus"`, `"tanh"`, or a function such
        as `Softplus(beta=10.0)`.
      parameterisation: `"standard"` or `"ntk"`.
      w_std: $\sigma_w$; sqrt(2) keeps ReLU variances equal (He).
      b_std: $\sigma_b$. At 0, biases start at zero (standard) or do not exist (NTK).
      zero_last: start with a zero last layer; `ResNet` says what that does.

    Cost: `sum d_l d_{l+1}` multiplications an example, as many parameters.

    Raises:
      ValueError: an unknown name, or an input without a batch axis.
      TypeError: an input that is not floating point.

    Source: Jacot et al. (2018); Tsilivis and Kempe (2022), section 4, have w_std = sqrt(2),
    b_std = 0.1 and the NTK parameterisation.

    >>> import jax, jax.numpy as jnp
    >>> model = FC(widths=(1024, 1024))
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 784)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    1863690
    """

    widths: tuple[int, ...] = (1024, 1024)
    outputs: int = 10
    activation: str | Callable = "relu"
    parameterisation: str = "standard"
    w_std: float = math.sqrt(2)
    b_std: float = 0.0
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of a batch `(b, ...)`; `train` changes nothing."""
        check_input(x)
        act = activation_fn(self.activation)
        x = flat(x)
        for number, width in enumerate(self.widths):
            x = act(self._dense(width, f"hidden_{number}")(x))
        return self._dense(self.outputs, "logits", self.zero_last)(x)

    def _dense(self, features: int, name: str, zero: bool = False) -> nn.Module:
        zeros, normal = nn.initializers.zeros, nn.initializers.normal
        if self.parameterisation == "ntk":
            kernel = zeros if zero else normal(1.0)
            return NTKDense(features, self.w_std, self.b_std, kernel, name=name)
        if self.parameterisation != "standard":
            raise ValueError(
                f'parameterisation must be "standard" or "ntk", got {self.parameterisation!r}.'
            )
        kernel = nn.initializers.variance_scaling(self.w_std**2, "fan_in", "normal")
        bias = normal(self.b_std) if self.b_std > 0 and not zero else zeros
        return nn.Dense(features, kernel_init=zeros if zero else kernel, bias_init=bias, name=name)


class TwoLayer(nn.Module):
    r"""The two-layer network of Tsilivis and Kempe, of which only the first layer is trained.

    $$f(x) = A^\top \max(W x, 0) / \sqrt m, \qquad W_{ri} \sim N(0, \sigma^2), \; A_{rc} = \pm 1.$$

    W `(m, d)` is the one parameter; the signs A `(m, k)` stand in the collection `"constants"`,
    which no optimiser sees. There are no biases. (The supplement prints A for its transpose.) The
    kernel of one output does not depend on $\sigma$, and tends to `ntklab.kernels.TwoLayerNTK`;
    how lazy training is does depend on it: the smaller W is, the more gates flip.

    Args:
      width: hidden units m.
      outputs: k.
      w_std: $\sigma$, standard deviation of W.
      activation: as for `FC`.

    Cost: `m (d + k)` multiplications an example.

    Raises: as `FC` does.

    Source: Tsilivis and Kempe (2022), supplement, eq. 28 and section C.

    >>> import jax.numpy as jnp
    >>> variables = {"params": {"W": jnp.eye(2)}, "constants": {"A": jnp.ones((2, 1))}}
    >>> print(TwoLayer(width=2, outputs=1).apply(variables, jnp.array([[2.0, -1.0]])))
    [[1.4142135]]
    """

    width: int = 1000
    outputs: int = 10
    w_std: float = 0.01
    activation: str | Callable = "relu"

    @nn.compact
    def __call__(self, x: Shaped[Array, "b ..."], train: bool = False) -> Shaped[Array, "b k"]:
        """Logits `(b, outputs)` of a batch `(b, ...)`; `train` changes nothing."""
        check_input(x)
        x = flat(x)
        w = self.param("W", nn.initializers.normal(self.w_std), (self.width, x.shape[1]))
        a = self.variable("constants", "A", self._signs).value
        x, w, a = promote_dtype(x, w, a)
        hidden = activation_fn(self.activation)(x @ w.T)
        return hidden @ a / jnp.sqrt(jnp.asarray(self.width, hidden.dtype))

    def _signs(self) -> Array:
        return jax.random.rademacher(
            self.make_rng("params"), (self.width, self.outputs), jnp.float32
        )

"""What the networks share: activations, initialisations, checks of the input."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntklab._typing import Array

#: Half of a ReLU's pre-activations are cut off, so the variance 2 / fan_in keeps their size.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
#: Flax's default, variance 1 / fan_in: what the papers' code uses where it says nothing.
LECUN = nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Softplus:
    r"""The smooth ReLU $\log(1 + e^{\beta z}) / \beta$, whose kink is `1 / beta` wide.

    It is a control for gradient masking only where `1 / beta` is comparable with the
    pre-activations: a sharp one is a ReLU again. Two with equal `beta` are equal, so that they
    share compiled code.

    Args:
      beta: sharpness, above 0.

    Raises:
      ValueError: `beta` not above 0.

    >>> import jax.numpy as jnp
    >>> print(round(float(Softplus(beta=2.0)(jnp.zeros(()))), 4))
    0.3466
    """

    beta: float = 1.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}.")

    def __call__(self, z: Array) -> Array:
        """Element by element."""
        return jax.nn.softplus(self.beta * z) / self.beta


ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "erf": jax.lax.erf,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "softplus": Softplus(),
    "tanh": jnp.tanh,
}


def activation_fn(activation: str | Callable) -> Callable:
    """The function of that name, or the function itself."""
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"activation must be a function or one of {known}, got {activation!r}.")
    return ACTIVATIONS[activation]


def last_layer(outputs: int, zero: bool, init: Callable = LECUN) -> nn.Dense:
    """The layer that gives the logits, named `logits`; zero-initialised on request."""
    return nn.Dense(outputs, kernel_init=nn.initializers.zeros if zero else init, name="logits")


def check_input(x: Array, rank: int | None = None) -> None:
    """Raise one sentence when `x` is no floating-point batch (of images, for rank 4)."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise TypeError(
            f"a network needs floating-point inputs, got {jnp.result_type(x)}: divide by 255?"
        )
    if jnp.ndim(x) < 2 or (rank is not None and jnp.ndim(x) != rank):
        wanted = "examples first, (b, ...)" if rank is None else "images, (b, height, width, c)"
        raise ValueError(f"this network needs a batch of {wanted}, got shape {jnp.shape(x)}.")


def flat(x: Array) -> Array:
    """One row an example."""
    return x.reshape(len(x), -1)

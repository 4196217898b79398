r"""A network linearised in its parameters, as a pytree and a logits function."""

import dataclasses
from typing import Any

import jax

from ntklab._typing import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    r"""Network, parameters $p_0$ and displacement $\delta$ of $f(p_0, x) + J(x)\,\delta$, a pytree.

    Args:
      f: the network `f(params, x)` as a `Partial`: its frozen state, such as the statistics of
        batch normalisation, are leaves.
      params: $p_0$.
      displacement: $\delta$, a pytree like `params`.
      centred: whether the initial function $f(p_0, x)$ is left out.
    """

    f: Any
    params: Any
    displacement: Any
    centred: bool = dataclasses.field(metadata={"static": True})


def linear_logits(model: LinearModel, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    r"""The scores $f(p_0, x) + J(x)\,\delta$, or $J(x)\,\delta$ of a centred model.

    Args:
      model: network, parameters and displacement.
      x: inputs, shape `(b, ...)`.

    Returns:
      Scores as the network gives them, `(b, k)` or `(b,)`.

    Cost: one forward-mode derivative, two to three forward passes in time and memory; the Jacobian
    is never formed.

    Source: Lee et al. (2019), "Wide neural networks of any depth evolve as linear models", eq. 5;
    centred: Loo et al. (2022), section 2.

    >>> import jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> square = Partial(lambda p, x: x @ (p * p))
    >>> p, shift = jnp.array([[1.0], [2.0]]), jnp.array([[0.5], [0.0]])
    >>> print(linear_logits(LinearModel(square, p, shift, centred=False), jnp.eye(2)))
    [[2.]
     [4.]]
    """
    value, slope = jax.jvp(lambda p: model.f(p, x), (model.params,), (model.displacement,))
    return slope if model.centred else value + slope

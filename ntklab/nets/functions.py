"""From a network and its variables to plain functions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from ntklab._typing import Array


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """`(state, params, x) -> logits` of a module; equal for equal modules, hence compiled once."""

    module: nn.Module
    settings: tuple[tuple[str, Any], ...] = ()

    def __call__(self, state: Mapping, params: Any, x: Array) -> Array:
        return self.module.apply({"params": params, **state}, x, **dict(self.settings))


def as_function(
    module: nn.Module, variables: Mapping[str, Any], **settings: Any
) -> tuple[jax.tree_util.Partial, Any]:
    r"""A network in evaluation mode as `f(params, x)`, with its parameters.

    Every other collection (running statistics of batch normalisation, the frozen signs of
    `TwoLayer`) is held by `f` as leaves of a pytree: compiled code takes them as arguments, so
    that nothing is baked in, and networks of one architecture share it. BatchNorm then is an
    affine map per channel, and `f` treats every example by itself, which a kernel needs.

    Args:
      module: a linen module, of this package or of your own.
      variables: what `module.init` or training returned, `{"params": ..., ...}`.
      **settings: passed to the module, for example `train=False` where it has no default; they
        must be hashable.

    Returns:
      `f`, a `jax.tree_util.Partial` from `(params, x)` to logits `(b, k)`, and `params`. Pass `f`
      through `jax.jit` as an argument.

    Raises:
      ValueError: `variables` without `"params"`, or settings of the module that cannot be hashed.

    Cost: none; no array is copied.

    >>> import jax, jax.numpy as jnp
    >>> from ntklab import nets
    >>> model = nets.ResNet8(norm="batch")
    >>> x = jnp.ones((2, 8, 8, 3))
    >>> f, params = as_function(model, jax.jit(model.init)(jax.random.key(0), x))
    >>> print(f(params, x).shape)
    (2, 10)
    """
    if "params" not in variables:
        raise ValueError(
            "variables must be the whole dictionary of module.init, with the key 'params'; it has "
            f"{', '.join(map(str, variables)) or 'no keys'}."
        )
    evaluation = _Evaluation(module, tuple(sorted(settings.items())))
    try:
        hash(evaluation)
    except TypeError as error:
        raise ValueError(
            f"the settings of {type(module).__name__} must be hashable, for example tuples instead "
            f"of lists ({error})."
        ) from error
    state = {name: value for name, value in variables.items() if name != "params"}
    return jax.tree_util.Partial(evaluation, state), variables["params"]


def logits_fn(
    module: nn.Module, variables: Mapping[str, Any], **settings: Any
) -> jax.tree_util.Partial:
    r"""A network in evaluation mode as a logits function `(b, ...) -> (b, k)`.

    The parameters are leaves of the returned pytree, so that an attack compiled once serves every
    network of one architecture. (`Partial(f, params)` of an `f` from `as_function` would instead
    make `f` and its statistics a constant, and compile again for every network.)

    Args, errors and cost: those of `as_function`.

    >>> import jax, jax.numpy as jnp
    >>> from ntklab import nets
    >>> model, x = nets.FC(widths=(4,), outputs=3), jnp.ones((2, 5))
    >>> print(logits_fn(model, model.init(jax.random.key(0), x))(x).shape)
    (2, 3)
    """
    f, params = as_function(module, variables, **settings)
    return jax.tree_util.Partial(f.func, *f.args, params)

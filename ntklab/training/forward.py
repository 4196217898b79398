r"""The function that a phase trains: the network, or its tangent, in either mode of BatchNorm."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ntklab._typing import Array
from ntklab.attacks.losses import cross_entropy


class Weights(NamedTuple):
    """All that the trained function depends on, a pytree.

    Attributes:
      trained: what the optimiser moves: the parameters, or in a linear phase the displacement
        `p - p_0`.
      start: the frozen parameters `p_0` of a linear phase; None in a nonlinear one.
      statistics: every other collection of variables, such as running statistics.
    """

    trained: Any
    start: Any
    statistics: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Forward:
    """`forward(weights, x, live) -> (logits, statistics)`, compiled once for equal settings.

    Attributes:
      module: a linen module; it may take an argument `train`.
      model: `"nonlinear"`, `"linear"` or `"centred"`.
      dtype: in which weights and inputs enter; logits are float32 whatever it is.
    """

    module: nn.Module
    model: str = "nonlinear"
    dtype: str = "float32"

    def __call__(self, weights: Weights, x: Array, live: bool) -> tuple[Array, Mapping[str, Any]]:
        """Scores `(b, k)` in float32, and the statistics after this batch (`live`) or as before."""
        trained, start, x = _cast((weights.trained, weights.start, x), self.dtype)

        def network(params):
            return self._apply(params, weights.statistics, x, live)

        if self.model == "nonlinear":
            logits, statistics = network(trained)
        else:
            value, slope, statistics = jax.jvp(network, (start,), (trained,), has_aux=True)
            logits = slope if self.model == "centred" else value + slope
        if logits.ndim != 2:
            raise ValueError(
                f"the network must give scores (batch, classes), got an array {logits.shape}."
            )
        return logits.astype(jnp.float32) if self.dtype == "bfloat16" else logits, statistics

    def _apply(self, params: Any, statistics: Mapping, x: Array, live: bool) -> tuple:
        variables = {"params": params, **statistics}
        takes = "train" in inspect.signature(type(self.module).__call__).parameters
        settings = {"train": live} if takes else {}
        if not live:
            return self.module.apply(variables, x, **settings), statistics
        logits, new = self.module.apply(variables, x, mutable=list(statistics), **settings)
        return logits, {**statistics, **new}


@dataclasses.dataclass(frozen=True)
class _Scores:
    """`(weights, x) -> logits` of a `Forward`; equal for equal ones."""

    forward: Any
    live: bool

    def __call__(self, weights: Weights, x: Array) -> Array:
        return self.forward(weights, x, self.live)[0]


def logits_fn(forward: Any, weights: Weights, live: bool = False) -> jax.tree_util.Partial:
    """The trained function of a `Forward` as attacks take it: a pytree, no gradient of its weights.

    With `live` every batch is normalised by its own statistics.
    """
    return jax.tree_util.Partial(_Scores(forward, live), jax.lax.stop_gradient(weights))


def squared_error(logits: Array, y: Array) -> Array:
    """Half the squared distance to the one-hot label, `(b,)`; scores `(b, k)`, indices `(b,)`."""
    return 0.5 * ((logits - jax.nn.one_hot(y, logits.shape[1], dtype=logits.dtype)) ** 2).sum(1)


#: The losses of a phase, by name: `loss(logits, y) -> (b,)`.
LOSS_FUNCTIONS = {"cross_entropy": cross_entropy, "squared_error": squared_error}


def _cast(tree: Any, dtype: str) -> Any:
    """Floating-point leaves in the dtype; float64 stays where it is asked for by the arrays."""

    def one(a):
        narrow = dtype == "bfloat16" and jnp.issubdtype(a.dtype, jnp.floating)
        return a.astype(dtype) if narrow else a

    return jax.tree.map(one, tree)

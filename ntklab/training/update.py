"""One update of the weights by stochastic gradient descent, whatever the objective."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ntklab._typing import Array
from ntklab.training.forward import LOSS_FUNCTIONS, Forward, Weights


class TrainState(NamedTuple):
    """What one step hands to the next, a pytree.

    Attributes:
      weights: the trained function's arguments.
      optimiser: momentum.
      noise: the perturbation that `Free` carries from batch to batch; None elsewhere.
    """

    weights: Weights
    optimiser: Any
    noise: Any


class Seen(NamedTuple):
    """What a step saw of its batch, before the update that it led to.

    Attributes:
      loss: the objective, mean over the batch.
      correct: fraction of the examples trained on that were classified rightly.
      constant: fraction of them given to the class that gets most; 1 for a constant predictor.
      clean_loss: loss of the clean examples where the step computes it, else NaN.
      clean_correct: their accuracy, or NaN.
    """

    loss: Array
    correct: Array
    constant: Array
    clean_loss: Array
    clean_correct: Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is fixed of a phase's updates; hashable, compiled in.

    Attributes:
      forward: the function.
      loss: name of the loss.
      live: whether batch normalisation uses, and updates by, the batch.
      momentum: of the descent.
      nesterov: whether the gradient is taken ahead of the momentum.
      weight_decay: times the weights, added to the gradient.
    """

    forward: Forward
    loss: str
    live: bool
    momentum: float
    nesterov: bool
    weight_decay: float

    def optimiser(self) -> optax.GradientTransformation:
        """The descent without its learning rate, which every step brings."""
        parts = []
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay))
        if self.momentum:
            parts.append(optax.trace(self.momentum, self.nesterov))
        return optax.chain(*parts) if parts else optax.identity()

    def losses(self, logits: Array, y: Array) -> Array:
        """The loss of each example, `(b,)`."""
        return LOSS_FUNCTIONS[self.loss](logits, y)

    def apply(self, state: TrainState, gradient: Any, rate: Any) -> TrainState:
        """The state after a step along minus the gradient of the trained weights."""
        trained = state.weights.trained
        steps, optimiser = self.optimiser().update(gradient, state.optimiser, trained)
        trained = jax.tree.map(lambda p, s: (p - rate * s).astype(p.dtype), trained, steps)
        return state._replace(weights=state.weights._replace(trained=trained), optimiser=optimiser)

    def descend(self, state: TrainState, objective: Callable, rate: Any) -> tuple[TrainState, Any]:
        """One update by `objective(weights) -> (loss, (statistics, rest))`; returns `rest` too."""

        def of(trained):
            return objective(state.weights._replace(trained=trained))

        gradient, (statistics, rest) = jax.grad(of, has_aux=True)(state.weights.trained)
        state = self.apply(state, gradient, rate)
        return state._replace(weights=state.weights._replace(statistics=statistics)), rest

    def fit(self, state: TrainState, x: Array, y: Array, rate: Any) -> tuple[TrainState, Seen]:
        """One update on these examples as they are."""

        def objective(weights):
            logits, statistics = self.forward(weights, x, self.live)
            loss = self.losses(logits, y).mean()
            return loss, (statistics, seen(loss, logits, y))

        return self.descend(state, objective, rate)


def seen(loss: Array, logits: Array, y: Array, clean: tuple[Array, Array] | None = None) -> Seen:
    """The summary of a batch from its logits; `clean` is loss and accuracy of clean examples."""
    guess = logits.argmax(axis=1)
    predicted = jax.nn.one_hot(guess, logits.shape[1], dtype=loss.dtype).mean(0)
    none = jnp.full((), jnp.nan, loss.dtype)
    return Seen(loss, accuracy(logits, y), predicted.max(), *(clean or (none, none)))


def accuracy(logits: Array, y: Array) -> Array:
    """The fraction of rows whose greatest entry stands at the label."""
    return (logits.argmax(axis=1) == y).astype(jnp.float32).mean()

r"""The two-layer network of Chen et al. in NTK parameterisation, trained as their code trains it.

$$f(x) = \tfrac{1}{\sqrt m} W_2^\top \max(\tfrac{1}{\sqrt d} W_1^\top x, 0), \qquad
  W_1 \in \mathbb{R}^{d \times m},\; W_2 \in \mathbb{R}^{m \times 1},$$

all entries standard normal at the start, no biases. What is trained and classifies is $f - f_0$.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntklab._typing import Array, Float, Int, Key


class Weights(NamedTuple):
    """Matrices `(d, m)` and `(m, 1)`."""

    first: Array
    last: Array


def initialise(key: Key[Array, ""], d: int, width: int) -> Weights:
    """Standard normal weights."""
    first, last = jax.random.split(key)
    return Weights(jax.random.normal(first, (d, width)), jax.random.normal(last, (width, 1)))


@jax.jit
def scores(weights: Weights, x: Float[Array, "b d"]) -> Float[Array, "b"]:
    """The network's one output.

    Cost: `2 b d m` operations; memory for two `(b, m)` arrays.

    >>> import jax.numpy as jnp
    >>> print(scores(Weights(jnp.eye(2), jnp.ones((2, 1))), jnp.array([[2.0, -1.0]])).round(4))
    [1.]
    """
    return _output(weights, _hidden(weights, x))


def _hidden(weights: Weights, x):
    return jax.nn.relu(x @ weights.first / math.sqrt(x.shape[1]))


def _output(weights: Weights, hidden):
    return (hidden @ weights.last)[:, 0] / math.sqrt(len(weights.last))


@partial(jax.jit, donate_argnums=0)
def epoch(
    weights: Weights,
    data: tuple[Float[Array, "n d"], Float[Array, "n"], Float[Array, "n"]],
    rows: Int[Array, "steps b"],
    learning_rate: float | Float[Array, ""],
    regularisation: float | Float[Array, ""],
) -> Weights:
    r"""Mini-batch subgradient descent on the mean hinge loss, one pass.

    $$\frac{1}{|B|} \sum_{i \in B} \max\big(0, 1 - y_i (f(x_i) - f_0(x_i))\big)
      + \frac{\lambda}{2} \Big|\frac{W_2}{\sqrt m}\Big|^2$$

    As coded by the authors, the penalty is on the last layer alone, and divided by the width once
    more than the parameterisation asks for. A batch without an example inside its margin costs one
    forward pass: all it does is the decay.

    Args:
      weights: weights; their memory is reused for the result.
      data: images, signs, and `f_0` of the images.
      rows: the images of each step; an index of n or more stands for none.
      learning_rate: size of a step.
      regularisation: lambda.

    Returns:
      The weights after the last step.

    Cost: `2 n d m` operations forward, twice that backward for batches with examples inside their
    margin; memory for two copies of the weights and a few `(b, m)` arrays.

    Source: the authors' train_sgd.py.
    """
    x, signs, offset = data
    d, m = weights.first.shape

    def step(weights, rows):
        here = jnp.minimum(rows, len(x) - 1)
        valid = rows < len(x)
        hidden = _hidden(weights, x[here])
        margin = signs[here] * (_output(weights, hidden) - offset[here])
        push = jnp.where((margin < 1) & valid, signs[here], 0.0) / valid.sum(dtype=x.dtype)
        last = weights.last * (1 - learning_rate * regularisation / m)

        def move(first, last):
            change = hidden.T @ push / math.sqrt(m)
            back = jnp.where(hidden > 0, push[:, None] * weights.last[:, 0][None, :], 0.0)
            change_first = x[here].T @ back / math.sqrt(m * d)
            moved = first + learning_rate * change_first
            return moved, last + learning_rate * change[:, None]

        inside = jnp.any(push != 0)
        return Weights(*jax.lax.cond(inside, move, lambda *w: w, weights.first, last)), None

    return jax.lax.scan(step, weights, rows)[0]

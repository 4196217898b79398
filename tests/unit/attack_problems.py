"""Small machines and points with known answers: for tests of gradient attacks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

UNBOUNDED = (-float("inf"), float("inf"))
NORMS = ("linf", "l2")
ORDER = {"linf": np.inf, "l2": 2}
DUAL = {"linf": 1, "l2": 2}


def linear(w, x):
    return x @ w


def network(weights, x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ weights[0])
    return hidden @ weights[1]


def cautious(weights, x):
    """A curved binary machine that no attack flips: only its loss moves."""
    return 20.0 + network(weights, x)[:, 0]


def random_weights(seed, d=12, k=4, hidden=32):
    first, second = jax.random.split(jax.random.key(seed))
    scale = 4.0 / d**0.5
    return (
        scale * jax.random.normal(first, (d, hidden)),
        jax.random.normal(second, (hidden, k)),
    )


def inputs(seed=1, b=64, d=12):
    return jax.random.uniform(jax.random.key(seed), (b, d))


def lengths(delta, norm):
    return np.linalg.norm(np.asarray(delta).reshape(len(delta), -1), ORDER[norm], axis=1)


def confident_linear(d=7, b=20):
    """A linear machine, points, and their own predictions, all further than 0.2 from a flip."""
    w = jax.random.normal(jax.random.key(3), (d,))
    x = jax.random.normal(jax.random.key(4), (b, d))
    x = x + jnp.where(x @ w > 0, 1.0, -1.0)[:, None] * w[None]
    return Partial(linear, w), x, (x @ w > 0).astype(jnp.int32)

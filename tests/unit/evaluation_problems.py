"""A small network with faults by number, and a suite of attacks for it: for tests of `evaluate`."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntklab.attacks import fgsm, margin, pgd
from ntklab.attacks._flags import random_noise
from ntklab.attacks._problem import AttackResult
from ntklab.attacks.evaluate import evaluate_robustness

EPS = 0.1
N, D, K = 48, 8, 4


FAULTS = {"levels": 0.0, "gain": 1.0, "flat": 0.0, "softmax": 0.0, "jump": 0.0}


def model_of(parts, x):
    """A small network. Faults are made by numbers, so that nothing compiles twice."""
    weights, fault = parts
    x = x.reshape(len(x), D)
    x = jnp.where(fault["levels"] > 0, jnp.round(8 * x) / 8, x)
    x = jnp.where(fault["flat"] > 0, 0.3, x)
    scores = fault["gain"] * (jnp.tanh((x - 0.5) @ weights[0]) @ weights[1])
    scores = jnp.where(fault["softmax"] > 0, jax.nn.softmax(scores), scores)
    step = 0.05 + 0.01 * x[:, :1] - jnp.where(x[:, 1:2] > 0.55, 1.0, 0.0)  # a slope and a step
    return jnp.where(fault["jump"] > 0, jnp.pad(step, ((0, 0), (0, K - 1))), scores)


def with_fault(**fault):
    return Partial(model_of, (weights(), {**FAULTS, **fault}))


def weights():
    first, second = jax.random.split(jax.random.key(0))
    return 0.5 * jax.random.normal(first, (D, 16)), jax.random.normal(second, (16, K))


def problem(model):
    """Points on which the model is right, by definition."""
    x = jax.random.uniform(jax.random.key(1), (N, D), minval=0.2, maxval=0.8)
    scores = model(x)
    return x, (scores > 0 if scores.ndim == 1 else scores.argmax(1)).astype(jnp.int32)


class Guess:
    """A gradient-free stand-in: the worst of some random corners of the ball."""

    def __init__(self, eps=EPS, tries=30):
        self.eps, self.tries, self.noise = eps, tries, random_noise(eps)

    def __call__(self, logits_fn, x, y, key):
        best = self.noise(logits_fn, x, y, key)
        for i in range(1, self.tries):
            new = self.noise(logits_fn, x, y, jax.random.fold_in(key, i))
            better = new.loss > best.loss
            x_adv = jnp.where(better[:, None], new.x_adv, best.x_adv)
            loss = jnp.maximum(new.loss, best.loss)
            best = AttackResult(x_adv, loss, best.success | new.success, 0, best.zero_gradients)
        return best._replace(queries=self.tries)


def small_suite():
    return {
        "FGSM": fgsm(EPS, loss=margin),
        "PGD": pgd(EPS, steps=20, restarts=3, loss=margin),
        "guess": Guess(),
    }


def evaluate(model, x=None, y=None, attacks=None, **options):
    x, y = problem(model) if x is None else (x, y)
    attacks = small_suite() if attacks is None else attacks
    options = {"eps": EPS, "key": jax.random.key(2), **options}
    return evaluate_robustness(model, x, y, attacks=attacks, **options)

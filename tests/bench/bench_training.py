"""PGD-7 training of two networks: our engine against the same loop in PyTorch, same cores."""

import json
import os
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from run import Pair
from second import SecondPython

from ntklab import nets
from ntklab.training import PGD, Phase, Weights, constant, train


class Case(NamedTuple):
    """A network, its images, how it is trained, and the bound on the ratio."""

    network: type
    shape: tuple[int, int, int]
    eps: float
    step_size: float
    batch: int
    batches: int
    epochs: int
    rate: float
    at_most: float | None


#: No bound where XLA's convolutions are slower on CPUs than oneDNN's, which PyTorch calls.
CASES = (
    Case(nets.ToyCNN, (14, 14, 1), 0.1, 0.1 / 3, 100, 20, 4, 0.01, 1.0),
    Case(nets.CNNMega, (32, 32, 3), 8 / 255, 2 / 255, 250, 1, 2, 0.01, None),
)
ATTACK_STEPS, MOMENTUM = 7, 0.9


def pairs():
    """A pair for each network."""
    for case in CASES:
        model, weights, x, y = problem(case)
        images = case.batch * case.batches * case.epochs
        title = f"PGD-{ATTACK_STEPS} training, {case.network.__name__}, {images} images in batches"
        other = in_torch(case, weights, x, y)
        yield Pair(
            f"{title} of {case.batch} / PyTorch",
            partial(ours, case, model, Weights(weights, None, {}), x, y),
            lambda other=other: other.call()["losses"],
            case.at_most,
            learn_alike,
            "PyTorch: the fastest of NCHW and channels_last, eager and compiled",
            other.close,
        )


def problem(case: Case):
    """The network, its initial weights, and noisy pictures of ten patterns."""
    rng = np.random.default_rng(0)
    y = np.arange(case.batch * case.batches) % 10
    patterns = rng.choice([0.2, 0.8], (10, *case.shape))
    noise = 0.05 * rng.standard_normal((len(y), *case.shape))
    x = np.clip(patterns[y] + noise, 0, 1).astype(np.float32)
    model = case.network()
    weights = jax.jit(model.init)(jax.random.key(0), x[:1])["params"]
    return model, weights, x, y.astype(np.int32)


def ours(case: Case, model, start: Weights, x, y) -> list[float]:
    """Mean losses of the epochs."""
    attack = PGD(case.eps, ATTACK_STEPS, case.step_size)
    phase = Phase(case.epochs, attack, learning_rate=constant(case.rate), momentum=MOMENTUM)
    settings = {"batch_size": case.batch, "shuffle": False, "show_progress": False}
    trained = train(model, (x, y), [phase], start=start, **settings)
    return [row["loss"] for row in trained.metrics]


def in_torch(case: Case, weights, x, y) -> SecondPython:
    """The same loop in the second interpreter."""
    settings = {
        "batch": case.batch,
        "steps": case.batches * case.epochs,
        "trial": max(1, case.batches // 2),
        "attack_steps": ATTACK_STEPS,
        "eps": case.eps,
        "step_size": case.step_size,
        "rate": case.rate,
        "momentum": MOMENTUM,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2,
    }
    flat = {f"v/{k}": np.asarray(v) for k, v in flatten_dict(weights, sep="/").items()}
    arguments = [case.network.__name__, json.dumps(settings)]
    return SecondPython(".venv-torch", "torch_training.py", arguments, {"x": x, "y": y, **flat})


def learn_alike(ours: list[float], other: list[float]) -> bool:
    """Both losses fall, and by the same to a quarter: random starts differ."""
    epochs = np.asarray(other).reshape(len(ours), -1).mean(axis=1)
    fell, other_fell = ours[0] - ours[-1], epochs[0] - epochs[-1]
    alike = np.allclose(ours, epochs, rtol=0.02) and abs(fell - other_fell) < 0.25 * other_fell
    return bool(fell > 0 and other_fell > 0 and alike)

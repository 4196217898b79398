"""One attack on one block of an evaluation: judged, and kept on disk where a folder is named."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._common import write_atomically
from ntklab._typing import Array
from ntklab.attacks.losses import correct

#: A perturbation may be longer than eps by this share, by rounding.
_SLACK = 1e-4


class Task(NamedTuple):
    """A model, its examples and the threat."""

    logits_fn: Callable
    x: Array
    y: Array
    eps: float
    norm: str
    bounds: tuple[float, float]
    key: Any


class Store:
    """Parts of an evaluation, in memory alone or in a folder that knows its problem."""

    def __init__(self, folder, task: Task, suite: dict, block: int, skip_broken: bool):
        self.folder, self.task, self.block = folder and Path(folder), task, block
        if self.folder:
            self._claim(_problem(task, suite, block, skip_broken), _first_scores(task, block))

    def part(self, index: int, start: int, rows: np.ndarray, attack: Callable, key: Any) -> dict:
        """One attack on one block: read, or computed and written."""
        path = self.folder and self.folder / f"attack{index:02d}-{start:07d}.npz"
        if path and path.is_file():
            with np.load(path) as kept:
                if np.array_equal(kept["rows"], rows):
                    return dict(kept)
        key = jax.random.fold_in(key, start)
        part = _attack_part(self.task, attack, rows, self.block, key)
        if path:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, rows=rows, **part)
            write_atomically(path, buffer.getvalue())
        return part

    def _claim(self, problem: dict, ours: np.ndarray) -> None:
        path = self.folder / "problem.json"
        if not path.is_file():
            write_atomically(path, json.dumps({**problem, "scores": ours.tolist()}))
            return
        kept = json.loads(path.read_text())
        theirs = np.asarray(kept.pop("scores"))
        other = [name for name in problem if kept.get(name) != problem[name]]
        close = 1e-3 * max(float(np.abs(ours).max()), 1e-30)
        if theirs.shape != ours.shape or np.abs(theirs - ours).max() > close:
            other.append("logits_fn")
        if other:
            raise ValueError(
                f"{self.folder} holds an evaluation of another problem (differs in "
                f"{', '.join(other)}): name another folder, or delete this one."
            )


def _problem(task: Task, suite: dict, block: int, skip_broken: bool) -> dict:
    """All that decides the results, apart from the model, as JSON."""
    return {
        "x": [list(task.x.shape), str(task.x.dtype), _digest(task.x)],
        "y": _digest(task.y),
        "eps": task.eps,
        "norm": task.norm,
        "bounds": list(task.bounds),
        "key": _digest(jax.random.key_data(task.key)),
        "block": block,
        "skip_broken": skip_broken,
        "attacks": [[name, _describe(attack)] for name, attack in suite.items()],
    }


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _first_scores(task: Task, block: int) -> np.ndarray:
    """Scores of the first block, by which a model is known again."""
    return np.asarray(scores(task.logits_fn, task.x[:block]), np.float64)


def _describe(value: Any) -> str:
    """An attack in words that hold between processes: no address of memory."""
    if dataclasses.is_dataclass(value):
        fields = (
            f"{f.name}={_describe(getattr(value, f.name))}" for f in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, functools.partial):
        parts = ", ".join(map(_describe, (value.func, *value.args, *value.keywords.items())))
        return f"partial({parts})"
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


def _attack_part(task: Task, attack: Callable, rows: np.ndarray, block: int, key: Any) -> dict:
    """One attack on some rows, filled up to a whole block so that nothing compiles twice."""
    began = time.perf_counter()
    filled = np.resize(rows, block)
    with quietly():
        result = attack(task.logits_fn, task.x[filled], task.y[filled], key)
    x_adv = np.asarray(result.x_adv)
    seconds = time.perf_counter() - began
    _check_inside(task, rows, x_adv[: len(rows)])
    return {
        "broken": misclassified(task, rows, result.x_adv, block),
        "x_adv": x_adv[: len(rows)],
        "zero_gradients": np.asarray(result.zero_gradients)[: len(rows)],
        "gradients": np.asarray(result.gradients_used),
        "queries": np.asarray(getattr(result, "queries", 0)),
        "seconds": np.asarray(seconds),
    }


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warning of softmax outputs inside the block: an evaluation has a flag for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "logits_fn seems to return softmax")
        yield


def misclassified(task: Task, rows: np.ndarray, x_adv: Any, block: int) -> np.ndarray:
    """Whether these points, or the clean rows where `x_adv` is None, are misclassified."""
    filled = np.resize(rows, block)
    points = task.x[filled] if x_adv is None else x_adv
    wrong, finite = _judge(task.logits_fn, points, task.y[filled])
    if not bool(finite):
        raise ValueError("logits_fn returns NaN or infinities; look at it before attacking it.")
    return np.asarray(wrong)[: len(rows)]


@jax.jit
def scores(logits_fn, x):
    """`logits_fn(x)`, compiled once for all models of one kind."""
    return logits_fn(x)


@jax.jit
def _judge(logits_fn, x, y):
    logits = logits_fn(x)
    return ~correct(logits, y), jnp.isfinite(logits).all()


def _check_inside(task: Task, rows: np.ndarray, x_adv: np.ndarray) -> None:
    low, high = task.bounds
    if not np.isfinite(x_adv).all() or x_adv.min() < low or x_adv.max() > high:
        raise ValueError("an attack returned points outside the bounds: mend the attack.")
    delta = (x_adv.astype(np.float64) - np.asarray(task.x[rows])).reshape(len(rows), -1)
    size = np.linalg.norm(delta, np.inf if task.norm == "linf" else 2, axis=1).max()
    if size > task.eps * (1 + _SLACK) + 1e-6:
        raise ValueError(
            f"an attack returned a perturbation of {task.norm} norm {size:.4g}, outside the ball "
            f"of radius {task.eps:.4g}: mend the attack."
        )

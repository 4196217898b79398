"""The standard suite on one model: worst case per example, with the flags that qualify it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ntklab._common import progress
from ntklab._typing import Array, LogitsFn, Number
from ntklab.attacks import _flags
from ntklab.attacks._flags import Flag, random_noise
from ntklab.attacks._parts import Store, Task, misclassified
from ntklab.attacks._problem import check_budget, prepare
from ntklab.attacks._report import RobustnessReport, Row
from ntklab.attacks.apgd import apgd, apgd_targeted
from ntklab.attacks.gradient import fgsm, pgd
from ntklab.attacks.gradient_free import random_block, square

NOISE = "random noise"
_COUNTS = ("gradients", "queries")
_CHECKED = 128


def evaluate_robustness(
    logits_fn: LogitsFn,
    x: Any,
    y: Any,
    *,
    eps: Number,
    norm: str = "linf",
    bounds: tuple[Number, Number] = (0.0, 1.0),
    attacks: Mapping[str, Callable] | None = None,
    key: Any,
    block: int = 256,
    resume: str | Path | None = None,
    skip_broken: bool = False,
) -> RobustnessReport:
    """Robust accuracy: the worst case over a suite of attacks, with warning flags.

    Every attack is judged here, not by itself: what it returns must lie in the ball and in the box,
    and it counts where `logits_fn` misclassifies it. Clean errors count as broken. Random noise
    of size eps is always part of the suite, as a control.

    Each attack runs on every example, so that its row is its own accuracy. With `skip_broken` an
    attack runs only on what the attacks before it left correct: much cheaper, the same worst case
    in kind, and each row is then the accuracy under all attacks up to it (`tested` says on how
    many it ran).

    Args:
      logits_fn: scores `(b, k)`, or `(b,)` for a binary machine, of a batch `(b, ...)`. Make it
        a `jax.tree_util.Partial` over its arrays: the attacks then compile once for all models.
      x: clean inputs `(n, ...)`, floating point, inside `bounds`.
      y: class indices `(n,)`.
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      bounds: `(low, high)` of valid inputs.
      attacks: name -> attack, in the order in which they run; `standard_suite` if not given.
      key: PRNG key; every attack and block gets its own.
      block: examples a call. Attacks that draw random numbers draw others with other blocks.
      resume: a folder. Each attack's result on each block is written there; what is there already
        is read instead of computed.
      skip_broken: whether attacks skip what is broken already.

    Returns:
      A `RobustnessReport`. Print it. `report.accuracy` is the number with its flags.

    Raises:
      ValueError: senseless eps, bounds, x or y (as for every attack); an attack that was made for
        another threat model, or that returns points outside it; a folder of another problem.
      TypeError: `x` is not floating point, `y` not integer.

    Cost: the suite's gradients and queries for each example, and some 330 gradients for each of 128
    examples that the checks look at. Memory: that of the attacks on one block, and two copies of x.

    References:
      Croce & Hein 2020 (the suite); Athalye, Carlini & Wagner 2018, and Carlini et al. 2019 (the
      checks).

    >>> import jax, jax.numpy as jnp
    >>> x = jax.random.uniform(jax.random.key(1), (40, 2))
    >>> linear = jax.tree_util.Partial(lambda w, x: x @ w, jnp.array([1.0, -1.0]))
    >>> y = (linear(x) > 0).astype(int)
    >>> report = evaluate_robustness(
    ...     linear, x, y, eps=0.1, attacks={"FGSM": fgsm(0.1)}, key=jax.random.key(0)
    ... )
    >>> print(report.accuracy)
    0.625 [linf, eps 0.1, worst of 1 attacks; no flags]
    """
    check_budget(eps, norm, bounds)
    logits_fn, x, y, logits = prepare(logits_fn, x, y, eps, norm, bounds)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}.")
    n_classes = logits.shape[1] if len(logits.shape) == 2 else 2
    suite = dict(attacks or standard_suite(eps, norm, bounds, n_classes, x.ndim in (3, 4)))
    for name, attack in suite.items():
        _check_threat(name, attack, eps, norm)
    task = Task(logits_fn, x, y, float(eps), norm, (float(bounds[0]), float(bounds[1])), key)
    suite = {NOISE: random_noise(eps, norm, bounds), **suite}
    store = Store(resume, task, suite, min(block, len(x)), skip_broken)
    return _report(task, suite, _run(task, suite, store, min(block, len(x)), skip_broken))


def standard_suite(
    eps: Number,
    norm: str = "linf",
    bounds: tuple[Number, Number] = (0.0, 1.0),
    n_classes: int = 10,
    images: bool = True,
    steps: int = 100,
    queries: int = 5000,
) -> dict[str, Callable]:
    """The attacks of an evaluation, in the order in which they run.

    Args:
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      bounds: `(low, high)` of valid inputs.
      n_classes: of the model. The targeted difference-of-logits ratio needs four classes; with
        fewer, APGD on the margin takes its place.
      images: whether inputs are images `(b, h, w)` or `(b, h, w, c)`; for other inputs a search
        over random sets of coordinates takes the place of Square.
      steps: gradient steps of the long attacks; fewer are for a first look.
      queries: of the gradient-free attack.

    Returns:
      name -> attack: FGSM, PGD-20, PGD-100 with 5 restarts, APGD-CE, APGD-T and Square; 1,521
      gradients and 5,000 queries an example in all, for ten classes. It is a plain dict: take
      out or add what you like.

    References:
      Croce & Hein 2020, section 5, without its FAB attack.

    >>> list(standard_suite(0.1, n_classes=2, images=False))
    ['FGSM', 'PGD-20', 'PGD-100 x5', 'APGD-CE', 'APGD-margin', 'random block']
    """
    make = {"norm": norm, "bounds": bounds}
    targets = min(9, n_classes - 1)
    return {
        "FGSM": fgsm(eps, **make),
        "PGD-20": pgd(eps, steps=20, **make),
        f"PGD-{steps} x5": pgd(eps, steps=steps, restarts=5, **make),
        "APGD-CE": apgd(eps, steps=steps, **make),
        **(
            {"APGD-T": apgd_targeted(eps, steps=steps, targets=targets, **make)}
            if n_classes >= 4
            else {"APGD-margin": apgd(eps, steps=steps, loss="margin", **make)}
        ),
        **(
            {"Square": square(eps, queries=queries, **make)}
            if images
            else {"random block": random_block(eps, queries=queries, **make)}
        ),
    }


class _Found(NamedTuple):
    """One attack's results over all examples."""

    broken: np.ndarray
    x_adv: np.ndarray
    tested: np.ndarray
    zero_gradients: np.ndarray
    gradients: int
    queries: int
    seconds: float


def _check_threat(name: str, attack: Callable, eps: float, norm: str) -> None:
    for what, wanted in (("eps", float(eps)), ("norm", norm)):
        made = getattr(attack, what, wanted)
        if made != wanted:
            raise ValueError(f"attack {name!r} was made for {what} = {made}, not {wanted}.")


def _run(task: Task, suite: dict, store: "Store", block: int, skip_broken: bool) -> dict:
    """Every attack on every block; `name -> _Found`, the clean pass under the empty name."""
    clean = _clean(task, block)
    broken = clean.broken
    plan = [(name, start) for name in suite for start in range(0, len(task.x), block)]
    bar = iter(progress(plan, f"attacks, eps {task.eps:.4g}"))
    found = {"": clean}
    for index, (name, attack) in enumerate(suite.items()):
        skip = skip_broken and name != NOISE
        rows = np.flatnonzero(~broken) if skip else np.arange(len(task.x))
        key = jax.random.fold_in(task.key, index)
        parts = []
        for start in range(0, len(task.x), block):
            next(bar)
            chosen = rows[start : start + block]
            if len(chosen):
                parts.append((chosen, store.part(index, start, chosen, attack, key)))
        found[name] = _join(task.x, broken & skip, parts)
        broken = broken | found[name].broken
    next(bar, None)
    return found


def _join(x: Array, broken: np.ndarray, parts: list) -> _Found:
    """Parts `(rows, values)` put in their places; `broken` holds for what was not tested."""
    broken, x_adv = broken.copy(), np.array(x)
    tested, zero = np.zeros(len(x), bool), np.zeros(len(x), int)
    for rows, part in parts:
        broken[rows], x_adv[rows] = part["broken"], part["x_adv"]
        tested[rows], zero[rows] = True, part["zero_gradients"]
    gradients, queries = (max((int(p[k]) for _, p in parts), default=0) for k in _COUNTS)
    seconds = sum(float(part["seconds"]) for _, part in parts)
    return _Found(broken, x_adv, tested, zero, gradients, queries, seconds)


def _clean(task: Task, block: int) -> _Found:
    began, n = time.perf_counter(), len(task.x)
    starts = range(0, n, block)
    wrong = [misclassified(task, np.arange(s, min(s + block, n)), None, block) for s in starts]
    none, all_of_them = np.zeros(n, int), np.ones(n, bool)
    seconds = time.perf_counter() - began
    return _Found(np.concatenate(wrong), np.array(task.x), all_of_them, none, 0, 1, seconds)


# The report.


def _report(task: Task, suite: dict, found: dict) -> RobustnessReport:
    clean, noise = found[""], found[NOISE]
    rows = [Row("clean", task.norm, 0.0, 0, 1, 0, 1, len(task.x), _left(clean), clean.seconds)]
    broken_by, x_adv = np.where(clean.broken, 0, -1), clean.x_adv
    for index, (name, attack) in enumerate(suite.items(), 1):
        rows.append(_row(task, name, attack, found[name]))
        first = (broken_by < 0) & found[name].broken
        broken_by[first], x_adv[first] = index, found[name].x_adv[first]
    flags = [*_found_flags(suite, found, clean, noise), *_model_flags(task, found)]
    return RobustnessReport(tuple(rows), tuple(flags), task.bounds, (broken_by, x_adv))


def _left(found: _Found) -> float:
    return float(1 - found.broken.mean())


def _row(task: Task, name: str, attack: Callable, found: _Found) -> Row:
    steps = int(getattr(attack, "steps", 0))
    restarts = int(getattr(attack, "restarts", 1))
    counts = steps, restarts, found.gradients, found.queries, int(found.tested.sum())
    return Row(name, task.norm, task.eps, *counts, _left(found), found.seconds)


def _model_flags(task: Task, found: dict) -> list[Flag]:
    """The checks that ask the model: on examples spread evenly over the set."""
    some = np.unique(np.linspace(0, len(task.x) - 1, min(_CHECKED, len(task.x))).astype(int))
    x, y = task.x[some], task.y[some]
    standing = [(f, f.tested & ~f.broken) for f in found.values()]  # a fooled example may rest
    spent = sum(int(rows.sum()) * f.gradients for f, rows in standing)
    zero = sum(int(f.zero_gradients[rows].sum()) for f, rows in standing)
    key = jax.random.fold_in(task.key, 2**31 - 1)
    ladders = _flags.ladder_flags(task.logits_fn, x, y, task.eps, task.norm, task.bounds, key)
    return [
        *ladders,
        *_flags.gradient_flags(task.logits_fn, x, y, zero / max(spent, 1)),
        *_flags.forward_flags(task.logits_fn, x),
    ]


def _found_flags(suite: dict, found: dict, clean: _Found, noise: _Found) -> list[Flag]:
    """The checks that compare the attacks with one another."""
    attacks = [found[name] for name in suite if name != NOISE]
    with_gradients = [f.broken for f in attacks if f.gradients]
    without = [f.broken for f in attacks if not f.gradients]
    attacked = _any(clean, with_gradients + without)
    return [
        _flags.gradient_free_flag(_any(clean, with_gradients), _any(clean, without)),
        _flags.noise_flag(
            ~clean.broken, noise.broken, clean.broken if attacked is None else attacked
        ),
        _order_flag(suite, found),
    ]


def _any(clean: _Found, parts: list[np.ndarray]) -> np.ndarray | None:
    return np.any([clean.broken, *parts], axis=0) if parts else None


def _order_flag(suite: dict, found: dict) -> Flag:
    """Attacks of one kind and loss: more gradients must not break less."""
    kinds: dict[Any, list[str]] = {}
    for name, attack in suite.items():
        if found[name].gradients:
            kind = (type(attack), *(getattr(attack, part, None) for part in ("aim", "targets")))
            kinds.setdefault(kind, []).append(name)
    flag = Flag("order", None, "not checked: no two attacks of the suite are of one kind")
    for names in kinds.values():
        names = sorted(names, key=lambda n: found[n].gradients)
        if len(names) > 1 and not flag.raised:
            flag = _flags.ladder_flag("order", {n: found[n].broken for n in names})
    return flag

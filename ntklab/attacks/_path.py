"""The one path that gradient attacks walk, whatever their norm, loss, step rule and start.

Point 0 is the clean input; then come the start and the iterates of each restart. `Aim` says which
points count (fixed, compiled in), `Task` holds the numbers (traced: one program serves all of
them), `State` travels. A step rule decides where the next point lies: see `ntklab.attacks.steps`.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.attacks._problem import apply, are_probabilities, nonfinite, per_example
from ntklab.attacks.losses import correct, margin
from ntklab.attacks.projections import NORMS

# Steps compiled as one program on CPU, for models with convolutions: inside a loop these are slow
# there, a program of all steps is slow to compile, and one of a single step pays for its buffers at
# every call. PGD-20 on the MNIST CNN, 100 images, 2 cores, in CPU seconds a call: programs of 1, 2
# and 5 steps take 1.2, 0.87 and 0.75, longer ones no less; 5 steps compile in 1.6. A loop takes 3.5
# times as long. Dense networks and kernel machines take as long in a loop as unrolled, and compile
# in half the time, once for all numbers of steps.
UNROLLED = 5


class Aim(NamedTuple):
    """What a path is after; hashable, and compiled in."""

    norm: str
    loss: Any
    rule: Any
    targeted: bool
    keep: str


class Task(NamedTuple):
    """What stays the same along a path. All of it is traced: no value is compiled in."""

    logits_fn: Any
    x: Any
    y: Any
    target: Any
    eps: Any
    step_size: Any
    bounds: Any


class State(NamedTuple):
    """Where a path stands, what its step rule remembers, and what it has kept."""

    at: Array
    memory: Any
    kept: Array
    kept_loss: Array
    success: Array
    zero_gradients: Array
    bad: Array
    probabilities: Array


class Here(NamedTuple):
    """What a step rule sees: a point, the loss and its gradient there, and the threat model."""

    at: Array
    gradient: Array
    losses: Array
    x: Array
    eps: Any
    step_size: Any
    bounds: Any


def begin(aim: Aim, x: Array, dtype: Any) -> State:
    """A path at the clean input that has seen nothing yet: any loss beats minus infinity."""
    b = len(x)
    no = jnp.zeros(b, bool)
    memory = aim.rule.init(x, dtype)
    low, count = jnp.full(b, -jnp.inf, dtype), jnp.zeros(b, jnp.int32)
    return State(x, memory, x, low, no, count, no, jnp.ones(b, bool))


def restart(task: Task, state: State, key: Any, *, aim: Aim, random: bool) -> State:
    """Forget the way, not what was kept, and go to a new start."""
    at = task.x
    if random:  # by itself: random bits are slow to compile, and need neither loss nor model
        at = random_start(key, task.x, task.eps, task.bounds, norm=aim.norm)
    return _begin_anew(state, at, aim=aim)


@partial(jax.jit, static_argnames="norm")
def random_start(key: Any, x: Array, eps: Any, bounds: Any, *, norm: str) -> Array:
    """A point drawn evenly from the ball round each example, brought into the box."""
    ball = NORMS[norm]
    return ball.project(x + ball.uniform(key, x, eps), x, eps, bounds)


@partial(jax.jit, static_argnames="aim")
def _begin_anew(state: State, at: Array, *, aim: Aim) -> State:
    return state._replace(at=at, memory=aim.rule.init(at, state.kept_loss.dtype))


def walk(task: Task, state: State, steps: int, aim: Aim) -> State:
    """Make `steps` steps: in one scan, or on CPU in a loop or in unrolled programs."""
    if jax.default_backend() != "cpu":
        return _many_steps(task, state, steps=steps, scan=True, aim=aim)
    if not _convolves(apply.trace(task.logits_fn, task.x).jaxpr):
        return _loop(task, state, jnp.int32(steps), aim=aim)
    for done in range(0, steps, UNROLLED):
        count = min(UNROLLED, steps - done)
        state = _many_steps(task, state, steps=count, scan=False, aim=aim)
    return state


@lru_cache(maxsize=64)
def _convolves(program: Any) -> bool:
    """Whether there is a convolution in a closed jaxpr, at any depth."""
    todo = [program]
    while todo:
        part = todo.pop()
        if isinstance(part, list | tuple):
            todo.extend(part)
        elif hasattr(part, "eqns"):  # asked first: from jax 0.12 on, a jaxpr is its own `jaxpr`
            if any(e.primitive.name == "conv_general_dilated" for e in part.eqns):
                return True
            todo.extend(value for e in part.eqns for value in e.params.values())
        elif hasattr(part, "jaxpr"):
            todo.append(part.jaxpr)
    return False


@partial(jax.jit, static_argnames="aim")
def _loop(task: Task, state: State, steps: Any, *, aim: Aim) -> State:
    task, state = jax.lax.stop_gradient((task, state))
    return jax.lax.fori_loop(0, steps, lambda _, s: _step(task, s, aim=aim), state)


@partial(jax.jit, static_argnames=("steps", "scan", "aim"))
def _many_steps(task: Task, state: State, *, steps: int, scan: bool, aim: Aim) -> State:
    step = partial(_step, task, aim=aim)
    if scan:
        return jax.lax.scan(lambda s, _: (step(s), None), state, length=steps)[0]
    for _ in range(steps):
        state = step(state)
    return state


@partial(jax.jit, static_argnames="aim")  # so that many steps trace logits_fn once
def _step(task: Task, state: State, *, aim: Aim) -> State:
    """Judge the current point, then move on from it by the gradient taken there."""
    task, at = jax.lax.stop_gradient((task, state.at))

    def total(z):
        logits, losses = _score(task, z, aim)
        return losses.sum(), (logits, losses)

    (_, (logits, losses)), gradient = jax.value_and_grad(total, has_aux=True)(at)
    state = _keep(task, state, logits, losses, aim)
    flat = (gradient == 0).reshape(len(at), -1).all(axis=1)
    losses = losses.astype(state.kept_loss.dtype)
    here = Here(at, gradient, losses, task.x, task.eps, task.step_size, task.bounds)
    moved, memory = aim.rule.move(here, state.memory, NORMS[aim.norm])
    return state._replace(
        at=moved,
        memory=memory,
        zero_gradients=state.zero_gradients + flat.astype(jnp.int32),
        bad=state.bad | nonfinite(gradient),
    )


@partial(jax.jit, static_argnames="aim")
def visit(task: Task, state: State, *, aim: Aim) -> State:
    """Judge the current point and stay there."""
    task, at = jax.lax.stop_gradient((task, state.at))
    return _keep(task, state, *_score(task, at, aim), aim)


def _score(task: Task, z: Array, aim: Aim) -> tuple[Array, Array]:
    """Scores, and the losses that the path climbs."""
    logits = task.logits_fn(z)
    classes = (task.y,) if task.target is None else (task.y, task.target)
    losses = aim.loss(logits, *classes)
    if losses.shape != task.y.shape:
        raise ValueError(
            f"loss must return one value an example, {task.y.shape}; got {losses.shape}."
        )
    return logits, -losses if aim.targeted else losses


def _keep(task: Task, state: State, logits: Array, losses: Array, aim: Aim) -> State:
    """The first success for good; until there is one, the greatest loss. Or else the last point."""
    right = correct(logits, task.y)
    won = right if aim.targeted else ~right
    bad = state.bad | nonfinite(logits, losses)
    if task.target is not None:  # losses towards different classes cannot be compared
        losses = margin(logits, task.y)
    losses = losses.astype(state.kept_loss.dtype)
    better = ~state.success & (won | (losses > state.kept_loss))
    success = state.success | won
    if aim.keep == "last":
        better, success = jnp.ones_like(won), won
    return state._replace(
        kept=jnp.where(per_example(better, state.at), state.at, state.kept),
        kept_loss=jnp.where(better, losses, state.kept_loss),
        success=success,
        bad=bad,
        probabilities=state.probabilities & are_probabilities(logits),
    )

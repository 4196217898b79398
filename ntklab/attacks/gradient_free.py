r"""Attacks that ask for scores only: Square and a random-block search.

A gradient attack is blind where the gradient says nothing about the loss: on plateaus, behind
noise, and where the scores jump, as a linearised ReLU network does. These attacks try a change and
keep it if the margin grew. What an example keeps in the end is what every attack here keeps: the
clean input if that is wrong already, else the first misclassified point, else the point of greatest
loss. A fooled example asks no more.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array, LogitsFn, Number
from ntklab.attacks import _blocks
from ntklab.attacks._problem import (
    AttackResult,
    are_probabilities,
    check_budget,
    is_traced,
    nonfinite,
    per_example,
    prepare,
    refuse_nonfinite,
    warn_of_probabilities,
)
from ntklab.attacks.losses import correct, margin

# Queries of one program, and programs between two looks at whether anything is left to do. A
# convolution in a scan is slow on CPU, and a program of several queries there gains nothing.
_CPU, _ELSEWHERE = (1, 20), (100, 1)


def square(
    eps: Number,
    norm: str = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    loss: Any = margin,
) -> "SearchAttack":
    r"""Square attack: random squares of the image, set to corners of the ball.

    *linf.* It starts at vertical stripes, `x + eps s` with one random sign s for each column and
    channel. Then a square at a random place is set to `x + eps s`, one random sign a channel; signs
    that would change nothing are drawn again. *l2.* It starts at a grid of 5 x 5 patches, each a
    positive and a negative bump. Then a bump is added to the direction of the perturbation in a
    random window, and the window gets its own share of the norm, that of a second window, which is
    set to zero, and what the ball has left; in the end the perturbation has length eps.

    Side `s = sqrt(p h w)` (odd and at least 3 for l2). p falls from `p_init`: it is halved at
    queries 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000, scaled to `queries`.

    Args:
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      queries: forward passes an example, the start included.
      p_init: share of the pixels that the first square covers, in (0, 1].
      bounds: `(low, high)` of valid inputs.
      loss: `loss(logits, y) -> (b,)`, raised by the attack.

    Returns:
      `attack(logits_fn, x, y, key) -> AttackResult` for images `(b, h, w)` or `(b, h, w, c)`; see
      `SearchAttack`.

    Raises:
      ValueError: senseless budget, no query, `p_init` outside (0, 1]. When called: `x` is no batch
        of images.

    Cost: `queries` forward passes and one more. Memory: one such pass and five copies of `x`.

    References:
      Andriushchenko, Croce, Flammarion & Hein 2020, algorithms 1-3, with the authors' constants and
      their redrawing of signs, which is not in algorithm 2 and not in torchattacks.
      Places and signs are drawn for each image by itself; windows reach the last row and column,
      which the authors' `randint(0, h - s)` leaves out.

    >>> import jax, jax.numpy as jnp
    >>> brightness = lambda x: x.mean(axis=(1, 2)) - 0.45
    >>> x, y = jnp.full((1, 4, 4), 0.5), jnp.array([1])
    >>> result = square(eps=0.1, queries=200)(brightness, x, y, jax.random.key(0))
    >>> print(result.success, result.gradients_used)
    [ True] 0
    """
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init must be in (0, 1], got {p_init}.")
    return _attack("square", eps, norm, queries, bounds, loss, float(p_init))


def random_block(
    eps: Number,
    norm: str = "linf",
    queries: int = 600,
    bounds: tuple[Number, Number] = (0.0, 1.0),
    loss: Any = margin,
) -> "SearchAttack":
    r"""Random-block search: blocks of all sizes, from the clean input on.

    At each query an image gets a square block at a random place, its side drawn evenly from
    1 to half of the shorter edge, with one random sign s a channel. A flat vector gets a random set
    of coordinates, each with its own sign; their share of all is drawn between `1 / d` and `1 / 2`,
    evenly in its logarithm. For linf the block is set to `x + eps s`. For l2 the vector of length
    eps that is constant up to sign on the block is added to the perturbation, which is then
    shortened to eps. The new point is kept if the loss rose.

    It has no schedule and no start of its own, so it is weaker than `square` on large images, and
    needs nothing of the input but its shape.

    Args:
      eps: radius of the ball, in the units of `bounds`.
      norm: `"linf"` or `"l2"`.
      queries: forward passes an example.
      bounds: `(low, high)` of valid inputs.
      loss: `loss(logits, y) -> (b,)`, raised by the attack.

    Returns:
      `attack(logits_fn, x, y, key) -> AttackResult` for inputs `(b, d)`, `(b, h, w)` or
      `(b, h, w, c)`; see `SearchAttack`.

    Raises:
      ValueError: senseless budget, no query. When called: `x` of another rank.

    Cost: `queries` forward passes and one more. Memory: one such pass and five copies of `x`.

    >>> import jax, jax.numpy as jnp
    >>> from jax.tree_util import Partial
    >>> linear = Partial(lambda w, x: x @ w, jnp.array([2.0, -1.0]))
    >>> x, y = jnp.array([[0.5, 0.5]]), jnp.array([1])
    >>> result = random_block(eps=0.25, queries=50)(linear, x, y, jax.random.key(0))
    >>> print(result.success, result.gradients_used)
    [ True] 0
    """
    return _attack("random_block", eps, norm, queries, bounds, loss, 0.0)


class QueryCurve(NamedTuple):
    """What a search had found after some of its queries.

    Attributes:
      queries: numbers of queries `(c,)`, rising; 0 is the clean input.
      loss: greatest loss so far, `(c, b)`; of a fooled example, the loss at its result.
      success: whether each example was fooled by then, `(c, b)`.
    """

    queries: np.ndarray
    loss: np.ndarray
    success: np.ndarray


@dataclass(frozen=True)
class SearchAttack:
    """A gradient-free attack with its settings; made by `square` and `random_block`.

    `attack(logits_fn, x, y, key)` takes what a `GradientAttack` takes, and the key always. The
    `AttackResult` has `gradients_used = 0` and counts `queries`. Outside `jax.jit` it stops early
    when every example is fooled. `attack.curve(logits_fn, x, y, key, points=50)` returns the same
    result and a `QueryCurve`.

    Attributes:
      kind: name of the proposal.
      eps: radius of the ball, in the units of `bounds`.
      norm: name of the norm.
      queries: forward passes an example.
      bounds: `(low, high)` of valid inputs.
      loss: what is raised.
      p_init: share of the pixels that the first square covers.
    """

    kind: str
    eps: float
    norm: str
    queries: int
    bounds: tuple[float, float]
    loss: Any
    p_init: float

    def __call__(self, logits_fn: LogitsFn, x: Any, y: Any, key: Any) -> AttackResult:
        """Attack a batch: see the class."""
        return self._search(logits_fn, x, y, key, 0)[0]

    def curve(
        self, logits_fn: LogitsFn, x: Any, y: Any, key: Any, points: int = 50
    ) -> tuple[AttackResult, QueryCurve]:
        """Attack a batch, and say what was found after 0, 1 and about `points` more queries."""
        if is_traced((logits_fn, x, y, key)):
            raise ValueError("curve looks at values: call it outside jax.jit.")
        result, seen = self._search(logits_fn, x, y, key, points)
        queries, loss, success = zip(*seen, strict=True)
        return result, QueryCurve(np.array(queries), np.stack(loss), np.stack(success))

    def _search(self, logits_fn: Any, x: Any, y: Any, key: Any, points: int) -> tuple:
        if key is None:
            raise ValueError("this attack draws at random: pass key=jax.random.key(seed).")
        logits_fn, x, y, _ = prepare(logits_fn, x, y, self.eps, self.norm, self.bounds)
        aim = _Aim(self.kind, self.norm, self.loss, _blocks.as_images(self.kind, self.norm, x))
        plan = _blocks.schedule(self.kind, self.norm, aim.shape, self.queries, self.p_init)
        task = _Task(logits_fn, x, y, key, self.eps, self.bounds, plan.bumps.astype(x.dtype))
        draw = partial(_draw, key, x=x, count=_blocks.draws_needed(aim.shape))
        at_start = draw(np.zeros(1, np.int32))[0] if self.kind == "square" else None
        state, done, seen = _start(task, at_start, aim=aim), int(self.kind == "square"), []
        unknown, scan = is_traced(state), jax.default_backend() != "cpu"
        every = max(self.queries // max(points, 1), 1)
        if points:
            seen = [(0, *jax.device_get((state.clean_loss, state.clean_wrong)))]
            seen += [(1, *jax.device_get(_found(state)))] if done else []
        length, pause = (self.queries, 1) if unknown else _ELSEWHERE if scan else _CPU
        for number, chunk in enumerate(plan.chunks(self.queries - done, length)):
            if not unknown and number % pause == 0 and bool(state.success.all()):
                break
            looped = scan or unknown
            draws = None if looped else draw(chunk.number)
            state = _queries(task, state, chunk, draws, aim=aim, scan=looped)
            done = min(done + length, self.queries)
            if points and (done >= seen[-1][0] + every or done == self.queries):
                seen.append((done, *jax.device_get(_found(state))))
        if points and seen[-1][0] < done:
            seen.append((done, *jax.device_get(_found(state))))
        return _result(task, state, done), seen


def _attack(kind: str, eps: Number, norm: str, queries: int, bounds: Any, loss: Any, p: float):
    check_budget(eps, norm, bounds)
    if queries < 1:
        raise ValueError(f"queries must be at least 1, got {queries}.")
    low, high = bounds
    return SearchAttack(kind, float(eps), norm, queries, (float(low), float(high)), loss, p)


class _Aim(NamedTuple):
    """What a search is after; hashable, and compiled in."""

    kind: str
    norm: str
    loss: Any
    shape: tuple[int, ...]


class _Task(NamedTuple):
    """What stays the same in a search; all of it is traced."""

    logits_fn: Any
    x: Any
    y: Any
    key: Any
    eps: Any
    bounds: Any
    bumps: Any


class _State(NamedTuple):
    """The best point of the search itself, and how the clean input did."""

    at: Array
    loss: Array
    success: Array
    clean_loss: Array
    clean_wrong: Array
    bad: Array
    probabilities: Array


@partial(jax.jit, static_argnames="aim")
def _start(task: _Task, draws: Any, *, aim: _Aim) -> _State:
    """Look at the clean input, then at the start of Square."""
    loss, wrong, bad, odd = _look(task, task.x, aim=aim)
    clean = _State(task.x, loss, wrong, loss, wrong, bad, odd)
    if aim.kind != "square":
        return clean
    at = _each(task, draws, partial(_blocks.start_square, aim.norm), aim, task.x)
    loss, won, bad_too, odd_too = _look(task, at, aim=aim)
    return clean._replace(
        at=at, loss=loss, success=wrong | won, bad=bad | bad_too, probabilities=odd & odd_too
    )


@partial(jax.jit, static_argnames=("aim", "scan"))
def _queries(
    task: _Task, state: _State, chunk: Any, draws: Any, *, aim: _Aim, scan: bool
) -> _State:
    """One query for each row of `chunk`; in a scan the numbers are drawn on the way."""
    ask = partial(_query, task, aim=aim)
    if scan:
        count = _blocks.draws_needed(aim.shape)

        def step(state, row):
            return ask(state, row, _draw(task.key, row.number[None], task.x, count=count)[0]), None

        return jax.lax.scan(step, state, chunk)[0]
    for i in range(len(chunk.side)):
        state = ask(state, jax.tree.map(lambda a, i=i: a[i], chunk), draws[i])
    return state


@partial(jax.jit, static_argnames="count")
def _draw(key: Any, numbers: Any, x: Array, *, count: int) -> Array:
    """The random numbers of some queries, `(queries, b, count)`.

    By itself, since random bits are slow to compile and depend on nothing else.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return jax.vmap(lambda key: jax.random.uniform(key, (len(x), count), x.dtype))(keys)


@partial(jax.jit, static_argnames="aim")
def _query(task: _Task, state: _State, row: Any, draws: Any, *, aim: _Aim) -> _State:
    """Propose a point, and take it where it is better."""
    size = _blocks.Size(row.side, task.bumps[row.bump])
    propose = _blocks.PROPOSALS[aim.kind, aim.norm]
    at = _each(task, draws, propose, aim, task.x, state.at, size)
    loss, wrong, bad, odd = _look(task, at, aim=aim)
    asks = ~state.success & (row.side > 0)
    take = asks & (wrong | (loss > state.loss))
    return state._replace(
        at=jnp.where(per_example(take, at), at, state.at),
        loss=jnp.where(take, loss, state.loss),
        success=state.success | (asks & wrong),
        bad=state.bad | (asks & bad),
        probabilities=state.probabilities & (odd | ~asks),
    )


def _each(task: _Task, draws: Any, propose: Any, aim: _Aim, x: Array, *more: Any) -> Array:
    """`propose` for every example, with its own draws; inputs are seen as `aim.shape`."""
    seen = [a.reshape(len(x), *aim.shape) if isinstance(a, jax.Array) else a for a in (x, *more)]
    axes = [0 if isinstance(a, jax.Array) else None for a in seen]
    over = jax.vmap(propose, in_axes=(0, *axes, None, None))
    return over(draws, *seen, task.eps, task.bounds).reshape(x.shape)


@partial(jax.jit, static_argnames="aim")
def _look(task: _Task, at: Array, *, aim: _Aim) -> tuple[Array, Array, Array, Array]:
    """Loss, whether wrong, whether not finite, whether a softmax output, of each example."""
    logits = jax.lax.stop_gradient(task.logits_fn(at))
    loss = aim.loss(logits, task.y)
    if loss.shape != task.y.shape:
        raise ValueError(
            f"loss must return one value an example, {task.y.shape}; got {loss.shape}."
        )
    loss = loss.astype(logits.dtype)
    return loss, ~correct(logits, task.y), nonfinite(logits, loss), are_probabilities(logits)


def _take(state: _State) -> Array:
    """Where the search found more than the clean input."""
    return ~state.clean_wrong & (state.success | (state.loss > state.clean_loss))


def _found(state: _State) -> tuple[Array, Array]:
    return jnp.where(_take(state), state.loss, state.clean_loss), state.success


def _result(task: _Task, state: _State, queries: int) -> AttackResult:
    warn_of_probabilities(state.probabilities)
    loss, success = _found(state)
    x_adv = jnp.where(per_example(_take(state), state.at), state.at, task.x)
    zero = jnp.zeros(len(loss), jnp.int32)
    x_adv = jax.lax.stop_gradient(x_adv)
    return AttackResult(x_adv, refuse_nonfinite(state.bad, loss), success, 0, zero, queries)

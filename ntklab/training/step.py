"""One compiled training step: a batch of the device's data, the strategy's updates, totals."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntklab._typing import Array
from ntklab.training.forward import Forward
from ntklab.training.phase import Phase
from ntklab.training.update import Problem, Seen, TrainState


class Totals(NamedTuple):
    """Sums over the steps since the last row of metrics, on the device."""

    steps: Array
    seen: Seen


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compiled into a step.

    Attributes:
      problem: function, loss and descent.
      strategy: how a batch is learned.
      batch_size: examples a step.
      augment: random changes of images, or None.
      sharding: how a batch lies on several devices, or None.
      seeds: how many runs are stacked; 0 for one that is not.
    """

    problem: Problem
    strategy: Any
    batch_size: int
    augment: Any
    sharding: Any
    seeds: int


def plan_of(module: Any, phase: Phase, dtype: str, rest: tuple) -> Plan:
    """The plan of a phase; `rest` is `(batch_size, augment, sharding, seeds)`."""
    forward = Forward(module, phase.model, dtype)
    descent = (phase.momentum, phase.nesterov, phase.weight_decay)
    problem = Problem(forward, phase.loss, phase.statistics == "live", *descent)
    return Plan(problem, phase.strategy, *rest)


def no_totals(seeds: int) -> Totals:
    """Nothing seen yet."""
    shape = (seeds,) if seeds else ()
    # One array each: a step gives its buffers away, and none may be given twice.
    zeros = (jnp.zeros(shape, jnp.float32) for _ in range(1 + len(Seen._fields)))
    return Totals(next(zeros), Seen(*zeros))


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def advance(
    plan: Plan,
    state: TrainState,
    totals: Totals,
    data: tuple[Array, Array],
    order: Array,
    position: Any,
    key: Array,
    number: Any,
    rate: Any,
) -> tuple[TrainState, Totals]:
    """One step: batch number `position` of the epoch's `order`, at this learning rate.

    Images of bytes become numbers in [0, 1] here. `key` and the step's `number` in the run decide
    the augmentation and the attack's start. With several seeds `state`, `totals`, `order` and `key`
    have a leading axis.
    """
    one = partial(_one, plan, data=data, position=position, number=number, rate=rate)
    return (
        jax.vmap(one)(state, totals, order, key) if plan.seeds else one(state, totals, order, key)
    )


def placed(devices: tuple | None, batch_size: int, data: tuple) -> tuple:
    """How a batch lies on the devices (None: on one), and the data on all of them."""
    if devices is None or len(devices) == 1:
        return None, data if devices is None else jax.device_put(data, devices[0])
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the number of devices, {len(devices)}."
        )
    mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return rows, jax.device_put(data, whole)


def _one(plan: Plan, state, totals, order, key, *, data, position, number, rate):
    x, y = batch(plan, data, order, position)
    augmenting, attacking = jax.random.split(jax.random.fold_in(key, number))
    if plan.augment is not None:
        x = plan.augment(augmenting, x)
    state, seen = plan.strategy.update(plan.problem, state, x, y, attacking, rate)
    return state, _added(totals, seen)


def batch(plan: Plan, data: tuple[Array, Array], order: Array, position: Any) -> tuple:
    """The images, float32 in [0, 1] (or as they are), and the labels of a batch."""
    images, labels = data
    rows = jax.lax.dynamic_slice_in_dim(order, position * plan.batch_size, plan.batch_size)
    x, y = images[rows], labels[rows]
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    if plan.sharding is not None:
        x, y = (jax.lax.with_sharding_constraint(a, plan.sharding) for a in (x, y))
    return x, y


def _added(totals: Totals, seen: Seen) -> Totals:
    new = Totals(jnp.ones((), jnp.float32), seen)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), totals, new)

"""The memory that an empirical kernel is planned with, beside what XLA sets aside."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ntklab.kernels import EmpiricalNTK
from ntklab.kernels.empirical import ntk

BLOCK = 16
DENSE = nn.Sequential([nn.Dense(64), jnp.tanh, nn.Dense(48), jnp.tanh, nn.Dense(10)])
POOLED = lambda x: x.mean((1, 2))  # noqa: E731
CONVOLUTIONAL = nn.Sequential(
    [nn.Conv(8, (5, 5)), jnp.tanh, nn.Conv(16, (3, 3), (2, 2)), nn.relu, POOLED, nn.Dense(4)]
)
NORMALISED = nn.Sequential(
    [nn.Conv(12, (3, 3), use_bias=False), nn.GroupNorm(3), nn.relu, POOLED, nn.Dense(10)]
)
STEM = nn.Sequential([nn.Conv(2, (7, 7)), POOLED, nn.Dense(1)])
POSITIONS = nn.Sequential([nn.Dense(40), jnp.tanh, lambda x: x.mean(1), nn.Dense(10)])
CASES = [
    (DENSE, (100,), "full", 256),
    (DENSE, (100,), "per_class", 256),
    (POSITIONS, (12, 10), "trace", 16),
    (CONVOLUTIONAL, (12, 12, 3), "full", 4),
    (CONVOLUTIONAL, (12, 12, 3), "sum_logits", 256),
    (NORMALISED, (8, 8, 6), "per_class", 256),
    (NORMALISED, (8, 8, 6), "trace", 2),
    (STEM, (16, 16, 3), "sum_logits", 256),
]


def planned_and_taken(model, shape, mode, partners):
    """Bytes by the plan and by XLA's buffers: captures, then what preparing and a tile add."""
    specs = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, *shape)))
    params = jax.tree.map(lambda a: jnp.full(a.shape, 0.1, a.dtype), specs)
    kernel = EmpiricalNTK(model.apply, params, mode, partners=partners)
    need = kernel._plan(shape, jnp.dtype("float32"))[2]
    x = jax.ShapeDtypeStruct((BLOCK, *shape), jnp.float32)
    captures = jax.eval_shape(kernel.prepare, x)
    prepared = ntk._prepare.lower(kernel, x).compile().memory_analysis()
    tile = ntk._tile.lower(mode, kernel.precision, captures, captures).compile().memory_analysis()
    working = BLOCK * need.working
    planned = BLOCK * need.held, working, working + BLOCK**2 * need.pair
    taken = prepared.output_size_in_bytes, prepared.temp_size_in_bytes
    return planned, (*taken, tile.temp_size_in_bytes + tile.output_size_in_bytes)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_plans_are_bounds(case):
    planned, taken = planned_and_taken(*case)
    assert taken[0] == pytest.approx(planned[0], rel=0.01)
    assert taken[1] <= planned[1] and taken[2] <= planned[2]
    assert sum(planned) < 5 * sum(taken)

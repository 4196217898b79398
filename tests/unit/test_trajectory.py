"""Distances over a whole run: agreement with the distance of two kernels, and what is refused."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import dynamics


def kernels(seed, count=4, n=6):
    """Kernels of random features, which all share a large mean."""
    features = jax.random.normal(jax.random.key(seed), (count, n, 3)) + 2.0
    return features @ features.transpose(0, 2, 1)


RUN, OTHER = kernels(0), kernels(1, count=3)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("other", [None, OTHER])
def test_every_entry_is_the_distance_of_two_kernels(centred, other):
    found = dynamics.pairwise_distances(RUN, other, centred=centred)
    expected = [
        [dynamics.distance(k, o, centred=centred) for o in (RUN if other is None else other)]
        for k in RUN
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_run_against_its_own_past_is_symmetric_with_zeros_on_the_diagonal():
    found = np.asarray(dynamics.pairwise_distances(list(RUN)))
    np.testing.assert_array_equal(found.diagonal(), 0)
    np.testing.assert_array_equal(found, found.T)
    steps = [dynamics.velocity(a, b, 1.0) for a, b in pairwise(RUN)]
    np.testing.assert_allclose(found.diagonal(1), steps, atol=1e-6)


def test_full_kernels_and_factors(key):
    full = jax.random.normal(key, (2, 3, 3, 2, 2))
    found = dynamics.pairwise_distances(full, [7 * full[0]])
    assert found[0, 0] < 1e-12
    assert found[1, 0] == pytest.approx(float(dynamics.distance(full[1], full[0])), abs=1e-6)


def test_small_distances_keep_their_digits():
    step = 1e-5 * jnp.eye(6)
    found = dynamics.pairwise_distances([jnp.ones((6, 6)), jnp.ones((6, 6)) + step])[0, 1]
    exact = 1 - (36 + 6e-5) / np.sqrt(36 * (30 + 6 * (1 + 1e-5) ** 2))
    assert float(found) == pytest.approx(exact, rel=0.05) and float(found) < 1e-10


def test_what_is_refused():
    with pytest.raises(ValueError, match="no kernels"):
        dynamics.pairwise_distances([])
    with pytest.raises(ValueError, match="kernel 0 and kernel 1 must have one shape"):
        dynamics.pairwise_distances([jnp.eye(2), jnp.eye(3)])
    with pytest.raises(ValueError, match="kernel 1 is zero"):
        dynamics.pairwise_distances([jnp.eye(2), jnp.zeros((2, 2))])
    with pytest.raises(ValueError, match="kernel 0 is constant over the examples"):
        dynamics.pairwise_distances([jnp.ones((2, 2))], centred=True)
    with pytest.raises(TypeError, match="kernel 0 must be floating point"):
        dynamics.pairwise_distances([jnp.eye(2, dtype=int)])

"""The weak adversary of a long second phase: one step along the gradient, as long as that is."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import training
from ntklab.papers.loo import long_phase


def scores(x):
    """Two classes, linear in a batch `(b, 3)`."""
    return x @ jnp.array([[1.0, 0.0], [0.0, 2.0], [0.5, -1.0]])


def test_the_weak_step_is_the_gradient_of_the_squared_error_times_gamma():
    x, y = jnp.array([[0.4, 0.5, 0.6], [0.5, 0.5, 0.5]]), jnp.array([0, 1])
    residual = np.asarray(scores(x)) - np.eye(2)[np.asarray(y)]
    slope = residual @ np.array([[1.0, 0.0], [0.0, 2.0], [0.5, -1.0]]).T
    found = long_phase.moved(scores, x, y, 0.1)
    np.testing.assert_allclose(found, np.asarray(x) + 0.1 * slope, atol=1e-6)


def test_it_is_disarmed_where_nothing_is_left_to_learn_and_never_leaves_the_box():
    y = jnp.array([0])
    fitted = jnp.array([[0.8, 0.2, 0.4]])
    np.testing.assert_allclose(scores(fitted), [[1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(long_phase.moved(scores, fitted, y, 5.0), fitted, atol=1e-5)
    far = long_phase.moved(scores, jnp.ones((1, 3)), y, 100.0)
    assert far.min() >= 0 and far.max() <= 1


def test_the_three_arms_differ_in_their_examples_only():
    config = long_phase.Config()
    plain, weak, strong = long_phase.strategies(config).values()
    assert isinstance(plain, training.Standard)
    assert weak.gamma == config.gamma == 2.0
    assert (strong.eps, strong.steps, strong.step_size) == (0.1, 3, pytest.approx(0.05))

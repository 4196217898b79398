"""What attacks are made of: losses, projections, starts, and the refusal of senseless input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab.attacks import (
    _path,
    apgd,
    correct,
    cross_entropy,
    fgsm,
    margin,
    mi_fgsm,
    pgd,
    random_block,
)
from ntklab.attacks._problem import apply, as_pytree
from ntklab.attacks.projections import NORMS, project_l2, project_linf, steepest_l2

rng = np.random.default_rng(0)


def machine(w, x):
    return x @ w


LINEAR = Partial(machine, jnp.array([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]]))
BINARY = Partial(machine, jnp.array([1.0, -1.0]))
X, Y = jnp.array([[0.2, 0.4], [0.9, 0.1]]), jnp.array([0, 2])


# Losses.


def test_multiclass_losses_equal_their_formulas():
    f, y = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    y_scores = f[np.arange(50), y]
    others = np.array([np.delete(row, label).max() for row, label in zip(f, y, strict=True)])
    logits, labels = jnp.asarray(f), jnp.asarray(y)
    expected = np.log(np.exp(f).sum(axis=1)) - y_scores
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, atol=1e-5)
    np.testing.assert_allclose(margin(logits, labels), others - y_scores, atol=1e-6)
    np.testing.assert_array_equal(correct(logits, labels), f.argmax(axis=1) == y)
    np.testing.assert_array_equal(correct(logits, labels), margin(logits, labels) < 0)


def test_binary_losses_equal_their_formulas():
    f, index = rng.normal(size=50).astype(np.float32), rng.integers(0, 2, 50)
    sign = 2 * index - 1
    logits, labels = jnp.asarray(f), jnp.asarray(index)
    expected = np.log1p(np.exp(-sign * f))
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, atol=1e-6)
    np.testing.assert_allclose(margin(logits, labels), -sign * f)
    np.testing.assert_array_equal(correct(logits, labels), sign * f > 0)


def test_a_score_of_zero_means_class_0():
    np.testing.assert_array_equal(correct(jnp.zeros(2), jnp.array([0, 1])), [True, False])


# Projections and starts.


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_allowed_points_and_returns_others(norm):
    x = jnp.asarray(rng.uniform(size=(40, 3, 5)), jnp.float32)
    ball = NORMS[norm]
    inside = ball.project(x + ball.uniform(jax.random.key(0), x, 0.2), x, 0.2, (0.0, 1.0))
    np.testing.assert_allclose(ball.project(inside, x, 0.2, (0.0, 1.0)), inside, atol=1e-6)
    far = x + 3.0 * jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    back = ball.project(far, x, 0.2, (0.0, 1.0))
    order = {"linf": np.inf, "l2": 2}[norm]
    distance = np.linalg.norm(np.asarray(back - x).reshape(40, -1), order, axis=1)
    assert distance.max() <= 0.2 + 1e-6 and distance.min() > 0.1
    assert back.min() >= 0 and back.max() <= 1


def test_linf_projection_is_the_nearest_allowed_point():
    x = jnp.asarray(rng.uniform(size=(1, 2)), jnp.float32)
    z = x + jnp.array([[0.5, -0.3]])
    nearest = project_linf(z, x, 0.2, (0.0, 1.0))
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    allowed = grid[jnp.abs(grid - x).max(axis=1) <= 0.2]
    assert jnp.linalg.norm(allowed - z, axis=1).min() >= jnp.linalg.norm(nearest - z) - 1e-6


def test_l2_projection_shortens_each_example_by_itself():
    x = jnp.zeros((3, 2))
    z = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]
    got = project_l2(z, x, 1.0, (-9.0, 9.0))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(project_l2(x, x, 0.0, (-9.0, 9.0)), x)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_l2_steps_have_unit_length_at_any_scale_of_the_gradient(scale):
    gradient = scale * jnp.asarray(rng.normal(size=(5, 2, 3)), jnp.float32)
    lengths = np.linalg.norm(np.asarray(steepest_l2(gradient)).reshape(5, -1), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_starts_fill_the_ball_evenly():
    x = jnp.zeros((20_000, 3))
    cube = np.abs(NORMS["linf"].uniform(jax.random.key(1), x, 0.5))
    assert cube.max() <= 0.5 and abs(cube.mean() - 0.25) < 0.005
    radius = np.linalg.norm(NORMS["l2"].uniform(jax.random.key(2), x, 0.5), axis=1)
    assert radius.max() <= 0.5 + 1e-6 and abs(((radius / 0.5) ** 3).mean() - 0.5) < 0.01


# Input.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, "eps must be a finite number >= 0"),
        ({"eps": float("nan")}, "eps must be a finite number >= 0"),
        ({"eps": 8}, "did you mean 8/255\\?"),
        ({"eps": 8, "bounds": (-1.0, 1.0)}, r"did you mean 8/255 \* 2\?"),
        ({"eps": 0.1, "norm": "l1"}, "norm must be one of 'linf', 'l2'"),
        ({"eps": 0.1, "bounds": (1.0, 0.0)}, "low < high"),
        ({"eps": 0.1, "steps": 0}, "at least 1"),
        ({"eps": 0.1, "restarts": 0}, "at least 1"),
        ({"eps": 0.1, "step_size": -1.0}, "step_size must be >= 0"),
        ({"eps": 0.1, "restarts": 2, "random_start": False}, "repeat one run"),
        ({"eps": 0.1, "keep": "first"}, "keep must be one of 'best', 'last'"),
        ({"eps": 0.1, "keep": "last", "restarts": 2}, "drops the others"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pgd(**settings)


@pytest.mark.parametrize(
    ("logits_fn", "x", "y", "error", "message"),
    [
        (LINEAR, X * 255, Y, ValueError, "outside bounds"),
        (LINEAR, X - 1, Y, ValueError, "outside bounds"),
        (LINEAR, X.at[0, 0].set(jnp.nan), Y, ValueError, "x has 1 entries that are NaN"),
        (LINEAR, (X * 255).astype(jnp.uint8), Y, TypeError, "must be floating point"),
        (LINEAR, X[0], Y, ValueError, "batch first"),
        (LINEAR, X[:0], Y[:0], ValueError, "x is empty"),
        (LINEAR, X, jnp.eye(3)[Y], TypeError, "integer class indices"),
        (LINEAR, X, jnp.eye(3, dtype=int)[Y], ValueError, "one class index an example"),
        (LINEAR, X, Y[:1], ValueError, "one class index an example"),
        (LINEAR, X, Y + 1, ValueError, r"0\.\.2, got values from 1 to 3"),
        (LINEAR, X, Y - 1, ValueError, "got values from -1"),
        (BINARY, X, Y, ValueError, r"0\.\.1, got values from 0 to 2"),
        (BINARY, X, 2 * Y - 1, ValueError, r"0\.\.1"),
        (lambda x: x[:, :1], X, Y, ValueError, r"\(2,\) for a binary machine"),
        (lambda x: x[:1], X, Y, ValueError, r"must return \(2, k\)"),
        (lambda x: x[:, :, None], X, Y, ValueError, r"got \(2, 2, 1\)"),
        (lambda x: (x, x), X, Y, TypeError, "one floating-point array"),
        (lambda x: x.argmax(axis=1), X, Y, TypeError, "one floating-point array"),
    ],
)
def test_senseless_inputs_are_refused(logits_fn, x, y, error, message):
    with pytest.raises(error, match=message):
        fgsm(0.1)(logits_fn, x, y)


def test_a_random_attack_asks_for_its_key():
    with pytest.raises(ValueError, match=r"pass key=jax.random.key\(seed\)"):
        pgd(0.1)(LINEAR, X, Y)
    with pytest.raises(ValueError, match="key"):
        fgsm(0.1, random_start=True)(LINEAR, X, Y)


def test_an_l2_eps_longer_than_the_box_is_refused():
    with pytest.raises(ValueError, match=r"diagonal 1\.41421 .* did you mean 8/255\?"):
        fgsm(8, "l2")(LINEAR, X, Y)
    assert fgsm(1.4, "l2")(LINEAR, X, Y).x_adv.shape == X.shape


def test_a_loss_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="one value an example"):
        fgsm(0.1, loss=lambda logits, y: logits.sum())(LINEAR, X, Y)


def probabilities(w, x):
    return jax.nn.softmax(9 * x.reshape(len(x), -1)[:, :2] @ w)


def log_probabilities(w, x):
    return jnp.log(probabilities(w, x))


@pytest.mark.parametrize(
    "attack", [pgd(0.1, steps=2), random_block(0.1, queries=2)], ids=["pgd", "random_block"]
)
def test_an_attack_on_a_softmax_is_flagged(attack, key):
    with pytest.warns(UserWarning, match="Pass the scores before the softmax"):
        attack(Partial(probabilities, LINEAR.args[0]), X, Y, key)
    attack(Partial(log_probabilities, LINEAR.args[0]), X, Y, key)  # any warning is an error


def test_a_momentum_of_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="decay must be >= 0"):
        mi_fgsm(0.1, decay=-1)


def test_any_callable_is_attacked_and_pytrees_are_passed_on():
    assert as_pytree(LINEAR) is LINEAR
    weights = LINEAR.args[0]
    plain = fgsm(0.1)(lambda x: x @ weights, np.asarray(X), np.asarray(Y))
    np.testing.assert_array_equal(plain.x_adv, fgsm(0.1)(LINEAR, X, Y).x_adv)


# The walk: a loop on CPU, programs of a few steps where there is a convolution.


def convolution(w, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    image = x.reshape(len(x), 2, 1, 1)
    return jax.lax.conv_general_dilated(
        image, w, (1, 1), "SAME", dimension_numbers=numbers
    ).reshape(len(x), -1)


@jax.checkpoint
def hidden_convolution(w, x):
    return jax.lax.map(lambda row: convolution(w, row[None])[0], x)


def test_convolutions_are_found_at_any_depth():
    kernel = jnp.ones((1, 1, 1, 2))
    for model, convolves in (
        (convolution, True),
        (jax.jit(convolution), True),
        (hidden_convolution, True),
        (lambda w, x: jax.nn.relu(x @ w[0, 0, 0][:, None]), False),
    ):
        program = apply.trace(Partial(model, kernel), X).jaxpr
        assert _path._convolves(program) is convolves


@pytest.mark.parametrize("aim", [pgd(0.1).aim, apgd(0.1, steps=7).aim], ids=["pgd", "apgd"])
def test_the_loop_makes_the_steps_of_the_unrolled_programs(aim, monkeypatch):
    task = _path.Task(LINEAR, X, Y, None, 0.1, 0.03, (0.0, 1.0))
    start = _path.begin(aim, X, jnp.float32)
    looped = _path.walk(task, start, 7, aim)
    monkeypatch.setattr(_path, "_convolves", lambda program: True)
    unrolled = _path.walk(task, start, 7, aim)
    assert jax.tree.structure(looped) == jax.tree.structure(unrolled)
    for a, b in zip(jax.tree.leaves(looped), jax.tree.leaves(unrolled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert float(jnp.abs(looped.at - X).max()) == pytest.approx(0.1, abs=1e-6)

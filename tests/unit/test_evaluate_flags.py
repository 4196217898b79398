"""Each warning flag has a model made to raise it, and one that must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_problems import (
    EPS,
    N,
    evaluate,
    problem,
    with_fault,
)
from jax.tree_util import Partial

from ntklab.attacks import _flags, fgsm, margin, pgd
from ntklab.attacks._flags import random_noise


@pytest.fixture(scope="module")
def honest():
    return with_fault()


@pytest.fixture(scope="module")
def report(honest):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return evaluate(honest)


# Each flag: a model made to raise it. The honest model raises none.


def bump(t, x):
    """A binary score that depends on the mean of x alone: values from -20 to 20 eps."""
    grid = jnp.linspace(-20.0, 20.0, len(t))
    return jnp.interp((x.mean(axis=1) - 0.5) / EPS, grid, t)


def test_gradients_that_rounding_hides():
    found = evaluate(with_fault(levels=8.0))
    assert {"zero_gradients", "gradient_free", "unbounded"} <= set(found.raised)
    assert found.rows[3].accuracy > found.rows[4].accuracy
    blind = evaluate(with_fault(levels=8.0), attacks={"FGSM": fgsm(EPS, loss=margin)})
    assert "noise" in blind.raised and blind.rows[2].accuracy == 1 > blind.rows[1].accuracy


def test_saturated_scores():
    found = evaluate(with_fault(gain=1e4))
    assert "saturated" in found.raised and "unbounded" not in found.raised
    text = next(f.text for f in found.flags if f.name == "saturated")
    assert "not the cross entropy" in text


def test_softmax_outputs_are_a_flag_and_no_second_warning():
    found = evaluate(with_fault(softmax=1.0), attacks={"PGD": pgd(EPS, steps=10, loss=margin)})
    assert "probabilities" in found.raised and "random_forward" not in found.raised


def test_binary_scores_that_are_probabilities():
    x = jnp.full((4, 2), 0.5)
    flag = _flags.forward_flags(Partial(lambda x: jax.nn.sigmoid(x.sum(axis=1) - 1)), x)[-1]
    assert flag.raised and "class 1 is where a score is positive" in flag.text
    assert not _flags.forward_flags(Partial(lambda x: x.sum(axis=1) - 2), x)[-1].raised


def test_a_forward_pass_with_pythons_random_numbers():
    """Inside jax.jit the draw is compiled in, so that only plain calls differ."""
    rng = np.random.default_rng(0)

    def model(x):
        return with_fault()(x) + jnp.float32(rng.normal())

    flags = {
        f.name: f.raised for f in _flags.forward_flags(Partial(model), problem(with_fault())[0])
    }
    assert flags["random_forward"] is True and flags["batch_dependent"] is None


def test_a_forward_pass_with_state():
    """A counter behind a callback: compiled calls differ too."""
    from jax.experimental import io_callback

    rng = np.random.default_rng(0)

    def draw():
        return np.asarray(rng.normal(), np.float32)

    def model(x):
        return with_fault()(x) + io_callback(draw, jax.ShapeDtypeStruct((), jnp.float32))

    x = problem(with_fault())[0]
    flags = {f.name: f.raised for f in _flags.forward_flags(Partial(model), x)}
    assert flags["random_forward"] is True


def normalised(x):
    """Batch statistics in use at test time."""
    return with_fault()((x - x.mean(axis=0)[None]) / x.std(axis=0)[None] * 0.2 + 0.5)


def test_batch_statistics_at_test_time():
    x = problem(with_fault())[0]
    flags = {f.name: f.raised for f in _flags.forward_flags(Partial(normalised), x)}
    assert flags == {"random_forward": False, "batch_dependent": True, "probabilities": False}
    assert _flags.forward_flags(with_fault(), x[:1])[1].raised is None


def test_a_constant_model_stands_at_every_eps():
    found = evaluate(with_fault(flat=1.0), attacks={"FGSM": fgsm(EPS, loss=margin)})
    assert {"unbounded", "zero_gradients"} <= set(found.raised) and "eps" not in found.raised
    assert "100.0% of the examples stand at eps 1" in str(found)


def test_a_jump_that_gradients_do_not_show():
    x = jnp.clip(problem(with_fault())[0], 0.4, 0.5)
    found = evaluate(with_fault(jump=1.0), x, jnp.zeros(N, jnp.int32))
    assert "gradient_free" in found.raised and "zero_gradients" not in found.raised
    rows = {row.attack: row.accuracy for row in found.rows}
    assert rows["FGSM"] == 1 and rows["guess"] < 0.9


def ladder(values):
    x = 0.5 + 0.01 * (problem(with_fault())[0] - 0.5)
    model = Partial(bump, jnp.asarray(values, jnp.float32))
    args = (model, x, jnp.ones(N, jnp.int32), EPS, "linf", (0.0, 1.0), jax.random.key(0))
    return {f.name: f.raised for f in _flags.ladder_flags(*args)}


# Score against the mean of x, in eps. Downhill all the way; a hollow behind a ridge, which one
# long step jumps over; a narrow hole that only short steps find.
def profile(at, values):
    return np.interp(np.linspace(-20, 20, 4001), at, values)


SLOPE = profile([-20, 20], [22, -18])
RIDGE = profile([-20, 0, 0.3, 0.6, 0.9, 20], [3, 1, 0.5, 1, -1, -3])
HOLE = profile([-20, 0.2, 0.24, 0.25, 0.255, 0.27, 20], [3, 1, -1, -1, 0.9, 0.9, 0.1])


def test_more_steps_must_not_do_less():
    assert ladder(SLOPE) == {"steps": False, "eps": False, "unbounded": False}
    assert ladder(RIDGE)["steps"] is True


def test_more_budget_must_not_do_less():
    found = ladder(HOLE)
    assert found["eps"] is True and found["unbounded"] is True


def test_attacks_of_one_kind_are_held_in_order(report):
    assert next(f for f in report.flags if f.name == "order").raised is False
    x = 0.5 + 0.01 * (problem(with_fault())[0] - 0.5)
    model = Partial(bump, jnp.asarray(RIDGE, jnp.float32))
    suite = {"PGD": pgd(EPS, steps=10, loss=margin), "FGSM": fgsm(EPS, loss=margin)}
    found = evaluate(model, x, jnp.ones(N, jnp.int32), suite)
    flag = next(f for f in found.flags if f.name == "order")
    assert flag.raised and flag.text.startswith("FGSM leaves less accuracy than PGD")


@pytest.mark.parametrize(
    ("only", "n", "raised"), [(0, 100, False), (1, 50, False), (2, 100, True), (3, 400, False)]
)
def test_one_odd_example_raises_no_flag(only, n, raised):
    rows = np.arange(n)
    flag = _flags.gradient_free_flag(rows >= 10 + only, rows >= 10)
    assert flag.raised is raised and f"{only} of {n}" in flag.text


@pytest.mark.parametrize(
    ("noise", "attack", "raised"), [(0, 0, False), (1, 20, False), (16, 20, True)]
)
def test_noise_that_is_as_bad_as_the_attack(noise, attack, raised):
    rows = np.arange(100)
    right = rows < 90
    flag = _flags.noise_flag(right, (rows < noise) | ~right, (rows < attack) | ~right)
    assert (
        flag.raised is raised and f"breaks {noise} examples and the attacks {attack}" in flag.text
    )


def test_noise_has_the_size_of_the_budget(key):
    x, y = jnp.full((5, 20), 0.5), jnp.zeros(5, jnp.int32)

    def model(x):
        return x[:, :2]

    for norm, order in (("linf", np.inf), ("l2", 2)):
        delta = np.asarray(random_noise(0.3, norm)(model, x, y, key).x_adv - x)
        np.testing.assert_allclose(np.linalg.norm(delta, order, axis=1), 0.3, rtol=1e-5)
        assert not np.allclose(delta[0], delta[1])
    with pytest.raises(ValueError, match="pass key"):
        random_noise(0.3)(model, x, y)

"""Square and the random-block search: their points, their schedules, and what they find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab._common import float64
from ntklab.attacks import _blocks, cross_entropy, fgsm, margin, pgd, random_block, square

NORMS = ("linf", "l2")
ORDER = {"linf": np.inf, "l2": 2}
SHAPE = (8, 8, 2)


def network(weights, x):
    return jnp.tanh(x.reshape(len(x), -1) @ weights[0]) @ weights[1]


def random_weights(seed, d=128, k=4, hidden=16):
    first, second = jax.random.split(jax.random.key(seed))
    scale = 4.0 / d**0.5
    return scale * jax.random.normal(first, (d, hidden)), jax.random.normal(second, (hidden, k))


def safe(weights, x):
    """A binary machine that is never wrong about class 1: only its loss moves."""
    return 30.0 + network(weights, x)[:, 0]


MACHINE = Partial(network, random_weights(0))
X = jax.random.uniform(jax.random.key(1), (24, *SHAPE))
Y = jnp.where(jnp.arange(24) % 8 == 0, 3 - MACHINE(X).argmax(axis=1), MACHINE(X).argmax(axis=1))


def lengths(delta, norm):
    return np.linalg.norm(np.asarray(delta).reshape(len(delta), -1), ORDER[norm], axis=1)


def visited(attack, x, y, bounds=(0.0, 1.0)):
    """Every point at which an attack looks, from the clean one on."""
    points = []

    def watched(weights, z):
        jax.debug.callback(lambda p: points.append(np.asarray(p)), z)
        return safe(weights, z)

    result = attack(Partial(watched, random_weights(0, x[0].size)), x, y, jax.random.key(5))
    jax.effects_barrier()
    return np.stack(points), result


# The schedule and the shapes.


def test_the_side_of_the_square_follows_the_published_schedule():
    """AutoAttack's `p_selection` at 10,000 queries, on a 28 x 28 image, by hand."""
    side = _blocks.sides("linf", (28, 28, 1), 10_000, 0.8)
    looks = [0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999]
    halved = [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    expected = [max(round((0.8 / 2**h * 784) ** 0.5), 1) for h in halved]
    assert side[looks].tolist() == expected and expected[0] == 25 and expected[-1] == 1
    short = _blocks.sides("linf", (28, 28, 1), 1000, 0.8)
    assert short[[0, 1, 2, 5, 6]].tolist() == [25, 25, 18, 18, 13]
    odd = _blocks.sides("l2", (28, 28, 1), 10_000, 0.8)
    assert (odd % 2 == 1).all() and odd.min() == 3 and odd[0] == 25 and odd[11] == 19
    assert _blocks.sides("l2", (6, 6, 1), 10, 1.0).max() == 5


def test_the_bump_is_the_published_pile_of_rectangles():
    """The loop of the paper's code, written out for 5 rows: 2 positive ones, 3 negative ones."""
    top, bottom = np.zeros((2, 5)), np.zeros((3, 5))
    for m in range(3):
        for pile, centre in ((top, 1), (bottom, 1)):
            rows = slice(max(centre - m, 0), centre + m + 1)
            pile[rows, max(2 - m, 0) : 2 + m + 1] += 1 / (m + 1) ** 2
    both = np.concatenate([top / np.linalg.norm(top), -bottom / np.linalg.norm(bottom)])
    np.testing.assert_allclose(_blocks.bump(5), both / np.sqrt(2), atol=1e-12)
    for s in (1, 2, 3, 8):
        assert abs(np.linalg.norm(_blocks.bump(s)) - 1) < 1e-12


# Every point that they try.


def check_points(points, x, norm, eps):
    distance = np.stack([lengths(p - x, norm) for p in points])
    assert distance.max() <= eps * (1 + 1e-5) and points.min() >= 0 and points.max() <= 1
    return distance


def test_square_linf_tries_stripes_then_one_square_at_a_time():
    x = jax.random.uniform(jax.random.key(2), (4, *SHAPE), minval=0.3, maxval=0.7)
    points, _ = visited(square(0.1, queries=60), x, jnp.ones(4, int))
    assert len(points) == 61  # the clean input and 60 queries
    check_points(points, np.asarray(x), "linf", 0.1)
    signs = (points[1:] - np.asarray(x)) / 0.1
    np.testing.assert_allclose(np.abs(signs), 1, atol=1e-5)  # always a corner
    stripes = np.sign(signs[0])
    assert (stripes == stripes[:, :1]).all() and 0.3 < (stripes[:, 0] > 0).mean() < 0.7
    sides = _blocks.sides("linf", SHAPE, 60, 0.8)
    best, value = points[1].copy(), loss_of(points[1])
    for number, point in enumerate(points[2:]):
        changed = np.abs(point - best) > 1e-6
        rows, columns = changed.any(axis=(2, 3)), changed.any(axis=(1, 3))
        assert (rows.sum(axis=1) <= sides[number]).all()
        assert (columns.sum(axis=1) <= sides[number]).all()
        assert changed.any(axis=(1, 2, 3)).all()  # no query is wasted
        better = loss_of(point) > value
        best[better], value[better] = point[better], loss_of(point)[better]


def loss_of(point):
    return np.array(
        margin(safe(random_weights(0, point[0].size), point), jnp.ones(len(point), int))
    )


def test_square_l2_keeps_its_length_and_changes_two_windows():
    x = jax.random.uniform(jax.random.key(2), (4, 10, 10, 2), minval=0.45, maxval=0.55)
    points, _ = visited(square(0.4, "l2", queries=40), x, jnp.ones(4, int))
    distance = check_points(points, np.asarray(x), "l2", 0.4)
    np.testing.assert_allclose(distance[1:], 0.4, rtol=1e-5)  # the box is far
    start = (points[1] - np.asarray(x)).reshape(4, 5, 2, 5, 2, 2)
    weights = np.linalg.norm(start, axis=(2, 4))
    np.testing.assert_allclose(weights, weights.mean(), rtol=1e-4)  # 25 equal tiles
    sides = _blocks.sides("l2", (10, 10, 2), 40, 0.8)
    best, value, emptied = points[1] - np.asarray(x), loss_of(points[1]), []
    for number, point in enumerate(points[2:]):
        delta = point - np.asarray(x)
        for i in range(4):  # outside both windows the direction is as it was
            there = best[i] != 0
            scale = np.median(delta[i][there] / best[i][there])
            kept = np.abs(delta[i] - scale * best[i]) < 1e-5
            assert (~kept).any(axis=2).sum() <= 2 * sides[number] ** 2
            emptied.append(((delta[i] == 0) & there).any())
        better = loss_of(point) > value
        best[better], value[better] = delta[better], loss_of(point)[better]
    assert np.mean(emptied[-80:]) > 0.5  # the second window, unless it lies under the first


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(6, 5), (20,)], ids=str)
def test_blocks_stay_in_the_ball_and_the_box(norm, shape):
    x = jax.random.uniform(jax.random.key(2), (5, *shape))
    points, result = visited(random_block(0.2, norm, queries=30), x, jnp.ones(5, int))
    assert len(points) == 31
    distance = check_points(points, np.asarray(x), norm, 0.2)
    assert (distance[1:] > 0).mean() > 0.95
    assert (result.loss > loss_of(np.asarray(x))).all() and result.gradients_used == 0
    np.testing.assert_allclose(result.loss, np.max([loss_of(p) for p in points], axis=0), rtol=1e-6)


# What they find.


@pytest.mark.parametrize("make", [square, random_block])
def test_a_linear_machine_is_solved(make, key):
    """The best corner of the ball is found, nearly, without a gradient."""
    w = jax.random.normal(jax.random.key(3), (5, 5))
    machine = Partial(lambda w, x: 30.0 + jnp.tensordot(x, w, 2), w)
    x, y = jnp.full((6, 5, 5), 0.5), jnp.ones(6, int)
    known = fgsm(0.1, loss=margin)(machine, x, y).loss - margin(machine(x), y)
    rise = make(0.1, queries=400)(machine, x, y, key).loss - margin(machine(x), y)
    assert (rise <= known + 1e-5).all() and (rise >= 0.9 * known).all()
    long = make(0.1, "l2", queries=300)(machine, x, y, key).loss - margin(machine(x), y)
    best = 0.1 * np.linalg.norm(w)
    assert (long <= best * (1 + 1e-4)).all() and (long >= 0.5 * best).all()


@pytest.mark.parametrize("make", [square, random_block])
@pytest.mark.parametrize("norm", NORMS)
def test_successes_are_real_and_clean_errors_come_back(make, norm, key):
    eps = {"linf": 0.05, "l2": 0.5}[norm]
    result = make(eps, norm, queries=100)(MACHINE, X, Y, key)
    wrong = np.asarray(MACHINE(result.x_adv).argmax(axis=1) != Y)
    np.testing.assert_array_equal(result.success, wrong)
    np.testing.assert_array_equal(result.x_adv[::8], X[::8])
    clean = np.asarray(MACHINE(X).argmax(axis=1) != Y)
    assert clean.sum() < wrong.sum() < 24 and (wrong >= clean).all()
    np.testing.assert_allclose(result.loss, margin(MACHINE(result.x_adv), Y), atol=1e-5)
    assert lengths(result.x_adv - X, norm).max() <= eps * (1 + 1e-5)
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    np.testing.assert_array_equal(result.zero_gradients, 0)


def test_a_success_is_final(key):
    """More queries find more, and leave alone what is fooled already."""
    few, many = (random_block(0.05, queries=q)(MACHINE, X, Y, key) for q in (40, 100))
    early = np.asarray(few.success)
    assert (many.success >= few.success).all() and 3 < early.sum() < 24
    np.testing.assert_array_equal(many.x_adv[early], few.x_adv[early])


@pytest.mark.parametrize("make", [square, random_block])
@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_changes_nothing_bit_for_bit(make, norm, key):
    result = make(0, norm, queries=5)(MACHINE, X, Y, key)
    assert np.asarray(result.x_adv).tobytes() == np.asarray(X).tobytes()
    np.testing.assert_array_equal(result.success, MACHINE(X).argmax(axis=1) != Y)


def test_a_ball_without_limits_leaves_no_accuracy_and_stops_early(key):
    attack = square(5.0, queries=1000, bounds=(-2.5, 2.5))
    result = attack(MACHINE, X, Y, key)
    assert result.success.all() and 1 <= result.queries < 1000


def test_it_finds_what_no_gradient_shows(key):
    """A stair: flat almost everywhere, so that PGD stands still."""

    def stair(steps, x):
        return 0.55 - jnp.floor(steps * x.mean(axis=(1, 2))) / steps

    x, y = jnp.full((6, 6, 6), 0.45), jnp.ones(6, int)
    machine = Partial(stair, 200.0)
    blind = pgd(0.2, steps=10)(machine, x, y, key)
    assert not blind.success.any() and (blind.zero_gradients == 10).all()
    for make in (square, random_block):
        assert make(0.2, queries=300)(machine, x, y, key).success.all()


def test_the_curve_rises_to_the_result(key):
    attack = square(0.05, queries=100)
    result, curve = attack.curve(MACHINE, X, Y, key, points=10)
    again = attack(MACHINE, X, Y, key)
    np.testing.assert_array_equal(result.x_adv, again.x_adv)
    assert curve.queries[0] == 0 and curve.queries[1] == 1 and curve.queries[-1] == result.queries
    assert 10 <= len(curve.queries) <= 13 and (np.diff(curve.queries) > 0).all()
    assert (np.diff(curve.loss, axis=0)[:, ~np.asarray(result.success)] >= 0).all()
    assert (np.diff(curve.success.astype(int), axis=0) >= 0).all()
    np.testing.assert_array_equal(curve.success[-1], result.success)
    np.testing.assert_array_equal(curve.loss[-1], result.loss)
    np.testing.assert_allclose(curve.loss[0], margin(MACHINE(X), Y), atol=1e-6)


# What JAX makes of it, and bad input.


def test_one_compilation_serves_all_predictors_budgets_lengths_and_keys():
    traces = []

    def counted(weights, x):
        traces.append(1)
        return network(weights, x)

    for seed in range(3):
        attack = square(0.01 * seed, queries=20 + 7 * seed, p_init=0.8 - 0.1 * seed)
        attack(Partial(counted, random_weights(seed)), X, Y, jax.random.key(seed))
        assert len(traces) == 2  # for the shape of the scores, and a look


def test_scanned_unrolled_and_jitted_searches_agree(monkeypatch, key):
    attack = random_block(0.05, queries=12)
    unrolled = attack(MACHINE, X, Y, key)
    jitted = jax.jit(lambda w: attack(Partial(network, w), X, Y, key))(MACHINE.args[0])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scanned = attack(MACHINE, X, Y, key)
    for other in (jitted, scanned):
        np.testing.assert_allclose(unrolled.x_adv, other.x_adv, atol=1e-6)
        np.testing.assert_array_equal(unrolled.success, other.success)
        assert other.queries == 12


def test_float64_in_float64_out():
    with float64():
        weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), random_weights(0))
        x = jnp.asarray(np.asarray(X), jnp.float64)
        for norm in NORMS:
            result = square(0.1, norm, queries=3)(
                Partial(safe, weights), x, Y * 0 + 1, jax.random.key(0)
            )
            assert result.x_adv.dtype == result.loss.dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (square, X.reshape(24, -1), r"images \(b, h, w\).*for vectors there is random_block"),
        (random_block, X[..., None], r"images \(b, h, w\) or \(b, h, w, c\)"),
        (lambda eps: square(eps, "l2"), X[:, :4], "5 x 5 or more"),
    ],
)
def test_inputs_of_another_shape_are_refused(make, x, message, key):
    machine = Partial(network, random_weights(0, x[0].size))
    with pytest.raises(ValueError, match=message):
        make(0.1)(machine, x, Y, key)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (square, {"eps": 8}, "did you mean 8/255"),
        (square, {"eps": 0.1, "queries": 0}, "queries must be at least 1"),
        (square, {"eps": 0.1, "p_init": 1.5}, r"p_init must be in \(0, 1\]"),
        (random_block, {"eps": 0.1, "norm": "l1"}, "norm must be one of"),
    ],
)
def test_senseless_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_missing_key_nan_and_a_loss_of_the_wrong_shape_are_errors(key):
    with pytest.raises(ValueError, match="pass key"):
        square(0.1)(MACHINE, X, Y, None)
    broken = Partial(lambda w, x: jnp.where(x[:, 0, 0, :1] > 0.5, w, 1.0) * x[:, 0, 1], jnp.nan)
    with pytest.raises(ValueError, match="24 examples met NaN"):
        square(0.1, queries=5)(broken, X, jnp.zeros(24, int), key)
    with pytest.raises(ValueError, match="one value an example"):
        square(0.1, loss=lambda f, y: cross_entropy(f, y).sum())(MACHINE, X, Y, key)

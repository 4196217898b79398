"""Auto-PGD against its paper: the schedule, every point of the walk, the losses, the targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntklab._common import float64
from ntklab.attacks import apgd, apgd_targeted, cross_entropy, dlr, fgsm, margin, pgd, steps
from ntklab.attacks._path import Here
from ntklab.attacks.apgd import AdaptiveStep, checkpoints
from ntklab.attacks.losses import dlr_targeted, lead
from ntklab.attacks.projections import NORMS as BALLS

NORMS = ("linf", "l2")
UNBOUNDED = (-float("inf"), float("inf"))


def network(weights, x):
    return jnp.tanh(x.reshape(len(x), -1) @ weights[0]) @ weights[1]


def random_weights(seed, d=12, k=5, hidden=32):
    first, second = jax.random.split(jax.random.key(seed))
    scale = 4.0 / d**0.5
    return scale * jax.random.normal(first, (d, hidden)), jax.random.normal(second, (hidden, k))


def labelled(seed=2, b=64, d=12):
    """A machine, inputs, and its own predictions with an error in every eighth place."""
    machine = Partial(network, random_weights(seed, d))
    x = jax.random.uniform(jax.random.key(1), (b, d))
    y = machine(x).argmax(axis=1)
    return machine, x, jnp.where(jnp.arange(b) % 8 == 0, (y + 1) % 5, y)


# The schedule.


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [0, 11, 21, 29, 35, 40, 44, 47, 50][:-1]
    assert checkpoints(10) == [0, 3, 5, 6, 7, 8, 9]
    assert checkpoints(1) == [0]
    gaps = np.diff(checkpoints(1000))
    assert gaps[:6].tolist() == [220, 190, 160, 130, 100, 70] and set(gaps[6:]) == {60}


def scripted(losses):
    """Step sizes, over the first one, after each look at the losses `(steps, b)`."""
    b = losses.shape[1]
    rule, x = AdaptiveStep(100), jnp.zeros((b, 1))
    memory, scales, points = rule.init(x, jnp.float32), [], [x]
    move = jax.jit(lambda here, memory: rule.move(here, memory, BALLS["linf"]))
    for row in losses:
        here = Here(
            points[-1], jnp.ones_like(x), jnp.asarray(row, jnp.float32), x, 9.0, 1e-3, UNBOUNDED
        )
        point, memory = move(here, memory)
        points.append(point)
        scales.append(np.asarray(memory.scale))
    return np.stack(scales), np.stack(points)[:, :, 0]


def rises_then_falls(rises, length):
    """A path of losses from 0 with so many rises in `length` steps, the falls last."""
    return np.cumsum([0.0] + [1.0] * rises + [-0.5] * (length - rises))


def test_the_step_is_halved_when_fewer_than_three_quarters_of_the_steps_rose():
    losses = np.stack([rises_then_falls(r, 41) for r in (41, 17, 16, 0)], axis=1)
    losses[:, 1] = np.concatenate([rises_then_falls(17, 22), np.arange(50, 69)])
    scale, points = scripted(losses)
    assert (scale[:22] == 1).all()  # 22 steps lie before the first look
    np.testing.assert_array_equal(scale[22], [1, 1, 0.5, 0.5])  # 17 > 16.5 > 16
    np.testing.assert_array_equal(scale[40], scale[22])
    np.testing.assert_array_equal(scale[41], [1, 1, 0.25, 0.25])
    # The walk goes on from the best point: the second at 16, and the start for the last.
    best = points[[16, 0], [2, 3]]
    step = points[23, 2:] - best
    back = best - points[21, 2:]  # inertia: from the point before
    np.testing.assert_allclose(step, 0.75 * 0.5e-3 + 0.25 * back, atol=1e-6)


def test_the_step_is_halved_when_nothing_was_gained_since_the_last_look():
    dip = np.linspace(-9, -8, 19)  # rises in 18 of 19 steps, far below the best
    losses = np.concatenate([np.arange(23.0), dip, np.linspace(-9, -8, 16), dip[:14]])[:, None]
    scale, _ = scripted(losses)
    looks = scale[[22, 41, 57, 70], 0]
    # Nothing gained by 41: halved. By 57 too, but the step had changed. By 70: halved again.
    np.testing.assert_array_equal(looks, [1, 0.5, 0.5, 0.25])


# The walk, against a second implementation: one example at a time, as the paper writes it.


def project(z, x, eps, norm):
    delta = (
        np.clip(z - x, -eps, eps)
        if norm == "linf"
        else (z - x) * min(1, eps / max(np.linalg.norm(z - x), 1e-300))
    )
    return np.clip(x + delta, 0, 1)


def algorithm_1(loss, slope, x, eps, norm, count):
    """All points that APGD looks at from x on, and how often the step was halved."""
    unit = np.sign if norm == "linf" else lambda g: g / np.linalg.norm(g)
    marks, eta, halvings = checkpoints(count), 2 * eps, 0
    seen, walk, values = [x], [x], [loss(x)]
    eta_at, top_at = {0: eta}, {0: values[0]}
    for k in range(count):
        if k in marks[1:]:
            w = marks[marks.index(k) - 1]
            raw = [loss(p) for p in seen]
            eta_at[k], top_at[k] = eta, max(raw)
            few = sum(values[i + 1] > values[i] for i in range(w, k)) < 0.75 * (k - w)
            if few or (eta_at[w] == eta_at[k] and top_at[w] == top_at[k]):
                eta, halvings = eta / 2, halvings + 1
                walk[k], values[k] = seen[int(np.argmax(raw))], max(raw)
        at, last = walk[k], walk[max(k - 1, 0)]
        z = project(at + eta * unit(slope(at)), x, eps, norm)
        share = 0.75 if k else 1.0
        new = project(at + share * (z - at) + (1 - share) * (at - last), x, eps, norm)
        walk.append(new)
        seen.append(new)
        values.append(loss(new))
    return np.stack(seen), halvings


def bumpy(phase, x):
    """A binary machine that is never wrong, with a rough loss."""
    return 30.0 - (jnp.sin(9 * x + phase) * (phase + 1)).sum(axis=1) - 3 * x[:, 0] * x[:, 1]


@pytest.mark.parametrize("norm", NORMS)
def test_every_point_of_the_walk_is_that_of_algorithm_1(norm):
    with float64():
        x = jax.random.uniform(jax.random.key(3), (6, 3), jnp.float64)
        points, phase = [], jnp.arange(3.0)[None]

        def watched(phase, z):
            jax.debug.callback(lambda p: points.append(np.asarray(p)), z)
            return bumpy(phase, z)

        attack = apgd(0.4, norm, 40, loss="margin", random_start=False)
        attack(Partial(watched, phase), x, jnp.ones(6, int))
        jax.effects_barrier()
        single = jax.jit(lambda z: -bumpy(phase, z[None])[0])
        slope = jax.jit(jax.grad(lambda z: -bumpy(phase, z[None])[0]))
        halvings = 0
        for i in range(6):
            expected, halved = algorithm_1(
                lambda z: float(single(z)),
                lambda z: np.asarray(slope(z)),
                np.asarray(x[i]),
                0.4,
                norm,
                40,
            )
            np.testing.assert_allclose(np.stack(points)[:, i], expected, atol=1e-9)
            halvings += halved
        assert halvings > 6


# Losses.


def test_dlr_equals_its_formula_and_sees_neither_shift_nor_scale():
    f = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    y, t = np.arange(50) % 6, (np.arange(50) + 2) % 6
    own, other = f[np.arange(50), y], f[np.arange(50), t]
    wrong = np.array([np.delete(row, i).max() for row, i in zip(f, y, strict=True)])
    s = -np.sort(-f, axis=1)
    logits, y, t = jnp.asarray(f), jnp.asarray(y), jnp.asarray(t)
    np.testing.assert_allclose(dlr(logits, y), -(own - wrong) / (s[:, 0] - s[:, 2]), atol=1e-5)
    expected = -(own - other) / (s[:, 0] - (s[:, 2] + s[:, 3]) / 2)
    np.testing.assert_allclose(dlr_targeted(logits, y, t), expected, atol=1e-5)
    np.testing.assert_allclose(lead(logits, y, t), other - own, atol=1e-6)
    np.testing.assert_allclose(dlr(100 * logits + 7, y), dlr(logits, y), rtol=1e-3, atol=1e-4)


def test_dlr_needs_classes_and_says_so():
    two, three = jnp.zeros((1, 2)), jnp.zeros((1, 3))
    y = jnp.zeros(1, int)
    for logits in (two, jnp.zeros(1)):
        with pytest.raises(ValueError, match=r"dlr needs at least 3 classes, got 2.*loss='margin'"):
            dlr(logits, y)
    with pytest.raises(ValueError, match="dlr_targeted needs at least 4 classes, got 3"):
        dlr_targeted(three, y, y)


# The attack as a whole.


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_is_exact_on_a_linear_machine(norm, key):
    w = jax.random.normal(jax.random.key(3), (7,))
    x = jax.random.normal(jax.random.key(4), (20, 7))
    x = x + jnp.where(x @ w > 0, 1.0, -1.0)[:, None] * w[None]
    machine, y = Partial(lambda w, x: x @ w, w), (x @ w > 0).astype(jnp.int32)
    found = apgd(0.2, norm, 40, loss="margin", bounds=UNBOUNDED)(machine, x, y, key)
    rise = 0.2 * np.linalg.norm(w, {"linf": 1, "l2": 2}[norm])
    np.testing.assert_allclose(found.loss - margin(machine(x), y), rise, rtol=2e-4)


def test_apgd_is_at_least_as_strong_as_one_step_and_keeps_clean_errors(key):
    machine, x, y = labelled()
    one = fgsm(0.1)(machine, x, y)
    aimed = apgd_targeted(0.1, steps=10)(machine, x, y, key)
    assert aimed.gradients_used == 4 * 10  # five classes have four wrong ones
    np.testing.assert_allclose(aimed.loss, margin(machine(aimed.x_adv), y), atol=1e-5)
    for found in (apgd(0.1, steps=10, loss="dlr")(machine, x, y, key), aimed):
        assert (np.abs(found.x_adv - x).max(axis=1) <= 0.1 + 1e-6).all()
        np.testing.assert_array_equal(found.x_adv[::8], x[::8])
        assert (found.success >= one.success).mean() > 0.95 and not found.success.all()
    assert (aimed.success >= one.success).all()
    gain = (aimed.loss - margin(machine(one.x_adv), y))[~aimed.success]
    assert gain.mean() > 0.02  # it need not be stronger on every example


@pytest.mark.parametrize("make", [apgd, apgd_targeted])
def test_eps_zero_changes_nothing_bit_for_bit(make, key):
    machine, x, y = labelled()
    result = make(0.0, steps=10)(machine, x, y, key)
    assert np.asarray(result.x_adv).tobytes() == np.asarray(x).tobytes()
    np.testing.assert_array_equal(result.success, machine(x).argmax(axis=1) != y)


def test_a_ball_without_limits_leaves_no_accuracy(key):
    machine, x, y = labelled()
    attack = apgd(10.0, steps=10, restarts=5, loss="dlr", bounds=(-5.0, 5.0))
    assert attack(machine, x, y, key).success.all()


def test_the_targets_are_the_wrong_classes_by_falling_score(key):
    machine, x, y = labelled()
    seen = []

    def watched(logits, y, target):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), target)
        return lead(logits, y, target)

    apgd_targeted(0.01, steps=1, targets=3, loss=watched, random_start=False)(machine, x, y)
    jax.effects_barrier()
    scores = np.array(machine(x))
    scores[np.arange(len(y)), y] = -np.inf
    expected = np.argsort(-scores, axis=1)[:, :3].T
    np.testing.assert_array_equal(np.stack(seen)[::2], expected)  # a step and a last look each
    np.testing.assert_array_equal(np.stack(seen)[1::2], expected)


def test_targets_reach_a_class_that_the_other_losses_do_not_lead_to(key):
    """The runner-up is out of reach; the third class is not."""

    def scores(reach, x):
        steep = 4 * jnp.abs(x[:, 0] - 0.5)
        near, far = 0.9 + 0.0 * x[:, 0], 0.5 + reach * steep
        return jnp.stack([1.0 + 0 * near, near - steep, far - 1.0 * steep, near - 2], axis=1)

    x = jnp.full((8, 2), 0.5)
    y = jnp.zeros(8, int)
    aimed = apgd_targeted(0.3, steps=10)(Partial(scores, 3.0), x, y, key)
    assert aimed.success.all()


def test_binary_machines_are_attacked_by_the_margin(key):
    machine = Partial(lambda w, x: x @ w, jnp.array([1.0, -1.0]))
    x, y = jnp.array([[0.6, 0.4], [0.4, 0.6]]), jnp.array([1, 0])
    for make in (apgd, apgd_targeted):
        with pytest.raises(ValueError, match="use loss='margin'"):
            make(0.2, loss="dlr")(machine, x, y, key)
        result = make(0.2, steps=5, loss="margin")(machine, x, y, key)
        assert result.success.all() and result.gradients_used == 5


# What JAX makes of it.


def test_one_compilation_serves_all_predictors_budgets_and_keys(monkeypatch):
    traces = []

    def counted(weights, x):
        traces.append(1)
        return network(weights, x)

    _, x, y = labelled()
    for seed in range(3):
        attack = apgd(0.05 + 0.1 * seed, steps=10, restarts=2)
        attack(Partial(counted, random_weights(seed)), x, y, jax.random.key(seed))
        assert len(traces) == 3  # for the shape of the scores, a step, and a look
    traces.clear()
    for seed in range(2):
        attack = apgd_targeted(0.05 + 0.1 * seed, steps=10, targets=2 + seed)
        attack(Partial(counted, random_weights(seed)), x, y, jax.random.key(seed))
        assert len(traces) == 3  # the shape is known; the order of classes is not


def test_scanned_and_unrolled_walks_agree(monkeypatch, key):
    machine, x, y = labelled()
    attack = apgd(0.05, "l2", steps=10)
    unrolled = attack(machine, x, y, key)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    scanned = attack(machine, x, y, key)
    np.testing.assert_allclose(unrolled.x_adv, scanned.x_adv, atol=1e-4)
    np.testing.assert_array_equal(unrolled.success, scanned.success)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (apgd, {"loss": "cw"}, "one of 'ce', 'dlr', 'margin' or a function, got 'cw'"),
        (apgd, {"steps": 0}, "at least 1"),
        (apgd, {"restarts": 2, "random_start": False}, "repeat one run"),
        (apgd, {"restarts": 2, "keep": "last"}, "keep='last'"),
        (apgd_targeted, {"targets": 0}, "targets must be at least 1"),
        (apgd_targeted, {"loss": "ce"}, "one of 'dlr', 'margin'"),
    ],
)
def test_senseless_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(0.1, **settings)


def test_a_step_rule_is_an_argument(key):
    machine, x, y = labelled()
    rule = AdaptiveStep(10)
    same = pgd(0.05, steps=10, step_size=0.1, step_rule=rule)(machine, x, y, key)
    np.testing.assert_array_equal(same.x_adv, apgd(0.05, steps=10)(machine, x, y, key).x_adv)
    assert hash(rule) == hash(AdaptiveStep(10)) and rule != steps.SteepestStep()
    assert cross_entropy(machine(same.x_adv), y).shape == (64,)

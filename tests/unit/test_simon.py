"""The learning curve: its arms against the library and by hand, resuming, the light packages."""

import math
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data, ledger, papers, predictors
from ntklab.papers import EXPERIMENTS
from ntklab.papers.simon import learning_curve

pytestmark = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")

EXPERIMENT = EXPERIMENTS["learning-curve"]
SMALL = replace(
    EXPERIMENT.presets["quick"],
    **{"seeds": (0, 1), "sizes": (8, 40), "small": 8, "n_test": 30, "pool": 160, "n_law": 40},
    **{"width": 16, "steps": 6, "batch": 5},
)
#: What a machine of the queue may lack.
HEAVY = ("sklearn", "altair", "pandas", "neural_tangents", "matfree", "tqdm", "jaxtyping")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two seeds in one undisturbed run, without the heavy packages."""
    with pytest.MonkeyPatch.context() as patch:
        for name in HEAVY[:-1]:  # the tests themselves need jaxtyping
            patch.setitem(sys.modules, name, None)
        return EXPERIMENT.run(SMALL, workdir=tmp_path_factory.mktemp("both"))


def curve(result, name, seed=0):
    return dict(zip(result.curves[name]["x"], result.curves[name]["y"][seed], strict=True))


def test_a_run_killed_anywhere_resumes_to_the_same_values(both, tmp_path, monkeypatch):
    save, saved = papers.Checkpoints.save, []

    def killed(self, name, **arrays):
        save(self, name, **arrays)
        saved.append(f"{self.folder.name}/{name}")
        if len(saved) in (1, 5):  # the spectrum, and among the networks
            raise KeyboardInterrupt

    monkeypatch.setattr(papers.Checkpoints, "save", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            EXPERIMENT.run(SMALL, workdir=tmp_path, resume=True)
    result = EXPERIMENT.run(SMALL, workdir=tmp_path, resume=True)
    assert saved[0] == "shared/spectrum of the pool" and len(saved) == len(set(saved)) == 15
    assert (result.values, result.curves) == (both.values, both.curves)


def test_the_kernel_arm_is_kernel_regression(both):
    images = data.load("mnist", n_train=40, n_test=30, seed=1)
    targets = images.one_hot()[0] - 0.1
    fitted = predictors.KernelRegression(learning_curve.KERNEL).fit(images.x_train, targets)
    scores = np.asarray(fitted.predict(images.x_test, [math.inf])[0])
    wrong = (scores.argmax(1) != np.asarray(images.y_test)).mean()
    mse = ((scores - np.asarray(images.one_hot()[1]) + 0.1) ** 2).sum(1).mean()
    assert curve(both, "kernel_error", 1)[40] == pytest.approx(wrong)
    assert curve(both, "kernel_mse", 1)[40] == pytest.approx(mse, rel=1e-4)
    assert curve(both, "effective_ridge", 1)[40] == pytest.approx(
        40 / (1 / fitted.eigenvalues).sum(), rel=1e-6
    )


def test_a_larger_training_set_holds_the_smaller_one():
    few, many = (data.load("mnist", n_train=n, n_test=10, seed=3).x_train for n in (8, 40))
    np.testing.assert_array_equal(few, many[:8])


def test_the_theory_speaks_up_to_a_quarter_of_the_pool(both):
    assert set(curve(both, "predicted_mse")) == {8, 40}
    less = replace(SMALL, pool=159)
    assert less.answers(39) and not less.answers(40)
    # Close already at this size; the ledger judges it at a larger one.
    assert both.values["theory_worst"][0] < 0.5 and both.values["ridge_worst"][0] < 0.5


def test_the_conservation_law_is_checked_and_can_fail(both, monkeypatch):
    for name in ("conservation", "conservation_time", "conservation_ridge"):
        assert max(both.values[name]) < 1e-10
    exact = predictors.learnabilities
    monkeypatch.setattr(predictors, "learnabilities", lambda *a: 1.01 * exact(*a))
    images = data.load("mnist", n_train=40, n_test=10, seed=0)
    broken = learning_curve._Problem(SMALL, images).conservation()
    assert min(broken.values()) > 0.005


def test_the_summary_is_what_it_says(both):
    values = {name: numbers[0] for name, numbers in both.values.items()}
    kernel, net = curve(both, "kernel_error"), curve(both, "network_error")
    assert values["small_gap"] == pytest.approx(net[8] - kernel[8])
    assert values["large_gap"] == pytest.approx(net[40] - kernel[40])
    mse = curve(both, "kernel_mse")
    assert values["exponent"] == pytest.approx(math.log(mse[8] / mse[40]) / math.log(5))
    assert values["bend"] < 1e-12  # two points
    off = [abs(curve(both, "predicted_mse")[n] / mse[n] - 1) for n in (8, 40)]
    assert values["theory_worst"] == pytest.approx(max(off))
    agree = curve(both, "agree_centred").values()
    assert values["agree_centred"] == pytest.approx(sum(agree) / 2)
    wanted = {n for c in ledger.claims(experiment="learning-curve") for n in c.names}
    assert wanted and wanted <= set(values)


def test_a_step_is_momentum_on_half_the_mean_squared_error(key):
    f, start = learning_curve.network(4, key)
    x = jax.random.uniform(jax.random.key(1), (6, 28, 28, 1))
    targets = jax.random.normal(jax.random.key(2), (6, 10))
    n, rate, batch = 4, 0.2, 3

    @jax.jit
    def slope(params, rows, share):
        def loss(p):
            shift = share * f(start, x[rows])
            return ((f(p, x[rows]) - shift - targets[rows]) ** 2).sum() / (2 * batch)

        return jax.grad(loss)(params)

    for centred in (False, True):
        expected, speed = start, jax.tree.map(jnp.zeros_like, start)
        for i in range(2):
            rows = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, n)
            found = slope(expected, rows, jnp.float32(centred))
            speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, found)
            expected = jax.tree.map(lambda p, v: p - rate * v, expected, speed)
        found = learning_curve.descend(
            *(f, start, x, targets, jnp.int32(n), jnp.float32(rate), key, jnp.int32(2)),
            *(batch, centred),
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_float32_that_breaks_down_counts_as_changed_everywhere():
    nearly = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-6]])
    assert learning_curve._solved_in_float32(nearly, np.eye(2), np.eye(2)) is None
    fine = learning_curve._solved_in_float32(2 * np.eye(2), np.eye(2), np.eye(2))
    np.testing.assert_allclose(fine, np.eye(2) / 2)


def test_the_cost_grows_as_its_largest_parts_do():
    book = EXPERIMENT.presets["book"]
    whole = learning_curve.cost(book)
    assert learning_curve.cost(replace(book, seeds=(0,))).flops < whole.flops
    assert learning_curve.cost(replace(book, width=5120)).flops > 5 * whole.flops
    shared = 9.0 * book.pool**3
    assert shared < whole.host_flops < 2 * shared

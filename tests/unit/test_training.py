"""The training loop: phases, resuming, seeds, precision, and what it says when things go wrong."""

import dataclasses
import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ntklab import _common, attacks, nets
from ntklab import training as tr
from ntklab._deadline import OutOfTime
from ntklab.kernels import empirical_ntk

NET = nets.FC(widths=(16,), outputs=3)
rng = np.random.default_rng(0)
X = jnp.asarray(rng.uniform(size=(70, 6)), jnp.float32)
Y = jnp.asarray(np.argmax(X[:, :3], 1), jnp.int32)
PLAIN = tr.Phase(3, learning_rate=tr.steps_down(0.3, (2,)))
SPAWN = (
    tr.Phase(2, tr.PGD(0.05, 2), learning_rate=tr.constant(0.2)),
    tr.Phase(1.5, tr.Free(0.05, 2), model="centred", learning_rate=tr.constant(0.1)),
    tr.Phase(1, model="linear", learning_rate=tr.cyclic(0.1, 0.5, 1)),
)


def train(phases=(PLAIN,), **options):
    settings = {"batch_size": 20, "show_progress": False} | options
    return tr.train(settings.pop("module", NET), settings.pop("data", (X, Y)), phases, **settings)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.metrics]


class After:
    """A deadline that is over after so many questions."""

    def __init__(self, steps):
        self.left = steps

    def over(self):
        self.left -= 1
        return self.left <= 0


# Phases.


def test_a_row_an_epoch_with_its_learning_rate_and_falling_loss():
    result = train()
    assert [r["epoch"] for r in result.metrics] == [1, 2, 3]
    assert [r["step"] for r in result.metrics] == [3, 6, 9]
    assert [r["learning_rate"] for r in result.metrics] == [0.3, 0.3, 0.03]
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"] < 2
    assert result.logits_fn()(X).shape == (70, 3)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    one, again, other = train(), train(), train(seed=1)
    equal(one.weights, again.weights)
    assert rows(one) == rows(again) != rows(other)


def test_a_centred_phase_starts_at_zero_and_a_linear_one_at_the_network():
    parent = train(save_at=(0, 3))
    still = tr.constant(0.0)
    network = parent.logits_fn()(X)
    for model, expected in (("centred", jnp.zeros_like(network)), ("linear", network)):
        phases = (PLAIN, tr.Phase(1, model=model, learning_rate=still))
        np.testing.assert_allclose(train(phases).logits_fn()(X), expected, atol=1e-5)


def test_one_full_step_of_a_linear_phase_moves_the_scores_by_the_kernel():
    phase = tr.Phase(
        1, model="linear", learning_rate=tr.constant(0.1), momentum=0.0, loss="squared_error"
    )
    result = train([phase], batch_size=70)
    params = result.weights.start
    f, _ = nets.as_function(NET, {"params": params})
    before, target = f(params, X), jax.nn.one_hot(Y, 3, dtype=jnp.float32)
    ntk = empirical_ntk(f, params, X)
    expected = before - 0.1 / 70 * jnp.einsum("ijkl,jl->ik", ntk, before - target)
    np.testing.assert_allclose(result.logits_fn()(X), expected, atol=1e-5)


def test_a_linear_phase_goes_on_and_a_nonlinear_one_takes_the_moved_parameters():
    linear = tr.Phase(1, model="linear", learning_rate=tr.constant(0.1))
    still = {"learning_rate": tr.constant(0.0)}
    two = train([linear, tr.Phase(1, model="linear", **still)])
    equal(two.weights.start, train([linear]).weights.start)
    np.testing.assert_array_equal(two.logits_fn()(X), train([linear]).logits_fn()(X))
    back = train([linear, tr.Phase(1, **still)])
    moved = jax.tree.map(jnp.add, two.weights.start, two.weights.trained)
    equal(back.weights.trained, moved)


def test_spawning_from_kept_weights_equals_the_phase_that_follows():
    whole = train(SPAWN[:2], save_at=(0, 0.34, 2))
    parent = train(SPAWN[:1], save_at=(2,))
    model, weights = whole.at(2)
    assert model == "nonlinear"
    equal(weights, parent.weights)
    assert whole.weights.start is not None
    equal(whole.weights.start, parent.weights.trained)
    first = whole.at(0)[1].trained["hidden_0"]["kernel"]
    early = whole.at(0.34)[1].trained["hidden_0"]["kernel"]
    assert not np.array_equal(first, early)
    spawned = train([SPAWN[1]], start=weights)
    equal(spawned.weights.start, parent.weights.trained)
    with pytest.raises(ValueError, match="epoch 1 was not kept"):
        whole.logits_fn(1)


# Resuming.


@pytest.mark.parametrize("steps", [1, 6, 8, 12])
def test_a_run_that_was_stopped_anywhere_equals_an_undisturbed_one(steps, tmp_path):
    probe = tr.KernelProbe(X[:5], (0, 1.34, 2), y=Y[:5], attack=attacks.fgsm(0.05))
    options = {"kernels": probe, "save_at": (1, 2.67)}
    whole = train(SPAWN, **options)
    with pytest.raises(OutOfTime, match=f"step {steps} of"):
        train(SPAWN, folder=tmp_path, deadline=After(steps), **options)
    resumed = train(SPAWN, folder=tmp_path, resume=True, **options)
    assert rows(resumed) == rows(whole)
    equal(resumed.weights, whole.weights)
    equal(resumed.at(2.67)[1], whole.at(2.67)[1])
    for name, matrix in whole.kernel(1.34).items():
        np.testing.assert_array_equal(resumed.kernel(1.34)[name], matrix)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(whole.metrics)
    again = train(SPAWN, folder=tmp_path, resume=True, **options)  # nothing is left to do
    equal(again.weights, whole.weights)
    assert [r["seconds"] for r in again.metrics] == [r["seconds"] for r in resumed.metrics]


def test_a_folder_of_another_run_is_refused_and_a_fresh_start_clears_it(tmp_path):
    train(folder=tmp_path, save_at=(1,))
    with pytest.raises(ValueError, match="other arguments or data"):
        train(folder=tmp_path, resume=True, batch_size=10)
    with pytest.raises(ValueError, match="other arguments or data"):
        train(folder=tmp_path, resume=True, data=(X * 0.5, Y))
    train(folder=tmp_path, save_at=(2,))
    assert [p.name for p in sorted(tmp_path.glob("epoch-*"))] == ["epoch-2.npz"]


def test_a_full_disk_is_one_sentence_and_costs_one_interval(tmp_path, monkeypatch):
    write = _common.write_atomically

    def full(path, content):
        if "epoch-2" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(_common, "write_atomically", full)
    options = {"folder": tmp_path, "save_at": (2,), "save_seconds": 0.0}
    with pytest.raises(OSError, match=r"epoch-2.npz could not be written .No space left") as error:
        train(**options)
    assert error.value.errno == errno.ENOSPC and "kept so far: the state at epoch" in str(error)
    monkeypatch.undo()
    resumed = train(resume=True, **options)
    assert rows(resumed) == rows(train())


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        train(folder=tmp_path / "file" / "run")


def test_damaged_state_is_named(tmp_path):
    train(folder=tmp_path)
    (tmp_path / "state.npz").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"state\.npz is damaged"):
        train(folder=tmp_path, resume=True)


def test_a_state_held_to_fewer_bytes_says_what_a_resume_lost(tmp_path):
    phases, net = [tr.Phase(3, learning_rate=tr.constant(0.1))], nets.FC(widths=(256,), outputs=3)
    whole = train(phases, module=net)
    for limit, words, close in ((0.0175, "bfloat16", 1e-2), (0.012, "start of its phase", 0)):
        folder = tmp_path / str(limit)
        options = {"folder": folder, "state_mib": limit, "module": net}
        with pytest.raises(OutOfTime):
            train(phases, deadline=After(5), **options)
        resumed = train(phases, resume=True, **options)
        notes = [r["note"] for r in resumed.metrics if "note" in r]
        assert len(notes) == 1 and words in notes[0]
        np.testing.assert_allclose(resumed.logits_fn()(X), whole.logits_fn()(X), atol=close)
    with pytest.raises(ValueError, match=r"raise --state-mib"):
        train(phases, folder=tmp_path / "none", state_mib=1e-5)


# Seeds, precision, data.


def test_seeds_trained_together_are_those_trained_alone():
    phases = [tr.Phase(2, tr.PGD(0.05, 2), learning_rate=tr.constant(0.2)), SPAWN[1]]
    probe = tr.KernelProbe(X[:4], (1,))
    both = train(phases, seed=(3, 5), kernels=probe, save_at=(1,))
    for number, seed in enumerate((3, 5)):
        alone = train(phases, seed=seed, kernels=probe, save_at=(1,))
        np.testing.assert_allclose(
            both.logits_fn(seed=seed)(X), alone.logits_fn()(X), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            both.logits_fn(1, seed)(X), alone.logits_fn(1)(X), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            both.kernel(1)["clean"][number], alone.kernel(1)["clean"], rtol=1e-4
        )
        losses = [r["loss"][number] for r in both.metrics]
        np.testing.assert_allclose(losses, [r["loss"] for r in alone.metrics], rtol=1e-4)
    with pytest.raises(ValueError, match="seed must be one of"):
        both.logits_fn()


def test_bytes_and_fractions_are_the_same_images():
    images = jnp.asarray(rng.integers(0, 256, (40, 5, 5, 1)), jnp.uint8)
    y = jnp.arange(40) % 2
    settings = {"module": nets.FC(widths=(8,), outputs=2), "batch_size": 20}
    stored = train(data=(images, y), **settings)
    floats = train(data=(images.astype(jnp.float32) / 255, y), **settings)
    equal(stored.weights, floats.weights)


def test_half_precision_keeps_master_weights_and_learns_alike():
    half, single = train(dtype="bfloat16"), train()
    assert {a.dtype.name for a in jax.tree.leaves(half.weights)} == {"float32"}
    assert half.logits_fn()(X).dtype == jnp.float32
    losses = [[r["loss"] for r in run.metrics] for run in (half, single)]
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert losses[0] != losses[1]


def test_crop_and_flip_move_an_image_and_lose_nothing_else(key):
    image = jnp.zeros((500, 8, 8, 1)).at[:, 4, 1].set(1.0)
    seen = tr.CropFlip(padding=2)(key, image)
    assert seen.shape == image.shape
    places = {tuple(map(int, p[1:3])) for p in np.argwhere(np.asarray(seen))}
    columns = {1 + d for d in range(-2, 3)} | {6 + d for d in range(-2, 3)}
    assert places == {(4 + d, c) for d in range(-2, 3) for c in columns if 0 <= c < 8}
    with pytest.raises(ValueError, match="padding"):
        tr.CropFlip(-1)


def test_augmented_batches_differ_between_epochs_and_come_again_with_the_seed():
    images = jnp.asarray(rng.uniform(size=(40, 6, 6, 1)), jnp.float32)
    settings = {
        "data": (images, jnp.arange(40) % 2),
        "module": nets.FC(widths=(8,), outputs=2),
        "shuffle": False,
    }
    changed = train(augment=tr.CropFlip(1), **settings)
    assert (
        rows(changed) == rows(train(augment=tr.CropFlip(1), **settings)) != rows(train(**settings))
    )


def test_batch_normalisation_live_moves_its_statistics_and_frozen_does_not():
    images = jnp.asarray(rng.uniform(size=(40, 8, 8, 1)), jnp.float32)
    net = nets.ResNet(blocks=(1,), widths=(4,), outputs=2)
    settings = {"module": net, "data": (images, jnp.arange(40) % 2)}
    phase = tr.Phase(1, learning_rate=tr.constant(0.05))
    frozen = dataclasses.replace(phase, statistics="frozen")
    result = train([phase, frozen], save_at=(0, 1), **settings)
    start, spawn = (result.at(e)[1].statistics["batch_stats"] for e in (0, 1))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), start, spawn)
    assert all(jax.tree.leaves(changed))
    equal(result.weights.statistics["batch_stats"], spawn)
    centred = dataclasses.replace(frozen, model="centred")
    assert np.isfinite(train([phase, centred], **settings).metrics[-1]["loss"])


def test_nothing_is_compiled_after_the_first_step_of_a_phase():
    traced = []

    class Counted(nets.FC):
        def __call__(self, x, train=False):
            traced.append(1)
            return super().__call__(x, train)

    train(module=Counted(widths=(4,), outputs=3))
    once = len(traced)
    train(module=Counted(widths=(4,), outputs=3), seed=9)
    longer = dataclasses.replace(PLAIN, epochs=8, learning_rate=tr.constant(0.1))
    train([longer], module=Counted(widths=(4,), outputs=3))
    assert len(traced) - once <= 4  # shapes of new weights and scores, no new step


# Kernels on the way, and what `evaluate` finds.


def test_kernels_on_the_way_are_those_of_the_kept_weights():
    probe = tr.KernelProbe(X[:6], (0, 2), y=Y[:6], attack=attacks.pgd(0.1, random_start=False))
    result = train(kernels=probe, save_at=(2,))
    params = result.at(2)[1].trained
    f, _ = nets.as_function(NET, {"params": params})
    expected = empirical_ntk(f, params, X[:6], mode="trace")
    np.testing.assert_allclose(result.kernel(2)["clean"], expected, rtol=1e-5)
    z = probe.attack(result.logits_fn(2), X[:6], Y[:6]).x_adv
    expected = empirical_ntk(f, params, z, mode="trace")
    np.testing.assert_allclose(result.kernel(2)["adversarial"], expected, rtol=1e-4)
    assert result.metrics[1]["kernel_norm"] == pytest.approx(
        np.linalg.norm(result.kernel(2)["clean"])
    )
    with pytest.raises(ValueError, match="no kernel was taken at epoch 1"):
        result.kernel(1)


def test_evaluate_sees_the_function_of_every_row():
    def evaluate(logits_fn, epoch):
        return {"robust": float((logits_fn(X).argmax(1) == Y).mean()), "when": epoch}

    result = train(evaluate=evaluate)
    assert [r["when"] for r in result.metrics] == [1, 2, 3]
    expected = float((result.logits_fn()(X).argmax(1) == Y).mean())
    assert result.metrics[-1]["robust"] == pytest.approx(expected)


# What goes wrong.


def test_a_collapse_to_one_class_is_said_once_in_one_sentence():
    dead = tr.Phase(8, learning_rate=tr.constant(0.0))
    params = jax.tree.map(jnp.zeros_like, train().weights.trained)
    params["logits"]["bias"] = jnp.array([0.0, 0.0, 5.0])
    with pytest.warns(RuntimeWarning, match="gives one class to 100.0 %") as told:
        result = train([dead], start=tr.Weights(params, None, {}))
    assert len(told) == 1
    assert [("warning" in r) for r in result.metrics] == [False] * 6 + [True, False]


def test_a_vanished_kernel_is_said():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, use_bias=False)(jax.nn.relu(nn.Dense(8, use_bias=False)(x)))

    net = Bare()
    phase = tr.Phase(3, learning_rate=tr.constant(0.0), weight_decay=0.0)
    probe = tr.KernelProbe(X[:4], (0, 1))
    result = train([phase], module=net, kernels=probe)
    assert all("warning" not in r for r in result.metrics)
    shrinking = tr.Phase(8, learning_rate=tr.constant(0.3), momentum=0.0, weight_decay=2.0)
    with pytest.warns(RuntimeWarning, match="norm has vanished"):
        train([shrinking], module=net, kernels=tr.KernelProbe(X[:4], (0, 8)))


def test_a_loss_that_is_no_number_stops_the_run_and_names_what_is_kept(tmp_path):
    wild = tr.Phase(5, learning_rate=tr.constant(1e30), loss="squared_error")
    with pytest.raises(tr.Diverged, match="NaN or infinite in epoch"):
        train([wild], folder=tmp_path, save_seconds=0.0)
    assert (tmp_path / "state.npz").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 71}, "batch_size must be in 1..70"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"shuffle": False}, "would never be seen"),
        ({"seed": ()}, "seed must be"),
        ({"data": (X * 255, Y)}, r"must lie in \[0, 1\]"),
        ({"data": (X, Y[:3])}, "y must have shape"),
        ({"data": (X, Y - 1)}, "y must lie in"),
        ({"save_at": (4,)}, "after the end of the run"),
        ({"phases": ()}, "at least one Phase"),
    ],
    ids=["batch", "dtype", "order", "seed", "units", "labels", "classes", "late", "none"],
)
def test_arguments_that_do_not_fit_are_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        train(**options)


def test_images_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="floating point"):
        train(data=(jnp.ones((4, 2), jnp.int32), jnp.zeros(4, jnp.int32)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"model": "lazy"}, "model must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"learning_rate": tr.steps_down(0.1, (5,))}, "still changes at epoch 5"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"statistics": "train"}, "statistics must be one of"),
    ],
    ids=["epochs", "model", "loss", "long", "momentum", "statistics"],
)
def test_a_phase_with_settings_out_of_range_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        tr.Phase(**({"epochs": 2} | settings))


def test_schedules_are_data_and_refuse_nonsense():
    assert json.loads(json.dumps(dataclasses.asdict(tr.cyclic(0.2, 1, 2))))["kind"] == "linear"
    for bad in (((1, 0.1),), (), ((0, 0.1), (0, 0.2)), ((0, -1.0),), ((0, float("nan")),)):
        with pytest.raises(ValueError):
            tr.Schedule("steps", bad)

"""The training loop interrupted, resumed, and gone wrong."""

import dataclasses
import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from training_problems import SPAWN, X, Y, equal, rows, train

from ntklab import _common, attacks, nets
from ntklab import training as tr
from ntklab._deadline import OutOfTime


class After:
    """A deadline that is over after so many questions."""

    def __init__(self, steps):
        self.left = steps

    def over(self):
        self.left -= 1
        return self.left <= 0


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

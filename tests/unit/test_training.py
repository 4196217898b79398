"""The training loop: phases, seeds, precision, data, kernels on the way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_problems import NET, PLAIN, SPAWN, X, Y, equal, rows, train

from ntklab import attacks, nets
from ntklab import training as tr
from ntklab.kernels import empirical_ntk

rng = np.random.default_rng(1)


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

"""Kernels along training, section 5: networks as printed, measures by hand, what is kept."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab import data, dynamics, kernels, nets, training
from ntklab.papers import EXPERIMENTS, Checkpoints
from ntklab.papers.tsilivis_kempe import kernel_paths, motion, networks

needs_mnist = pytest.mark.skipif(not data.found()["mnist"], reason="mnist is not on this machine")
TINY = replace(
    EXPERIMENTS["tk-mnist-motion"].presets["quick"],
    arms=("standard", "pgd"),
    setting=replace(motion.QUICK, n_train=100, epochs=1, step_size=0.1),
    at=(0, 1),
)


# --- the networks and how they are trained --------------------------------------------------


def test_the_paper_size_is_section_five():
    for name, batch, eps, step in (
        ("tk-mnist-motion", 300, 0.3, 0.1),
        ("tk-cifar-motion", 250, 8 / 255, 2 / 255),
    ):
        config = EXPERIMENTS[name].presets["paper"]
        s = config.setting
        assert (s.epochs, s.learning_rate, s.momentum, s.shuffle) == (200, 0.01, 0.0, False)
        assert (s.batch_size, s.eps, s.step_size, s.train_steps) == (batch, eps, step, 20)
        assert s.n_train is s.n_test is s.side is None and not s.random_start
        assert (config.n_probe, config.tops) == (250, (10, 20)) and config.at[-1] == s.epochs


@pytest.mark.parametrize("setting", [networks.MNIST, networks.CIFAR])
def test_strategies_and_phases(setting):
    pgd = networks.strategy(setting, "pgd")
    assert (pgd.steps, pgd.step_size, pgd.random_start) == (20, setting.step_size, False)
    assert networks.strategy(setting, "fgsm") == training.FGSM(setting.eps)
    phase = networks.phase(setting, "standard", epochs=3, model="centred")
    assert (phase.epochs, phase.model, phase.momentum) == (3, "centred", 0.0)
    assert phase.learning_rate(2.5) == 0.01
    with pytest.raises(ValueError, match="arm must be one of standard, fgsm, pgd"):
        networks.strategy(setting, "trades")


@pytest.mark.parametrize(
    ("setting", "multiplications"), [(networks.MNIST, 4_643_840), (networks.CIFAR, 81_182_720)]
)
def test_operations_are_those_of_the_networks(setting, multiplications):
    assert networks.products(setting) == multiplications
    assert networks.module(setting) in (nets.MnistCNN(), nets.CNNMega())


# --- what is measured, by hand --------------------------------------------------------------


def test_a_path_of_three_diagonal_kernels():
    """Rotations and shares of diagonal matrices are those of plain vectors."""
    spectra = np.array([[3.0, 1.0, 0.5], [6.0, 2.0, 1.0], [9.0, 1.0, 2.0]])
    found = kernel_paths.path_of([np.diag(v).astype(np.float32) for v in spectra], (1, 2))
    lengths = np.linalg.norm(spectra, axis=1)
    cosines = spectra @ spectra[0] / lengths / lengths[0]
    np.testing.assert_allclose(found["angle_whole"], np.arccos(np.minimum(cosines, 1)), atol=1e-3)
    np.testing.assert_allclose(found["past"][0], 1 - cosines, atol=1e-6)
    far = np.linalg.norm(spectra - spectra[0], axis=1)
    np.testing.assert_allclose(found["radius_whole"], far / far[-1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["top1"], spectra[:, 0] ** 2 / lengths**2, rtol=1e-5)
    two = np.sort(spectra, axis=1)[:, 1:]
    np.testing.assert_allclose(found["top2"], (two**2).sum(1) / lengths**2, rtol=1e-5)
    np.testing.assert_allclose(found["norm"], lengths, rtol=1e-6)
    assert found["turned"][0] < 1e-3 < found["turned"][1]


def test_blocks_of_classes():
    trace = np.array([[9.0, 2, 0, 1], [2, 9, 1, 0], [0, 1, 9, 6], [1, 0, 6, 9]])
    kernel = np.stack(
        [np.stack([trace / 2, 0 * trace], -1), np.stack([0 * trace, trace / 2], -1)], -1
    )
    blocks = kernel_paths.class_means(kernel, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(blocks, [[2, 0.5], [0.5, 6]])
    assert kernel_paths.contrast(blocks) == pytest.approx(4 / 0.5)
    assert kernel_paths.spread(blocks) == pytest.approx(0.5)


def test_lazy_from_the_epoch_after_the_last_one_that_is_far():
    past = np.zeros((4, 4))
    past[:, -1] = [1.0, 0.05, 0.2, 0.0]
    assert kernel_paths.lazy_epoch([0, 1, 5, 9], past, 0.1) == 9
    assert kernel_paths.lazy_epoch([0, 1, 5, 9], past, 0.3) == 1


def test_a_quantity_where_the_loss_first_reaches_a_level():
    loss, numbers = np.array([2.0, 1.0, 1.0, 0.5]), np.array([0.0, 10.0, 20.0, 30.0])
    assert kernel_paths.at_level(loss, numbers, 1.5) == pytest.approx(5)
    assert kernel_paths.at_level(loss, numbers, 1.0) == pytest.approx(10)
    assert kernel_paths.at_level(loss, numbers, 3.0) == 0.0


def test_clocks_do_not_depend_on_how_an_interval_is_cut():
    setting = replace(motion.SMALL, n_train=100, batch_size=50, learning_rate=0.5, momentum=0.5)
    config = motion.Config(setting=setting, at=(0, 1, 3))
    path = {"clean_turned": np.array([0.2, 0.4]), "change": np.array([0.1, 0.4])}
    turn, pace = motion._rates(config, path)
    np.testing.assert_allclose(turn, [0.1, 0.1])  # an epoch: 2 steps of 0.5, doubled by momentum
    np.testing.assert_allclose(pace, [2.0, 1.0])


# --- a run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One seed, with its checkpoints."""
    folder = tmp_path_factory.mktemp("motion")
    return motion.measure(TINY, 0, Checkpoints(folder)), folder


@needs_mnist
def test_one_start_for_all_arms(made):
    result, folder = made
    with np.load(folder / "followed-standard.npz") as a, np.load(folder / "followed-pgd.npz") as b:
        for name in ("clean_norm", "clean_top20", "blocks", "mixed_start", "moved"):
            np.testing.assert_allclose(np.ravel(a[name])[0], np.ravel(b[name])[0], rtol=1e-4)
        assert abs(a["clean_norm"][1] / b["clean_norm"][1] - 1) > 1e-4
    values = result.values
    assert values["mixed_start"] > 0 < values["mixed_start_clean"]
    assert values["standard_distance"] > 0 < values["pgd_distance"]


@needs_mnist
def test_the_first_kernel_is_that_of_the_library(made):
    images = networks.load(TINY.setting, 0)
    x, y = motion.probe(TINY, images)
    assert (np.diff(np.asarray(y)) >= 0).all() and len(x) == TINY.n_probe
    key = jax.random.fold_in(jax.random.key(0), 0)
    params = jax.jit(nets.MnistCNN().init)(key, x[:1])["params"]
    f, params = nets.as_function(nets.MnistCNN(), {"params": params})
    kernel = jnp.asarray(kernels.empirical_ntk(f, params, x, mode="full"))
    curves = made[0].curves
    assert curves["standard_clean_norm"][1][0] == pytest.approx(
        float(jnp.linalg.norm(dynamics.as_matrix(kernel))), rel=1e-3
    )
    for n in TINY.tops:
        share = float(dynamics.norm_concentration(kernel, n))
        assert made[0].values[f"start_top{n}"] == pytest.approx(share, abs=1e-4)


@needs_mnist
def test_weights_go_once_they_are_measured_and_a_resume_needs_none(made):
    result, folder = made
    assert not list(folder.glob("*/epoch-*.npz"))
    again = motion.measure(TINY, 0, Checkpoints(folder))
    assert again.values == result.values and again.curves == result.curves


@needs_mnist
def test_values_have_their_bounds(made):
    values = made[0].values
    for name, v in values.items():
        if "_top1" in name or "_top2" in name or "test_" in name or "train_" in name:
            assert -1e-6 <= v <= 1 + 1e-6, name
        if "_angle" in name:
            assert 0 <= v <= np.pi / 2
    assert values["standard_top10"] <= values["standard_top20"]
    assert values["standard_lazy_epoch"] == values["lazy_ratio"] == 1
    curves = made[0].curves
    assert curves["pgd_clean_radius_whole"][1] == pytest.approx([0, 1], abs=1e-6)
    assert len(curves["start_blocks_0"][1]) == 10

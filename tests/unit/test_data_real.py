"""The real MNIST, Fashion-MNIST and CIFAR-10, where `NTKLAB_DATA` names them."""

import gzip
import os

import numpy as np
import pytest

from ntklab.data import found, load, sources

CHANNELS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


@pytest.fixture(scope="module", autouse=True)
def real_data():
    """Fail in CI, which always has the data, and skip elsewhere, where the data are missing."""
    lacking = [name for name, where in found().items() if where is None]
    if not lacking and os.environ.get("NTKLAB_DATA"):
        return
    reason = (
        f"NTKLAB_DATA={os.environ.get('NTKLAB_DATA', '')!r} lacks {', '.join(lacking)}: "
        "set it to a folder with the official files."
    )
    if os.environ.get("CI"):
        pytest.fail(f"CI must test on the real data, and {reason}")
    pytest.skip(reason)


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        (
            "mnist",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        ("fashion_mnist", [6000] * 10, [1000] * 10),
        ("cifar10", [5000] * 10, [1000] * 10),
    ],
)
def test_class_counts(name, train, test):
    data = load(name, side=1)
    assert np.bincount(data.y_train).tolist() == train
    assert np.bincount(data.y_test).tolist() == test


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("mnist", [5, 0, 4, 1, 9]),
        ("fashion_mnist", [9, 0, 0, 3, 0]),
        ("cifar10", [6, 9, 9, 4, 1]),
    ],
)
def test_first_labels_are_those_of_the_official_order(name, first):
    assert load(name, side=1).y_train[:5].tolist() == first


def test_cifar_means_and_deviations_of_the_channels():
    pixels, value = np.asarray(load("cifar10", n_test=10).uint8()[0]), np.arange(256) / 255
    for c, (mean, deviation) in enumerate(zip(*CHANNELS, strict=True)):
        share = np.bincount(pixels[..., c].ravel(), minlength=256) / (50_000 * 32 * 32)
        assert share @ value == pytest.approx(mean, abs=5e-5)
        assert np.sqrt(share @ value**2 - (share @ value) ** 2) == pytest.approx(
            deviation, abs=5e-5
        )


def test_mnist_is_the_file_divided_by_255():
    path = os.path.join(os.environ["NTKLAB_DATA"], "mnist", sources.IDX_FILES[2])
    stored = np.frombuffer(gzip.open(path).read()[16:], np.uint8).reshape(-1, 28, 28, 1)
    data = load("mnist", n_train=10)
    np.testing.assert_array_equal(data.uint8()[1], stored)
    np.testing.assert_array_equal(data.x_test, stored / np.float32(255))


def test_mnist_at_14_averages_two_by_two():
    full = np.asarray(load("mnist", n_train=50, n_test=10).x_train, np.float64)
    half = load("mnist", n_train=50, n_test=10, side=14).x_train
    expected = (full[:, ::2] + full[:, 1::2]) / 2
    expected = (expected[:, :, ::2] + expected[:, :, 1::2]) / 2
    assert half.shape == (50, 14, 14, 1)
    np.testing.assert_allclose(half, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mnist", {}, "378c7ee9277793af"),
        ("mnist", {"side": 14}, "8f2b4e69656a8b5c"),
        ("fashion_mnist", {}, "c2cfa6adaf751e86"),
    ],
)
def test_a_draw_is_the_same_on_every_machine(name, options, expected):
    # Any change here makes records of earlier runs incomparable: it needs a reason.
    assert load(name, n_train=100, n_test=50, **options).fingerprint == expected


def test_cars_and_planes():
    options = {"classes": ("plane", "car"), "n_train": 2000, "n_test": 400}
    data = load("cifar10", **options)
    assert data.classes == ("airplane", "automobile")
    assert np.bincount(data.y_train).tolist() == [1000, 1000]
    assert data.inexact == 0
    assert data.fingerprint == "7ae414c82f40930d"


def test_images_that_are_not_exact_are_counted_and_dropped():
    listed = os.path.join(os.environ["NTKLAB_DATA"], sources.CIFAR_FOLDER, "inexact.json")
    # Without the list the copy is the official one, and there is nothing to count or to drop.
    train, test = (80, 21) if os.path.exists(listed) else (0, 0)
    ships = {"classes": ("ship", "horse"), "side": 1}
    found = load("cifar10", side=1).inexact, load("cifar10", **ships).inexact
    assert found == (train + test, train + test)
    exact = load("cifar10", **ships, drop_inexact=True)
    assert (len(exact.x_train), len(exact.x_test), exact.inexact) == (10000 - train, 2000 - test, 0)

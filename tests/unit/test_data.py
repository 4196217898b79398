"""`ntklab.data.load` on small archives made here: subsets, labels, formats, errors."""

import doctest
import json
import os
import pickle
from pathlib import Path

import fake_archives as fake
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab.data import dataset, found, load, sources


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder with 40 + 20 images in the layout of MNIST, named by NTKLAB_DATA."""
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    return fake.write_mnist(tmp_path)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with 100 + 20 images in the layout of CIFAR-10, named by NTKLAB_DATA."""
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    return fake.write_cifar(tmp_path)


def one_sentence(error):
    """The message, once it is seen to be one line that ends in a full stop."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_all_images_in_the_order_of_the_file(mnist):
    data = load("mnist")
    (x, y), (u, v) = fake.digits_28(40, 0), fake.digits_28(20, 1)
    np.testing.assert_array_equal(data.x_train, (x / np.float32(255))[..., None])
    np.testing.assert_array_equal(data.uint8()[1][..., 0], u)
    np.testing.assert_array_equal(data.y_train, y)
    np.testing.assert_array_equal(data.y_test, v)
    assert data.x_train.dtype == jnp.float32 and data.y_train.dtype == jnp.int32
    assert data.classes == tuple("0123456789") and data.n_classes == 10 and data.inexact == 0
    assert "28x28x1" in repr(data) and data.fingerprint in repr(data)


def test_classes_give_labels_in_the_order_chosen(mnist):
    data = load("mnist", classes=("8", 3))
    assert data.classes == ("8", "3")
    x, y = fake.digits_28(40, 0)
    kept = np.isin(y, (3, 8))
    np.testing.assert_array_equal(data.uint8()[0][..., 0], x[kept])
    np.testing.assert_array_equal(data.y_train, np.where(y[kept] == 3, 1, 0))
    np.testing.assert_array_equal(data.signed()[0], np.where(y[kept] == 3, 1.0, -1.0))
    np.testing.assert_array_equal(data.one_hot()[1], np.eye(2)[np.asarray(data.y_test)])
    assert data.signed()[0].dtype == data.one_hot()[0].dtype == jnp.float32


@pytest.mark.parametrize("n", [1, 7, 10, 23, 40])
def test_a_draw_is_balanced_with_the_remainder_to_the_first_classes(mnist, n):
    counts = np.bincount(load("mnist", n_train=n).y_train, minlength=10)
    assert counts.tolist() == [n // 10 + (c < n % 10) for c in range(10)]


def test_a_smaller_draw_is_the_head_of_a_larger_one(mnist):
    small, large = load("mnist", n_train=13), load("mnist", n_train=37)
    np.testing.assert_array_equal(small.x_train, large.x_train[:13])
    np.testing.assert_array_equal(small.y_train, large.y_train[:13])


def test_images_of_a_class_do_not_depend_on_the_other_classes(mnist):
    pair, every = load("mnist", classes=(3, 8), n_train=6), load("mnist", n_train=30)
    np.testing.assert_array_equal(pair.x_train[::2], every.x_train[every.y_train == 3])


def test_the_seed_decides_the_draw_and_its_fingerprint(mnist):
    draws = [load("mnist", n_train=10, n_test=5, seed=s) for s in (0, 0, 1)]
    assert draws[0].fingerprint == draws[1].fingerprint != draws[2].fingerprint
    assert not np.array_equal(draws[0].x_train, draws[2].x_train)
    assert load("mnist", seed=0).fingerprint == load("mnist", seed=1).fingerprint


def test_no_image_is_drawn_twice(mnist):
    x = np.asarray(load("mnist", n_train=40, seed=3).x_train).reshape(40, -1)
    assert len(np.unique(x, axis=0)) == 40


@pytest.mark.parametrize(
    "change", [{"side": 14}, {"classes": range(9, -1, -1)}, {"n_test": 10}, {"n_train": 39}]
)
def test_the_fingerprint_sees_every_option(mnist, change):
    base = {"n_train": 40, "n_test": 20}
    assert load("mnist", **base | change).fingerprint != load("mnist", **base).fingerprint


def test_the_fingerprint_sees_one_pixel_and_one_label(mnist):
    before = load("mnist").fingerprint
    (x, y), files = fake.digits_28(40, 0), fake.mnist_files()
    x[-1, -1, -1] ^= 1
    fake.write_mnist(mnist, files | {sources.IDX_FILES[0]: fake.idx(x)})
    assert load("mnist").fingerprint != before
    y[-1] = 0
    fake.write_mnist(mnist, files | {sources.IDX_FILES[1]: fake.idx(y)})
    assert load("mnist").fingerprint != before


@pytest.mark.parametrize("side", [14, 7, 1])
def test_side_averages_blocks(mnist, side):
    x, _ = fake.digits_28(40, 0)
    b = 28 // side
    rows = [x[:, i : i + b].astype(float).mean(1) for i in range(0, 28, b)]
    expected = np.stack([[r[:, j : j + b].mean(1) for j in range(0, 28, b)] for r in rows])
    data = load("mnist", side=side)
    assert data.x_train.shape == (40, side, side, 1)
    np.testing.assert_allclose(
        data.x_train[..., 0], expected.transpose(2, 0, 1) / 255, rtol=0, atol=1e-7
    )


def test_cifar_planes_become_channels(cifar):
    data = load("cifar10", classes=("automobile", "plane"))
    assert data.classes == ("automobile", "airplane")
    content = [fake.cifar_content(i)[b"data"] for i in range(5)]
    planes = np.concatenate(content).reshape(-1, 3, 32, 32)
    kept = np.arange(100) % 10 < 2
    np.testing.assert_array_equal(data.uint8()[0], np.moveaxis(planes[kept], 1, -1))
    np.testing.assert_array_equal(data.y_train, 1 - np.arange(100)[kept] % 10)


def test_the_fake_batches_are_pickles_of_python_2(cifar):
    blob = (cifar / sources.CIFAR_FOLDER / "data_batch_1").read_bytes()
    assert blob.startswith(b"\x80\x02") and b"numpy.core.multiarray" in blob
    assert b"_codecs" not in blob


@pytest.mark.parametrize("protocol", [3, 4])
def test_cifar_in_later_pickle_protocols(cifar, protocol):
    before = load("cifar10").fingerprint
    contents = map(fake.cifar_content, range(6))
    blobs = [pickle.dumps(content, protocol=protocol) for content in contents]
    fake.write_cifar(cifar, dict(zip(sources.CIFAR_BATCHES, blobs, strict=True)))
    assert load("cifar10").fingerprint == before


def test_the_raw_archive_reads_as_the_folder_does(cifar, tmp_path, monkeypatch):
    expected = load("cifar10").fingerprint
    other = tmp_path / "other"
    other.mkdir()
    (other / sources.CIFAR_ARCHIVE).write_bytes(fake.cifar_archive())
    monkeypatch.setenv("NTKLAB_DATA", str(other))
    assert load("cifar10").fingerprint == expected
    assert os.listdir(other) == [sources.CIFAR_ARCHIVE]


def test_inexact_images_are_counted_and_can_be_dropped(cifar):
    fake.write_cifar(cifar, inexact={"data_batch_2": [0, 1], "test_batch": [19]})
    everything, exact = load("cifar10"), load("cifar10", drop_inexact=True)
    assert (everything.inexact, exact.inexact) == (3, 0)
    kept = np.delete(np.arange(100), [20, 21])
    np.testing.assert_array_equal(exact.x_train, everything.x_train[kept])
    np.testing.assert_array_equal(exact.x_test, everything.x_test[:19])
    assert everything.fingerprint != exact.fingerprint
    assert load("cifar10", classes=(0, 2), n_test=2).inexact == 1
    with pytest.raises(ValueError, match="9 of 'airplane'"):
        load("cifar10", classes=(0, 2), n_train=20, drop_inexact=True)


def test_digits_have_one_split_whatever_the_seed():
    a, b = load("digits"), load("digits", seed=5)
    assert a.x_train.shape == (1437, 8, 8, 1) and a.x_test.shape == (360, 8, 8, 1)
    np.testing.assert_array_equal(a.x_test, b.x_test)
    assert float(a.x_train.max()) == 1.0 and float(a.x_train.min()) == 0.0
    drawn = np.asarray(load("digits", n_train=200, seed=1).x_train).reshape(200, -1)
    test = np.asarray(a.x_test).reshape(360, -1)
    assert not (drawn[:, None] == test).all(-1).any()
    np.testing.assert_array_equal(jnp.round(16.0 * a.x_train) / 16.0, a.x_train)
    assert load("digits", n_train=50, n_test=20).fingerprint == "4604aca0265ed43e"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "cifar"}, "known are mnist, fashion_mnist, cifar10, digits"),
        ({"classes": ("3", "ten")}, "no class 'ten'; its classes are 0 '0', 1 '1'"),
        ({"classes": (3, 10)}, "no class 10"),
        ({"classes": (3, 3)}, "differ"),
        ({"classes": ()}, "tuple of names"),
        ({"classes": "38"}, "tuple of names"),
        ({"n_train": 0}, "n_train must be a positive"),
        ({"n_test": -3}, "n_test must be a positive"),
        ({"seed": -1}, "seed must be"),
        ({"side": 14}, "8x8 images, which average down to a side of 1, 2, 4, 8; got side=14"),
    ],
)
def test_a_bad_request_is_one_sentence(options, words):
    with pytest.raises(ValueError) as error:
        load(**{"name": "digits"} | options)
    assert words in one_sentence(error)


@pytest.mark.parametrize("n", [2.5, "ten", float("nan")])
def test_sizes_are_whole_numbers(n):
    with pytest.raises(ValueError, match="n_train must be a positive whole number"):
        dataset._count("n_train", n)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        dataset._seed(n)


def test_too_many_images_says_how_many_there_are(mnist):
    with pytest.raises(ValueError) as error:
        load("mnist", classes=("3", "8"), n_train=9)
    text = one_sentence(error)
    assert "n_train=9 from mnist takes 5 images of a class" in text
    assert "4 of '3', 4 of '8'" in text and "at most 8" in text


def test_signed_labels_need_two_classes(mnist):
    with pytest.raises(ValueError) as error:
        load("mnist").signed()
    assert "need two classes" in one_sentence(error)


def test_a_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError) as error:
        load("mnist")
    assert "NTKLAB_DATA" in one_sentence(error) and "nowhere" in str(error.value)
    assert found() == {"mnist": None, "fashion_mnist": None, "cifar10": None}


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_folder_that_lacks_a_file(monkeypatch, tmp_path, name):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    fake.write_cifar(fake.write_mnist(tmp_path))
    assert found()[name] == str(tmp_path) and found()["fashion_mnist"] is None
    lost = {
        "mnist": f"mnist/{sources.IDX_FILES[2]}",
        "cifar10": f"{sources.CIFAR_FOLDER}/test_batch",
    }
    (tmp_path / lost[name]).unlink()
    assert found()[name] is None
    with pytest.raises(FileNotFoundError) as error:
        load(name)
    assert lost[name] in one_sentence(error)


def damaged_idx():
    """Ways in which an idx file can be wrong: (file number, bytes, words of the error)."""
    x, y = fake.digits_28(40, 0)
    good = fake.idx(x)
    return {
        "truncated": (0, good[: len(good) // 2], "cannot be unpacked"),
        "one bit": (0, good[:-200] + bytes([good[-200] ^ 1]) + good[-199:], "cannot be unpacked"),
        "empty": (0, b"", "idx file of rank 3"),
        "not gzip": (1, b"<html>sign in</html>", "cannot be unpacked"),
        "wrong magic": (0, fake.idx(y), "idx file of rank 3"),
        "short": (1, fake.gzip.compress(fake.gzip.decompress(fake.idx(y))[:-1]), "it has 39"),
        "wrong side": (0, fake.idx(x[:, :8, :8]), "8x8"),
        "fewer labels": (1, fake.idx(y[:-1]), "39 labels for 40 images"),
        "label 10": (1, fake.idx(y + 1), "a label 10"),
    }


@pytest.mark.parametrize("how", damaged_idx())
def test_a_damaged_idx_file(mnist, how):
    number, blob, words = damaged_idx()[how]
    path = mnist / "mnist" / sources.IDX_FILES[number]
    path.write_bytes(blob)
    with pytest.raises(ValueError) as error:
        load("mnist")
    text = one_sentence(error)
    assert str(path) in text and words in text and "delete it" in text and "NTKLAB_DATA" in text


class Attack:
    """Pickles to a call of `os.mkdir`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged_batch(folder):
    """Ways in which a batch can be wrong: (bytes, words of the error)."""
    content = fake.cifar_content(0)
    return {
        "truncated": (fake.cifar_files()["data_batch_1"][:9000], "cannot be unpickled"),
        "empty": (b"", "cannot be unpickled"),
        "runs code": (pickle.dumps(content | {b"x": Attack(folder / "run")}), "mkdir, which no"),
        "no labels": (pickle.dumps({b"data": content[b"data"]}), "no 'data' and 'labels'"),
        "a list": (pickle.dumps([1]), "no 'data' and 'labels'"),
        "floats": (pickle.dumps(content | {b"data": np.ones((20, 3072))}), "no 'data'"),
        "objects": (pickle.dumps(content | {b"data": np.full((1, 3072), None)}), "no 'data'"),
        "other shape": (pickle.dumps(content | {b"data": np.ones((3, 7), np.uint8)}), "no 'data'"),
        "a label less": (pickle.dumps(content | {b"labels": [1] * 19}), "19 labels for 20"),
        "label 10": (pickle.dumps(content | {b"labels": [10] * 20}), "outside 0..9"),
    }


@pytest.mark.parametrize("how", damaged_batch(Path()))
def test_a_damaged_batch(cifar, how):
    blob, words = damaged_batch(cifar)[how]
    path = cifar / sources.CIFAR_FOLDER / "data_batch_3"
    path.write_bytes(blob)
    with pytest.raises(ValueError) as error:
        load("cifar10")
    text = one_sentence(error)
    assert str(path) in text and words in text and "delete it" in text
    assert not (cifar / "run").exists()


@pytest.mark.parametrize("what", [{"data_batch_1": [20]}, {"test_batch": 3}, [1]])
def test_a_damaged_list_of_inexact_images(cifar, what):
    (cifar / sources.CIFAR_FOLDER / "inexact.json").write_text(json.dumps(what))
    with pytest.raises(ValueError) as error:
        load("cifar10")
    assert "inexact.json" in one_sentence(error)


@pytest.mark.parametrize("how", ["truncated", "a batch less"])
def test_a_damaged_archive(tmp_path, monkeypatch, how):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    files = fake.cifar_files()
    if how == "a batch less":
        del files["test_batch"]
    blob = fake.cifar_archive(files)
    path = tmp_path / sources.CIFAR_ARCHIVE
    path.write_bytes(blob[: len(blob) // 2] if how == "truncated" else blob)
    with pytest.raises(ValueError) as error:
        load("cifar10")
    assert str(path) in one_sentence(error)


def test_the_examples_in_the_documentation():
    assert doctest.testmod(dataset).failed == 0

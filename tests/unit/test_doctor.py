"""`ntklab.doctor()`: one report, one sentence, never an error."""

import doctest
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ntklab
from ntklab import _doctor

FINE = _doctor.Machine(
    python="3.12.1",
    versions={p: "1.0" for p in _doctor._PACKAGES} | {"jax": "0.10.2", "altair": None},
    backend="cpu",
    devices=("cpu",),
    gpus=(),
    cores=2,
    memory=16.0,
    data={"mnist": "somewhere", "fashion_mnist": "somewhere", "cifar10": None},
)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """The folder of data is part of what is examined."""
    monkeypatch.delenv("NTKLAB_DATA", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


def test_it_prints_what_it_returns(capsys):
    text = ntklab.doctor()
    assert capsys.readouterr().out == text + "\n"
    assert f"Python {sys.version.split()[0]}" in text and "jax " in text and "CPU cores" in text
    assert len(text.splitlines()) == 5


def test_nothing_is_wrong_with_a_fine_machine(monkeypatch):
    monkeypatch.setattr(_doctor, "look", lambda: FINE)
    monkeypatch.delenv("NTKLAB_DATA", raising=False)
    text = _doctor.report()
    assert text.endswith("Nothing is wrong.") and "altair not installed" in text
    # Words, not the folder's path: the report stands on published pages.
    assert "mnist, fashion_mnist in the download cache" in text and "somewhere" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.10.13"}, "Python 3.10.13 is not supported"),
        ({"python": "3.14.0"}, "Python 3.14.0 is not supported"),
        ({"versions": FINE.versions | {"jax": "0.6.2"}}, "jax 0.6.2 is not supported"),
        ({"versions": FINE.versions | {"jax": "0.13.0"}}, "jax 0.13.0 is not supported"),
        ({"versions": FINE.versions | {"flax": None}}, "flax cannot be found"),
        ({"backend": "RuntimeError: no plugin", "devices": ()}, "no device (RuntimeError"),
        ({"gpus": ("NVIDIA T4",)}, "NVIDIA T4 is there and JAX runs on the CPU"),
        ({"memory": 2.0}, "only 2.0 GiB"),
    ],
)
def test_what_is_wrong_is_one_sentence(change, words):
    sentence = _doctor.problem(FINE._replace(**change))
    assert words in sentence and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize(
    "change",
    [
        {"python": "3.11.0"},
        {"python": "3.13.9"},
        {"versions": FINE.versions | {"jax": "0.7.2"}},
        {"versions": FINE.versions | {"jax": "0.12.0.1"}},
        {"gpus": ("NVIDIA T4",), "backend": "gpu"},
        {"memory": None},
    ],
)
def test_what_is_not_wrong(change):
    assert _doctor.problem(FINE._replace(**change)) == ""


def test_a_gpu_that_is_hidden_on_purpose(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    sentence = _doctor.problem(FINE._replace(gpus=("NVIDIA T4",)))
    assert "JAX_PLATFORMS=cpu hides it" in sentence


def test_the_folder_of_data(monkeypatch, tmp_path):
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path))
    assert f"{tmp_path}, which lacks cifar10" in _doctor.problem(FINE)
    whole = FINE._replace(data=dict.fromkeys(FINE.data, str(tmp_path)))
    assert _doctor.problem(whole) == ""
    monkeypatch.setenv("NTKLAB_DATA", str(tmp_path / "gone"))
    assert "not a folder" in _doctor.problem(whole)


def test_it_never_raises(monkeypatch):
    def broken():
        raise OSError("no machine")

    monkeypatch.setattr(_doctor, "look", broken)
    assert _doctor.report() == "Wrong: this machine could not be examined (OSError: no machine)."


def test_it_asks_the_driver(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="NVIDIA T4\nNVIDIA T4\n")
    monkeypatch.setattr(_doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(_doctor.subprocess, "run", lambda *a, **k: answer)
    assert _doctor._driver_gpus() == ("NVIDIA T4", "NVIDIA T4")
    monkeypatch.setattr(_doctor.subprocess, "run", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(_doctor.shutil, "which", lambda name: None)
    assert _doctor._driver_gpus() == ()


def test_memory_of_a_gpu():
    class Gpu:
        platform, device_kind = "gpu", "NVIDIA T4"

        def memory_stats(self):
            return {"bytes_limit": 8 * 2**30, "bytes_in_use": 2 * 2**30}

    assert _doctor._device(Gpu()) == "gpu NVIDIA T4, 6.0 of 8.0 GiB free for JAX"


def test_the_ranges_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    low, high = _doctor.JAX_RANGE
    assert f"jax>={low},<{high}" in project["dependencies"]
    low, high = _doctor.PYTHON_RANGE
    assert f">={low},<{high}" == project["requires-python"]


def test_the_example_in_the_documentation():
    assert doctest.testmod(_doctor) == (0, 1)

"""A kernel matrix and its spectrum on the disk: the same fit, and what a kill leaves."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelRegression, fit_stored, stored

X = jnp.asarray(np.random.default_rng(3).uniform(size=(20, 5)).astype(np.float32))
Y = jnp.eye(4)[jnp.arange(20) % 4]
EIGH = KernelRegression(TwoLayerNTK(), solver="eigh")


def test_it_is_the_fit_without_a_folder(tmp_path):
    ours, theirs = fit_stored(EIGH, X, Y, tmp_path), EIGH.fit(X, Y)
    np.testing.assert_allclose(ours.eigenvalues, theirs.eigenvalues, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.coefficients(), theirs.coefficients(), rtol=1e-6)
    np.testing.assert_allclose(ours.coefficients(2.0), theirs.coefficients(2.0), rtol=1e-8)
    assert ours.floor == pytest.approx(theirs.floor) and ours.solver == "eigh"


def test_a_second_call_reads_the_spectrum_for_other_targets_and_ridges(tmp_path, monkeypatch):
    fit_stored(EIGH, X, Y, tmp_path)

    def refused(*args):
        raise AssertionError("decomposed twice")

    monkeypatch.setattr(stored, "decompose", refused)
    ridge = KernelRegression(TwoLayerNTK(), ridge=0.5)
    ours = fit_stored(ridge, X, Y[:, 0], tmp_path)
    whole = KernelRegression(TwoLayerNTK(), ridge=0.5, solver="eigh").fit(X, Y[:, 0])
    np.testing.assert_allclose(ours.coefficients(), whole.coefficients(), rtol=1e-8)
    assert isinstance(ours.eigenvectors, np.memmap)


def test_a_kill_in_the_decomposition_leaves_the_matrix(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stored, "decompose", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_stored(EIGH, X, Y, tmp_path)
    before = (tmp_path / "gram.npy").stat().st_mtime_ns
    assert not (tmp_path / "spectrum.json").exists()
    fitted = fit_stored(EIGH, X, Y, tmp_path)
    assert (tmp_path / "gram.npy").stat().st_mtime_ns == before
    np.testing.assert_allclose(fitted.eigenvalues, EIGH.fit(X, Y).eigenvalues, atol=1e-12)


def test_what_it_takes_is_said_before(tmp_path, monkeypatch, capsys):
    fit_stored(EIGH, X, Y, tmp_path / "small")
    assert "eigendecomposition" not in capsys.readouterr().err
    monkeypatch.setattr(stored, "_ANNOUNCED", 1)
    fit_stored(EIGH, X, Y, tmp_path / "large")
    said = capsys.readouterr().err
    assert "eigendecomposition of 20 x 20 float64: about 0.0 min" in said
    assert "of memory" in said and "of disk" in said


def test_another_matrix_in_the_folder_is_refused(tmp_path):
    fit_stored(EIGH, X, Y, tmp_path)
    others = {
        "x": (EIGH, X + 0.1),
        "kernel": (KernelRegression(FullyConnected()), X),
        "dtype": (KernelRegression(TwoLayerNTK(), dtype="float32"), X),
    }
    for name, (regression, x) in others.items():
        with pytest.raises(ValueError, match=rf"another matrix \(it differs in {name}\)"):
            fit_stored(regression, x, Y, tmp_path)


def test_a_lost_file_is_made_again_and_a_damaged_one_is_refused(tmp_path):
    first = fit_stored(EIGH, X, Y, tmp_path)
    (tmp_path / "eigenvectors.npy").unlink()
    again = fit_stored(EIGH, X, Y, tmp_path)
    np.testing.assert_allclose(again.coefficients(), first.coefficients(), rtol=1e-10)
    for name in ("eigenvectors.npy", "spectrum.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:40])
        with pytest.raises(ValueError, match="is damaged: delete the folder"):
            fit_stored(EIGH, X, Y, tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_only_the_eigendecomposition_is_stored(tmp_path):
    with pytest.raises(ValueError, match='got solver="lanczos": use "eigh"'):
        fit_stored(KernelRegression(TwoLayerNTK(), solver="lanczos"), X, Y, tmp_path)
    with pytest.raises(TypeError, match=r"targets must be floating point|Type-check error"):
        fit_stored(EIGH, X, jnp.arange(20), tmp_path)

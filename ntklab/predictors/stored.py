"""A kernel matrix and its eigendecomposition on disk: hours are spent once, and said beforehand."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from ntklab._common import check_batch, float64, write_json
from ntklab._memory import format_bytes
from ntklab._typing import Array, Float
from ntklab.kernels.gram import gram
from ntklab.kernels.gram.store import digest
from ntklab.predictors.gram_matrix import gram_matrix
from ntklab.predictors.kernel_regression import (
    FittedKernelRegression,
    KernelRegression,
    check_targets,
)
from ntklab.predictors.spectrum import Spectrum, decompose

#: Operations a second of LAPACK's divide and conquer on two cores, in float64 (at `9 n^3`).
_SPEED = 0.1e12
#: Matrices of the size of the kernel's that LAPACK holds at its peak, the kernel's own with them.
_MATRICES = 5
#: From this size on the plan is said, in bytes of the matrix.
_ANNOUNCED = 2**27


def fit_stored(
    regression: KernelRegression,
    x: Float[Array, "n ..."],
    targets: Float[Array, "n ..."],
    folder: str | os.PathLike,
) -> FittedKernelRegression:
    r"""`regression.fit` by eigendecomposition, with the matrix and its spectrum kept in a folder.

    The matrix is made in blocks that survive a kill (`ntklab.kernels.gram`), so a kill loses at
    most the block under way or the decomposition. A second call with the same kernel and inputs
    reads the spectrum, whatever the targets and the ridge are: they do not enter it.

    Args:
      regression: settings; `solver` must be `"eigh"` or `"auto"`, the work is done on the host.
      x: training inputs, `(n, ...)`.
      targets: `(n,)` or `(n, k)`.
      folder: where `gram.npy`, `eigenvectors.npy` and `spectrum.json` are kept; one a matrix.

    Returns:
      The fitted regression; its eigenvectors are mapped from the disk.

    Cost: `n^2 / 2` kernel entries and `9 n^3` operations the first time, and `2 n^2` numbers on the
    disk. From 4,096 examples on an estimate is printed before work begins.

    Raises:
      TypeError: inputs or targets that are not floating point.
      ValueError: another solver, a folder that holds another matrix or a damaged file, what `fit`
        refuses.
      OSError: a folder that cannot be written.

    Source: ours; the features are those of Tsilivis and Kempe (2022), supplement, eq. 31.

    >>> import jax.numpy as jnp, tempfile
    >>> regression = KernelRegression(lambda a, b=None: a @ (a if b is None else b).T)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted = fit_stored(regression, jnp.diag(jnp.array([2.0, 1.0])), jnp.ones(2), folder)
    >>> fitted.eigenvalues.round(6).tolist()
    [1.0, 4.0]
    """
    if regression.solver not in ("eigh", "auto"):
        raise ValueError(
            f'only the eigendecomposition is stored, got solver="{regression.solver}": use "eigh".'
        )
    check_batch("x", x)
    check_targets(targets, len(x))
    folder, columns = Path(folder), np.asarray(targets, np.float64).reshape(len(x), -1)
    found = _read(folder, _problem(regression, x))
    if found is None:
        found = _decompose(regression, x, folder)
    eigenvalues, eigenvectors, floor = found
    ridge = float(regression.ridge)
    spectrum = Spectrum(columns, ridge, eigenvalues, eigenvectors, floor)
    settings = ridge, float(regression.learning_rate)
    return FittedKernelRegression(regression.kernel, x, targets, *settings, "eigh", spectrum)


def _decompose(regression: KernelRegression, x: Array, folder: Path) -> tuple:
    """Make the matrix, decompose it, and keep what came out."""
    n, dtype = len(x), np.dtype(regression.dtype)
    size = n * n * dtype.itemsize
    if size >= _ANNOUNCED:
        print(
            f"eigendecomposition of {n:,} x {n:,} {dtype}: about {9 * n**3 / _SPEED / 60:.1f} min "
            f"on two cores after the matrix, {format_bytes(_MATRICES * size)} of memory, "
            f"{format_bytes(2 * size)} of disk in {folder.name}; a kill in it loses these minutes, "
            "and the matrix stays.",
            file=sys.stderr,
            flush=True,
        )
    with float64():
        values = gram(regression.kernel, np.asarray(x, dtype), path=folder / "gram.npy")
    matrix = gram_matrix(values, n, regression.dtype, "scipy")
    spectrum = decompose(matrix, np.zeros((n, 1)), 0.0)
    partial = folder / "eigenvectors.npy.partial"
    with open(partial, "wb") as file:
        np.save(file, spectrum.eigenvectors)
    os.replace(partial, folder / "eigenvectors.npy")
    said = {"eigenvalues": spectrum.eigenvalues.tolist(), "floor": spectrum.floor}
    write_json(folder / "spectrum.json", _problem(regression, x) | said)
    return spectrum.eigenvalues, spectrum.eigenvectors, spectrum.floor


def _read(folder: Path, problem: dict) -> tuple | None:
    """The spectrum that is kept, or None; one sentence where it is that of another matrix."""
    path, kept = folder / "spectrum.json", folder / "eigenvectors.npy"
    if not (path.exists() and kept.exists()):
        return None
    try:
        known, vectors = json.loads(path.read_text(encoding="utf-8")), np.load(kept, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"a file in {folder} is damaged: delete the folder.") from error
    differ = [name for name in problem if known.get(name) != problem[name]]
    if differ:
        raise ValueError(
            f"{folder} holds the spectrum of another matrix (it differs in {', '.join(differ)}): "
            "choose another folder, or delete it."
        )
    return np.asarray(known["eigenvalues"]), vectors, float(known["floor"])


def _problem(regression: KernelRegression, x: Array) -> dict:
    """What identifies a matrix: inputs, kernel, precision."""
    kernel = re.sub(r" at 0x[0-9a-f]+", "", repr(regression.kernel))[:2000]
    return {"x": digest(np.asarray(x)), "kernel": kernel, "dtype": regression.dtype}

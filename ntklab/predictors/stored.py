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
    disk. What 10,000 examples take is printed before work begins: about a minute and a half and
    4 GiB on two cores, 1.6 GB of disk.

    Raises:
      TypeError: inputs or targets that are not floating point.
      ValueError: another solver, a folder that holds another matrix, what `fit` refuses.
      OSError: a folder that cannot be written.
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
    path = folder / "spectrum.json"
    if not path.exists():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    differ = [name for name in problem if known.get(name) != problem[name]]
    if differ:
        raise ValueError(
            f"{folder} holds the spectrum of another matrix (it differs in {', '.join(differ)}): "
            "choose another folder, or delete it."
        )
    vectors = np.load(folder / "eigenvectors.npy", mmap_mode="r")
    return np.asarray(known["eigenvalues"]), vectors, float(known["floor"])


def _problem(regression: KernelRegression, x: Array) -> dict:
    """What identifies a matrix: inputs, kernel, precision."""
    kernel = re.sub(r" at 0x[0-9a-f]+", "", repr(regression.kernel))[:2000]
    return {"x": digest(np.asarray(x)), "kernel": kernel, "dtype": regression.dtype}

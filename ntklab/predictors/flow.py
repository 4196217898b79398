"""Which solver for which size, and what all of them offer."""

import math

import numpy as np

from ntklab._typing import Number
from ntklab.predictors.cholesky import Solved, solve
from ntklab.predictors.gram_matrix import ENGINES, GramMatrix
from ntklab.predictors.lanczos import Krylov
from ntklab.predictors.spectrum import Spectrum, decompose

SOLVERS = ("auto", "eigh", "cholesky", "lanczos")
#: Up to so many rows "auto" decomposes: on the host, on a device.
HOST_ROWS, DEVICE_ROWS = 4096, 12288


#: What a solver leaves behind. Each has `coefficients(time)`, `condition_number` and `jitter`.
Solution = Spectrum | Solved | Krylov


def gradient_flow(
    matrix: GramMatrix, targets: np.ndarray, ridge: float, solver: str
) -> tuple[str, Solution]:
    """The solver by its full name, and its solution for targets `(n, k)`."""
    if solver == "auto":
        few = len(matrix) <= (DEVICE_ROWS if matrix.on_device else HOST_ROWS)
        solver = "eigh" if few else "cholesky and lanczos"
    if solver == "eigh":
        return solver, decompose(matrix, targets, ridge)
    if solver == "cholesky":
        return solver, solve(matrix, targets, ridge)
    return solver, Krylov(matrix, targets, ridge, direct=solver != "lanczos")


def check_flow_settings(
    ridge: Number, learning_rate: Number, solver: str, engine: str, dtype: str
) -> None:
    """Raise one sentence for a setting out of range."""
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"ridge must be a finite number >= 0, got {ridge}.")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate must be a finite number > 0, got {learning_rate}.")
    for name, value, known in (
        ("solver", solver, SOLVERS),
        ("engine", engine, ENGINES),
        ("dtype", dtype, ("float64", "float32")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")

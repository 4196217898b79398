"""Every solver gives the same flow; what each can, what it says, and what it refuses."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab.kernels import FullyConnected, TwoLayerNTK
from ntklab.predictors import KernelRegression
from ntklab.predictors.gram_matrix import GramMatrix, gram_matrix
from ntklab.predictors.lanczos import lanczos_flow

INFINITY = float("inf")
N, K = 150, 3


def inputs(n=N, k=K):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (n, 6)), jax.random.normal(keys[1], (n, k))


@pytest.fixture(scope="module")
def gram():
    """A kernel matrix in float64 of condition 2e3."""
    with float64():
        return np.asarray(TwoLayerNTK()(jnp.asarray(np.asarray(inputs()[0], np.float64))))


def fit(gram, **settings):
    return KernelRegression(TwoLayerNTK(), **settings).fit(*inputs(), gram=gram)


def matrix(values, n=N, dtype="float64", engine="scipy"):
    return gram_matrix(values, n, dtype, engine)


def relative(ours, wanted):
    return float(np.abs(ours - wanted).max() / np.abs(wanted).max())


# Agreement.


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.parametrize("solver", ["eigh", "lanczos"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solvers_agree_at_every_time(gram, solver, engine, ridge):
    oracle = fit(gram, ridge=ridge)  # SciPy's eigendecomposition
    machine = fit(gram, ridge=ridge, solver=solver, engine=engine)
    for t in (1e-3, 0.1, 30.0, INFINITY):
        assert relative(machine.coefficients(t), oracle.coefficients(t)) < 1e-8
    assert (machine.coefficients(0.0) == 0).all()
    np.testing.assert_allclose(machine.max_learning_rate, oracle.max_learning_rate, rtol=1e-7)


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_cholesky_is_infinite_time_and_estimates_the_condition(gram, engine, ridge):
    machine = fit(gram, ridge=ridge, solver="cholesky", engine=engine)
    oracle = fit(gram, ridge=ridge)
    assert relative(machine.coefficients(), oracle.coefficients()) < 1e-10
    assert machine.jitter == 0.0 and machine.solution.residual < 1e-12
    exact = np.linalg.cond(gram + ridge * np.eye(N), 1)
    assert exact / 3 < machine.condition_number < 1.01 * exact
    assert machine.condition_number > oracle.condition_number / 3


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.parametrize(("solver", "bound"), [("eigh", 1e-3), ("cholesky", 1e-8)])
def test_float32_loses_digits_and_refinement_gets_them_back(gram, solver, engine, bound):
    oracle = fit(gram).coefficients()
    rough = fit(gram, solver=solver, engine=engine, dtype="float32").coefficients()
    assert relative(rough, oracle) < bound


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_a_matrix_in_float32_is_multiplied_in_blocks_and_summed_in_float64(
    gram, engine, monkeypatch
):
    monkeypatch.setattr("ntklab.predictors.gram_matrix._BLOCK_BYTES", 8 * N * 40)  # 40 rows
    narrow, rows = gram.astype(np.float32), np.random.default_rng(0).normal(size=(2, N))
    product = matrix(narrow, engine=engine).product(rows)
    np.testing.assert_allclose(product, rows @ narrow.astype(np.float64), rtol=1e-12)


def test_a_memory_map_is_used_where_it_lies(gram, tmp_path):
    np.save(tmp_path / "gram.npy", gram.astype(np.float32))
    on_disk = np.load(tmp_path / "gram.npy", mmap_mode="r")
    exact = fit(gram.astype(np.float32).astype(np.float64))
    for solver, t in (("lanczos", 2.0), ("cholesky", INFINITY), ("eigh", 2.0)):
        machine = fit(on_disk, solver=solver)
        assert relative(machine.coefficients(t), exact.coefficients(t)) < 1e-8
    assert isinstance(matrix(on_disk).values, np.memmap)
    assert np.array_equal(np.load(tmp_path / "gram.npy"), gram.astype(np.float32))


def test_many_examples_are_not_decomposed(gram, monkeypatch):
    oracle = fit(gram)
    monkeypatch.setattr("ntklab.predictors.flow.HOST_ROWS", N - 1)
    machine = fit(gram)
    assert (oracle.solver, machine.solver) == ("eigh", "cholesky and lanczos")
    for t in (0.1, INFINITY):
        assert relative(machine.coefficients(t), oracle.coefficients(t)) < 1e-8
    assert machine.condition_number > oracle.condition_number / 3 and machine.jitter == 0.0


def test_the_matrix_of_many_examples_is_made_in_tiles(monkeypatch):
    wanted = KernelRegression(FullyConnected()).fit(*inputs())
    monkeypatch.setattr("ntklab.predictors.gram_matrix.TILED_ROWS", N - 1)
    tiled = KernelRegression(FullyConnected()).fit(*inputs())
    np.testing.assert_allclose(tiled.eigenvalues, wanted.eigenvalues, rtol=1e-9)


def test_lanczos_stops_when_it_knows_enough(gram):
    class Counted(GramMatrix):
        products = 0

        def product(self, rows):
            Counted.products += 1
            return super().product(rows)

    counted = Counted(gram, np.dtype(np.float64), 1.0, 2e-16)
    targets = np.asarray(inputs()[1], np.float64)
    few, many = (
        (lanczos_flow(counted, targets, 0.0, t), Counted.products)[1] for t in (1e-3, 10.0)
    )
    assert few < 20 < many - few < N


def test_lanczos_on_an_invariant_subspace_ends_early():
    targets = np.zeros((N, 3))
    targets[0, 0] = targets[1, 1] = 2.0  # eigenvectors, and a column of zeros
    diagonal = np.diag(np.arange(1.0, N + 1))
    alpha = lanczos_flow(matrix(diagonal), targets, 0.0, 3.0)
    wanted = np.zeros((N, 3))
    wanted[0, 0], wanted[1, 1] = 2 * (1 - np.exp(-3.0)), 1 - np.exp(-6.0)
    np.testing.assert_allclose(alpha, wanted, rtol=1e-12, atol=1e-15)


def test_the_maximal_learning_rate_is_where_descent_turns(gram):
    machine = fit(gram, ridge=0.2)
    y, limit = np.asarray(inputs()[1], np.float64), machine.max_learning_rate
    sizes = []
    for rate in (0.99 * limit, 1.01 * limit):
        alpha = np.zeros_like(y)
        for _ in range(3000):
            alpha = alpha - rate * (gram @ alpha + 0.2 * alpha - y)
        sizes.append(np.abs(alpha).max() / np.abs(machine.coefficients()).max())
    assert sizes[0] < 1.5 and sizes[1] > 1e6


# What is said and refused.


def test_duplicates_that_agree_cost_a_jitter_and_a_warning():
    x, y = inputs()
    x, y = x.at[7].set(x[3]), y.at[7].set(y[3])
    with pytest.warns(UserWarning, match=r"singular to rounding: .* was added to its diagonal"):
        machine = KernelRegression(TwoLayerNTK(), solver="cholesky").fit(x, y)
    assert machine.jitter > 0 and machine.condition_number == INFINITY
    np.testing.assert_allclose(machine.predict(x, [INFINITY])[0], y, atol=1e-5)


@pytest.mark.parametrize("solver", ["cholesky", "lanczos", "eigh"])
def test_duplicates_that_contradict_are_refused(solver):
    x, y = inputs()
    x = x.at[7].set(x[3])
    with pytest.raises(ValueError, match=r"the targets contradict it.*use a ridge above 0"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            KernelRegression(TwoLayerNTK(), solver=solver).fit(x, y).coefficients()


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.parametrize("solver", ["eigh", "cholesky", "lanczos"])
def test_matrices_that_are_no_kernels_are_refused(gram, solver, engine):
    settings = {"solver": solver, "engine": engine}
    with pytest.raises(ValueError, match="not positive semidefinite"):
        fit(gram - 0.5 * np.eye(N), **settings).coefficients()
    with pytest.raises(ValueError, match="not symmetric: two mirrored entries differ"):
        fit(gram + np.triu(np.full((N, N), 1e-6), 1), **settings)
    with pytest.raises(ValueError, match="has 1 entries that are NaN"):
        fit(np.where(np.arange(N * N).reshape(N, N) == 5, np.nan, gram), **settings)
    with pytest.raises(ValueError, match=r"must give an \(150, 150\) matrix, got \(149, 149\)"):
        fit(gram[1:, 1:], **settings)
    with pytest.raises(TypeError, match="must be float32 or float64, got int64"):
        fit(gram.astype(int), **settings)


def test_what_a_solver_lacks_is_said(gram):
    direct, krylov = (fit(gram, solver=solver) for solver in ("cholesky", "lanczos"))
    with pytest.raises(ValueError, match='"cholesky" has no finite times: use solver="eigh"'):
        direct.coefficients(1.0)
    with pytest.raises(ValueError, match='"cholesky" gives no eigenvalues: fit with solver="eigh"'):
        _ = direct.eigenvalues
    with pytest.raises(ValueError, match="gives no largest eigenvalue"):
        _ = direct.max_learning_rate
    with pytest.raises(ValueError, match="gives no eigenvectors"):
        _ = krylov.eigenvectors
    with pytest.raises(ValueError, match="gives no condition number"):
        _ = krylov.condition_number
    with pytest.raises(ValueError, match="did not converge in 16 products"):
        lanczos_flow(matrix(gram), np.asarray(inputs()[1], np.float64), 0.0, INFINITY, most=16)


@pytest.mark.parametrize("name", ["solver", "engine", "dtype"])
def test_unknown_settings(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
        KernelRegression(TwoLayerNTK(), **{name: "other"})

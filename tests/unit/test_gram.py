"""`gram`: the kernel's own values, whatever the cuts, the devices and the memory."""

import dataclasses
import doctest
import importlib
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntklab._common import float64
from ntklab._memory import parse_bytes
from ntklab.kernels import Convolutional, FullyConnected, TwoLayerNTK, gram, plan_gram

MODULES = [importlib.import_module(f"ntklab.kernels.gram.{m}") for m in ("build", "plan", "store")]
KERNEL = FullyConnected(depth=2, b_std=0.1)


def points(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X, Z = points(0, 70, 6), points(1, 45, 6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Jacobians:
    """Empirical kernel of a two-layer network: what is prepared is the Jacobian."""

    params: dict
    mode: str = dataclasses.field(default="full", metadata={"static": True})

    def f(self, params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    def prepare(self, x):
        one = jax.jacobian(lambda p, a: self.f(p, a[None])[0])
        leaves = jax.tree.leaves(jax.vmap(one, (None, 0))(self.params, x))
        return {"jacobian": jnp.concatenate([a.reshape(*a.shape[:2], -1) for a in leaves], 2)}

    def tile(self, a, b):
        full = jnp.einsum("ikp,jlp->ijkl", a["jacobian"], b["jacobian"], precision="highest")
        if self.mode == "full":
            return full
        diagonal = jnp.einsum("ijkk->ijk", full)
        return diagonal if self.mode == "per_class" else diagonal.sum(2)

    def memory(self, shape, dtype):
        return 4 * 3 * (shape[0] * 8 + 8 * 3), 4 * 9

    def __call__(self, x1, x2):
        return self.tile(self.prepare(x1), self.prepare(x2))


def network(mode="full", scale=1.0):
    params = {"w": jnp.asarray(points(2, 6, 8)), "v": jnp.asarray(scale * points(3, 8, 3))}
    return Jacobians(params, mode)


# Values.


@pytest.mark.parametrize("kernel", [TwoLayerNTK(), KERNEL])
def test_it_is_the_kernel(kernel):
    own, other = gram(kernel, X), gram(kernel, X, Z)
    assert isinstance(own, np.ndarray) and own.dtype == np.float32
    assert (own == own.T).all()
    scale = own.max()
    np.testing.assert_allclose(own, kernel(jnp.asarray(X)), rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(np.diag(own), kernel.diagonal(jnp.asarray(X)), rtol=2e-7)
    expected = kernel(jnp.asarray(X), jnp.asarray(Z))
    np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-6 * scale)


def test_images_in_float64():
    with float64():
        kernel, x = Convolutional(), np.float64(points(0, 5, 4, 4, 1))
        matrix = gram(kernel, x)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix, kernel(jnp.asarray(x)), rtol=1e-12)


def test_a_plain_function():
    def kernel(a, b):
        return jnp.exp(-((a[:, None] - b[None]) ** 2).sum(2))

    expected = np.exp(-((X[:, None] - Z) ** 2).sum(2))
    np.testing.assert_allclose(gram(kernel, jnp.asarray(X), Z), expected, rtol=1e-4)
    np.testing.assert_allclose(gram(kernel, X)[:5, :5], kernel(X[:5], X[:5]), rtol=1e-5)


@pytest.mark.parametrize("mode", ["full", "per_class", "trace"])
def test_entries_with_classes(mode):
    kernel, x = network(mode), X[:21]
    own, other = gram(kernel, x, memory_budget="100kB"), gram(kernel, x, Z)
    np.testing.assert_allclose(own, kernel(x, x), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(other, kernel(x, Z), rtol=1e-5, atol=1e-4)
    turned = own.swapaxes(0, 1)
    assert (own == (turned.swapaxes(2, 3) if mode == "full" else turned)).all()


def test_parameters_are_arguments_of_compiled_code():
    traced = []

    class Counted(Jacobians):
        def f(self, params, x):
            traced.append(1)
            return super().f(params, x)

    jax.tree_util.register_dataclass(Counted, ["params"], ["mode"])
    params = network().params
    first = gram(Counted(params), X[:8])
    count = len(traced)
    second = gram(Counted({"w": params["w"], "v": 2 * params["v"]}), X[:8])
    assert not np.allclose(first, second)
    assert len(traced) - count <= 1  # the plan asks for shapes; nothing is compiled again


# Cuts.


def test_blocks_leave_no_bit_changed():
    for kernel, x2 in ((KERNEL, None), (KERNEL, Z), (network(), None)):
        whole = gram(kernel, X, x2)
        for block in (1, 33, 1000):
            assert (gram(kernel, X, x2, block=block) == whole).all()


@pytest.mark.parametrize("x2", [None, np.repeat(Z, 20, axis=0)])
def test_prepared_columns_that_do_not_fit_are_made_again(x2):
    kernel, x = network("trace"), np.repeat(X, 3, axis=0)
    large = plan_gram(kernel, x, x2)
    budget, plan = large.result_bytes + large.scratch_bytes, large
    while plan.keep:
        budget = budget * 99 // 100
        plan = plan_gram(kernel, x, x2, memory_budget=budget)
    assert plan.tile == large.tile and "prepared anew" in str(plan)
    assert (gram(kernel, x, x2, memory_budget=budget) == gram(kernel, x, x2)).all()


@pytest.mark.parametrize("x2", [None, Z])
def test_a_small_budget_changes_rounding_only(x2):
    large = gram(KERNEL, X, x2)
    plan = plan_gram(KERNEL, X, x2, memory_budget=large.nbytes + 6000)
    assert max(plan.tile) < 12 and plan.result_bytes + plan.scratch_bytes <= large.nbytes + 6000
    small = gram(KERNEL, X, x2, memory_budget=large.nbytes + 6000)
    np.testing.assert_allclose(small, large, rtol=0, atol=1e-6 * np.abs(large).max())


def test_the_result_is_held_once():
    x, kernel = points(0, 1500, 3), TwoLayerNTK()
    gram(kernel, x)
    tracemalloc.start()
    matrix = gram(kernel, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.nbytes < peak < 1.2 * matrix.nbytes


# The plan.


def test_the_plan_says_what_will_be():
    x = jax.ShapeDtypeStruct((10_000, 28, 28), jnp.float32)
    plan = plan_gram(FullyConnected(depth=3), x, memory_budget="1GiB")
    assert plan.result_bytes == 400_000_000 and plan.shape == (10_000, 10_000)
    assert plan.scratch_bytes < 0.2 * plan.result_bytes
    rows = -(-10_000 // plan.tile[0])
    assert plan.tiles == rows * (rows + 1) // 2
    assert plan.blocks == -(-10_000 // plan.block) and plan.block % plan.tile[0] == 0
    sentence = str(plan)
    assert "10,000 x 10,000 float32: 381 MiB in memory" in sentence and "\n" not in sentence
    disk = plan_gram(FullyConnected(depth=3), x, memory_budget="100MiB", path="k.npy")
    assert "381 MiB on disk" in str(disk) and disk.scratch_bytes < 100 * 2**20


def test_the_least_budget_is_named_and_enough():
    with pytest.raises(ValueError, match=r"too small for one row: at least \d+ bytes are"):
        plan_gram(KERNEL, X, memory_budget="10kB")
    low, high = 1, 10**6
    while high - low > 1:  # the smallest budget that is taken
        middle = (low + high) // 2
        try:
            plan_gram(KERNEL, X, memory_budget=middle)
            high = middle
        except ValueError:
            low = middle
    with pytest.raises(ValueError) as refused:
        plan_gram(KERNEL, X, memory_budget=1)
    assert parse_bytes(str(refused.value).split("at least ")[1].split(" are")[0]) == high
    assert plan_gram(KERNEL, X, memory_budget=high).tile == (1, 1)


def test_the_plan_is_announced(capsys, monkeypatch):
    gram(KERNEL, X)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(MODULES[0], "_ANNOUNCED", 1)
    gram(KERNEL, X)
    assert "70 x 70 float32" in capsys.readouterr().err
    gram(KERNEL, X, show_progress=False)
    assert capsys.readouterr().err == ""


# Errors.


@pytest.mark.parametrize(
    ("x1", "x2", "error", "words"),
    [
        (np.zeros((3, 4), np.uint8), None, TypeError, "must be float32 or float64, got uint8; div"),
        (X.astype(np.float16), None, TypeError, "must be float32 or float64, got float16; conv"),
        (X.tolist(), None, TypeError, "x1 must be an array, got list"),
        (X[0], None, ValueError, "examples first"),
        (X[:0], None, ValueError, "no axis empty"),
        (X, Z[:, :5], ValueError, "one shape after the first axis"),
        (X, Z[0], ValueError, "x2 must be a batch"),
        (np.where(np.arange(6) < 5, X, np.nan), None, ValueError, "x1 has NaN or infinite values"),
        (X, np.where(np.arange(6) < 5, Z, np.inf), ValueError, "x2 has NaN or infinite values"),
    ],
)
def test_inputs_that_do_not_fit(x1, x2, error, words):
    with pytest.raises(error, match=words):
        gram(KERNEL, x1, x2)


def test_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"images \(n, H, W, C\)"):
        gram(Convolutional(), X)
    with pytest.raises(ValueError, match=r"to \(n, m, ...\), got \(1,\)"):
        gram(lambda a, b: (a * b).sum(1), X)
    with pytest.raises(ValueError, match="NaN or infinite entries for rows 0 to 23 and columns 0"):
        gram(lambda a, b: jnp.log(a @ b.T), X)
    with pytest.raises(TypeError, match="inside jit or grad call the kernel itself"):
        jax.jit(lambda x: jnp.asarray(gram(KERNEL, x)))(X)


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="block counts rows"):
        gram(KERNEL, X, block=0)
    with pytest.raises(ValueError, match="6GiB"):
        gram(KERNEL, X, memory_budget="plenty")


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_the_examples_in_the_documentation(module):
    assert doctest.testmod(module).failed == 0

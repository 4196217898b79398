"""The empirical kernel: tables of rules, bad input, operators, other libraries' kernels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.sparse.linalg import cg

from ntklab import nets
from ntklab._common import float64
from ntklab._nt import neural_tangents
from ntklab.kernels import (
    EmpiricalNTK,
    empirical_ntk,
    gram,
    jacobian_operator,
    ntk_vector_product,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def linear(params, x):
    return x @ params


def mlp(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


MLP = {"w": (4, 5), "v": (5, 3)}


def mlp_params():
    return {name: normal(i, *shape) for i, (name, shape) in enumerate(MLP.items())}


def test_linear_model_by_hand():
    """For f = x w the kernel of classes k and l is <x, x'> where k = l."""
    x = jnp.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    gram_matrix = np.array([[5, 2, 3], [2, 1, 0], [3, 0, 9]])
    w = jnp.ones((2, 2))
    full = gram_matrix[:, :, None, None] * np.eye(2)
    np.testing.assert_array_equal(empirical_ntk(linear, w, x), full)
    np.testing.assert_array_equal(empirical_ntk(linear, w, x, mode="trace"), 2 * gram_matrix)
    np.testing.assert_array_equal(empirical_ntk(linear, w, x, mode="sum_logits"), 2 * gram_matrix)


# The table of rules.


class Network(nn.Module):
    """Convolutions, a residual branch, norms, pooling: what a ResNet is made of."""

    norm: type

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.normalise()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        y = nn.Conv(8, (3, 3), (2, 2), use_bias=False)(x)
        y = nn.Conv(8, (3, 3), use_bias=False)(nn.relu(self.normalise()(y)))
        x = nn.relu(self.normalise()(y) + nn.Conv(8, (1, 1), (2, 2))(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).mean((1, 2))
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))

    def normalise(self):
        if self.norm is nn.BatchNorm:
            return nn.BatchNorm(use_running_average=True)
        return nn.GroupNorm(2)


@pytest.mark.parametrize("norm", [nn.BatchNorm, nn.GroupNorm])
def test_no_fallback_in_residual_networks(norm):
    model = Network(norm)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    variables = jax.tree.map(lambda a: jnp.full(a.shape, 0.1, a.dtype), variables)
    state = {k: v for k, v in variables.items() if k != "params"}

    def f(p, x):
        return model.apply({"params": p, **state}, x)

    x = normal(0, 16, 8, 8, 3)
    table = empirical_ntk(f, variables["params"], x, explain=True)
    assert len(table) == len(jax.tree.leaves(variables["params"]))
    assert {r.rule for r in table} <= {"jacobian", "structured", "sequential"}
    layers = {r.parameter: r.layer for r in table}
    assert layers["Conv_0/kernel"] == "conv" and layers["Dense_0/kernel"] == "dense"
    assert layers["Dense_0/bias"] == "bias"
    assert layers[f"{norm.__name__}_0/scale"] == "scale"


@pytest.mark.parametrize(
    "model",
    [nets.FC(), nets.MnistCNN(), nets.CNNMega(), nets.ResNet18()],
    ids=lambda m: type(m).__name__,
)
def test_no_fallback_in_the_networks_of_the_papers(model):
    side, channels = (32, 3) if "ResNet" in repr(model) or "Mega" in repr(model) else (28, 1)
    x = jnp.ones((4, side, side, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    f, params = nets.as_function(model, jax.tree.map(jnp.zeros_like, shapes))
    table = empirical_ntk(f, params, x, explain=True)
    assert len(table) == len(jax.tree.leaves(params))
    assert {row.rule for row in table} <= {"jacobian", "structured", "sequential"}


def test_the_table_names_rules_costs_and_fallbacks():
    params = mlp_params() | {"u": normal(3, 5, 5), "unused": normal(4, 2)}

    def f(p, x):
        h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["u"]), None), x @ p["w"], None, length=2)
        return h @ p["v"]

    table = empirical_ntk(f, params, normal(0, 7, 4), explain=True)
    rows = {row.parameter: row for row in table}
    assert rows["u"].rule == "fallback" and rows["u"].layer == "scan"
    assert rows["unused"].rule == "unused" and rows["w"].rule == "structured"
    # <x, x'> of 4 inputs, and 3 x 3 products of 5 cotangents and one by it, for 28 pairs.
    assert rows["w"].flops == 28 * (2 * 4 + 2 * 9 * (5 + 1))
    assert rows["w"].bytes == 4 * 7 * (4 + 3 * 5)
    lines = str(table).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert lines[-1].startswith("total")


# Bad input: one sentence each.


def raises(error, words):
    return pytest.raises(error, match=words)


def test_bad_inputs():
    p, x = mlp_params(), normal(0, 3, 4)
    with raises(ValueError, "x1 holds NaN"):
        empirical_ntk(mlp, p, x.at[0, 0].set(jnp.nan))
    with raises(ValueError, "x2 holds NaN"):
        empirical_ntk(mlp, p, x, x.at[0, 0].set(jnp.inf))
    with raises(ValueError, r"params\['v'\] holds NaN"):
        empirical_ntk(mlp, p | {"v": p["v"] * jnp.nan}, x)
    with raises(TypeError, "x1 is float16.*convert it to float32"):
        empirical_ntk(mlp, p, x.astype(jnp.float16))
    with raises(TypeError, r"params\['v'\] is bfloat16"):
        empirical_ntk(mlp, p | {"v": p["v"].astype(jnp.bfloat16)}, x)
    with raises(ValueError, "one shape after the first axis"):
        empirical_ntk(mlp, p, x, x[:, :2])
    with raises(ValueError, "no axis empty"):
        empirical_ntk(mlp, p, x[:0])
    with raises(ValueError, "mode must be one of full"):
        empirical_ntk(mlp, p, x, mode="mean")


def test_integer_images():
    def f(p, images):
        return mlp(p, images.astype(jnp.float32))

    with raises(TypeError, "x holds integers .uint8.*x / 255"):
        empirical_ntk(f, mlp_params(), jnp.ones((2, 4), jnp.uint8))


def test_bad_functions():
    p, x = mlp_params(), normal(0, 3, 4)
    with raises(ValueError, r"one array \(b, k\).*returned \(1,\)"):
        empirical_ntk(lambda p, x: mlp(p, x)[:, 0], p, x)
    with raises(ValueError, "returned 2 arrays"):
        empirical_ntk(lambda p, x: (mlp(p, x), x), p, x)
    with raises(ValueError, "mixes the examples of a batch"):
        empirical_ntk(lambda p, x: mlp(p, x - x.mean(0, keepdims=True)), p, x)


def test_a_budget_too_small_for_one_row_names_the_smallest():
    p, x = mlp_params(), normal(0, 3, 4)
    with raises(ValueError, r"too small for one row: at least \d+ bytes") as caught:
        empirical_ntk(mlp, p, x, memory_budget=10)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert empirical_ntk(mlp, p, x, memory_budget=least).shape == (3, 3, 3, 3)
    with raises(ValueError, "too small"):
        empirical_ntk(mlp, p, x, memory_budget=least - 1)


# Operators.


def test_vectors_of_another_length_are_refused():
    operator = jacobian_operator(linear, normal(0, 4, 2), normal(1, 3, 4))
    for product in (operator.matvec, operator.rmatvec, operator.gram):
        with pytest.raises(ValueError, match=r"takes vectors \([68],\), got \(5,\)"):
            product(normal(2, 5))


def test_products_agree_with_the_kernel():
    with float64():
        p, x1, x2 = mlp_params(), normal(5, 4, 4), normal(6, 3, 4)
        v = normal(7, 3, 3)
        expected = np.einsum("nmkl,ml->nk", empirical_ntk(mlp, p, x1, x2), v)
        np.testing.assert_allclose(ntk_vector_product(mlp, p, x1, x2, v), expected, rtol=1e-10)
        full = empirical_ntk(mlp, p, x2)
        flat = np.asarray(full).swapaxes(1, 2).reshape(9, 9)
        op = jacobian_operator(mlp, p, x2)
        assert op.shape == (9, 35)
        np.testing.assert_allclose(op.gram(v.reshape(-1)), flat @ v.reshape(-1), rtol=1e-10)
        dense = jax.vmap(op.rmatvec)(jnp.eye(9))
        np.testing.assert_allclose(dense @ dense.T, flat, rtol=1e-10, atol=1e-12)
        direction = normal(8, 35)
        np.testing.assert_allclose(op.matvec(direction), dense @ direction, rtol=1e-10)
        solution, _ = cg(lambda a: op.gram(a) + a, v.reshape(-1), tol=1e-12)
        np.testing.assert_allclose(flat @ solution + solution, v.reshape(-1), atol=1e-8)
    with raises(ValueError, r"shape of the outputs for x2, \(4, 3\)"):
        ntk_vector_product(mlp, mlp_params(), normal(5, 4, 4), None, jnp.ones((3, 1)))


# Other ways to the same numbers.


@pytest.mark.parametrize("mode", ["full", "trace"])
def test_the_builder_of_large_matrices_takes_it(mode):
    kernel, x = EmpiricalNTK(mlp, mlp_params(), mode), normal(5, 6, 4)
    np.testing.assert_allclose(gram(kernel, x), kernel(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolutional", [False, True])
def test_agreement_with_neural_tangents(convolutional):
    nt = neural_tangents()
    stax = nt.stax
    first = stax.Conv(4, (3, 3), padding="SAME") if convolutional else stax.Dense(8, b_std=0.3)
    last = [stax.Flatten(), stax.Dense(3, b_std=0.1)]
    init, f, _ = (
        stax.serial(first, stax.Relu(), stax.AvgPool((2, 2)), *last)
        if convolutional
        else (stax.serial(first, stax.Relu(), *last))
    )
    shape = (4, 4, 2) if convolutional else (6,)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        _, params = init(jax.random.key(0), (1, *shape))
        x1, x2 = normal(1, 3, *shape), normal(2, 2, *shape)
        theirs = nt.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0)(x1, x2, params)
        ours = empirical_ntk(f, params, x1, x2)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * abs(theirs).max())
        if convolutional:
            return
        mean = nt.empirical_ntk_fn(f, trace_axes=(1,), vmap_axes=0)(x1, x2, params)
        trace = empirical_ntk(f, params, x1, x2, mode="trace")
        np.testing.assert_allclose(trace, 3 * mean, rtol=1e-4, atol=1e-5 * abs(trace).max())

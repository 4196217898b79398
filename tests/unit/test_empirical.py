"""The empirical kernel against brute-force Jacobians: every kind of layer, every rule and mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_oracles import MODES, as_users_write, assert_close, brute, in_mode

from ntklab._common import float64
from ntklab.kernels import EmpiricalNTK, empirical_ntk
from ntklab.kernels.empirical import plan as plan_module


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def conv(x, w, strides=(1, 1), padding="SAME", groups=1, dilation=(1, 1), lhs=(1, 1), order="NHWC"):
    numbers = (order, "HWIO", order)
    return jax.lax.conv_general_dilated(
        x, w, strides, padding, lhs, dilation, numbers, feature_group_count=groups
    )


def normalised(x, axes):
    centred = x - x.mean(axes, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + 1e-3)


# Every kind of layer: parameters, shape of an example, function.


def dense():
    p = {"w": normal(0, 4, 5), "b": normal(1, 5), "v": normal(2, 5, 3), "c": normal(3, 3)}
    return p, (4,), lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] + p["c"]


def ntk_parameterisation():
    p = {"w": normal(0, 4, 5), "b": normal(1, 5), "v": normal(2, 5, 3)}

    def f(p, x):
        h = jax.nn.gelu(1.5 * x @ p["w"] / 2.0 + 0.3 * p["b"])
        return h @ (p["v"] / jnp.sqrt(jnp.asarray(5.0, x.dtype)))

    return p, (4,), f


def positions():
    """Dense on every position, the weight on the left, and one with a batch axis (heads)."""
    p = {"w": normal(0, 4, 5), "b": normal(1, 5), "u": normal(2, 3, 5), "h": normal(3, 3, 6, 2)}

    def f(p, x):
        y = jnp.tanh(x @ p["w"] + p["b"])  # (b, 6, 5)
        z = jnp.einsum("cd,bsd->bcs", p["u"], y)
        return jnp.einsum("bcs,cso->bco", jnp.tanh(z), p["h"]).sum(1)

    return p, (6, 4), f


def attention():
    p = {"q": normal(0, 4, 4), "k": normal(1, 4, 4), "v": normal(2, 4, 3), "s": normal(3, 4)}

    def f(p, x):
        x = normalised(x, (-1,)) * p["s"]
        weights = jax.nn.softmax(jnp.einsum("bsd,btd->bst", x @ p["q"], x @ p["k"]))
        return (weights @ (x @ p["v"])).mean(1)

    return p, (5, 4), f


def transposed_convolution():
    p = {"w": normal(0, 3, 3, 2, 4), "b": normal(1, 4), "v": normal(2, 2, 2, 4, 3)}

    def f(p, x):
        x = conv(x, p["w"], padding=((1, 2), (2, 1)), lhs=(2, 2)) + p["b"]
        return conv(jax.nn.softplus(x), p["v"], padding="VALID").mean((1, 2))

    return p, (3, 4, 2), f


def channels_first():
    p = {"w": normal(0, 3, 3, 2, 4), "b": normal(1, 4), "v": normal(2, 4, 3)}

    def f(p, x):
        x = jnp.tanh(conv(x, p["w"], order="NCHW") + p["b"][None, :, None, None])
        return x.max((2, 3)) @ p["v"]

    return p, (2, 5, 4), f


def norms():
    """Evaluation-mode BatchNorm, LayerNorm and GroupNorm, in a residual branch with pooling."""
    p = {"w": normal(0, 3, 3, 4, 4), "v": normal(1, 4, 3)}
    p |= {f"{name}{i}": normal(3 * i + j, 4) for i in range(3) for j, name in enumerate("sb")}
    mean, deviation = normal(9, 4), 1 + normal(10, 4) ** 2

    def f(p, x):
        y = (x - mean) / jnp.sqrt(deviation) * p["s0"] + p["b0"]
        y = conv(jax.nn.relu(y), p["w"])
        y = normalised(y, (-1,)) * p["s1"] + p["b1"]
        z = normalised(y.reshape(*y.shape[:3], 2, 2), (1, 2, 4)).reshape(y.shape)
        z = z * p["s2"] + p["b2"] + x
        pooled = jax.lax.reduce_window(
            z, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )
        pooled += jax.lax.reduce_window(z, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return pooled.mean((1, 2)) @ p["v"]

    return p, (4, 4, 4), f


def embedding():
    p = {"table": normal(0, 7, 4), "place": normal(1, 5, 4), "w": normal(2, 4, 3)}

    def f(p, tokens):
        x = jnp.take(p["table"], tokens, axis=0) + p["place"]
        return jnp.tanh(x).sum(1) @ p["w"]

    return p, (5,), f


def shared():
    """A recurrence that uses its weight at every step, and an embedding tied to the last layer."""
    p = {"w": normal(0, 4, 4) / 2, "b": normal(1, 4), "table": normal(2, 3, 4)}

    def f(p, x):
        h = p["table"][(x[:, :, 0] > 0).astype(int).sum(1) % 3]
        for t in range(3):
            h = jnp.tanh(h @ p["w"] + x[:, t] + p["b"])
        return h @ p["table"].T

    return p, (3, 4), f


def weight_normalisation():
    p = {"w": normal(0, 4, 5), "g": normal(1, 5), "k": normal(2, 2, 2, 1, 3), "a": normal(3, 1, 2)}

    def f(p, x):
        w = p["w"] * (p["g"] / jnp.sqrt((p["w"] ** 2).sum(0)))
        k = p["k"] - p["k"].mean((0, 1, 2))
        h = jnp.where(x @ w > 0, x @ w, 0.2 * x @ w)
        low_rank = p["g"][:1, None] * p["a"]
        return (
            conv(h[:, None, :, None], k, padding="SAME").sum((1, 2)) @ jnp.ones((3, 2), x.dtype)
            + x[:, :1] @ low_rank
        )

    return p, (4,), f


def loops():
    """Parameters inside a scan and a custom derivative: each falls back on its own."""
    p = {"w": normal(0, 4, 4) / 2, "scale": normal(1, 4), "v": normal(2, 4, 3)}

    @jax.custom_jvp
    def scaled(a, b):
        return a * b

    scaled.defjvp(lambda at, d: (at[0] * at[1], d[0] * at[1] + at[0] * d[1]))

    def f(p, x):
        h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["w"] + h), None), x, None, length=3)
        return scaled(h, jnp.broadcast_to(p["scale"], h.shape)) @ p["v"]

    return p, (4,), f


def calls():
    """Layers inside jit and remat."""
    p = {"w": normal(0, 4, 4), "v": normal(1, 4, 3), "unused": normal(2, 2)}

    def f(p, x):
        layer = jax.jit(lambda w, x: jax.nn.silu(x @ w))
        return jax.checkpoint(lambda v, x: layer(p["w"], x) @ v)(p["v"], x)

    return p, (4,), f


LAYERS = [
    dense,
    ntk_parameterisation,
    positions,
    attention,
    transposed_convolution,
    channels_first,
    norms,
    embedding,
    shared,
    weight_normalisation,
    loops,
    calls,
]


def made(kind):
    params, shape, f = kind()
    return params, shape, as_users_write(f)


def inputs(shape, seed, n, kind):
    if kind is embedding:
        return jax.random.randint(jax.random.key(seed), (n, *shape), 0, 7)
    return normal(seed, n, *shape)


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_kind_of_layer(kind):
    with float64():
        params, shape, f = made(kind)
        x1, x2 = inputs(shape, 20, 3, kind), inputs(shape, 21, 2, kind)
        assert_close(empirical_ntk(f, params, x1, x2), brute(f, params, x1, x2), "float64")


@pytest.mark.parametrize("kind", [dense, transposed_convolution, norms])
def test_single_precision(kind):
    params, shape, f = made(kind)
    x1, x2 = inputs(shape, 20, 3, kind), inputs(shape, 21, 2, kind)
    assert_close(empirical_ntk(f, params, x1, x2), brute(f, params, x1, x2), "float32")


@pytest.mark.parametrize("seed", range(4))
def test_convolutions_of_random_shape(seed):
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    groups, height, width = pick(1, 1, 2), *rng.integers(1, 4, 2)
    strides, dilation = tuple(rng.integers(1, 4, 2)), tuple(rng.integers(1, 3, 2))
    padding = pick("SAME", "VALID", ((0, 2), (1, 0)))
    example = (*rng.integers(6, 9, 2), 2 * groups)
    with float64():
        p = {"w": normal(0, height, width, 2, 3 * groups), "b": normal(1, 3 * groups)}
        p["v"] = normal(2, 3 * groups, 2)

        @as_users_write
        def f(p, x):
            y = conv(x, p["w"], strides, padding, groups, dilation) + p["b"]
            return jnp.tanh(y).sum((1, 2)) @ p["v"]

        x1, x2 = normal(3, 3, *example), normal(4, 2, *example)
        assert_close(empirical_ntk(f, p, x1, x2), brute(f, p, x1, x2))


def mixed():
    """Dense, grouped convolution and scale, with every mode's rule among its choices."""
    p = {"w": normal(0, 3, 3, 1, 4), "b": normal(1, 4), "s": normal(2, 4), "v": normal(3, 4, 3)}

    def f(p, x):
        x = jax.nn.relu(conv(x, p["w"], groups=2, strides=(2, 2)) + p["b"])
        return (normalised(x, (1, 2, 3)) * p["s"]).mean((1, 2)) @ p["v"]

    return p, (6, 5, 2), f


RULES = [("sequential", "full")]
RULES += [(rule, mode) for rule in ("jacobian", "structured") for mode in MODES]


@pytest.mark.parametrize(("rule", "mode"), RULES)
def test_every_rule_in_every_mode(rule, mode, monkeypatch):
    chosen = plan_module.choices
    monkeypatch.setattr(plan_module, "choices", lambda *a: {rule: chosen(*a)[rule]})
    with float64():
        params, shape, f = made(mixed)
        x1, x2 = normal(4, 3, *shape), normal(5, 2, *shape)
        expected = in_mode(brute(f, params, x1, x2), mode)
        assert_close(empirical_ntk(f, params, x1, x2, mode), expected)
        table = empirical_ntk(f, params, x1, x2, mode, explain=True)
        assert {r.rule for r in table if r.layer in ("conv", "dense")} == {rule}


@pytest.mark.parametrize("rule", ["jacobian", "structured", "sequential"])
def test_every_rule_for_embeddings(rule, monkeypatch):
    chosen = plan_module.choices
    monkeypatch.setattr(plan_module, "choices", lambda *a: {rule: chosen(*a)[rule]})
    with float64():
        params, shape, f = made(embedding)
        x1, x2 = inputs(shape, 4, 3, embedding), inputs(shape, 5, 2, embedding)
        assert_close(empirical_ntk(f, params, x1, x2), brute(f, params, x1, x2))


@pytest.mark.parametrize("mode", MODES)
def test_same_inputs_blocks_and_diagonal(mode):
    """Symmetric to the last bit; the same for one block, several, and several prepared anew."""
    with float64():
        params, shape, f = made(mixed)
        x = normal(4, 5, *shape)
        expected = in_mode(brute(f, params, x, x), mode)
        kernel = EmpiricalNTK(f, params, mode)
        need = kernel._plan(shape, jnp.dtype("float64"))[2]
        for budget in (
            None,
            8 * need.held + 3 * need.working + 9 * need.pair,
            need.working * 5 // 2,
        ):
            value = np.asarray(empirical_ntk(f, params, x, mode=mode, memory_budget=budget))
            assert_close(value, expected)
            turned = value.swapaxes(0, 1)
            turned = turned.swapaxes(2, 3) if mode == "full" else turned
            np.testing.assert_array_equal(value, turned)
        assert_close(kernel.diagonal(x), expected[np.arange(5), np.arange(5)])


def test_compiled_by_the_caller_and_repeated_with_other_parameters():
    params, shape, f = made(mixed)
    x, other = normal(4, 3, *shape), jax.tree.map(lambda a: 2 * a, params)
    compiled = jax.jit(lambda p, x: empirical_ntk(f, p, x))
    assert_close(compiled(params, x), brute(f, params, x, x))
    assert_close(compiled(other, x), brute(f, other, x, x))
    assert_close(empirical_ntk(f, other, x), brute(f, other, x, x))


def test_arrays_that_a_function_carries_are_arguments():
    params, shape, _ = dense()
    x, traces = normal(4, 3, *shape), []

    @as_users_write
    def f(mean, p, x):
        traces.append(0)
        return jnp.tanh((x - mean) @ p["w"]) @ p["v"] + p["c"]

    for seed in (5, 6, 7):
        partial = jax.tree_util.Partial(f, normal(seed, *shape))
        value = empirical_ntk(partial, params, x)
        count, traces = len(traces), []
        assert_close(value, brute(partial, params, x, x))
        traces.clear()
    assert count == 0


def test_a_tree_without_arrays_shares_compiled_code_with_equal_ones():
    """What `nets.as_function` gives for a network without statistics, anew at every call."""
    params, shape, _ = dense()
    x, traces = normal(4, 3, *shape), []

    def f(nothing, p, x):
        traces.append(0)
        return jnp.tanh(x @ p["w"]) @ p["v"]

    for _ in range(2):
        partial = jax.tree_util.Partial(f, {})
        value, count = empirical_ntk(partial, params, x), len(traces)
        assert_close(value, brute(partial, params, x, x))
        traces.clear()
    assert count == 0


def test_relu_has_derivative_zero_at_zero():
    params = {"w": jnp.zeros((2, 3)), "v": jnp.ones((3, 1))}
    f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]  # noqa: E731
    np.testing.assert_array_equal(empirical_ntk(f, params, jnp.ones((2, 2))), 0)


def test_pooling_breaks_ties_as_jax_does():
    def f(p, x):
        x = jax.nn.relu(conv(x, p["w"]))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.reshape(len(x), -1) @ p["v"]

    params = {"w": normal(0, 3, 3, 1, 2), "v": normal(1, 8, 2)}
    x = jnp.round(normal(2, 3, 5, 4, 1))  # many equal values
    assert_close(empirical_ntk(f, params, x), brute(f, params, x, x))

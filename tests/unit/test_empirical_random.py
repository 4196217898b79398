"""The empirical kernel of random networks, and random cuts of a matrix: hypothesis chooses."""

import contextlib
import functools

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from kernel_oracles import MODES, as_users_write, assert_close, brute, in_mode

from ntklab._common import float64
from ntklab.kernels import EmpiricalNTK, empirical_ntk, gram, plan_gram

ROWS = 5  # of the table that an embedding reads
SIZES = st.integers(1, 3)
PAIRS = st.tuples(SIZES, SIZES)


def examples(count):
    """The same examples every time; no shrinking, which would compile for minutes."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


class Residual(nn.Module):
    """What comes in, and a convolution of it."""

    window: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        return x + jnp.tanh(nn.Conv(x.shape[-1], self.window)(x))


class Twice(nn.Module):
    """One Dense layer at two places."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(x.shape[-1])
        return layer(jnp.tanh(layer(x)))


# Layers of images, each drawn for the shape (h, w, c) of an image that it gets.


def groups(shape):
    return st.sampled_from([g for g in (1, 2, 3) if shape[2] % g == 0])


@st.composite
def paddings(draw, shape, reach):
    """SAME, zeros of any number at each side, or none where the window fits."""
    short = [max(0, r - n) for r, n in zip(reach, shape[:2], strict=True)]
    zeros = [(draw(SIZES) - 1, draw(SIZES) - 1 + s) for s in short]
    return draw(st.sampled_from(["SAME", zeros, *["VALID"] * (not any(short))]))


@st.composite
def dense(draw, shape):
    return nn.Dense(draw(SIZES), use_bias=draw(st.booleans()))


@st.composite
def conv(draw, shape):
    window, dilation, feature_groups = draw(PAIRS), draw(PAIRS), draw(groups(shape))
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    return nn.Conv(
        feature_groups * draw(SIZES),
        window,
        strides=draw(PAIRS),
        padding=draw(paddings(shape, reach)),
        kernel_dilation=dilation,
        feature_group_count=feature_groups,
        use_bias=draw(st.booleans()),
    )


@st.composite
def pooling(draw, shape):
    window = draw(PAIRS)
    return functools.partial(
        draw(st.sampled_from([nn.avg_pool, nn.max_pool])),
        window_shape=window,
        strides=draw(st.sampled_from([window, (1, 1), (2, 1)])),
        padding=draw(paddings(shape, window)),
    )


def batch_norm(shape):
    return st.just(nn.BatchNorm(use_running_average=True))


def layer_norm(shape):
    return st.just(nn.LayerNorm(epsilon=0.1, use_fast_variance=False))


def group_norm(shape):
    norm = functools.partial(nn.GroupNorm, epsilon=0.1, use_fast_variance=False)
    return groups(shape).map(norm)


def residual(shape):
    return PAIRS.map(Residual)


def shared(shape):
    return st.just(Twice())


def embed(shape):
    """Of tokens, `(h, w)`."""
    return SIZES.map(functools.partial(nn.Embed, ROWS))


IMAGE_LAYERS = [dense, conv, pooling, batch_norm, layer_norm, group_norm, residual, shared]


@st.composite
def networks(draw, kind):
    """A network with a layer of this kind and another one, and the shape of its inputs."""
    side = st.integers(2, 6)
    shape = (draw(side), draw(side)) if kind is embed else (draw(side), draw(side), draw(SIZES))
    example = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(int if kind is embed else float))
    layers, between = [], example
    for each in (kind, draw(st.sampled_from(IMAGE_LAYERS))):
        layers += [draw(each(between.shape[1:])), jnp.tanh]
        network = nn.Sequential(layers)
        between, _ = jax.eval_shape(
            as_users_write(network.init_with_output), jax.random.key(0), example
        )
    layers += [lambda x: x.mean((1, 2)) + x.max((1, 2)), nn.Dense(draw(SIZES))]
    return nn.Sequential(layers), example


def filled(rng, specs):
    """Normal numbers in these shapes; variances are positive."""

    def value(path, spec):
        numbers = rng.normal(size=spec.shape)
        return jnp.asarray(1 + numbers**2 if "'var'" in jax.tree_util.keystr(path) else numbers)

    return jax.tree_util.tree_map_with_path(value, specs)


@st.composite
def problems(draw, kind):
    """A function, its parameters, inputs of the rows and of the columns, or None."""
    network, example = draw(networks(kind))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    variables = filled(
        rng, jax.eval_shape(as_users_write(network.init), jax.random.key(0), example)
    )
    params = variables.pop("params")

    @as_users_write
    def f(p, x):
        return network.apply({"params": p, **variables}, x)

    def inputs(count):
        shape = (count, *example.shape[1:])
        return jnp.asarray(
            rng.integers(ROWS, size=shape) if kind is embed else rng.normal(size=shape)
        )

    return f, params, inputs(draw(SIZES)), draw(st.sampled_from([None, inputs(2)]))


@pytest.mark.parametrize("kind", [*IMAGE_LAYERS, embed], ids=lambda kind: kind.__name__)
@examples(2)
@given(data=st.data(), wide=st.booleans())
def test_networks(kind, data, wide):
    """Both precisions, with and without `x2`; all modes in one compiled function, or one alone."""
    with float64() if wide else contextlib.nullcontext():
        f, params, x1, x2 = data.draw(problems(kind))
        modes = data.draw(st.sampled_from([MODES, *((mode,) for mode in MODES)]))

        def ours(params, x1, x2):
            return [empirical_ntk(f, params, x1, x2, mode) for mode in modes]

        kernels = (jax.jit(ours) if modes == MODES else ours)(params, x1, x2)
        expected = brute(f, params, x1, x1 if x2 is None else x2)
    for mode, kernel in zip(modes, kernels, strict=True):
        assert_close(kernel, in_mode(expected, mode), "float64" if wide else "float32")


def cosines(x1, x2):
    """A plain function of two batches."""
    return jnp.cos(x1 @ x2.T)


def network(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


@pytest.mark.parametrize("kind", ["function", "network"])
@examples(5)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40) | st.none(),
    block=st.integers(1, 50) | st.none(),
    share=st.floats(0, 1),
)
def test_cuts_of_a_matrix(kind, n, m, block, share):
    """Any block, and any budget from the least to what all needs, give the same matrix."""
    rng = np.random.default_rng(n)
    x1, x2 = (None if rows is None else rng.normal(size=(rows, 3)).astype("f4") for rows in (n, m))
    params = {"w": jnp.asarray(x1[:1].T * [1.0, 2.0]), "v": jnp.asarray([[1.0, 3.0], [2.0, -1.0]])}
    kernel = cosines if kind == "function" else EmpiricalNTK(network, params)
    whole = plan_gram(kernel, x1, x2)
    with pytest.raises(ValueError) as refused:
        plan_gram(kernel, x1, x2, memory_budget=1)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    budget = int(least + share * (whole.result_bytes + whole.scratch_bytes - least))
    matrix = gram(kernel, x1, x2, block=block, memory_budget=budget)
    expected = gram(kernel, x1, x2)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-6 * abs(expected).max())
    alone = np.asarray(kernel(*map(jnp.asarray, (x1, x1 if x2 is None else x2))))
    np.testing.assert_allclose(matrix, alone, rtol=0, atol=1e-6 * abs(alone).max())

"""The papers' networks: sizes, hand-written forward passes, limits, zero last layers, functions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ntklab import kernels, nets
from ntklab.papers.tsilivis_kempe import two_layer

#: model, image, parameters, multiplications of one image. Known: `CNN_mega` 369 k and 81.2 M,
#: ResNet-18 11.17 M and 0.5554 G, ResNet-20 0.27 M; the others are counted by hand.
SIZES = {
    "fc": (nets.FC(), (28, 28, 1), 784 * 1024 + 1025 * 1024 + 1024 + 10250, 1861632),
    "ntk": (nets.FC(widths=(7,), parameterisation="ntk"), (5,), 5 * 7 + 7 * 10, 105),
    "ntk, biases": (
        nets.FC(widths=(7,), parameterisation="ntk", b_std=0.1),
        (5,),
        6 * 7 + 8 * 10,
        105,
    ),
    "two-layer": (nets.TwoLayer(width=1000), (28, 28, 1), 784000, 794000),
    "toy": (nets.ToyCNN(), (14, 14, 1), 160 + 4640 + 288 * 128 + 128 + 1290, 292160),
    "mnist": (nets.MnistCNN(), (28, 28, 1), 320 + 18496 + 3136 * 256 + 256 + 2570, 4643840),
    "mega": (nets.CNNMega(), (32, 32, 3), 368938, 81182720),
    "resnet-8": (nets.ResNet8(), (32, 32, 3), 78042, 12501632),
    "resnet-20": (nets.ResNet20(), (32, 32, 3), 272474, 40813184),
    "resnet-18": (nets.ResNet18(), (32, 32, 3), 11173962, 555422720),
    "resnet-18, group": (nets.ResNet18(norm="group"), (32, 32, 3), 11173962, 555422720),
    # Without normalisation 4,800 scales and as many shifts become 4,800 biases.
    "resnet-18, none": (nets.ResNet18(norm="none"), (32, 32, 3), 11173962 - 4800, 555422720),
}
IMAGES = {
    "group": nets.ResNet((1,), (8,), norm="group", activation="gelu", groups=4),
    "none": nets.ResNet((1,), (8,), norm="none", activation=nets.Softplus(beta=3.0)),
}


def points(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def start(model, x, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), x)


def filled(model, x, seed=0, **settings):
    """Variables drawn by numpy, positive where they are variances: nothing is compiled."""
    rng = np.random.default_rng(seed)
    init = functools.partial(model.init, **settings)
    shapes = jax.eval_shape(init, jax.random.key(0), x)

    def draw(path, leaf):
        value = 0.4 * rng.standard_normal(leaf.shape)
        return jnp.asarray(abs(value) + 0.5 if "var" in str(path[-1]) else value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def multiplications(jaxpr):
    """Of convolutions and matrix products, for one image."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [getattr(p, "jaxpr", p) for p in eqn.params.values()]
        total += sum(multiplications(j) for j in inner if hasattr(j, "eqns"))
        if eqn.primitive.name == "conv_general_dilated":
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[1].aval.shape[:-1])
        elif eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            sizes = [eqn.invars[0].aval.shape[i] for i in contracted]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(sizes)
    return total


@pytest.mark.parametrize(("model", "image", "parameters", "products"), SIZES.values(), ids=SIZES)
def test_sizes(model, image, parameters, products):
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert multiplications(jax.make_jaxpr(model.apply)(variables, x).jaxpr) == products
    assert jax.eval_shape(model.apply, variables, x).shape == (1, 10)


# --- forward passes written out


def convolve(x, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)


def affine(x, layer):
    return convolve(x, layer["kernel"]) + layer["bias"][None, None, None, :]


def mean_pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def max_pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def dense(x, layer):
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"][None]


def two_pools(p, x):
    for name in ("conv_0", "conv_1"):
        x = mean_pool(jax.nn.relu(affine(x, p[name])))
    return dense(jax.nn.relu(dense(x, p["hidden"])), p["logits"])


def mega(p, x):
    x = jax.nn.relu(affine(jax.nn.relu(affine(x, p["conv_0"])), p["conv_1"]))
    x = max_pool(x)
    for name in ("conv_2", "conv_3", "conv_4", "conv_5"):
        x = jax.nn.relu(affine(x, p[name]))
    return dense(mean_pool(x), p["logits"])


@pytest.mark.parametrize(
    ("model", "forward", "image"),
    [
        (nets.ToyCNN(), two_pools, (14 - 2, 12, 1)),
        (nets.MnistCNN(), two_pools, (8, 8, 1)),
        (nets.CNNMega(), mega, (8, 8, 3)),
    ],
    ids=["toy", "mnist", "mega"],
)
def test_convolutional_networks_are_what_the_papers_say(model, forward, image):
    x = points(1, 2, *image)
    f, params = nets.as_function(model, filled(model, x))
    by_hand = jax.jit(forward)(params, x)
    np.testing.assert_allclose(
        jax.jit(f)(params, x), by_hand, rtol=1e-4, atol=1e-5 * jnp.ptp(by_hand)
    )


def frozen_norm(x, layer, statistics):
    scale = layer["scale"] / jnp.sqrt(statistics["var"] + 1e-5)
    shift = layer["bias"] - statistics["mean"] * scale
    return x * scale[None, None, None] + shift[None, None, None]


def resnet_8(p, s, x):
    def norm(name, x):
        return frozen_norm(x, p[name]["batch"], s[name]["batch"])

    x = jax.nn.relu(norm("stem_norm", convolve(x, p["stem"]["kernel"])))
    for group in range(3):
        name, stride = f"group_{group}_block_0", min(2, group + 1)
        q, t = p[name], s[name]
        y = convolve(x, q["conv_0"]["kernel"], stride)
        y = jax.nn.relu(frozen_norm(y, q["norm_0"]["batch"], t["norm_0"]["batch"]))
        y = convolve(y, q["conv_1"]["kernel"])
        y = frozen_norm(y, q["norm_1"]["batch"], t["norm_1"]["batch"])
        if group:
            x = convolve(x, q["shortcut"]["kernel"], stride)
            x = frozen_norm(x, q["shortcut_norm"]["batch"], t["shortcut_norm"]["batch"])
        x = jax.nn.relu(x + y)
    return dense(x.mean((1, 2)), p["logits"])


@pytest.fixture(scope="module")
def residual():
    """ResNet-8 and its variables with statistics that are not those of the start."""
    model, x = nets.ResNet8(), points(2, 4, 8, 8, 3)
    return model, filled(model, x), x


def test_residual_network_in_evaluation_mode_is_what_the_paper_says(residual):
    model, variables, x = residual
    by_hand = jax.jit(resnet_8)(variables["params"], variables["batch_stats"], x)
    logits = jax.jit(lambda f, x: f(x))(nets.logits_fn(model, variables), x)
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5 * jnp.ptp(by_hand))


def test_batch_normalisation_in_training_is_that_of_the_batch():
    x = points(16, 4, 3, 3, 2)
    norm = nets.residual.Norm("batch", 8)
    variables = filled(norm, jax.ShapeDtypeStruct(x.shape, x.dtype), train=True)
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    before, after = variables["batch_stats"]["batch"], moved["batch_stats"]["batch"]
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, rtol=1e-5)
    by_hand = frozen_norm(x, variables["params"]["batch"], {"mean": mean, "var": var})
    np.testing.assert_allclose(y, by_hand, atol=1e-5)


def test_batch_normalisation_treats_examples_apart_in_evaluation(residual):
    model, variables, x = residual
    f, params = nets.as_function(model, variables)
    jacobian = jax.jit(
        jax.jacfwd(lambda t: f(params, x * jnp.array([1, t, 1, 1])[:, None, None, None]))
    )(1.0)
    assert jnp.any(jacobian[1]) and not jnp.any(jacobian[jnp.array([0, 2, 3])])


def test_group_normalisation_is_the_same_in_training_and_by_hand():
    x = points(3, 2, 4, 4, 6)
    norm = nets.residual.Norm("group", 3)
    variables = {"params": {"group": {"scale": jnp.ones(6), "bias": jnp.zeros(6)}}}
    y = jax.jit(norm.apply, static_argnums=2)(variables, x, True)
    grouped = np.asarray(x).reshape(2, 16, 3, 2)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    by_hand = centred / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, by_hand.reshape(x.shape), atol=1e-5)


# --- fully connected


def test_the_two_parameterisations_are_one_function_with_two_kernels():
    x = points(4, 3, 6)
    shared = {"widths": (8, 5), "outputs": 2, "b_std": 0.3, "w_std": 1.2}
    ntk, standard = nets.FC(parameterisation="ntk", **shared), nets.FC(**shared)
    params = filled(ntk, x)["params"]
    same = {
        name: {
            "kernel": 1.2 * layer["kernel"] / np.sqrt(np.float32(len(layer["kernel"]))),
            "bias": 0.3 * layer["bias"],
        }
        for name, layer in params.items()
    }
    both = [jax.jit(ntk.apply)({"params": params}, x), jax.jit(standard.apply)({"params": same}, x)]
    np.testing.assert_allclose(*both, atol=1e-5)


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_initialisation_has_the_stated_variances(parameterisation):
    model = nets.FC(widths=(400,), w_std=1.5, b_std=0.5, parameterisation=parameterisation)
    x = points(5, 1, 300)
    layer = jax.jit(lambda key: model.init(key, x)["params"]["hidden_0"])(jax.random.key(0))
    expected = (1, 1) if parameterisation == "ntk" else (1.5 / math.sqrt(300), 0.5)
    np.testing.assert_allclose(layer["kernel"].std(), expected[0], rtol=0.02)
    np.testing.assert_allclose(layer["bias"].std(), expected[1], rtol=0.15)


def tangent_kernel(f, params, x):
    """Of scalar outputs `f(params, x)[:, 0]`, from the Jacobian."""
    rows = jax.jit(jax.jacrev(lambda p: f(p, x)[:, 0]))(params)
    rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)], axis=1)
    return rows @ rows.T


def test_kernel_of_a_wide_network_is_the_analytic_one():
    x = points(6, 4, 5)
    settings = {"w_std": 1.3, "b_std": 0.4, "activation": "erf"}
    model = nets.FC(widths=(1000, 1000), outputs=1, parameterisation="ntk", **settings)
    f, params = nets.as_function(model, start(model, x))
    analytic = kernels.FullyConnected(depth=2, **settings)(x)
    # One draw: deviations of a few times 1/sqrt(1000).
    error = jnp.linalg.norm(tangent_kernel(f, params, x) - analytic) / jnp.linalg.norm(analytic)
    assert error < 0.08


def test_two_layer_network_is_that_of_the_experiment_to_the_bit():
    x = points(7, 5, 2, 3, 1)
    w, a = two_layer.initialise(jax.random.key(3), 64, 6, 4, 0.01)
    model = nets.TwoLayer(width=64, outputs=4)
    variables = {"params": {"W": w}, "constants": {"A": a}}
    np.testing.assert_array_equal(model.apply(variables, x), two_layer.network(w, a, x))


def test_two_layer_network_trains_one_layer_and_its_kernel_does_not_see_the_scale():
    x = points(8, 5, 6)
    model = nets.TwoLayer(width=10000, outputs=2)
    variables = start(model, x)
    assert list(variables["params"]) == ["W"]
    np.testing.assert_allclose(variables["params"]["W"].std(), 0.01, rtol=0.01)
    signs = np.asarray(variables["constants"]["A"])
    assert set(np.unique(signs)) == {-1, 1} and abs(signs.mean()) < 0.02
    f, params = nets.as_function(model, variables)
    kernel = tangent_kernel(f, params, x)
    np.testing.assert_allclose(
        kernel, tangent_kernel(f, {"W": 100 * params["W"]}, x), rtol=1e-4, atol=1e-4
    )
    limit = kernels.TwoLayerNTK()(x)
    assert jnp.linalg.norm(kernel - limit) / jnp.linalg.norm(limit) < 0.02


# --- zero last layer, activations


@pytest.mark.parametrize(
    "model",
    [
        nets.ResNet((1,), (4,), outputs=3, zero_last=True),
        nets.FC(widths=(6,), outputs=3, zero_last=True),
    ],
    ids=["resnet", "fc"],
)
def test_zero_last_layer_leaves_only_its_own_kernel(model):
    x = points(9, 2, 4, 4, 1)
    f, params = nets.as_function(model, start(model, x))
    logits, rows = jax.jit(lambda p: (f(p, x), jax.jacrev(lambda p: f(p, x))(p)))(params)
    np.testing.assert_array_equal(logits, jnp.zeros((2, 3)))
    last = rows.pop("logits")
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(rows))
    # A weight's gradient is the feature that it multiplies: <h, h'> + 1 for the bias.
    features = last["kernel"][:, 0, :, 0]
    flat = jnp.concatenate([last["kernel"].reshape(2, 3, -1), last["bias"]], axis=2)
    kernel = jnp.einsum("iap,jbp->ijab", flat, flat)
    expected = (features @ features.T + 1)[:, :, None, None] * jnp.eye(3)[None, None]
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [nets.ToyCNN, nets.MnistCNN, nets.CNNMega, nets.ResNet8, nets.FC],
    ids=lambda network: network.__name__,
)
def test_the_last_layer_is_zero_when_asked_for(network):
    x = points(10, 1, 4, 4, 1)
    for zero in (True, False):
        model = network(zero_last=zero)
        last = jax.jit(lambda key, m=model: m.init(key, x)["params"]["logits"])(jax.random.key(0))
        assert bool(jnp.any(last["kernel"])) is not zero and not jnp.any(last["bias"])


def test_softplus_is_a_relu_to_log_two_over_beta():
    z = jnp.linspace(-3, 3, 61)
    for beta in (1.0, 4.0, 50.0):
        excess = nets.Softplus(beta=beta)(z) - jax.nn.relu(z)
        np.testing.assert_allclose(excess.max(), math.log(2) / beta, rtol=1e-5)
        assert excess.min() > -1e-6
    slope = jax.vmap(jax.grad(nets.Softplus(beta=4.0)))(z)
    np.testing.assert_allclose(slope, jax.nn.sigmoid(4 * z), atol=1e-6)


def test_named_activations_are_the_exact_functions():
    z = jnp.linspace(-3, 3, 13)
    exact = {
        "relu": jnp.maximum(z, 0),
        "erf": jax.scipy.special.erf(z),
        "gelu": z * jax.scipy.stats.norm.cdf(z),
        "softplus": jnp.log1p(jnp.exp(z)),
        "tanh": jnp.tanh(z),
    }
    for name, expected in exact.items():
        np.testing.assert_allclose(nets.layers.activation_fn(name)(z), expected, atol=1e-6)


@pytest.mark.parametrize("model", IMAGES.values(), ids=IMAGES)
def test_gradients_are_finite_under_strict_promotion(model):
    x = points(11, 2, 4, 4, 3)
    f, params = nets.as_function(model, filled(model, x))
    gradients = jax.jit(jax.grad(lambda p, x: (f(p, x) ** 2).sum(), argnums=(0, 1)))(params, x)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
    assert all(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(gradients))

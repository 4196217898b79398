"""Networks as plain functions: what they hold, what they share, what they refuse."""

import flax
import jax
import jax.numpy as jnp
import pytest

from ntklab import nets


def points(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def start(model, x, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), x)


def test_functions_hold_the_other_collections_as_leaves():
    model = nets.ResNet8()
    variables = jax.eval_shape(model.init, jax.random.key(0), points(11, 1, 8, 8, 3))
    f, params = nets.as_function(model, variables)
    assert params is variables["params"]
    assert jax.tree.leaves(f) == jax.tree.leaves(variables["batch_stats"])
    assert len(jax.tree.leaves(nets.logits_fn(model, variables))) == len(jax.tree.leaves(variables))


def test_functions_are_the_network():
    x = points(16, 3, 5)
    for model in (nets.FC(widths=(4,)), nets.TwoLayer(width=4)):
        variables = start(model, x)
        f, params = nets.as_function(model, variables)
        logits = model.apply(variables, x)
        assert jnp.array_equal(f(params, x), logits)
        assert jnp.array_equal(nets.logits_fn(model, variables)(x), logits)


def test_networks_of_one_architecture_share_compiled_code():
    traces = []

    @jax.jit
    def run(logits, x):
        traces.append(None)
        return logits(x)

    x = points(12, 2, 5)
    for seed in (0, 1):
        model = nets.FC(widths=(4,), activation=nets.Softplus(beta=2.0))
        run(nets.logits_fn(model, start(model, x, seed)), x)
    assert len(traces) == 1
    other = nets.FC(widths=(4,), activation=nets.Softplus(beta=3.0))
    run(nets.logits_fn(other, start(other, x)), x)
    assert len(traces) == 2


class Other(flax.linen.Module):
    """A module that is not ours: its mode has no default, its widths are a list."""

    widths: list

    @flax.linen.compact
    def __call__(self, x, deterministic):
        return flax.linen.Dense(self.widths[0])(x) * (1 if deterministic else 0)


def test_settings_reach_a_module_of_ones_own():
    x = points(13, 2, 3)
    model = Other((4,))
    variables = model.init(jax.random.key(0), x, True)
    for deterministic in (True, False):
        f, params = nets.as_function(model, variables, deterministic=deterministic)
        assert bool(jnp.any(f(params, x))) is deterministic


# --- bad input


def test_bad_variables_and_settings():
    x = points(14, 2, 3)
    model = nets.FC(widths=(4,))
    with pytest.raises(ValueError, match=r"with the key 'params'; it has hidden_0, logits\."):
        nets.as_function(model, start(model, x)["params"])
    listed = Other([4])
    with pytest.raises(ValueError, match="settings of Other must be hashable, for example tuples"):
        nets.as_function(listed, listed.init(jax.random.key(0), x, True))
    with pytest.raises(ValueError, match="beta must be above 0"):
        nets.Softplus(beta=0.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nets.ResNet8(norm="layer"), "norm must be one of batch, group, none, got 'layer'"),
        (nets.ResNet8(norm="group", groups=5), "groups = 5 must divide the widths"),
        (nets.ToyCNN(activation="swish"), "a function or one of erf, gelu, relu, softplus, tanh"),
        (nets.FC(parameterisation="mup"), 'must be "standard" or "ntk"'),
    ],
)
def test_bad_settings(model, words):
    with pytest.raises(ValueError, match=words):
        model.init(jax.random.key(0), points(15, 1, 8, 8, 3))


@pytest.mark.parametrize(
    "model",
    [nets.ToyCNN(), nets.MnistCNN(), nets.CNNMega(), nets.ResNet8(), nets.FC(), nets.TwoLayer()],
    ids=lambda m: type(m).__name__,
)
def test_bad_inputs(model):
    with pytest.raises(TypeError, match="floating-point inputs, got uint8: divide by 255"):
        model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"needs a batch of .* got shape \(8,\)"):
        model.init(jax.random.key(0), jnp.zeros(8))
    if not isinstance(model, nets.FC | nets.TwoLayer):
        with pytest.raises(ValueError, match=r"images, \(b, height, width, c\), got shape \(8, 8"):
            model.init(jax.random.key(0), jnp.zeros((8, 8, 3)))

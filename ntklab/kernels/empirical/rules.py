r"""One contraction rule a layer kind: Dense, Conv and Embed, brought to one form.

For one example each of them is a linear map at `s` positions in `g` groups,
$z_{gso} = \sum_d a_{gsd} W_{gdo}$, with inputs $a$ (for a convolution its patches, for an embedding
one-hot vectors, never formed) and cotangents $G$ of the outputs $z$. Then

$$J_{kgdo} = \sum_s a_{gsd}\,G_{kgso}, \qquad
  \Theta_{kl} = \sum_{gst} \langle a_{gs}, a'_{gt} \rangle \langle G_{kgs}, G'_{lgt} \rangle,$$

and there are three ways to the kernel of this parameter:

- *Jacobian*: form $J$ for every example, multiply. Cheap per example and position, dear per pair.
- *structured*: the elementwise product of the two Gram matrices. Right where positions are few.
- *sequential*: sum over $t$, then over $s, o$. In mode `full`, cheaper still for many classes.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.kernels.empirical.capture import Equation, Program


class Size(NamedTuple):
    """Groups, positions, inputs and outputs a position, of one layer for one example."""

    g: int
    s: int
    d: int
    o: int


def kind(equation: Equation, operand: int, program: Program) -> str | None:
    """`dense`, `conv` or `embed` where a rule covers the parameter at that operand, else None."""
    p = equation.params
    if equation.name == "dot_general":
        return "dense"
    if equation.name == "conv_general_dilated" and operand == 1 and p["batch_group_count"] == 1:
        return "conv"
    if equation.name == "gather" and operand == 0:
        numbers, table = p["dimension_numbers"], program.shapes[equation.inputs[0]].shape
        rank = len(program.shapes[equation.outputs[0]].shape)
        rows = (
            tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == (0,)
            and not tuple(numbers.operand_batching_dims)
            and tuple(p["slice_sizes"]) == (1, *table[1:])
            and tuple(numbers.offset_dims) == tuple(range(rank - len(table) + 1, rank))
        )
        return "embed" if rows else None
    return None


def size(equation: Equation, operand: int, program: Program) -> Size:
    """The sizes of a layer."""
    weight = program.shapes[equation.inputs[operand]].shape
    total = math.prod(program.shapes[equation.outputs[0]].shape)
    if equation.name == "dot_general":
        batch, contracted, free = _dense_axes(equation, operand, len(weight))
        g, d, o = (math.prod(weight[a] for a in axes) for axes in (batch, contracted, free))
    elif equation.name == "gather":
        g, d, o = 1, weight[0], math.prod(weight[1:])
    else:
        out, g = equation.params["dimension_numbers"].rhs_spec[0], _groups(equation)
        d, o = math.prod(weight) // weight[out], weight[out] // g
    return Size(g, total // max(g * o, 1), d, o)


def features(equation: Equation, operand: int, program: Program) -> tuple[int, ...]:
    """The axes of the output along which outputs of one position lie (`g` and `o`)."""
    rank = len(program.shapes[equation.outputs[0]].shape)
    if equation.name == "conv_general_dilated":
        return (equation.params["dimension_numbers"].out_spec[1],)
    batch, _, free = _dense_axes(
        equation, operand, len(program.shapes[equation.inputs[operand]].shape)
    )
    first = rank - len(free) if operand == 1 else len(batch)
    return tuple(range(len(batch))) + tuple(range(first, first + len(free)))


def positions(
    equation: Equation, operand: int, other: Array, cotangent: Array, shape: Sequence[int]
) -> tuple[Array, Array]:
    """Inputs `(g, s, d)` (row numbers `(s,)` for an embedding) and cotangents `(k, g, s, o)`.

    Args:
      equation: the layer.
      operand: which of its inputs is the parameter.
      other: the value of the other input.
      cotangent: of its output, `(k, *output)`.
      shape: of the parameter.
    """
    k = len(cotangent)
    if equation.name == "dot_general":
        return _dense(equation, operand, other, cotangent, len(shape))
    if equation.name == "gather":
        rows = jnp.clip(other.reshape(-1), 0, shape[0] - 1)
        return rows, cotangent.reshape(k, 1, -1, math.prod(shape[1:]))
    g, spec = _groups(equation), equation.params["dimension_numbers"].out_spec
    order = [0, 1 + spec[0], *(1 + i for i in spec[2:]), 1 + spec[1]]
    out = jnp.transpose(cotangent, order).reshape(k, -1, g, cotangent.shape[1 + spec[1]] // g)
    spatial = [cotangent.shape[1 + i] for i in spec[2:]]
    return _patches(equation, other, shape, spatial), jnp.moveaxis(out, 2, 1)


def jacobian(a: Array, g: Array, rows: int) -> Array:
    """`J` of shape `(k, g, o, d)` from the two arrays of `positions`; `rows` is `d`.

    The cotangents are turned first, so that all classes make one matrix product: XLA on CPUs
    would multiply class by class, at half the speed.
    """
    if jnp.issubdtype(a.dtype, jnp.integer):
        zeros = jnp.zeros((len(g), 1, rows, g.shape[-1]), g.dtype)
        return jnp.swapaxes(zeros.at[:, 0, a].add(g[:, 0]), 2, 3)
    k, groups, s, o = g.shape
    turned = jnp.transpose(g, (1, 0, 3, 2)).reshape(groups, k * o, s)
    j = jnp.matmul(jax.lax.optimization_barrier(turned), a)
    return jnp.moveaxis(j.reshape(groups, k, o, -1), 0, 1)


def restore(equation: Equation, operand: int, j: Array, shape: Sequence[int]) -> Array:
    """`J` from `(k, g, o, d)` to the layout of the parameter, `(k, *shape)`."""
    k, j = len(j), jnp.swapaxes(j, 2, 3)
    if equation.name == "gather":
        return j.reshape(k, *shape)
    if equation.name == "dot_general":
        order = tuple(itertools.chain(*_dense_axes(equation, operand, len(shape))))
        j = j.reshape(k, *(shape[a] for a in order))
    else:
        spec = equation.params["dimension_numbers"].rhs_spec
        order = (*spec[2:], spec[1], spec[0])
        j = jnp.moveaxis(j, 1, 2).reshape(k, *(shape[a] for a in order))
    back = sorted(range(len(order)), key=order.__getitem__)
    return jnp.transpose(j, (0, *(1 + i for i in back)))


def _dense_axes(equation: Equation, operand: int, rank: int) -> tuple[tuple[int, ...], ...]:
    """The axes of one operand: batch, contracted, free."""
    contracted, batch = (tuple(a[operand]) for a in equation.params["dimension_numbers"])
    free = tuple(i for i in range(rank) if i not in contracted and i not in batch)
    return batch, contracted, free


def _dense(
    equation: Equation, operand: int, other: Array, cotangent: Array, rank: int
) -> tuple[Array, Array]:
    batch, contracted, free = _dense_axes(equation, 1 - operand, other.ndim)
    g, d, s = (math.prod(other.shape[i] for i in axes) for axes in (batch, contracted, free))
    a = jnp.transpose(other, batch + free + contracted).reshape(g, s, d)
    if operand == 1:
        return a, cotangent.reshape(len(cotangent), g, s, -1)
    return a, jnp.swapaxes(cotangent.reshape(len(cotangent), g, -1, s), 2, 3)


def _groups(equation: Equation) -> int:
    return equation.params["feature_group_count"]


def _patches(equation: Equation, x: Array, shape: Sequence[int], spatial: Sequence[int]) -> Array:
    """What a convolution sees at every position, `(g, s, d)` with `d` = (window, channel)."""
    p = equation.params
    numbers = p["dimension_numbers"]
    x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    inner = [(*pad, dil - 1) for pad, dil in zip(p["padding"], p["lhs_dilation"], strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
    window = [shape[a] for a in numbers.rhs_spec[2:]]
    parts = []
    for place in itertools.product(*map(range, window)):
        start = [i * dil for i, dil in zip(place, p["rhs_dilation"], strict=True)]
        step = p["window_strides"]
        stop = [i + (n - 1) * w + 1 for i, n, w in zip(start, spatial, step, strict=True)]
        part = jax.lax.slice(x, (0, *start, 0), (len(x), *stop, x.shape[-1]), (1, *step, 1))
        parts.append(part.reshape(-1, _groups(equation), x.shape[-1] // _groups(equation)))
    patches = jnp.stack(parts, 2)  # (s, g, window, channel)
    return jnp.moveaxis(patches.reshape(*patches.shape[:2], -1), 1, 0)


# From two blocks of examples to the kernel. Mode `full` gives (b, k, c, l), `per_class` (b, c, k),
# `trace` and `sum_logits` (b, c).


def contract(mode: str, j1: Array, j2: Array) -> Array:
    """The product of two Jacobians `(b, k, p)` and `(c, k, p)`.

    Every one is a product of matrices as they lie. Class by class in mode `per_class`: as one batch
    of products, XLA on CPUs would copy both Jacobians first, in six times the time.
    """
    (b, k, p), c = j1.shape, len(j2)
    if mode == "full":
        return (j1.reshape(b * k, p) @ j2.reshape(c * k, p).T).reshape(b, k, c, k)
    if mode == "per_class":
        one, two = (
            partial(jax.lax.dynamic_index_in_dim, j, axis=1, keepdims=False) for j in (j1, j2)
        )
        return jnp.moveaxis(jax.lax.map(lambda i: one(i) @ two(i).T, jnp.arange(k)), 0, 2)
    return j1.reshape(b, k * p) @ j2.reshape(c, k * p).T


def _inputs(a1: Array, a2: Array, dtype: jnp.dtype) -> Array:
    """Inner products of inputs, `(b, c, g, s, t)`."""
    if jnp.issubdtype(a1.dtype, jnp.integer):
        same = a1[:, None, None, :, None] == a2[None, :, None, None, :]
        return same.astype(dtype)
    return jnp.einsum("bgsd,cgtd->bcgst", a1, a2)


def structured(mode: str, one: tuple[Array, Array], two: tuple[Array, Array]) -> Array:
    """The kernel from inputs `(b, g, s, d)` and cotangents `(b, k, g, s, o)` of both blocks."""
    (a1, g1), (a2, g2) = one, two
    inputs = _inputs(a1, a2, g1.dtype)
    if mode == "full":
        if inputs.shape[2:] == (1, 1, 1):
            outputs = contract("full", *(g.reshape(*g.shape[:2], -1) for g in (g1, g2)))
            return inputs[:, None, :, None, 0, 0, 0] * outputs
        outputs = jnp.einsum("bkgso,clgto->bkclgst", g1, g2)
        return (inputs[:, None, :, None] * outputs).sum((-3, -2, -1))
    if mode == "per_class":
        outputs = jnp.einsum("bkgso,ckgto->bckgst", g1, g2)
        return (inputs[:, :, None] * outputs).sum((-3, -2, -1))
    outputs = jnp.einsum("bkgso,ckgto->bcgst", g1, g2)
    return (inputs * outputs).sum((-3, -2, -1))


def sequential(mode: str, one: tuple[Array, Array], two: tuple[Array, Array]) -> Array:
    """The same as `structured` in mode `full`, summed over `t` first, then over `s` and `o`."""
    (a1, g1), (a2, g2) = one, two
    inputs = _inputs(a1, a2, g1.dtype)
    half = jnp.einsum("bcgst,clgto->cblgso", inputs, g2)
    return jnp.einsum("bkgso,cblgso->bkcl", g1, half)

"""A network as a flat list of equations, walked with a probe at the output of every layer.

`trace` turns `f(params, x)`, any function, into a `Program` for one example: calls (jit, remat) are
inlined, constants are numbered, what the output does not need is dropped. Public JAX API only.
`evaluate` runs one equation, `weights` those that see parameters alone, and `walk` all of them.
Three habits of JAX matter here. `custom_jvp_call` is bound again as it is, because its body has
other derivatives (ReLU's would be 1/2 at zero). A remat carries a jaxpr without constants. Since
jax 0.12 a closed jaxpr and a jaxpr are one type.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as core
import jax.numpy as jnp

from ntklab._typing import Array

#: Calls whose body may stand in their place.
INLINED = {"pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}


class Equation(NamedTuple):
    """One primitive, with the numbers of the values that it reads and writes."""

    primitive: Any
    params: dict
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the primitive: a public, stable string."""
        return self.primitive.name


class Program(NamedTuple):
    """`f` for one example.

    Attributes:
      equations: in order of execution.
      shapes: shape and dtype of every value, by number.
      constants: the values that are known.
      leaves: the numbers of the parameters, in the order of `jax.tree.leaves`.
      carried: the numbers of the arrays that `f` itself carries, where it is a pytree.
      example: the number of the input, of shape `(...)`.
      output: the number of the output, of shape `(k,)`.
      depends: of every value that the input does not reach, the leaves that reach it; other
        values are missing.
      producer: which equation writes a value.
      readers: how many equations read a value; the output counts as one more.
    """

    equations: tuple[Equation, ...]
    shapes: dict[int, jax.ShapeDtypeStruct]
    constants: dict[int, Any]
    leaves: tuple[int, ...]
    carried: tuple[int, ...]
    example: int
    output: int
    depends: dict[int, frozenset[int]]
    producer: dict[int, int]
    readers: dict[int, int]

    def uses(self, equation: Equation) -> list[int]:
        """The positions of its operands that are parameters where another one sees the input."""
        known = [self.depends.get(i) for i in equation.inputs]
        return [p for p, leaves in enumerate(known) if leaves] if None in known else []


def trace(f: Callable, params: Any, shape: tuple[int, ...], dtype: Any) -> Program:
    """The program of `f(params, x)` for one example of the given shape; nothing is computed.

    Raises:
      ValueError: `f` does not return one array `(b, k)` for inputs `(b, ...)`.
    """
    leaves, structure = jax.tree.flatten(params)
    carried, function = carried_by(f)
    n_leaves = len(leaves)
    specs = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves + carried]

    def one(values, example):
        leaves, f = values[:n_leaves], function(values[n_leaves:])
        out = f(structure.unflatten(leaves), example[None])
        shapes = [jnp.shape(a) for a in jax.tree.leaves(out)]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != 1:
            got = shapes[0] if len(shapes) == 1 else f"{len(shapes)} arrays"
            raise ValueError(
                f"f(params, x) must return one array (b, k), a row an example; for one example "
                f"of shape {shape} it returned {got}."
            )
        return jax.tree.leaves(out)[0][0]

    closed = jax.make_jaxpr(one)(specs, jax.ShapeDtypeStruct(shape, dtype))
    return _Flattening().program(closed, n_leaves)


def carried_by(f: Callable) -> tuple[list, Callable]:
    """The arrays that a function carries as a pytree (`jax.tree_util.Partial`), and how to join."""
    values, structure = jax.tree.flatten(f)
    if jax.tree_util.treedef_is_leaf(structure):
        return [], lambda _: f
    return values, structure.unflatten


def is_tree(f: Callable) -> bool:
    """Whether a function is a pytree, with or without arrays: equal ones share compiled code."""
    return not jax.tree_util.all_leaves([f])


class _Flattening:
    """Numbers values while calls are inlined: one jaxpr called twice gets two sets of numbers."""

    def __init__(self):
        self.equations, self.shapes, self.constants = [], {}, {}

    def program(self, closed: Any, n_leaves: int) -> Program:
        jaxpr = _open(closed)
        inputs = [self.number(v.aval) for v in jaxpr.invars]
        (output,) = self.inline(closed, inputs)
        leaves, carried = tuple(inputs[:n_leaves]), tuple(inputs[n_leaves:-1])
        equations = _needed(self.equations, [output])
        depends = _depends(equations, (*self.constants, *carried), leaves)
        _check_integers(equations, self.shapes, depends)
        producer = {v: i for i, e in enumerate(equations) for v in e.outputs}
        readers = {output: 1}
        for value in (v for e in equations for v in e.inputs):
            readers[value] = readers.get(value, 0) + 1
        return Program(
            equations,
            self.shapes,
            self.constants,
            leaves,
            carried,
            inputs[-1],
            output,
            depends,
            producer,
            readers,
        )

    def number(self, aval: Any) -> int:
        self.shapes[len(self.shapes)] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return len(self.shapes) - 1

    def constant(self, aval: Any, value: Any) -> int:
        number = self.number(aval)
        self.constants[number] = value
        return number

    def inline(self, jaxpr: Any, inputs: Sequence[int]) -> list[int]:
        """Append the equations of a jaxpr, closed or not; the numbers of its outputs."""
        values = getattr(jaxpr, "consts", ())
        jaxpr = _open(jaxpr)
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, values, strict=True):
            known[variable] = self.constant(variable.aval, value)

        def read(atom):
            if isinstance(atom, core.Literal):
                return self.constant(atom.aval, atom.val)
            return known[atom]

        for e in jaxpr.eqns:
            arguments = [read(v) for v in e.invars]
            if e.primitive.name in INLINED:
                inner = e.params["jaxpr"] if "jaxpr" in e.params else e.params["call_jaxpr"]
                results = self.inline(inner, arguments)
            else:
                results = [self.number(v.aval) for v in e.outvars]
                self.equations.append(
                    Equation(e.primitive, e.params, tuple(arguments), tuple(results))
                )
            known.update(zip(e.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]


def _open(jaxpr: Any) -> Any:
    """The jaxpr itself of a closed jaxpr or of one that is open already."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _needed(equations: Sequence[Equation], wanted: Sequence[int]) -> tuple[Equation, ...]:
    """The equations that the wanted values depend on."""
    needed, kept = set(wanted), []
    for e in reversed(equations):
        if not needed.isdisjoint(e.outputs):
            kept.append(e)
            needed.update(e.inputs)
    return tuple(reversed(kept))


def _depends(
    equations: Sequence[Equation], constants: Sequence[int], leaves: tuple[int, ...]
) -> dict[int, frozenset[int]]:
    """For every value that the input does not reach, the positions of the leaves that do."""
    known = dict.fromkeys(constants, frozenset())
    known.update((number, frozenset([i])) for i, number in enumerate(leaves))
    for e in equations:
        if all(v in known for v in e.inputs):
            union = frozenset().union(*(known[v] for v in e.inputs))
            known.update(dict.fromkeys(e.outputs, union))
    return known


def _check_integers(
    equations: Sequence[Equation], shapes: dict[int, jax.ShapeDtypeStruct], depends: dict
) -> None:
    """Raise when integers of the input become floating-point numbers: they are pixels."""
    for e in equations:
        if e.name != "convert_element_type" or e.inputs[0] in depends:
            continue
        before, after = shapes[e.inputs[0]].dtype, shapes[e.outputs[0]].dtype
        if jnp.issubdtype(before, jnp.integer) and jnp.issubdtype(after, jnp.floating):
            raise TypeError(
                f"x holds integers ({before}) that f turns into numbers; convert images to "
                "floating point first, x / 255."
            )


def evaluate(equation: Equation, values: Sequence[Any]) -> list[Array]:
    """The outputs of one equation, with the derivatives that it has in the network."""
    primitive, params = equation.primitive, equation.params
    if equation.name in _POOLS and _splits(equation, jnp.shape(values[0])):
        return [_POOLS[equation.name](values[0], params["window_dimensions"])]
    bound = primitive.get_bind_params(params)  # (functions, parameters) up to jax 0.8
    functions, params = bound if isinstance(bound, tuple | list) else ((), bound)
    out = primitive.bind(*functions, *values, **params)
    return list(out) if primitive.multiple_results else [out]


def weights(program: Program, values: Sequence[Array], wanted: Sequence[int]) -> dict[int, Any]:
    """Values that the input does not reach: constants, and what `wanted` needs of the given ones.

    `values` are the parameters, then what `f` carries.
    """
    given = zip(program.leaves + program.carried, values, strict=True)
    known = dict(program.constants) | dict(given)
    fixed = [e for e in program.equations if e.outputs[0] in program.depends]
    for e in _needed(fixed, wanted):
        known.update(zip(e.outputs, evaluate(e, [known[v] for v in e.inputs]), strict=True))
    return known


def walk(
    program: Program, values: Sequence[Array], example: Array, probes: dict[int, list[Array]]
) -> tuple[Array, dict[int, Any]]:
    """The output `(k,)` for one example, and every value on the way, by number.

    Args:
      program: from `trace`.
      values: the parameters, then what `f` carries.
      example: one input.
      probes: what is added to the outputs of the equation of that position: zeros, whose
        cotangents are those of the outputs.
    """
    known = weights(program, values, list(program.depends)) | {program.example: example}
    for position, e in enumerate(program.equations):
        if e.outputs[0] in program.depends:
            continue
        results = evaluate(e, [known[v] for v in e.inputs])
        if position in probes:
            results = [
                a + p if p is not None else a
                for a, p in zip(results, probes[position], strict=True)
            ]
        known.update(zip(e.outputs, results, strict=True))
    return known[program.output], known


# Pooling whose windows do not overlap, as a sum or a choice along new axes: XLA's general
# gradients of it (a padded sum; select-and-scatter) are slow on CPU.


def _splits(equation: Equation, shape: tuple[int, ...]) -> bool:
    """Whether windows neither overlap nor leave gaps nor need padding."""
    p = equation.params
    window = tuple(p["window_dimensions"])
    plain = (1,) * len(window)
    return (
        len(shape) == len(window)
        and tuple(p["window_strides"]) == window
        and tuple(p.get("base_dilation", plain)) == plain
        and tuple(p.get("window_dilation", plain)) == plain
        and all(tuple(pad) == (0, 0) for pad in p["padding"])
        and math.prod(window) > 1
    )


def _windows(x: Array, window: Sequence[int]) -> list[Array]:
    """What stands at each place of the windows, in order: arrays of the pooled shape."""
    kept = tuple(slice(0, n // w * w) for n, w in zip(x.shape, window, strict=True))
    x = x[kept]
    pairs = [(n // w, w) for n, w in zip(x.shape, window, strict=True)]
    x = x.reshape([size for pair in pairs for size in pair])
    places = itertools.product(*(range(w) for w in window))
    return [x[tuple(i for w in place for i in (slice(None), w))] for place in places]


def _sum_pool(x: Array, window: Sequence[int]) -> Array:
    return functools.reduce(operator.add, _windows(x, window))


def _max_pool(x: Array, window: Sequence[int]) -> Array:
    """The gradient goes to the first of equal values, as JAX's own does."""
    return functools.reduce(lambda a, b: jnp.where(b > a, b, a), _windows(x, window))


_POOLS = {"reduce_window_sum": _sum_pool, "reduce_window_max": _max_pool}

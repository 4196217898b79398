"""What one example contributes to an empirical kernel, and the product of two contributions.

Everything here is for a single example and is run under `jax.vmap`: parameters stay shared, and
layers see one large batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ntklab._typing import Array
from ntklab.kernels.empirical import capture, rules
from ntklab.kernels.empirical.capture import Program
from ntklab.kernels.empirical.plan import Factors, Term

#: Jacobians with fewer columns are joined before they are multiplied.
SMALL = 4096


def prepare(
    program: Program, terms: Sequence[Term], leaves: Sequence[Array], x: Array, summed: bool
) -> tuple[dict[str, Any], ...]:
    """Captured inputs and cotangents, or Jacobians, of one example: one entry a term.

    Args:
      program: from `capture.trace`.
      terms: from `plan.plan`.
      leaves: the parameters, then what `f` carries.
      x: one example.
      summed: one cotangent, all ones, instead of one for each output.

    Returns:
      First the joined small Jacobians `(k, p)`, then for every other term a Jacobian `(k, p)` or
      a pair of inputs and cotangents; each under the name of the function in `rules` that takes it.
    """
    places = sorted({p for t in terms for p in (*(u[0] for u in t.uses), t.probe) if p >= 0})
    needed = {v for p in places for v in program.equations[p].inputs}
    needed |= {v for t in terms for v, _ in t.factors + (t.bias or ())}

    def forward(probes):
        out, known = capture.walk(program, leaves, x, probes)
        return out, {v: known[v] for v in needed}

    out, pull, known = jax.vjp(forward, _probes(program, places), has_aux=True)
    k = len(out)
    seeds = jnp.ones((1, k), out.dtype) if summed else jnp.eye(k, dtype=out.dtype)
    (cotangents,) = jax.vmap(pull)(seeds)
    gradients = _gradients(program, terms, leaves, known, cotangents, len(seeds))
    small, large = [], []
    for term in terms:
        if term.rule == "unused":
            continue
        if term.probe >= 0:
            entry = _layer(program, term, known, cotangents)
        else:
            (leaf,) = term.leaves
            entry = gradients[leaf].reshape(len(seeds), -1)
        entry = jax.tree.map(lambda a: _as(a, out.dtype), entry)
        if isinstance(entry, tuple):
            large.append({term.rule: entry})
        elif entry.shape[1] > SMALL:
            large.append({"contract": entry})
        else:
            small.append(entry)
    joined = [{"contract": jnp.concatenate(small, 1)}] if small else []
    return (*joined, *large)


def _as(a: Array, dtype: Any) -> Array:
    """Floating-point arrays in the dtype of the kernel; row numbers as they are."""
    return a if jnp.issubdtype(a.dtype, jnp.integer) else a.astype(dtype)


def _probes(program: Program, places: Sequence[int]) -> dict[int, list[Array | None]]:
    """Zeros for the floating-point outputs of the equations in these places."""
    return {
        place: [
            jnp.zeros(spec.shape, spec.dtype) if jnp.issubdtype(spec.dtype, jnp.floating) else None
            for spec in (program.shapes[v] for v in program.equations[place].outputs)
        ]
        for place in places
    }


def _layer(program: Program, term: Term, known: dict, cotangents: dict) -> Any:
    """The entry of a Dense, Conv or Embed layer, its bias included."""
    ((position, operand),) = term.uses
    a, g = _positions(program, position, operand, known, cotangents[term.probe][0])
    if term.layer == "embed":
        g = g * _factor(known, term.factors, g.dtype)
    else:
        a = a * _factor(known, term.factors, a.dtype)
    if term.bias is not None:
        one = jnp.broadcast_to(_factor(known, term.bias, a.dtype), (*a.shape[:-1], 1))
        a = jnp.concatenate([a, one], -1)
    if term.rule != "jacobian":
        return a, g
    return rules.jacobian(a, g, term.size.d).reshape(len(g), -1)


def _positions(program: Program, position: int, operand: int, known: dict, g: Array) -> Any:
    equation = program.equations[position]
    other = known[equation.inputs[1 - operand]]
    shape = program.shapes[equation.inputs[operand]].shape
    return rules.positions(equation, operand, other, g, shape)


def _factor(known: dict, factors: Factors, dtype: Any) -> Array:
    product = jnp.ones((), dtype)
    for value, power in factors:
        number = jnp.asarray(known[value], dtype)
        product = product * number if power == 1 else product / number
    return product


def _gradients(
    program: Program,
    terms: Sequence[Term],
    leaves: Sequence[Array],
    known: dict,
    cotangents: dict,
    k: int,
) -> dict[int, Array]:
    """Jacobians `(k, *leaf)` of the parameters that no layer term covers."""
    wanted = [t.leaves[0] for t in terms if t.probe < 0 and t.rule != "unused"]
    total = {i: jnp.zeros((k, *leaves[i].shape), leaves[i].dtype) for i in wanted}
    uses = {u for t in terms if t.probe < 0 for u in t.uses}
    for position, operand in sorted(uses):
        equation = program.equations[position]
        value = equation.inputs[operand]
        some = [i for i in wanted if i in program.depends[value]]
        g = [c for c in cotangents[position] if c is not None]
        kind = rules.kind(equation, operand, program)
        if kind is None:
            parts = _of_equation(program, position, operand, leaves, some, known, g)
        else:
            a, g = _positions(program, position, operand, known, g[0])
            shape = program.shapes[value].shape
            j = rules.jacobian(a, g, rules.size(equation, operand, program).d)
            j = rules.restore(equation, operand, j, shape)
            parts = _through(program, value, leaves, some, j)
        for leaf, part in zip(some, parts, strict=True):
            total[leaf] = total[leaf] + part
    return total


def _replaced(leaves: Sequence[Array], some: Sequence[int], values: Sequence[Array]) -> list:
    new = list(leaves)
    for i, value in zip(some, values, strict=True):
        new[i] = value
    return new


def _through(
    program: Program, value: int, leaves: Sequence[Array], some: Sequence[int], j: Array
) -> list[Array]:
    """Jacobians of the leaves `some` from that of a value made of them."""
    if program.leaves[some[0]] == value:
        return [j]

    def of_leaves(chosen):
        return capture.weights(program, _replaced(leaves, some, chosen), [value])[value]

    _, pull = jax.vjp(of_leaves, [leaves[i] for i in some])
    return jax.vmap(pull)(j.astype(program.shapes[value].dtype))[0]


def _of_equation(
    program: Program,
    position: int,
    operand: int,
    leaves: Sequence[Array],
    some: Sequence[int],
    known: dict,
    cotangents: Sequence[Array],
) -> list[Array]:
    """Jacobians of the leaves `some` through one operand of one equation, by its gradient."""
    equation = program.equations[position]
    value = equation.inputs[operand]
    floating = [jnp.issubdtype(program.shapes[v].dtype, jnp.floating) for v in equation.outputs]

    def of_leaves(chosen):
        weight = capture.weights(program, _replaced(leaves, some, chosen), [value])[value]
        inputs = [known[v] for v in equation.inputs]
        inputs[operand] = weight
        out = capture.evaluate(equation, inputs)
        return [a for a, f in zip(out, floating, strict=True) if f]

    _, pull = jax.vjp(of_leaves, [leaves[i] for i in some])
    return jax.vmap(pull)(list(cotangents))[0]


def tile(mode: str, one: Sequence[dict], two: Sequence[dict]) -> Array:
    """The kernel of two blocks from what `prepare` gave for them, stacked along a first axis.

    Returns:
      `(b, c, k, k)` in mode `full`, `(b, c, k)` in mode `per_class`, `(b, c)` otherwise.
    """
    total = None
    for left, right in zip(one, two, strict=True):
        ((rule, entry),) = left.items()
        part = getattr(rules, rule)(mode, entry, right[rule])
        total = part if total is None else total + part
    return jnp.swapaxes(total, 1, 2) if mode == "full" else total

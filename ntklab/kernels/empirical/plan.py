"""Which rule each parameter takes, decided from shapes alone.

A parameter that one layer uses, as it is or reshaped, permuted and scaled by numbers, is left to
that layer's rules; the layer's bias joins it as one more input that is always 1. Of every other
parameter (shared, normalised, scales, lone biases) the Jacobian is formed by the gradient of the
equations that use it, and of nothing else of the network.
"""

import math
from typing import NamedTuple

from ntklab.kernels.empirical import rules
from ntklab.kernels.empirical.capture import Equation, Program

#: Equations whose gradient in a parameter costs no more than reading the cotangents.
CHEAP = {
    **dict.fromkeys(("add", "add_any", "sub"), "bias"),
    **dict.fromkeys(("mul", "div"), "scale"),
    **dict.fromkeys(("concatenate", "select_n", "pad", "dynamic_update_slice"), "placed"),
    **dict.fromkeys(("gather", "dynamic_slice"), "rows"),
    **dict.fromkeys(("max", "min", "pow", "clamp"), "elementwise"),
}
_SAME = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "copy", "copy_p", "neg"}
_SAME |= {"convert_element_type", "sharding_constraint", "name", "optimization_barrier"}

#: FLOPs that take as long as one number of scratch: three passes over 4 bytes at 10 FLOPs a byte.
TRAFFIC = 120

#: Numbers by which a value is multiplied: their places in the program, and 1 or -1 (divided).
Factors = tuple[tuple[int, int], ...]


class View(NamedTuple):
    """A value that is one leaf in another shape, times numbers."""

    leaf: int
    factors: Factors
    axes: dict[int, int]  # of the leaf's axes, those longer than 1 -> axis of the value


class Term(NamedTuple):
    """A summand of the kernel.

    Attributes:
      leaves: the positions of the parameters that it covers.
      layer: `dense`, `conv` or `embed`; what else it is where the Jacobian comes from gradients.
      rule: `jacobian`, `structured`, `sequential`, `fallback` or `unused`.
      uses: (equation, operand) of every use.
      probe: the equation whose output cotangent a layer takes: its own or that of its bias.
      size: of a layer, with the bias among its inputs.
      factors: of the weight, as part of the inputs.
      bias: factors of the input that is always 1, or None.
      cost: see `Cost`.
    """

    leaves: tuple[int, ...]
    layer: str
    rule: str
    uses: tuple[tuple[int, int], ...]
    probe: int = -1
    size: rules.Size = rules.Size(1, 1, 1, 1)
    factors: Factors = ()
    bias: Factors | None = None
    cost: "Cost" = None


class Cost(NamedTuple):
    """Of one term: FLOPs an example and a pair, numbers held an example and a pair."""

    flops: int
    pair_flops: int
    held: int
    pair_held: int


def plan(program: Program, mode: str, partners: int) -> tuple[Term, ...]:
    """The terms that together cover every parameter once.

    Args:
      program: from `capture.trace`.
      mode: of `empirical_ntk`.
      partners: with how many other examples each one will meet; decides when to form Jacobians.
    """
    uses: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(program.leaves))}
    for position, equation in enumerate(program.equations):
        for operand in program.uses(equation):
            for leaf in program.depends[equation.inputs[operand]]:
                uses[leaf].append((position, operand))
    k = 1 if mode == "sum_logits" else program.shapes[program.output].shape[0]
    terms, covered = [], set()
    for leaf, places in uses.items():
        term = _layer(program, leaf, places, uses) if leaf not in covered else None
        if term is not None:
            terms.append(_with_rule(term, mode, k, partners))
            covered.update(term.leaves)
    for leaf in uses.keys() - covered:
        terms.append(_gradient(program, leaf, uses[leaf], mode, k))
    return tuple(terms)


def _layer(program: Program, leaf: int, places: list, uses: dict) -> Term | None:
    """The term of a layer that alone uses this leaf, with the bias that follows it."""
    if len(places) != 1:
        return None
    ((position, operand),) = places
    equation = program.equations[position]
    kind = rules.kind(equation, operand, program)
    view = _view(program, equation.inputs[operand])
    if kind is None or view is None or len(equation.inputs) != 2:
        return None
    size = rules.size(equation, operand, program)
    term = Term((leaf,), kind, "", tuple(places), position, size, view.factors)
    return term if kind == "embed" else _join_bias(program, term, uses)


def _join_bias(program: Program, term: Term, uses: dict) -> Term:
    """The term with its bias, if one is added to its output, perhaps after scaling by numbers."""
    ((position, operand),) = term.uses
    equation = program.equations[position]
    features, between = rules.features(equation, operand, program), ()
    while True:
        value = equation.outputs[0]
        after = [i for i, e in enumerate(program.equations) if value in e.inputs]
        if len(after) != 1 or program.readers[value] != 1:
            return term
        position, equation = after[0], program.equations[after[0]]
        place = equation.inputs.index(value)
        if program.shapes[equation.outputs[0]] != program.shapes[value]:
            return term
        if equation.name in ("mul", "div") and _number(program, equation.inputs[1 - place]):
            if equation.name == "div" and place == 1:
                return term
            between += ((equation.inputs[1 - place], 1 if equation.name == "mul" else -1),)
        elif equation.name not in ("add", "neg", "copy"):
            return term
        elif equation.name == "add":
            break
    view = _view(program, equation.inputs[1 - place], follow_axes=True)
    if view is None or uses[view.leaf] != [(position, 1 - place)]:
        return term
    shape = program.shapes[equation.outputs[0]].shape
    if sorted(view.axes.values()) != [i for i in features if shape[i] > 1]:
        return term
    size = term.size._replace(d=term.size.d + 1)
    factors = term.factors + between
    leaves = (*term.leaves, view.leaf)
    return term._replace(
        leaves=leaves, probe=position, size=size, factors=factors, bias=view.factors
    )


def _view(program: Program, value: int, follow_axes: bool = False) -> View | None:
    """How a value is one leaf, reshaped and permuted and scaled; None where it is more.

    With `follow_axes`, axes may be added by broadcasting, and reshapes may only add or drop axes
    of length 1, so that every axis of the leaf lies along one of the value.
    """
    axes, factors = {i: i for i in range(len(program.shapes[value].shape))}, ()
    while value not in program.leaves:
        if value not in program.producer:
            return None
        equation = program.equations[program.producer[value]]
        inner = equation.inputs[0]
        if equation.name in ("mul", "div"):
            numbers = [_number(program, v) for v in equation.inputs]
            if numbers[1]:
                factor = (equation.inputs[1], 1 if equation.name == "mul" else -1)
            elif numbers[0] and equation.name == "mul":
                inner, factor = equation.inputs[1], (equation.inputs[0], 1)
            else:
                return None
            factors += (factor,)
            if program.shapes[inner].shape != program.shapes[value].shape:
                return None
        elif follow_axes:
            axes = _follow(program, equation, axes)
        elif equation.name not in _SAME and not _resized(program, equation):
            return None
        if axes is None:
            return None
        value = inner
    shape = program.shapes[value].shape
    axes = {i: a for i, a in axes.items() if follow_axes and shape[i] > 1}
    return View(program.leaves.index(value), factors, axes)


def _resized(program: Program, equation: Equation) -> bool:
    """Whether this is a broadcast that only adds axes of length 1."""
    before, after = (program.shapes[v[0]].shape for v in (equation.inputs, equation.outputs))
    return equation.name == "broadcast_in_dim" and math.prod(before) == math.prod(after)


def _follow(program: Program, equation: Equation, axes: dict[int, int]) -> dict[int, int] | None:
    """The map from axes of the output of an equation, made one from axes of its input."""
    before, after = (program.shapes[v[0]].shape for v in (equation.inputs, equation.outputs))
    long = [i for i, n in enumerate(before) if n > 1]
    if equation.name == "broadcast_in_dim":
        to = equation.params["broadcast_dimensions"]
        return {i: axes[to[i]] for i in long if to[i] in axes}
    if equation.name == "transpose":
        to = {p: i for i, p in enumerate(equation.params["permutation"])}
        return {i: axes[to[i]] for i in long if to[i] in axes}
    if equation.name in _SAME - {"rev"}:
        there = [i for i, n in enumerate(after) if n > 1]
        if [before[i] for i in long] == [after[i] for i in there]:
            return {i: axes[j] for i, j in zip(long, there, strict=True) if j in axes}
    return None


def _number(program: Program, value: int) -> bool:
    """Whether a value is one number that no parameter and no input reaches."""
    return program.depends.get(value) == frozenset() and not program.shapes[value].shape


def _gradient(program: Program, leaf: int, places: list, mode: str, k: int) -> Term:
    """The term of a leaf whose Jacobian comes from the gradients of the equations that use it."""
    p = math.prod(program.shapes[program.leaves[leaf]].shape)
    if not places:
        return Term((leaf,), "", "unused", (), cost=Cost(0, 0, 0, 0))
    names, rule, flops = [], "jacobian", 0
    for position, operand in places:
        equation = program.equations[position]
        layer = rules.kind(equation, operand, program)
        if layer is None and equation.name not in CHEAP:
            rule = "fallback"
        name = layer or CHEAP.get(equation.name, equation.name)
        names += [name] if name not in names else []
        out = sum(math.prod(program.shapes[v].shape) for v in equation.outputs)
        flops += 2 * k * out * (rules.size(equation, operand, program).d if layer else 1)
    cost = Cost(flops, 2 * _outputs(mode, k) * p, k * p, 0)
    return Term((leaf,), "+".join(names), rule, tuple(dict.fromkeys(places)), cost=cost)


def _outputs(mode: str, k: int) -> int:
    """Products of two outputs' gradients that enter the kernel of a pair."""
    return k * k if mode == "full" else k


def choices(term: Term, mode: str, k: int) -> dict[str, Cost]:
    """The rules that a layer may take, and what each costs."""
    g, s, d, o = term.size
    kk = _outputs(mode, k)
    inputs = 1 if term.layer == "embed" else d
    held, gram = g * s * inputs + k * g * s * o, 2 * g * s * s * inputs
    outputs = 2 * g * s * s * kk * (o + 1)
    scratch = g * s * s * (1 + (1 if mode == "trace" else kk))
    found = {
        "jacobian": Cost(2 * k * g * s * o * inputs, 2 * kk * g * d * o, k * g * d * o, 0),
        "structured": Cost(0, gram + outputs, held, scratch),
    }
    if mode == "full":
        pair = gram + 2 * g * s * s * k * o + 2 * g * s * kk * o
        found["sequential"] = Cost(0, pair, held, g * s * s + g * s * k * o)
    return found


def _with_rule(term: Term, mode: str, k: int, partners: int) -> Term:
    """The term with its cheapest rule: FLOPs, traffic of scratch, then memory held."""
    found = choices(term, mode, k)
    entry = 1 + _outputs(mode, k)

    def price(rule):
        cost = found[rule]
        pair = cost.pair_flops + TRAFFIC * max(0, cost.pair_held - entry)
        return pair * partners + 2 * cost.flops, cost.held + cost.pair_held

    rule = min(found, key=price)
    return term._replace(rule=rule, cost=found[rule])


class Needs(NamedTuple):
    """What all terms take: bytes an example and a pair, FLOPs a pair.

    Attributes:
      held: bytes of the captures of one example.
      working: bytes at most that one example takes on top of them while captures are made (values,
        cotangents, patches), or while two blocks are multiplied (copies in another order).
      pair: bytes that a pair takes while its entry is computed, with the entry.
      pair_flops: FLOPs of a pair.
    """

    held: int
    working: int
    pair: int
    pair_flops: int


def needs(program: Program, terms: tuple[Term, ...], mode: str) -> Needs:
    """The sums over all terms, and the largest pair, as terms come one after the other.

    `tests/unit/test_empirical_memory.py` holds them to what XLA's buffers take.
    """
    out = program.shapes[program.output]
    k = 1 if mode == "sum_logits" else out.shape[0]
    entry = {"full": k * k, "per_class": k}.get(mode, 1)
    passes, probed = 0, {p for t in terms for p in (*(u[0] for u in t.uses), t.probe)}
    for position, equation in enumerate(program.equations):
        if equation.outputs[0] not in program.depends:
            numbers = sum(math.prod(program.shapes[v].shape) for v in equation.outputs)
            passes += numbers * (1 + k * (position in probed))
    layers = [t for t in terms if t.probe >= 0]
    formed = [t.size for t in layers if t.rule == "jacobian" and t.layer != "embed"]
    passes += 2 * sum(size.g * size.s * size.d for size in formed)  # in parts, then joined
    copies = 2 * sum(t.cost.held for t in layers if t.rule != "jacobian")
    held = sum(t.cost.held for t in terms)
    pair = 3 * entry + max(t.cost.pair_held for t in terms)
    size = out.dtype.itemsize
    flops = sum(t.cost.pair_flops for t in terms)
    return Needs(held * size, max(passes, copies) * size, pair * size, flops)

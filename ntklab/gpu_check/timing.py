"""Seconds of a compiled program, and what XLA says that it does."""

import gc
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

#: In how many groups calls are timed.
GROUPS = 3


class Program(NamedTuple):
    """Something to time.

    Attributes:
      call: a function under `jax.jit`.
      arguments: of each call.
      carried: how many of the leading arguments each call replaces by its first results, as a
        step of training does that gives its old state away.
      counted: what XLA is to count instead, `[(times, jitted function, arguments), ...]`, for it
        counts the body of a loop once; an empty list where it cannot count.
      fixed: how many of the leading arguments are static: they are part of the compiled program.
    """

    call: Callable
    arguments: tuple
    carried: int = 0
    counted: list | None = None
    fixed: int = 0


class Timing(NamedTuple):
    """What was seen of a program.

    Attributes:
      seconds: of a call, the best of three groups of calls.
      compilation: seconds until the program could be called.
      flops: by XLA's cost analysis of the program as written, or None.
      traffic: bytes that the operations of the compiled program access, or None.
    """

    seconds: float
    compilation: float
    flops: float | None
    traffic: float | None


def timed(program: Program, enough: float) -> Timing:
    """Compile a program and time it.

    Args:
      program: what to time.
      enough: seconds of repetitions; one call that takes longer is made once more and no oftener.

    Returns:
      A `Timing`. Calls of a group are sent off together, as a training loop does, so that a GPU
      need not wait for Python.
    """
    gc.collect()  # what an earlier program left on the device
    start = time.perf_counter()
    flops, traffic, call = _compiled(program)
    arguments = program.arguments[program.fixed :]
    arguments = _again(program, call, arguments)
    compilation = time.perf_counter() - start
    first, arguments = _group(program, call, arguments, 1)
    if first >= enough:
        return Timing(first, compilation, flops, traffic)
    count = math.ceil(enough / GROUPS / first)
    groups = []
    for _ in range(GROUPS):
        seconds, arguments = _group(program, call, arguments, count)
        groups.append(seconds / count)
    return Timing(min(groups), compilation, flops, traffic)


def _compiled(program: Program) -> tuple[float | None, float | None, Callable]:
    """FLOPs, bytes, and what to call."""
    parts = program.counted
    lowered = program.call.lower(*program.arguments)
    flops = _cost(lowered, "flops") if parts is None else _sum(parts)
    compiled = lowered.compile()
    return flops, _cost(compiled, "bytes accessed"), compiled


def _sum(parts: list) -> float | None:
    """FLOPs of all parts; None where one of them is unknown or there are none."""
    if not parts:
        return None
    each = [(times, _cost(call.lower(*arguments), "flops")) for times, call, arguments in parts]
    return None if any(flops is None for _, flops in each) else sum(t * f for t, f in each)


def _cost(stage: Any, name: str) -> float | None:
    """An entry of XLA's cost analysis; None where this version or backend has none."""
    try:
        analysis = stage.cost_analysis()
    except Exception:  # not every backend counts, and they say so in many ways
        return None
    analysis = analysis[0] if isinstance(analysis, (list, tuple)) and analysis else analysis
    value = (analysis or {}).get(name)
    return float(value) if value is not None and value > 0 else None


def _again(program: Program, call: Callable, arguments: tuple) -> tuple:
    """One call; what it hands on stands in the place of what it took."""
    results = jax.block_until_ready(call(*arguments))
    return _handed_on(program, results, arguments)


def _group(program: Program, call: Callable, arguments: tuple, count: int) -> tuple[float, tuple]:
    start = time.perf_counter()
    for _ in range(count):
        results = call(*arguments)
        arguments = _handed_on(program, results, arguments)
    jax.block_until_ready(results)
    return time.perf_counter() - start, arguments


def _handed_on(program: Program, results: Any, arguments: tuple) -> tuple:
    taken = program.carried
    return (*results[:taken], *arguments[taken:]) if taken else arguments


#: What an allocator says when it has nothing left.
_NO_MEMORY = ("resource_exhausted", "out of memory", "failed to allocate", "bad_alloc")


def complaint(error: Exception) -> str:
    """Why there is no time, in one sentence.

    >>> complaint(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 GB"))
    'out of memory: this size does not fit on the device.'
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(word in text.lower() for word in _NO_MEMORY):
        return "out of memory: this size does not fit on the device."
    return f"failed: {type(error).__name__}: {text[:160].rstrip('.')}."

"""The table that says how an empirical kernel will be computed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ntklab._memory import format_bytes
from ntklab.kernels.empirical.capture import Program
from ntklab.kernels.empirical.plan import Term


class Row(NamedTuple):
    """One parameter.

    Attributes:
      parameter: its path in `params`.
      layer: `dense`, `conv` or `embed`; `bias` for one that is computed with its layer, in whose
        row its cost is; otherwise the kind of equation that uses it.
      rule: `jacobian`, `structured` or `sequential` (see `rules`), `fallback` where
        the Jacobian of a whole loop or custom function is formed, `unused`.
      flops: of its contraction for the whole kernel, on top of the forward and backward passes.
      bytes: that its captures or Jacobians hold for all examples.
    """

    parameter: str
    layer: str
    rule: str
    flops: int
    bytes: int


class Explanation(list):
    """A list of `Row`s; `print` it for an aligned table."""

    def __str__(self) -> str:
        """A line a parameter, and the sums."""
        total = Row("total", "", "", sum(r.flops for r in self), sum(r.bytes for r in self))
        lines = [("parameter", "layer", "rule", "FLOPs", "memory")]
        lines += [(*r[:3], f"{r.flops:.3g}", format_bytes(r.bytes)) for r in (*self, total)]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        return "\n".join(
            "  ".join(
                text.ljust(w) if i < 3 else text.rjust(w)
                for i, (text, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    __repr__ = __str__


def explanation(
    program: Program, terms: Sequence[Term], params: Any, n: int, m: int | None
) -> Explanation:
    """The table for `n` times `m` examples, or the symmetric half of `n` times `n`."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    examples, pairs = (n, n * (n + 1) // 2) if m is None else (n + m, n * m)
    size = program.shapes[program.output].dtype.itemsize
    rows = {}
    for term in terms:
        first, *rest = term.leaves
        flops = term.cost.flops * examples + term.cost.pair_flops * pairs
        held = term.cost.held * examples * size
        rows[first] = Row(paths[first], term.layer, term.rule, flops, held)
        rows.update((leaf, Row(paths[leaf], "bias", term.rule, 0, 0)) for leaf in rest)
    return Explanation(rows[i] for i in sorted(rows))

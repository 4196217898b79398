"""What the queue may count on: five packages and what these require."""

import importlib.metadata
import re

FIVE = ("jax", "flax", "optax", "numpy", "scipy")


def normal(name: str) -> str:
    """A distribution's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(names=FIVE) -> set[str]:
    """Distributions and all that they require, with the extras that are asked for on the way."""
    found, waiting = set(), [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        name = normal(name)
        if (name, extra) in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:  # for another system or Python
            continue
        found.add((name, extra))
        for line in lines:
            wanted = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
            if wanted is None or wanted[1] == extra:
                named = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", line)
                extras = ("", *(e.strip() for e in (named[2] or "").split(",") if e))
                waiting += [(named[1], e) for e in extras]
    return {name for name, _ in found}

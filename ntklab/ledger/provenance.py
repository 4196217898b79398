"""Which code ran, on which machine: commit, dirty flag, device, library versions."""

import functools
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ntklab._common import float64
from ntklab.ledger.schema import LedgerError

_CHECKOUT = Path(__file__).resolve().parents[2]
_RECORDS = ":(exclude)book/ledger/runs/*.json"


class Commit(NamedTuple):
    """The commit of the running code.

    Attributes:
      name: 40 hex digits, or `unknown`.
      dirty: whether the files differ from that commit, so that a run of them cannot count.
    """

    name: str
    dirty: bool


def commit_of_code(checkout: str | os.PathLike | None = None) -> Commit:
    """The commit of the checkout that the package lies in.

    Everything that `git status` lists makes the tree dirty, apart from run records: those are
    what experiments write, and several may be run before one commit. Where the package does not
    lie in a checkout (a wheel, a copied folder), the variable NTKLAB_COMMIT names the commit and
    vouches for the files; without it the commit is `unknown` and dirty.

    Args:
      checkout: top folder of the checkout; by default that of the package itself.

    Raises:
      LedgerError: git refuses to answer, or NTKLAB_COMMIT is no commit.
    """
    top = Path(checkout) if checkout is not None else _CHECKOUT
    if (top / ".git").exists():
        name = _git(top, "rev-parse", "HEAD")
        changed = _git(top, "status", "--porcelain", "--untracked-files=all", "--", ".", _RECORDS)
        return Commit(name, bool(changed))
    named = os.environ.get("NTKLAB_COMMIT", "")
    if not named:
        return Commit("unknown", True)
    if not re.fullmatch(r"[0-9a-f]{40}", named):
        raise LedgerError(f"NTKLAB_COMMIT must be a commit's 40 hex digits, got {named!r}.")
    return Commit(named, False)


def _git(top: Path, *arguments: str) -> str:
    command = ["git", "-C", str(top), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise LedgerError(
            "git was not found; install it, so that a run can name its commit."
        ) from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise LedgerError(f"git cannot name the commit of the code: {reason}.") from None
    return done.stdout.strip()


def machine() -> dict:
    """What this machine is: `{"device": text, "versions": {library: version}}`."""
    import jax

    first = jax.devices()[0]
    count = len(jax.devices())
    if first.platform == "cpu":
        device = f"cpu: {_processor()}, {_cores()} cores"
    else:
        device = f"{first.platform}: {count} x {first.device_kind}; host {_processor()}"
    names = ("ntklab", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = getattr(sys.modules.get(name), "__version__", "not installed")
    return {"device": device, "versions": versions}


def peak_memory_mib() -> float:
    """The most memory this process has held, in MiB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@functools.cache
def measured_peak(dtype: str) -> float:
    """Operations a second of a large matrix product on the default device, measured once.

    The product is the one that a network gets without asking: on recent NVIDIA cards a `float32`
    product is rounded to TF32 on the way. All devices but one stand still meanwhile.

    Args:
      dtype: `float32`, `bfloat16` or `float64`.

    Cost: some tenths of a second.
    """
    import jax
    import jax.numpy as jnp

    n = 1024 if jax.default_backend() == "cpu" else 8192
    with float64():
        a = jnp.full((n, n), 1 / n, dtype)
        multiply = jax.jit(jnp.matmul).lower(a, a).compile()
        multiply(a, a).block_until_ready()
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            multiply(a, a).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

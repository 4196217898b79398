"""What this machine has, and in one sentence what is wrong with it."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ntklab._memory import available_bytes, device_bytes
from ntklab.data import found

#: Supported versions of JAX: from the first on, below the second (as in pyproject.toml).
JAX_RANGE = ("0.7.2", "0.13")
#: The same for Python.
PYTHON_RANGE = ("3.11", "3.14")
#: Memory, in GiB, below which the chapters of the book do not fit.
ENOUGH_MEMORY = 4.0
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "neural-tangents", "altair")
_GIB = 2**30


class Report(str):
    """The text of a report; a notebook does not show it twice."""

    def _ipython_display_(self) -> None:
        """Show nothing: `report` has printed it."""


class Machine(NamedTuple):
    """What was seen.

    Attributes:
      python: its version.
      versions: package -> version, or None where it is not installed.
      backend: platform of JAX's first device ("cpu", "gpu", "tpu"), or what hindered it.
      devices: a line a device.
      gpus: names of the GPUs that the driver sees, whether or not JAX does.
      cores: processor cores that this process may use.
      memory: GiB of memory that can still be had, or None where the system does not say.
      data: data set -> folder, or None.
    """

    python: str
    versions: dict[str, str | None]
    backend: str
    devices: tuple[str, ...]
    gpus: tuple[str, ...]
    cores: int
    memory: float | None
    data: dict[str, str | None]


def report() -> Report:
    """Print what this machine has and, in one sentence, what is wrong, or that nothing is.

    Returns:
      The text that was printed. Time: about a second, nearly all of it JAX looking for devices;
      no package but JAX is imported. Never raises.

    >>> "Nothing is wrong" in report() or "Wrong:" in report()  # doctest: +ELLIPSIS
    Python ...
    True
    """
    try:
        seen = look()
        text = "\n".join([*_lines(seen), f"Wrong: {p}" if (p := problem(seen)) else _NOTHING])
    except Exception as error:
        text = f"Wrong: this machine could not be examined ({type(error).__name__}: {error})."
    print(text)
    return Report(text)


_NOTHING = "Nothing is wrong."


def problem(seen: Machine) -> str:
    """The first thing that is wrong, in one sentence that says what to do; "" where nothing is."""
    jax, folder = seen.versions["jax"], os.environ.get("NTKLAB_DATA")
    low, high = JAX_RANGE
    lacking = [p for p in ("jax", "jaxlib", "flax", "optax") if not seen.versions[p]]
    if not _number(PYTHON_RANGE[0]) <= _number(seen.python) < _number(PYTHON_RANGE[1]):
        return f"Python {seen.python} is not supported; use {PYTHON_RANGE[0]} to 3.13."
    if lacking:
        return f"{', '.join(lacking)} cannot be found; pip install ntklab."
    if not _number(low) <= _number(jax) < _number(high):
        return f"jax {jax} is not supported; pip install 'jax>={low},<{high}'."
    if not seen.devices:
        return f"JAX finds no device ({seen.backend}); reinstall jax for this machine."
    if seen.gpus and seen.backend == "cpu":
        return _unused_gpu(seen.gpus[0])
    if folder and not Path(os.path.expanduser(folder)).is_dir():
        return f"NTKLAB_DATA names {folder}, which is not a folder; correct it or unset it."
    if folder and not all(seen.data.values()):
        lacking = ", ".join(name for name, where in seen.data.items() if where is None)
        return f"NTKLAB_DATA names {folder}, which lacks {lacking}; add the files or unset it."
    if seen.memory is not None and seen.memory < ENOUGH_MEMORY:
        return f"only {seen.memory:.1f} GiB of memory are left; close programs or use --size quick."
    return ""


def _unused_gpu(gpu: str) -> str:
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted and not re.search("cuda|gpu|rocm", wanted):
        return f"{gpu} is there and JAX_PLATFORMS={wanted} hides it from JAX; unset that variable."
    return f"{gpu} is there and JAX runs on the CPU; pip install 'jax[cuda12]' and restart."


def look() -> Machine:
    """Look at this machine; every part that cannot be seen is left empty."""
    backend, devices = _devices()
    memory = available_bytes()
    return Machine(
        python=platform.python_version(),
        versions={p: _version(p) for p in _PACKAGES},
        backend=backend,
        devices=devices,
        gpus=_driver_gpus(),
        cores=_cores(),
        memory=None if memory is None else memory / _GIB,
        data=found(),
    )


def _lines(seen: Machine) -> list[str]:
    versions = ", ".join(f"{p} {v or 'not installed'}" for p, v in seen.versions.items())
    memory = "unknown" if seen.memory is None else f"{seen.memory:.1f} GiB available"
    here = {where: [] for where in seen.data.values() if where}
    for name, where in seen.data.items():
        if where:
            here[where].append(name)
    # No path: the report stands on published pages. `python -m ntklab data` says where.
    place = "NTKLAB_DATA" if os.environ.get("NTKLAB_DATA") else "the download cache"
    data = "; ".join(f"{', '.join(names)} in {place}" for names in here.values())
    return [
        f"Python {seen.python} on {platform.system()} {platform.machine()}; {versions}",
        f"Devices: {'; '.join(seen.devices) or 'none'}",
        f"CPU cores: {seen.cores}; memory: {memory}",
        f"Data: {data or 'none yet, each is downloaded when first used'}",
    ]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[str, tuple[str, ...]]:
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a missing or broken installation raises many kinds
        return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}", ()
    return devices[0].platform, tuple(map(_device, devices))


def _device(device) -> str:
    text = f"{device.platform} {device.device_kind}".strip()
    text = device.platform if device.device_kind == device.platform else text
    counted = device_bytes(device)
    if counted is None:
        return text
    free, total = (size / _GIB for size in counted)
    return f"{text}, {free:.1f} of {total:.1f} GiB free for JAX"


def _driver_gpus() -> tuple[str, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        command = [tool, "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Bytes: how many can still be had, half of them as a budget, and how people write them."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("kmgt", 1)
}
#: The budget of a system that does not say what it has.
_UNKNOWN = 2**30


def available_bytes(device: Any = None) -> int | None:
    """Memory that can still be had on a device, in bytes.

    Args:
      device: one of JAX's devices; without it, or for the CPU, the memory of this machine.

    Returns:
      On accelerators, JAX's limit less what it has given out. On the CPU what the system says is
      available, within the limit of a container (Linux); half of the physical memory where only
      that is known (macOS). None where nothing is known.

    Cost: well below a millisecond. Never raises.

    >>> available_bytes() is None or available_bytes() > 0
    True
    """
    if device is not None and device.platform != "cpu":
        counted = device_bytes(device)
        return None if counted is None else max(0, counted[0])
    return system_bytes()


def default_budget(device: Any = None) -> int:
    """Half of `available_bytes(device)`, and 1 GiB where that is not known.

    >>> default_budget() > 0
    True
    """
    available = available_bytes(device)
    return _UNKNOWN if available is None else max(1, available // 2)


def parse_bytes(size: int | float | str) -> int:
    """A number of bytes, from a number or from words such as `"6GiB"`, `"1.5 GB"` or `"800M"`.

    Raises:
      ValueError: it is no such thing, or below 1.

    >>> parse_bytes("6GiB"), parse_bytes("1.5 kB"), parse_bytes(4096)
    (6442450944, 1500, 4096)
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d+)?)\s*([kmgt]?i?)(?:b|bytes)?\s*", str(size).lower())
    if match and match[2] in _UNITS and (value := int(float(match[1]) * _UNITS[match[2]])) >= 1:
        return value
    raise ValueError(f"a size in bytes is a number or words such as '6GiB', got {size!r}.")


def format_bytes(size: int) -> str:
    """A number of bytes as people read it.

    >>> format_bytes(400_000_000), format_bytes(6 * 2**30), format_bytes(12)
    ('381 MiB', '6.00 GiB', '12 bytes')
    """
    if size < 1024:
        return f"{size} bytes"
    power = next(p for p in (1, 2, 3, 4) if size < 999.5 * 1024**p or p == 4)
    value = size / 1024**power
    return f"{value:.{max(0, 2 - (value >= 9.995) - (value >= 99.95))}f} {'KMGT'[power - 1]}iB"


def device_bytes(device: Any) -> tuple[int, int] | None:
    """Bytes that JAX can still give out on this device, and its limit; None where it says none."""
    try:
        stats = device.memory_stats() or {}
    except Exception:  # not every backend counts
        return None
    if not stats.get("bytes_limit"):
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0), stats["bytes_limit"]


def system_bytes(root: str | os.PathLike = "/") -> int | None:
    """Bytes that this machine can still give, within the limits of the containers around us."""
    root = Path(root)
    try:
        lines = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _elsewhere()
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group around this process still allows; version 2, then version 1.

    File pages that are not in use count as memory in use there; they go when memory is needed.
    Above `memory.high` a group is not killed, but held up at every page.
    """
    second = ("memory.max", "memory.current", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for mount, own, (limit, usage, idle) in (
        ("sys/fs/cgroup", "", second),
        ("sys/fs/cgroup", "", ("memory.high", *second[1:])),
        ("sys/fs/cgroup/memory", "memory", first),
    ):
        for group in _groups(root / mount, _own_group(root, own)):
            try:
                allowed, used = int(_text(group / limit)), int(_text(group / usage))
            except (OSError, ValueError):  # no such group, or no limit ("max")
                continue
            yield allowed - used + _statistic(group / "memory.stat", idle)


def _own_group(root: Path, controller: str) -> str:
    """The group of this process in a hierarchy, as `/proc/self/cgroup` names it."""
    try:
        lines = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    except OSError:
        return ""
    names = (x[2] for x in lines if len(x) == 3 and controller in x[1].split(","))
    return next(names, "").strip("/")


def _groups(mount: Path, own: str) -> Iterator[Path]:
    """The group's folder and those around it: a limit holds for everything inside."""
    folder = mount / own
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _statistic(path: Path, name: str) -> int:
    try:
        return int(re.search(rf"^{name} (\d+)$", _text(path), re.M)[1])
    except (OSError, TypeError, ValueError):
        return 0


def _text(path: Path) -> str:
    return path.read_text()


def _elsewhere() -> int | None:
    """What Windows says, or half of the physical memory, or None."""
    if sys.platform == "win32":
        return _windows()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _windows() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((f"field{i}", ctypes.c_ulonglong) for i in range(7)),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return status.field1  # total, then available physical memory

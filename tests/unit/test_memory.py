"""Bytes: found in system files, given by people, shown to them."""

import doctest

import jax
import pytest

from ntklab import _memory
from ntklab._memory import available_bytes, default_budget, format_bytes, parse_bytes

MIB, GIB = 2**20, 2**30


class Gpu:
    platform = "gpu"

    def __init__(self, **stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def machine(root, files):
    for name, text in {"proc/meminfo": f"MemAvailable: {4 * MIB} kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("6GiB", 6 * GIB),
        ("6 gib", 6 * GIB),
        ("1.5GB", 1_500_000_000),
        ("800M", 800_000_000),
        ("2e9", 2_000_000_000),
        ("512", 512),
        ("77 bytes", 77),
        (2.0e9, 2_000_000_000),
        (7, 7),
    ],
)
def test_sizes_as_people_write_them(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "much", "-3GB", "0", 0, -1, True, "6 PB", "iB", float("nan")])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="a size in bytes is a number or words such as '6GiB'"):
        parse_bytes(size)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (999 * MIB, "999 MiB"),
        (1000 * MIB, "0.98 GiB"),
        (12 * GIB, "12.0 GiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_sizes_as_people_read_them(size, text):
    assert format_bytes(size) == text


def test_memory_without_and_within_a_container(tmp_path):
    assert _memory.system_bytes(machine(tmp_path / "free", {})) == 4 * GIB
    second = {"memory.max": f"{3 * GIB}", "memory.current": f"{GIB}"}
    files = {f"sys/fs/cgroup/{name}": text for name, text in second.items()}
    assert _memory.system_bytes(machine(tmp_path / "2", files)) == 2 * GIB
    files["sys/fs/cgroup/memory.stat"] = f"anon 1\ninactive_file {GIB // 2}\nx 3\n"
    assert _memory.system_bytes(machine(tmp_path / "2", files)) == 2 * GIB + GIB // 2
    files["sys/fs/cgroup/memory.max"] = "max\n"
    assert _memory.system_bytes(machine(tmp_path / "2", files)) == 4 * GIB


def test_memory_within_a_container_of_the_first_version(tmp_path):
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/box\n1:name=systemd:/init\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB // 4}\n",
        "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB}\n",
    }
    assert _memory.system_bytes(machine(tmp_path, files)) == GIB - GIB // 4 + MIB


def test_a_limit_further_up_holds_inside(tmp_path):
    files = {
        "proc/self/cgroup": "0::/slice/unit\n",
        "sys/fs/cgroup/slice/memory.max": f"{GIB}",
        "sys/fs/cgroup/slice/memory.current": f"{GIB}",
        "sys/fs/cgroup/slice/unit/memory.max": "max",
    }
    assert _memory.system_bytes(machine(tmp_path, files)) == 0


def test_the_level_at_which_a_group_is_held_up_counts_too(tmp_path):
    files = {"memory.max": f"{3 * GIB}", "memory.high": f"{GIB}", "memory.current": f"{GIB // 4}"}
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert _memory.system_bytes(machine(tmp_path, files)) == GIB - GIB // 4


def test_a_system_that_says_less(tmp_path, monkeypatch):
    monkeypatch.setattr(_memory.os, "sysconf", lambda name: 4096)
    assert _memory.system_bytes(tmp_path) == 4096 * 4096 // 2
    monkeypatch.delattr(_memory.os, "sysconf")
    assert _memory.system_bytes(tmp_path) is None
    monkeypatch.setattr(_memory, "system_bytes", lambda: None)
    assert available_bytes() is None and default_budget() == GIB


def test_a_budget_is_half_of_what_is_there(monkeypatch):
    gpu = Gpu(bytes_limit=8 * GIB, bytes_in_use=2 * GIB)
    assert available_bytes(gpu) == 6 * GIB and default_budget(gpu) == 3 * GIB
    for silent in (Gpu(), Gpu(bytes_limit=0)):
        assert available_bytes(silent) is None and default_budget(silent) == GIB
    monkeypatch.setattr(_memory, "system_bytes", lambda: 10 * GIB)
    assert available_bytes(jax.devices("cpu")[0]) == 10 * GIB and default_budget() == 5 * GIB


def test_the_examples_in_the_documentation():
    assert doctest.testmod(_memory).failed == 0

"""`make queue`: every experiment at quick size as a GPU queue would run it, with the five packages.

In an environment that has jax, flax, optax, numpy and scipy alone, each experiment is run once
undisturbed. Then again: killed with -9 at a random moment, packed, unpacked in another folder,
stopped by `--minutes 0`, packed and unpacked once more, and resumed to its end, reading data that
were packed and unpacked too. Values and curves must be equal to the last bit.

Experiments may be named as arguments. NTKLAB_DATA names the data; what needs data that are not
there is skipped and named.
"""

import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Of tests/unit, which `make queue` puts on PYTHONPATH.
from five_packages import FIVE, normal, required

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"pip", "setuptools", "wheel"}
PART_MIB = "0.05"
SECONDS = 1800


def ntklab(*arguments, data: str | None, **settings) -> subprocess.Popen:
    """One call of the command line, on this checkout."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env |= {"NTKLAB_DATA": data} if data else {}
    command = [sys.executable, "-m", "ntklab", *map(str, arguments)]
    return subprocess.Popen(command, env=env, text=True, **settings)


def call(*arguments, data: str | None = None, may: tuple[int, ...] = (0,)) -> tuple[int, str]:
    """Exit status and output of a call; another status than `may` ends the check."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = ntklab(*arguments, data=data, **pipes)
    out, error = process.communicate(timeout=SECONDS)
    if process.returncode not in may:
        words = " ".join(map(str, arguments))
        sys.exit(f"ntklab {words}: exit status {process.returncode}\n{out}\n{error}")
    return process.returncode, out + error


def travel(place: Path, to: Path) -> Path:
    """Pack, unpack in a folder elsewhere, and say where it lies now."""
    call("pack", place, "--out", to / "parts", "--part-mib", PART_MIB)
    call("unpack", to / "parts", "--to", to / "here")
    return to / "here" / place.name


def damaged_parts_are_named(parts: Path, to: Path) -> None:
    """One bit of one part is turned, and nothing may be unpacked."""
    part = sorted(parts.glob("*.part-*"))[-1]
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    _, said = call("unpack", parts, "--to", to, may=(2,))
    part.write_bytes(data)
    if part.name not in said or to.exists():
        sys.exit(f"A damaged part was not noticed: {said}")


def measured(folder: Path) -> dict:
    """Values and curves of every finished seed, but for measured times."""
    found = {}
    for path in sorted(folder.glob("seed-*/finished.json")):
        content = json.loads(path.read_text())
        values = {n: v for n, v in content["values"].items() if not n.endswith("_seconds")}
        found[path.parent.name] = values, content["curves"]
    return found


def exercise(name: str, top: Path, data: str | None, packed: str | None) -> str:
    """All of it for one experiment; a sentence about how it went."""
    run = ("run", name, "--size", "quick")
    started = time.monotonic()
    call(*run, "--out", top / "whole", data=data)
    undisturbed = time.monotonic() - started
    moment = random.uniform(0.2, 0.95) * undisturbed
    place = top / f"{name}-quick"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with ntklab(*run, "--out", place, data=data, **quiet) as process:
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
    if not place.exists():
        place.mkdir()  # killed before its first file
    place = travel(place, top / "first")
    damaged_parts_are_named(top / "first" / "parts", top / "never")
    status, said = call(
        *run, "--out", place, "--resume", "--minutes", "0", data=packed, may=(0, 75)
    )
    if status == 75 and "--resume" not in said:
        sys.exit(f"{name} does not say how to go on: {said}")
    place = travel(place, top / "second")
    _, said = call(*run, "--out", place, "--resume", data=packed)
    if "starts afresh" in said:
        sys.exit(f"{name} did not take up what it had: {said}")
    if not measured(top / "whole") or measured(place) != measured(top / "whole"):
        sys.exit(f"{name}: the values differ from those of an undisturbed run.")
    stopped = "stopped by its minutes" if status == 75 else "finished in its minutes"
    return f"equal; killed after {moment:.0f} of {undisturbed:.0f} s, {stopped}"


def records_travel(top: Path) -> None:
    """The ledger's records in one archive, into an empty ledger, twice."""
    call("pack", "--runs", "--out", top / "records", "--part-mib", "1")
    (top / "ledger" / "runs").mkdir(parents=True)
    claims = ROOT / "book" / "ledger" / "claims.yaml"
    (top / "ledger" / "claims.yaml").write_bytes(claims.read_bytes())
    os.environ["NTKLAB_LEDGER"] = str(top / "ledger")
    for new in (True, False):
        _, said = call("unpack", top / "records", "--runs")
        if (", 0 of them new" in said) == new:
            sys.exit(f"The records did not travel: {said}")
        print(f"records: {said.strip().split(', in ')[0]}")
    del os.environ["NTKLAB_LEDGER"]


def main(names: list[str]) -> int:
    """0 when every experiment that could be run gave the values of an undisturbed run."""
    foreign = {normal(d.name) for d in importlib.metadata.distributions()} - required() - TOOLS
    if foreign:
        print(f"Not alone: {', '.join(sorted(foreign))} are installed too.")
    _, listed = call("list")
    data, packed, skipped = os.environ.get("NTKLAB_DATA"), None, []
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        if data:
            sets = [p for p in sorted(Path(data).iterdir()) if p.is_dir()]
            call("pack", *sets, "--out", top / "data", "--part-mib", "32", "--name", "data")
            call("unpack", top / "data", "--to", top / "unpacked data")
            packed = str(top / "unpacked data")
        records_travel(top)
        _, missing = call("ledger", "--missing", "paper")
        print(missing.strip())
        for name in names or [line.split()[0] for line in listed.splitlines()]:
            if not data and name != "tk-errata":
                skipped.append(name)
                continue
            print(f"{name}: {exercise(name, top / name, data, packed)}", flush=True)
    if skipped:
        print(f"Skipped, since NTKLAB_DATA names no data: {', '.join(skipped)}.")
    versions = [f"{n} {importlib.metadata.version(n)}" for n in FIVE]
    print(f"With python {sys.version.split()[0]}, {', '.join(versions)}.")
    return int(bool(foreign))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

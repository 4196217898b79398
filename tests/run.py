"""`make test`: style, notebooks, examples in docstrings, units, chapters and site, in order.

It stops at the first step that fails.

The last lines say how many tests ran, how long each part took, and what was skipped and why.
In CI (the variable CI is set) nothing may be skipped.
"""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "_build" / "test-results"
PYTHON = sys.executable
# A worker that crashes fails the step; replaced by another, it can leave xdist waiting for ever.
WORKERS = [f"--numprocesses={min(os.cpu_count() or 1, 4)}", "--max-worker-restart=0"]
STEPS = {
    "style": [
        [PYTHON, "-m", "ruff", "check", "."],
        [PYTHON, "-m", "ruff", "format", "--check", "."],
    ],
    "notebooks": [[PYTHON, "book/_tools/notebooks.py", "--check"]],
    "examples": ["pytest", "ntklab", "--doctest-modules"],
    # A file stays with one worker, so that what it compiled is compiled once.
    "unit": ["pytest", "tests/unit", *WORKERS, "--dist=loadfile"],
    "chapters": ["pytest", "tests/chapters", *WORKERS, "--dist=loadgroup"],
    "site": ["pytest", "tests/site"],
}


def main() -> int:
    """Run the steps; 0 when all passed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in RESULTS.glob("*.xml"):
        old.unlink()
    started, lines, skipped = time.monotonic(), [], Counter()
    for number, (name, step) in enumerate(STEPS.items(), 1):
        print(f"\n== {number} of {len(STEPS)}: {name}", flush=True)
        before = time.monotonic()
        ok = run_pytest(name, step[1:]) if step[0] == "pytest" else run_commands(step)
        counts, reasons = read_results(RESULTS / f"{name}.xml")
        skipped += reasons
        seconds = time.monotonic() - before
        lines.append(f"{name:10} {'passed' if ok else 'FAILED':7} {seconds:6.0f} s  {counts}")
        if not ok:
            break
    failed = "FAILED" in lines[-1] or forbidden(skipped)
    print("\n" + "\n".join(lines))
    for reason, times in skipped.items():
        print(f"skipped {times}: {reason}")
    if forbidden(skipped):
        print("Skipped tests are failures in CI.")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{'FAILED' if failed else 'All passed'} in {minutes} min {seconds:02d} s.")
    return int(failed)


def forbidden(skipped: Counter) -> bool:
    """Whether something was skipped where nothing may be."""
    return bool(skipped) and bool(os.environ.get("CI"))


def run_commands(commands: list[list[str]]) -> bool:
    """Run all commands of a step; true when each succeeded."""
    return all([subprocess.run(command, cwd=ROOT).returncode == 0 for command in commands])


def run_pytest(name: str, arguments: list[str]) -> bool:
    """Run the tests of one folder in a process of its own."""
    command = [PYTHON, "-m", "pytest", *arguments, "-q", "--durations=5"]
    command.append(f"--junitxml={RESULTS / name}.xml")
    return subprocess.run(command, cwd=ROOT).returncode == 0


def read_results(path: Path) -> tuple[str, Counter]:
    """The counts in words, and why tests were skipped."""
    if not path.is_file():
        return "", Counter()
    suite = ET.parse(path).getroot().find("testsuite")
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    words = ", ".join(f"{n} {key}" for key, n in counts.items() if n or key == "tests")
    reasons = Counter(case.get("message") for case in suite.iter("skipped"))
    return words, reasons


if __name__ == "__main__":
    sys.exit(main())

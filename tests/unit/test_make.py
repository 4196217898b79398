"""The Makefile and what it calls: set-up from nothing, and one sentence where that cannot be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book" / "_tools" / "environment.sh"
TOOLS = ("sh", "grep", "rm", "touch")


def run(*arguments, **variables):
    """Call environment.sh; only the given variables and a short PATH are set."""
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, arguments)],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with the few tools that the script needs and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return str(folder)


@pytest.mark.parametrize("asked", [[], ["3.13"]])
def test_no_python_is_one_sentence(tmp_path, bare_path, asked):
    """Which Python is needed, and how to name one."""
    done = run(tmp_path / "venv", "lock", "stamp", *asked, PATH=bare_path, HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"Python {asked[0] if asked else '3.11, 3.12 or 3.13'} is needed")
    assert not (tmp_path / "venv").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    """What is no virtual environment is not removed."""
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    done = run(folder, "lock", "stamp", PYTHON=sys.executable, HOME=str(tmp_path))
    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert (folder / "letter.txt").read_text() == "mine"


def test_stamp_only_after_a_whole_installation(tmp_path):
    """A failed installation leaves no stamp, not even an old one; a good one leaves its own."""
    folder, lock = tmp_path / "venv", tmp_path / "lock.txt"
    stamp = folder / ".installed-1"
    settings = {"PYTHON": sys.executable, "HOME": str(tmp_path), "PIP_NO_INDEX": "1"}
    settings["PIP_CONFIG_FILE"] = os.devnull

    lock.write_text("# nothing to install\n")
    done = run(folder, lock, stamp, **settings)
    assert done.returncode == 0, done.stderr
    assert stamp.is_file()

    lock.write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    done = run(folder, lock, folder / ".installed-2", **settings)
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert not list(folder.glob(".installed-*"))


def test_the_lock_has_hashes_and_no_tensorflow():
    """What both commands install, and what they never do."""
    lock = (ROOT / "requirements.txt").read_text()
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)
    assert {"jax", "jupyter-book", "neural-tangents", "frozendict", "playwright"} <= set(names)
    assert not [name for name in names if name.startswith(("tensorflow", "tf2jax", "tf-"))]
    blocks = re.split(r"^(?=[A-Za-z0-9_.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_target_is_explained():
    """`make help` lists each target that a person may call."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    for target in targets:
        assert re.search(rf"^  {target} ", done.stdout, re.MULTILINE), target


def test_continuous_integration_stops_at_the_first_error():
    """The script is strict bash, and the workflow calls the same commands as a person."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert script.rstrip().endswith("make test")
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert {".ci/run", "make book", "make colab"} <= set(steps)

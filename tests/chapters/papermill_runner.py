"""Run one notebook as a reader's machine would: papermill, in a folder of its own, this Python."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "ntklab-test"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def environment(folder: Path) -> dict[str, str]:
    """The package from this checkout, capped thread pools, and no kernel but this Python's."""
    kernel = folder / "jupyter" / "kernels" / KERNEL
    kernel.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    env = {name: value for name, value in os.environ.items() if name != "NTKLAB_BOOK"}
    env |= dict.fromkeys(_THREADS, str(min(2, os.cpu_count() or 1)))
    env |= {"PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(folder / "jupyter")}
    env |= {"IPYTHONDIR": str(folder / "ipython"), "JAX_PLATFORMS": "cpu"}
    return env


def run(notebook: Path, overrides: dict, folder: Path) -> float:
    """Execute a copy of `notebook` in `folder`, and return the seconds that it took.

    Raises:
      AssertionError: a cell failed; the message ends with its traceback.
    """
    work = folder / "work"
    work.mkdir()
    shutil.copy(notebook, work)
    (folder / "parameters.yaml").write_text(yaml.safe_dump(overrides, sort_keys=False))
    copy, out = str(work / notebook.name), str(work / "out.ipynb")
    command = [sys.executable, "-m", "papermill", copy, out]
    command += ["-k", KERNEL, "-f", str(folder / "parameters.yaml"), "--cwd", str(work)]
    command += ["--no-progress-bar", "--execution-timeout", "600"]
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=work, env=environment(folder), capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - start
    said = _COLOUR.sub("", done.stderr)
    assert done.returncode == 0, f"{notebook.name} failed:\n{said[-3000:]}"
    assert "Passed unknown parameter" not in said, said
    return seconds

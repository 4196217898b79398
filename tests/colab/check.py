"""`make colab`: each committed notebook as Colab would run it, with Colab's versions.

A copy of the notebook runs from an empty folder, at quick size, with its setup cell twice in a
row. The package comes from this checkout, as the public address may not exist yet. No package of
the runtime may have changed at the end.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import book_config  # of book/_tools, which `make colab` puts on PYTHONPATH
import nbformat
import sizes
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
ADDED = {"neural-tangents", "frozendict"}  # what the setup cell may install


def installed() -> dict[str, str]:
    """Every installed package and its version."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "list",
        "--format=freeze",
        "--disable-pip-version-check",
    ]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)


def prepare(chapter: book_config.Chapter):
    """The committed notebook at quick size, with its setup cell twice."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    notebook = sizes.inject(notebook, sizes.overrides(chapter.name, "quick"))
    place = next(i for i, c in enumerate(notebook.cells) if "setup" in c.metadata.get("tags", []))
    again = nbformat.from_dict(notebook.cells[place])
    again["id"] = "setup-again"
    notebook.cells.insert(place + 1, again)
    return notebook


def run(chapter: book_config.Chapter) -> str | None:
    """Run one notebook; what failed, or None."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"metadata": {"path": folder}}
        client = NotebookClient(prepare(chapter), timeout=600, resources=settings)
        try:
            client.execute()
        except CellExecutionError as error:
            return re.sub(r"\x1b\[[0-9;]*m", "", str(error))[-3000:]
    return None


def main() -> int:
    """Run all notebooks; 0 when all passed and nothing of the runtime changed."""
    os.environ["NTKLAB_SOURCE"] = str(ROOT)
    for name in ("NTKLAB_BOOK", "PYTHONPATH"):
        os.environ.pop(name, None)
    before, status = installed(), 0
    for chapter in book_config.chapters():
        started = time.monotonic()
        problem = run(chapter)
        print(f"{chapter.name}: {problem or 'passed'} in {time.monotonic() - started:.0f} s")
        status |= problem is not None
    after = installed()
    changed = sorted(n for n in {*before, *after} - ADDED if before.get(n) != after.get(n))
    if changed:
        print(f"The setup cell changed packages of the runtime: {', '.join(changed)}.")
        status = 1
    names = ("python", "jax", "flax", "optax", "numpy", "altair")
    versions = after | {"python": ".".join(map(str, sys.version_info[:3]))}
    print("With " + ", ".join(f"{name} {versions[name]}" for name in names) + ".")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""The first code cell of every chapter, from one template.

It runs on Colab, in a local checkout and from a wheel. It installs only what is missing, without
dependencies, so that nothing which the runtime brings is ever changed. Running it again does
nothing new.
"""

from pathlib import Path

from book_config import ROOT, repository_url

_TEMPLATE = """\
import importlib, importlib.util, os, pathlib, subprocess, sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.90")
source = os.environ.get("NTKLAB_SOURCE", "git+@URL@")
places = [pathlib.Path(source), pathlib.Path.cwd(), *pathlib.Path.cwd().parents]
checkouts = [str(p.resolve()) for p in places if (p / "ntklab" / "__init__.py").is_file()]
sys.path[:0] = [path for path in checkouts[:1] if path not in sys.path]
wanted = {"ntklab": source, "neural_tangents": "neural-tangents==0.6.5", "frozendict": "frozendict"}
missing = [spec for name, spec in wanted.items() if importlib.util.find_spec(name) is None]
pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", *missing]
_ = missing and subprocess.run(pip, check=True) and importlib.invalidate_caches()
import ntklab
ntklab.doctor()"""


def setup_cell(root: Path = ROOT) -> str:
    """The text of the setup cell, for the public address of `_config.yml`."""
    return _TEMPLATE.replace("@URL@", repository_url(root))

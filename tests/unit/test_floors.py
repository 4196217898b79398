"""The shape of the code: floors, weight of imports, sizes of files, no local paths."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ntklab"
#: A module imports from lower floors, and from its own folder.
FLOORS = {
    "_common": -2,
    "_compact": -1,
    "_deadline": -1,
    "_memory": -1,
    "_typing": -1,
    "_pack": -1,
    "_unpack": 0,
    "_nt": 0,
    "data": 0,
    "nets": 0,
    "dynamics": 0,
    "landscape": 0,
    "ledger": 0,
    "kernels": 1,
    "predictors": 2,
    "attacks": 3,
    "certificates": 3,
    "training": 4,
    "features": 4,
    "papers": 5,
    "_doctor": 6,
    "gpu_check": 6,
    "__main__": 7,
}
#: Apart from the floors: loads lazily, or is for the book alone.
APART = {"__init__", "charts"}
#: What a module may import when it is loaded; PyYAML comes with flax.
LIGHT = {"jax", "flax", "optax", "numpy", "scipy", "yaml", "ntklab"} | set(sys.stdlib_module_names)
MODULES = sorted(PACKAGE.rglob("*.py"))
WATCHED = [
    path
    for folder in ("ntklab", "tests", "book/_tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FILE_LINES, FUNCTION_LINES = 400, 40
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
LOCAL_PATH = re.compile(r"(?<![\w.~$)}-])/(work|tmp|root|home/[a-z]\w*|Users/[a-z]\w*)/")


def top(path):
    """The name, on its floor, of the module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree, path):
    """Every module that a tree imports, as (dotted name, node); `from a import b` gives a.b."""
    package = ["ntklab", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            text = ast.unparse(node.args[0]).lstrip("f").strip("'\"")
            yield text, node


def faults_of_floors(path, text):
    """What a module imports that it may not, in words."""
    own, faults = top(path), []
    for name, node in imported(ast.parse(text), path):
        parts = name.split(".")
        if parts[0] != "ntklab" or own in APART:
            continue
        other = parts[1] if len(parts) > 1 else "__init__"
        if other not in FLOORS and other not in APART:
            faults.append(f"line {node.lineno}: ntklab.{other} is on no floor; add it to FLOORS")
        elif other != own and FLOORS.get(other, 99) >= FLOORS[own]:
            faults.append(f"line {node.lineno}: {own} may not import ntklab.{other}")
    return faults


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_floors(path):
    assert top(path) in FLOORS or top(path) in APART, "on no floor; add it to FLOORS"
    assert faults_of_floors(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kernels/a.py", "from ntklab.predictors import KernelRegression"),
        ("kernels/a.py", "from ntklab import predictors"),
        ("kernels/a.py", "def f():\n    import ntklab.attacks.gradient"),
        ("kernels/a.py", "from ..papers import EXPERIMENTS"),
        ("data/a.py", "from ntklab.ledger import store"),
        ("papers/a.py", "from ntklab import charts"),
        ("papers/a.py", "importlib.import_module('ntklab._doctor')"),
        ("papers/a.py", "import ntklab"),
        ("papers/a.py", "from ntklab.novelty import x"),
    ],
)
def test_the_floors_can_be_broken(module, line):
    assert len(faults_of_floors(PACKAGE / module, line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "from ntklab.kernels.gram import blocks",
        "from .analytic import FullyConnected",
        "from ntklab._typing import Array",
        "from ntklab import data",
        "import jax",
    ],
)
def test_lower_floors_and_the_own_folder_are_free(line):
    assert faults_of_floors(PACKAGE / "kernels/a.py", line) == []


def loaded_with(tree):
    """The import statements that run when a module is loaded, outside any `try`."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if top(p) != "charts"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_loading_a_module_needs_only_the_declared_packages(path):
    needed = loaded_with(ast.parse(path.read_text()))
    assert {name for name in needed if name.split(".")[0] not in LIGHT} == set()


def lines_of_code(function):
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documentation = first.end_lineno - first.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - documentation


@pytest.mark.parametrize("path", WATCHED, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, FUNCTION)]
    long = {f.name: lines_of_code(f) for f in functions if lines_of_code(f) > FUNCTION_LINES}
    assert long == {}


def test_a_long_function_is_seen():
    body = "\n".join(["    x = 1"] * 40)
    tree = ast.parse(f'def f():\n    """Text,\n\n    more text."""\n{body}\n')
    assert lines_of_code(tree.body[0]) == 41


def committed():
    """The files that git knows or would add; all of them where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    command += ["--exclude-standard"]
    if not (ROOT / ".git").exists():
        made = {".venv", "__pycache__", "_build", ".cache", ".pytest_cache", ".ruff_cache"}
        files = (p for p in ROOT.rglob("*") if made.isdisjoint(p.relative_to(ROOT).parts))
        return [p for p in files if p.is_file()]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine():
    files = committed()
    assert PACKAGE / "__init__.py" in files
    guilty = {}
    for path in files:
        if path.suffix in {".png", ".woff", ".woff2", ".gz"}:
            continue
        if match := LOCAL_PATH.search(path.read_text(errors="ignore")):
            guilty[str(path.relative_to(ROOT))] = match.group()
    assert guilty == {}


@pytest.mark.parametrize("where", ["work", "tmp", "root", "home/ada"])
def test_a_path_of_one_machine_is_seen(where):
    assert LOCAL_PATH.search(f'open("/{where}/x")') and LOCAL_PATH.search(f"see /{where}/y.")
    assert not LOCAL_PATH.search(f"https://example.org/{where}/x")

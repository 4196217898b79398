"""What `import ntklab` costs, and what it and a run do without."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest
from five_packages import FIVE, normal, required

import ntklab
from ntklab._pack import pack

#: What `import ntklab` must not bring in.
HEAVY = (
    "tensorflow altair neural_tangents flax sklearn pandas pooch requests tqdm matplotlib".split()
)
#: What no run of an experiment may need.
OPTIONAL = "altair sklearn pooch tqdm pandas matfree neural_tangents tensorflow jaxtyping beartype"
OPTIONAL = OPTIONAL.split()
PARTS = sorted(set(ntklab._SUBMODULES) - {"charts"})

BLOCK = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""

#: Every module but those of `shown` looks as if it were not installed.
ALONE = """
import sys
from importlib.machinery import PathFinder

class Alone(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name[0] == "_" or name.split(".")[0] in {shown!r}:
            return PathFinder.find_spec(name, path, target)

sys.meta_path = [Alone if finder is PathFinder else finder for finder in sys.meta_path]
"""


def python(code, *flags, cwd=None, **environment):
    """Run code in a fresh interpreter on this checkout."""
    top = os.path.dirname(os.path.dirname(ntklab.__file__))
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": top} | environment
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=300)


def import_times(code):
    """Module -> cumulative seconds, as `python -X importtime` reports them."""
    done = python(code, "-X", "importtime")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)", done.stderr)
    return {name: int(microseconds) / 1e6 for microseconds, name in rows}


def test_importing_ntklab_brings_nothing_heavy():
    loaded = {name.split(".")[0] for name in import_times("import ntklab")}
    assert "ntklab" in loaded and loaded.isdisjoint(HEAVY)


def test_importing_ntklab_costs_less_than_a_third_of_a_second_beyond_jax():
    # The least of three: other work on the machine can only slow an import down.
    assert min(import_times("import jax, ntklab")["ntklab"] for _ in range(3)) < 0.3


def test_the_parts_load_without_the_optional_packages():
    code = f"import ntklab\nfor part in {PARTS!r}: getattr(ntklab, part)"
    done = python(BLOCK + code)
    assert done.returncode == 0, done.stderr


def test_the_parts_bring_no_optional_package():
    parts = f"for part in {PARTS!r}: getattr(ntklab, part)"
    code = f"import ntklab, sys, json\n{parts}\nprint(json.dumps(list(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(python(code).stdout)}
    assert loaded.isdisjoint({*HEAVY, *OPTIONAL} - {"flax", "jaxtyping", "beartype"})


@pytest.mark.parametrize("name", sorted(ntklab.papers.EXPERIMENTS))
def test_an_experiment_loads_without_the_optional_packages(name):
    done = python(f"{BLOCK}import ntklab.papers\nntklab.papers.EXPERIMENTS[{name!r}]")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed_alone():
    """Code that hides every module but those of five packages, what they require, and Python's."""
    names = required()
    modules = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if names & {normal(owner) for owner in owners}
    }
    assert modules >= set(FIVE) and modules.isdisjoint(OPTIONAL)
    shown = sorted(modules | set(sys.stdlib_module_names) | {"ntklab"})
    return ALONE.format(shown=shown)


COMMANDS = {
    "run": ["run", "tk-errata", "--size", "quick", "--out", "out", "--minutes", "0"],
    "ledger": ["ledger", "--missing", "paper"],
    "pack": ["pack", "file", "--out", "parts", "--part-mib", "1"],
    "unpack": ["unpack", "parts", "--to", "there"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_where_only_the_five_packages_are(installed_alone, tmp_path, command):
    (tmp_path / "file").write_text("something")
    if command == "unpack":
        pack([tmp_path / "file"], tmp_path / "parts", 1)
    code = f"from ntklab.__main__ import main\nsys.exit(main({COMMANDS[command]!r}))"
    done = python(installed_alone + code, cwd=tmp_path)
    assert done.returncode == (75 if command == "run" else 0), done.stderr
    if command == "run":
        assert "1 of 2 seeds are done" in done.stdout


def test_an_unknown_part_names_those_there_are():
    with pytest.raises(AttributeError, match=r"it has .*kernels"):
        ntklab.nothing  # noqa: B018

"""What `import ntklab` costs, and what it and a run do without."""

import json
import os
import re
import subprocess
import sys

import pytest

import ntklab

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


@pytest.mark.slow
def test_a_run_needs_no_optional_package(tmp_path):
    code = "from ntklab.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["run", "tk-errata", "--size", "quick", "--out", "out"]
    done = python(f"{BLOCK}sys.argv[1:] = {arguments!r}\n{code}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no record" in done.stdout


def test_an_unknown_part_names_those_there_are():
    with pytest.raises(AttributeError, match=r"it has .*kernels"):
        ntklab.nothing  # noqa: B018

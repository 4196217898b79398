"""Every chapter runs from its committed notebook, at quick size, on real data."""

import os
from pathlib import Path

import nbformat
import papermill_runner
import pytest
import sizes
from book_config import chapters

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = chapters(ROOT)
DATA = ("mnist", "fashion_mnist", "cifar10")


def asks_for_data(chapter) -> bool:
    text = chapter.source.read_text(encoding="utf-8")
    return any(f'"{name}"' in text for name in DATA)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=[c.name for c in CHAPTERS])
def test_chapter_runs_at_quick_size(chapter, tmp_path, request):
    if asks_for_data(chapter) and not os.environ.get("NTKLAB_DATA"):
        pytest.skip("NTKLAB_DATA names no folder with the data sets; chapters run on real data.")
    overrides = sizes.overrides(chapter.name, "quick", ROOT)
    seconds = papermill_runner.run(chapter.notebook, overrides, tmp_path)
    request.node.user_properties.append((chapter.name, seconds))  # for the summary
    made = nbformat.read(tmp_path / "work" / "out.ipynb", as_version=4)
    injected = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert [cell.source.rstrip("\n") for cell in injected] == [sizes.injected_code(overrides)]


def notebook(folder: Path, *cells: str) -> Path:
    new = nbformat.v4.new_code_cell
    parameters = new("n = 1", metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[parameters, *map(new, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    path = folder / "sample.ipynb"
    nbformat.write(made, path)
    return path


def test_a_failing_cell_fails_with_its_traceback(tmp_path):
    path = notebook(tmp_path, "assert n == 2, f'n is {n}'")
    with pytest.raises(AssertionError, match="n is 7"):
        papermill_runner.run(path, {"n": 7}, tmp_path)


def test_overrides_and_environment_reach_the_cells(tmp_path):
    checks = "import os, sys, ntklab; from pathlib import Path\n"
    checks += "assert n == 7 and os.environ['OMP_NUM_THREADS'] in '12'\n"
    checks += f"assert Path(ntklab.__file__).parents[1] == Path({str(ROOT)!r})\n"
    checks += "assert Path.cwd().name == 'work' and 'NTKLAB_BOOK' not in os.environ\n"
    checks += f"import sys; assert sys.prefix == {os.fspath(__import__('sys').prefix)!r}"
    path = notebook(tmp_path, checks)
    assert 0 < papermill_runner.run(path, {"n": 7}, tmp_path) < 600


def test_a_parameter_that_papermill_would_ignore_fails(tmp_path):
    with pytest.raises(AssertionError, match="unknown parameter: m"):
        papermill_runner.run(notebook(tmp_path, "print(n)"), {"m": 7}, tmp_path)

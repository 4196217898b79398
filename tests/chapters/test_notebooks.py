"""The committed pairs, the command that keeps them in step, and the setup cell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebooks
import pytest
from book_config import repository_url
from setup_cell import setup_cell
from small_book import CODE

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = notebooks.chapters(ROOT)
NAMES = [chapter.name for chapter in CHAPTERS]
MYST = re.compile(
    r"\{[A-Za-z][\w:.-]*\}`"  # a role
    r"|^\s*(?:`{3,}|~{3,}|:{3,})\s*\{"  # a directive
    r"|^:{3,}|^\([\w-]+\)=|^%|^\+\+\+|\{\{",  # a colon fence, a target, a comment, a break
    re.MULTILINE,
)


def prose(text: str) -> str:
    """Markdown without its code, in which braces and backticks mean themselves."""
    text = re.sub(r"^( *)(`{3,}|~{3,})(?!\s*\{).*?^\1\2`*\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"(?<![}`])(`{1,2})(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.S)


def leftovers(notebook) -> list[str]:
    cells = [prose(c.source) for c in notebook.cells if c.cell_type == "markdown"]
    return [found for text in cells for found in MYST.findall(text)]


@pytest.mark.parametrize(
    "text",
    ["see {eq}`a`", "```{note}\nx\n```", ":::{tip}\n:::", "(a)=\n# b", "% c", "{{ d }}", "+++"],
)
def test_the_search_for_leftovers_finds_them(text):
    cell = nbformat.v4.new_markdown_cell("Some `{eq}` code.\n\n" + text)
    assert leftovers(nbformat.v4.new_notebook(cells=[cell]))


# --- the committed pairs --------------------------------------------------------------------


def test_the_book_has_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_committed_notebook_is_in_step(chapter):
    assert chapter.notebook.is_file(), "run `python book/_tools/notebooks.py`"
    assert chapter.notebook.read_text(encoding="utf-8") == notebooks.notebook_text(chapter, ROOT)


def test_no_notebook_is_left_without_its_source():
    assert notebooks.orphans(ROOT) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_no_myst_survives(chapter):
    assert leftovers(nbformat.read(chapter.notebook, as_version=4)) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_notebook_has_no_outputs_and_one_parameters_cell(chapter):
    cells = nbformat.read(chapter.notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for tag in ("setup", "parameters"):
        assert sum(tag in cell.metadata.get("tags", []) for cell in code) == 1


# --- the command ----------------------------------------------------------------------------


def run(book, *arguments) -> int:
    return notebooks.main([*arguments, "--root", str(book.root)])


def test_write_then_check_then_a_change_is_named(book, capsys):
    book.chapter("book/part/one", CODE)
    assert run(book) == 0
    assert run(book, "--check") == 0
    assert "2 notebooks are in step" in capsys.readouterr().out
    book.chapter("book/part/one", CODE + "\nMore.\n")
    assert run(book, "--check") == 1
    said = capsys.readouterr().out
    assert "book/part/one.ipynb is out of step with book/part/one.md" in said
    assert "two" not in said


def test_check_notices_an_edited_notebook_and_writes_nothing(book):
    book.chapter("book/part/one", CODE)
    run(book)
    path = book.root / "book/part/one.ipynb"
    edited = path.read_text().replace("First.", "Worst.")
    path.write_text(edited)
    assert run(book, "--check") == 1
    assert path.read_text() == edited


def test_a_notebook_without_a_chapter_is_named(book, capsys):
    book.chapter("book/part/one", CODE)
    run(book)
    book.write("book/part/old.ipynb", "{}")
    assert run(book, "--check") == 1
    assert "book/part/old.ipynb belongs to no chapter" in capsys.readouterr().out


def test_an_error_is_one_line_and_leaves_no_file(book, capsys):
    book.chapter("book/part/one", "{foo}`x`")
    assert run(book) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "book/part/one.md:" in error
    assert not list(book.root.rglob("*.ipynb")) and not list(book.root.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("_toc.yml", "root: book/none\n", "lists 'book/none'"),
        ("_config.yml", "bibtex_bibfiles: [book/references.bib]\n", "has no address"),
        ("_config.yml", "- x\n", "must hold a mapping"),
        ("_config.yml", "title: x\n", "names no bibliography"),
    ],
)
def test_wrong_settings_are_one_sentence(book, capsys, path, text, message):
    book.chapter("book/part/one", CODE)
    book.write(path, text)
    assert run(book) == 1
    assert message in capsys.readouterr().err


# --- the setup cell -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ntklab.doctor()", "pass", "not its template"),
        (":tags: [setup]", ":tags: [other]", "0 are"),
    ],
)
def test_a_setup_cell_that_differs_is_refused(book, capsys, old, new, message):
    path = book.chapter("book/part/one", CODE)
    path.write_text(path.read_text().replace(old, new))
    assert run(book, "--check") == 1
    assert message in capsys.readouterr().err


def test_fix_writes_the_cell_for_a_new_address(book):
    path = book.chapter("book/part/one", CODE)
    before = path.read_text()
    book.address("https://github.com/fork/lab")
    assert run(book) == 1
    assert run(book, "--fix") == 0
    assert path.read_text() == before.replace("Some-One/lab", "fork/lab")


def test_fix_fills_an_empty_cell(book):
    path = book.chapter("book/part/one", CODE)
    path.write_text(path.read_text().replace("\n" + setup_cell(book.root), ""))
    assert run(book, "--fix") == 0
    assert setup_cell(book.root) in path.read_text()


PIP = """\
import os, pathlib, sys
open(os.environ["PIP_CALLS"], "a").write(" ".join(sys.argv[1:]) + chr(10))
place = pathlib.Path(__file__).resolve().parents[1]
for name in ("ntklab", "neural_tangents", "frozendict"):
    (place / f"{name}.py").write_text("def doctor(): print('all is well')")
"""


def execute(folder: Path, python: str, *paths: Path, **environment) -> tuple[str, str]:
    """Run the setup cell twice in one process, in `folder`; what it printed, what pip was told."""
    stub = folder / "stub" / "pip"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("")
    (stub / "__main__.py").write_text(PIP)
    code = f"cell = {setup_cell(ROOT)!r}\nexec(cell, spot := {{}})\nexec(cell, spot)\n"
    code += "import sys; print(len(sys.path) - len(set(sys.path)))"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NTKLAB", "PYTHON", "XLA"))}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, [stub.parent, *paths]))}
    env |= {"PIP_CALLS": str(folder / "calls"), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([python, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = folder / "calls"
    return done.stdout, calls.read_text() if calls.exists() else ""


def test_setup_installs_nothing_when_all_is_there_and_runs_twice(tmp_path):
    out, calls = execute(tmp_path, sys.executable, ROOT)
    assert calls == ""
    assert out.endswith("\n0\n")  # no path was added twice


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python with no packages at all: everything is missing there."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


def test_setup_installs_what_is_missing_once_and_without_dependencies(tmp_path, bare_python):
    out, calls = execute(tmp_path, bare_python)
    url = repository_url(ROOT)
    assert calls == (f"install -q --no-deps git+{url} neural-tangents==0.6.5 frozendict\n")
    assert out.count("all is well") == 2


def test_setup_takes_a_wheel_from_the_environment(tmp_path, bare_python):
    _, calls = execute(tmp_path, bare_python, NTKLAB_SOURCE="dist/ntklab-1.whl")
    assert calls.split()[3] == "dist/ntklab-1.whl"


@pytest.mark.parametrize("named", [True, False])
def test_setup_uses_a_checkout_without_installing_it(tmp_path, bare_python, named):
    checkout = tmp_path / "checkout"
    (checkout / "ntklab").mkdir(parents=True)
    (checkout / "ntklab" / "__init__.py").write_text("def doctor(): print('checkout')")
    folder = tmp_path / "elsewhere" if named else checkout / "book" / "part"
    folder.mkdir(parents=True)
    named = {"NTKLAB_SOURCE": str(checkout)} if named else {}
    out, calls = execute(folder, bare_python, **named)
    assert "ntklab" not in calls.split() and "neural-tangents==0.6.5" in calls
    assert out.count("checkout") == 2


def test_the_setup_cell_is_short_and_touches_no_library_of_the_runtime():
    cell = setup_cell(ROOT)
    assert len(cell.splitlines()) < 15
    assert cell.index("XLA_PYTHON_CLIENT") < cell.index("import ntklab")
    assert not re.search(r"\b(jax|jaxlib|flax|numpy)\b", re.sub(r"#.*", "", cell))

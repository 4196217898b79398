"""The parameters cell, the overrides of `sizes.yaml`, and papermill's two traps."""

import nbformat
import notebooks
import pytest
import sizes
import yaml
from book_config import chapters
from papermill.parameterize import parameterize_notebook
from papermill.translators import PythonTranslator

ROOT = notebooks.ROOT
CHAPTERS = chapters(ROOT)
PARAMETERS = 'n = 10\neps = 0.3\nname = "a"\nflag = True\nsteps = [1, 2]'
USE = "print(n, eps, name, flag, steps)"


def made(*cells: str, parameters: str = PARAMETERS):
    """A notebook: the parameters cell, the given cells, and one that reads every parameter."""
    new = nbformat.v4.new_code_cell
    first = new(parameters, metadata={"tags": ["parameters"]})
    rest = [new(cell, metadata={"tags": []}) for cell in (*cells, USE)]
    return nbformat.v4.new_notebook(cells=[first, *rest], metadata={"papermill": {}})


# --- the book -------------------------------------------------------------------------------


def test_the_committed_sizes_fit_the_chapters():
    table = sizes.load_sizes(root=ROOT)
    assert set(table) == {chapter.name for chapter in CHAPTERS}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=[c.name for c in CHAPTERS])
def test_every_parameter_of_a_chapter_reaches_its_cells(chapter):
    values = sizes.overrides(chapter.name, "quick", ROOT)
    notebook = nbformat.read(chapter.notebook, as_version=4)
    assert sizes.problems(notebook, values) == []
    assert sizes.problems(chapter.source.read_text(encoding="utf-8"), values) == []


# --- the parameters cell --------------------------------------------------------------------


def test_parameters_are_read_with_their_types():
    assert sizes.parameters(made()) == {
        "n": 10, "eps": 0.3, "name": "a", "flag": True, "steps": [1, 2],
    }  # fmt: skip


def test_comments_annotations_and_negative_numbers_are_fine():
    text = "a: int = -1  # images\n\n# a line\nb = -1e-3"
    assert sizes.parameters(made(parameters=text)) == {"a": -1, "b": -1e-3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n = 2 * 5", "n must be a number"),
        ("n = (1, 2)", "n must be a number"),
        ("n = None", "n must be a number"),
        ("n = {'a': 1}", "n must be a number"),
        ("n = 1\nn = 2", "assigns n twice"),
        ("a = b = 1", "lines `name = value` only"),
        ("a, b = 1, 2", "lines `name = value` only"),
        ("import os", "lines `name = value` only"),
        ("n: int", "lines `name = value` only"),
        ("n = ", "not plain Python"),
    ],
)
def test_a_parameters_cell_that_is_more_is_refused(text, message):
    with pytest.raises(sizes.SizesError, match=message):
        sizes.parameters(made(parameters=text))


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_parameters_cell(count):
    notebook = made()
    notebook.cells = [notebook.cells[0]] * count + notebook.cells[1:]
    with pytest.raises(sizes.SizesError, match=f"not {count}"):
        sizes.parameters(notebook)


# --- the traps ------------------------------------------------------------------------------


def test_a_sound_notebook_has_no_problems():
    assert sizes.problems(made("m = n + 1"), {"n": 3}) == []


def test_trap_one_an_unknown_name_is_found():
    (found,) = sizes.problems(made(), {"n_train": 3})
    assert "n_train is overridden" in found and "papermill would ignore it" in found


@pytest.mark.parametrize(
    "cell",
    [
        "n = 3",
        "n += 3",
        "n: int = 3",
        "a, (b, *n) = 1, (2, 3)",
        "for n in range(3): pass",
        "for i, n in enumerate('ab'): pass",
        "with open('x') as n: pass",
        "if (n := 3): pass",
        "print([n := i for i in range(3)])",
        "import numpy as n",
        "import n.a",
        "from a import n",
        "def n(): pass",
        "class n: pass",
        "try: pass\nexcept OSError as n: pass",
        "match 3:\n    case n: pass",
        "match [3]:\n    case [*n]: pass",
        "match {}:\n    case {**n}: pass",
        "del n",
        "def f():\n    global n\n    n = 3",
        "def f(a=(n := 3)): pass",
        "if True:\n    while False:\n        n = 3",
        "lambda a=(n := 3): a",
        "class A(n := object): pass",
    ],
)
def test_trap_two_every_way_to_assign_again_is_found(cell):
    (found,) = sizes.problems(made(cell), {"n": 5})
    assert "Code cell 2 assigns the parameter n again" in found


@pytest.mark.parametrize(
    "cell",
    [
        "m = n",
        "def f(n): return n",
        "def f():\n    n = 3\n    return n",
        "a = [n for n in range(3)]",
        "a.n = 3",
        "a['n'] = 3",
        "f(n=3)",
        "g = lambda n: n",
        "class A:\n    n = 3",
        "def f():\n    def g():\n        n = 1\n    return g",
    ],
)
def test_what_only_looks_like_an_assignment_is_left_alone(cell):
    assert sizes.problems(made(cell), {"n": 5}) == []


def test_an_assignment_before_the_parameters_cell_is_found_too():
    notebook = made()
    notebook.cells.insert(0, nbformat.v4.new_code_cell("n = 1"))
    assert "Code cell 1 assigns the parameter n again" in sizes.problems(notebook)[0]


def test_a_parameter_that_nothing_reads_is_found():
    assert sizes.problems(made(parameters=PARAMETERS + "\nspare = 1")) == [
        "No later cell reads the parameter spare."
    ]


def test_a_cell_that_is_not_plain_python_is_named():
    assert sizes.problems(made("%matplotlib inline")) == [
        "Code cell 2 is not plain Python (line 1)."
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"n": 3.0}, "n is int in the parameters cell, but the override 3.0 is float"),
        ({"eps": 1}, "eps is float in the parameters cell, but the override 1 is int"),
        ({"eps": "1e-3"}, "write 1.0e-3, with a point"),
        ({"name": 1}, "name is str"),
        ({"flag": 1}, "flag is bool"),
        ({"n": True}, "n is int"),
        ({"steps": 3}, "steps is list"),
        ({"steps": [1, 2.0]}, "steps has an item that is int"),
        ({"eps": float("nan")}, "finite"),
        ({"eps": float("inf")}, "finite"),
    ],
)
def test_an_override_of_another_type_is_found(override, message):
    (found,) = sizes.problems(made(), override)
    assert message in found


# --- the file -------------------------------------------------------------------------------


@pytest.fixture
def two(book):
    """Two chapters, with a parameter each."""
    for name in ("book/part/one", "book/part/two"):
        book.chapter(name, "```{code-cell} ipython3\nprint(n, eps)\n```\n", "n = 10\neps = 0.3")
    (book.root / "tests" / "chapters").mkdir(parents=True)
    return book


GOOD = {"book/part/one": {"quick": {"n": 3}}, "book/part/two": {"quick": {"eps": 0.1}}}


def load(book, table):
    text = table if isinstance(table, str) else yaml.safe_dump(table)
    book.write(sizes.FILE, text)
    return sizes.load_sizes(root=book.root)


def test_a_good_file_is_read(two):
    assert load(two, GOOD) == GOOD
    assert sizes.overrides("book/part/two", "quick", two.root) == {"eps": 0.1}
    assert sizes.overrides("book/part/two", "book", two.root) == {}


BAD = {
    "an unknown chapter": (GOOD | {"book/part/x": {"quick": {}}}, "'book/part/x' is no chapter"),
    "a missing chapter": ({"book/part/one": {"quick": {}}}, "book/part/two is missing"),
    "an unknown size": (GOOD | {"book/part/one": {"quick": {}, "tiny": {}}}, "unknown size 'tiny'"),
    "the size of the page": (GOOD | {"book/part/one": {"quick": {}, "book": {}}}, "unknown size"),
    "no quick size": (GOOD | {"book/part/one": {"paper": {}}}, "needs an entry quick"),
    "an empty entry": (GOOD | {"book/part/one": None}, "needs an entry quick"),
    "a list of values": (GOOD | {"book/part/one": {"quick": [1]}}, "lines `name: value`"),
    "an unknown name": (GOOD | {"book/part/one": {"quick": {"m": 1}}}, "m is overridden"),
    "a wrong type": (GOOD | {"book/part/one": {"quick": {"n": 1.5}}}, "n is int"),
    "a wrong paper size": (GOOD | {"book/part/one": {"quick": {}, "paper": {"m": 1}}}, "m is over"),
    "a key given twice": ("a: 1\na: 2\n", r"sizes.yaml:1: a is given twice"),
    "no YAML": ("a: [", "not valid YAML"),
    "no mapping": ("- a\n", "must map chapters"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_sentence(two, what):
    table, message = BAD[what]
    with pytest.raises(sizes.SizesError, match=message) as caught:
        load(two, table)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_size_are_named(two):
    with pytest.raises(sizes.SizesError, match="is missing"):
        sizes.load_sizes(root=two.root)
    load(two, GOOD)
    with pytest.raises(sizes.SizesError, match="no size 'paper', only book, quick"):
        sizes.overrides("book/part/one", "paper", two.root)
    with pytest.raises(sizes.SizesError, match="is no chapter"):
        sizes.overrides("book/part/none", "quick", two.root)


# --- injection ------------------------------------------------------------------------------

VALUES = {"n": 3, "eps": 1e-05, "name": 'a "b"\n\\ é', "flag": False, "steps": [2, -1]}


def test_the_injected_text_is_papermills():
    assert sizes.injected_code(VALUES) == PythonTranslator.codify(VALUES).rstrip("\n")
    scope = {}
    exec(sizes.injected_code(VALUES), scope)
    assert {name: scope[name] for name in VALUES} == VALUES


def test_injection_stands_where_papermill_puts_it():
    ours = sizes.inject(made(), VALUES)
    theirs = parameterize_notebook(made(), VALUES, kernel_name="python3", language="python")
    assert [c.source.rstrip("\n") for c in ours.cells] == [
        c.source.rstrip("\n") for c in theirs.cells
    ]
    assert ours.cells[1].metadata["tags"] == theirs.cells[1].metadata["tags"]


def test_injection_leaves_the_original_alone():
    notebook = made()
    sizes.inject(notebook, VALUES)
    assert len(notebook.cells) == 2
    assert sizes.inject(notebook, {}) is notebook


def test_injection_into_text_makes_the_same_cells(two):
    text = (two.root / "book/part/one.md").read_text()
    new = sizes.inject(text, {"n": 3}, tags=("injected-parameters", "remove-cell"))
    before, after = sizes.code_cells(text), sizes.code_cells(new)
    assert after == [
        *before[:2],
        ("# Parameters\nn = 3", ("injected-parameters", "remove-cell")),
        before[2],
    ]
    assert sizes.problems(new) == []  # an injected cell is no second assignment


def test_at_size_reads_the_file(two):
    load(two, GOOD)
    text = (two.root / "book/part/one.md").read_text()
    assert "# Parameters\nn = 3\n```" in sizes.at_size(text, "book/part/one", "quick", two.root)
    assert sizes.at_size(text, "book/part/one", "book", two.root) == text


def test_what_cannot_reach_the_notebook_is_not_injected():
    with pytest.raises(sizes.SizesError, match="assigns the parameter n again"):
        sizes.inject(made("n = 2"), {"n": 5})
    with pytest.raises(sizes.SizesError, match="papermill would ignore it"):
        sizes.inject(made(), {"m": 5})

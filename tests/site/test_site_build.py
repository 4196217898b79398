"""The build itself, on a book of one tiny chapter: never stale, never half-done, never silent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("ntklab", "book/_tools", "book/_static", "book/references.bib", "book/ledger")
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

# A tiny chapter

{before}

```{{code-cell}} ipython3
:tags: [setup]

{setup}
```

```{{code-cell}} ipython3
:tags: [parameters]

n = 50
```

```{{code-cell}} ipython3
{code}
assert n > 0
```
"""
SLOW = """
import pathlib, time
pathlib.Path("started").touch()
time.sleep(60 if pathlib.Path("slow").exists() else 0)
"""


class Sample:
    """A copy of the tree with a book of two pages, one of them a chapter."""

    def __init__(self, root: Path):
        self.root = root
        self.chapter = root / "book" / "tiny.md"
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, root / name)
        shutil.copyfile(ROOT / "_config.yml", root / "_config.yml")
        shutil.copyfile(ROOT / "requirements.txt", root / "requirements.txt")
        toc = "format: jb-book\nroot: book/index\nchapters:\n  - file: book/tiny\n"
        (root / "_toc.yml").write_text(toc)
        (root / "book" / "index.md").write_text("# A book\n\n```{bibliography}\n```\n")
        sizes = root / "tests" / "chapters" / "sizes.yaml"
        sizes.parent.mkdir(parents=True)
        sizes.write_text("book/tiny:\n  quick: {n: 7}\n")
        (root / "ntklab" / "sample.py").write_text("def answer():\n    return 41\n")

    def write(self, code: str, before: str = "") -> None:
        """Write the chapter; its setup cell must be the book's own."""
        import setup_cell

        text = CHAPTER.format(before=before, setup=setup_cell.setup_cell(ROOT), code=code)
        self.chapter.write_text(text)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen:
        """Start a build."""
        unset = ("NTKLAB_DATA", "NTKLAB_SIZE", "NTKLAB_LEDGER", "PYTHONPATH")
        env = {k: v for k, v in os.environ.items() if k not in unset}
        command = [sys.executable, str(self.root / "book" / "_tools" / "build.py"), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=env | {"NTKLAB_SOURCE": str(self.root), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def build(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Build to the end: the exit status and all that was said."""
        with self.start(*arguments, **variables) as process:
            said, _ = process.communicate(timeout=180)
        return process.returncode, said

    def page(self, out: str = "_build") -> str:
        """The chapter's page."""
        return (self.root / out / "html" / "book" / "tiny.html").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """One copy for the tests of this file; each writes its own chapter."""
    return Sample(tmp_path_factory.mktemp("book") / "tree")


def test_page_follows_the_package(tree):
    """A changed function of ntklab runs the chapter again; nothing changed runs nothing."""
    tree.write("from ntklab import sample\nprint('the answer is', sample.answer())")
    status, said = tree.build()
    assert status == 0, said
    assert "the answer is 41" in tree.page()
    assert f"Open this page: {tree.root / '_build' / 'html' / 'index.html'}" in said

    status, said = tree.build()
    assert status == 0, said
    assert "nothing changed since" in said

    (tree.root / "ntklab" / "sample.py").write_text("def answer():\n    return 42\n")
    status, said = tree.build()
    assert status == 0, said
    assert "nothing changed since" not in said
    assert "the answer is 42" in tree.page()

    # Back to the first code: its own execution is still there, and is the one shown.
    (tree.root / "ntklab" / "sample.py").write_text("def answer():\n    return 41\n")
    status, said = tree.build()
    assert status == 0, said
    assert "nothing changed since" in said
    assert "the answer is 41" in tree.page()


def test_prose_alone_runs_nothing(tree):
    """New words appear on the page without the chapter being run."""
    tree.write("print('prose')")
    assert tree.build()[0] == 0
    tree.write("print('prose')", before="New words.")
    status, said = tree.build()
    assert status == 0, said
    assert "nothing changed since" in said
    assert "New words." in tree.page()


def test_failing_chapter_fails_the_build(tree):
    """The exit status is 1, and chapter and cell are named."""
    tree.write("raise ArithmeticError('on purpose')")
    status, said = tree.build()
    assert status == 1
    assert "book/tiny: cell 3 (\"raise ArithmeticError('on purpose')\") failed" in said
    assert "ArithmeticError: on purpose" in said
    assert "Open this page" not in said


def test_warning_fails_the_build_every_time(tree):
    """A broken reference stops the build, and again when nothing changed in between."""
    tree.write("print('links')", before="See {doc}`no_such_page`.")
    for _ in range(2):
        status, said = tree.build()
        assert status == 1
        assert "no_such_page" in said
    tree.write("print('links')")
    status, said = tree.build()
    assert status == 0, said


def test_killed_build_leaves_nothing_to_trip_over(tree):
    """SIGKILL while a cell runs: the kernel ends too, and the next call builds."""
    folder = tree.chapter.parent
    (folder / "slow").touch()
    tree.write(SLOW)
    process = tree.start()
    try:
        wait_for((folder / "started").exists)
        kernels = psutil.Process(process.pid).children()
        assert kernels
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not any(map(alive, kernels)))
    (folder / "slow").unlink()
    status, said = tree.build()
    assert status == 0, said
    assert "tiny · 3 cells in" in said


def test_build_killed_while_pages_are_made(tree):
    """SIGKILL inside Sphinx: the next call reads all pages again."""
    tree.write("print('pages')", before="Before the kill.")
    marker = tree.root / "_build" / ".unfinished"
    process = tree.start()
    try:
        wait_for(marker.exists)
        time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert marker.exists()
    tree.write("print('pages')", before="After the kill.")
    status, said = tree.build()
    assert status == 0, said
    assert "After the kill." in tree.page()
    assert not marker.exists()


def test_quick_size_overrides_and_says_so(tree):
    """The override is injected, shown and noted, and the reader's pages stay as they are."""
    tree.write("print('n is', n)")
    status, said = tree.build("--size", "quick")
    assert status == 0, said
    quick = tree.page("_build/quick/_build")
    assert "n is 7" in quick
    assert "built at quick size" in quick
    assert "quick size" in quick.split("ntklab-cost")[1][:200]
    status, said = tree.build()
    assert status == 0, said
    assert "n is 50" in tree.page()
    assert "built at quick size" not in tree.page()


def test_missing_data_are_noted(tree):
    """With no data and no network the page says that it shows the digits."""
    tree.write(
        "from ntklab import charts\ndata = charts.chapter_data('mnist', n_train=20, n_test=10)"
    )
    nowhere = "http://127.0.0.1:9"
    folder = tree.root / "no-data"
    status, said = tree.build(
        NTKLAB_CACHE=str(folder), HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere, JAX_PLATFORMS="cpu"
    )
    assert status == 0, said
    assert "No mnist for this build" in said
    assert "MNIST could not be had when this page was built" in tree.page()


def test_other_chapters_are_not_run(tree):
    """One chapter by its name; a wrong name lists the right ones."""
    tree.write("print('alone')")
    status, said = tree.build("--chapter", "tiny")
    assert status == 0, said
    assert said.rstrip().endswith("book/tiny.html")
    status, said = tree.build("--chapter", "huge")
    assert status == 1
    assert "no chapter is called 'huge'; there are: tiny." in said


@pytest.mark.parametrize(
    ("options", "asked", "sentence"),
    [
        (["-n", "-W", "--keep-going"], "", "not run with the present code"),
        ([], "book/tiny", "files that it depends on have changed since"),
    ],
)
def test_jupyter_book_alone_refuses_unrun_chapters(tree, options, asked, sentence):
    """Without the build's execution a page is refused: of the whole book, or asked for alone."""
    tree.write("print('nobody ran this')")
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", ".", *options, "--path-output", "alone"]
    env = os.environ | {"NTKLAB_SIZE": "book", "NTKLAB_PARTIAL": asked}
    done = subprocess.run(command, cwd=tree.root, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def alive(process: psutil.Process) -> bool:
    """Whether a process still runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

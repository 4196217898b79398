"""Build the book: run the chapters that need it, then make the pages.

    python book/_tools/build.py [--size book|quick|paper] [--chapter NAME] [--out FOLDER]

A chapter runs when nothing under its key is stored (see executions.py). A build that was killed
leaves either a whole execution or none, so the next call goes on where it stopped.
"""

import argparse
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parents[1]
NEEDED = ("jupyter_book", "nbclient", "ipykernel", "jupyter_cache", "altair", "vl_convert", "jax")


def main(arguments: list[str] | None = None) -> int:
    """Build, and say what was made; the exit status is 1 where something failed."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    problem = check_environment(ROOT)
    if problem:
        print(f"build: {problem}", file=sys.stderr)
        return 1
    os.environ["NTKLAB_SIZE"] = options.size
    try:
        return _build(options, started)
    except ValueError as error:  # what the book's tools say of a wrong setting or source
        print(f"build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbuild: stopped; chapters that had finished are kept.", file=sys.stderr)
        return 130


def _build(options: argparse.Namespace, started: float) -> int:
    import book_config
    import executions

    os.environ.update(executions.environment(ROOT, options.size))
    wanted = select([chapter.name for chapter in book_config.chapters(ROOT)], options.chapter)
    if not refresh_notebooks():
        raise ValueError("the notebooks could not be written; see above.")
    failures, peak = execute(wanted, options.size)
    if failures:
        print(f"\nbuild: {len(failures)} of {len(wanted)} chapters failed; no pages were made.")
        for name, message in failures.items():
            print(f"\n{name}: {message}")
        return 1
    # Other sizes stand beside the reader's pages, not in their place.
    out = options.out or (ROOT if options.size == "book" else ROOT / "_build" / options.size)
    page, status = make_pages(out.resolve(), wanted, partial=options.chapter is not None)
    if status:
        raise ValueError("the pages were not made; the warnings above say why.")
    report(page, time.monotonic() - started, peak, options.size)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run the chapters and make the pages.")
    parser.add_argument("--size", choices=("book", "quick", "paper"), default="book")
    parser.add_argument("--chapter", help="run and show this chapter only")
    parser.add_argument(
        "--out", type=Path, help="folder that gets _build/html (default: the repository)"
    )
    return parser


def check_environment(root: Path) -> str | None:
    """One sentence that says what is missing, or None."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:2]))
        return f"Python 3.11, 3.12 or 3.13 is needed, this is {found}."
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} missing; run `make book`, which installs what it needs."
    if not (root / "_toc.yml").is_file():
        return f"no _toc.yml in {root}; run this from a copy of the book's repository."
    free = shutil.disk_usage(root).free
    if free < 200e6:
        return f"only {free / 1e6:.0f} MB of disk are free here; 200 MB are needed."
    return None


def select(chapters: list[str], name: str | None) -> list[str]:
    """All chapters, or the one whose file name is `name`."""
    if name is None:
        return chapters
    name = name.removesuffix(".md").removesuffix(".ipynb")
    found = [c for c in chapters if c == name or c.rsplit("/", 1)[-1] == name]
    if not found:
        known = ", ".join(c.rsplit("/", 1)[-1] for c in chapters) or "none"
        raise ValueError(f"no chapter is called {name!r}; there are: {known}.")
    return found


def refresh_notebooks() -> bool:
    """Bring the committed notebooks into step with the chapters; say so if that was needed."""
    converter = [sys.executable, str(TOOLS / "notebooks.py")]
    if not subprocess.run([*converter, "--check"], cwd=ROOT, capture_output=True).returncode:
        return True
    print("The notebooks beside the chapters were out of step; writing them again.", flush=True)
    return subprocess.run([*converter, "--fix"], cwd=ROOT).returncode == 0


def execute(wanted: list[str], size: str) -> tuple[dict[str, str], int]:
    """Run the chapters that have no stored execution.

    Returns:
      What failed (docname to message), and the largest memory in MB that a kernel used.
    """
    import executions

    failures, peak = {}, 0
    for number, docname in enumerate(wanted, 1):
        label = f"chapter {number} of {len(wanted)} · {docname.rsplit('/', 1)[-1]}"
        text = (ROOT / f"{docname}.md").read_text(encoding="utf8")
        notebook = executions.read_notebook(
            ROOT, docname, executions.text_at_size(ROOT, docname, text, size)
        )
        key = executions.chapter_key(ROOT, notebook, size)
        stored = executions.load(ROOT, docname, key)
        if stored is not None:
            os.utime(executions.store_path(ROOT, docname, key))
            print(f"{label} · nothing changed since {stored.metadata['ntklab']['date']}")
            continue
        try:
            record = run_chapter(label, docname, notebook, key, size)
        except Exception as error:
            failures[docname] = str(error) or repr(error)
        else:
            peak = max(peak, record["peak_mb"])
    return failures, peak


def run_chapter(label: str, docname: str, notebook, key: str, size: str) -> dict:
    """Run one chapter, show its progress, and store what came of it."""
    import executions
    import runner

    before = executions.last_record(ROOT, docname, size)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    progress = runner.Progress(label, cells, before and before.get("cell_seconds"))
    try:
        timeout = None if size == "paper" else runner.TIMEOUT
        record = runner.run(notebook, ROOT / Path(docname).parent, progress.show, timeout)
    except runner.ChapterError as error:
        progress.end(str(error).splitlines()[0])
        raise
    record |= {"key": key, "size": size, "wanted_data": executions.named_data(notebook)}
    executions.save(ROOT, docname, notebook, record)
    progress.end(f"{cells} cells in {runner.duration(record['seconds'])}, {record['peak_mb']} MB")
    return record


def make_pages(out: Path, wanted: list[str], partial: bool) -> tuple[Path, int]:
    """Call Jupyter Book; warnings are errors unless only one chapter was asked for.

    Sphinx warns only about pages that it reads anew. So after a build that failed, was killed or
    left chapters out (its marker is still there) it must read all of them again.
    """
    folder = out / "_build"
    marker = folder / ".unfinished"
    if marker.exists():
        shutil.rmtree(folder / ".doctrees", ignore_errors=True)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", str(ROOT)]
    command += ["--path-output", str(out), "-q"]
    command += [] if partial else ["-n", "-W", "--keep-going"]
    print("Making the pages ...", flush=True)
    env = os.environ | {"NTKLAB_PARTIAL": wanted[0] if partial else ""}
    status = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL).returncode
    if not status and not partial:
        marker.unlink()
    first = f"{wanted[0]}.html" if partial else "index.html"
    return folder / "html" / first, status


def report(page: Path, seconds: float, peak: int, size: str) -> None:
    """Name the page to open, the time and the memory."""
    import runner

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    largest = max(peak, round(children / (2**20 if sys.platform == "darwin" else 2**10)))
    print(f"\nBuilt at {size} size in {runner.duration(seconds)}, peak memory {largest} MB.")
    print(f"Open this page: {page}")


if __name__ == "__main__":
    sys.exit(main())

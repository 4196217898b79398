"""The one converter: a chapter's MyST Markdown into the plain notebook beside it.

`python book/_tools/notebooks.py` writes every notebook, `--check` fails where one is out of step,
and `--fix` first writes the setup cell of every chapter anew (after the public address changed).
The notebooks hold no outputs, and the same source always gives the same bytes.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from book_config import ROOT, Chapter, ConfigError, bibliography, chapters, colab_url
from citations import read_bibliography
from myst_blocks import SourceError
from myst_inline import Page
from myst_render import caption, render_cell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from numbering import Cell, cell_end, figure_of, read_book, read_cells, where_of
from setup_cell import setup_cell

__all__ = ["Chapter", "chapters", "convert", "main", "notebook_text"]

SETUP_TAG = "setup"
_METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tags(cell) -> list[str]:
    """The tags of a cell of either kind."""
    return list(cell.metadata.get("tags", []))


def convert(chapter: Chapter, root: Path = ROOT, book=None, works=None):
    """The notebook of one chapter, without outputs.

    Raises `SourceError`, naming file and line, on notation that the converter does not know and
    on a setup cell that differs from the template.
    """
    book = book or read_book(root)
    page = Page(chapter.name, book, works or read_bibliography(bibliography(root)))
    text = chapter.source.read_text(encoding="utf-8")
    source = read_cells(text, page.where)
    _check_setup(source, page, root)
    cells = [new_markdown_cell(_links(page, chapter, root))]
    for cell in source:
        cells += _code_cells(cell, page) if cell.kind == "code" else _markdown_cells(cell, page)
    for index, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{chapter.name}:{index}".encode()).hexdigest()[:12]
    notebook = new_notebook(cells=cells, metadata=_METADATA)
    nbformat.validate(notebook)
    return notebook


def _links(page: Page, chapter: Chapter, root: Path) -> str:
    colab = colab_url(chapter, root)
    links = [page.link("Read this chapter as a page of the book", chapter.name)]
    links += [f"[open it in Colab]({colab})"] if colab else []
    return " or ".join(links) + "."


def _markdown_cells(cell: Cell, page: Page) -> list:
    text = render_cell(cell.source, cell.line, page)
    return [new_markdown_cell(text)] if text.strip() else []


def _code_cells(cell: Cell, page: Page) -> list:
    metadata = {"tags": tags(cell)} if tags(cell) else {}
    if {"hide-input", "hide-cell"} & set(tags(cell)):
        metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    made = [new_code_cell(cell.source, metadata=metadata)]
    if figure := figure_of(cell):
        words = page.inline(str(figure["caption"]), cell.line)
        made.append(new_markdown_cell(caption(page, cell.line, words, "Figure")))
    return made


def _check_setup(cells: list[Cell], page: Page, root: Path) -> None:
    found = [cell for cell in cells if cell.kind == "code" and SETUP_TAG in tags(cell)]
    if len(found) != 1:
        raise page.error(1, f"One cell must be tagged {SETUP_TAG}; {len(found)} are.")
    if any(cell.kind == "code" for cell in cells[: cells.index(found[0])]):
        raise page.error(found[0].line, "The setup cell must be the first code cell.")
    if found[0].source.strip() != setup_cell(root).strip():
        raise page.error(
            found[0].line,
            "The setup cell is not its template: run `python book/_tools/notebooks.py --fix`.",
        )


def fix_setup(chapter: Chapter, root: Path = ROOT) -> bool:
    """Write the setup cell of one chapter from the template; true when the file changed."""
    text = chapter.source.read_text(encoding="utf-8")
    lines = text.split("\n")
    for cell in read_cells(text, where_of(chapter.source, root)):
        if cell.kind == "code" and SETUP_TAG in tags(cell):
            if cell.source.strip() == setup_cell(root).strip():
                return False
            stop = cell_end(lines, cell.line)
            kept = stop - len(cell.source.rstrip("\n").split("\n")) if cell.source else stop
            gap = [] if cell.source or not lines[kept - 1].strip() else [""]
            write(chapter.source, "\n".join([*lines[:kept], *gap, setup_cell(root), *lines[stop:]]))
            return True
    return False


def notebook_text(chapter: Chapter, root: Path = ROOT, book=None, works=None) -> str:
    """The exact content of a chapter's .ipynb."""
    return nbformat.writes(convert(chapter, root, book, works)).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def stale(root: Path = ROOT) -> list[Chapter]:
    """The chapters whose notebook is missing or is not what the converter makes of the source."""
    book, works, found = read_book(root), read_bibliography(bibliography(root)), []
    for chapter in chapters(root):
        text = notebook_text(chapter, root, book, works)
        if not chapter.notebook.is_file() or chapter.notebook.read_text(encoding="utf-8") != text:
            found.append(chapter)
    return found


def orphans(root: Path = ROOT) -> list[Path]:
    """Notebooks under book/ that no chapter makes any more."""
    made = {chapter.notebook for chapter in chapters(root)}
    found = sorted((root / "book").rglob("*.ipynb"))
    return [p for p in found if p not in made and ".ipynb_checkpoints" not in p.parts]


def main(arguments: list[str] | None = None) -> int:
    """Write or check all notebooks; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale pair")
    parser.add_argument("--fix", action="store_true", help="first write every setup cell anew")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        return _run(options.root.resolve(), options.check, options.fix)
    except (SourceError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(root: Path, check: bool, fix: bool) -> int:
    if fix and not check:
        for chapter in chapters(root):
            if fix_setup(chapter, root):
                print(f"{where_of(chapter.source, root)}: setup cell written")
    late, left = stale(root), orphans(root)
    for chapter in late:
        name, source = where_of(chapter.notebook, root), where_of(chapter.source, root)
        if check:
            print(f"{name} is out of step with {source}: run `python book/_tools/notebooks.py`.")
        else:
            write(chapter.notebook, notebook_text(chapter, root))
            print(f"{name} written")
    for path in left:
        print(f"{where_of(path, root)} belongs to no chapter of _toc.yml: delete it.")
    if not late and not left:
        print(f"{len(chapters(root))} notebooks are in step with their sources.")
    return 1 if left or (check and late) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Numbers and names: every label of the book, what it names and the number that the site gives it.

The rule is Sphinx's: a page inside a numbered part counts from 1 behind its chapter number
(`1.3`); pages outside share one count over the whole book.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from book_config import ROOT, chapter_number, header, pages, title_of
from myst_blocks import Directive, Math, SourceError, Target, Text, parse, walk

PROOFS = frozenset({"algorithm", "assumption", "axiom", "conjecture", "corollary", "criterion",
                    "definition", "example", "lemma", "notation", "observation", "property",
                    "proposition", "remark", "theorem"})  # fmt: skip
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$")


class Label(NamedTuple):
    """What a label names: `kind` as readers call it (Theorem, Figure ...), on which page."""

    page: str
    kind: str
    number: str
    title: str
    anchor: str

    def text(self) -> str:
        """How a sentence names it."""
        if self.kind == "Equation":
            return f"({self.number})"
        if self.kind in ("Section", "Solution"):
            return self.title
        return f"{self.kind} {self.number}".strip()


class Cell(NamedTuple):
    """One cell of a page: its text, its metadata and the line where it starts."""

    kind: str
    source: str
    metadata: dict
    line: int


@dataclass(frozen=True)
class Book:
    """All pages of the book, their labels, titles and glossary terms, and what carries a number."""

    root: Path
    pages: dict[str, Path]
    titles: dict[str, str]
    labels: dict[str, Label]
    terms: dict[str, str]
    numbers: dict[tuple[str, int], str]

    def number(self, page: str, line: int) -> str:
        """The number of what starts at this line of this page; empty where it has none."""
        return self.numbers.get((page, line), "")


def read_cells(text: str, where: str) -> list[Cell]:
    """The cells of a page, as jupytext reads them, with the line on which each one starts."""
    from jupytext.myst import MystMetadataParsingError, myst_to_notebook

    try:
        notebook = myst_to_notebook(text, add_source_map=True)
    except MystMetadataParsingError as error:
        raise SourceError(where, 1, str(error)) from None
    starts, lines, cells = notebook.metadata.pop("source_map"), text.splitlines(), []
    for cell, start in zip(notebook.cells, starts, strict=True):
        if cell.cell_type == "raw":
            raise SourceError(where, start, "A raw cell has no place in a chapter.")
        # For code jupytext counts to the line behind the opening fence, for text to blank lines.
        line = start if cell.cell_type == "code" else start + 1
        while cell.cell_type == "markdown" and not lines[line - 1]:
            line += 1
        cells.append(Cell(cell.cell_type, cell.source, dict(cell.metadata), line))
    return cells


def cell_end(lines: list[str], line: int) -> int:
    """The index in `lines` of the fence that closes the code cell opened on `line` (from 1)."""
    opened = lines[line - 1].lstrip()
    mark = opened[: len(opened) - len(opened.lstrip(opened[0]))]
    for index in range(line, len(lines)):
        text = lines[index].strip()
        if text.startswith(mark) and not text.strip(mark[0]):
            return index
    return len(lines)


def figure_of(cell: Cell) -> dict | None:
    """The figure that a code cell makes: `mystnb: figure:` of its metadata, with a caption."""
    figure = cell.metadata.get("mystnb", {}).get("figure")
    return figure if isinstance(figure, dict) and figure.get("caption") else None


def read_book(root: Path = ROOT) -> Book:
    """Read every page of `_toc.yml` and number what the site numbers."""
    found = pages(root)
    collector = _Collector(Path(root))
    titles = {}
    for page, path in found.items():
        text = path.read_text(encoding="utf-8")
        titles[page] = title_of(text)
        collector.read(page, path, text)
    return Book(Path(root), found, titles, collector.labels, collector.terms, collector.numbers)


def where_of(path: Path, root: Path) -> str:
    """A page as errors name it: its path inside the repository."""
    return Path(path).relative_to(root).as_posix()


def anchor_of(label: str) -> str:
    """The HTML id that docutils makes of a label."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


class _Collector:
    def __init__(self, root: Path):
        self.root, self.labels, self.terms, self.numbers = root, {}, {}, {}
        self.counts: Counter = Counter()
        self.pending: list[Target] = []

    def read(self, page: str, path: Path, text: str) -> None:
        self.page, self.where = page, where_of(path, self.root)
        self.chapter, self.pending = chapter_number(page, self.root), []
        body = read_cells(text, self.where) if header(text) else None
        if body is None:
            body = [Cell("markdown", text, {}, 1)]
        for cell in body:
            if cell.kind == "code":
                self._code(cell)
                continue
            for block in walk(parse(cell.source.splitlines(), self.where, cell.line)):
                self._block(block)

    def _next(self, kind: str, line: int) -> str:
        prefix = "" if self.chapter is None else f"{self.chapter}."
        self.counts[kind, prefix] += 1
        self.numbers[self.page, line] = number = f"{prefix}{self.counts[kind, prefix]}"
        return number

    def _add(self, label: str, line: int, **rest) -> None:
        if label in self.labels:
            used = self.labels[label].page
            raise SourceError(self.where, line, f"The label {label!r} is already used on {used}.")
        self.labels[label] = Label(page=self.page, **rest)

    def _named(self, label: str, line: int, kind: str, number: str, title: str = "") -> None:
        names = [label] if label else []
        names += [target.label for target in self.pending]
        self.pending = []
        for name in names:
            prefix = "equation-" if kind == "Equation" else ""
            kept = kind in ("Exercise", "Solution") or title == _PROOF
            anchor = name if kept else anchor_of(name)
            self._add(name, line, kind=kind, number=number, title=title, anchor=prefix + anchor)

    def _code(self, cell: Cell) -> None:
        if figure := figure_of(cell):
            number = self._next("figure", cell.line)
            self._named(str(figure.get("name", "")), cell.line, "Figure", number)

    def _block(self, block) -> None:
        if isinstance(block, Target):
            self.pending.append(block)
        elif isinstance(block, Math):
            if block.label:
                number = self._next("equation", block.line)
                self._named(block.label, block.line, "Equation", number)
        elif isinstance(block, Text):
            self._headings(block)
        elif isinstance(block, Directive):
            self._directive(block)

    def _headings(self, block: Text) -> None:
        if not self.pending:
            return
        match = _HEADING.match(block.text.splitlines()[0])
        title = match[1] if match else self.pending[0].label
        self._named("", block.line, "Section", "", title)

    def _directive(self, block: Directive) -> None:
        name = block.name
        if name.removeprefix("prf:") in PROOFS and name.startswith("prf:"):
            kind = name.removeprefix("prf:")
            number = "" if "nonumber" in block.options else self._next(kind, block.line)
            self._named(block.label, block.line, kind.capitalize(), number, _PROOF)
        elif name in ("exercise", "exercise-start"):
            number = "" if "nonumber" in block.options else self._next("exercise", block.line)
            self._named(block.label, block.line, "Exercise", number)
        elif name in ("solution", "solution-start"):
            self._named(block.label, block.line, "Solution", "", "the solution")
        elif name == "figure" or (name == "table" and block.argument):
            number = self._next(name, block.line)
            self._named(block.label, block.line, name.capitalize(), number)
        elif name == "glossary":
            terms = (line.strip() for line in block.body if line[:1].strip())
            self.terms.update({term.lower(): self.page for term in terms})


#: Marks a label of sphinx-proof, whose anchors are the labels themselves.
_PROOF = "proof"

"""A small book in a folder of its own, for the tests of the tools."""

from pathlib import Path

HEADER = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
CONFIG = """\
repository:
  url: https://github.com/Some-One/lab
  branch: main
bibtex_bibfiles: [book/references.bib]
"""
TOC = """\
format: jb-book
root: book/index
parts:
  - chapters:
      - file: book/notation
  - caption: Part
    numbered: 1
    chapters:
      - file: book/part/one
      - file: book/part/two
"""
BIB = r"""
@article{ab2020, author = {Alef, Ann and B{\'e}t, Bo}, title = {On {NTKs}}, journal = {J},
  year = {2020}, doi = {10.1/xy}}
@misc{abc2021, author = {van Alef, A. and Bet, B. and Gim, C.}, title = {Why?}, year = {2021},
  eprint = {2101.00001}, archiveprefix = {arXiv}}
@book{old1998, author = {Old, O.}, title = {Book}, year = {1998}, publisher = {P}}
"""

CODE = """\
First.

```{code-cell} ipython3
:tags: [hide-input, mine]

x = n
```

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-x
    caption: A {math}`y`, see {eq}`eq-far`.
tags: [hide-output]
---
x
```

Last {numref}`fig-x`.
"""


class Book:
    """A small book in a folder of its own, with one chapter to play with."""

    def __init__(self, root: Path):
        self.root = root
        (root / "book" / "part").mkdir(parents=True)
        self.write("_config.yml", CONFIG)
        self.write("_toc.yml", TOC)
        self.write("book/references.bib", BIB)
        self.write("book/index.md", "# Preface\n")
        self.write(
            "book/notation.md",
            "(sec-symbols)=\n## Symbols\n\n```{glossary}\nNTK\n  A kernel\n```\n",
        )
        self.write("book/part/pixel.png", "png")
        self.chapter("book/part/two", "# Two\n\n(sec-far)=\n## Far away\n\n$$\na\n$$ (eq-far)\n")

    def write(self, path: str, text: str) -> Path:
        (self.root / path).write_text(text, encoding="utf-8")
        return self.root / path

    def address(self, url: str, more: str = "") -> None:
        """Give the book another public address."""
        self.write("_config.yml", CONFIG.replace("https://github.com/Some-One/lab", url) + more)

    def chapter(self, name: str, body: str, parameters: str = "n = 10") -> Path:
        from setup_cell import setup_cell

        head = f"```{{code-cell}} ipython3\n:tags: [setup]\n\n{setup_cell(self.root)}\n```\n"
        head += f"\n```{{code-cell}} ipython3\n:tags: [parameters]\n\n{parameters}\n```\n\n"
        return self.write(f"{name}.md", HEADER + head + body)

    def cells(self, body: str):
        """The cells that the converter makes of `body`, behind setup and parameters."""
        return self.notebook(body).cells[3:]

    def notebook(self, body: str):
        import notebooks

        self.chapter("book/part/one", body)
        chapter = next(c for c in notebooks.chapters(self.root) if c.name == "book/part/one")
        return notebooks.convert(chapter, self.root)

    def markdown(self, body: str) -> str:
        return "\n\n".join(c.source for c in self.cells(body) if c.cell_type == "markdown")

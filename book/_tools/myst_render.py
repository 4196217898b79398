"""Blocks of MyST Markdown written as plain Markdown that reads well in Colab and on GitHub."""

import re
from dataclasses import replace

from myst_blocks import Code, Directive, Math, Target, Text, parse
from myst_inline import Page
from numbering import PROOFS

ADMONITIONS = frozenset({"admonition", "attention", "caution", "danger", "dropdown", "error",
                         "hint", "important", "margin", "note", "seealso", "sidebar", "tip",
                         "topic", "warning"})  # fmt: skip
_DROPPED = frozenset({"toctree", "tableofcontents", "contents", "index"})
_LISTINGS = frozenset({"code", "code-block", "sourcecode"})
_PLAIN = frozenset({"div", "container"})
_TITLES = {"seealso": "See also"}
_OPENERS = ("$$", "```", "~~~", "#", "|", "- ", "* ", "1.", "> ", "<", "![")


def render(blocks: list, page: Page) -> str:
    """The blocks as one piece of Markdown."""
    parts = [_block(block, page) for block in _gated(blocks, page)]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _gated(blocks: list, page: Page) -> list:
    """Join `solution-start ... solution-end` where both stand in the same cell."""
    found, at = [], 0
    while at < len(blocks):
        block = blocks[at]
        end = _end_of(block, blocks, at)
        if end is None:
            found.append(block)
            at += 1
        else:
            found.append(_Gate(block, blocks[at + 1 : end]))
            at = end + 1
    return found


class _Gate:
    """An exercise or a solution whose start and end are two directives of one cell."""

    def __init__(self, start: Directive, inside: list):
        self.start, self.inside = start, inside


def _end_of(block, blocks: list, at: int) -> int | None:
    if not (isinstance(block, Directive) and block.name.endswith("-start")):
        return None
    wanted = block.name.removesuffix("start") + "end"
    for index in range(at + 1, len(blocks)):
        if isinstance(blocks[index], Directive) and blocks[index].name == wanted:
            return index
    return None


def _block(block, page: Page) -> str:
    if isinstance(block, Text):
        return page.inline(block.text, block.line)
    if isinstance(block, Code):
        return block.text
    if isinstance(block, Math):
        return _indented(_math(block, page), block.indent)
    if isinstance(block, Target):
        return ""
    if isinstance(block, _Gate):
        whole = replace(block.start, name=block.start.name.removesuffix("-start"))
        return _box(whole, render(block.start.blocks() + block.inside, page), page)
    return _indented(_directive(block, page), block.indent)


def _directive(block: Directive, page: Page) -> str:
    name = block.name
    if name in _DROPPED:
        return ""
    if name in _LISTINGS:
        return "\n".join([f"```{block.argument}", *block.body, "```"])
    if name in ("figure", "image"):
        return _figure(block, page)
    if name == "table":
        return _table(block, page)
    if name == "bibliography":
        return "\n".join(f"- {page.works.reference(key)}" for key in sorted(page.cited))
    if name == "glossary":
        return _glossary(block, page)
    if name == "ledger":
        label = "The ledger's rows, with their criteria and verdicts"
        return f"*{page.link(label, 'book/ledger')} are on a page of the book.*"
    if name in ("solution-end", "exercise-end"):
        what = "solution" if name == "solution-end" else "exercise"
        return f"*End of the {what}.*"
    return _box(block, render(block.blocks(), page), page)


def _box(block: Directive, body: str, page: Page) -> str:
    """What has a title and a body: admonitions, theorems, proofs, exercises, solutions."""
    name = block.name
    if name in _PLAIN:
        return body
    if name in ADMONITIONS:
        title = page.inline(block.argument, block.line) if block.argument else ""
        title = title or _TITLES.get(name, name.capitalize())
        return _quoted(f"**{title}**" + (f"\n\n{body}" if body else ""))
    if name == "prf:proof":
        return _quoted(_run_in("**Proof.**", body) + " $\\square$")
    if name.startswith("prf:") and name.removeprefix("prf:") in PROOFS:
        return _quoted(_run_in(_head(block, name.removeprefix("prf:").capitalize(), page), body))
    if name in ("exercise", "exercise-start"):
        return _run_in(_head(block, "Exercise", page), body)
    if name in ("solution", "solution-start"):
        return _solution(block, body, page)
    raise page.error(block.line, f"The converter does not know the directive {{{name}}}.")


def _head(block: Directive, kind: str, page: Page) -> str:
    number = page.book.number(page.name, block.line)
    title = page.inline(block.argument, block.line) if block.argument else ""
    return f"**{kind}{' ' + number if number else ''}{f' ({title})' if title else ''}.**"


def _solution(block: Directive, body: str, page: Page) -> str:
    label = page.book.labels.get(block.argument)
    if label is None or label.kind != "Exercise":
        raise page.error(block.line, f"This solution names no exercise: {block.argument!r}.")
    title = f"Solution of {label.text().lower()}"
    if block.name == "solution-start":  # its end stands behind code cells
        return f"**{title} (next cells).**" + (f"\n\n{body}" if body else "")
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def _run_in(head: str, body: str) -> str:
    """A bold head in front of the first paragraph, or above what is no paragraph."""
    if not body:
        return head
    return f"{head}\n\n{body}" if body.startswith(_OPENERS) else f"{head} {body}"


def _quoted(text: str) -> str:
    """A block quote; its formulas on one line, since Jupyter would read a `>` into longer ones."""
    text = re.sub(r"^\$\$\n(.*?)\n\$\$$", _one_line, text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _one_line(match: re.Match) -> str:
    return f"$$ {' '.join(match[1].split())} $$"


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + line if line else line for line in text.split("\n"))


def _math(block: Math, page: Page) -> str:
    """A displayed formula; rows without an environment get the one that the site gives them."""
    lines = (re.sub(r"(?<!\\)%.*", "", line).rstrip() for line in block.text.split("\n"))
    text = "\n".join(line for line in lines if line.strip())
    if "\\\\" in text and not text.startswith("\\begin{"):
        text = f"\\begin{{split}}\n{text}\n\\end{{split}}"
    number = page.book.number(page.name, block.line) if block.label else ""
    tag = f"\n\\tag{{{number}}}" if number else ""
    return f"$$\n{text}{tag}\n$$"


def _figure(block: Directive, page: Page) -> str:
    alt = block.options.get("alt", "").strip()
    if not alt:
        raise page.error(block.line, f"{block.argument} needs an :alt: description.")
    image = f"![{alt}]({page.image(block.argument, block.line)})"
    if block.name == "image":
        return image
    return f"{image}\n\n{caption(page, block.line, render(block.blocks(), page), 'Figure')}"


def caption(page: Page, line: int, text: str, kind: str) -> str:
    """The caption of a figure or a table, with its number, as one italic line."""
    number = page.book.number(page.name, line)
    text = " ".join(text.split())
    # Emphasis inside a caption would end the italics, so such a caption is set upright.
    mark = "" if "*" in text else "*"
    return f"**{kind}{' ' + number if number else ''}.** {mark}{text}{mark}"


def _table(block: Directive, page: Page) -> str:
    body = render(block.blocks(), page)
    if not block.argument:
        return body
    title = page.inline(block.argument, block.line)
    return f"{caption(page, block.line, title, 'Table')}\n\n{body}"


def _glossary(block: Directive, page: Page) -> str:
    lines = []
    for offset, line in enumerate(block.body):
        if line[:1].strip():
            lines.append(f"- **{line.strip()}**:")
        elif line.strip():
            lines[-1] += " " + page.inline(line.strip(), block.body_line + offset)
    return "\n".join(lines)


def render_cell(text: str, line: int, page: Page) -> str:
    """One Markdown cell as plain Markdown."""
    return render(parse(text.splitlines(), page.where, line), page)

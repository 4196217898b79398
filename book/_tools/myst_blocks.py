"""The block structure of MyST Markdown: fences, directives, display mathematics, targets.

Only what the book writes is read. Anything else is an error that names the file and the line,
so that no notation of the page can slip unread into a notebook.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

_FENCE = re.compile(r"^( *)(`{3,}|~{3,}|:{3,})(.*)$")
_DIRECTIVE = re.compile(r"^\{([A-Za-z][\w:.-]*)\} *(.*)$")
_OPTION = re.compile(r"^:([\w-]+):(?: +(.*))?$")
_TARGET = re.compile(r"^\(([^()\s]+)\)= *$")
_MATH_END = re.compile(r"\$\$ *(?:\(([^()\s]+)\))? *$")
_BEGIN = re.compile(r"^ *\\begin\{(\w+\*?)\}")
_DEFINITION = re.compile(r"^:[ \t]+\S")
_ATTRIBUTES = re.compile(r"^\{ *(?:[#.][\w-]|[\w-]+=)[^}]*\} *$")


class SourceError(ValueError):
    """Something in a page that cannot be converted: the message names the file and the line."""

    def __init__(self, where: str, line: int, message: str):
        super().__init__(f"{where}:{line}: {message}")


@dataclass(frozen=True)
class Text:
    """Ordinary Markdown: paragraphs, lists, tables, headings."""

    text: str
    line: int


@dataclass(frozen=True)
class Code:
    """A code listing, kept as it is."""

    text: str
    line: int


@dataclass(frozen=True)
class Math:
    """A displayed formula, with its label where it has one."""

    text: str
    line: int
    label: str = ""
    indent: str = ""


@dataclass(frozen=True)
class Target:
    """`(label)=`: a name for the heading or figure that follows."""

    label: str
    line: int


@dataclass(frozen=True)
class Directive:
    """`{name} argument`, its options and its body, which stands as lines until it is parsed."""

    name: str
    argument: str
    options: dict[str, str]
    body: tuple[str, ...]
    body_line: int
    line: int
    indent: str = ""
    where: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The name by which the rest of the book refers to it."""
        return self.options.get("label") or self.options.get("name") or ""

    def blocks(self) -> list:
        """The blocks inside it."""
        return parse(self.body, self.where, self.body_line)


Block = Text | Code | Math | Target | Directive


def parse(lines, where: str, first_line: int = 1) -> list[Block]:
    """The blocks of `lines`; `where` and `first_line` place them in the file for errors."""
    return _Parser(list(lines), where, first_line).run()


def walk(blocks) -> Iterator[Block]:
    """Every block in reading order; a directive comes before what is inside it."""
    for block in blocks:
        yield block
        if isinstance(block, Directive) and block.name not in LITERAL:
            yield from walk(block.blocks())


#: Directives whose body is not Markdown.
LITERAL = frozenset({"math", "code", "code-block", "sourcecode", "literalinclude", "image",
                     "bibliography", "toctree", "tableofcontents", "contents", "glossary",
                     "raw", "index"})  # fmt: skip


class _Parser:
    def __init__(self, lines: list[str], where: str, first_line: int):
        self.lines, self.where, self.first = lines, where, first_line
        self.at, self.blocks, self.text, self.text_line = 0, [], [], first_line

    def run(self) -> list[Block]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            block = self._special(line)
            if block is None:
                if not self.text:
                    self.text_line = self.first + self.at
                self.text.append(line)
                self.at += 1
            elif block is not _DROPPED:
                self._flush()
                self.blocks.append(block)
        self._flush()
        return self.blocks

    def _flush(self) -> None:
        text = "\n".join(self.text)
        if text.strip():
            blank = len(text) - len(text.lstrip("\n"))
            self.blocks.append(Text(text.strip("\n"), self.text_line + blank))
        self.text = []

    def _special(self, line: str):
        """The block that starts at `line` (moving past it), or None when it is plain text."""
        number = self.first + self.at
        if (match := _FENCE.match(line)) and not (match[2][0] == "`" and "`" in match[3]):
            return self._fence(match, number)
        if line.lstrip().startswith("$$"):
            return self._dollars(line, number)
        if match := _BEGIN.match(line):
            return self._environment(match[1], number)
        if match := _TARGET.match(line):
            self.at += 1
            return Target(match[1], number)
        if line.startswith("%") or _ATTRIBUTES.match(line):
            self.at += 1
            return _DROPPED
        if _DEFINITION.match(line):
            raise SourceError(
                self.where, number, "Colab shows no definition lists: write a list with bold words."
            )
        if line.lstrip().startswith("<!--"):
            self._until(lambda text: "-->" in text, number, "The comment <!-- is never closed.")
            return _DROPPED
        return None

    def _until(self, ends, number: int, message: str, start: int = 0) -> list[str]:
        """The lines from here to the first that `ends`, that one included; moves past them."""
        for stop in range(self.at + start, len(self.lines)):
            if ends(self.lines[stop]):
                found = self.lines[self.at : stop + 1]
                self.at = stop + 1
                return found
        raise SourceError(self.where, number, message)

    def _fence(self, match: re.Match, number: int):
        indent, mark, info = match[1], match[2], match[3].strip()
        close = re.compile(rf"^ *{re.escape(mark[0])}{{{len(mark)},}} *$")
        found = self._until(
            close.match,
            number,
            f"The fence {mark}{info} is not closed before the next code cell or the end; a code "
            "cell cannot stand inside a directive: use exercise-start / -end or "
            "solution-start / -end.",
            start=1,
        )
        body = tuple(line.removeprefix(indent) for line in found[1:-1])
        directive = _DIRECTIVE.match(info)
        if directive:
            return self._directive(directive, body, indent, number)
        if mark[0] == ":" or info.startswith("{"):
            raise SourceError(self.where, number, f"{mark}{info} names no directive.")
        return Code("\n".join(found), number)

    def _directive(self, match: re.Match, body: tuple[str, ...], indent: str, number: int):
        options, skipped = _options(body, self.where, number)
        rest = body[skipped:]
        while rest and not rest[0].strip():
            rest, skipped = rest[1:], skipped + 1
        line = number + 1 + skipped
        name, argument = match[1], match[2].strip()
        if name == "math":
            text = "\n".join((argument, *rest)) if argument else "\n".join(rest)
            return Math(text.strip(), number, options.get("label", ""), indent)
        return Directive(name, argument, options, rest, line, number, indent, self.where)

    def _dollars(self, line: str, number: int):
        indent = line[: len(line) - len(line.lstrip())]
        alone = line.strip()
        if _MATH_END.search(alone[2:]):
            found, self.at = [line], self.at + 1
        elif "$$" in alone[2:]:
            return None  # a formula and then words on the same line: ordinary text
        else:
            found = self._until(
                lambda text: _MATH_END.search(text), number, "The formula $$ is never closed.", 1
            )
        text = "\n".join(part.removeprefix(indent) for part in found).strip()
        end = _MATH_END.search(text, 2)
        return Math(text[2 : end.start()].strip(), number, end[1] or "", indent)

    def _environment(self, name: str, number: int):
        end = f"\\end{{{name}}}"
        found = self._until(lambda text: end in text, number, f"{end} is missing.")
        if any("\\label{" in line for line in found):
            raise SourceError(
                self.where, number, "\\label is not read here: use a {math} directive with :label:."
            )
        return Math("\n".join(found), number)


_DROPPED = object()


def _options(body: tuple[str, ...], where: str, number: int) -> tuple[dict[str, str], int]:
    """The options at the top of a directive's body, and how many lines they take."""
    if body and body[0].strip() == "---":
        for stop in range(1, len(body)):
            if body[stop].strip() == "---":
                value = yaml.safe_load("\n".join(body[1:stop])) or {}
                return {str(key): str(item) for key, item in value.items()}, stop + 1
        raise SourceError(where, number, "The options --- of this directive are never closed.")
    options = {}
    for count, line in enumerate(body):
        match = _OPTION.match(line.strip())
        if not match:
            return options, count
        options[match[1]] = (match[2] or "").strip()
    return options, len(body)

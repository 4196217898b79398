"""Roles, links and notes inside a paragraph, turned into plain Markdown."""

import posixpath
import re
from dataclasses import dataclass, field

from book_config import site_url
from citations import ROLES as CITATIONS
from citations import Bibliography
from myst_blocks import SourceError
from numbering import Book, where_of

_TOKENS = re.compile(
    r"""
    (?P<escape>\\[\\`*_{}\[\]()$%])
  | \{(?P<role>[A-Za-z][\w:.-]*)\}(?P<ticks>`+)(?P<content>[\s\S]+?)(?<!`)(?P=ticks)(?!`)
  | (?P<code>(?P<run>`+)[\s\S]+?(?<!`)(?P=run)(?!`))
  | (?P<display>\$\$[\s\S]+?\$\$)
  | (?P<math>\$(?:\\.|[^$\\])+?\$)
  | (?P<comment><!--[\s\S]*?-->)
  | (?P<link>(?P<bang>!?)\[(?P<label>[^\[\]]*)\]\((?P<target>[^()\s]*)\)(?P<attrs>\{[^}\n]*\})?)
  | \[\^(?P<note>[^\]\s]+)\](?P<define>:)?
  | (?P<substitution>\{\{)
  | (?P<open>\{[A-Za-z][\w:.-]*\}`)
    """,
    re.VERBOSE,
)
_EXPLICIT = re.compile(r"^([\s\S]*?)\s*<([^<>]+)>$")
_SIMPLE = {"kbd": "kbd", "sub": "sub", "sup": "sup", "abbr": "abbr"}
_REFERENCES = frozenset({"ref", "numref", "prf:ref", "eq", "math:numref", "doc", "term"})


@dataclass
class Page:
    """The page that is being converted, with all that its roles can refer to."""

    name: str
    book: Book
    works: Bibliography
    cited: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Its path inside the repository, for errors."""
        return where_of(self.book.pages[self.name], self.book.root)

    def error(self, line: int, message: str) -> SourceError:
        """An error that names this file and a line of it."""
        return SourceError(self.where, line, message)

    def link(self, text: str, page: str, anchor: str = "") -> str:
        """`text`, as a link to a page of the published book."""
        end = f"#{anchor}" if anchor else ""
        return f"[{text}]({site_url(self.book.root)}{page}.html{end})"

    def inline(self, text: str, line: int) -> str:
        """One or more paragraphs with every role replaced; unknown notation raises."""
        parts, at = [], line
        for piece in re.split(r"(\n[ \t]*\n)", text):
            start = at
            parts.append(
                _TOKENS.sub(
                    lambda m, piece=piece, start=start: self._token(
                        m, start + piece.count("\n", 0, m.start())
                    ),
                    piece,
                )
            )
            at += piece.count("\n")
        return "".join(parts)

    def _token(self, match: re.Match, line: int) -> str:
        if match["role"]:
            return self.role(match["role"], match["content"].strip(), line)
        if match["comment"]:
            return ""
        if match["link"]:
            return self._link(match, line)
        if match["note"]:
            return self._note(match["note"], bool(match["define"]))
        if match["math"]:
            return " ".join(match[0].split("\n"))
        if match["substitution"]:
            raise self.error(line, "Write the substitution {{ }} out: the converter reads none.")
        if match["open"]:
            raise self.error(line, f"The role {match['open']} is never closed.")
        return match[0]

    def _note(self, name: str, defines: bool) -> str:
        if name not in self.notes:
            self.notes.append(name)
        number = self.notes.index(name) + 1
        return f"<sup>{number}</sup>" + (" " if defines else "")

    def role(self, role: str, content: str, line: int) -> str:
        """One role as plain Markdown."""
        if role in CITATIONS:
            return self._cite(role, content, line)
        if role in _REFERENCES:
            return self._reference(role, content, line)
        if role in _SIMPLE:
            return f"<{_SIMPLE[role]}>{content}</{_SIMPLE[role]}>"
        if role == "math":
            return f"${content}$"
        if role == "code":
            return f"`{content}`"
        if role in ("glue:text", "glue"):
            return "(printed above)"
        raise self.error(line, f"The converter does not know the role {{{role}}}`{content}`.")

    def _cite(self, role: str, content: str, line: int) -> str:
        keys = [key.strip() for key in content.split(",")]
        try:
            text = self.works.cite(role, keys)
        except KeyError as error:
            raise self.error(line, f"references.bib has no entry {error}.") from None
        self.cited += [key for key in keys if key not in self.cited]
        return text

    def _reference(self, role: str, content: str, line: int) -> str:
        match = _EXPLICIT.match(content)
        text, target = (match[1], match[2]) if match else ("", content)
        if role == "doc":
            return self._doc(target, text, line)
        if role == "term":
            return self._term(target, text or content, line)
        label = self.book.labels.get(target)
        if label is None:
            raise self.error(line, f"{{{role}}}`{target}` names no label of the book.")
        if role in ("eq", "math:numref") and label.kind != "Equation":
            raise self.error(line, f"{{{role}}}`{target}` names no equation but a {label.kind}.")
        return self.refer(target, self._worded(text, label))

    def _worded(self, text: str, label) -> str:
        if not text:
            return label.text()
        return text.replace("%s", label.number).replace("{number}", label.number).replace(
            "{name}", label.title
        )  # fmt: skip

    def refer(self, target: str, text: str) -> str:
        """A reference to a label: plain words on this page, a link to any other page."""
        label = self.book.labels[target]
        text = re.sub(r"\s+", " ", text)
        if label.page == self.name:
            return f"*{text}*" if label.kind == "Section" else text
        if label.kind == "Section":
            return self.link(text, label.page, label.anchor)
        return self.link(f"{text} in {self.book.titles[label.page]}", label.page, label.anchor)

    def _doc(self, target: str, text: str, line: int) -> str:
        base = "" if target.startswith("/") else posixpath.dirname(self.name)
        page = posixpath.normpath(posixpath.join(base, target.lstrip("/")))
        if page not in self.book.pages:
            raise self.error(line, f"{target!r} is no page of _toc.yml.")
        return self.link(text or self.book.titles[page], page)

    def _term(self, target: str, text: str, line: int) -> str:
        page = self.book.terms.get(target.lower())
        if page is None:
            raise self.error(line, f"No glossary of the book explains the term {target!r}.")
        return self.link(text, page, "term-" + re.sub(r"\s+", "-", target))

    def _link(self, match: re.Match, line: int) -> str:
        target, label = match["target"], self.inline(match["label"], line)
        if match["bang"]:
            if not label.strip():
                raise self.error(line, f"The image {target} has no description in its [ ].")
            return f"![{label}]({self.image(target, line)})"
        if re.match(r"^(https?:|mailto:)", target):
            return f"[{label}]({target})"
        if target.startswith("#"):
            return self._reference("ref", f"{label} <{target[1:]}>" if label else target[1:], line)
        page, _, anchor = target.partition("#")
        if page.endswith(".md"):
            linked = self._doc(page.removesuffix(".md"), label, line)
            return linked.replace(".html)", f".html#{anchor})") if anchor else linked
        raise self.error(line, f"The link to {target!r} is neither a page of the book nor https.")

    def image(self, target: str, line: int) -> str:
        """The path of an image, checked to exist beside the page."""
        if not re.match(r"^https?:", target):
            path = self.book.pages[self.name].parent / target
            if target.startswith("/") or not path.is_file():
                raise self.error(line, f"The image {target!r} does not exist beside the page.")
        return target

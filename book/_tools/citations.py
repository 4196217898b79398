"""The bibliography as plain Markdown: author-year links and a list of references."""

from dataclasses import dataclass
from pathlib import Path

from pybtex.database import Entry, Person, parse_file
from pybtex.richtext import Text as Rich

#: Citation roles, and whether the names stand in the sentence or in parentheses.
TEXTUAL = frozenset({"cite:t", "cite:ts", "cite:ct"})
PARENTHETICAL = frozenset({"cite", "cite:p", "cite:ps", "cite:cp"})
ROLES = TEXTUAL | PARENTHETICAL | {"cite:author", "cite:year"}


@dataclass(frozen=True)
class Bibliography:
    """The entries of `references.bib`, by key."""

    entries: dict[str, Entry]

    def cite(self, role: str, keys: list[str]) -> str:
        """One citation role as text; an unknown key raises `KeyError`."""
        found = [self.entries[key] for key in keys]
        if role in TEXTUAL:
            return ", ".join(linked(f"{names(e)} ({year(e)})", e) for e in found)
        if role == "cite:author":
            return ", ".join(linked(names(e), e) for e in found)
        if role == "cite:year":
            return ", ".join(linked(year(e), e) for e in found)
        return "(" + "; ".join(linked(f"{names(e)}, {year(e)}", e) for e in found) + ")"

    def reference(self, key: str) -> str:
        """One line of the list of references."""
        entry = self.entries[key]
        authors = _join([_full(person) for person in entry.persons.get("author", [])])
        where = [plain(entry.fields[name]) for name in _VENUE if name in entry.fields]
        if "pages" in entry.fields:
            where.append("pp. " + plain(entry.fields["pages"]))
        # A title that asks a question keeps its mark.
        title = plain(entry.fields["title"])
        title += "" if title[-1] in "?!." else "."
        text = f"{authors} ({year(entry)}). *{title}*"
        text += f" {', '.join(where)}." if where else ""
        link = address(entry)
        return f"{text} <{link}>" if link else text


_VENUE = ("journal", "booktitle", "institution", "school", "publisher")


def read_bibliography(path: Path) -> Bibliography:
    """Read a BibTeX file."""
    return Bibliography(dict(parse_file(str(path)).entries))


def plain(text: str) -> str:
    """LaTeX of a field as characters: accents, and no braces."""
    return str(Rich.from_latex(text))


def year(entry: Entry) -> str:
    """The year of an entry."""
    return entry.fields.get("year", "n.d.")


def names(entry: Entry) -> str:
    """The authors as a sentence names them: one, two, or the first with 'et al.'."""
    last = [_last(person) for person in entry.persons.get("author", [])]
    if not last:
        return plain(entry.fields.get("key", entry.fields.get("title", entry.key)))
    return f"{last[0]} et al." if len(last) > 2 else " and ".join(last)


def address(entry: Entry) -> str:
    """Where the work can be read: its DOI, its arXiv page or its URL; empty when it has none."""
    fields = entry.fields
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    if fields.get("archiveprefix", "").lower() == "arxiv" and "eprint" in fields:
        return f"https://arxiv.org/abs/{fields['eprint']}"
    return fields.get("url", "")


def linked(text: str, entry: Entry) -> str:
    """`text` as a link to the work, or as it is when no address is known."""
    link = address(entry)
    return f"[{text}]({link})" if link else text


def _last(person: Person) -> str:
    return plain(" ".join([*person.prelast_names, *person.last_names]))


def _full(person: Person) -> str:
    first = [plain(name) for name in [*person.first_names, *person.middle_names]]
    initials = " ".join(f"{name[0]}." for name in first if name)
    return f"{_last(person)}, {initials}" if initials else _last(person)


def _join(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)

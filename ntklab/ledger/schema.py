"""Claims and their criteria: `claims.yaml`, read with a strict schema."""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("number", "ordering", "shape", "theorem")
OPERATORS = ("<", "<=", ">", ">=", "==", "within")
SEED_RULES = ("mean", "every")
SIZES = ("book", "paper")
NOT_FOUND = "not found"

_PACKAGE = Path(__file__).resolve().parents[1]
_REQUIRED = (
    "id",
    "paper",
    "where",
    "statement",
    "kind",
    "reported",
    "criterion",
    "experiment",
    "chapter",
)
_OPTIONAL = ("sizes", "note")
_ALIASES = {"between": "within"}


class LedgerError(ValueError):
    """A claim or a run record that breaks the schema; the message says which and how."""


@dataclass(frozen=True)
class Predicate:
    """One inequality of a criterion.

    Attributes:
      name: measured value that is judged.
      op: one of `< <= > >= == within`.
      target: a number, the name of another measured value, or `(low, high)` for `within`.
      seeds: `mean` judges the mean over seeds, `every` each seed by itself.

    >>> print(Predicate("clean", "within", (0.9, 1.0), "mean"))
    clean within [0.9, 1] (mean over seeds)
    """

    name: str
    op: str
    target: float | str | tuple[float, float]
    seeds: str

    @property
    def names(self) -> tuple[str, ...]:
        """The measured values that this predicate reads."""
        return (self.name, self.target) if isinstance(self.target, str) else (self.name,)

    def __str__(self) -> str:
        target = self.target
        if isinstance(target, tuple):
            target = f"[{target[0]:g}, {target[1]:g}]"
        elif isinstance(target, float):
            target = f"{target:g}"
        rule = "every seed" if self.seeds == "every" else "mean over seeds"
        return f"{self.name} {self.op} {target} ({rule})"


@dataclass(frozen=True)
class Claim:
    """One row of the ledger: a sentence of a paper and what we would accept as agreement.

    Attributes:
      id: name of the row, also its anchor in the book.
      paper: key of the bibliography.
      where: section, equation, figure or table.
      statement: the claim in our words.
      kind: `number`, `ordering`, `shape` or `theorem`.
      reported: the paper's value, or `not found`.
      source: where that value was read.
      criterion: predicates; all of them must hold.
      experiment: name of the experiment that measures it.
      chapter: page that shows it, as in `_toc.yml`.
      sizes: sizes of the experiment that measure it.
      note: anything a reader must know to judge the criterion.
    """

    id: str
    paper: str
    where: str
    statement: str
    kind: str
    reported: float | str
    source: str
    criterion: tuple[Predicate, ...]
    experiment: str
    chapter: str
    sizes: tuple[str, ...] = SIZES
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The measured values that the criterion reads, each once, in order."""
        return tuple(dict.fromkeys(n for p in self.criterion for n in p.names))

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when the criterion, experiment or sizes change."""
        parts = [[p.name, p.op, p.target, p.seeds] for p in self.criterion]
        text = json.dumps([parts, self.experiment, self.sizes])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(*, write: bool = False) -> Path:
    """The folder that holds `claims.yaml` and `runs/`.

    Args:
      write: whether a record is to be stored; the copy inside a wheel is read only.

    Raises:
      LedgerError: there is no ledger, or only one that must not be written.
    """
    named = os.environ.get("NTKLAB_LEDGER")
    places = [Path(named)] if named else [_PACKAGE.parent / "book" / "ledger", _PACKAGE / "_ledger"]
    place = next((p for p in places if (p / "claims.yaml").is_file()), None)
    if place is None:
        raise LedgerError(
            f"NTKLAB_LEDGER is {named}, which holds no claims.yaml; name the folder that does."
            if named
            else "No ledger was found; set NTKLAB_LEDGER to the folder that holds claims.yaml."
        )
    if write and place == _PACKAGE / "_ledger":
        raise LedgerError(
            "The ledger inside an installed package is read only; copy it, and set "
            "NTKLAB_LEDGER to the copy to keep records."
        )
    return place


def claims(
    paper: str | None = None, chapter: str | None = None, experiment: str | None = None
) -> tuple[Claim, ...]:
    """All claims in the order of the file, or those of one paper, chapter or experiment.

    Raises:
      LedgerError: the file breaks the schema; one sentence names the row and the field.
    """
    path = folder() / "claims.yaml"
    stamp = path.stat()
    wanted = {"paper": paper, "chapter": chapter, "experiment": experiment}
    return tuple(
        c
        for c in _read(path, stamp.st_mtime_ns, stamp.st_size)
        if all(v is None or getattr(c, k) == v for k, v in wanted.items())
    )


def claim(id: str) -> Claim:
    """The claim with this id.

    Raises:
      LedgerError: there is none.
    """
    for row in claims():
        if row.id == id:
            return row
    raise LedgerError(f"There is no claim {id!r}; see book/ledger/claims.yaml for the ids.")


@functools.lru_cache(maxsize=8)
def _read(path: Path, mtime: int, size: int) -> tuple[Claim, ...]:
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Claim, ...]:
    """The claims in a YAML text.

    Raises:
      LedgerError: it breaks the schema.
    """
    import yaml

    try:
        entries = yaml.load(text, Loader=_strict_loader())
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise LedgerError(f"claims.yaml is not valid YAML: {line}.") from error
    if not isinstance(entries, list):
        raise LedgerError("claims.yaml must be a list of claims, each starting with '- id:'.")
    parsed = tuple(_claim(entry, number) for number, entry in enumerate(entries, 1))
    seen: set[str] = set()
    for row in parsed:
        if row.id in seen:
            raise LedgerError(f"claims.yaml has two rows with the id {row.id!r}; rename one.")
        seen.add(row.id)
    return parsed


def _strict_loader():
    """YAML's safe loader, but a key given twice is an error instead of an override."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise LedgerError(f"claims.yaml: the key {twice!r} is given twice near line {line}.")
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


def _claim(entry, number: int) -> Claim:
    where = f"claims.yaml, row {number}"
    if isinstance(entry, Mapping) and isinstance(entry.get("id"), str):
        where += f" ({entry['id']})"
    _keys(entry, where, _REQUIRED, _OPTIONAL)
    texts = {k: _text(entry, k, where) for k in _REQUIRED if k not in ("reported", "criterion")}
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", texts["id"]):
        raise LedgerError(f"{where}: id must be lower-case letters, digits and hyphens.")
    _one_of(texts["kind"], KINDS, f"{where}: kind")
    reported, source = _reported(entry["reported"], where)
    sizes = entry.get("sizes", list(SIZES))
    if not isinstance(sizes, list) or not sizes or not set(sizes) <= set(SIZES):
        raise LedgerError(f"{where}: sizes must be a list out of {', '.join(SIZES)}.")
    return Claim(
        **texts,
        reported=reported,
        source=source,
        criterion=_criterion(entry["criterion"], where),
        sizes=tuple(sizes),
        note=_text(entry, "note", where) if "note" in entry else "",
    )


def _reported(entry, where: str) -> tuple[float | str, str]:
    if entry == NOT_FOUND:
        return NOT_FOUND, ""
    where += ": reported"
    if not isinstance(entry, Mapping):
        raise LedgerError(f"{where} must be '{NOT_FOUND}' or have a value and a source.")
    _keys(entry, where, ("value", "source"))
    value = entry["value"]
    if _is_number(value):
        value = float(value)
    elif not isinstance(value, str) or not value.strip():
        raise LedgerError(f"{where}.value must be a finite number or a text, got {value!r}.")
    return value, _text(entry, "source", where)


def _criterion(entries, where: str) -> tuple[Predicate, ...]:
    if not isinstance(entries, list) or not entries:
        raise LedgerError(f"{where}: criterion must be a list of at least one predicate.")
    return tuple(_predicate(e, f"{where}: predicate {i}") for i, e in enumerate(entries, 1))


def _predicate(entry, where: str) -> Predicate:
    _keys(entry, where, ("name", "op", "target", "seeds"))
    name, seeds = _text(entry, "name", where), _text(entry, "seeds", where)
    op = _text(entry, "op", where)
    op = _ALIASES.get(op, op)
    _one_of(op, OPERATORS, f"{where}: op")
    _one_of(seeds, SEED_RULES, f"{where}: seeds")
    target = entry["target"]
    if op == "within":
        pair = isinstance(target, list) and len(target) == 2 and all(map(_is_number, target))
        if not pair or target[0] > target[1]:
            raise LedgerError(f"{where}: the target of 'within' must be [low, high], low first.")
        return Predicate(name, op, (float(target[0]), float(target[1])), seeds)
    if _is_number(target):
        return Predicate(name, op, float(target), seeds)
    if not isinstance(target, str) or not target.strip():
        raise LedgerError(f"{where}: target must be a finite number or the name of a value.")
    return Predicate(name, op, target, seeds)


def _keys(entry, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(entry, Mapping):
        raise LedgerError(f"{where} must be a mapping with the keys {', '.join(required)}.")
    missing = [k for k in required if k not in entry]
    if missing:
        raise LedgerError(f"{where} lacks {', '.join(missing)}.")
    unknown = [str(k) for k in entry if k not in required + optional]
    if unknown:
        raise LedgerError(f"{where} has the unknown key {', '.join(unknown)}.")


def _text(entry, key: str, where: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise LedgerError(f"{where}: {key} must be a text, got {value!r}.")
    return " ".join(value.split())


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise LedgerError(f"{where} must be one of {' '.join(allowed)}, got {value!r}.")


def _is_number(value) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)

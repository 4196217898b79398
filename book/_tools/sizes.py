"""Sizes of a chapter's live cells: one parameters cell, and the overrides of `sizes.yaml`.

papermill accepts a parameter that the notebook does not know, and one that a later cell assigns
again: both would leave a test running at a size that nobody asked for. `problems` catches them
before anything runs.
"""

import ast
from pathlib import Path
from typing import Any

import nbformat
import yaml
from book_config import ROOT, chapters
from numbering import cell_end, read_cells
from rebinding import bound_names, used_names

PARAMETERS_TAG = "parameters"
SIZES = ("quick", "paper")
FILE = "tests/chapters/sizes.yaml"
_SCALARS = (bool, int, float, str)


class SizesError(ValueError):
    """A wrong entry of `sizes.yaml` or a wrong parameters cell, said in one sentence."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice: plain YAML silently keeps the second."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            line = node.start_mark.line + 1
            raise SizesError(f"{FILE}:{line}: {', '.join(twice)} is given twice.")
        return super().construct_mapping(node, deep)


def code_cells(source) -> list[tuple[str, tuple[str, ...]]]:
    """The code cells, each with its tags, of a notebook or of MyST text."""
    if isinstance(source, str):
        cells = [c for c in read_cells(source, "text") if c.kind == "code"]
    else:
        cells = [c for c in source.cells if c.cell_type == "code"]
    return [(cell.source, tuple(cell.metadata.get("tags", ()))) for cell in cells]


def parameters(source) -> dict[str, Any]:
    """The names and the published values that the one parameters cell assigns.

    Args:
      source: a notebook (nbformat) or the MyST text of a chapter.

    Raises:
      SizesError: not exactly one such cell, or a line of it that is no plain assignment of a
        literal: a number, a string, true or false, or a list of these.
    """
    found = [text for text, tags in code_cells(source) if PARAMETERS_TAG in tags]
    if len(found) != 1:
        raise SizesError(
            f"A chapter has exactly one cell tagged {PARAMETERS_TAG}, not {len(found)}."
        )
    values = {}
    for node in _parsed(found[0], "The parameters cell").body:
        name, value = _assignment(node)
        if name in values:
            raise SizesError(f"The parameters cell assigns {name} twice.")
        values[name] = value
    return values


def _parsed(code: str, which: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError as error:
        raise SizesError(f"{which} is not plain Python (line {error.lineno}).") from None


def _assignment(node: ast.stmt) -> tuple[str, Any]:
    target = node.target if isinstance(node, ast.AnnAssign) else None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    if not isinstance(target, ast.Name) or node.value is None:
        raise SizesError(
            "The parameters cell may hold lines `name = value` only; "
            f"line {node.lineno} is `{ast.unparse(node)}`."
        )
    try:
        value = ast.literal_eval(node.value)
    except (ValueError, TypeError):
        value = None
    if not _plain(value):
        raise SizesError(
            f"The parameter {target.id} must be a number, a string, true, false or a list of "
            f"these, not `{ast.unparse(node.value)}`."
        )
    return target.id, value


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return isinstance(value, _SCALARS)


def problems(source, overrides: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with a chapter's parameters, one sentence each; empty when all is well.

    Args:
      source: a notebook or the MyST text of a chapter.
      overrides: values that are to be injected; each must reach the cells that follow.
    """
    try:
        values = parameters(source)
        found = _misused(code_cells(source), values)
    except SizesError as error:
        return [str(error)]
    for name, value in (overrides or {}).items():
        if name not in values:
            known = ", ".join(sorted(values))
            found.append(
                f"{name} is overridden, but the parameters cell assigns only {known}: "
                "papermill would ignore it."
            )
        elif message := _mismatch(value, values[name]):
            found.append(f"{name} {message}")
    return found


def _misused(cells: list[tuple[str, tuple[str, ...]]], values: dict[str, Any]) -> list[str]:
    """Parameters that a cell assigns again, and parameters that no cell behind theirs reads."""
    place = next(i for i, (_, tags) in enumerate(cells) if PARAMETERS_TAG in tags)
    found, used = [], set()
    for index, (code, tags) in enumerate(cells):
        if index == place or "injected-parameters" in tags:
            continue
        tree = _parsed(code, f"Code cell {index + 1}")
        for name in sorted(bound_names(tree) & values.keys()):
            found.append(
                f"Code cell {index + 1} assigns the parameter {name} again: an override would "
                "be lost. Give the new value another name."
            )
        used |= used_names(tree) if index > place else set()
    found += [f"No later cell reads the parameter {n}." for n in values if n not in used]
    return found


def _mismatch(value: Any, published: Any) -> str:
    """Why `value` cannot stand for `published`; empty when their types agree."""
    if type(value) is not type(published):
        hint = (
            " (write 1.0e-3, with a point, for YAML to read a float)" if _floatlike(value) else ""
        )
        return (
            f"is {type(published).__name__} in the parameters cell, but the override {value!r} "
            f"is {type(value).__name__}{hint}."
        )
    if isinstance(value, float) and not abs(value) < float("inf"):
        return f"cannot be {value!r}: a parameter is a finite number."
    if isinstance(value, list) and published:
        for item in value:
            if message := _mismatch(item, published[0]):
                return f"has an item that {message}"
    return ""


def _floatlike(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def load_sizes(path: Path | None = None, root: Path = ROOT) -> dict[str, dict[str, dict]]:
    """Read and check the overrides of every chapter: `{chapter: {size: {parameter: value}}}`.

    Raises:
      SizesError: an unknown or missing chapter, an unknown size, a chapter without `quick`, an
        unknown parameter, or a value of another type than the published one.
    """
    path = Path(path or root / FILE)
    if not path.is_file():
        raise SizesError(f"{FILE} is missing: it holds the quick size of every chapter.")
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise SizesError(f"{FILE} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(table, dict):
        raise SizesError(f"{FILE} must map chapters to sizes.")
    known = {chapter.name: chapter for chapter in chapters(root)}
    for name in table:
        if name not in known:
            raise SizesError(f"{FILE}: {name!r} is no chapter; they are: {', '.join(known)}.")
    for name, chapter in known.items():
        if name not in table:
            raise SizesError(f"{FILE}: the chapter {name} is missing.")
        _check_entry(name, table[name], chapter.source.read_text(encoding="utf-8"))
    return table


def _check_entry(name: str, entry: Any, text: str) -> None:
    if not isinstance(entry, dict) or "quick" not in entry:
        raise SizesError(f"{FILE}: {name} needs an entry quick: with its parameters.")
    for size, values in entry.items():
        if size not in SIZES:
            raise SizesError(
                f"{FILE}: {name} has the unknown size {size!r}; sizes are {', '.join(SIZES)} "
                "(the book size stands in the chapter itself)."
            )
        if not isinstance(values, dict):
            raise SizesError(f"{FILE}: {name}, {size}: parameters must be lines `name: value`.")
        if found := problems(text, values):
            raise SizesError(f"{FILE}: {name}, {size}: {' '.join(found)}")


def overrides(name: str, size: str, root: Path = ROOT) -> dict[str, Any]:
    """The overrides of one chapter at one size; none at the size of the published page."""
    if size == "book":
        return {}
    table = load_sizes(root=root)
    if name not in table:
        raise SizesError(f"{FILE}: {name!r} is no chapter; they are: {', '.join(table)}.")
    if size not in table[name]:
        has = ", ".join(["book", *table[name]])
        raise SizesError(f"{FILE}: {name} has no size {size!r}, only {has}.")
    return table[name][size]


def injected_code(values: dict[str, Any]) -> str:
    """The text of the cell with which papermill overrides parameters."""
    return "\n".join(["# Parameters", *(f"{name} = {_code(v)}" for name, v in values.items())])


def _code(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.encode("unicode_escape").decode().replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(_code(item) for item in value)}]"
    return repr(value)


def inject(source, values: dict[str, Any], tags: tuple[str, ...] = ("injected-parameters",)):
    """The chapter with `values` in a cell of its own right behind the parameters cell.

    Args:
      source: MyST text, or a notebook (a copy is made).
      values: overrides; with none, `source` comes back unchanged.
      tags: the tags of the new cell.

    Returns:
      What was given, text or notebook, with the cell that papermill would inject.
    """
    if found := problems(source, values):
        raise SizesError(" ".join(found))
    if not values:
        return source
    code = injected_code(values)
    if not isinstance(source, str):
        notebook = nbformat.from_dict(source)
        place = next(i for i, c in enumerate(notebook.cells) if PARAMETERS_TAG in _tags(c))
        cell = nbformat.v4.new_code_cell(code, metadata={"tags": list(tags)})
        notebook.cells.insert(place + 1, cell)
        return notebook
    lines = source.split("\n")
    cell = next(c for c in read_cells(source, "text") if PARAMETERS_TAG in _tags(c))
    stop = cell_end(lines, cell.line)
    fence = f"```{{code-cell}} ipython3\n:tags: [{', '.join(tags)}]\n\n{code}\n```"
    return "\n".join([*lines[: stop + 1], "", *fence.split("\n"), *lines[stop + 1 :]])


def _tags(cell) -> list[str]:
    return list(cell.metadata.get("tags", []))


def at_size(text: str, name: str, size: str, root: Path = ROOT) -> str:
    """The MyST text of a chapter as it runs at `size`."""
    return inject(text, overrides(name, size, root))

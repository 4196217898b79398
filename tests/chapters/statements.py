"""Run the code of a chapter in one namespace, and break a statement to see its cell fail."""

import contextlib
import io

import jax
import sizes
from book_config import chapters


class Chapter:
    """The code cells of a chapter, executed one by one; each can be run again in another form.

    Args:
      name: as in `_toc.yml`.
      root: of the repository.
      overrides: values for the parameters, small enough for a unit test.
      skip: words of cells that no statement needs.
      last: words of the last cell that is run.
    """

    def __init__(self, name: str, root, overrides: dict, skip: tuple = (), last: str = ""):
        chapter = next(c for c in chapters(root) if c.name == name)
        self.text = chapter.source.read_text(encoding="utf-8")
        self.before, self.printed = {}, {}
        space = {}
        for source, tags in sizes.code_cells(self.text):
            if "setup" in tags or "charts.show(" in source or any(w in source for w in skip):
                continue
            self.before[source] = dict(space)
            self.printed[source] = _execute(source, space)
            if sizes.PARAMETERS_TAG in tags:
                assert overrides.keys() <= space.keys()
                space |= overrides
            if last and last in source:
                break
        self.space = space

    def cell(self, words: str) -> str:
        """The one cell that has these words exactly once."""
        (source,) = [s for s in self.before if words in s]
        assert source.count(words) == 1, f"{words!r} stands more than once in its cell."
        return source

    def run_broken(self, words: str, others: str) -> None:
        """Run the cell of these words with others in their place, where it stands."""
        source = self.cell(words)
        _execute(source.replace(words, others), dict(self.before[source]))


def another_digit(words: str) -> str:
    """The words with their last digit changed."""
    at = max(i for i, letter in enumerate(words) if letter.isdigit())
    return words[:at] + str((int(words[at]) + 1) % 10) + words[at + 1 :]


def _execute(source: str, space: dict) -> str:
    """What a cell prints; JAX promotes as it does for readers, not as strictly as in tests."""
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        exec(compile(source, "<cell>", "exec"), space)
    return said.getvalue()

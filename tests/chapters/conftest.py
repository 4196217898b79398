"""The book's tools on the path, a small book to work on, and the time that each chapter took."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_tools"))


@pytest.fixture
def book(tmp_path):
    """A book of two chapters in a folder of its own."""
    from small_book import Book

    return Book(tmp_path)


def pytest_terminal_summary(terminalreporter):
    """The seconds of each chapter at quick size: a figure to look at, not a bound."""
    for report in terminalreporter.stats.get("passed", []):
        for name, seconds in report.user_properties:
            late = "" if seconds <= 40 else "  (longer than the 40 s that a chapter should take)"
            terminalreporter.write_line(f"{name}: {seconds:.1f} s at quick size{late}")

"""The Sphinx extension of the book.

It hands MyST-NB the executions that are true of the present code, puts the measured cost and the
notes about size and data under a chapter's title, and keeps every page free of a network.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import book_config
import executions
import ledger_page
import offline
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

TOOLS = Path(__file__).resolve().parent
LOGGER = logging.getLogger(__name__)
DATA_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
STUB = """# {title}

```{{note}}
This chapter was not run in this build. `make book` runs it.
```
"""


@dataclass
class Book:
    """What this build knows of its chapters."""

    root: Path
    size: str
    partial: str  # the one chapter that was asked for; empty for the whole book
    executed: dict = field(default_factory=dict)  # docname -> executed notebook
    chapters: dict = field(default_factory=dict)  # docname -> book_config.Chapter

    def record(self, docname: str) -> dict | None:
        """The record of a chapter's execution, None for other pages."""
        notebook = self.executed.get(docname)
        return notebook.metadata["ntklab"] if notebook is not None else None


def prepare(app: Sphinx, config) -> None:
    """Look up the executions of the present code and put them where MyST-NB reads them."""
    root = Path(app.srcdir)
    size = executions.build_size()
    os.environ.update(executions.environment(root, size))
    book = Book(root, size, os.environ.get("NTKLAB_PARTIAL", ""))
    for chapter in book_config.chapters(root):
        text = executions.text_at_size(root, chapter.name, chapter.source.read_text("utf8"), size)
        notebook = executions.read_notebook(root, chapter.name, text)
        key = executions.chapter_key(root, notebook, size)
        book.chapters[chapter.name] = chapter
        stored = executions.load(root, chapter.name, key)
        if stored is not None:
            book.executed[chapter.name] = executions.with_outputs(notebook, stored)
    cache = Path(app.outdir).parent / ".jupyter_cache"
    executions.fill_jupyter_cache(root, cache, book.executed)
    config.nb_execution_cache_path = str(cache)
    static = Path(app.outdir).parent / ".static"
    offline.write_vega(static)
    config.html_static_path.append(str(static))
    app.ntklab = book


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a chapter the parameters of this size; leave out one that was not run."""
    book = app.ntklab
    if docname not in book.chapters:
        return
    if docname in book.executed:
        source[0] = executions.text_at_size(book.root, docname, source[0], book.size)
        return
    if docname == book.partial:
        raise ExtensionError(
            f"{docname} was run, but files that it depends on have changed since: build it again."
        )
    source[0] = STUB.format(title=book.chapters[docname].title)
    if not book.partial:
        LOGGER.warning(
            "not run with the present code: build with `make book`, which runs it first",
            location=docname,
        )


def outdated(app: Sphinx, env, added, changed, removed) -> list[str]:
    """The chapters whose execution changed though their text did not."""
    book = app.ntklab
    now = {name: (book.record(name) or {}).get("key") for name in book.chapters}
    before = getattr(env, "ntklab_keys", {})
    env.ntklab_keys = now
    changed_runs = {name for name in now if before.get(name) != now[name]}
    ledger_pages = getattr(env, "ntklab_ledger_pages", set())  # new records may lie anywhere
    return [name for name in changed_runs | ledger_pages if name in env.all_docs]


def add_notes(app: Sphinx, doctree: nodes.document) -> None:
    """Put the measured cost, and what the reader must know of size and data, under the title."""
    record = app.ntklab.record(app.env.docname)
    section = next(iter(doctree.findall(nodes.section)), None)
    if record is None or section is None:
        return
    if app.env.nb_metadata[app.env.docname]["exec_data"]["runtime"] != record["seconds"]:
        LOGGER.warning("MyST-NB did not take the stored execution", location=app.env.docname)
    notes = [nodes.paragraph(text=cost_line(record), classes=["ntklab-cost"])]
    if record["size"] == "quick":
        text = (
            "This page was built at quick size: fewer images than the book uses, so its numbers "
            "are rougher. Run make book for the full page."
        )
        notes.append(_warning("Quick size", text))
    missing = missing_data(record)
    if missing:
        text = (
            f"{missing} could not be had when this page was built, so it shows the 8x8 digits of "
            "scikit-learn instead. Its numbers are not those of the book. Connect to a network, "
            "or set NTKLAB_DATA to a folder with the data, and run make book again."
        )
        notes.append(_warning("Built on digits", text))
    section[1:1] = notes


def _warning(title: str, text: str) -> nodes.admonition:
    content = [nodes.title(text=title), nodes.paragraph(text=text)]
    return nodes.admonition("", *content, classes=["warning", "ntklab-note"])


def missing_data(record: dict) -> str:
    """The data sets that a chapter asked for and did not get, in words; empty when it got all."""
    if "digits" not in record["data"]:
        return ""
    missing = [DATA_NAMES[n] for n in record["wanted_data"] if n not in record["data"]]
    return " and ".join(missing)


def cost_line(record: dict) -> str:
    """What one execution cost, as measured: time, memory, size, date, version and device."""
    seconds, memory = record["seconds"], record["peak_mb"] / 1024
    time = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    where = record.get("device", "CPU")
    if where == "CPU":
        where = f"{record['cores']} CPU cores"
    parts = [f"Measured cost of this page: {time} on {where}", f"{memory:.1f} GB peak memory"]
    parts += [f"{record['size']} size", record["date"].split()[0]]
    if "jax" in record:
        parts.append(f"jax {record['jax']}")
    return ", ".join(parts) + "."


def finish_page(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Drop thebe from every page; load Vega where a page has charts."""
    scripts = context.get("script_files", [])
    scripts[:] = offline.without_thebe(scripts)  # in place: Sphinx adds to this very list
    body = context.get("body") or ""
    context["body"] = offline.body_without_thebe(body)
    if not offline.asked_versions(body):
        return
    wrong = offline.wrong_versions(body)
    if wrong:
        LOGGER.warning(wrong, location=pagename)
    app.add_js_file(offline.VEGA_FILE)


def offer_notebooks(app: Sphinx, error) -> None:
    """Let the download button give the readable notebook, not the page's own dialect."""
    if error is None and app.builder.format == "html":
        for name, chapter in app.ntklab.chapters.items():
            target = Path(app.outdir) / "_sources" / f"{name}.ipynb"
            if chapter.notebook.is_file() and target.parent.is_dir():
                shutil.copyfile(chapter.notebook, target)


def setup(app: Sphinx) -> dict:
    """Connect the book's hooks."""
    app.connect("config-inited", prepare)
    app.connect("source-read", read_source)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", add_notes)
    app.connect("html-page-context", finish_page, priority=900)
    app.connect("build-finished", offer_notebooks)
    ledger_page.setup(app)
    # Sphinx reads all pages again when this number changes: when a tool of the book does.
    tools = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(TOOLS.glob("*.py"))))
    return {
        "version": "1",
        "env_version": int(tools.hexdigest()[:8], 16),
        "parallel_read_safe": False,
        "parallel_write_safe": True,
    }

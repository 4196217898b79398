"""What was executed: the keys that say whether a result is still true, and the store of results.

A chapter's key is a hash of everything that its outputs can depend on: the package, the lock, the
ledger, Python, the size, the data and the chapter's own code cells. A stored execution is used
only under its exact key, so a page can never show what other code computed. Each execution is one
file `_build/executed/<chapter>/<key>.ipynb`, written whole or not at all.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import nbformat
import sizes
import yaml

ROOT = Path(__file__).resolve().parents[2]
STORE = "_build/executed"
SIZES = ("book", "quick", "paper")
KEPT = 6  # executions kept for each chapter
DATA_SETS = ("mnist", "fashion_mnist", "cifar10")

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the package of this tree, whatever is installed


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def build_size() -> str:
    """The size of this build: the variable NTKLAB_SIZE, `book` when it is not set."""
    size = os.environ.get("NTKLAB_SIZE", "book")
    if size not in SIZES:
        raise SystemExit(f"NTKLAB_SIZE must be one of {', '.join(SIZES)}, got {size!r}.")
    return size


def environment(root: Path, size: str) -> dict[str, str]:
    """The environment in which every chapter runs, whoever starts it."""
    env = dict(os.environ)
    paths = [str(root), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env.update(PYTHONPATH=os.pathsep.join(dict.fromkeys(paths)), NTKLAB_BOOK="1", NTKLAB_SIZE=size)
    env["IPYTHONDIR"] = str(root / "_build" / ".ipython")  # no start-up files of the user
    Path(env["IPYTHONDIR"]).mkdir(parents=True, exist_ok=True)
    env.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    cores = str(os.cpu_count() or 1)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        env.setdefault(name, cores)
    return env


@cache
def markdown_config(root: Path):
    """The Markdown settings of the book: they decide which fences are cells."""
    from myst_parser.config.main import MdParserConfig

    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    return MdParserConfig(enable_extensions=set(settings["parse"]["myst_enable_extensions"]))


def text_at_size(root: Path, docname: str, text: str, size: str) -> str:
    """The chapter's text with the parameters of this size."""
    return sizes.at_size(text, docname, size, root)


def read_notebook(root: Path, docname: str, text: str):
    """The notebook that MyST-NB reads from this text, cell for cell."""
    from myst_nb.core.read import read_myst_markdown_notebook

    path = root / f"{docname}.md"
    return read_myst_markdown_notebook(text, markdown_config(root), path=path)


def _add_tree(digest, root: Path, folder: Path, pattern: str) -> None:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".tmp":
            digest.update(str(path.relative_to(root)).encode() + b"\0")
            with path.open("rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())


@cache
def code_key(root: Path) -> str:
    """A hash of the package, the lock, the ledger and the Python version."""
    digest = hashlib.sha256(f"python {sys.version_info[:2]}".encode())
    _add_tree(digest, root, root / "ntklab", "*")
    _add_tree(digest, root, root / "book" / "ledger", "*")
    _add_tree(digest, root, root, "requirements.txt")
    return digest.hexdigest()


@cache
def _folder_key(folder: Path) -> str:
    digest = hashlib.sha256()
    _add_tree(digest, folder, folder, "*")
    return digest.hexdigest()


def data_state(name: str) -> str:
    """Where a data set comes from now: a folder's hash, `official` (by checksum) or `missing`.

    A data set that is nowhere is fetched here, so that a download happens before the chapters run
    and not inside one of them. The answer is kept in the environment: Sphinx, which asks next,
    must not wait for a network a second time.
    """
    variable = f"NTKLAB_DATA_STATE_{name.upper()}"
    if variable not in os.environ:
        os.environ[variable] = _find_data(name)
    return os.environ[variable]


def _find_data(name: str) -> str:
    from ntklab.data import sources

    try:
        folder, _ = sources.locate(name)
    except (OSError, RuntimeError, ImportError) as error:
        print(f"No {name} for this build: {error}", file=sys.stderr)
        return "missing"
    return _folder_key(Path(folder).resolve()) if os.environ.get("NTKLAB_DATA") else "official"


def named_data(notebook) -> list[str]:
    """The downloadable data sets that the code of a chapter names."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return [name for name in DATA_SETS if re.search(rf"['\"]{name}['\"]", code)]


def chapter_key(root: Path, notebook, size: str) -> str:
    """The key of one chapter at one size: a hash of all that its outputs depend on."""
    digest = hashlib.sha256(f"{code_key(root)} {size}".encode())
    for name in named_data(notebook):
        digest.update(f"{name} {data_state(name)}".encode())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(cell.source.encode() + b"\0")
    return digest.hexdigest()[:32]


def store_path(root: Path, docname: str, key: str) -> Path:
    """The file of one execution."""
    return root / STORE / docname.replace("/", "-") / f"{key}.ipynb"


def load(root: Path, docname: str, key: str):
    """The execution under this key, or None where there is none that can be read."""
    path = store_path(root, docname, key)
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError):
        return None
    return notebook if "ntklab" in notebook.metadata else None


def save(root: Path, docname: str, notebook, record: dict) -> Path:
    """Store an executed chapter with the record of its execution, and drop the oldest."""
    notebook.metadata["ntklab"] = nbformat.from_dict(record)
    path = store_path(root, docname, record["key"])
    write_atomically(path, nbformat.writes(notebook))
    prune(path.parent)
    return path


def prune(folder: Path) -> None:
    """Keep the newest executions of a chapter, and nothing half-written."""
    for leftover in folder.glob("*.tmp"):
        if time.time() - leftover.stat().st_mtime > 3600:  # a killed build's, not a running one's
            leftover.unlink(missing_ok=True)
    stored = sorted(folder.glob("*.ipynb"), key=lambda p: p.stat().st_mtime)
    for old in stored[:-KEPT]:
        old.unlink(missing_ok=True)


def last_record(root: Path, docname: str, size: str) -> dict | None:
    """The newest record of a chapter at a size, whatever its key: it says how long cells took."""
    stored = sorted(
        store_path(root, docname, "x").parent.glob("*.ipynb"), key=lambda p: -p.stat().st_mtime
    )
    for path in stored:
        record = json.loads(path.read_text(encoding="utf8"))["metadata"].get("ntklab", {})
        if record.get("size") == size:
            return record
    return None


def with_outputs(notebook, stored):
    """The chapter as it reads now, with the outputs of a stored execution of the same code."""
    cells = (cell for cell in stored.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            executed = next(cells)
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    notebook.metadata["ntklab"] = stored.metadata["ntklab"]
    lexer = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata["language_info"] = nbformat.from_dict(lexer)
    return notebook


def fill_jupyter_cache(root: Path, folder: Path, executed: dict) -> None:
    """Make `folder` a jupyter-cache that holds these notebooks and nothing else, for MyST-NB."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    shutil.rmtree(folder, ignore_errors=True)
    store = get_cache(folder)
    for docname, notebook in executed.items():
        data = {"execution_seconds": notebook.metadata["ntklab"]["seconds"]}
        bundle = CacheBundleIn(notebook, str(root / f"{docname}.md"), data=data)
        store.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)

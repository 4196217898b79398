"""What `_config.yml` and `_toc.yml` say: the one public address, and which pages the book has."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
_HEADER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


class ConfigError(ValueError):
    """A setting of the book that is missing or cannot be used, said in one sentence."""


class Chapter(NamedTuple):
    """One runnable page: its name in `_toc.yml`, its source, and the notebook beside it."""

    name: str
    source: Path
    notebook: Path
    title: str


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise ConfigError(f"{path.name} is missing at the top of the repository ({path.parent}).")
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name} must hold a mapping of settings.")
    return value


def repository_url(root: Path = ROOT) -> str:
    """The public address of the repository: the one setting `repository: url:` of `_config.yml`."""
    settings = _read_yaml(Path(root) / "_config.yml").get("repository")
    url = settings.get("url") if isinstance(settings, dict) else None
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("_config.yml has no address in `repository: url: https://...`.")
    return url.rstrip("/").removesuffix(".git")


def bibliography(root: Path = ROOT) -> Path:
    """The BibTeX file of the book: the first of `bibtex_bibfiles` in `_config.yml`."""
    files = _read_yaml(Path(root) / "_config.yml").get("bibtex_bibfiles")
    if not isinstance(files, list) or not files:
        raise ConfigError("_config.yml names no bibliography in `bibtex_bibfiles:`.")
    path = Path(root) / files[0]
    if not path.is_file():
        raise ConfigError(f"_config.yml names the bibliography {files[0]}, which does not exist.")
    return path


def branch(root: Path = ROOT) -> str:
    """The branch that launch links open: `repository: branch:` of `_config.yml`, main if unset."""
    settings = _read_yaml(Path(root) / "_config.yml").get("repository")
    return str(settings.get("branch", "main")) if isinstance(settings, dict) else "main"


def site_url(root: Path = ROOT) -> str:
    """Where the built pages are published, with a trailing slash.

    For a GitHub repository this is its Pages address. For another host it is the repository
    address followed by `/pages/`: a host that publishes elsewhere sets `html: baseurl:`.
    """
    html = _read_yaml(Path(root) / "_config.yml").get("html")
    if isinstance(html, dict) and html.get("baseurl"):
        return str(html["baseurl"]).rstrip("/") + "/"
    parts = urlsplit(repository_url(root))
    steps = [step for step in parts.path.split("/") if step]
    if parts.netloc == "github.com" and len(steps) == 2:
        return f"https://{steps[0].lower()}.github.io/{steps[1]}/"
    return f"{parts.scheme}://{parts.netloc}{parts.path}/pages/"


def colab_url(chapter: Chapter, root: Path = ROOT) -> str | None:
    """The address at which Colab opens a chapter; None when the repository is not on GitHub."""
    parts = urlsplit(repository_url(root))
    if parts.netloc != "github.com":
        return None
    path = chapter.notebook.relative_to(root).as_posix()
    return f"https://colab.research.google.com/github{parts.path}/blob/{branch(root)}/{path}"


def _files(node) -> list[str]:
    """Every `root:` and `file:` below a node of the table of contents, in reading order."""
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    below = [_files(node[key]) for key in ("parts", "chapters", "sections") if key in node]
    return own + [name for names in below for name in names]


def pages(root: Path = ROOT) -> dict[str, Path]:
    """Every page of the book, by its name in `_toc.yml`, in reading order."""
    found = {}
    for name in _files(_read_yaml(Path(root) / "_toc.yml")):
        name = str(name).removesuffix(".md")
        path = Path(root) / f"{name}.md"
        if not path.is_file():
            raise ConfigError(f"_toc.yml lists {name!r}, but {name}.md does not exist.")
        found[name] = path
    return found


def header(text: str) -> dict:
    """The YAML block at the top of a page, empty when there is none."""
    match = _HEADER.match(text)
    value = yaml.safe_load(match[1]) if match else None
    return value if isinstance(value, dict) else {}


def title_of(text: str) -> str:
    """The first level-one heading of a page, as written."""
    match = re.search(r"^# +(.+?) *#*$", _HEADER.sub("", text), re.MULTILINE)
    return match[1] if match else ""


def chapters(root: Path | str | None = None) -> tuple[Chapter, ...]:
    """The pages with a jupytext or kernelspec header, in the order of `_toc.yml`."""
    root = Path(ROOT if root is None else root)
    found = []
    for name, path in pages(root).items():
        text = path.read_text(encoding="utf-8")
        if {"jupytext", "kernelspec"} & header(text).keys():
            found.append(Chapter(name, path, path.with_suffix(".ipynb"), title_of(text)))
    return tuple(found)


def _numbered(root: Path) -> dict[str, int]:
    toc, numbers, count = _read_yaml(root / "_toc.yml"), {}, 0
    everywhere = _wants_numbers(toc) or _wants_numbers(toc.get("defaults"))
    for group in toc.get("parts") or [toc]:
        if not everywhere and not _wants_numbers(group):
            continue
        for entry in group.get("chapters", []):
            count += 1
            numbers |= {str(name).removesuffix(".md"): count for name in _files(entry)}
    return numbers


def _wants_numbers(node) -> bool:
    node = node if isinstance(node, dict) else {}
    options = node.get("options") if isinstance(node.get("options"), dict) else {}
    return bool(node.get("numbered") or options.get("numbered"))


def chapter_number(name: str, root: Path = ROOT) -> int | None:
    """The number that the table of contents gives a page; None where it numbers nothing."""
    return _numbered(Path(root)).get(name)

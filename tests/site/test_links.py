"""The links of the site, read from its files: all resolve, none loads from another host."""

from urllib.parse import unquote, urldefrag, urlsplit

import book_config
import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = book_config.ROOT
PAGES = list(book_config.pages())
CHAPTERS = list(book_config.chapters())
MAX_BYTES = 1_500_000


def soup_of(site, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"{name}.html").read_bytes(), "html.parser")


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_resolve(site, name):
    """Each link inside the book leads to a file, and each fragment to an element of it."""
    page, soups, broken = site / f"{name}.html", {}, []
    for link in soup_of(site, name).find_all("a", href=True):
        href, fragment = urldefrag(link["href"])
        if urlsplit(href).scheme or href.startswith("//"):
            continue
        target = (page.parent / unquote(href)).resolve() if href else page
        if not target.is_file():
            broken.append(link["href"])
        elif fragment and target.suffix == ".html":
            if target not in soups:
                soups[target] = BeautifulSoup(target.read_bytes(), "html.parser")
            if soups[target].find(id=unquote(fragment)) is None:
                broken.append(link["href"])
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_loads_from_another_host(site, name):
    """Scripts, styles, pictures and fonts all come with the book."""
    soup = soup_of(site, name)
    loaded = [tag["src"] for tag in soup.find_all(src=True)]
    loaded += [tag["href"] for tag in soup.find_all("link", href=True)]
    assert [url for url in loaded if url.startswith(("http", "//"))] == []
    assert not [url for url in loaded if "thebe" in url and url.endswith(".js")]


@pytest.mark.parametrize("name", PAGES)
def test_page_weighs_little(site, name):
    """A page and the pictures that are its own are at most 1.5 MB."""
    page = site / f"{name}.html"
    own = [i["src"] for i in soup_of(site, name).find_all("img", src=True)]
    own = [src for src in own if "_images" in src]
    weight = page.stat().st_size
    weight += sum((page.parent / unquote(src)).resolve().stat().st_size for src in own)
    assert weight <= MAX_BYTES


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_colab_opens_a_notebook_that_exists(site, chapter):
    """The launch button names the committed notebook, in the repository of `_config.yml`."""
    links = soup_of(site, chapter.name).find_all("a", href=True)
    found = {a["href"] for a in links if "colab.research.google.com" in a["href"]}
    assert found == {book_config.colab_url(chapter)}
    url = found.pop()
    path = ROOT / url.split(f"/blob/{book_config.branch()}/")[1]
    assert path.suffix == ".ipynb"
    assert path == chapter.notebook
    nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_download_gives_the_readable_notebook(site, chapter):
    """The download button gives the committed notebook, byte for byte."""
    offered = site / "_sources" / f"{chapter.name}.ipynb"
    assert offered.read_bytes() == chapter.notebook.read_bytes()

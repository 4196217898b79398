"""The site, built once at quick size, served from this machine and read in headless Chromium."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "book" / "_tools"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

sys.path.insert(0, str(TOOLS))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a line for each."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def site():
    """The folder of the pages: `make book SIZE=quick`, which runs only what changed."""
    command = [sys.executable, str(TOOLS / "build.py"), "--size", "quick"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return ROOT / "_build" / "quick" / "_build" / "html"


@pytest.fixture(scope="session")
def address(site):
    """The site's address on this machine."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def chromium():
    """The system's browser; without one, tests are skipped, and fail in CI."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = "no Chromium on the PATH: install it (Debian, Ubuntu: apt install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def browser(chromium):
    """One browser for all pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        running = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield running
        running.close()


class Visit:
    """A page as a reader without a network sees it, with everything that went wrong."""

    def __init__(self, browser, address: str, width: int, theme: str):
        self.problems: list[str] = []
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.add_init_script(
            f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
        )
        self.context.route("**/*", self._local_only)
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))

    def _local_only(self, route):
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.problems.append(f"asks the network for {route.request.url}")
            route.abort()

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"console {message.type}: {message.text}")

    def open(self, name: str):
        """Open a page and wait until charts and mathematics are there."""
        self.page.goto(f"{self.address}/{name}.html", wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise")
        charts = "[...document.querySelectorAll('.vega-embed')].every(e => e.querySelector('svg'))"
        self.page.wait_for_function(charts, timeout=20_000)
        self.page.wait_for_timeout(150)
        return self.page

    def screenshots(self, stem: Path) -> None:
        """Save the page as pictures of at most 4,000 pixels height.

        Playwright's full-page picture resizes the window on the way, and charts with it.
        """
        width = self.page.viewport_size["width"]
        height = self.page.evaluate("document.documentElement.scrollHeight")
        self.page.set_viewport_size({"width": width, "height": min(height, 4000)})
        for number, top in enumerate(range(0, height, 4000)):
            self.page.evaluate(f"window.scrollTo({{top: {top}, behavior: 'instant'}})")
            self.page.wait_for_timeout(50)
            self.page.screenshot(path=stem.with_name(f"{stem.name}-{number}.png"))


@pytest.fixture
def visit(browser, address):
    """A function that opens a page at a width, in a theme."""
    opened = []

    def make(name: str, width: int = 1280, theme: str = "light") -> Visit:
        opened.append(Visit(browser, address, width, theme))
        opened[-1].open(name)
        return opened[-1]

    yield make
    for one in opened:
        one.context.close()

"""Every page, with no network: drawn, typeset, readable in light and dark, wide and narrow."""

import book_config
import pytest

SCREENSHOTS = book_config.ROOT / "_build" / "screenshots"
PAGES = list(book_config.pages())
CHAPTERS = [chapter.name for chapter in book_config.chapters()]
VIEWS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]

LABELS = """() => [...document.querySelectorAll('.vega-embed')].map(
    e => e.querySelector('[role="graphics-document"]')?.getAttribute('aria-label') || '')"""

# Words outside code in which a formula stayed raw.
RAW_MATH = r"""() => {
  const walk = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
  const raw = [];
  while (walk.nextNode()) {
    const inside = walk.currentNode.parentElement.closest(
      'pre, code, script, style, mjx-container, svg');
    if (!inside && /\$\$|\\\(|\\\[|\\begin\{/.test(walk.currentNode.data))
      raw.push(walk.currentNode.data.trim().slice(0, 80));
  }
  return raw;
}"""

# Contrast (WCAG 2) of words with what lies behind them.
LOW_CONTRAST = """(selector) => {
  const rgb = c => { const v = c.match(/[\\d.]+/g)?.map(Number) || [0, 0, 0, 0];
                     return v.length < 4 ? [...v, 1] : v; };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 0.5) return c; }
    return [255, 255, 255, 1]; };
  const low = [];
  for (const e of document.querySelectorAll(selector)) {
    const words = e.textContent.trim();
    if (!words || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const ink = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${words.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""

OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  return document.documentElement.scrollWidth <= width ? [] :
    [...document.querySelectorAll('article *')].filter(
      e => e.getBoundingClientRect().right > width + 1).slice(0, 5).map(
      e => `${e.tagName}.${e.className} ends at ${e.getBoundingClientRect().right}`);
}"""

SEARCHES = """() => [...document.querySelectorAll(
    'form.bd-search input, .search-button-field, .search-button')].filter(
    e => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})).length"""


@pytest.mark.parametrize(("width", "theme"), VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_complete_without_a_network(visit, name, width, theme):
    """Nothing is asked of the network, nothing fails, nothing sticks out, words can be read."""
    seen = visit(name, width, theme)
    page = seen.page
    assert seen.problems == []
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate(RAW_MATH) == []
    assert page.evaluate(SEARCHES) == 1
    assert page.evaluate(LOW_CONTRAST, ".vega-embed svg text") == []
    words = "article p, article li, article td, article th, article figcaption, article h2"
    assert page.evaluate(LOW_CONTRAST, words) == []


def test_the_checks_can_fail(visit):
    """Each check finds the fault that it looks for."""
    seen = visit(PAGES[0], width=390)
    seen.page.evaluate(
        """() => {
          document.querySelector('article').insertAdjacentHTML('beforeend',
            '<p id="pale" style="color: #bbb">pale words</p><p>$$x$$</p>' +
            '<div style="width: 900px">wide</div><button class="search-button">again</button>');
          console.error('on purpose');
          fetch('https://example.org/').catch(() => {});
        }"""
    )
    seen.page.wait_for_timeout(200)
    assert seen.page.evaluate(OVERFLOW) != []
    assert seen.page.evaluate(RAW_MATH) == ["$$x$$"]
    assert seen.page.evaluate(SEARCHES) == 2
    assert len(seen.page.evaluate(LOW_CONTRAST, "#pale")) == 1
    assert "console error: on purpose" in seen.problems
    assert "asks the network for https://example.org/" in seen.problems


@pytest.mark.parametrize(("width", "theme"), VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_screenshots_are_kept(visit, name, width, theme):
    """Pictures of each page for people to look at, and proof that none is blank."""
    from PIL import Image

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    stem = SCREENSHOTS / f"{name.replace('/', '-')}-{width}-{theme}"
    for old in SCREENSHOTS.glob(f"{stem.name}-*.png"):
        old.unlink()
    visit(name, width, theme).screenshots(stem)
    made = list(SCREENSHOTS.glob(f"{stem.name}-*.png"))
    assert made
    for path in made:
        with Image.open(path) as image:
            assert len(image.getcolors(maxcolors=1 << 24)) > 20, path.name


@pytest.mark.parametrize("name", PAGES)
def test_charts_are_drawn_and_described(visit, site, name):
    """Each chart of the source is drawn as SVG and says in words what it shows."""
    page = visit(name).page
    asked = (site / f"{name}.html").read_text(encoding="utf8").count("var VEGA_DEBUG =")
    labels = page.evaluate(LABELS)
    assert len(labels) == asked
    assert [label for label in labels if len(label) < 60] == []
    assert page.locator(".cell_output .error").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_mathematics_is_typeset(visit, site, name):
    """Every formula of the HTML became a MathJax element."""
    html = (site / f"{name}.html").read_text(encoding="utf8")
    page = visit(name).page
    formulas = html.count('class="math ') + html.count('class="math"')
    typeset = page.locator("mjx-container").count()
    assert typeset >= min(formulas, 1)
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(".math:not(:has(mjx-container))").count() == 0


@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_change_what_is_drawn(visit, name):
    """Moving a slider to its other end redraws the chart, with no kernel."""
    page = visit(name).page
    for slider in page.locator(".vega-bindings input[type=range]").all():
        chart = slider.locator("xpath=ancestor::*[contains(@class, 'vega-embed')]")
        before = chart.locator("svg").first.inner_html()
        slider.evaluate(
            "e => { e.value = e.value == e.max ? e.min : e.max;"
            " e.dispatchEvent(new Event('input', {bubbles: true})); }"
        )
        page.wait_for_timeout(200)
        assert chart.locator("svg").first.inner_html() != before


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_has_words(visit, name):
    """Images of the text have an alternative text; those of the theme may have an empty one."""
    page = visit(name).page
    bare = "e => e.map(i => i.src.slice(0, 80))"
    assert page.eval_on_selector_all("img:not([alt])", bare) == []
    assert page.eval_on_selector_all("article img[alt='']", bare) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_cost_and_size_are_shown(visit, name):
    """A chapter says what it cost to make, and that it was made at quick size."""
    page = visit(name).page
    cost = page.locator(".ntklab-cost").inner_text()
    assert "peak memory" in cost and "quick size" in cost and "jax" in cost
    assert "built at quick size" in page.locator(".ntklab-note").first.inner_text()

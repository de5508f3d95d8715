"""The site of the documentation in a real browser: every page renders, no link is dead, tables fit
a laptop. Needs the extras `docs` and `browser`, and Debian's chromium.
"""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium")
WIDTH, HEIGHT = 1280, 800  # a laptop's
# Elements whose content is wider than they are, as a reader sees by scrolling.
WIDER = """() => [...document.querySelectorAll('.table-wrapper, html')]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.tagName} ${e.scrollWidth} > ${e.clientWidth}: ${e.textContent.slice(0, 60)}`)"""
LINKS = "() => [...document.querySelectorAll('a[href], link[href]')].map(e => e.href)"
SOURCES = "() => [...document.querySelectorAll('img[src], script[src]')].map(e => e.src)"
NAMES = "() => [...document.querySelectorAll('[id]')].map(e => e.id)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(folder, address) of the site, as scripts/docs.sh builds it."""
    pytest.importorskip("furo", reason="the extra docs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "-n", "--keep-going"]
    subprocess.run([*build, "-c", "docs", ".", str(folder)], cwd=ROOT, check=True)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page():
    """A browser's page of a laptop's size."""
    reason = "the extra browser is not installed: pip install -e '.[browser]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if not CHROMIUM:
        pytest.skip("there is no chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        browser.close()


def test_every_page_renders_links_and_fits(site, page):
    folder, address = site
    faults, links, names = [], {}, {}
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    pages = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html"))
    assert len(pages) > 25
    for name in pages:
        if name == "index.html":  # leads to docs/index.html
            continue
        response = page.goto(address + name)
        assert response.ok and page.title() and page.inner_text("body").strip(), name
        faults += [f"{name}: {wider}" for wider in page.evaluate(WIDER)]
        names[address + name] = set(page.evaluate(NAMES))
        for link in page.evaluate(LINKS) + page.evaluate(SOURCES):
            links.setdefault(link, name)
    for link, name in links.items():
        target, _, anchor = link.partition("#")
        target = target.partition("?")[0]
        if not link.startswith(address):
            continue
        if not (folder / target.removeprefix(address)).is_file():
            faults.append(f"{name}: dead link {link}")
        elif anchor and anchor not in names.get(target, {anchor}):
            faults.append(f"{name}: no place {link}")
    assert faults == [], "\n".join(faults)


def test_a_search_finds_pages(site, page):
    page.goto(f"{site[1]}search.html?q=autoattack")
    page.wait_for_selector("#search-results li a")
    assert "Evaluate" in page.inner_text("#search-results")


def test_formulas_are_drawn(site, page):
    page.goto(f"{site[1]}docs/methods/igam.html")
    assert page.locator("math").count() > 10
    assert page.locator("math").first.bounding_box()["width"] > 10

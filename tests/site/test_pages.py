"""Every page of the built book in a browser: what loads, where links lead, who can read it, and what it looks like on paper."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import HTML, PAGES, SHOTS

LIVE = "book/live"  # loads a network
WEIGHT = 1_500_000  # bytes of a page with everything that it loads
WIDE, NARROW, PAPER = 1400, 390, 718  # pixels; the last is A4 without its margins
# WCAG 2.0 to 2.2, A and AA; preload would fetch every style sheet again, and those that it imports from wrong places
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"], "preload": False}

INVENTORY = """() => ({
    about: Object.fromEntries([...document.querySelectorAll('meta[content]')].map(m => [m.getAttribute('property') ?? m.name, m.content])),
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    images: [...document.querySelectorAll('img')].map(i => ({src: i.getAttribute('src'), alt: i.getAttribute('alt'), shown: i.naturalWidth > 0})),
})"""
NAVIGATION = """() => [...document.querySelectorAll('nav, header, dialog, button, input[type=search], .bd-sidebar, .prev-next-footer, .headerlink')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.closest('#live')).map(e => e.outerHTML.slice(0, 120))"""
CUT = """width => [...document.querySelectorAll('.bd-article :is(img, table, pre)')].filter(e => e.checkVisibility()).filter(e => {
    const box = e.getBoundingClientRect();
    return box.left < 0 || box.right > width + 1 || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible')
        || (e.closest('.output') && e.closest('.output').clientWidth + 1 < box.width);
}).map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module", params=PAGES, ids=lambda name: name.removeprefix("book/"))
def seen(request, browser, site):
    """One visit a page: light, dark, narrow, on paper."""
    name = request.param
    own = SimpleNamespace(name=name, url=f"{site}/{name}.html", said=[], failed=[], foreign=[], axe={})
    shot = str(SHOTS / (name.removeprefix("book/") + "-{}.png"))
    page = browser.new_page(viewport={"width": WIDE, "height": 900}, color_scheme="light", reduced_motion="reduce")

    finished = []
    page.on("console", lambda message: own.said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: own.said.append(str(error)))
    page.on("request", lambda request: request.url.startswith((site, "data:")) or own.foreign.append(request.url))
    page.on("requestfailed", lambda request: own.failed.append(request.url))
    page.on("requestfinished", lambda request: finished.append(request))
    page.goto(own.url, wait_until="networkidle")
    own.failed += [request.url for request in finished if request.response().status >= 400]
    own.weight = sum(request.sizes()["responseBodySize"] for request in finished)  # the server does not compress
    vars(own).update(page.evaluate(INVENTORY))
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("theme => document.documentElement.dataset.theme == theme", arg=theme)
        found = Axe().run(page, options=AXE).response["violations"]
        own.axe[theme] = [
            (rule["id"], node["target"][-1], node["html"], node["failureSummary"]) for rule in found for node in rule["nodes"]
        ]
        page.screenshot(path=shot.format({"light": "wide"}.get(theme, theme)), full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": NARROW, "height": 844})
    own.narrow = page.evaluate("document.documentElement.scrollWidth")
    page.screenshot(path=shot.format("narrow"), full_page=True)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    own.navigation, own.cut = page.evaluate(NAVIGATION), page.evaluate(CUT, PAPER)
    page.close()
    return own


def test_loads_from_its_own_host_without_complaint(seen):
    assert (seen.said, seen.failed, seen.foreign) == ([], [], [])


def test_weighs_little(seen):
    assert seen.weight > HTML.joinpath(f"{seen.name}.html").stat().st_size
    assert seen.name == LIVE or seen.weight < WEIGHT


def test_search_from_a_page_finds_words_of_the_text(browser, site):
    """The page loads none of the search's words; the page of results does."""
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(urldefrag(request.url)[0]))
    page.goto(f"{site}/book/claim.html", wait_until="networkidle")
    assert not [url for url in asked if "searchindex" in url or "searchtools" in url]
    page.keyboard.press("Control+k")
    page.locator("dialog input[type=search]").fill("saliency")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=saliency")
    page.locator("#search-results li a[href*='attack.html']").first.wait_for()  # results appear one after the other; without it, an error
    page.close()


def test_images_are_there_and_described(seen):
    for image in seen.images:
        assert image["shown"], image
        assert image["alt"] and Path(image["src"]).name not in image["alt"], image


def test_says_what_a_search_engine_or_a_link_preview_shows(seen):
    assert seen.about["og:title"] and len(seen.about["description"]) > 20 and seen.about["og:description"] == seen.about["description"]
    assert seen.about["og:image"].endswith("/_static/card.png") and (HTML / "_static" / "card.png").is_file()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(seen, theme):
    assert not seen.axe[theme], "\n".join(map(str, seen.axe[theme]))


def test_no_sideways_scrolling_on_a_phone(seen):
    assert seen.narrow <= NARROW


def test_on_paper_all_content_and_no_navigation(seen):
    assert (seen.navigation, seen.cut) == ([], [])


@functools.cache
def ids(page):
    return set(re.findall(r'\bid="([^"]+)"', page.read_text()))


def test_links_lead_somewhere(seen, site):
    """To a file of the site and, where there is a fragment, to an id on that page."""
    broken = []
    for link in {urljoin(seen.url, link) for link in seen.links}:
        address, fragment = urldefrag(link)
        if not address.startswith(site):
            continue
        target = HTML / unquote(address.removeprefix(site + "/"))
        if not target.is_file() or (fragment and unquote(fragment) not in ids(target)):
            broken.append(link)
    assert not broken

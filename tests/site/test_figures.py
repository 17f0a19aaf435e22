"""A figure on a page tells the values of its points to mouse, finger and keyboard, and hands over what it draws."""

import csv
import io
import re

import pytest

FIGURE = "figure.drawn#success"


@pytest.fixture()
def page(browser, site):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, has_touch=True, reduced_motion="reduce", accept_downloads=True)
    page = context.new_page()
    page.goto(f"{site}/book/success.html", wait_until="networkidle")
    page.locator(FIGURE).scroll_into_view_if_needed()
    yield page
    context.close()


def rows(page):
    with page.expect_download() as started:
        page.locator(f"{FIGURE} a[download]").click()
    assert started.value.suggested_filename == "success.csv"
    return list(csv.DictReader(io.StringIO(started.value.path().read_text())))


def said(page):
    return page.locator(f"{FIGURE} [role=status]").inner_text()


def belongs(text, row):
    """Whether a point's text tells this row: what it is of, and its value to two digits."""
    value = f"{float(row['value']):,.2f}".replace("-", "\N{MINUS SIGN}")
    return text.startswith(f"{row['panel']}, {row['series']}, T = {row['T']}, ") and f": {value}" in text


def middle(box):
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_each_point_tells_a_row_of_the_download(page):
    data = rows(page)
    points = page.locator(f"{FIGURE} .point")
    assert points.count() == len(data) > 20
    page.locator(f"{FIGURE} svg").focus()
    for row in data:
        page.keyboard.press("ArrowRight")
        assert belongs(said(page), row)
        assert page.locator(f"{FIGURE} .point.chosen").count() == 1
    page.keyboard.press("ArrowRight")
    assert belongs(said(page), data[-1])  # there is no further one
    page.keyboard.press("Home")
    assert belongs(said(page), data[0])
    page.keyboard.press("End")
    assert belongs(said(page), data[-1])
    page.keyboard.press("Escape")
    assert said(page) == "" and page.locator(f"{FIGURE} .point.chosen").count() == 0


def test_the_mouse_and_a_finger_find_the_nearest_point(page):
    data, points = rows(page), page.locator(f"{FIGURE} .point")
    last = len(data) - 1  # drawn above the others
    x, y = middle(points.nth(last).bounding_box())
    page.mouse.move(x, y)
    assert belongs(said(page), data[last])
    note, figure = page.locator(f"{FIGURE} [role=status]").bounding_box(), page.locator(FIGURE).bounding_box()
    assert note["x"] >= figure["x"] and note["x"] + note["width"] <= figure["x"] + figure["width"] + 1
    page.mouse.move(*[figure["x"] + 2, figure["y"] + 2])
    assert said(page) == ""
    page.touchscreen.tap(x, y)
    assert belongs(said(page), data[last])


def test_without_a_script_the_browser_shows_the_same_text(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/book/success.html")
    titles = re.findall(r"<title>([^<]+: [^<]+)</title></rect>", page.content())
    assert len(titles) > 20 and all("T = " in title for title in titles)
    context.close()

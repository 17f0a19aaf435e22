"""A figure on a page says what it draws: at its points, in its alternative text, and in the file it offers."""

import io
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from distill import page
from distill.drawing import legend_below

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def line(values=(10.0, np.nan, 30.0), *, noise=0.0):
    """A figure of 4 x 2 inches that is all axes, with points at x = 0, 1, 2; y goes from 0 to 40."""
    figure = plt.figure(figsize=(4, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1, 3), ylim=(0, 40), ylabel="success (%)", title="MNIST")
    y = np.array(values) * (1 + noise)
    axes.plot(range(len(y)), y, marker="o")
    rows = [
        {"series": "ours & <theirs>", "T": str(t), "value": v, "low": v - 1, "high": v + 1, "attacks": 900, "images": 100}
        for t, v in enumerate(y)
    ]
    page.mark(axes, range(len(y)), y, rows)
    return figure


def read(link):
    """The table that a download link holds."""
    (data,) = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)"', link)
    return pd.read_csv(io.StringIO(urllib.parse.unquote(data)), keep_default_na=False, na_values=[""])


def shown(figure, monkeypatch, **options):
    """What `page.show` hands to the notebook: pairs of data and metadata."""
    given = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata=None, raw=False: given.append((data, metadata)))
    page.show(figure, **{"name": "one", "caption": "A caption.", "alt": "Two points.", **options})
    return given


def points(drawing):
    return [element for element in ElementTree.fromstring(drawing.replace("xlink:href", "href")).iter() if element.get("class") == "point"]


def test_points_lie_where_they_are_drawn_and_say_their_row():
    first, last = points(page.svg(line(), name="one", alt="Two points."))
    for element, x, y in ((first, 72.0, 108.0), (last, 216.0, 36.0)):  # 72 units to the inch, y downwards
        middle = [float(element.get(a)) + float(element.get(b)) / 2 for a, b in (("x", "width"), ("y", "height"))]
        assert middle == pytest.approx([x, y], abs=0.1)
    assert first.find("title").text == "MNIST, ours & <theirs>, T = 0, success (%): 10.00 [9.00, 11.00], n = 900 attacks on 100 images"


def test_a_quantity_without_a_vertical_axis_is_that_of_the_horizontal_one():
    figure, axes = plt.subplots()
    axes.set(xlabel="success (%)")
    page.mark(axes, [95.0], [0], [{"series": "ours", "value": 95.0}])
    (point,) = points(page.svg(figure, name="one", alt="x"))
    assert point.find("title").text == "ours, success (%): 95.00"
    plt.close("all")


def test_bars_are_found_over_their_whole_area():
    figure = plt.figure(figsize=(4, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 4), ylim=(0, 40))
    rows = [{"bin": name, "value": value} for name, value in (("low", 10.0), ("none", 0.0))]
    page.mark(axes, [1, 3], [30, 20], rows, bottom=[20, 20], width=2)
    (bar,) = points(page.svg(figure, name="bars", alt=""))  # the empty one is nowhere to be pointed at, but is a row
    assert [float(bar.get(name)) for name in ("x", "y", "width", "height")] == pytest.approx([0, 36, 144, 36], abs=0.1)
    assert list(page.drawn(figure)["value"]) == [10, 0]


def test_a_bar_of_no_height_takes_no_room():
    figure, axes = plt.subplots()
    axes.bar(["a", "b", "c"], [1.0, 0.0, 2.0], bottom=[0.0, 0.5, 1.0], color="#123456", linewidth=0)
    assert page.svg(figure, name="bars", alt="").count("fill: #123456") == 2
    figure, axes = plt.subplots()
    axes.bar(["a", "b"], [1.0, 0.0], color="#123456", edgecolor="#654321", linewidth=2)  # its edge shows
    assert page.svg(figure, name="bars", alt="").count("fill: #123456") == 2
    plt.close("all")


def test_a_group_that_says_nothing_takes_no_room():
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], marker="o")  # its markers stand in a group that cuts them to the panel
    axes.set_ylabel("success (%)")  # turned
    drawing = page.svg(figure, name="one", alt="x")
    depth = 0
    for tag in re.findall(r"</?g(?: [^>]*)?>", drawing):
        depth += -1 if tag == "</g>" else 1
        assert depth >= 0 and tag != "<g>"
    assert depth == 0 and "<g clip-path=" in drawing
    plt.close("all")


def test_a_drawing_is_the_same_on_a_processor_whose_last_digits_differ():
    first, second = (page.svg(line(noise=noise), name="one", alt="x") for noise in (0.0, 1e-13))
    assert first == second


def test_identifiers_do_not_meet_on_one_page():
    drawings = [page.svg(line(), name=name, alt="x") for name in ("one", "two")]
    identifiers = [set(re.findall(r' id="([^"]+)"', drawing)) for drawing in drawings]
    assert identifiers[0] and not identifiers[0] & identifiers[1]
    for drawing, own in zip(drawings, identifiers, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", drawing)) <= {pair for i in own for pair in ((i, ""), ("", i))}


def test_the_download_holds_exactly_what_is_drawn(monkeypatch):
    figure = line()
    ((data, _),) = shown(figure, monkeypatch)
    table = read(data["text/html"])
    assert list(table.columns) == ["panel", "series", "T", "quantity", "value", "low", "high", "attacks", "images"]
    assert list(table["value"]) == [10, 30] and list(table["T"]) == [0, 2] and set(table["quantity"]) == {"success (%)"}
    assert 'download="one.csv"' in data["text/html"] and "2 rows" in data["text/html"] and "A caption." in data["text/html"]
    assert "Two points. From first to last: MNIST, ours &amp; &lt;theirs&gt;, 10.00 at 0 to 30.00 at 2." in data["text/html"]
    assert "image/png" in data and not plt.fignum_exists(figure.number)


def test_a_picture_of_pixels_stays_one_with_its_alternative_text(monkeypatch):
    figure, axes = plt.subplots()
    axes.imshow(np.zeros((4, 4)))
    picture, below = shown(figure, monkeypatch, data=pd.DataFrame({"image": [3, 4]}))
    assert "text/html" not in picture[0] and picture[1] == {"image/png": {"alt": "Two points."}}
    assert list(read(below[0]["text/html"])["image"]) == [3, 4]


@pytest.mark.parametrize(
    ("options", "says"), [({"name": "One figure"}, "allowed are small letters"), ({"data": pd.DataFrame()}, "no rows")]
)
def test_show_refuses(options, says, monkeypatch):
    with pytest.raises(ValueError, match=says):
        shown(line(), monkeypatch, **options)
    plt.close("all")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_of_a_chapter_tells_its_data(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    outputs = [(cell, output) for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    links = [read(output.data["text/html"]) for _, output in outputs if 'class="drawn"' in output.data.get("text/html", "")]
    figures = [(cell, output) for cell, output in outputs if "image/png" in output.data]
    assert len(links) == len(figures) and all(len(table) for table in links)
    for cell, output in figures:
        if "text/html" in output.data:
            drawing = output.data["text/html"]
            alt, rows = re.findall(r'<svg[^>]* aria-label="([^"]+)"', drawing), read(drawing)
            assert len(alt) == 1 and 0 < len(re.findall(r"<title>", drawing)) <= len(rows)
        else:
            assert cell.metadata["mystnb"]["image"]["alt"]


def test_a_legend_is_never_wider_than_its_figure():
    for width, columns, higher in ((12, 2, False), (4, 1, True)):
        figure, axes = plt.subplots(figsize=(width, 3), layout="constrained")
        for number in range(4):
            axes.plot([number], label="a line whose name is long: " + "i" * 30)
        legend_below(figure, axes, columns=2)
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width and legend._ncols == columns
        assert (figure.get_figheight() > 3) == higher

"""A figure as it goes on a page: its points tell their values, its caption stands alone, and the rows it draws can be downloaded."""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
NO_HEIGHT = r'<path d="M [\d.-]+ ([\d.-]+)\s+(?:L [\d.-]+ \1\s+){3}z\s*"[^>]*style="fill: #[0-9a-f]{6}"/>'  # a bar of which nothing shows
REACH = 7.0  # a point's half width for the mouse, in units of the drawing (72 to the inch)
# The site's theme gives these their colours in the dark; anywhere else the second value holds.
THEME = {"#ffffff": "var(--pst-color-background, #ffffff)", "#262626": "var(--pst-color-text-base, #262626)",
         "#595959": "var(--pst-color-text-muted, #595959)", "#cccccc": "var(--pst-color-border, #cccccc)"}  # fmt: skip
VALUES = ("quantity", "value", "low", "high", "attacks", "images", "record")  # of a row; its other columns say what it is of

_MARKED: WeakKeyDictionary[Axes, list[tuple[float, float, float, float, Row]]] = WeakKeyDictionary()


def mark(axes: Axes, x: Iterable[float], y: Iterable[float], rows: Iterable[Row], *, bottom: Iterable[float] | None = None, width: float = 0.0) -> None:  # fmt: skip
    """Say what drawn points or bars stand for: what a reader sees there, and a row each of the figure's data.

    Parameters
    ----------
    axes : Axes
    x, y : iterable of float
        Places in data coordinates. One that is not a number was not drawn, and has no row.
    rows : iterable of mapping
        What each place is of ("series", "T", ...) and those of `VALUES` that it has. The panel and the quantity are
        taken from the title and the label of the y axis, or of the x axis where that has none.
    bottom : iterable of float, optional
        Where each bar begins; without it these are points.
    width : float
        Of the bars.
    """
    for a, b, begin, row in zip(x, y, bottom if bottom is not None else itertools.repeat(float("nan")), rows, strict=False):
        if pd.notna(b):
            _MARKED.setdefault(axes, []).append((float(a), float(b), float(begin), width, row))


def drawn(figure: Figure) -> pd.DataFrame:
    """The rows of everything marked in a figure, in the order in which it was drawn."""
    return pd.DataFrame([_whole(axes, row) for axes in figure.axes for *_, row in _MARKED.get(axes, [])])


def _whole(axes: Axes, row: Row) -> dict[str, Any]:
    """A row with the panel it is in and what is measured there; panels in a line share the first one's label, and bars that lie have it below."""
    labels = [label for other in (axes, *axes.figure.axes) if (label := other.get_ylabel())] or [axes.get_xlabel()]
    title = axes.get_title().replace("\n", ", ")
    found = {"panel": title, **row, "quantity": labels[0]}
    order = [*(name for name in found if name not in VALUES), *(name for name in VALUES if name in found)]
    return {name: found[name] for name in order if name != "panel" or title}


def text(row: Row) -> str:
    """A row in words, as in "MNIST, ours, T = 20, success (%): 0.44 [0.11, 0.89], n = 900 attacks on 100 images"."""
    there = {name: value for name, value in row.items() if isinstance(value, str) or pd.notna(value)}
    words = [f"{name} = {value}" if len(name) < 3 else str(value) for name, value in there.items() if name not in VALUES]
    interval = f" [{_number(there['low'])}, {_number(there['high'])}]" if {"low", "high"} <= set(there) else ""
    words.append(f"{there['quantity']}: {_number(there['value'])}{interval}")
    counts = [f"{int(there[name]):,} {name}" for name in ("attacks", "images") if name in there]
    return ", ".join([*words, *(["n = " + " on ".join(counts)] if counts else [])])


def _number(value: float) -> str:
    return f"{value:,.2f}".replace("-", "\N{MINUS SIGN}")


def svg(figure: Figure, *, name: str, alt: str) -> str:
    """A figure as SVG for the middle of an HTML page: real text, the page's colours, an element a marked point with its values as title.

    The same figure gives the same characters: coordinates are rounded, so that another processor's last digits do
    not show, and identifiers are counted.

    Parameters
    ----------
    figure : Figure
    name : str
        Begins the identifiers, which must differ within a page.
    alt : str
        What a reader who does not see the figure is told of it.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", dpi=72, metadata={"Date": None})
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for nothing in (
        r"<metadata>.*?</metadata>|<!--.*?-->",
        r"<defs>\s*<style.*?</defs>",
        r"font-family: 'DejaVu Sans'; ",
        r' transform="rotate\(-0 [^"]*"',
    ):
        drawing = re.sub(nothing, "", drawing, flags=re.DOTALL)  # what a page's style sheet says, or what says nothing
    drawing = re.sub(r"<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _rounded, tag[0]), drawing)
    drawing = re.sub(NO_HEIGHT, "", drawing)
    used = dict.fromkeys(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", drawing))
    drawing = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", drawing)
    for number, identifier in enumerate(used):
        drawing = re.sub(rf'(?<=[#"]){re.escape(identifier)}(?=[")])', f"{name}-{number}", drawing)
    for colour, variable in THEME.items():
        drawing = drawing.replace(colour, variable)
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = f'<svg class="drawing" viewBox="0 0 {width:g} {height:g}" style="min-width: {width * 0.7:g}px; max-width: {width * 1.5:g}px" role="img" tabindex="0" aria-label="{html.escape(alt)}">'
    drawing = re.sub(r"<svg[^>]*>", lambda _: opening, drawing, count=1)
    drawing = re.sub(r"\s+", " ", drawing.replace("</svg>", _points(figure, height) + "</svg>")).replace("> <", "><").strip()
    return _without_bare_groups(drawing)


def _without_bare_groups(drawing: str) -> str:
    """A drawing without the groups that say nothing of what they hold."""
    said: list[bool] = []  # of each group that is open

    def kept(tag: re.Match[str]) -> str:
        if tag[0] != "</g>":
            said.append(tag[0] != "<g>")
            return tag[0] if said[-1] else ""
        return tag[0] if said.pop() else ""

    return re.sub(r"<g(?: [^>]*)?>|</g>", kept, drawing)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _points(figure: Figure, height: float) -> str:
    """An invisible element over each marked point or bar, with its values as title: browsers show it without JavaScript."""
    parts = []
    scale = 72 / figure.dpi
    for axes in figure.axes:
        for x, y, begin, width, row in _MARKED.get(axes, []):
            if width:
                ends = axes.transData.transform([(x - width / 2, begin), (x + width / 2, y)]) * scale
                left, right = ends[:, 0]
                low, high = sorted(ends[:, 1])
            else:
                middle = axes.transData.transform((x, y)) * scale
                left, right, low, high = middle[0] - REACH, middle[0] + REACH, middle[1] - REACH, middle[1] + REACH
            if high - low > 0.5:  # else there is no bar to see
                parts.append(f'<rect class="point" x="{left:.1f}" y="{height - high:.1f}" width="{right - left:.1f}" height="{high - low:.1f}">'
                             f"<title>{html.escape(text(_whole(axes, row)))}</title></rect>")  # fmt: skip
    return "\n".join(parts)


def show(figure: Figure, *, name: str, caption: str, alt: str, data: pd.DataFrame | None = None) -> None:
    """Show a figure in a chapter, with its caption and a link that downloads what it draws, and close it.

    Parameters
    ----------
    figure : Figure
        Of `figures`, or any whose points were given to `mark`. One that shows images is shown as a picture of pixels.
    name : str
        Of the downloaded file, and of the place to which a link to the figure leads; unique in its chapter.
    caption : str
        What is drawn, understandable without the text around it.
    alt : str
        What a reader who does not see the figure should know: what is on its axes. Where each line begins and ends is added.
    data : DataFrame, optional
        The rows to download where they are not those marked in the figure.

    Raises
    ------
    ValueError
        If there are no rows, or ``name`` is no plain word.
    """
    from IPython.display import display  # only chapters need it

    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"name is {name!r}; allowed are small letters, digits and hyphens, beginning with a letter")
    rows = drawn(figure) if data is None else data
    if rows.empty:
        raise ValueError(f"the figure {name} has no rows to download: mark its points or give data")
    below = f"<figcaption>{html.escape(caption)} {download(rows, name)}</figcaption>"
    pixels = io.BytesIO()
    images = any(axes.images for axes in figure.axes)
    drawing = "" if images else svg(figure, name=name, alt=f"{alt} {ends(rows)}".strip())
    figure.savefig(pixels, format="png")
    plt.close(figure)
    picture = {"image/png": base64.b64encode(pixels.getvalue()).decode(), "text/plain": f"<{name}>"}
    if images:
        display(picture, metadata={"image/png": {"alt": alt}}, raw=True)
        display({"text/html": f'<figure class="drawn" id="{name}">{below}</figure>', "text/plain": f"<{name}: caption>"}, raw=True)
    else:
        display(
            {"text/html": f'<figure class="drawn" id="{name}"><div>{drawing}</div>{below}</figure>', **picture},
            metadata={"image/png": {"alt": alt}},
            raw=True,
        )


def ends(rows: pd.DataFrame, *, most: int = 14) -> str:
    """Where each line of a figure begins and ends, in words, for who does not see it; nothing where there are more than ``most`` lines."""
    what = [name for name in rows.columns if name not in VALUES]
    if "value" not in rows or len(what) < 2:
        return ""
    lines = [(keys, line) for keys, line in rows.groupby(what[:-1], sort=False)]
    if len(lines) > most:
        return ""
    return "From first to last: " + "; ".join(
        f"{', '.join(map(str, keys))}, {_number(line['value'].iloc[0])} at {line[what[-1]].iloc[0]} to {_number(line['value'].iloc[-1])} at {line[what[-1]].iloc[-1]}"
        for keys, line in lines
    ) + "."  # fmt: skip


def download(rows: pd.DataFrame, name: str) -> str:
    """A link that holds the rows as CSV itself: it works from a file, on a site, and in a rerun."""
    table = urllib.parse.quote(rows.to_csv(index=False, float_format="%.6g"), safe=",;:/()+*=@!$")
    return f'<a download="{name}.csv" href="data:text/csv;charset=utf-8,{table}">Download the data (CSV)</a>, {len(rows):,} rows.'

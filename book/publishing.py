"""Sphinx extension of the book: what a published page has beside its text.

Where the site and its sources will be is not known here. Whoever publishes says so by the environment: ``BOOK_BASEURL`` is the
site's address, ``BOOK_REPOSITORY`` that of its repository (else the ``repository-code`` of CITATION.cff), ``BOOK_BRANCH`` the
branch (else main). Without a repository there are no buttons that lead to one.
"""

from __future__ import annotations

import html
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

CITATION = "CITATION.cff"
CARD = "_static/card.png"
ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')  # name, aliases

SEARCHING = re.compile(r'\s*<script src="[^"]*\b(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", place)
    app.connect("html-page-context", describe)
    app.connect("build-finished", lighten)
    app.add_directive("own-citation", OwnCitation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def citation(root: Path) -> dict[str, Any]:
    """CITATION.cff as it is."""
    return yaml.safe_load((root / CITATION).read_text(encoding="utf-8"))


def repository(cited: dict[str, Any]) -> str:
    """The repository's address, or "" where nobody said it."""
    return (os.environ.get("BOOK_REPOSITORY") or cited.get("repository-code", "")).rstrip("/")


def baseurl() -> str:
    """The site's address with a slash at its end, or "" where nobody said it."""
    given = os.environ.get("BOOK_BASEURL", "").rstrip("/")
    return given and given + "/"


def place(app: Sphinx, config: Config) -> None:
    """Tell the theme where the site and its sources are, as far as that is known."""
    config.html_baseurl = baseurl()
    if address := repository(citation(Path(app.confdir))):
        config.html_theme_options |= {
            "repository_url": address,
            "repository_branch": os.environ.get("BOOK_BRANCH") or "main",
            "use_repository_button": True,
            "launch_buttons": {
                "notebook_interface": "jupyterlab",
                "binderhub_url": "https://mybinder.org",
                "colab_url": "https://colab.research.google.com",
            },
        }


def key(cited: dict[str, Any]) -> str:
    """What a text cites it by."""
    return re.sub(r"\W+", "-", cited["title"].lower()).strip("-")


def bibtex(cited: dict[str, Any]) -> str:
    """The BibTeX entry of what a CITATION.cff describes."""
    people = [f"{{{who['name']}}}" if "name" in who else f"{who['family-names']}, {who['given-names']}" for who in cited["authors"]]
    fields = {
        "author": " and ".join(people),
        "title": f"{{{cited['title']}}}",
        "year": str(cited["date-released"])[:4],
        "version": cited["version"],
        "url": repository(cited) or baseurl(),
    }
    return "\n".join([f"@software{{{key(cited)},", *(f"  {name} = {{{value}}}," for name, value in fields.items() if value), "}"])


class OwnCitation(SphinxDirective):
    """Shows how to cite this book, in BibTeX."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.app.confdir)
        self.env.note_dependency(str(root / CITATION))
        text = bibtex(citation(root))
        return [nodes.literal_block(text, text, language="bibtex")]


def summary(doctree: nodes.document | None) -> str:
    """The beginning of a page's first paragraph, without citations."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else []:
        return textwrap.shorten(re.sub(r"\s*\[[^\]]*\d{4}[^\]]*\]", "", paragraph.astext()), 200, placeholder=" …")
    return ""


def describe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add what search engines and link previews show of a page."""
    site, base = app.config.html_title, app.config.html_baseurl
    said = {"og:site_name": site, "og:type": "website", "og:title": app.env.titles[pagename].astext() if pagename in app.env.titles else site}
    if text := summary(doctree):
        said["og:description"] = text
    if base:
        said["og:url"] = base + app.builder.get_target_uri(pagename)
    with Image.open(Path(app.confdir, CARD)) as card:
        said |= {"og:image:width": str(card.width), "og:image:height": str(card.height), "og:image:alt": card.text["Description"]}
    said["og:image"] = base + CARD if base else context["pathto"](CARD, 1)  # relative: good enough to look at, not for other sites
    tags = [("property", name, value) for name, value in said.items()]
    tags += [("name", "twitter:card", "summary_large_image"), *([("name", "description", text)] if text else [])]
    made = "\n".join(f'<meta {kind}="{name}" content="{html.escape(value)}" />' for kind, name, value in tags)
    if "body" in context:  # docutils' role is deprecated, and no item of the list that it stands in
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
    context["metatags"] = f"{context.get('metatags', '')}\n{made}\n"


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Take from every page what the theme would have it load and it does not use.

    Of the theme's 2,000 icons (1.4 MB) those stay that the site shows; the words of the search, which the theme loads for
    results while one types even where that is off, stay on the page of the search.
    """
    script = Path(app.outdir, "_static", "scripts", "fontawesome.js")
    if exception or not script.exists():
        return
    pages = list(Path(app.outdir).rglob("*.html"))
    for page in pages if not app.config.html_theme_options.get("search_as_you_type") else []:
        if page.name != "search.html":
            page.write_text(SEARCHING.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    texts = [*pages, *(path for path in Path(app.outdir, "_static").rglob("*.js") if path != script)]
    shown = {name for path in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8"))}
    kept = ICON.sub(lambda icon: icon[0] if shown & {icon[1], *re.findall(r'"([^"]+)"', icon[2])} else "", script.read_text(encoding="utf-8"))
    script.write_text(kept, encoding="utf-8")

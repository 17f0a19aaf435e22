"""Execute the book's chapters and build the site.

Without options: build the site from the chapters as they are committed (no network, no computation).
``--execute``: run the chapters first, in place, with their own parameters, and strip what papermill adds; write the page of the
command line and the live page's data anew, the latter if the published networks are here.
``--strip FILE...``: only take out of notebooks what differs from run to run.
``--links``: only check the links to other hosts.
``--profile P``: work on a copy in ``_build/P``, every chapter rerun with that profile and store, the live page with its networks.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import unittest.mock
from pathlib import Path

import card
import commands
import flags
import live
import nbformat
import papermill

from distill import data, experiments, plans

ROOT = Path(__file__).resolve().parent.parent
COSTLY = ("ablations", "conclusion", "confidence", "costs", "distillation", "fashion", "gradients", "invariance", "requirements", "sound")  # need more than the profile quick computes, or other data

KEPT = "This page is as published: what it shows was not computed in this rerun, whose profile is *{profile}*, so its numbers are those of other networks."
REDRAWN = ("The figures, the tables and the sentences with their numbers were drawn anew from the records of this rerun, whose profile is *{profile}*; "
           "the text around them was written about the published records, and may speak of networks and numbers that are not here.")  # fmt: skip


def chapters(root: Path) -> list[Path]:
    """The book's notebooks."""
    return sorted((root / "book").glob("*.ipynb"))


def execute(path: Path, parameters: dict[str, object] | None = None) -> None:
    """Run a chapter in place, without the timestamps and the injected cell that papermill leaves behind."""
    print(f"executing {path.name}", flush=True)
    papermill.execute_notebook(path, path, parameters=parameters or {}, cwd=path.parent, progress_bar=False, log_output=False)
    strip(path, keep_injected=bool(parameters))


def strip(path: Path, *, keep_injected: bool) -> None:
    """Take out of an executed notebook what differs from run to run without being a result."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    kept = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            if not keep_injected:
                continue
            cell.metadata["tags"] = [*tags, "hide-input"]
        for name in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(name, None)
        told = [output.metadata.get("image/png", {}).get("alt") for output in cell.get("outputs", []) if output.output_type == "display_data"]
        if any(told):  # where MyST-NB looks for it
            cell.metadata["mystnb"] = {"image": {"alt": next(filter(None, told))}}
        kept.append(cell)
    notebook.cells = kept
    nbformat.write(notebook, path)


def say(path: Path, text: str) -> None:
    """Put a note below a notebook's title."""
    notebook = nbformat.read(path, as_version=4)
    title, _, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{title}\n\n```{{note}}\n{text}\n```\n{rest}"
    nbformat.write(notebook, path)


def rerun(root: Path, profile: str, store: str | None) -> None:
    """Draw the chapters anew from a profile's runs, but for what that profile does not compute; each page says which it is."""
    whole = plans.profile(profile).computes is None
    for path in chapters(root):
        if path.stem in COSTLY and not whole:
            print(f"keeping {path.name} as published: its measurements take longer than the profile {profile}", flush=True)
            say(path, KEPT.format(profile=profile))
            continue
        execute(path, {"profile": profile, "store": store})
        if path.stem != "claim":  # which shows the paper's numbers alone
            say(path, REDRAWN.format(profile=profile))


def picture(chapter: Path, path: Path) -> None:
    """Save the first figure that a chapter shows, for the README."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                path.write_bytes(base64.b64decode(output["data"]["image/png"]))
                return


def jupyter_book(root: Path, *options: str) -> int:
    """Exit code of ``jupyter-book build`` on the book below ``root``."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(root), "--path-output", str(root), *options]
    return subprocess.run(command, env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}).returncode


def build(root: Path) -> Path:
    """Build the site of the book below ``root``; a warning is an error."""
    if jupyter_book(root, "--all", "-n", "-W", "--keep-going", "-q"):  # without --all a changed style sheet alone is not copied
        sys.exit("the site was not built: see the warnings above")
    html = root / "_build" / "html"
    for page in html.rglob("*.html"):
        # the space between cells and items, and beside the letters of a path, shows nothing, and weighs much in long tables and drawings
        text = re.sub(r">\s+<(/?(?:td|th|tr|tbody|thead|table|li|ul)\b)", r"><\1", page.read_text())
        page.write_text(re.sub(r'(?<=<path )d="[^"]*"', lambda path: re.sub(r" ?([A-Za-z]) ?(?=[-\d]|\"|[A-Za-z])", r"\1", path[0]), text))
    return html / "index.html"


def check_links(root: Path) -> None:
    """Ask every other host that the book links to."""
    try:
        socket.create_connection(("doi.org", 443), timeout=10).close()
    except OSError as error:
        sys.exit(f"no link was checked: that needs a network, and doi.org cannot be reached from here ({error})")
    if jupyter_book(root, "--builder", "linkcheck", "-q"):
        sys.exit("links are broken: see above")


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--execute", action="store_true")
    options.add_argument("--profile", default=None, choices=list(plans.PROFILES))
    options.add_argument("--store", type=Path, default=None)
    options.add_argument("--strip", type=Path, nargs="+", default=None, metavar="FILE")
    options.add_argument("--links", action="store_true")
    chosen = options.parse_args()
    if chosen.strip:
        for path in chosen.strip:
            strip(path, keep_injected=False)
        return
    if chosen.links:
        return check_links(ROOT)
    root = ROOT
    if chosen.profile:
        root = ROOT / "_build" / chosen.profile
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "_static", root / "_static")
        shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        store = str(chosen.store.expanduser().resolve()) if chosen.store else None  # chapters run in their own folder
        rerun(root, chosen.profile, store)
        live.export(root / "book" / "extra" / "live", profile=chosen.profile, store=store)
        card.draw(root / "_static" / "card.png", profile=chosen.profile, store=store)
    elif chosen.execute:
        with unittest.mock.patch.dict(os.environ, {"DISTILL_STORE": str(ROOT / "_build" / "none")}):  # a person's own runs stay out of what is committed
            for path in chapters(root):
                execute(path)
        for made in (commands, flags):
            made.PAGE.write_text(made.page())
        picture(root / "book" / "index.ipynb", ROOT / "results" / "success.png")
        card.draw(ROOT / "_static" / "card.png")
        try:
            live.export(live.FOLDER)
        except (experiments.RunError, data.DataError) as error:
            print(f"the live page keeps its committed networks: {error}")
    print(f"\nThe site is built. Open it in a browser: {build(root).as_uri()}")


if __name__ == "__main__":
    main()

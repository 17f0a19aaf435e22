"""Execute the book's chapters and build the site.

Without options: build the site from the chapters as they are committed (no network, no computation).
``--execute``: run the chapters first, in place, with their own parameters, and strip what papermill adds; write the page of the
command line and the live page's data anew, the latter if the published networks are here.
``--profile P``: work on a copy in ``_build/P``, every chapter rerun with that profile and store, the live page with its networks.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import unittest.mock
from pathlib import Path

import commands
import live
import nbformat
import papermill

from distill import data, experiments, plans

ROOT = Path(__file__).resolve().parent.parent
COSTLY = ("confidence", "distillation", "gradients", "invariance", "robustness", "split")  # need more than training and the paper's attack


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


def picture(chapter: Path, path: Path) -> None:
    """Save the first figure that a chapter shows, for the README."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                path.write_bytes(base64.b64decode(output["data"]["image/png"]))
                return


def build(root: Path) -> Path:
    """Build the site of the book below ``root``; a warning is an error."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(root), "--path-output", str(root), "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(command, env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    if done.returncode:
        sys.exit("the site was not built: see the warnings above")
    site = root / "_build" / "html"
    icons = site / "_static" / "scripts" / "fontawesome.js"
    users = [*site.rglob("*.html"), *(path for path in site.rglob("*.js") if path != icons)]
    names = {name for path in users for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(errors="ignore"))}
    icons.write_text(lighter(icons.read_text(), names))
    return site / "index.html"


def lighter(script: str, names: set[str]) -> str:
    """Font Awesome's script with these icons only: the theme sends 1.5 MB of two thousand, more than all the rest of a page."""
    icon = re.compile(r'(?:"([\w-]+)"|\b([a-z]\w*)):\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
    return icon.sub(lambda found: found[0] if names & {found[1] or found[2], *re.findall(r'"([^"]+)"', found[3])} else "", script)


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--execute", action="store_true")
    options.add_argument("--profile", default=None, choices=list(plans.PROFILES))
    options.add_argument("--store", type=Path, default=None)
    chosen = options.parse_args()
    root = ROOT
    if chosen.profile:
        root = ROOT / "_build" / chosen.profile
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "_static", root / "_static")
        shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        store = str(chosen.store.expanduser().resolve()) if chosen.store else None  # chapters run in their own folder
        whole = plans.profile(chosen.profile).computes is None
        for path in chapters(root):
            if path.stem in COSTLY and not whole:
                print(f"keeping {path.name} as published: its measurements take longer than the profile {chosen.profile}", flush=True)
            else:
                execute(path, {"profile": chosen.profile, "store": store})
        live.export(root / "book" / "extra" / "live", profile=chosen.profile, store=store)
    elif chosen.execute:
        with unittest.mock.patch.dict(os.environ, {"DISTILL_STORE": str(ROOT / "_build" / "none")}):  # a person's own runs stay out of what is committed
            for path in chapters(root):
                execute(path)
        commands.PAGE.write_text(commands.page())
        picture(root / "book" / "index.ipynb", ROOT / "results" / "success.png")
        try:
            live.export(live.FOLDER)
        except (experiments.RunError, data.DataError) as error:
            print(f"the live page keeps its committed networks: {error}")
    print(f"\nThe site is built. Open it in a browser: {build(root).as_uri()}")


if __name__ == "__main__":
    main()

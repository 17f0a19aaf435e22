"""The built book, and a folder as a web site of this machine."""

import contextlib
import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


def build():
    """Build the site unless it is newer than all its sources; of several processes one does, the others wait."""
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "CITATION.cff"]
    sources += [
        path for folder in ("_static", "book", "distill") for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc" and path.is_file()
    ]
    built = HTML / "searchindex.js"
    HTML.parent.mkdir(exist_ok=True)
    with FileLock(HTML.parent / "html.lock"):
        if not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            subprocess.run([sys.executable, ROOT / "book" / "build.py"], check=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """The address of the folder, as long as it lasts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()

"""One browser for the whole session; where there is none, one line says so at the end."""

import os
import re
import shutil
from pathlib import Path

import pytest
from browsing import HTML, SHOTS, build, serve
from playwright.sync_api import Error, sync_playwright
from xdist.scheduler import LoadScopeScheduling

PAGE = re.compile(r"test_pages\.py::.*\[(?:light-|dark-)?(.+?)(?:-light|-dark)?\]$")
INSTALLED = ("chromium", "chromium-browser", "google-chrome")
NONE = "no browser: "


class ByPage(LoadScopeScheduling):
    """One process a page, which is then visited once; one for the figures, which builds the book while another tests the live page."""

    def _split_scope(self, nodeid):
        if "test_figures.py" in nodeid:
            return "figures"
        return PAGE.search(nodeid)[1] if PAGE.search(nodeid) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByPage(config, log)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as started:
        program = next(filter(None, map(shutil.which, INSTALLED)), started.chromium.executable_path)
        try:
            if not Path(program).exists():
                raise Error("there is none")
            launched = started.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)  # root's does not start with it
        except Error as error:
            reason = str(error).splitlines()[0]
            if os.environ.get("BOOK_BROWSER") == "required":
                pytest.fail(NONE + reason)
            pytest.skip(NONE + reason)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(browser):
    """The address of the book as its sources are now."""
    build()
    SHOTS.mkdir(exist_ok=True)
    with serve(HTML) as url:
        yield url


def pytest_terminal_summary(terminalreporter):
    skipped = (report.longrepr[2] for report in terminalreporter.getreports("skipped"))
    if reason := next((why.partition(NONE)[2] for why in skipped if NONE in why), ""):
        terminalreporter.write_line(
            f"The site was NOT tested in a browser ({reason}). To get one: apt-get install chromium, or .venv/bin/playwright install chromium."
        )

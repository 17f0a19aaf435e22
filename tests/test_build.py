"""The site is built from the committed chapters; the tests in a browser, which come later, find it built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "site"))

import browsing


def test_the_site_is_built_with_every_page_of_its_contents():
    browsing.build()  # to which a warning is an error
    assert browsing.PAGES and all((browsing.HTML / f"{page}.html").stat().st_size for page in browsing.PAGES)

"""The site is built from the committed chapters; the tests in a browser, which come later, find it built."""

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent / "site"))

import browsing


def test_the_site_is_built_with_every_page_of_its_contents():
    browsing.build()  # to which a warning is an error
    contents = yaml.safe_load((browsing.ROOT / "_toc.yml").read_text())
    pages = [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]
    assert pages and all((browsing.HTML / f"{page}.html").stat().st_size for page in pages)

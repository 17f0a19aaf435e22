"""The book: every chapter reruns with other parameters, and is committed in a state that can be trusted."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from PIL import Image
from pybtex.database import parse_string

from distill import plans

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))

import build  # noqa: E402
import card  # noqa: E402
import publishing  # noqa: E402

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One store for all chapters, so that the smoke networks are trained once."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_reruns_in_the_smoke_profile(chapter, store, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    monkeypatch.setenv("DISTILL_STORE", str(store))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    parameters = {"profile": "smoke", "temperatures": "[1,20]", "store": str(store)}
    done = papermill.execute_notebook(chapter, tmp_path / "out.ipynb", parameters=parameters, cwd=ROOT / "book", progress_bar=False)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    if "experiments.results(" not in chapter.read_text():
        return  # shows measurements of speed, which a rerun of the chapter does not repeat
    if "page.show(" in chapter.read_text():
        assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("mnist-5k-smoke-model-student-t20" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_seeds_side_by_side(tmp_path, monkeypatch):
    """As the page "Run it yourself" writes it, on what is published."""
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path))
    parameters = {"seeds": "[0,1]", "datasets": '["mnist"]', "temperatures": "[1,100]"}
    done = papermill.execute_notebook(ROOT / "book" / "accuracy.ipynb", tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    said = json.dumps([cell.outputs for cell in done.cells if cell.cell_type == "code"])
    assert "up to 2 seeds: at " in said and "mnist-quick-model-student-t100-s1" in said and "-s2-" not in said


@pytest.mark.parametrize("name", ["success", "accuracy", "robustness"])
def test_a_data_set_that_the_paper_never_saw_goes_through_the_chapters_of_its_figures(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path))
    parameters = {"datasets": '["fashion-mnist-by-class"]'}
    done = papermill.execute_notebook(ROOT / "book" / f"{name}.ipynb", tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert "<td>Fashion-MNIST</td>" in said and "<td>20</td>" in said and "fashion-mnist-by-class-quick-model-student-t20" in said
    assert "<td>MNIST</td>" not in said and "<td>CIFAR10</td>" not in said and "reproduced" not in said  # the paper has no number of it


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_committed_executed_and_clean(chapter):
    text = chapter.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    parameters = next(cell for cell in code if "parameters" in cell.metadata.get("tags", []))
    for name in ("profile", "datasets", "temperatures", "seed"):
        assert f"\n{name} = " in "\n" + parameters.source
    assert "papermill" not in json.dumps([notebook.metadata, [cell.metadata for cell in notebook.cells]])
    assert os.path.expanduser("~") + "/" not in text and str(ROOT.parent) + "/" not in text


def test_the_quick_profile_redraws_what_it_computes_and_keeps_the_rest():
    kept = set(plans.STAGES) - set(plans.profile("quick").computes)
    needs = {path.stem for path in CHAPTERS if any(f'"{stage}"' in path.read_text().replace("\\", "") for stage in kept)}
    showing_what_there_is, of_other_things = {"index", "networks", "robustness"}, {"fashion", "costs"}
    assert set(build.COSTLY) == needs - showing_what_there_is | of_other_things


def test_a_rerun_says_on_each_page_what_was_drawn_anew(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("extra", "__pycache__"))
    executed = []
    monkeypatch.setattr(build, "execute", lambda path, parameters: executed.append(path.stem))
    build.rerun(tmp_path, "quick", None)
    assert set(executed) == {path.stem for path in CHAPTERS} - set(build.COSTLY)
    for path in build.chapters(tmp_path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        said = notebook.cells[0].source
        assert said.startswith("# ") and said.count("{note}") <= 1
        if path.stem in build.COSTLY:
            assert "as published" in said and "quick" in said
        else:
            assert ("drawn anew" in said and "quick" in said) == (path.stem != "claim")


def test_make_replicate_computes_what_the_quick_profile_computes():
    assert f"--profile quick --stages {','.join(plans.profile('quick').computes)} --processes auto" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_stripping_changes_nothing_in_a_committed_chapter_and_takes_timestamps_out(chapter, tmp_path):
    copy = tmp_path / chapter.name
    shutil.copy(chapter, copy)
    build.strip(copy, keep_injected=False)
    assert copy.read_text() == chapter.read_text()
    notebook = nbformat.read(copy, as_version=4)
    notebook.metadata["papermill"] = {"start_time": "now"}
    notebook.cells[-1].metadata["execution"] = {"iopub.execute_input": "now"}
    nbformat.write(notebook, copy)
    assert copy.read_text() != chapter.read_text()
    build.strip(copy, keep_injected=False)
    assert copy.read_text() == chapter.read_text()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_negative_numbers_have_a_minus_sign(chapter):
    cells = nbformat.read(chapter, as_version=4).cells
    shown = [
        output.get("data", {}).get(kind, "")
        for cell in cells
        for output in cell.get("outputs", [])
        for kind in ("text/html", "text/markdown")
    ]
    assert not re.findall(r"(?:^|[\s\[(>])-\d[\d.]*", re.sub(r"=\"[^\"]*\"", "", "\n".join(shown)))  # what attributes hold is not shown


def test_every_figure_is_described():
    for chapter in CHAPTERS:
        for cell in nbformat.read(chapter, as_version=4).cells:
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                assert len(cell.metadata["mystnb"]["image"]["alt"]) > 30, cell.id


def test_the_card_shows_what_is_on_record(tmp_path):
    said = card.draw(tmp_path / "card.png")
    assert "MNIST at T = 100: " in said
    with Image.open(ROOT / "_static" / "card.png") as committed, Image.open(tmp_path / "card.png") as drawn:
        assert committed.size == drawn.size == (1200, 630)
        assert committed.text["Description"] == said  # else: make chapters


def test_how_to_cite_is_bibtex(monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://example.org/who/what/")
    cited = publishing.citation(ROOT)
    entry = parse_string(publishing.bibtex(cited), "bibtex").entries[publishing.key(cited)]
    assert entry.fields["title"] == f"{{{cited['title']}}}"
    assert entry.fields["url"] == "https://example.org/who/what"
    person = {"family-names": "Doe", "given-names": "Jane"}
    two = parse_string(publishing.bibtex({**cited, "authors": [*cited["authors"], person]}), "bibtex").entries[publishing.key(cited)]
    assert [str(author) for author in two.persons["author"]] == ["{the contributors}", "Doe, Jane"]


@pytest.mark.parametrize("given", ["", "https://github.com/who/what"])
def test_launch_buttons_only_where_the_repository_is_known(given, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", given)
    monkeypatch.setenv("BOOK_BASEURL", "https://example.org/book")
    config = SimpleNamespace(html_theme_options={})
    publishing.place(SimpleNamespace(confdir=ROOT), config)
    assert config.html_baseurl == "https://example.org/book/"
    known = given or publishing.citation(ROOT).get("repository-code", "")
    assert config.html_theme_options.get("repository_url", "") == known
    assert bool(config.html_theme_options.get("launch_buttons")) == bool(known)


def test_every_chapter_is_in_the_table_of_contents():
    listed = (ROOT / "_toc.yml").read_text()
    for page in [*CHAPTERS, *(ROOT / "book").glob("*.md")]:
        assert f"book/{page.stem}" in listed

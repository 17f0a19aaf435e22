"""The book: every chapter reruns with other parameters, and is committed in a state that can be trusted."""

import json
import os
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from distill import plans

ROOT = Path(__file__).parent.parent
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
    sys.path.insert(0, str(ROOT / "book"))
    import build

    kept = set(plans.STAGES) - set(plans.profile("quick").computes)
    needs = {path.stem for path in CHAPTERS if any(f'"{stage}"' in path.read_text().replace("\\", "") for stage in kept)}
    assert set(build.COSTLY) == needs - {"index"}  # the first page shows what there is


def test_every_chapter_is_in_the_table_of_contents():
    listed = (ROOT / "_toc.yml").read_text()
    for page in [*CHAPTERS, *(ROOT / "book").glob("*.md")]:
        assert f"book/{page.stem}" in listed

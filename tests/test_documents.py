"""What the documents tell a reader to type does what they say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "book/api.md"])
def test_python_examples_run(page, data_root, monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "example"})
    out = capsys.readouterr().out
    assert re.search(r"SUCCESS|BUDGET", out)
    if page == "book/api.md":  # which says that the softmax underflows and its logarithm does not
        softmax, log_softmax = (float(rate) for rate in re.findall(r"([\d.]+)% succeeded", out))
        assert softmax < log_softmax / 2


def test_make_targets_named_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "book/rerun.md"):
        assert set(re.findall(r"make ([a-z-]+)", (ROOT / page).read_text())) <= targets

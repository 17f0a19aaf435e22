"""What the documents tell a reader to type does what they say."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


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
    for page in (*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "book/rerun.md", ".pre-commit-config.yaml")), *WORKFLOWS):
        assert set(re.findall(r"\bmake ([a-z-]+)", page.read_text())) <= targets


def test_workflows_say_when_and_with_which_rights():
    """Parsed as YAML, whose "on" is true; rights beyond reading are those that publishing takes, and no secret is read."""
    assert {path.name for path in WORKFLOWS} == {"test-and-publish.yml", "rerun-quick.yml"}
    for path in WORKFLOWS:
        text = path.read_text()
        flow = yaml.safe_load(text)
        assert flow[True] and flow["permissions"] == {"contents": "read"} and "secrets." not in text
        for name, job in flow["jobs"].items():
            rights = {right for right, level in job.get("permissions", {}).items() if level == "write"}
            assert rights == ({"pages", "id-token"} if name == "publish" else set())
            assert all(len({"uses", "run"} & set(step)) == 1 for step in job["steps"])
            assert job["timeout-minutes"] and set(job.get("needs", "").split()) <= set(flow["jobs"])

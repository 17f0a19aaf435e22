"""What the documents tell a reader to type does what they say."""

import argparse
import re
from pathlib import Path

import pytest
import yaml

from distill import checks, cli
from distill.attacks import others

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("page", ["README.md", "book/api.md", "book/warnings.md"])
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


def test_the_page_of_the_command_line_is_what_the_command_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    import commands

    page = (ROOT / "book" / "cli.md").read_text()
    assert page == commands.page(), "python book/commands.py writes it anew"
    top = cli.parser()
    (subcommands,) = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    sections = dict(re.findall(r"^## distill (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert sections.keys() == subcommands.choices.keys()
    for name, command in subcommands.choices.items():
        flags = r"(?<![\w-])--[a-z-]+"
        assert set(re.findall(flags, sections[name])) == set(re.findall(flags, command.format_help())) - {"--help"}


def test_the_page_of_warnings_explains_every_flag(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    import flags

    page = (ROOT / "book" / "warnings.md").read_text()
    assert page == flags.page(), "python book/flags.py writes it anew"
    assert re.findall(r"^## ([A-Z_]+)$", page, re.MULTILINE) == list(checks.EXPLANATIONS)


def test_every_glossary_word_is_used_and_every_used_word_is_there():
    words = set(re.findall(r"^([A-Za-z].*)\n  \S", (ROOT / "book" / "glossary.md").read_text(), re.MULTILINE))
    pages = [path.read_text() for suffix in ("*.ipynb", "*.md") for path in (ROOT / "book").glob(suffix)]
    named = {pair[0] or pair[1] for text in pages for pair in re.findall(r"\{term\}`(?:[^`<]*<([^>`]+)>|([^`<]+))`", text)}
    assert 25 <= len(words) <= 45
    assert named <= words


def test_the_reference_has_every_attack_with_its_options():
    text = (ROOT / "book" / "api.md").read_text()
    rows = {name: cells for name, *cells in re.findall(r"^\| `(\w+)` \| (\S+) \| (.+?) \| (\d+) \| (\S+) \|$", text, re.MULTILINE)}
    assert list(rows) == list(others.ATTACKS)
    for name, (norm, options, steps, library) in rows.items():
        about = others.ATTACKS[name]
        assert (norm.replace("∞", "inf").lower(), int(steps), library) == (about.norm, about.steps, about.library or "ours")
        assert re.findall(r"`(\w+)`", options) == list(others._options(about.run))
        assert re.findall(r"\*\*`(\w+)`\*\*", options) == [option for option, needed in others._options(about.run).items() if needed]

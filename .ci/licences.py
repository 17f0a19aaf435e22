"""Write THIRD_PARTY.md: every package of requirements.txt and requirements-attacks.txt and the licence that its own metadata names."""

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Third-party packages

What `requirements.txt` and `requirements-attacks.txt` install, none of it part of this repository, and the licence that each package's own metadata names. Made by `make licences`.

| package | licence |
|---|---|
"""
ABSENT = "not installed where this list was made: for another system or Python version"


def licence(name: str) -> str:
    """The licence as the installed package's metadata tells it: the expression, else classifiers, else the first line of its text."""
    try:
        told = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
    classifiers = [
        text.split(" :: ")[-1] for text in told.get_all("Classifier") or [] if text.startswith("License :: ") and text.count("::") > 1
    ]
    text = next((line.strip() for line in (told.get("License") or "").splitlines() if line.strip()), "")
    return told.get("License-Expression") or ", ".join(classifiers) or text[:80] or "not named in its metadata"


def main() -> None:
    """Run as a script."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-attacks.txt"))
    names = sorted(re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE), key=str.lower)
    rows = [f"| {name} | {licence(name).replace('|', '/')} |" for name in dict.fromkeys(names)]
    (ROOT / "THIRD_PARTY.md").write_text(HEAD + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

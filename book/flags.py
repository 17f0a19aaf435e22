"""The page "How to read our warnings", made from what the flags say of themselves: `python book/flags.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from distill import checks

PAGE = Path(__file__).with_name("warnings.md")
HEAD = """# How to read our warnings

A failed attack proves nothing about a network until one knows why it failed. `distill.checks.diagnose` (whose attacks come from the libraries in `requirements-attacks.txt`, which `make setup` installs) runs a handful of cheap attacks on any network that returns logits and raises a flag for each sign that its failures are the attack's. This page says what each flag means and what to do.

```python
import torch

from distill.checks import diagnose

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
with torch.no_grad():
    model[1].weight.mul_(10_000)  # the same classes as before, from logits so large that the softmax is flat
images = torch.rand(20, 1, 28, 28)  # in [0, 1]
labels = model(images).argmax(1)  # yours are the true classes
for flag in diagnose(model, images, labels, radius=0.1):
    print(flag.name, flag.message)
```
"""
TAIL = f"""## When a flag is raised

Two attacks are compared on the same images by a one-sided exact sign test at a level of {checks.LEVEL:.0%}, so that a flag is hardly raised by chance on a few images; with few images a real difference may go unseen. The attack itself speaks too: each JSMA run says for every image why it stopped (`SUCCESS`, `BUDGET`, `NO_VALID_PAIR`, `ZERO_GRADIENT`), see [the reference](api.md).
"""


def page() -> str:
    """The page as Markdown, a section a flag."""
    parts = [HEAD]
    for name, entry in checks.EXPLANATIONS.items():
        parts.append(f"## {name}\n\nRaised if\n: {entry.raised_if}.\n\nWhat it means\n: {entry.meaning}\n\nWhat to do\n: {entry.what_to_do}\n")
    return "\n".join([*parts, TAIL])


if __name__ == "__main__":
    PAGE.write_text(page())

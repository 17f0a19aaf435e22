"""How fast training is: `distill.training.fit` against a plain PyTorch loop, in turns within one run.

The plain loop is what a reader would write first: a DataLoader over a TensorDataset, the same network in
the default memory layout, float32, SGD. Both train on the same images; the ratio is of images a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill import data, experiments, models, records, training


def plain_loop(x: Tensor, y: Tensor, architecture: str) -> float:
    """Seconds of one pass."""
    model = models.build(architecture).to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, 0.5)
    model.train()
    started = time.perf_counter()
    for images, labels in DataLoader(TensorDataset(x, y), 128, shuffle=True):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return time.perf_counter() - started


def ours(x: Tensor, y: Tensor, architecture: str, precision: str) -> float:
    """Seconds of one pass."""
    model: nn.Module = models.build(architecture)
    recipe = training.Recipe("benchmark", 1, "sgd", 0.01, 0.5)
    started = time.perf_counter()
    training.fit(model, x, y, temperature=1.0, recipe=recipe, precision=precision)
    return time.perf_counter() - started


def measure(name: str, images: int, rounds: int, precisions: list[str]) -> list[dict]:
    """Rows of seconds and ratios, the contestants in turns; the first round warms up and is not counted."""
    loaded = data.load(name, train=True)
    x, y, architecture = loaded.x[:images], loaded.y[:images], data.dataset(name).architecture
    times: dict[str, list[float]] = {"plain loop, float32": []}
    for number in range(rounds + 1):
        found = {"plain loop, float32": plain_loop(x, y, architecture)}
        found |= {f"fit, {precision}": ours(x, y, architecture, precision) for precision in precisions}
        for label, seconds in found.items() if number else ():
            times.setdefault(label, []).append(seconds)
    base = times["plain loop, float32"]
    return [
        {"dataset": name, "what": label, "images_per_second": images / statistics.median(seconds), "rounds": rounds,
         "ratio": statistics.median(b / s for b, s in zip(base, seconds, strict=True))}
        for label, seconds in times.items()
    ]  # fmt: skip


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=2560)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    best = training.best_precision("cpu")
    rows = []
    for name in ("mnist", "cifar10"):
        rows += measure(name, chosen.images, chosen.rounds, ["float32", "bfloat16"])
    # Last, since it cannot be undone: how every run of the package holds its memory.
    experiments.keep_freed_memory()
    for name in ("mnist", "cifar10"):
        kept = measure(name, chosen.images, chosen.rounds, [best])
        rows += [{**row, "what": row["what"] + ", freed memory kept"} for row in kept]
    for row in rows:
        print(f"{row['dataset']:8} {row['what']:40} {row['images_per_second']:8.0f} images/s   {row['ratio']:.2f} x the plain loop")
    print(json.dumps({"rows": rows, "automatic precision here": best, "environment": records.environment()}))


if __name__ == "__main__":
    main()

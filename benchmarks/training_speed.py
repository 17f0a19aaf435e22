"""How fast training is: `distill.training.fit` against a plain PyTorch loop, in turns within one run.

The plain loop is what a reader would write first: a DataLoader over a TensorDataset, the same network in
the default memory layout, float32, SGD. Every measurement is a process of its own, since how a process holds
its freed memory (`experiments.keep_freed_memory`, as in every run of the package) cannot be undone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from distill import data, experiments, models, records, training

PLAIN = "plain loop, float32"
CONTESTANTS = (PLAIN, "fit, float32", "fit, bfloat16")
IMAGES, WARM_UP = 3840, 640


def plain_loop(x: Tensor, y: Tensor, architecture: str) -> None:
    """One pass as a reader would write it."""
    model = models.build(architecture).to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, 0.5)
    model.train()
    for images, labels in DataLoader(TensorDataset(x, y), 128, shuffle=True):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()


def one(name: str, contestant: str) -> float:
    """Images a second of one pass, after a short one to warm up."""
    loaded = data.load(name, train=True)
    architecture = data.dataset(name).architecture
    recipe = training.Recipe("benchmark", 1, "sgd", 0.01, 0.5)
    if contestant != PLAIN:
        experiments.keep_freed_memory()
    seconds = 0.0
    for images in (WARM_UP, IMAGES):
        x, y = loaded.x[:images], loaded.y[:images]
        started = time.perf_counter()
        if contestant == PLAIN:
            plain_loop(x, y, architecture)
        else:
            training.fit(models.build(architecture), x, y, temperature=1.0, recipe=recipe, precision=contestant.split(", ")[1])
        seconds = time.perf_counter() - started
    return IMAGES / seconds


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--one", nargs=2, metavar=("DATASET", "CONTESTANT"))
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    if chosen.one:
        print(one(*chosen.one))
        return
    rows = []
    for name in ("mnist", "cifar10"):
        data.fetch(data.dataset(name))
        speeds: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
        for _ in range(chosen.rounds):
            for contestant, found in speeds.items():
                done = subprocess.run([sys.executable, __file__, "--one", name, contestant], stdout=subprocess.PIPE, text=True, check=True)
                found.append(float(done.stdout.split()[-1]))
        for contestant, found in speeds.items():
            ratio = statistics.median(ours / plain for ours, plain in zip(found, speeds[PLAIN], strict=True))
            rows.append({"dataset": name, "what": contestant, "images_per_second": statistics.median(found), "ratio": ratio,
                         "rounds": chosen.rounds})  # fmt: skip
            print(f"{name:8} {contestant:22} {statistics.median(found):8.0f} images/s   {ratio:.2f} x the plain loop", flush=True)
    print(json.dumps({"rows": rows, "environment": records.environment()}))


if __name__ == "__main__":
    main()

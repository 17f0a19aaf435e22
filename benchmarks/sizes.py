"""How time and memory of the attack grow with the image: 3 x 28 x 28 to 3 x 224 x 224, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import nn

from distill import jsma, records

SIZES = (28, 56, 112, 224)
BUDGET, ATTACKS = 56, 8


def network() -> nn.Module:
    """A network for images of any size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def peak() -> float:
    """The process's largest memory so far, in MB."""
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def one(size: int, output: str) -> dict:
    """Attack one batch; say how long a step took and how far memory rose above the model's own passes."""
    model = network()
    x = torch.rand(ATTACKS, 3, size, size)
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(model(leaf).sum(), leaf)
    before = peak()
    started = time.perf_counter()
    found = jsma(model, x, torch.arange(ATTACKS) % 10, max_features=BUDGET, output=output, batch_size=ATTACKS)
    seconds = time.perf_counter() - started
    passes = int(found.passes.sum())
    return {"size": size, "features": 3 * size * size, "output": output, "attacks": ATTACKS, "passes": passes,
            "milliseconds_per_pass": 1e3 * seconds / passes, "extra_megabytes": peak() - before,
            "dense_megabytes": (3 * size * size) ** 2 * 4 / 1e6}  # fmt: skip


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--one", nargs=2, metavar=("SIZE", "OUTPUT"))
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(one(int(chosen.one[0]), chosen.one[1])))
        return
    rows = []
    for size in SIZES:
        for output in ("softmax", "logits"):
            done = subprocess.run([sys.executable, __file__, "--one", str(size), output], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
            row = rows[-1]
            print(
                f"3x{size}x{size} {output:8} {row['milliseconds_per_pass']:7.2f} ms a pass, {row['extra_megabytes']:6.0f} MB beyond the passes' own; "
                f"one dense n x n matrix would take {row['dense_megabytes']:.0f} MB"
            )
    print(json.dumps({"rows": rows, "environment": records.environment()}))


if __name__ == "__main__":
    main()

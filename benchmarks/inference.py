"""Time of a forward pass of distilled networks against the undefended one, in one process, in turns."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from distill import data, experiments, plans

IMAGES = 1000
WARM = 3


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", required=True)
    options.add_argument("--rounds", type=int, default=25)
    chosen = options.parse_args()
    experiments.keep_freed_memory()
    rows = []
    for name in ("mnist", "cifar10"):
        x = data.load(name, train=False).x[:IMAGES]
        runs = [run for run in plans.plan("quick", name, stages=["train"]) if run["role"] in ("plain", "student")]
        networks = {
            "undefended" if run["role"] == "plain" else f"T = {run['temperature']:g}":
            experiments.load_model(run, experiments.Context.new(chosen.store)).model for run in runs
        }  # fmt: skip
        times: dict[str, list[float]] = {label: [] for label in networks}
        with torch.no_grad():
            for turn in range(chosen.rounds + WARM):
                for label, model in networks.items():
                    started = time.perf_counter()
                    model(x)
                    if turn >= WARM:
                        times[label].append(time.perf_counter() - started)
        for label, seconds in times.items():
            ratios = np.array(seconds) / np.array(times["undefended"])
            rows.append({"dataset": name, "what": label, "images": IMAGES, "rounds": chosen.rounds, "seconds": float(np.median(seconds)),
                         "ratio": float(np.median(ratios)), "least": float(ratios.min()), "most": float(ratios.max())})  # fmt: skip
    for row in rows:
        print(f"{row['dataset']:8} {row['what']:12} {row['ratio']:.3f} x the undefended network's time")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

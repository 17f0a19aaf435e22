"""One process with all threads against as many processes of one thread: the same trainings and attacks, in turns.

Every process is warm before a turn begins; a turn ends when the last process has done its part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time

import torch

from distill import data, experiments, jsma, models, training

TRAINED, ATTACKED = 2560, 128  # images of one piece of work
ROUNDS = 5


def prepare(kind: str, name: str):
    """A piece of work: one pass of training, or attacks of a fixed number of steps on a network with random weights."""
    torch.manual_seed(0)
    architecture = data.dataset(name).architecture
    images = data.load(name, train=True)
    x, y = images.x[:TRAINED], images.y[:TRAINED]
    if kind == "training":
        recipe = training.Recipe("benchmark", 1, "sgd", 0.01, 0.5)
        return lambda: training.fit(models.build(architecture), x, y, temperature=1.0, recipe=recipe, precision="float32")
    model, value = models.build(architecture).eval(), data.dataset(name).value
    target = model(x[:ATTACKED]).argmin(1)
    return lambda: jsma(model, x[:ATTACKED], target, max_features=20, value=value, output="log_softmax")


def work(kind: str, name: str, threads: int, pieces: int, begin, end) -> None:
    """A process: do so many pieces between one barrier and the next, until told to stop."""
    torch.set_num_threads(threads)
    experiments.keep_freed_memory()
    piece = prepare(kind, name)
    piece()
    for _ in range(ROUNDS):
        begin.wait()
        for _ in range(pieces):
            piece()
        end.wait()


def times(kind: str, name: str, processes: int, threads: int, pieces: int):
    """Seconds of each round, as an iterator: the processes live until it ends."""
    spawn = multiprocessing.get_context("spawn")
    begin, end = spawn.Barrier(processes + 1), spawn.Barrier(processes + 1)
    running = [spawn.Process(target=work, args=(kind, name, threads, pieces, begin, end), daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    for _ in range(ROUNDS):
        begin.wait()
        started = time.perf_counter()
        end.wait()
        yield time.perf_counter() - started
    for process in running:
        process.join()


def main() -> None:
    """Run as a script."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cores = torch.get_num_threads()
    rows = []
    for name in ("mnist", "cifar10"):
        data.fetch(data.dataset(name))
        for kind in ("training", "attack"):
            turns = list(zip(times(kind, name, 1, cores, cores), times(kind, name, cores, 1, 1), strict=True))
            ratios = [one / many for one, many in turns]
            rows.append({"dataset": name, "what": kind, "cores": cores, "one_process": statistics.median(a for a, _ in turns),
                         "many_processes": statistics.median(b for _, b in turns), "ratio": statistics.median(ratios),
                         "least": min(ratios), "most": max(ratios), "rounds": ROUNDS})  # fmt: skip
            print(f"{name:8} {kind:8} {cores} pieces of work: one process of {cores} threads takes {rows[-1]['ratio']:.2f} "
                  f"[{min(ratios):.2f}, {max(ratios):.2f}] x the time of {cores} processes of one thread", flush=True)  # fmt: skip
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

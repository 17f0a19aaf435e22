"""Kill, crowd and starve runs; what is on record afterwards must be what an undisturbed run leaves.

``make fault-test`` runs all of it, and ``tests/test_faults.py`` a small sample. Every piece of work is a forked process:
the parent only forks, so a killed child is a killed program. Kills come at random times, drawn from ``--seed``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; threads do not survive a fork

import argparse
import contextlib
import dataclasses
import multiprocessing
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from distill import cli, data, experiments, plans, records, training

KILLS = {"training": 20, "attack": 15, "writing": 15, "decoding": 10, "a whole plan": 10}
WRITERS = (2, 4)
fork = multiprocessing.get_context("fork")


# --- what is compared ---------------------------------------------------------------------------------------


def essence(store: Path) -> dict[str, Any]:
    """Every record of a store, verified, without what depends on when it was made."""
    out = {}
    for record in records.all_records(store):
        told = {
            name: value for name, value in record.info["provenance"].items() if name not in ("finished", "wall_seconds", "start_seconds")
        }
        told["history"] = [{**epoch, "seconds": 0} for epoch in told.get("history", [])]
        told["data"] = {name: value for name, value in told.get("data", {}).items() if name != "source"}
        table = record.table().drop(columns="train_seconds", errors="ignore")
        table = repr(table.map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value).to_dict("records"))
        out[record.path.name] = (record.config, record.info["columns"], told, table, record.info["sha256"].get(records.WEIGHTS))
    return out


def digest_of(root: Path) -> list[str]:
    """Hashes of the decoded data set."""
    return data.fetch(data.dataset("mnist-5k"), root)[2]


# --- children ---------------------------------------------------------------------------------------------


def start(work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """Do the work in a child that leaves by its exit code."""
    child = fork.Process(target=_body, args=(work, *arguments))
    child.start()
    return child


def _body(work: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        work(*arguments)


def ask(work: Callable[..., Any], *arguments: object) -> Any:
    """What the work returns, from a child, so that the parent's process stays as fresh as it was."""
    receive, send = fork.Pipe(duplex=False)
    child = start(lambda: send.send(work(*arguments)))
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise AssertionError(f"{getattr(work, '__name__', work)} failed") from None
    finally:
        child.join()


def say(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command ``distill``."""

    def run() -> tuple[int, str]:
        with tempfile.TemporaryFile("w+") as file, contextlib.redirect_stderr(file):
            code = cli.main(arguments)
            file.seek(0)
            return code, file.read()

    return ask(run)


# --- the work ---------------------------------------------------------------------------------------------


class Stage:
    """A small data set, a recipe of a few epochs, and the work that is disturbed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.digits = base / "digits"
        self.digits.mkdir()
        random_pixels = np.random.default_rng(0)
        for split, count in (("train", 96), ("test", 20)):
            labels = (np.arange(count) % 10).astype(np.uint8)
            pixels = random_pixels.integers(0, 60, (count, 28, 28))
            for row, label in enumerate(labels):  # a bright bar for each class, which a few epochs learn
                pixels[row, 2 + 2 * label : 5 + 2 * label] += 180
            for name, array in zip(data.IDX_FILES[split], (pixels.astype(np.uint8), labels), strict=True):
                (self.digits / name).write_bytes(data.encode_idx(array))
        training.RECIPES["smoke", "mnist"] = training.Recipe("smoke", 6, "adam", 3e-3, 0.9, one_cycle=True, dropout=0.2, batch_size=16)
        plans.PROFILES["smoke"] = dataclasses.replace(plans.PROFILES["smoke"], images=3)
        records.PUBLISHED = base / "results"  # nothing is published here
        training._optimiser(torch.nn.Linear(1, 1), training.RECIPES["smoke", "mnist"])  # imports much of torch, once for all children
        records.environment()

    def plan(self, temperatures: list, stages: list[str]) -> list[dict]:
        return plans.plan("smoke", str(self.digits), temperatures, stages=stages)

    def ensure(self, folder: Path, temperatures: list, stages: list[str]) -> None:
        context = experiments.Context.new(folder / "store")
        if failures := experiments.ensure(self.plan(temperatures, stages), context):
            raise AssertionError(failures)

    def training(self, folder: Path) -> None:
        self.ensure(folder, ["none"], ["train"])

    def attack(self, folder: Path) -> None:
        if not (folder / "store").exists():  # the network is there from the start
            shutil.copytree(self.base / "training-undisturbed" / "store", folder / "part", dirs_exist_ok=True)
            os.rename(folder / "part", folder / "store")
        self.ensure(folder, ["none"], ["attack"])

    def whole(self, folder: Path) -> None:
        self.ensure(folder, ["none", 20], ["train", "attack"])

    def writing(self, folder: Path) -> None:
        for seed in range(40):
            config = {"kind": "model", "dataset": "d", "profile": "p", "role": "plain", "temperature": 1.0, "seed": seed}
            if records.find(config, [folder / "store"]) is None:
                rows = pd.DataFrame({"accuracy": np.arange(1000) * seed, "at_chance": False})
                records.write(folder / "store", config, rows, columns={"seed": seed}, provenance={"wall_seconds": 1.0},
                              weights={"w": torch.full((100, 100), float(seed))})  # fmt: skip

    def decoding(self, folder: Path) -> None:
        digest_of(folder / "data")


def state(folder: Path) -> Any:
    """What the work has left in its folder."""
    return digest_of(folder / "data") if (folder / "data" / "mnist-5k").exists() else essence(folder / "store")


# --- the disturbances ---------------------------------------------------------------------------------------


def kills(stage: Stage, name: str, work: Callable[[Path], None], count: int, chance: random.Random) -> str:
    """Kill the work at random times, each time going on with what it left, until so many were killed; then compare."""
    whole = stage.base / f"{name}-undisturbed"
    whole.mkdir()
    started = time.perf_counter()
    child = start(work, whole)
    child.join()
    lasts = time.perf_counter() - started
    assert child.exitcode == 0, name
    wanted = ask(state, whole)
    killed, finished, folder, seen = 0, 0, stage.base / f"{name}-0", set()
    folder.mkdir()
    while killed < count:
        child = start(work, folder)
        child.join(chance.uniform(0, lasts))
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), (name, child.exitcode)
        if name != "decoding":
            left = set(ask(essence, folder / "store"))  # reads and verifies every record: none is torn
            assert seen <= left, f"{name}: lost {seen - left}"
            seen = left
        if child.exitcode:
            killed += 1
        else:
            assert ask(state, folder) == wanted, name
            finished, seen = finished + 1, set()
            folder = stage.base / f"{name}-{finished}"
            folder.mkdir()
    child = start(work, folder)
    child.join()
    assert child.exitcode == 0 and ask(state, folder) == wanted, name
    for place in (folder / "store", folder / "data"):
        left_over = list(place.rglob("*part*")) if place.exists() else []
        assert name == "writing" or not left_over, left_over  # what the dead left went when the run was done
    return f"{name}: {killed} kills survived, {finished + 1} completed after them, equal to the undisturbed ({lasts:.1f} s)"


def writers(stage: Stage, count: int, chance: random.Random) -> str:
    """Several processes compute the same plan into one store at once, one of them is killed on the way."""
    wanted = ask(essence, stage.base / "a whole plan-undisturbed" / "store")
    folder = stage.base / f"writers-{count}"
    folder.mkdir()
    children = [start(stage.whole, folder) for _ in range(count)]
    time.sleep(chance.uniform(0.3, 1.5))
    children[0].kill()
    for child in children:
        child.join()
    assert [child.exitcode for child in children[1:]] == [0] * (count - 1)
    assert ask(essence, folder / "store") == wanted
    return f"{count} processes on one store, one killed: the records of one undisturbed process"


def one_line(code: int, err: str, *words: str) -> None:
    """Assert a failure that is told in one line."""
    assert code == 1 and err.count("\n") == 1 and "Traceback" not in err, (code, err)
    assert all(word in err for word in words), err


def starved(stage: Stage) -> list[str]:
    """Disks that are full or read-only, caches that vanish, clocks that jump, leftovers of the dead."""
    wanted = ask(essence, stage.base / "a whole plan-undisturbed" / "store")
    plain = (
        "run",
        "--profile",
        "smoke",
        "--dataset",
        str(stage.digits),
        "--temperatures",
        "none,20",
        "--quiet",
        "--threads",
        "1",
        "--store",
    )
    told = []

    disk = stage.base / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True).returncode == 0:
        try:
            one_line(*say(*plain, str(disk / "store")), "cannot be written", "No space left")
            ask(essence, disk / "store")
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            assert say(*plain, str(disk / "store")) == (0, "")
            assert ask(essence, disk / "store") == wanted
            told.append("a full disk (tmpfs of 1.5 MB): one line, and the same records once there is room")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            one_line(*say(*plain[:6], "none,30", *plain[7:], str(disk / "store")), "cannot write to the store", "Read-only")
            assert say(*plain, str(disk / "store")) == (0, "") and ask(essence, disk / "store") == wanted
            one_line(*say("data", "mnist-5k", "--data-root", str(disk / "data")), "cannot write to the data folder")
            told.append("a read-only store and data folder: one line; records that are there are read")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    else:
        told.append("a full and a read-only disk: NOT TRIED, mounting is not allowed here")

    def small_files() -> tuple[int, str]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with tempfile.TemporaryFile("w+") as file, contextlib.redirect_stderr(file):
            code = cli.main([*plain, str(stage.base / "limited")])
            file.seek(0)
            return code, file.read()

    one_line(*ask(small_files), "cannot be written")
    assert ask(essence, stage.base / "limited") == {}
    assert say(*plain, str(stage.base / "limited")) == (0, "") and ask(essence, stage.base / "limited") == wanted
    told.append("a limit of 100 kB a file: one line, and the same records without it")

    def bereft(folder: Path) -> None:
        with contextlib.suppress(*experiments.STOPS, AssertionError):  # one line each, of the store or of a run
            stage.whole(folder)

    gone = stage.base / "gone"
    gone.mkdir()
    child = start(bereft, gone)
    time.sleep(0.5)
    shutil.rmtree(gone / "store", ignore_errors=True)
    child.join()
    assert child.exitcode == 0
    child = start(stage.whole, gone)
    child.join()
    assert child.exitcode == 0 and ask(essence, gone / "store") == wanted
    cache = stage.base / "cache"
    first = ask(digest_of, cache)
    shutil.rmtree(cache / "mnist-5k")
    assert ask(digest_of, cache) == first
    away = stage.base / "away"
    stage.digits.rename(away)
    code, err = say(*plain, str(stage.base / "elsewhere"))
    assert code == 2 and "is not a folder" in err and err.count("\n") == 1
    away.rename(stage.digits)
    told.append("a store, a cache and a data set that vanish: made anew, or one line")

    clock = stage.base / "clock"
    clock.mkdir()
    for number, when in enumerate((4102444800, 31536000)):  # 2100 and 1971

        def jumps(when: int = when) -> None:
            real = time.time
            time.time = lambda: real() + random.choice((-1, 1)) * 10**8
            stage.whole(clock)
            time.time = real
            for path in [clock, *clock.rglob("*"), *stage.digits.iterdir()]:
                os.utime(path, (when, when))

        child = start(stage.training, clock) if number == 0 else None
        if child:
            child.join(0.4)
            child.kill()
            child.join()
        work = clock / "store" / ".work"
        for run in stage_keys(stage):
            (work / run / "part-of-the-dead").mkdir(parents=True, exist_ok=True)
            (work / run / "part-of-the-dead" / "table.parquet").write_bytes(b"torn")
            (work / f"{run}.lock").touch()
            os.utime(work / f"{run}.lock", (when, when))
        child = start(jumps)
        child.join(300)
        assert child.exitcode == 0 and ask(essence, clock / "store") == wanted
        assert number or not list(work.rglob("part-*"))
        shutil.rmtree(next(path for path in (clock / "store").iterdir() if "-attack-" in path.name))
        child = start(stage.whole, clock)
        child.join(300)
        assert child.exitcode == 0 and ask(essence, clock / "store") == wanted
    told.append("clocks that jump, files of 1971 and 2100, locks and work folders of the dead: in nobody's way")
    return told


def stage_keys(stage: Stage) -> list[str]:
    """Names of the whole plan's runs."""
    return ask(lambda: [records.key(config) for config in stage.plan(["none", 20], ["train", "attack"])])


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sample", action="store_true", help="one kill of each kind of work, no more")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        stage = Stage(Path(folder))
        works = dict(zip(KILLS, (stage.training, stage.attack, stage.writing, stage.decoding, stage.whole), strict=True))
        total = 0
        for name, work in works.items():
            if chosen.sample and name == "a whole plan":
                continue
            count = 1 if chosen.sample else KILLS[name]
            print(kills(stage, name, work, count, chance), flush=True)
            total += count
        for count in [] if chosen.sample else WRITERS:
            print(writers(stage, count, chance), flush=True)
        for line in [] if chosen.sample else starved(stage):
            print(line, flush=True)
    print(f"{total} kills in all")


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: every benchmark in turn; the results become records.

Peers run in `.bench-venv`, which sees the packages of `.venv` and has the peers installed without their pins.
Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from distill import experiments, plans, records

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".bench-venv"
PARTS = ("training_speed", "processes", "sizes", "inference", "peers")
NEEDS_NETWORKS = ("inference", "peers")  # those of the profile quick


def peers_python() -> str:
    """The interpreter that can import the peers, made where it is not there."""
    python = VENV / "bin" / "python"
    if not (VENV / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        (site,) = VENV.glob("lib/python*/site-packages")
        (ours,) = Path(sys.prefix).glob("lib/python*/site-packages")
        (site / "distill-environment.pth").write_text(f"{ours}\n{HERE.parent}\n")
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-r", str(HERE / "requirements-peers.txt")], check=True)
        (VENV / "ready").touch()
    return str(python)


def run(part: str, store: Path) -> None:
    """Run one benchmark, print what it says and write its tables as records."""
    command = [peers_python() if part == "peers" else sys.executable, str(HERE / f"{part}.py")]
    command += ["--store", str(store)] if part in NEEDS_NETWORKS else []
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the benchmark {part} failed with exit code {done.returncode}")
    *lines, last = done.stdout.strip().splitlines()
    print("\n".join(lines), flush=True)
    result = json.loads(last)
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for table in ("rows", "overheads"):
        if table not in result:
            continue
        config = {"kind": "benchmark", "dataset": "all", "profile": "bench", "role": f"{part}_{table}", "temperature": 1.0, "seed": 0,
                  "finished": stamp}  # fmt: skip
        record = records.write(
            store, config, pd.DataFrame(result[table]),
            columns={"profile": "bench", "role": config["role"], "finished": stamp},
            provenance={"wall_seconds": time.perf_counter() - started, "device": "cpu", "dtype": "float32"},
        )  # fmt: skip
        print(f"recorded as {record.path}")


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", default=PARTS, help=f"default: {' '.join(PARTS)}")
    options.add_argument("--store", type=Path, default=records.own_store())
    options.add_argument("--publish", action="store_true", help="copy the records of this run into results/")
    chosen = options.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        options.error(f"unknown benchmark {unknown.pop()!r}: allowed are {', '.join(PARTS)}")
    if set(NEEDS_NETWORKS) & set(chosen.parts):
        context = experiments.Context.new(chosen.store)
        for name in ("mnist", "cifar10"):
            experiments.ensure(plans.plan("quick", name, None if "inference" in chosen.parts else ["none"], stages=["train"]), context)
    before = {record.path for record in records.all_records(chosen.store)}
    for part in chosen.parts:
        print(f"== {part}", flush=True)
        run(part, chosen.store)
    for record in records.all_records(chosen.store) if chosen.publish else ():
        if record.path not in before:
            records.publish(record)


if __name__ == "__main__":
    main()

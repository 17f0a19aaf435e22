"""The command ``distill``: fetch data, run experiments, say what is recorded."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import distill
from distill import cluster, data, experiments, inventory, plans, records, training

ERRORS = (data.DataError, experiments.RunError, records.RecordError, training.TrainingError, OSError)


MOST = 1024  # threads or processes; far more of them end in an error of the system's


class Usage(ValueError):
    """Wrong usage: exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise Usage(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parser().parse_args([a for a in arguments if a != "--debug"])
        for name in ("store", "data_root"):
            if getattr(options, name, None) == "":
                raise Usage(f"--{name.replace('_', '-')} is empty; allowed is a folder")
        return options.command(options)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("distill: interrupted; finished runs and epochs are kept", file=sys.stderr)
        return 1
    except (ValueError, *ERRORS) as error:
        if "--debug" in arguments:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"distill: {text}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) and not isinstance(error, ERRORS) else 1


def parser() -> argparse.ArgumentParser:
    """The argument parser, from which the documentation's page is made."""
    top = _Parser(prog="distill", description="Replication of defensive distillation: data, runs and records.",
                  epilog="Exit codes: 0 done, 1 failed, 2 wrong usage. --debug shows a traceback.")  # fmt: skip
    top.add_argument("--version", action="version", version=f"distill {distill.__version__}", help="print the version")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    fetch = commands.add_parser("data", help="fetch and verify data sets, and say where each came from")
    fetch.add_argument("names", nargs="*", metavar="NAME", help=f"default: mnist cifar10; known: {', '.join(data.DATASETS)}")
    _data_root(fetch)
    fetch.set_defaults(command=_fetch)

    run = commands.add_parser("run", help="compute what a profile needs and has no record of")
    run.add_argument("--profile", required=True, help=", ".join(plans.PROFILES))
    run.add_argument("--dataset", default=None, help="one or more, separated by commas; default: the profile's")
    run.add_argument("--temperatures", default=None, help="such as none,1,20; default: the profile's")
    run.add_argument("--seeds", default="0", help="such as 0,1,2 (default 0)")
    run.add_argument("--stages", default="train,attack", help=f"of {', '.join(plans.STAGES)} (default: train,attack)")
    run.add_argument("--images", default=None, help="test images that are attacked, such as 1000; default: the profile's")
    run.add_argument("--precision", default="auto", help=f"of trainings: {', '.join(plans.PRECISIONS)} (default: auto)")
    run.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    run.add_argument("--threads", type=int, default=None, help="of the processor (default: torch's choice; engine ray: 1 a run)")
    run.add_argument("--engine", default="local", help="local (the default), or ray for a cluster of machines")
    run.add_argument("--processes", default="1", help="engine local: runs computed at a time, or auto for this machine's (default 1)")
    run.add_argument(
        "--address", default=None, help="engine ray: the cluster, such as 10.0.0.1:6379 (default: RAY_ADDRESS, else this machine)"
    )
    run.add_argument("--gpus", type=float, default=0.0, help="engine ray: GPUs that a run takes, such as 1 or 0.25 (default 0)")
    run.add_argument("--retries", type=int, default=3, help="engine ray: how often a run is tried again whose machine was lost (default 3)")
    run.add_argument(
        "--publish",
        action="store_true",
        help="also copy each finished record into results/, and the weights of the profile paper's networks of seed 0 into zoo/",
    )
    run.add_argument("--quiet", action="store_true", help="no progress bars (there are none where the output is not a terminal)")
    _store(run)
    _data_root(run)
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="what is recorded, running, missing; how long the rest should take")
    status.add_argument("--profile", default=None, help="default: all")
    status.add_argument("--dataset", default=None, help="default: the profile's")
    status.add_argument("--seeds", default="0", help="such as 0,1,2 (default 0)")
    status.add_argument("--temperatures", default=None, help="such as none,1,20; default: the profile's")
    status.add_argument("--stages", default="train,attack", help=f"of {', '.join(plans.STAGES)} (default: train,attack)")
    status.add_argument("--images", default=None, help="test images that are attacked; default: the profile's")
    status.add_argument("--precision", default="auto", help="of trainings, as it was asked for (default: auto)")
    _store(status)
    status.set_defaults(command=_status)
    return top


def _data_root(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-root", default=None, help="folder of data sets (default: DISTILL_DATA, else the user's cache folder)")


def _store(command: argparse.ArgumentParser) -> None:
    command.add_argument("--store", default=None, help="folder of records: only this one is read and written "
                         "(default: published records are read, new ones go to DISTILL_STORE, else the user's data folder)")  # fmt: skip


def _list(text: str | None) -> list[str] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise Usage(f"{text!r} is an empty list; allowed are one or more values, separated by commas")
    return parts


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":")[0]
    if name not in ("cpu", "cpu:0") and (kind != "cuda" or not torch.cuda.is_available()):
        raise Usage(f"--device {name!r} is not there: allowed are cpu{' and cuda' if torch.cuda.is_available() else ''} on this machine")
    try:
        torch.empty(0, device=name)
    except RuntimeError:
        raise Usage(f"--device {name!r} is not there") from None
    return name


def _fetch(options: argparse.Namespace) -> int:
    for name in options.names or ["mnist", "cifar10"]:
        spec = data.dataset(name)
        paths, source, digests = data.fetch(spec, options.data_root)
        for train in (True, False) if not spec.sha256 else ():  # of a person's own files no hash is known: are they images?
            data.load(name, train=train, root=options.data_root)
        print(
            f"{name}: {'verified' if spec.sha256 else 'readable'}, from {source}, in {paths[0].parent} (SHA-256 of the training images {digests[0][:16]}...)"
        )
    return 0


def _plan(options: argparse.Namespace, profile: str, temperatures: list[str] | None = None, stages: list[str] | None = None) -> list[dict]:
    named = _list(options.dataset) or plans.profile(profile).temperatures
    datasets = {data.dataset(name).name: name for name in named}.values()  # a folder once, however it is spelled
    images = None if options.images is None else _whole(options.images)
    if images == 0:
        raise Usage(f"--images {options.images!r}: allowed is an integer from 1 to the number of test images")
    return [
        config
        for dataset in datasets
        for config in plans.plan(
            profile,
            dataset,
            temperatures,
            seeds=plans.parse_seeds(_list(options.seeds) or []),
            stages=stages or ["train", "attack"],
            precision=options.precision,
            images=images,
        )
    ]


def _run(options: argparse.Namespace) -> int:
    engine = _engine(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    runs = _plan(options, options.profile, _list(options.temperatures), _list(options.stages))
    context = experiments.Context.new(
        options.store, data_root=options.data_root, device=_device(options.device), progress=not options.quiet and sys.stderr.isatty(),
        publish=_publish if options.publish else None,
    )  # fmt: skip
    for name in {config["dataset"] for config in runs} if options.images is not None else ():
        there = len(data.load(name, train=False, root=options.data_root).y)
        if _whole(options.images) > there:
            raise Usage(f"--images {options.images}: {name} has {there:,} test images, and so many are allowed")
    failures = experiments.ensure(runs, context, engine=engine)
    done = [record for config in runs if (record := _readable(config, context.look_in)) is not None]
    published = 0
    for record in done if options.publish else []:
        try:
            _publish(record)
            published += 1
        except records.RecordError as error:  # another result is published: the others are published nevertheless
            if not any(str(error) in failure for failure in failures):
                failures.append(str(error))
    told = f", {published} published in {records.PUBLISHED}" if options.publish else ""
    print(f"{len(done)} of {len(runs)} runs are recorded{told}")
    of_cause: dict[str, list[str]] = {}
    for failure in failures:
        of_cause.setdefault(failure.split(": ", 1)[-1], []).append(failure)
    for cause, same in of_cause.items():  # one line a cause, however many runs met it
        print(f"distill: failed: {same[0] if len(same) == 1 else f'{len(same)} runs: {cause}'}", file=sys.stderr)
    return 1 if failures else 0


def _publish(record: records.Record) -> None:
    """Publish a record; the zoo has the networks of Figure 7 by the paper's recipe, of the first seed."""
    own = record.config
    records.publish(record, weights=own["profile"] == "paper" and own["role"] in ("plain", "teacher", "student") and own["seed"] == 0)


def _engine(options: argparse.Namespace):
    """What computes the runs; options that only the other engine has are wrong usage."""
    if options.threads is not None and not 1 <= options.threads <= MOST:
        raise Usage(f"--threads {options.threads}: allowed is an integer from 1 to {MOST}")
    processes = cluster.best_count() if options.processes == "auto" else _whole(options.processes)
    if not 1 <= processes <= MOST:
        raise Usage(f"--processes {options.processes}: allowed are integers from 1 to {MOST}, and auto")
    if options.engine == "local":
        if options.address is not None or options.gpus or options.retries != 3:
            raise Usage("--address, --gpus and --retries are the engine ray's; allowed with --engine local is --processes")
        return experiments.one_by_one if processes == 1 else cluster.in_processes(processes, threads=options.threads)
    if options.engine != "ray":
        raise Usage(f"--engine {options.engine!r}: allowed are local, ray")
    if options.processes != "1" or options.device is not None:
        raise Usage("--processes and --device are the engine local's; allowed with --engine ray are --threads and --gpus of each run")
    if options.address == "" or not 0 <= options.retries <= MOST or not (math.isfinite(options.gpus) and options.gpus >= 0):
        raise Usage("--address is the cluster's, --retries an integer from 0, --gpus a number from 0")
    return cluster.on_ray(options.address, cluster.Share(options.threads or 1, options.gpus, options.retries))


def _whole(text: str) -> int:
    """The integer that a text is, or 0."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _readable(config: dict, stores: list[Path]) -> records.Record | None:
    """The record of a run, or nothing where it is missing or damaged (which `ensure` has reported)."""
    try:
        return records.find(config, stores)
    except records.RecordError:
        return None


def _status(options: argparse.Namespace) -> int:
    profiles = [options.profile] if options.profile is not None else _profiles_for(_list(options.dataset))
    look_in = records.stores(options.store)
    store = look_in[-1]
    if store.exists() and not store.is_dir():
        raise Usage(f"--store {str(store)!r} is not a folder; allowed is a folder of records, or one that is not there yet")
    faults: list[records.RecordError] = []
    speed = inventory.speeds(options.store, damaged=faults.append)
    for name in profiles:
        runs = _plan(options, name, _list(options.temperatures), _list(options.stages))
        states = [_state(config, look_in) for config in runs]
        count = {state: states.count(state) for state in ("recorded", "running", "missing", "damaged")}
        print(
            f"{name}: {count['recorded']} of {len(runs)} runs recorded, {count['running']} running, {count['missing']} missing"
            + (f", {count['damaged']} damaged" if count["damaged"] else "")
        )
        for config, state in zip(runs, states, strict=True):
            if state != "recorded":
                begun = ", begun" if state == "missing" and records.begun(store, config) else ""
                print(f"  {state}{begun}  {records.key(config)}")
        missing = [config for config, state in zip(runs, states, strict=True) if state in ("running", "missing")]
        if missing:
            seconds, unlike = inventory.seconds_left(missing, speed)
            rest = f"about {inventory.duration(seconds)}" if unlike < len(missing) else "unknown time: nothing like it is recorded yet"
            unknown = f", and {unlike} runs of a kind not yet timed" if 0 < unlike < len(missing) else ""
            print(f"  the rest should take {rest}{unknown}")
    if faults:
        raise records.RecordError("; ".join(map(str, faults)))
    return 0


def _state(config: dict, look_in: list[Path]) -> str:
    """Whether a run is recorded, damaged, running or missing."""
    try:
        if records.find(config, look_in) is not None:
            return "recorded"
    except records.RecordError:
        return "damaged"
    return "running" if records.running(look_in[-1], config) else "missing"


def _profiles_for(datasets: list[str] | None) -> list[str]:
    """All profiles that have recipes for these data sets."""
    shapes = {data.dataset(name).architecture for name in datasets or ()}
    return [name for name, profile in plans.PROFILES.items() if shapes <= {data.dataset(d).architecture for d in profile.temperatures}]


if __name__ == "__main__":
    sys.exit(main())

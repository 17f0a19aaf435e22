"""Runs in several processes or on many machines: the same records, written by one driver into one store.

Nothing is scheduled here. A run needs the records of others (`distill.plans.needs`): processes wait for each other by the
store's locks, and Ray holds a task back until the records that it needs have been made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import torch
from tqdm import tqdm

import distill
from distill import experiments, plans, records
from distill.experiments import Context, Outcome
from distill.plans import Config

# --- processes of this machine ----------------------------------------------------------------------------


MEMORY = 2.5e9  # bytes that a process may take: data sets, network, a full batch of attacks


def best_count() -> int:
    """How many processes suit this machine: one a core, as far as its memory goes that is free, or only caches files.

    Networks as small as these train faster in several processes of one thread than in one of several; the chapter
    "What it costs" says by how much.
    """
    return max(1, min(torch.get_num_threads(), int(psutil.virtual_memory().available // MEMORY)))


def in_processes(count: int, *, threads: int | None = None):
    """An engine for `experiments.ensure` that computes runs in so many processes of this machine.

    Parameters
    ----------
    count : int
    threads : int, optional
        Of each process; without it the processor's cores are shared out evenly.
    """

    def engine(runs: Sequence[Config], context: Context) -> Iterator[Outcome]:
        each = threads or max(1, torch.get_num_threads() // count)
        alone = dataclasses.replace(context, publish=None, progress=False, say=experiments.say)
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin_process, (each,))
        try:
            # Those on which others build come first, so that hardly a process waits for another's lock.
            with _interrupts_held():  # inherited by the processes that this starts, until they are ready for one
                waiting = {pool.submit(experiments.attempt, config, alone): config for config in sorted(runs, key=_depth)}
            for done in as_completed(waiting):
                try:
                    yield done.result()
                except BrokenProcessPool:
                    yield Outcome(waiting[done], None, "a process that computes runs was killed; what it had begun is kept", 0.0)
            pool.shutdown()
        except BaseException:  # an interrupt, a store that cannot be written, or whoever takes the outcomes stopped
            _end_processes(pool)
            raise

    return engine


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the block's end, in this thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _begin_process(threads: int) -> None:
    if parent := multiprocessing.parent_process():  # killed, it ends nobody
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process of the terminal: no traceback of each
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    tqdm.set_lock(threading.RLock())  # its own has a semaphore, which a process that is ended would leave behind
    torch.set_num_threads(threads)


def _end_processes(pool: ProcessPoolExecutor) -> None:
    """Drop the runs that are queued and end the processes that compute others: what those had begun is kept."""
    processes = list((pool._processes or {}).values())  # Python 3.14 has terminate_workers for this
    watcher = pool._executor_manager_thread
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    if watcher:  # of two threads that wait for one process, one may return before the process is known to have ended
        watcher.join()  # type: ignore[attr-defined]


def _depth(config: Config) -> int:
    return max((1 + _depth(above) for above in plans.needs(config)), default=0)


# --- machines ---------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """What a run takes of a machine: cores, which are also its threads, a share of a GPU, and how often it is tried again."""

    cpus: int = 1
    gpus: float = 0.0
    retries: int = 3


def on_ray(address: str | None = None, share: Share = Share()):  # noqa: B008 (immutable)
    """An engine for `experiments.ensure` that computes runs on a Ray cluster.

    Every run is a task. It gets its configuration and, as bytes, the records that it needs, so machines share no
    folder but fetch the data sets for themselves; the package is sent along. A task whose worker or machine is
    lost is done again elsewhere, and so is, for its sake, the one whose result was lost with it.

    Parameters
    ----------
    address : str, optional
        Of the cluster, such as ``10.0.0.1:6379``; without it RAY_ADDRESS, else a cluster of this machine alone.
    share : Share

    Raises
    ------
    RunError
        If Ray is not installed, or no cluster answers.
    """
    if share.cpus < 1 or share.retries < 0 or not math.isfinite(share.gpus) or share.gpus < 0 or (share.gpus > 1 and share.gpus % 1):
        raise ValueError(f"{share}: allowed are cpus from 1, gpus 0, a fraction of 1 or a whole number, and retries from 0")
    ray = _ray()

    def engine(runs: Sequence[Config], context: Context) -> Iterator[Outcome]:
        try:
            package = str(Path(distill.__file__).parent)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False if address is None else None,
                     runtime_env={"py_modules": [package]})  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise experiments.RunError(f"no Ray cluster at {address or 'this machine'}: {str(error).partition(chr(10))[0]}") from None
        try:
            yield from _computed(ray, runs, context, share)
        finally:
            ray.shutdown()

    return engine


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise experiments.RunError("the engine ray needs Ray: pip install 'distill-replication[cluster]'") from None


def _computed(ray: Any, runs: Sequence[Config], context: Context, share: Share) -> Iterator[Outcome]:
    """Submit every run, and those it needs that are nowhere on record; yield what became of the former."""
    task = ray.remote(_on_a_worker).options(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=share.retries)
    made: dict[str, Any] = {}  # by key: what a task that needs this record gets
    tasks: dict[Any, Config] = {}

    def result(config: Config) -> Any:
        name = records.key(config)
        if name not in made:
            above = plans.needs(config)
            try:
                shown = [found and records.pack(found) for found in (records.find(one, context.look_in) for one in above)]
                made[name] = task.remote(config, shown, context.data_root, share, *(existing(one) for one in above))
            except records.RecordError as error:  # what it needs is damaged: this run fails, the others are done
                made[name] = ray.put((None, str(error), 0.0))
            tasks[made[name]] = config
        return made[name]

    def existing(config: Config) -> Any:
        name = records.key(config)
        if name not in made and (found := records.find(config, context.look_in, weights=config["kind"] == "model")):
            made[name] = ray.put((records.pack(found), "", 0.0))
        return result(config)

    for config in runs:
        result(config)
    wanted, waiting = {records.key(config) for config in runs}, list(tasks)
    while waiting:
        (done,), waiting = ray.wait(waiting)
        config = tasks[done]
        try:
            files, failure, seconds = ray.get(done)
        except ray.exceptions.RayError as error:
            files, failure, seconds = None, str(error).strip().splitlines()[-1], 0.0
        record = records.unpack(context.store, records.key(config), files) if files else None
        if records.key(config) in wanted:
            yield Outcome(config, record, failure, seconds)


def _on_a_worker(
    config: Config, shown: list[dict[str, bytes] | None], data_root: Any, share: Share, *above: tuple
) -> tuple[dict[str, bytes] | None, str, float]:
    """Compute one run in a folder of its own; return its record's files, or a line that says why there are none."""
    torch.set_num_threads(share.cpus)
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        store, seen = Path(folder, "store"), Path(folder, "seen")
        context = Context(store, [seen, store], data_root, "cuda" if share.gpus else "cpu")
        for needed, published, (files, failure, _) in zip(plans.needs(config), shown, above, strict=True):
            if files is None:
                return None, f"what it needs failed: {failure}", 0.0
            records.unpack(store, records.key(needed), files)
            if published:  # the record as it is published, which the network must be the one of
                records.unpack(seen, records.key(needed), published)
        done = experiments.attempt(config, context)
        return records.pack(done.record) if done.record else None, done.failure, done.seconds


# --- how the cost grows -----------------------------------------------------------------------------------


def growth(
    made: Iterable[records.Record], counts: Sequence[int] = (1, 10, 100, 1000, 10_000), *, cores: Sequence[int] = (16, 1024)
) -> pd.DataFrame:  # fmt: skip
    """What n runs cost, if they are made up as those on record are, with further seeds.

    Parameters
    ----------
    made : iterable of Record
        One replication: its networks and attacks.
    counts : sequence of int
        Numbers of runs.
    cores : sequence of int
        Of clusters on which a run has one thread.

    Returns
    -------
    DataFrame
        A row a count: runs; trainings, epochs, attacks and passes (forward and backward, of one image) among them;
        core_hours; chain_hours, those of the longest chain of runs that need each other, which no number of
        machines shortens; gigabytes of records; hours_16, ...: the time on so many cores is at least that.

    Raises
    ------
    ValueError
        If there are no records.
    """
    found = {record.path.name: record for record in made}
    if not found:
        raise ValueError("there are no records; allowed are those of one replication")

    def hours(record: records.Record) -> float:
        return record.info["provenance"]["wall_seconds"] / 3600

    def chain(record: records.Record) -> float:
        above = [found[key] for key in map(records.key, plans.needs(record.config)) if key in found]
        return hours(record) + max(map(chain, above), default=0.0)

    trained = [record for record in found.values() if record.config["kind"] == "model"]
    attacks = [record for record in found.values() if record.config["kind"] == "attack"]
    each = {
        "trainings": len(trained),
        "epochs": sum(record.config["recipe"]["epochs"] for record in trained),
        "attacks": sum(len(record.table()) for record in attacks),
        "passes": sum(record.info["provenance"].get("passes", 0) for record in attacks),
        "core_hours": sum(hours(record) * record.info["provenance"]["threads"] for record in found.values()),
        "gigabytes": sum(map(_size, found.values())) / 1e9,
    }
    rows = [{"runs": n} | {name: value * n / len(found) for name, value in each.items()} for n in counts]
    table = pd.DataFrame(rows).assign(chain_hours=max(map(chain, found.values())))
    for number in cores:
        table[f"hours_{number}"] = np.maximum(table["core_hours"] / number, np.minimum(table["core_hours"], table["chain_hours"]))
    return table


def _size(record: records.Record) -> float:
    """Bytes of a record with its weights, which the published ones have elsewhere: two a parameter."""
    weights = 2 * int(record.table()["parameters"].iloc[0]) if record.config["kind"] == "model" else 0
    return weights + sum((record.path / name).stat().st_size for name in ("record.json", "table.parquet"))

"""What is on record and what is not: every run with its machine, a profile's gaps, and how long the rest should take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from distill import comparison, data, plans, records
from distill.plans import Config

COLUMNS = ("profile", "dataset", "stage", "kind", "role", "temperature", "seed", "python", "numpy", "machine", "record", "seconds", "precision",
           "device", "processor", "threads", "torch", "finished", "package source")  # fmt: skip
OTHER = "other"  # records of no stage: benchmarks, and trainings in a precision that was asked for


def size(config: Config) -> float:
    """Epochs of a training and of the one it starts from, images of an attack: what its time is proportional to; predictions are always of all images."""
    if config["kind"] != "model":
        return config.get("images", 1)
    return config["recipe"]["epochs"] + (config.get("start") or {"epochs": 0})["epochs"]


def speeds(
    store: str | Path | None = None, *, damaged: Callable[[records.RecordError], object] | None = None
) -> dict[tuple[str, str], float]:  # fmt: skip
    """Mean recorded seconds per epoch or attacked image, by data set and kind; ``damaged`` as in `records.all_records`."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for record in records.all_records(store, damaged=damaged):
        config = record.config
        if config["kind"] == "benchmark":
            continue
        made = record.info["provenance"]
        try:  # earlier records leave out the seconds of the training that theirs starts from
            cost = made["wall_seconds"] / size(config if "start_seconds" in made else {**config, "start": None})
        except (KeyError, TypeError, ArithmeticError):
            continue  # a record of something else tells nothing about these runs
        seconds.setdefault((config["dataset"], config["kind"]), []).append(cost)
    return {group: sum(values) / len(values) for group, values in seconds.items()}


def seconds_left(missing: Sequence[Config], speed: dict[tuple[str, str], float]) -> tuple[float, int]:
    """How long runs should take by the speeds of their like, and how many have no like on record."""
    costs = [speed.get((config["dataset"], config["kind"])) for config in missing]
    return sum(cost * size(config) for cost, config in zip(costs, missing, strict=True) if cost is not None), costs.count(None)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def of_stage(
    profile: str, dataset: str, stage: str, temperatures: Sequence[object] | None = None, *, seed: int = 0, images: int | None = None
) -> list[Config]:  # fmt: skip
    """The runs that a stage adds to those of the stages before it."""
    plan = functools.partial(plans.plan, profile, dataset, temperatures, seeds=[seed], images=images)
    before = list(plans.STAGES)[: list(plans.STAGES).index(stage)]
    there = set(map(records.key, plan(stages=before))) if before else set()
    return [run for run in plan(stages=[stage]) if records.key(run) not in there]


def runs(store: str | Path | None = None) -> pd.DataFrame:
    """Every record, a row each: what ran, for how long, when, on what, with which versions.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``stage`` (of `plans.STAGES`, or "other"), ``kind``, ``role``, ``temperature``, ``seed``, and the
        columns of `records.provenance`, with ``python``, ``numpy`` and ``machine``.
    """
    found = {record.path.name: record for record in records.all_records(store)}
    asked = {
        (config["profile"], config["dataset"], config["seed"], images if images > plans.profile(config["profile"]).images else None)
        for config, images in ((record.config, record.config.get("images", 0)) for record in found.values())
        if config["profile"] in plans.PROFILES and _known(config["dataset"])
    }
    stages = {
        records.key(run): stage
        for profile, dataset, seed, images in asked
        for stage in plans.STAGES
        for run in of_stage(profile, dataset, stage, plans.TEMPERATURES, seed=seed, images=images)
    }
    rows = []
    for name, record in found.items():
        config, made = record.config, record.info["provenance"]
        rows.append({
            "profile": config["profile"], "dataset": config["dataset"], "stage": stages.get(name, OTHER), "kind": config["kind"],
            "role": config["role"], "temperature": config["temperature"], "seed": config["seed"],
            "python": made["versions"]["python"], "numpy": made["versions"]["numpy"], "machine": made.get("machine", ""),
        })  # fmt: skip
    made = records.provenance(found, store)
    return pd.concat([pd.DataFrame(rows), made], axis=1) if rows else pd.DataFrame(columns=COLUMNS)


def _known(dataset: str) -> bool:
    """Whether a data set can be named here; a person's folder may be gone."""
    try:
        return bool(data.dataset(dataset))
    except ValueError:
        return False


def gaps(profile: str, *, seed: int = 0, store: str | Path | None = None, temperatures: Sequence[object] | None = None) -> pd.DataFrame:
    """A profile's plan, a row a data set and stage: which runs are on record, which are not, and how long those should take.

    Returns
    -------
    DataFrame
        ``dataset``, ``stage``, ``runs``, ``recorded``, ``there`` and ``missing`` (temperatures of which all or not all runs are on
        record), ``seconds`` (that the missing runs should take), ``untimed`` (missing runs that have no like on record).
    """
    look_in, speed, rows = records.stores(store), speeds(store), []
    for dataset in plans.profile(profile).temperatures:
        for stage in plans.STAGES:
            planned = of_stage(profile, dataset, stage, temperatures, seed=seed)
            missing = [run for run in planned if records.find(run, look_in) is None]
            labels = {
                id(run): comparison.label("plain" if run["role"] == "smoothed" else run["role"], run["temperature"]) for run in planned
            }
            lacking = {labels[id(run)] for run in missing}
            seconds, untimed = seconds_left(missing, speed)
            if planned:
                rows.append({"dataset": dataset, "stage": stage, "runs": len(planned), "recorded": len(planned) - len(missing),
                             "there": ", ".join(comparison.in_order({*labels.values()} - lacking)), "missing": ", ".join(comparison.in_order(lacking)),
                             "seconds": seconds, "untimed": untimed})  # fmt: skip
    return pd.DataFrame(rows)

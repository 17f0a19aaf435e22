"""Profiles and runs: which networks and attacks a figure needs, and how each becomes a record."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import json
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from distill import data, models, records, training
from distill.attacks.jsma import Status, all_targets, jsma

STAGES = ("train", "attack")
TEMPERATURES = ("none", 1, 2, 5, 10, 20, 30, 40, 50, 100)  # Figure 7
MAX_FEATURES = 112  # section V-B; the same on both data sets
PRECISIONS = ("auto", "float32", "bfloat16")
CHANCE = 0.2  # a network of ten classes below this accuracy has not left chance

Config = dict[str, Any]


class RunError(RuntimeError):
    """A run that cannot be done as asked."""


@dataclass(frozen=True)
class Profile:
    """How much is computed: a recipe, temperatures for each data set, and how many test images are attacked."""

    name: str
    recipe: str
    temperatures: dict[str, tuple]
    images: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", "smoke", {"mnist-5k": ("none", 1, 20)}, 10),
        Profile("quick", "quick", {"mnist": ("none", 1, 20, 100), "cifar10": ("none", 20)}, 50),
        Profile("paper", "paper", {"mnist": TEMPERATURES, "cifar10": TEMPERATURES}, 1000),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: allowed are {', '.join(PROFILES)}")
    return PROFILES[name]


def parse_temperatures(values: Iterable[object]) -> list[str | float]:
    """Temperatures as the functions here take them: "none" for the plain network, else numbers above zero.

    Raises
    ------
    ValueError
        Names the first value that is neither.
    """
    out: list[str | float] = []
    for value in values:
        if str(value).strip().lower() == "none":
            out.append("none")
            continue
        try:
            number = float(str(value))
            training.check_temperature(number)
        except ValueError:
            raise ValueError(f"temperature {value!r}: allowed are none and finite numbers above 0") from None
        out.append(number)
    return list(dict.fromkeys(out))


# --- plans: every run as its configuration, in an order in which each finds what it needs ------------------


def plan(
    profile_name: str,
    dataset: str,
    temperatures: Sequence[object] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    stages: Sequence[str] = STAGES,
    precision: str = "auto",
) -> list[Config]:
    """The configurations of all runs that a profile needs.

    Parameters
    ----------
    profile_name : str
    dataset : str
        Any data set of the right shape, also one that the profile does not name.
    temperatures : sequence, optional
        "none" (the plain network) and numbers; without it the profile's own.
    seeds : sequence of int
    stages : sequence of {"train", "attack"}
    precision : {"auto", "float32", "bfloat16"}
        Of the trainings. "auto" is bfloat16 where the device has instructions for it, else float32; the record
        says which it was.

    Raises
    ------
    ValueError
        If a name or value is not allowed.
    """
    chosen = profile(profile_name)
    spec = data.dataset(dataset)
    dataset = spec.name  # a folder by its full path, however it was named
    same_shape = [t for name, t in chosen.temperatures.items() if data.dataset(name).architecture == spec.architecture]
    if not same_shape:
        raise ValueError(f"the profile {profile_name} has no data set of {dataset}'s shape: it has {', '.join(chosen.temperatures)}")
    if temperatures is None:
        temperatures = chosen.temperatures.get(dataset, same_shape[0])
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r}: allowed are {', '.join(STAGES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: allowed are {', '.join(PRECISIONS)}")
    recipe = training.recipe(chosen.recipe, spec.architecture)
    runs: list[Config] = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed {seed!r}: allowed are integers from 0")
        for temperature in parse_temperatures(temperatures):
            base = {"dataset": dataset, "profile": profile_name, "seed": seed}
            network = {**base, "kind": "model", "architecture": spec.architecture, "recipe": dataclasses.asdict(recipe),
                       "data": _identity(spec), "precision": precision, "weights": "float16", "teacher": None}  # fmt: skip
            if temperature == "none":
                last = {**network, "role": "plain", "temperature": 1.0}
                trained = [last]
            else:
                teacher = {**network, "role": "teacher", "temperature": temperature}
                last = {**network, "role": "student", "temperature": temperature, "teacher": records.key(teacher)}
                trained = [teacher, last]
            runs += trained if "train" in stages or "attack" in stages else []
            if "attack" in stages:
                runs.append(jsma_config(last, images=chosen.images))
    return runs


def jsma_config(network: Config, *, images: int, output: str = "softmax", attack_temperature: float = 1.0,
                precision: str = "float32", max_features: int = MAX_FEATURES) -> Config:  # fmt: skip
    """The configuration of a JSMA run on a network: the paper's attack unless told otherwise."""
    return {
        **{name: network[name] for name in ("dataset", "profile", "role", "temperature", "seed")},
        "kind": "attack", "attack": "jsma", "model": records.key(network), "network": network,
        "output": output, "attack_temperature": float(attack_temperature), "precision": precision,
        "max_features": max_features, "value": data.dataset(network["dataset"]).value, "images": images,
    }  # fmt: skip


@functools.cache
def _identity(spec: data.DataSet) -> str:
    hashes = spec.sha256 or data.fetch(spec)[2]
    return zlib.crc32("".join(hashes).encode()).to_bytes(4, "big").hex()


def drawn_images(test_size: int, n: int) -> np.ndarray:
    """Test indices of the n attacked images: one fixed random order, so a smaller draw is part of a larger one."""
    return np.random.default_rng(0).permutation(test_size)[:n]


# --- running ----------------------------------------------------------------------------------------------


@dataclass
class Context:
    """Where runs are computed and where their records go."""

    store: Path
    look_in: list[Path]
    data_root: str | Path | None = None
    device: str = "cpu"
    progress: bool = False
    say: Callable[[str], None] = lambda text: print(text, flush=True)

    @classmethod
    def new(cls, store: str | Path | None = None, **options: Any) -> Context:
        """Own records only where a store is named; else published ones are used too and new ones go to the own store."""
        return cls(store=Path(store).expanduser() if store else records.own_store(), look_in=records.stores(store), **options)


def ensure(runs: Sequence[Config], context: Context) -> list[str]:
    """Compute every run that has no record yet.

    Returns
    -------
    list of str
        A line for each run that failed; the others were done nevertheless.
    """
    failures, missing = [], []
    for config in runs:
        try:
            missing += [config] if records.find(config, context.look_in) is None else []
        except records.RecordError as error:  # a damaged record: the others are done nevertheless
            failures.append(str(error))
            context.say(f"failed: {error}")
    if missing:
        context.say(f"{len(missing)} of {len(runs)} runs are missing and go to {context.store}")
    for number, config in enumerate(missing, 1):
        started = time.perf_counter()
        try:
            record = run(config, context)
        except (RunError, training.TrainingError, data.DataError, records.RecordError, ValueError) as error:
            failures.append(f"{records.key(config)}: {error}")
            context.say(f"[{number}/{len(missing)}] failed: {failures[-1]}")
            continue
        context.say(f"[{number}/{len(missing)}] {record.path.name}: {_summary(record)} ({time.perf_counter() - started:.0f} s)")
    return failures


def run(config: Config, context: Context) -> records.Record:
    """Compute one run, or wait for the process that is computing it; return its record."""
    keep_freed_memory()
    with records.claim(context.store, config) as work:
        found = records.find(config, context.look_in)
        if found is None:
            if (work / "checkpoint.safetensors").exists():
                context.say(f"{records.key(config)}: going on from its last finished epoch")
            found = {"model": _train, "attack": _attack}[config["kind"]](config, context, work)
        shutil.rmtree(work, ignore_errors=True)
    return found


def _train(config: Config, context: Context, work: Path) -> records.Record:
    images = _images(config["dataset"], True, context)
    test = _images(config["dataset"], False, context)
    labels = images.y
    if config["teacher"] is not None:
        teacher = load_model({**config, "role": "teacher", "teacher": None}, context)
        if teacher.at_chance:
            raise RunError(f"its teacher at T={config['temperature']:g} stayed at chance: no student is trained on it")
        labels = training.soft_labels(teacher.model, images.x, config["temperature"])
    recipe = training.Recipe(**config["recipe"])
    stream = zlib.crc32(f"{config['role']} {config['temperature']:g} {config['seed']}".encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        model = models.build(config["architecture"], dropout=recipe.dropout).to(context.device)
    precision = training.best_precision(context.device) if config["precision"] == "auto" else config["precision"]
    history = training.fit(
        model, images.x, labels, temperature=config["temperature"], recipe=recipe, seed=stream % 1_000_000,
        precision=precision, checkpoint=work / "checkpoint.safetensors", progress=context.progress,
        name=f"{config['dataset']} {config['role']} T={config['temperature']:g}",
    )  # fmt: skip
    started = time.perf_counter()
    with torch.no_grad():  # weights are stored in float16, so that is what is evaluated, attacked and distilled
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    right = training.accuracy(model, test.x, test.y)
    rate = right.float().mean().item()
    seconds = sum(epoch["seconds"] for epoch in history)  # of all sessions, if the training was resumed
    row = {"accuracy": rate, "correct": int(right.sum()), "test_images": len(test.y), "epochs": recipe.epochs,
           "train_seconds": seconds, "precision": precision, "at_chance": rate < CHANCE,
           "right_bits": np.packbits(right.cpu().numpy()).tobytes(),  # for paired differences of two networks
           "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
    return records.write(
        context.store, config, pd.DataFrame([row]), columns=_columns(config), weights={name: tensor.half() for name, tensor in model.state_dict().items()},
        provenance={"wall_seconds": seconds + time.perf_counter() - started, "device": context.device, "history": history,
                    "data": {"train": images.sha256, "test": test.sha256, "source": images.source}, "dtype": precision},
    )  # fmt: skip


def _attack(config: Config, context: Context, work: Path) -> records.Record:
    loaded = load_model(config["network"], context)
    test = _images(config["dataset"], False, context)
    drawn = torch.from_numpy(drawn_images(len(test.y), config["images"])).to(context.device)
    x, label = test.x[drawn], test.y[drawn]
    with torch.no_grad():
        predicted = torch.cat([loaded.model(part).argmax(1) for part in x.split(1000)])
    rows, targets = all_targets(predicted, 10)
    started = time.perf_counter()
    result = jsma(
        loaded.model, x[rows], targets, max_features=config["max_features"], value=config["value"],
        output=config["output"], temperature=config["attack_temperature"], precision=config["precision"],
        progress=context.progress,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    moved = (result.adversarial - x[rows]).flatten(1)
    table = pd.DataFrame({
        "image": drawn[rows].cpu().numpy().astype(np.int32),
        "label": label[rows].cpu().numpy().astype(np.int8),
        "source": predicted[rows].cpu().numpy().astype(np.int8),
        "target": targets.cpu().numpy().astype(np.int8),
        "success": result.success.cpu().numpy(),
        "features_changed": result.features_changed.cpu().numpy().astype(np.int32),
        "l2": moved.norm(dim=1).cpu().numpy(),
        "linf": moved.abs().amax(1).cpu().numpy(),
        "status": [Status(code).name for code in result.status.tolist()],
        "passes": result.passes.cpu().numpy().astype(np.int32),
    })  # fmt: skip
    return records.write(
        context.store, config, table,
        columns={**_columns(config), **{name: config[name] for name in ("attack", "output", "attack_temperature", "precision", "max_features")}},
        provenance={"wall_seconds": seconds, "device": context.device, "passes": int(result.passes.sum()),
                    "data": {"test": test.sha256, "source": test.source}, "dtype": config["precision"]},
    )  # fmt: skip


def listed(value: Sequence[object] | str | float | None) -> list[object] | None:
    """A list as papermill's ``-p`` hands it over: ``[1, 20]`` may come as that text, or as ``1,20``."""
    if value is None:
        return None
    if not isinstance(value, str):
        return list(value) if isinstance(value, Iterable) else [value]
    if value.strip().startswith("["):
        try:
            return list(json.loads(value))
        except json.JSONDecodeError:
            raise ValueError(f'{value!r} is no list; allowed is one like [1, 20] or ["mnist"]') from None
    return [part.strip() for part in value.split(",") if part.strip()]


def results(
    profile_name: str, datasets: Sequence[str] | str | None = None, temperatures: Sequence[object] | str | None = None, *,
    seed: int = 0, store: str | Path | None = None, stages: Sequence[str] = STAGES, progress: bool = False,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """What a chapter draws: the rows of every run asked for, by kind; runs that have no record are computed first.

    Parameters
    ----------
    profile_name, datasets, temperatures, seed, stages
        See `plan`; without data sets or temperatures the profile's own. The plain network, with which everything
        is compared, is always among them.
    store : path, optional
        See `Context.new`.

    Returns
    -------
    dict of str to DataFrame
        By kind: "model", "attack".

    Raises
    ------
    RunError
        If a run failed.
    """
    context = Context.new(store, progress=progress, device="cuda" if torch.cuda.is_available() else "cpu")
    wanted = listed(temperatures)
    if wanted is not None:
        wanted = ["none", *(t for t in parse_temperatures(wanted) if t != "none")]
    tables: dict[str, list[pd.DataFrame]] = {}
    for dataset in listed(datasets) or list(profile(profile_name).temperatures):
        runs = plan(profile_name, str(dataset), wanted, seeds=[seed], stages=stages)
        failures = ensure(runs, context)
        if failures:
            raise RunError("; ".join(failures))
        for config in runs:
            record = records.find(config, context.look_in)
            assert record is not None
            tables.setdefault(config["kind"], []).append(record.table())
    return {kind: pd.concat(frames, ignore_index=True) for kind, frames in tables.items()}


@dataclass(frozen=True)
class Trained:
    """A network out of its record."""

    model: nn.Module
    at_chance: bool


def zoo(
    dataset: str, temperature: float | str = "none", role: str = "student", *, profile: str = "paper", seed: int = 0,
    store: str | Path | None = None,
) -> nn.Module:  # fmt: skip
    """A trained network of the published ones, or of a store, ready to be used or attacked.

    Parameters
    ----------
    dataset : str
    temperature : float or "none"
        "none" is the plain network, whatever the role.
    role : {"student", "teacher"}
    profile, seed, store
        See `plan` and `records.stores`.

    Returns
    -------
    nn.Module
        In evaluation mode, on the CPU; logits out.

    Raises
    ------
    RunError
        If there is no such network; nothing is trained.
    """
    runs = plan(profile, dataset, [temperature], seeds=[seed], stages=["train"])
    wanted = "plain" if runs[0]["role"] == "plain" else role
    if wanted not in {run["role"] for run in runs}:
        raise ValueError(f"role is {role!r}; allowed are student, teacher")
    config = next(run for run in runs if run["role"] == wanted)
    if records.find(config, records.stores(store), weights=True) is None:
        temperatures = "none" if wanted == "plain" else f"{config['temperature']:g}"
        raise RunError(
            f"there are no weights of {records.key(config)}; distill run --profile {profile} --dataset {dataset} --temperatures {temperatures} "
            f"--seeds {seed} --stages train --store FOLDER trains it, and store=FOLDER finds it"
        )
    return load_model(config, Context.new(store)).model


def load_model(config: Config, context: Context) -> Trained:
    """The network of a configuration, from its record; trained first where it has none.

    Raises
    ------
    RunError
        If it cannot be trained.
    """
    record = records.find(config, context.look_in, weights=True)
    if record is None:
        record = run(config, dataclasses.replace(context, look_in=[context.store]))
    shown = records.find(config, context.look_in)
    if shown is not None and shown.info["sha256"]["weights.safetensors"] != record.info["sha256"]["weights.safetensors"]:
        raise RunError(
            f"the published record {shown.path.name} has no weights, and training it again here gave another network "
            "(as another machine may); name a store of your own by --store to compute everything anew"
        )
    model = models.build(config["architecture"], dropout=config["recipe"]["dropout"])
    model.load_state_dict(record.weights())  # float16 into float32
    return Trained(model.to(context.device).eval(), bool(record.table()["at_chance"].iloc[0]))


def _columns(config: Config) -> dict[str, Any]:
    return {name: config[name] for name in ("dataset", "profile", "role", "temperature", "seed")}


@functools.lru_cache(maxsize=2)
def _load(name: str, train: bool, root: str | Path | None, device: str) -> data.Images:
    images = data.load(name, train=train, root=root)
    return dataclasses.replace(images, x=images.x.to(device), y=images.y.to(device))


def _images(name: str, train: bool, context: Context) -> data.Images:
    return _load(name, train, context.data_root, context.device)


def _summary(record: records.Record) -> str:
    table = record.table()
    if record.config["kind"] == "model":
        chance = ", stayed at chance" if table["at_chance"].iloc[0] else ""
        return f"accuracy {table['accuracy'].iloc[0]:.2%}{chance}"
    return f"{int(table['success'].sum())} of {len(table)} attacks succeeded"


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensor.

    By default it gives every large tensor back to the system, which then zeroes it page by page for the next
    step; keeping it makes a training step on a CPU up to a third faster. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            trim_threshold, mmap_max = -1, -4  # <malloc.h>
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)
        except (OSError, AttributeError):
            pass

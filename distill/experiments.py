"""Runs: how each network, attack and measurement that a plan names becomes a record."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import functools
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from distill import checks, data, models, records, sensitivity, training
from distill.attacks import others
from distill.attacks.jsma import Status, all_targets, jsma
from distill.plans import (
    PROFILES,
    TEMPERATURES,
    Config,
    data_identity,
    drawn_images,
    listed,
    needs,
    parse_seeds,
    parse_temperatures,
    plan,
    profile,
)

PUBLISHED = "published"  # instead of a profile: what is on record, whatever the profile
WIDE = (
    10_000,
    profile("paper").images,
)  # of a run's records on so many images, on the profile's own number or on its few, that on the most is published
SHOWN = 100  # test images whose logits are kept
CHANCE = 0.2  # a network of ten classes below this accuracy has not left chance


class RunError(RuntimeError):
    """A run that cannot be done as asked."""


STOPS = (records.StoreError, training.CheckpointError)  # what no further run would survive
FAILURES = (RunError, training.TrainingError, data.DataError, records.RecordError, ValueError, OSError, ImportError, torch.OutOfMemoryError)


# --- running ----------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


@dataclass
class Context:
    """Where runs are computed and where their records go.

    An attack with denormals flushed to zero, a switch of the processor, is computed on the CPU whatever ``device`` is.
    """

    store: Path
    look_in: list[Path]
    data_root: str | Path | None = None
    device: str = "cpu"
    progress: bool = False
    publish: Callable[[records.Record], object] | None = None  # told of every record as it is finished
    say: Callable[[str], None] = say

    @classmethod
    def new(cls, store: str | Path | None = None, **options: Any) -> Context:
        """Own records only where a store is named; else published ones are used too and new ones go to the own store."""
        return cls(store=data.folder(store, "store") if store else records.own_store(), look_in=records.stores(store), **options)


class Outcome(NamedTuple):
    """What became of a run: its record, or a line that says why there is none."""

    config: Config
    record: records.Record | None
    failure: str
    seconds: float


def attempt(config: Config, context: Context) -> Outcome:
    """Compute one run; whatever is wrong with it alone is an outcome and no error."""
    started = time.perf_counter()
    record, failure = None, ""
    try:
        record = run(config, context)
    except STOPS:
        raise
    except Exception as error:  # one that is none of `FAILURES` is a fault of ours, or of a library: it says where
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, FAILURES) else f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: "
        failure = where + " ".join(str(error).split())
    return Outcome(config, record, failure, time.perf_counter() - started)


def one_by_one(runs: Sequence[Config], context: Context) -> Iterable[Outcome]:
    """The engine that computes runs in this process, in their order; `distill.cluster` has others."""
    return (attempt(config, context) for config in runs)


def ensure(
    runs: Sequence[Config], context: Context, *, engine: Callable[[Sequence[Config], Context], Iterable[Outcome]] = one_by_one
) -> list[str]:  # fmt: skip
    """Compute every run that has no record yet.

    Parameters
    ----------
    runs : sequence
        Configurations, each after those it builds on.
    context : Context
    engine : callable
        What computes the missing runs, and yields what became of each as it is finished.

    Returns
    -------
    list of str
        A line for each run that failed; the others were done nevertheless.

    Raises
    ------
    StoreError, CheckpointError
        If the store cannot be written.
    """
    records.source_hash()  # of the code that is running, whatever becomes of the files meanwhile
    failures, missing = [], []
    for config in runs:
        try:
            missing += [config] if records.find(config, context.look_in) is None else []
        except records.RecordError as error:  # a damaged record: the others are done nevertheless
            failures.append(str(error))
            context.say(f"failed: {error}")
    if missing:
        context.say(f"{len(missing)} of {len(runs)} runs are missing and go to {context.store}")
    for number, (config, record, failure, seconds) in enumerate(engine(missing, context) if missing else (), 1):
        try:
            if record is not None and context.publish:
                context.publish(record)
        except records.RecordError as error:
            failure = str(error)
        if record is None or failure:
            failures.append(f"{records.key(config)}: {failure}")
            context.say(f"[{number}/{len(missing)}] failed: {failures[-1]}")
        else:
            context.say(f"[{number}/{len(missing)}] {record.path.name}: {_summary(record)} ({seconds:.0f} s)")
    return failures


def run(config: Config, context: Context) -> records.Record:
    """Compute one run, or wait for the process that is computing it; return its record."""
    keep_freed_memory()
    with records.claim(context.store, config) as work:
        found = records.find(config, context.look_in)
        if found is None:
            if (work / records.CHECKPOINT).exists():
                context.say(f"{records.key(config)}: going on from its last finished epoch")
            found = RUNNERS[config["kind"]](config, context, work)
        shutil.rmtree(work, ignore_errors=True)
    return found


def _train(config: Config, context: Context, work: Path) -> records.Record:
    images, test = (_images(config, half, context) for half in (True, False))
    labels = images.y
    if above := needs(config):
        teacher = load_model(above[0], context)
        if teacher.at_chance:
            raise RunError(f"its teacher at T={config['temperature']:g} stayed at chance: no student is trained on it")
        labels = training.soft_labels(teacher.model, images.x, config["temperature"])
    elif config.get("labels") == "smoothed":
        labels = training.smoothed_labels(images.y, 10)
    recipe = training.Recipe(**config["recipe"])
    stream = zlib.crc32(f"{config['role']} {config['temperature']:g} {config['seed']}".encode())
    start = config.get("start")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"] if start else stream)
        model = _build(config).to(context.device)
    precision = training.best_precision(context.device) if config["precision"] == "auto" else config["precision"]
    before: list[dict] = []
    if start:  # teacher and student both begin as the same network
        before = training.fit(model, images.x, images.y, temperature=start["temperature"], recipe=dataclasses.replace(recipe, epochs=start["epochs"]),
                     seed=config["seed"], precision=precision, progress=context.progress, name=f"{config['dataset']} start")  # fmt: skip
    history = training.fit(
        model, images.x, labels, temperature=config["temperature"], recipe=recipe, seed=stream % 1_000_000,
        precision=precision, checkpoint=work / records.CHECKPOINT, progress=context.progress,
        name=f"{config['dataset']} {config['role']} T={config['temperature']:g}",
    )  # fmt: skip
    started = time.perf_counter()
    with torch.no_grad():  # weights are stored in float16, so that is what is evaluated, attacked and distilled
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    right = training.accuracy(model, test.x, test.y)
    rate = right.float().mean().item()
    seconds = sum(epoch["seconds"] for epoch in [*before, *history])  # of all sessions, if the training was resumed
    row = {"accuracy": rate, "correct": int(right.sum()), "test_images": len(test.y), "epochs": recipe.epochs,
           "train_seconds": seconds, "precision": precision, "at_chance": rate < CHANCE,
           "right_bits": np.packbits(right.cpu().numpy()).tobytes(),  # for paired differences of two networks
           "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
    return records.write(
        context.store, config, pd.DataFrame([row]), columns=_columns(config), weights={name: tensor.half() for name, tensor in model.state_dict().items()},
        provenance={"wall_seconds": seconds + time.perf_counter() - started, "device": context.device, "history": history,
                    **({"start_seconds": sum(epoch["seconds"] for epoch in before)} if start else {}),
                    "data": {"train": images.sha256, "test": test.sha256, "source": images.source}, "dtype": precision},
    )  # fmt: skip


def _attack(config: Config, context: Context, work: Path) -> records.Record:
    if config["attack"] == "suite":
        return _suite(config, context)
    model = load_model(config["network"], context).model
    if config.get("flush"):
        context, model = dataclasses.replace(context, device="cpu"), model.cpu()
    test = _images(config["network"], False, context)
    drawn = torch.from_numpy(_draw(config, test.y)).to(context.device)
    x, label = test.x[drawn], test.y[drawn]
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in x.split(1000)])
    rows, targets = all_targets(predicted, 10)
    tables, passes, started = [], 0, time.perf_counter()
    for temperature in config.get("sweep") or [config["attack_temperature"]]:
        with sensitivity.denormals(bool(config.get("flush"))):
            result = jsma(
                model, x[rows], targets, max_features=config["max_features"], value=config["value"],
                output=config["output"], temperature=temperature, precision=config["precision"],
                product=bool(config.get("product")), trace="draw" in config, progress=context.progress,
            )  # fmt: skip
        passes += int(result.passes.sum())
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
        if "sweep" in config:
            table["attack_temperature"] = temperature
        if result.trace is not None:  # enough to draw every step of the attack from the record alone
            table["trace"] = [row[row >= 0].astype(np.int32) for row in result.trace.cpu().numpy()]
            table["pixels"] = list(x[rows].flatten(1).cpu().numpy())
            maps = _saliency_maps(model, x[rows[:9]], targets[:9])
            table["saliency"] = [*maps, *[None] * (len(table) - len(maps))]
        tables.append(table)
    fixed = ["attack", "output", "precision", "max_features", *([] if "sweep" in config else ["attack_temperature"])]
    return records.write(
        context.store, config, pd.concat(tables, ignore_index=True), columns={**_columns(config), **{name: config[name] for name in fixed}},
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device, "passes": passes,
                    "data": {"test": test.sha256, "source": test.source}, "dtype": config["precision"]},
    )  # fmt: skip


def _suite(config: Config, context: Context) -> records.Record:
    """Published attacks on one network, on images in [0, 1]: a row an image, or a target of an image, and attack."""
    model = load_model(config["network"], context).model
    test = _images(config["network"], False, context)
    mean, deviation = (part.to(context.device) for part in data.standardisation(config["dataset"], root=context.data_root))
    net = others.Pixels(model, mean, deviation).eval()
    drawn = torch.from_numpy(_draw(config, test.y)).to(context.device)
    x, label = test.x[drawn], test.y[drawn]
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in x.split(1000)])
    rows, targets = all_targets(predicted, 10) if config["targets"] == "all" else (torch.arange(len(x)).to(x.device), None)
    tables, seconds, started = [], {}, time.perf_counter()
    for entry in config["suite"]:
        name, temperature = entry["name"], entry["attack_temperature"]
        options = {key: value for key, value in entry.items() if key not in ("name", "attack_temperature")}
        raw = "max_features" in options  # in the space of the JSMA, where a feature is set to a value
        if name == "transfer":
            options["surrogate"] = others.Pixels(load_model(config["surrogate_network"], context).model, mean, deviation).eval()
        begun = time.perf_counter()
        images = x[rows] if raw else net.images(x[rows])
        found = others.attack(name, model if raw else net, images, label[rows], targets=targets, temperature=temperature, **options)
        seconds[f"{name} at {temperature:g}"] = time.perf_counter() - begun
        moved = ((found.adversarial - images) * (deviation if raw else 1)).flatten(1)
        tables.append(pd.DataFrame({
            "attack": "random_features" if raw else name,
            "attack_temperature": float(temperature),
            "radius": options.get("radius", np.nan),
            "steps": options.get("steps", others.ATTACKS[name].steps),
            "image": drawn[rows].cpu().numpy().astype(np.int32),
            "label": label[rows].cpu().numpy().astype(np.int8),
            "source": predicted[rows].cpu().numpy().astype(np.int8),
            "target": -1 if targets is None else targets.cpu().numpy().astype(np.int8),
            "success": found.success.cpu().numpy(),
            "status": np.where(found.success.cpu().numpy(), "SUCCESS", "FAILED"),
            "features_changed": found.features.cpu().numpy().astype(np.int32),
            "pixels_changed": found.pixels.cpu().numpy().astype(np.int32),
            "l1": moved.abs().sum(1).cpu().numpy(),
            "l2": moved.norm(dim=1).cpu().numpy(),
            "linf": moved.abs().amax(1).cpu().numpy(),
            "passes": np.float32(found.passes),
        }))  # fmt: skip
        context.say(f"  {name} at {temperature:g}: {found.success.float().mean():.0%} ({seconds[f'{name} at {temperature:g}']:.0f} s)")
    columns = {**_columns(config), "output": "logits", "precision": "float32"}
    return records.write(
        context.store, config, pd.concat(tables, ignore_index=True), columns=columns,
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device, "seconds": seconds,
                    "data": {"test": test.sha256, "source": test.source}, "dtype": "float32"},
    )  # fmt: skip


def _saliency_maps(model: nn.Module, x: torch.Tensor, targets: torch.Tensor) -> list[np.ndarray]:
    """What the first step ranks features by, up to a factor: the derivative of the target's log-probability, (n,) an image."""
    leaf = x.detach().requires_grad_()
    chosen = model(leaf).log_softmax(1).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, leaf)
    return list(gradient.flatten(1).cpu().numpy())


def _draw(config: Config, labels: torch.Tensor) -> np.ndarray:
    """Test indices of the attacked images."""
    if config.get("draw") == "one of each class":
        lacking = sorted(set(range(10)) - set(labels.tolist()))
        if lacking:
            raise RunError(
                f"{config['dataset']}: a gallery takes a test image of each of ten classes, and there is none of {', '.join(map(str, lacking))}"
            )
        return np.array([int((labels == digit).nonzero()[0]) for digit in range(10)])
    return drawn_images(len(labels), config["images"])


def _diagnose(config: Config, context: Context, work: Path) -> records.Record:
    """The flags of `distill.checks` on one network, a row a flag and temperature; a row without a flag where none is raised."""
    test = _images(config["network"], False, context)
    mean, deviation = (part.to(context.device) for part in data.standardisation(config["dataset"], root=context.data_root))
    net, surrogate = (
        others.Pixels(load_model(config[name], context).model, mean, deviation).eval() for name in ("network", "surrogate_network")
    )
    drawn = torch.from_numpy(_draw(config, test.y)).to(context.device)
    started, rows = time.perf_counter(), []
    for temperature in config["temperatures"]:
        flags = checks.diagnose(net, net.images(test.x[drawn]), test.y[drawn], radius=config["radius"], temperature=temperature,
                                surrogate=surrogate if config["role"] != "plain" else None)  # fmt: skip
        rows += [{"attack_temperature": temperature, "flag": flag.name, "message": flag.message, **flag.numbers} for flag in flags]
        rows += [] if flags else [{"attack_temperature": temperature, "flag": "", "message": "no flag"}]
    table = pd.DataFrame(rows).reindex(columns=["attack_temperature", "flag", "message", "rate", "compared_with", "share", "divisor"])
    return records.write(
        context.store, config, table.assign(images=len(drawn)), columns=_columns(config),
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device,
                    "data": {"test": test.sha256, "source": test.source}, "dtype": "float32"},
    )  # fmt: skip


def _predict(config: Config, context: Context, work: Path) -> records.Record:
    """What the network says of every test image, at T = 1 and at its own T: Table III's confidence, the size of the logits."""
    model = load_model(config["network"], context).model
    test = _images(config["network"], False, context)
    started = time.perf_counter()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in test.x.split(1000)])
    probabilities = logits.double().softmax(1)
    best, classes = logits.topk(2, 1)
    table = pd.DataFrame({
        "image": np.arange(len(test.y), dtype=np.int32),
        "label": test.y.cpu().numpy().astype(np.int8),
        "predicted": classes[:, 0].cpu().numpy().astype(np.int8),
        "probability": probabilities.amax(1).cpu().numpy().astype(np.float32),
        "probability_at_T": (logits.double() / config["temperature"]).softmax(1).amax(1).cpu().numpy().astype(np.float32),
        "certain": (logits.softmax(1).amax(1) == 1).cpu().numpy(),  # float32 rounds it to 1 exactly
        "zero_probabilities": (logits.softmax(1) == 0).sum(1).cpu().numpy().astype(np.int8),
        "gap": (best[:, 0] - best[:, 1]).cpu().numpy(),
        "logit_l1": logits.abs().sum(1).cpu().numpy(),
    })  # fmt: skip
    table["logits"] = [*logits[:SHOWN].cpu().numpy(), *[None] * (len(logits) - SHOWN)]
    return records.write(
        context.store, config, table, columns=_columns(config),
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device,
                    "data": {"test": test.sha256, "source": test.source}, "dtype": "float32"},
    )  # fmt: skip


def _neighbours(config: Config, context: Context, work: Path) -> records.Record:
    """L2 distance of the gallery's images to the nearest training image, before and after the attack."""
    gallery = config["gallery"]
    record = records.find(gallery, context.look_in) or run(gallery, context)
    rows = record.table()
    train = _images(config["network"], True, context)
    started = time.perf_counter()
    before = torch.from_numpy(np.stack(list(rows["pixels"])))
    after = before.clone()
    for row, order in enumerate(rows["trace"]):
        after[row, torch.from_numpy(np.array(order, np.int64))] = gallery["value"]
    nearest = [torch.full((len(rows),), torch.inf) for _ in range(2)]
    for part in train.x.split(5000):
        for number, images in enumerate((before, after)):
            nearest[number] = torch.minimum(nearest[number], torch.cdist(images.to(part.device), part.flatten(1)).amin(1).cpu())
    table = rows[["image", "label", "source", "target", "success", "features_changed"]].assign(
        before=nearest[0].numpy(), after=nearest[1].numpy(), moved=(after - before).norm(dim=1).numpy())  # fmt: skip
    return records.write(
        context.store, config, table, columns=_columns(config),
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device, "gallery": record.path.name,
                    "data": {"train": train.sha256, "source": train.source}, "dtype": "float32"},
    )  # fmt: skip


def _stop(config: Config, context: Context, work: Path) -> records.Record:
    """The failed attacks of a run once more: what their last images leave of the hidden units, and of the logits' derivatives in float64.

    A row without a status where none failed.
    """
    attack = config["stopped"]
    record = records.find(attack, context.look_in) or run(attack, context)
    rows = record.table()
    rows = rows[~rows["success"]].reset_index(drop=True)
    model = load_model(config["network"], context).model
    test = _images(config["network"], False, context)
    started = time.perf_counter()
    x = test.x[torch.from_numpy(rows["image"].to_numpy(np.int64)).to(context.device)]
    result = jsma(model, x, torch.from_numpy(rows["target"].to_numpy(np.int64)).to(context.device), max_features=attack["max_features"],
                  value=attack["value"], output=attack["output"], precision=attack["precision"])  # fmt: skip
    on, largest, predicted = _left(model, result.adversarial)
    table = rows[["image", "label", "source", "target"]].assign(
        status=[Status(code).name for code in result.status.tolist()],
        features_changed=result.features_changed.cpu().numpy().astype(np.int32),
        as_recorded=result.features_changed.cpu().numpy() == rows["features_changed"].to_numpy(),
        units_on=on, largest_derivative=largest, predicted=predicted)  # fmt: skip
    nothing = dict.fromkeys(table, -1) | {"status": "", "as_recorded": True, "largest_derivative": np.nan}
    return records.write(
        context.store, config, table if len(table) else pd.DataFrame([nothing]), columns=_columns(config),
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device, "stopped": record.path.name, "attacks": len(record.table()),
                    "data": {"test": test.sha256, "source": test.source}, "dtype": "float64"},
    )  # fmt: skip


def _left(model: nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image: units above zero in the ReLU layer that has fewest, the largest |dZ_k / dX_i| in float64, and the class."""
    model = copy.deepcopy(model).double()
    counts: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda layer, given, out: counts.append((out > 0).flatten(1).sum(1)))
    found: list[list[torch.Tensor]] = []
    for part in images.double().split(100):
        counts.clear()
        part = part.clone().requires_grad_()
        logits = model(part)
        slopes = [torch.autograd.grad(of_class.sum(), part, retain_graph=True)[0].flatten(1).abs().amax(1) for of_class in logits.unbind(1)]
        found.append([torch.stack(counts).amin(0), torch.stack(slopes).amax(0), logits.argmax(1)])
    on, largest, predicted = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return on.astype(np.int32), largest, predicted.astype(np.int8)


def _measure(config: Config, context: Context, work: Path) -> records.Record:
    """Figure 9: how large the derivatives of the probabilities are, as float32 and float64 give them, and truly."""
    model = load_model(config["network"], context).model
    test = _images(config["network"], False, context)
    drawn = torch.from_numpy(drawn_images(len(test.y), config["images"])).to(context.device)
    x = test.x[drawn]
    started = time.perf_counter()
    table = pd.DataFrame({"image": drawn.cpu().numpy().astype(np.int32),
                          "log10_amplitude": sensitivity.log10_amplitude(model, x).cpu().numpy(),
                          "log10_maximum": sensitivity.log10_amplitude(model, x, statistic="max").cpu().numpy()})  # fmt: skip
    for name, options in (
        ("float32", {"dtype": torch.float32}),
        ("flush", {"dtype": torch.float32, "flush": True}),
        ("float64", {"dtype": torch.float64}),
    ):
        if options.get("flush") and torch.device(context.device).type != "cpu":
            continue  # a switch of the processor
        found = sensitivity.amplitude(model, x, **options)
        table[f"{name}_amplitude"] = found.amplitude.cpu().numpy()
        table[f"{name}_zero_share"] = found.zero_share.cpu().numpy()
    return records.write(
        context.store, config, table, columns=_columns(config),
        provenance={"wall_seconds": time.perf_counter() - started, "device": context.device,
                    "data": {"test": test.sha256, "source": test.source}, "dtype": "float64"},
    )  # fmt: skip


RUNNERS: dict[str, Callable[[Config, Context, Path], records.Record]] = {
    "model": _train,
    "attack": _attack,
    "prediction": _predict,
    "sensitivity": _measure,
    "neighbour": _neighbours,
    "stop": _stop,
    "diagnosis": _diagnose,
}


def results(
    profile_name: str, datasets: Sequence[str] | str | None = None, temperatures: Sequence[object] | str | None = None, *,
    seed: int | Sequence[int] | str = 0, store: str | Path | None = None, stages: Sequence[str] = ("train", "attack"), progress: bool = False,
    compute: bool = True,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """What a chapter draws: the rows of every run asked for, by kind; runs that have no record are computed first.

    A profile may leave costly stages to ``distill run --stages``; of those, what is on record is returned.

    Parameters
    ----------
    profile_name : str
        See `plan`, or "published": what is on record of the profiles paper and quick, at any temperature and on the
        most images; then nothing is computed.
    datasets, temperatures, seed, stages
        See `plan`; without data sets or temperatures the profile's own. The plain network, with which everything
        is compared, is always among them. Several seeds are several networks each.
    store : path, optional
        See `Context.new`.
    compute : bool
        False: what is on record of a profile, and nothing is computed.

    Returns
    -------
    dict of str to DataFrame
        By kind: "model", "attack", "prediction", "sensitivity", "neighbour", "stop", "diagnosis"; a kind of which
        nothing is on record is empty.

    Raises
    ------
    RunError
        If a run failed, or nothing is on record of what was asked for as "published".
    ValueError
        If a name or value is not allowed.
    """
    context = Context.new(store, progress=progress, device="cuda" if torch.cuda.is_available() else "cpu")
    given = listed(temperatures)
    wanted = None if given is None else ["none", *(t for t in parse_temperatures(given) if t != "none")]
    published = profile_name == PUBLISHED
    if not published and profile_name not in PROFILES:
        raise ValueError(f"unknown profile {profile_name!r}: allowed are {', '.join(PROFILES)} and {PUBLISHED}")
    seeds = parse_seeds(seed)
    names = list(dict.fromkeys(map(str, listed(datasets) or []))) or list(profile("paper" if published else profile_name).temperatures)
    there: dict[str, list[records.Record]] = {}
    for one in ("paper", "quick") if published else (profile_name,):
        for dataset in names:
            asked = wanted or (TEMPERATURES if published else None)
            sizes = sorted({profile(one).images, *((profile(one).few, *WIDE) if published else ())}, reverse=True)
            plans = [plan(one, str(dataset), asked, seeds=seeds, stages=stages, images=size) for size in sizes]
            computed = profile(one).computes
            needed = [stage for stage in stages if computed is None or stage in computed]
            failures = [] if published or not compute else ensure(plan(one, str(dataset), wanted, seeds=seeds, stages=needed), context)
            if failures:
                raise RunError("; ".join(failures))
            for same in zip(*plans, strict=True):  # one run on ever fewer images
                configs = {records.key(config): config for config in same}.values()
                on_record = (records.find(config, context.look_in) for config in configs)
                if record := next(filter(None, on_record), None):
                    there.setdefault(record.config["kind"], []).append(record)
    found = {kind: records.joined(runs) for kind, runs in there.items()}
    if published:
        what = f"{', '.join(map(str, names))} with seed {', '.join(map(str, seeds))}"
        everything = functools.partial(results, profile_name, names, seed=seeds, store=store, stages=("train",))
        _must_be_there(found.get("model"), wanted or (), what, lambda: everything()["model"])
    return {kind: found.get(kind, pd.DataFrame()) for kind in RUNNERS}


def _must_be_there(networks: pd.DataFrame | None, asked: Sequence[str | float], what: str, everything: Callable[[], pd.DataFrame]) -> None:
    """Raise ``RunError`` where nothing is on record of what was asked for, or of a temperature that was named."""
    advice = f"a profile's name computes what is missing: {', '.join(PROFILES)}"
    if networks is None:
        raise RunError(f"nothing is on record of {what}; {advice}")
    lacking = [t for t in asked if t not in _temperatures(networks)]
    if lacking:
        named, there = (", ".join(t if t == "none" else f"{t:g}" for t in of) for of in (lacking, _temperatures(everything())))
        raise RunError(f"T = {named} is not on record of {what}; on record are {there}; {advice}")


def _temperatures(networks: pd.DataFrame) -> list:
    there = {"none" if role == "plain" else t for role, t in zip(networks["role"], networks["temperature"], strict=True)}
    return sorted(there, key=lambda t: 0 if t == "none" else t)


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
    if shown is not None and shown.info["sha256"].get(records.WEIGHTS) != record.info["sha256"].get(records.WEIGHTS):
        raise RunError(
            f"the published record {shown.path.name} has no weights, and training it again here gave another network "
            "(as another machine may); name a store of your own by --store to compute everything anew"
        )
    model = _build(config)
    try:
        model.load_state_dict(record.weights())  # float16 into float32
    except RuntimeError as error:
        if isinstance(error, records.RecordError):
            raise
        raise RunError(f"the weights of {record.path} do not fit the architecture {config['architecture']}") from None
    return Trained(model.to(context.device).eval(), bool(record.table()["at_chance"].iloc[0]))


def _build(config: Config) -> nn.Module:
    """A new network of a configuration."""
    open_choices = {name: config[name] for name in ("padding", "initialisation") if name in config}
    return models.build(config["architecture"], dropout=config["recipe"]["dropout"], **open_choices)


def _columns(config: Config) -> dict[str, Any]:
    return {name: config[name] for name in ("dataset", "profile", "role", "temperature", "seed")}


@functools.lru_cache(maxsize=2)
def _load(name: str, identity: str, train: bool, root: str | Path | None, device: str, by: str) -> data.Images:
    images = data.load(name, train=train, root=root, standardised_by=by)
    if data_identity(data.dataset(name)) != identity:  # a person's folder, of which nothing else knows the hashes
        raise RunError(f"the files in {name} are not those that this run was planned with; ask for it again")
    return dataclasses.replace(images, x=images.x.to(device), y=images.y.to(device))


def _images(network: Config, train: bool, context: Context) -> data.Images:
    """Half of a data set as a network takes it."""
    return _load(network["dataset"], network["data"], train, context.data_root, context.device, network.get("standardised_by", "feature"))


def _summary(record: records.Record) -> str:
    table = record.table()
    if record.config["kind"] == "model":
        chance = ", stayed at chance" if table["at_chance"].iloc[0] else ""
        return f"accuracy {table['accuracy'].iloc[0]:.2%}{chance}"
    if record.config["kind"] == "attack":
        return f"{int(table['success'].sum())} of {len(table)} attacks succeeded"
    if record.config["kind"] == "stop":
        return f"{int((table['status'] != '').sum())} stopped attacks"
    return f"{len(table)} images"


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

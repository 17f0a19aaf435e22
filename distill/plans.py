"""Profiles and plans: which runs a figure needs, each as its full configuration."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill import data, models, records, training
from distill.attacks.adapters import ATTACKS

TEMPERATURES = ("none", 1, 2, 5, 10, 20, 30, 40, 50, 100)  # Figure 7
INVARIANCE_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
MAX_FEATURES = 112  # section V-B; the same on both data sets
RADIUS = {"mnist": 0.3, "cifar10": 8 / 255}  # Linf, on pixels in [0, 1]: Madry et al. 2018, section 5
SUITE = ("fgsm", "pgd", "apgd_ce", "apgd_dlr", "square", "carlini_wagner_l2", "ddn", "fmn_l2", "fmn_linf", "fmn_l0", "sigma_zero",
         "hop_skip_jump", "transfer", "random")  # fmt: skip
DOUBLED = ("apgd_dlr", "fmn_l0")  # run with twice the steps too: does more effort help?
MINIMAL = ("fmn_l0", "carlini_wagner_l2", "fmn_linf")  # towards every target: L0, L2, Linf
PRECISIONS = ("auto", "float32", "bfloat16")

Config = dict[str, Any]


# what the digits of an installed library do in seconds a run; of the rest, the paper's optimiser does not leave chance in their few steps
SECONDS = ("train", "attack", "split", "product", "teachers", "invariance", "gallery", "neighbours", "predictions", "sensitivity",
           "smoothing", "bounded", "sound")  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How much is computed: a recipe, temperatures for each data set, and how many test images are attacked and measured."""

    name: str
    recipe: str
    temperatures: dict[str, tuple]
    images: int
    few: int  # images for what is repeated many times
    computes: tuple[str, ...] | None = None  # stages that `experiments.results` computes where nothing is on record; None: all
    suite: tuple[str, ...] = SUITE  # published attacks


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", "smoke", {"mnist-5k": ("none", 1, 20)}, 5, 2, SECONDS, suite=("fgsm", "pgd", "transfer", "random")),
        Profile(
            "quick",
            "quick",
            {"mnist": ("none", 1, 20, 100), "cifar10": ("none", 20)},
            50,
            20,
            ("train", "attack", "split", "stops", "product", "gallery"),
        ),
        Profile("paper", "paper", {"mnist": TEMPERATURES, "cifar10": TEMPERATURES}, 1000, 100),
        Profile("table2", "table2", {"cifar10": ("none", 20, 100)}, 1000, 100),  # the letter of Table II, which section V-A contradicts
    )
}


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(name, str) or name not in PROFILES:
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
            number = float("nan" if "_" in str(value) else str(value))
            training.check_training_temperature(number)
        except ValueError:
            raise ValueError(
                f"temperature {value!r}: allowed are none and finite numbers above 0 that float32 holds (1.2e-38 to 3.4e38)"
            ) from None
        out.append(number)
    return list(dict.fromkeys(out))


def plan(
    profile_name: str,
    dataset: str,
    temperatures: Sequence[object] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    stages: Sequence[str] = ("train", "attack"),
    precision: str = "auto",
    images: int | None = None,
) -> list[Config]:
    """The configurations of all runs that a profile needs, in an order in which each finds what it builds on.

    Parameters
    ----------
    profile_name : str
    dataset : str
        Any data set of the right shape, also one that the profile does not name.
    temperatures : sequence, optional
        "none" (the plain network) and numbers; without it the profile's own.
    seeds : sequence of int
    stages : sequence of str
        Of `STAGES`; the networks that a stage measures are always part of the plan.
    precision : {"auto", "float32", "bfloat16"}
        Of the trainings. "auto" is bfloat16 where the device has instructions for it, else float32; the record
        says which it was.
    images : int, optional
        Test images that are attacked and measured, the first of a fixed random order; without it the profile's own.
        What is repeated many times (`Profile.few`) keeps to the profile's.

    Raises
    ------
    ValueError
        If a name or value is not allowed.
    """
    chosen = profile(profile_name)
    spec = data.dataset(dataset)
    if images is not None:
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise ValueError(f"images is {images!r}; allowed is an integer from 1, as far as there are test images")
        chosen = dataclasses.replace(chosen, images=images)
    dataset = spec.name  # a folder by its full path, however it was named
    same_shape = [t for name, t in chosen.temperatures.items() if data.dataset(name).architecture == spec.architecture]
    if not same_shape:
        raise ValueError(f"the profile {profile_name} has no data set of {dataset}'s shape: it has {', '.join(chosen.temperatures)}")
    for what, given in (("temperatures", temperatures), ("seeds", seeds)):
        if given is not None and (isinstance(given, str) or not len(given)):
            raise ValueError(f"{what} is {given!r}; allowed is a list of one or more")
    if temperatures is None:
        temperatures = chosen.temperatures.get(dataset, same_shape[0])
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"unknown stage {stage!r}: allowed are {', '.join(STAGES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: allowed are {', '.join(PRECISIONS)}")
    recipe, identity = training.recipe(chosen.recipe, spec.architecture), data_identity(spec)
    runs: list[Config] = []
    for seed in seeds:
        training.check_seed(seed)
        for temperature in parse_temperatures(temperatures):
            base = {"dataset": dataset, "profile": profile_name, "seed": seed}
            network = {**base, "kind": "model", "architecture": spec.architecture, "recipe": dataclasses.asdict(recipe),
                       "data": identity, "precision": precision, "weights": "float16", "teacher": None}  # fmt: skip
            if temperature == "none":
                networks = [{**network, "role": "plain", "temperature": 1.0}]
            else:
                teacher = {**network, "role": "teacher", "temperature": temperature}
                networks = [teacher, {**network, "role": "student", "temperature": temperature, "teacher": records.key(teacher)}]
            runs += networks
            for stage in stages:
                runs += STAGES[stage](networks, chosen)
    return list({records.key(run): run for run in runs}.values())


def needs(config: Config) -> list[Config]:
    """The runs on whose records this one builds: a student's teacher, an attack's networks, the attack that is looked at again."""
    if config["kind"] == "model":
        return [{**config, "role": config["role"].replace("student", "teacher"), "teacher": None}] if config["teacher"] else []
    if again := config.get("gallery") or config.get("stopped"):
        return [again]
    above = [config["network"], *([config["surrogate_network"]] if "surrogate_network" in config else [])]
    return list({records.key(one): one for one in above}.values())


# --- stages: what is measured on the networks of one temperature; the last of them is the one that is used ---


def _attack(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    return [jsma_config(networks[-1], images=chosen.images)]


def _split(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The same attack in other arithmetic: what of the paper's result is floating point."""
    last, images = networks[-1], chosen.images
    channels, size = models.ARCHITECTURES[last["architecture"]][:2]
    variants: list[dict[str, Any]] = [
        {"precision": "float64"},
        {"flush": True},
        {"output": "log_softmax", "max_features": channels * size**2},  # without a budget: success at any budget is part of it
        {"output": "logits"},
    ]
    if last["temperature"] != 1:
        variants.append({"attack_temperature": last["temperature"]})
    return [jsma_config(last, images=images, **variant) for variant in variants]


def _stops(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """Where the attack in exact arithmetic stops short although it has no budget: is it the arithmetic, or the network?"""
    unlimited = next(run for run in _split(networks, chosen) if run["output"] == "log_softmax")
    return [unlimited, {**_about(networks[-1]), "kind": "stop", "stopped": unlimited}]


def _product(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The paper's attack with the saliency multiplied in float32, as it is printed, with denormal numbers and without."""
    return [jsma_config(networks[-1], images=chosen.images, product=True, flush=flush) for flush in (False, True)]


def _teachers(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The first network of the two alone: trained at T on hard labels, without distillation."""
    return [jsma_config(teacher, images=chosen.images, output=output) for teacher in networks[:-1] for output in ("softmax", "log_softmax")]


def _invariance(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The paper's attack on softmax(Z / T') for many T': dividing the logits by a constant changes no prediction."""
    return [{**jsma_config(networks[-1], images=chosen.few), "attack_temperature": "sweep", "sweep": list(INVARIANCE_TEMPERATURES)}]


def _gallery(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """One image of each class towards every target, with the order of the features, for pictures."""
    return [jsma_config(networks[-1], images=10, draw="one of each class", output=output) for output in ("softmax", "log_softmax")]


def _neighbours(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """How far the gallery's images lie from the training set, before and after the attack: the last requirement of section II-C."""
    gallery = _gallery(networks, chosen)[1]
    return [gallery, {**_about(networks[-1]), "kind": "neighbour", "gallery": gallery}]


def _predictions(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    return [{**_about(network), "kind": "prediction"} for network in networks]


def _sensitivity(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    return [{**_about(networks[-1]), "kind": "sensitivity", "images": chosen.images}]


def _sound(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """Published attacks away from the label, on the logits and, where their scale matters, on the logits divided by T too."""
    last = networks[-1]
    plain = {**last, "role": "plain", "temperature": 1.0, "teacher": None}
    suite: list[dict[str, Any]] = []
    doubled: list[dict[str, Any]] = []
    for name in chosen.suite:
        if name == "transfer" and last["role"] == "plain":
            continue  # from the network to itself
        bound: dict[str, Any] = {"radius": RADIUS[last["architecture"]]} if ATTACKS[name].norm == "linf" and name != "fmn_linf" else {}
        scales = {last["temperature"]} if ATTACKS[name].scale_free else {1.0, last["temperature"]}
        suite += [{"name": name, "attack_temperature": scale, **bound} for scale in sorted(scales)]
        if name in DOUBLED:
            doubled.append({"name": name, "attack_temperature": last["temperature"], "steps": 2 * ATTACKS[name].steps, **bound})
    suite += doubled
    jsma_like = {"max_features": MAX_FEATURES, "value": data.dataset(last["dataset"]).value}
    suite.append({"name": "random", "attack_temperature": 1.0, **jsma_like})
    other = {"surrogate": records.key(plain), "surrogate_network": plain}
    return [
        plain,
        {**_about(last), "kind": "attack", "attack": "suite", "suite": suite, "targets": "none", "images": chosen.images, **other},
        {**_about(last), "kind": "diagnosis", "temperatures": sorted({1.0, last["temperature"]}), "radius": RADIUS[last["architecture"]] / 3,
         "images": min(max(chosen.images, 10), 100), **other},  # of fewer than seven no two attacks can be told apart
    ]  # fmt: skip


def _bounded(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """FGSM and PGD in the same ball, cheap enough for every image that the JSMA meets.

    Each on the cross-entropy of the logits as they are and divided by T, and on the difference of two logits.
    """
    last = networks[-1]
    suite = [
        {"name": name, "attack_temperature": scale, "steps": steps, "radius": RADIUS[last["architecture"]]}
        for name, steps in (("fgsm", 1), ("fgsm_dl", 1), ("pgd", 40), ("pgd_dl", 40))
        for scale in ([1.0] if ATTACKS[name].scale_free else sorted({1.0, last["temperature"]}))
    ]
    return [
        {**_about(last), "kind": "attack", "attack": "suite", "suite": suite, "targets": "none", "images": chosen.images, "draw": "bounded"}
    ]


def _distances(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The smallest changes that reach each target, for Carlini & Wagner's tables IV and VI."""
    last = networks[-1]
    suite = [{"name": name, "attack_temperature": last["temperature"]} for name in MINIMAL]
    return [{**_about(last), "kind": "attack", "attack": "suite", "suite": suite, "targets": "all", "images": chosen.few}]


def _ablations(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """What of distillation matters: other ways to train at the same T, and the undefended network with its logits times T."""
    if len(networks) == 1 or networks[0]["temperature"] == 1:
        return []
    teacher, student = networks
    temperature, recipe = teacher["temperature"], teacher["recipe"]
    short = dataclasses.asdict(
        dataclasses.replace(training.recipe("paper", teacher["architecture"]), name="sgd", epochs=min(5, recipe["epochs"] * 5))
    )
    changes: dict[str, dict[str, Any]] = {
        "warm": {"start": {"temperature": 1.0, "epochs": 1.0}},  # Carlini & Wagner 2017, section IV
        "sgd": {"recipe": short},  # the paper's optimiser for a few epochs, against which the next is to be held
        "rate": {"recipe": {**short, "learning_rate": 0.1 * temperature * short["learning_rate"]}},
    }
    runs: list[Config] = []
    for name, change in changes.items():
        first = {**teacher, **change, "role": f"{name} teacher"}
        second = {**student, **change, "role": f"{name} student", "teacher": records.key(first)}
        runs += [first, second, *(jsma_config(second, images=chosen.images, output=output) for output in ("softmax", "log_softmax"))]
    plain = {**teacher, "role": "plain", "temperature": 1.0}
    scaled = (
        jsma_config(plain, images=chosen.images, attack_temperature=1 / temperature, output=output) for output in ("softmax", "log_softmax")
    )
    return [*runs, plain, *scaled]


CHOICES: dict[str, dict[str, Any]] = {  # what the paper leaves open, and what another reading of it takes
    "torch": {"initialisation": "torch"},
    "padded": {"padding": "same"},
    "channelwise": {"standardised_by": "channel"},
    "bfloat16": {"precision": "bfloat16"},
}


def _choices(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The same networks with one of the choices that the paper leaves open made otherwise, and the attack in both arithmetics."""
    runs: list[Config] = []
    for name, change in CHOICES.items():
        if "standardised_by" in change and not data.dataset(networks[0]["dataset"]).standardise:
            continue
        changed = [{**network, **change, "role": f"{name} {network['role']}"} for network in networks]
        changed[1:] = [{**student, "teacher": records.key(changed[0])} for student in changed[1:]]
        runs += [*changed, *(jsma_config(changed[-1], images=chosen.images, output=output) for output in ("softmax", "log_softmax"))]
    return runs


def _smoothing(networks: Sequence[Config], chosen: Profile) -> list[Config]:
    """The control of section V-B: hard labels smoothed to 0.9 and 1 / (10 N), nothing distilled."""
    plain = networks[-1]
    if plain["role"] != "plain" or plain["architecture"] != "mnist":  # as in the paper
        return []
    smoothed = {**plain, "role": "smoothed", "labels": "smoothed"}
    return [smoothed, *_attack([smoothed], chosen), jsma_config(smoothed, images=chosen.images, output="log_softmax")]


STAGES: dict[str, Callable[[Sequence[Config], Profile], list[Config]]] = {
    "train": lambda networks, chosen: [],
    "attack": _attack,
    "split": _split,
    "stops": _stops,
    "product": _product,
    "teachers": _teachers,
    "invariance": _invariance,
    "gallery": _gallery,
    "neighbours": _neighbours,
    "predictions": _predictions,
    "sensitivity": _sensitivity,
    "smoothing": _smoothing,
    "bounded": _bounded,
    "sound": _sound,
    "distances": _distances,
    "ablations": _ablations,
    "choices": _choices,
}


def _about(network: Config) -> Config:
    return {
        **{name: network[name] for name in ("dataset", "profile", "role", "temperature", "seed")},
        "model": records.key(network), "network": network,
    }  # fmt: skip


def jsma_config(network: Config, *, images: int, output: str = "softmax", attack_temperature: float = 1.0,
                precision: str = "float32", max_features: int = MAX_FEATURES, flush: bool = False, product: bool = False, draw: str | None = None) -> Config:  # fmt: skip
    """The configuration of a JSMA run on a network: the paper's attack unless told otherwise.

    ``flush`` sets denormal numbers to zero during the attack; ``product`` is `jsma`'s; ``draw`` takes other images than the first of the
    fixed random order and keeps the path of each attack.
    """
    further: dict[str, Any] = {"flush": True} if flush else {}
    further |= {"product": True} if product else {}
    further |= {"draw": draw} if draw else {}
    return {
        **_about(network), "kind": "attack", "attack": "jsma",
        "output": output, "attack_temperature": float(attack_temperature), "precision": precision,
        "max_features": max_features, "value": data.dataset(network["dataset"]).value, "images": images, **further,
    }  # fmt: skip


def data_identity(spec: data.DataSet) -> str:
    """A few letters that stand for a data set's four files; those of a person's folder are read each time."""
    hashes = spec.sha256 or data.fetch(spec)[2]
    return zlib.crc32("".join(hashes).encode()).to_bytes(4, "big").hex()


def drawn_images(test_size: int, n: int) -> np.ndarray:
    """Test indices of the n attacked images: one fixed random order, so a smaller draw is part of a larger one."""
    return np.random.default_rng(0).permutation(test_size)[:n]


def listed(value: Sequence[object] | str | float | None) -> list[object] | None:
    """A list as papermill's ``-p`` hands it over: ``[1, 20]`` may come as that text, or as ``1,20``.

    Raises
    ------
    ValueError
        If it is empty, or a text that begins like a list and is none.
    """
    if value is None:
        return None
    found = _listed(value)
    if not found:
        raise ValueError(f"{value!r} is an empty list; allowed are one or more values")
    return found


def parse_seeds(values: Sequence[object] | str | int) -> list[int]:
    """Seeds as the functions here take them, from a number, a list, or the text of one: ``[0, 1, 2]`` or ``0,1,2``.

    Raises
    ------
    ValueError
        If there is none, or one is no integer from 0 to `training.LARGEST_SEED`.
    """
    found = []
    for value in listed(values) or []:
        text = str(value).strip()
        if isinstance(value, bool | float) or not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"seed {str(value)[:40]!r}: allowed are integers from 0 to {training.LARGEST_SEED}")
        training.check_seed(int(text))
        found.append(int(text))
    return list(dict.fromkeys(found))


def _listed(value: Sequence[object] | str | float) -> list[object]:
    if not isinstance(value, str):
        return list(value) if isinstance(value, Iterable) else [value]
    if value.strip().startswith("["):
        try:
            return list(json.loads(value))
        except (json.JSONDecodeError, RecursionError):
            shown = value if len(value) < 80 else f"{value[:80]}..."
            raise ValueError(f'{shown!r} is no list; allowed is one like [1, 20] or ["mnist"]') from None
    return [part.strip() for part in value.split(",") if part.strip()]

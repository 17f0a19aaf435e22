"""Whatever is wrong with what a person asks: one line that says what is allowed, and nothing written."""

import dataclasses
import functools
import math
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from distill import (
    Recipe,
    all_targets,
    best_pair,
    cli,
    data,
    defend,
    experiments,
    jsma,
    metrics,
    plans,
    records,
    sensitivity,
    training,
    zoo,
)
from distill.attacks import others
from distill.checks import diagnose


@pytest.fixture()
def place(tmp_path, data_root, monkeypatch):
    """A store that must not come into being, nothing published, and things that are not what they should be."""
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    many, ten = (40, 28, 28), [0, 1, 2] * 13 + [0]
    for name, images, labels in (
        ("ten", many, ten),
        ("small", (3, 8, 8), [0, 1, 2]),
        ("eleven", (3, 28, 28), [0, 1, 10]),
        ("short", (3, 28, 28), [0, 1]),
    ):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            for file, array in zip(data.IDX_FILES[split], (np.zeros(images, np.uint8), np.array(labels, np.uint8)), strict=True):
                (tmp_path / name / file).write_bytes(data.encode_idx(array))
    return tmp_path


USAGE = [
    ("", "required"),
    ("--profile smoke", "invalid choice|required|unrecognized"),
    ("run", "--profile"),
    ("run --profile smokey", "allowed are smoke, quick, paper"),
    ("run --profile ''", "allowed are smoke, quick, paper"),
    ("run --profile smoke extra", "unrecognized arguments: extra"),
    ("run --profile smoke --dataset imagenet", "known are mnist, cifar10"),
    ("run --profile smoke --dataset ''", "empty list"),
    ("run --profile smoke --dataset ./file", "is not a folder"),
    ("run --profile smoke --dataset ./nowhere", "is not a folder"),
    ("run --profile smoke --dataset cifar10", "no data set of cifar10's shape"),
    ("run --profile smoke --temperatures 0", "finite numbers above 0"),
    ("run --profile smoke --temperatures=-1", "finite numbers above 0"),
    ("run --profile smoke --temperatures none,-3", "finite numbers above 0"),
    ("run --profile smoke --temperatures nan", "finite numbers above 0"),
    ("run --profile smoke --temperatures inf", "finite numbers above 0"),
    ("run --profile smoke --temperatures 1e999", "finite numbers above 0"),
    ("run --profile smoke --temperatures hot", "finite numbers above 0"),
    ("run --profile smoke --temperatures True", "finite numbers above 0"),
    ("run --profile smoke --temperatures ,", "empty list"),
    ("run --profile smoke --seeds=-1", "integers from 0"),
    ("run --profile smoke --seeds 0.5", "integers from 0"),
    ("run --profile smoke --seeds 99999999999999999999", "integers from 0"),
    ("run --profile smoke --seeds ''", "empty list"),
    ("run --profile smoke --images 0", "integer from 1"),
    ("status --profile smoke --images many", "integer from 1"),
    ("run --profile smoke --stages atack", "allowed are train, attack"),
    ("run --profile smoke --stages ''", "empty list"),
    ("run --profile smoke --precision half", "allowed are auto, float32, bfloat16"),
    ("run --profile smoke --device tpu", "allowed are cpu"),
    ("run --profile smoke --device cuda:99", "is not there"),
    ("run --profile smoke --device ''", "allowed are cpu"),
    ("run --profile smoke --device cpu:7", "allowed are cpu"),
    ("run --profile smoke --threads 0", "from 1 to"),
    ("run --profile smoke --threads=-2", "from 1 to"),
    ("run --profile smoke --threads many", "invalid int"),
    ("run --profile smoke --threads 10000000000", "from 1 to"),
    ("run --profile smoke --store ''", "--store is empty; allowed is a folder"),
    ("run --profile smoke --data-root ''", "--data-root is empty; allowed is a folder"),
    ("run --profile smoke --engine slurm", "allowed are local, ray"),
    ("run --profile smoke --processes 0", "from 1 to"),
    ("run --profile smoke --processes many", "and auto"),
    ("run --profile smoke --processes -2", "and auto"),
    ("run --profile smoke --address 10.0.0.1:6379", "the engine ray's"),
    ("run --profile smoke --gpus 1", "the engine ray's"),
    ("run --profile smoke --engine ray --processes 2", "the engine local's"),
    ("run --profile smoke --engine ray --device cuda", "the engine local's"),
    ("run --profile smoke --engine ray --gpus=-1", "a number from 0"),
    ("run --profile smoke --engine ray --gpus nan", "a number from 0"),
    ("run --profile smoke --engine ray --gpus 1.5", "a fraction of 1 or a whole number"),
    ("run --profile smoke --engine ray --retries=-1", "integer from 0"),
    ("run --profile smoke --images 5000 --temperatures none", "has 1,000 test images"),
    ("run --profile smoke --store ~nouserx/y", "no one here has that home folder"),
    ("status --store file", "is not a folder; allowed is a folder of records"),
    ("status --temperatures 1_0", "finite numbers above 0"),
    ("status --store ~nouserx/y", "no one here has that home folder"),
    ("data mnist-5k --data-root ~nouserx/y", "no one here has that home folder"),
    ("run --profile smoke --temperatures 1e308", "finite numbers above 0"),
    ("status --profile smokey", "allowed are smoke, quick, paper"),
    ("status --profile ''", "allowed are smoke, quick, paper"),
    ("status --stages fly", "allowed are train, attack"),
    ("status --seeds x", "integers from 0"),
    ("data imagenet", "known are mnist, cifar10"),
    ("data ''", "known are mnist, cifar10"),
    ("data mnist --data-root ''", "--data-root is empty"),
    ("replicate", "invalid choice"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE, ids=[arguments or "nothing" for arguments, _ in USAGE])
def test_wrong_usage(place, arguments, says, capsys):
    check(place, arguments, says, capsys, code=2)


FAILURES = [
    ("run --profile smoke --store file", "cannot write to the store"),
    ("run --profile smoke --store file/below", "cannot write to the store"),
    ("run --profile smoke --dataset ./empty", "is missing: a folder of IDX files has"),
    ("run --profile smoke --dataset ./small --temperatures none --stages train", "allowed is .28, 28."),
    ("run --profile smoke --dataset ./eleven --temperatures none --stages train", "one label from 0 to 9"),
    ("run --profile smoke --dataset ./short --temperatures none --stages train", "one label from 0 to 9 for each of 3 images"),
    ("run --profile smoke --data-root file", r"failed: \d+ runs: cannot write to the data folder"),
    ("data ./small", "allowed is .28, 28."),
    ("data ./eleven", "one label from 0 to 9"),
    ("data mnist-5k --data-root file", "cannot write to the data folder"),
    ("data mnist-5k --data-root file/below", "cannot write to the data folder"),
]


@pytest.mark.parametrize(("arguments", "says"), FAILURES, ids=[arguments for arguments, _ in FAILURES])
def test_what_cannot_be_done(place, arguments, says, capsys):
    check(place, arguments, says, capsys, code=1)


def check(place, arguments, says, capsys, code):
    assert cli.main(shlex.split(arguments)) == code
    err = capsys.readouterr().err
    assert err.startswith("distill: ") and err.count("\n") == 1 and "Traceback" not in err
    assert re.search(says, err), err
    assert not [path for folder in (place / "store", place / "results") for path in folder.rglob("*/record.json")]
    assert code == 1 or not (place / "store").exists()


CHAPTER = [  # parameters as papermill hands them over
    (dict(profile_name="smokey"), "allowed are smoke, quick, paper"),
    (dict(profile_name=None), "allowed are smoke, quick, paper"),
    (dict(datasets="imagenet"), "known are mnist"),
    (dict(datasets=[]), "empty list"),
    (dict(datasets="[]"), "empty list"),
    (dict(datasets='["mnist-5k"'), "is no list"),
    (dict(datasets=5), "unknown data set '5'"),
    (dict(temperatures=[]), "empty list"),
    (dict(temperatures=""), "empty list"),
    (dict(temperatures="[1, 0]"), "finite numbers above 0"),
    (dict(temperatures=-3), "finite numbers above 0"),
    (dict(temperatures=[float("nan")]), "finite numbers above 0"),
    (dict(temperatures="[[1]]"), "finite numbers above 0"),
    (dict(temperatures="[" * 100_000), "is no list"),
    (dict(profile_name="Published"), "smoke, quick, paper, table2 and published"),
    (dict(seed=[]), "empty list"),
    (dict(seed="[0, x]"), "is no list"),
    (dict(seed="0,x"), "integers from 0"),
    (dict(seed=0.5), "integers from 0"),
    (dict(seed=-1), "integers from 0"),
    (dict(seed="zero"), "integers from 0"),
    (dict(seed=True), "integers from 0"),
    (dict(seed=2**40), "integers from 0"),
    (dict(stages=["fly"]), "allowed are train, attack"),
    (dict(store=""), "allowed is a folder"),
]


@pytest.mark.parametrize(("changed", "says"), CHAPTER, ids=[str(changed)[:40] for changed, _ in CHAPTER])
def test_parameters_of_a_chapter(place, changed, says):
    with pytest.raises(ValueError, match=says) as raised:
        experiments.results(**({"profile_name": "smoke", "temperatures": "[1,20]"} | changed))
    assert "\n" not in str(raised.value) and not (place / "store").exists()


def test_a_gallery_without_images_of_a_class_fails_by_itself(place, capsys):
    assert cli.main(shlex.split("run --profile smoke --dataset ./ten --temperatures none --stages train,gallery")) == 1
    seen = capsys.readouterr()
    assert "1 of 3 runs are recorded" in seen.out and "Traceback" not in seen.err
    (failed,) = seen.err.splitlines()
    assert failed.startswith("distill: failed: 2 runs: ") and failed.endswith("there is none of 3, 4, 5, 6, 7, 8, 9")


@pytest.mark.parametrize(("asked", "says"), [
    (dict(datasets=["kmnist"]), "nothing is on record of kmnist with seed 0; a profile's name computes what is missing"),
    (dict(seed=77), "nothing is on record of mnist, cifar10 with seed 77"),
    (dict(store="nowhere"), "nothing is on record"),
    (dict(temperatures="[1, 3]", datasets="mnist"), "T = 3 is not on record of mnist with seed 0; on record are none, 1, 2, 5, 10, 20, 30, 40, 50, 100; "),
])  # fmt: skip
def test_what_is_not_on_record_is_named(asked, says, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(experiments.RunError, match=says):
        experiments.results("published", **asked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [np.int64(20), np.float32(20), np.float64(20), 20, 20.0], ids=repr)
def test_numbers_of_numpy_are_numbers(number):
    labels = net()(X).argmax(1)
    assert jsma(net(), X, Y, temperature=number, max_features=2).features_changed.max() <= 2
    assert others.attack("random", net(), X, labels, temperature=number, max_features=np.int64(2), value=np.float32(1)).features.max() <= 2
    assert training.soft_labels(net(), X, number).dtype == torch.float32
    assert sensitivity.log10_amplitude(net(), X, temperature=number).isfinite().all()
    with pytest.raises(ValueError, match="allowed is a finite number above 0"):
        training.check_temperature(-number)


def test_a_temperature_of_numpy_is_that_of_a_checkpoint(tmp_path):
    recipe = Recipe("short", 3, "adam", 1e-3, 0.9, batch_size=2)
    for temperature in (np.int64(20), 20):
        training.fit(net(), X, Y, temperature=temperature, recipe=recipe, checkpoint=tmp_path / "checkpoint")


def test_an_undefended_network_that_is_not_on_record_is_named():
    networks = pd.DataFrame({"role": ["student"], "temperature": [20.0]})
    with pytest.raises(experiments.RunError, match="T = none, 3 is not on record of mnist; on record are 20; "):
        experiments._must_be_there(networks, ["none", 20.0, 3.0], "mnist", lambda: networks)


@pytest.mark.parametrize("seeds", ["[0, 2]", "0,2", [0, 2], [0, "2", 0], range(0, 3, 2)])
def test_seeds_as_papermill_hands_them_over(seeds):
    assert plans.parse_seeds(seeds) == [0, 2]
    assert plans.parse_seeds(0) == plans.parse_seeds("0") == [0]


def net(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


def convolution():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 10))


class Ungraded(nn.Module):
    """A network whose author thought of predictions alone."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    @torch.no_grad()
    def forward(self, x):
        return self.inner(x)


class InPlace(nn.Module):
    """A network that standardises the images that it is given, and not a copy."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x.sub_(0.5))


PROBABILITIES = nn.Sequential(net(), nn.Softmax(1))
X, Y = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(4)
BEFORE = X.sum()
COLOUR = X.expand(-1, 3, -1, -1)
SHORT = Recipe("short", 1, "adam", 1e-3, 0.9)
ATTACK = dict(radius=0.1, steps=1)


def recipe(**changed):
    return Recipe(**({"name": "short", "epochs": 1, "optimiser": "adam", "learning_rate": 1e-3, "momentum": 0.9} | changed))


PYTHON = {
    "jsma temperature 0": (lambda: jsma(net(), X, Y, temperature=0), "above 0"),
    "jsma temperature text": (lambda: jsma(net(), X, Y, temperature="20"), "above 0"),
    "jsma budget 0": (lambda: jsma(net(), X, Y, max_features=0), "from 1 to 784"),
    "jsma budget above n": (lambda: jsma(net(), X, Y, max_features=785), "from 1 to 784"),
    "jsma value nan": (lambda: jsma(net(), X, Y, value=float("nan")), "finite number"),
    "jsma value inf": (lambda: jsma(net(), X, Y, value=float("inf")), "finite number"),
    "jsma probabilities": (lambda: jsma(PROBABILITIES, X, Y), "returns probabilities; allowed"),
    "jsma channels": (lambda: jsma(convolution(), COLOUR, Y), r"cannot take images of shape \(3, 28, 28\)"),
    "jsma size": (lambda: jsma(net(), X[..., :20], Y), r"cannot take images of shape \(1, 28, 20\)"),
    "jsma targets out of range": (lambda: jsma(net(), X, Y + 7), "0 to 9"),
    "jsma targets negative": (lambda: jsma(net(), X, Y - 1), "0 to 9"),
    "jsma images nan": (lambda: jsma(net(), X * float("nan"), Y), "not finite"),
    "jsma output": (lambda: jsma(net(), X, Y, output="probs"), "softmax, log_softmax, logits"),
    "attack unknown": (lambda: others.attack("deepfool", net(), X, Y), "allowed are fgsm, pgd"),
    "attack labels out of range": (lambda: others.attack("pgd", net(), X, Y + 9, **ATTACK), "labels run from 9 to 12; allowed .* 0 to 9"),
    "attack labels out of range beside targets": (lambda: others.attack("pgd", net(), X, Y + 50, targets=Y, **ATTACK), "labels run from 50"),
    "attack targets out of range": (lambda: others.attack("pgd", net(), X, Y, targets=Y - 1, **ATTACK), "targets run from -1"),
    "attack probabilities": (lambda: others.attack("pgd", PROBABILITIES, X, Y, **ATTACK), "returns probabilities; allowed"),
    "attack channels": (lambda: others.attack("pgd", convolution(), COLOUR, Y, **ATTACK), "cannot take images of shape"),
    "attack temperature nan": (lambda: others.attack("pgd", net(), X, Y, temperature=float("nan"), **ATTACK), "above 0"),
    "attack model None": (lambda: others.attack("pgd", None, X, Y, **ATTACK), "model is NoneType; allowed is a torch.nn.Module"),
    "attack surrogate None": (lambda: others.attack("transfer", net(), X, Y, surrogate=None), "surrogate is NoneType; allowed"),
    "attack radius text": (lambda: others.attack("pgd", net(), X, Y, radius="0.1"), "radius is '0.1'; allowed is a finite number above 0"),
    "attack radius None": (lambda: others.attack("pgd", net(), X, Y, radius=None), "radius is None; allowed"),
    "attack budget 1.5": (lambda: others.attack("random", net(), X, Y, max_features=1.5, value=1.0), "max_features is 1.5; allowed is an integer"),
    "attack budget text": (lambda: others.attack("random", net(), X, Y, max_features="2", value=1.0), "max_features is '2'; allowed"),
    "attack value nan": (lambda: others.attack("random", net(), X, Y, max_features=2, value=math.nan), "value is nan; allowed is a finite number"),
    "attack value text": (lambda: others.attack("random", net(), X, Y, max_features=2, value="1"), "value is '1'; allowed"),
    "attack value None": (lambda: others.attack("random", net(), X, Y, max_features=2, value=None), "either radius, or max_features and value"),
    "attack restarts 0": (lambda: others.attack("apgd_ce", net(), X, Y, radius=0.1, restarts=0), "restarts is 0; allowed is an integer above 0"),
    "attack step size 0": (lambda: others.attack("pgd", net(), X, Y, relative_step_size=0, **ATTACK), "relative_step_size is 0; allowed"),
    "attack loss": (lambda: others.attack("pgd", net(), X, Y, loss="xx", **ATTACK), "loss is 'xx'; allowed is ce or dl"),
    "attack search 0": (lambda: others.attack("carlini_wagner_l2", net(), X, Y, binary_search_steps=0), "binary_search_steps is 0; allowed"),
    "attack confidence nan": (lambda: others.attack("carlini_wagner_l2", net(), X, Y, confidence=math.nan), "confidence is nan; allowed"),
    "attack constant -1": (lambda: others.attack("carlini_wagner_l2", net(), X, Y, initial_const=-1), "initial_const is -1; allowed"),
    "attack rate 0": (lambda: others.attack("carlini_wagner_l2", net(), X, Y, learning_rate=0), "learning_rate is 0; allowed"),
    "attack no confidences": (lambda: others.attack("transfer", net(), X, Y, surrogate=net(), confidences=()), "at least one"),
    "attack confidences 3": (lambda: others.attack("transfer", net(), X, Y, surrogate=net(), confidences=3), "confidences is 3; allowed"),
    "attack queries 0": (lambda: others.attack("hop_skip_jump", net(), X, Y, gradient_queries=0), "gradient_queries is 0; allowed"),
    "attack seed None": (lambda: others.attack("pgd", net(), X, Y, seed=None, **ATTACK), "seed is None; allowed are integers from 0"),
    "attack inference mode": (lambda: torch.inference_mode()(others.attack)("pgd", net(), X, Y, **ATTACK), "outside torch.inference_mode"),
    "attack in place": (lambda: others.attack("pgd", InPlace(), X, Y, **ATTACK), "changes its images in place; allowed"),
    "jsma in place": (lambda: jsma(InPlace(), X, Y), "changes its images in place; allowed"),
    "amplitude in place": (lambda: sensitivity.log10_amplitude(InPlace(), X), "changes its images in place; allowed"),
    "amplitude model None": (lambda: sensitivity.log10_amplitude(None, X), "model is NoneType; allowed"),
    "defend in place": (lambda: defend(InPlace, X, Y, temperature=20, recipe=SHORT), "changes its images in place; allowed"),
    "defend a module": (lambda: defend(net(), X, Y, temperature=20, recipe=SHORT), "model_factory is Sequential; allowed is a function"),
    "defend None": (lambda: defend(None, X, Y, temperature=20, recipe=SHORT), "model_factory is NoneType; allowed is a function"),
    "defend frozen": (lambda: defend(lambda: net().requires_grad_(False), X, Y, temperature=20, recipe=SHORT), "not all of them frozen"),
    "fit model None": (lambda: training.fit(None, X, Y, temperature=1, recipe=SHORT), "model is NoneType; allowed"),
    "fit recipe as dict": (lambda: training.fit(net(), X, Y, temperature=1, recipe={"epochs": 1}), "allowed is a distill.Recipe"),
    "soft labels of nothing": (lambda: training.fit(net(), X, torch.zeros(4, 10), temperature=1, recipe=SHORT), "or probabilities"),
    "soft labels of three": (lambda: training.fit(net(), X, torch.full((4, 10), 3.0), temperature=1, recipe=SHORT), "or probabilities"),
    "accuracy of one label": (lambda: training.accuracy(net(), X, Y[:1]), r"allowed is \(4,\), one an image"),
    "accuracy batch -1": (lambda: training.accuracy(net(), X, Y, batch_size=-1), "batch_size is -1; allowed"),
    "recipe one cycle": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(one_cycle="no")), "one_cycle is 'no'; allowed are True"),
    "diagnose divisors 10": (lambda: diagnose(net(), X, Y, divisors=10), "divisors is 10; allowed is a sequence"),
    "diagnose divisors iterator": (lambda: diagnose(net(), X, Y, divisors=iter([10])), "allowed is a sequence"),
    "diagnose model": (lambda: diagnose(None, X, Y), "model is NoneType; allowed is a torch.nn.Module"),
    "diagnose budget 0": (lambda: diagnose(net(), X, Y, max_features=0), "max_features is 0; allowed is an integer from 1 to 784"),
    "diagnose divisors 0.5": (lambda: diagnose(net(), X, Y, divisors=[0.5]), "divisors is .0.5.; allowed is a sequence of numbers above 1"),
    "diagnose divisors text": (lambda: diagnose(net(), X, Y, divisors="10"), "divisors is '10'; allowed is a sequence of numbers above 1"),
    "diagnose channels": (lambda: diagnose(convolution(), COLOUR, Y), "cannot take images of shape"),
    "diagnose labels": (lambda: diagnose(net(), X, Y + 9), "labels run from 9 to 12"),
    "diagnose lengths": (lambda: diagnose(net(), X, Y[:2]), "one class an image"),
    "diagnose radius": (lambda: diagnose(net(), X, Y, radius=-1.0), "radius is -1.0; allowed"),
    "amplitude channels": (lambda: sensitivity.log10_amplitude(convolution(), COLOUR), "cannot take images of shape"),
    "amplitude probabilities": (lambda: sensitivity.log10_amplitude(PROBABILITIES, X), "returns probabilities; allowed"),
    "defend temperature 0": (lambda: defend(net, X, Y, temperature=0, recipe=SHORT), "above 0"),
    "defend temperature true": (lambda: defend(net, X, Y, temperature=True, recipe=SHORT), "above 0"),
    "defend seed -1": (lambda: defend(net, X, Y, temperature=20, recipe=SHORT, seed=-1), "integers from 0"),
    "defend channels": (lambda: defend(convolution, COLOUR, Y, temperature=20, recipe=SHORT), "cannot take images of shape"),
    "defend bytes": (lambda: defend(net, X.byte(), Y, temperature=20, recipe=SHORT), "cannot take images of shape .* torch.uint8"),
    "defend one module": (lambda: defend(functools.partial(lambda m: m, net()), X, Y, temperature=20, recipe=SHORT), "a new network each time"),
    "defend a class": (lambda: defend(lambda: 5, X, Y, temperature=20, recipe=SHORT), "returned int; allowed is a new torch.nn.Module"),
    "defend half": (lambda: defend(net, X.half(), Y, temperature=20, recipe=SHORT), "images are float16; allowed is float32"),
    "defend not finite": (lambda: defend(net, X / 0, Y, temperature=20, recipe=SHORT), "images hold values that are not finite"),
    "defend numpy": (lambda: defend(net, X.numpy(), Y, temperature=20, recipe=SHORT), "must be tensors"),
    "defend seed too large": (lambda: defend(net, X, Y, temperature=20, recipe=SHORT, seed=2**31), "from 0 to 2147483647"),
    "defend recipe by name": (lambda: defend(net, X, Y, temperature=20, recipe="quick"), "allowed is a distill.Recipe"),
    "defend temperature 1e308": (lambda: defend(net, X, Y, temperature=1e308, recipe=SHORT), "what float32 holds"),
    "momentum nan": (lambda: defend(net, X, Y, temperature=20, recipe=dataclasses.replace(SHORT, momentum=math.nan)), "momentum is nan"),
    "epochs as text": (lambda: defend(net, X, Y, temperature=20, recipe=dataclasses.replace(SHORT, epochs="3")), "epochs is '3'"),
    "rate 1e39": (lambda: defend(net, X, Y, temperature=20, recipe=dataclasses.replace(SHORT, learning_rate=1e39)), "learning_rate is 1e[+]39"),
    "model None": (lambda: jsma(None, X, Y), "model is NoneType; allowed is a torch.nn.Module"),
    "model a function": (lambda: jsma(lambda x: net()(x), X, Y), "model is function; allowed is a torch.nn.Module"),
    "inference mode": (lambda: torch.inference_mode()(jsma)(net(), X, Y), "outside torch.inference_mode"),
    "forward without gradients": (lambda: jsma(Ungraded(), X, Y), "autograd follows"),
    "images sparse": (lambda: jsma(net(), X.to_sparse(), Y), "dense floating-point"),
    "images meta": (lambda: jsma(net(), X.to("meta"), Y), "dense floating-point"),
    "value 1e400": (lambda: jsma(net(), X, Y, value=10**400), "allowed is a finite number"),
    "value True": (lambda: jsma(net(), X, Y, value=True), "value is True"),
    "value beyond half": (lambda: jsma(net(), X.half(), Y, value=1e5), "what images in float16, float32 can hold"),
    "temperature True": (lambda: jsma(net(), X, Y, temperature=True), "temperature is True"),
    "temperature 1e-40": (lambda: jsma(net(), X, Y, temperature=1e-40), "are not finite"),
    "direction as list": (lambda: jsma(net(), X, Y, direction=["increase"]), "allowed are increase, decrease"),
    "step as text": (lambda: jsma(net(), X, Y, features_per_step="2"), "allowed are 1 and 2"),
    "product as text": (lambda: jsma(net(), X, Y, product="no"), "allowed are True and False"),
    "all_targets out of range": (lambda: all_targets(torch.tensor([12, -1]), 3), "run from -1 to 12"),
    "all_targets logits": (lambda: all_targets(torch.rand(3, 10), 10), r"int64 tensor of shape \(N,\)"),
    "all_targets classes": (lambda: all_targets(torch.tensor([0]), 2.5), "integer from 2"),
    "best_pair shapes": (lambda: best_pair(torch.rand(5), torch.rand(5), torch.ones(5) > 0), r"one shape \(N, n\)"),
    "best_pair usable": (lambda: best_pair(torch.rand(1, 5), torch.rand(1, 5), torch.ones(1, 5)), "usable bool"),
    "best_pair nan": (lambda: best_pair(torch.rand(1, 5) / 0, torch.rand(1, 5), torch.ones(1, 5) > 0), "must be finite"),
    "store of nobody": (lambda: zoo("mnist", 100, store="~nouserx/y"), "no one here has that home folder"),
    "defend labels out of range": (lambda: defend(net, X, Y + 7, temperature=20, recipe=SHORT), "classes from 0 to 9"),
    "defend labels negative": (lambda: defend(net, X, Y - 1, temperature=20, recipe=SHORT), "classes from 0 to 9"),
    "defend labels float": (lambda: defend(net, X, Y.float(), temperature=20, recipe=SHORT), "labels must be int64"),
    "defend no images": (lambda: defend(net, X[:0], Y[:0], temperature=20, recipe=SHORT), "at least one"),
    "defend probabilities": (lambda: defend(lambda: PROBABILITIES, X, Y, temperature=20, recipe=SHORT), "returns probabilities; allowed"),
    "soft labels of another width": (lambda: training.fit(net(), X, torch.rand(4, 7), temperature=1, recipe=SHORT), r"\(4, 10\)"),
    "soft labels nan": (lambda: training.fit(net(), X, torch.full((4, 10), float("nan")), temperature=1, recipe=SHORT), "labels must be"),
    "recipe batch 0": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(batch_size=0)), "batch_size is 0; allowed"),
    "recipe epochs inf": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(epochs=float("inf"))), "epochs is inf; allowed"),
    "recipe rate nan": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(learning_rate=float("nan"))), "learning_rate is nan"),
    "recipe decay 0": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(decay_every=0)), "decay_every is 0; allowed"),
    "recipe nesterov": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(nesterov=True)), "allowed with the optimiser adam is False"),
    "recipe dropout 1": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(dropout=1.0)), "dropout is 1.0; allowed is a number from 0"),
    "recipe dropout text": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(dropout="no")), "dropout is 'no'; allowed"),
    "recipe dropout nan": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(dropout=float("nan"))), "dropout is nan; allowed"),
    "recipe optimiser": (lambda: defend(net, X, Y, temperature=20, recipe=recipe(optimiser="lion")), "allowed are sgd, adam"),
    "zoo store": (lambda: zoo("mnist", 20, store=5), "store is 5; allowed is a folder"),
    "zoo profiles": (lambda: zoo("mnist", 20, profile=["paper"]), "allowed are smoke"),
    "zoo data set": (lambda: zoo("imagenet", 20), "known are mnist"),
    "zoo temperature": (lambda: zoo("mnist-5k", "hot"), "finite numbers above 0"),
    "zoo role": (lambda: zoo("mnist-5k", 20, "pupil", profile="smoke"), "allowed are student, teacher"),
    "zoo profile": (lambda: zoo("mnist-5k", 20, profile="big"), "allowed are smoke"),
    "plan temperatures text": (lambda: plans.plan("smoke", "mnist-5k", "20"), "a list of one or more"),
    "plan no images": (lambda: plans.plan("smoke", "mnist-5k", images=0), "an integer from 1"),
    "plan images as text": (lambda: plans.plan("smoke", "mnist-5k", images="50"), "an integer from 1"),
    "plan no seeds": (lambda: plans.plan("smoke", "mnist-5k", seeds=[]), "a list of one or more"),
    "load unknown": (lambda: data.load(7, train=True), "unknown data set '7'"),
    "records kind": (lambda: records.load(kind="models"), "allowed are model"),
    "accuracy": (lambda: metrics.accuracy(5, 4), "allowed is"),
    "mean of nothing": (lambda: metrics.success_rate(pd.DataFrame({"success": [], "image": []})), "at least one"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "says"), PYTHON.values(), ids=PYTHON)
def test_python(place, call, says):
    with pytest.raises(ValueError, match=says) as raised:
        call()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    assert X.sum() == BEFORE  # whatever the network does to what it is given

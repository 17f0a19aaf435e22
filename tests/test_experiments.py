"""Plans, runs and the command line."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from distill import analysis, cli, comparison, data, experiments, plans, records, training, zoo
from distill.attacks.jsma import all_targets, jsma


@pytest.fixture()
def context(tmp_path, data_root, monkeypatch):
    """A store of its own, nothing published, and a recipe of a few steps."""
    monkeypatch.setitem(training.RECIPES, ("smoke", "mnist"), training.Recipe("smoke", 0.25, "adam", 3e-3, 0.9, dropout=0.0, batch_size=32))
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    said = []
    made = experiments.Context.new(None, say=said.append)
    made.said = said
    return made


def test_plans_name_every_run_in_order():
    runs = plans.plan("paper", "mnist")
    assert len([r for r in runs if r["kind"] == "model"]) == 19
    assert len([r for r in runs if r["kind"] == "attack"]) == 10
    keys = [records.key(run) for run in runs]
    assert len(set(keys)) == len(keys)
    for run in runs:
        if run["role"] == "student" and run["kind"] == "model":
            assert keys.index(run["teacher"]) < keys.index(records.key(run))
        if run["kind"] == "attack":
            assert keys.index(run["model"]) < keys.index(records.key(run))
            assert (run["max_features"], run["output"], run["images"]) == (112, "softmax", 1000)
    assert {run["value"] for run in plans.plan("quick", "cifar10") if run["kind"] == "attack"} == {2.0}
    assert [r["recipe"]["epochs"] for r in runs if r["kind"] == "model"] == [50] * 19


def test_a_run_is_done_once_and_everything_about_it_is_recorded(context):
    runs = plans.plan("smoke", "mnist-5k", [20])
    assert [(r["kind"], r["role"]) for r in runs] == [("model", "teacher"), ("model", "student"), ("attack", "student")]
    assert experiments.ensure(runs, context) == []
    made = [records.find(run, [context.store]) for run in runs]
    assert experiments.ensure(runs, context) == []
    assert len(context.said) == 4  # one headline and three runs, and nothing the second time

    attack = made[2].table()
    assert len(attack) == 9 * runs[2]["images"] and attack["image"].nunique() == runs[2]["images"] == 5
    assert (attack["target"] != attack["source"]).all()
    assert (attack.groupby("image")["target"].nunique() == 9).all()
    assert (attack["success"] == (attack["status"] == "SUCCESS")).all()
    assert attack["features_changed"].max() <= 112
    contract = {"dataset", "profile", "role", "temperature", "seed", "attack", "output", "attack_temperature", "precision", "max_features",
                "image", "source", "target", "success", "features_changed", "l2", "linf", "status"}  # fmt: skip
    assert contract <= set(attack.columns)
    contract = {"dataset", "profile", "role", "temperature", "seed", "accuracy", "epochs", "train_seconds", "precision"}
    assert contract <= set(made[1].table().columns)
    assert made[2].info["provenance"]["passes"] == attack["passes"].sum() > 0
    assert made[1].info["provenance"]["history"][0]["loss"] > 0

    assert {tensor.dtype for tensor in made[1].weights().values()} == {torch.float16}
    model = experiments.load_model(runs[1], context).model
    same = zoo("mnist-5k", 20, profile="smoke", store=context.store)
    assert torch.equal(same.last.weight, model.last.weight)
    with pytest.raises(experiments.RunError, match="there are no weights of"):
        zoo("mnist-5k", 30, profile="smoke", store=context.store)
    test = data.load("mnist-5k", train=False)
    assert training.accuracy(model, test.x, test.y).float().mean().item() == made[1].table()["accuracy"].iloc[0]


def test_stages_record_what_their_configurations_say(context, monkeypatch):
    flushed = []

    def watched(*args, **options):
        flushed.append(bool(torch.tensor([1e-40]) * 1 == 0))
        return jsma(*args, **options)

    monkeypatch.setattr(experiments, "jsma", watched)
    stages = ["attack", "split", "stops", "product", "invariance", "gallery", "neighbours", "predictions", "sensitivity", "smoothing"]
    runs = plans.plan("smoke", "mnist-5k", ["none"], stages=stages)
    assert experiments.ensure(runs, context) == []
    tables = {records.key(run): records.find(run, [context.store]).table() for run in runs}
    attacks = {records.key(run): run for run in runs if run["kind"] == "attack" and run["role"] == "plain"}
    variants = {key: set(analysis.variant(tables[key])) for key in attacks}
    assert sorted(name for names in variants.values() for name in names if name) == sorted(set(analysis.VARIANTS) - {"scaled"})
    assert flushed.count(True) == 2

    base = next(tables[key] for key, names in variants.items() if names == {"float32"})
    sweep = next(tables[key] for key, run in attacks.items() if "sweep" in run)
    assert set(sweep["draw"]) == {"sweep"} and sweep["attack_temperature"].nunique() == len(plans.INVARIANCE_TEMPERATURES)
    same = sweep[sweep["attack_temperature"] == 1].merge(base, on=["image", "target"])
    assert len(same) and (same["success_x"] == same["success_y"]).all() and (same["features_changed_x"] == same["features_changed_y"]).all()

    model = experiments.load_model(runs[0], context).model
    drawn = next(tables[key] for key, run in attacks.items() if run.get("draw") and run["output"] == "softmax")
    assert drawn["label"].nunique() == 10 and drawn["saliency"].notna().sum() == 9
    pixels = np.stack(list(drawn["pixels"]))
    for row, order in enumerate(drawn["trace"]):
        assert len(order) == drawn["features_changed"][row]
        pixels[row, order] = 1.0
    reached = model(torch.from_numpy(pixels).view(-1, 1, 28, 28)).argmax(1).numpy() == drawn["target"]
    assert (reached == drawn["success"]).all()  # the record alone draws every adversarial image

    stop = next(tables[records.key(run)] for run in runs if run["kind"] == "stop")
    unlimited = next(tables[key] for key, names in variants.items() if names == {"exact"})
    failed = unlimited[~unlimited["success"]]
    stop = stop[stop["status"] != ""]
    assert len(stop) == len(failed) and stop["as_recorded"].all() and stop["status"].tolist() == failed["status"].tolist()
    assert ((stop["largest_derivative"] == 0) == (stop["status"] == "ZERO_GRADIENT")).all()

    near = next(tables[records.key(run)] for run in runs if run["kind"] == "neighbour")
    train = data.load("mnist-5k", train=True).x.flatten(1)
    row = near.iloc[0]
    own = data.load("mnist-5k", train=False).x[int(row["image"])].flatten()
    assert row["before"] == pytest.approx((train - own).norm(dim=1).min().item(), rel=1e-4)
    assert row["moved"] > 0 and abs(row["after"] - row["before"]) <= row["moved"] * (1 + 1e-5)  # the triangle inequality

    said = next(tables[records.key(run)] for run in runs if run["kind"] == "prediction")
    accuracy = tables[records.key(runs[0])]["accuracy"].item()
    assert (said["label"] == said["predicted"]).mean() == pytest.approx(accuracy)
    kept = said[said["logits"].notna()]
    logits = torch.from_numpy(np.stack(list(kept["logits"])))
    assert len(kept) == 100 and torch.allclose(logits.softmax(1).amax(1), torch.tensor(kept["probability"].to_numpy()), rtol=1e-5)

    measured = next(tables[records.key(run)] for run in runs if run["kind"] == "sensitivity")
    assert np.allclose(np.log10(measured["float64_amplitude"]), measured["log10_amplitude"], atol=1e-6)
    assert (measured["log10_maximum"] > measured["log10_amplitude"]).all()
    smoothed = next(run for run in runs if run["kind"] == "model" and run["role"] == "smoothed")
    assert not torch.equal(experiments.load_model(smoothed, context).model.last.weight, model.last.weight)


def test_published_records_are_used_and_a_named_store_stands_alone(context, tmp_path):
    runs = plans.plan("smoke", "mnist-5k", ["none"], stages=["train"])
    experiments.ensure(runs, context)
    records.publish(records.find(runs[0], [context.store]))
    fresh = experiments.Context.new(None)
    fresh.store = tmp_path / "elsewhere"
    fresh.look_in = [records.PUBLISHED, fresh.store]
    assert experiments.ensure(runs, fresh) == [] and not fresh.store.exists()
    assert records.find(runs[0], records.stores(tmp_path / "alone")) is None


def test_a_network_trained_anew_is_never_shown_under_another_ones_record(context, tmp_path, monkeypatch):
    runs = plans.plan("smoke", "mnist-5k", ["none"])
    experiments.ensure(runs[:1], context)
    records.publish(records.find(runs[0], [context.store]))
    fresh = experiments.Context.new(None, say=lambda _: None)
    fresh.store = tmp_path / "elsewhere"
    fresh.look_in = [records.PUBLISHED, fresh.store]
    monkeypatch.setattr(
        training, "accuracy", lambda model, x, y, real=training.accuracy: model.last.bias.data.add_(1) is None or real(model, x, y)
    )
    failures = experiments.ensure(runs, fresh)
    assert len(failures) == 1 and "gave another network" in failures[0]


def test_a_failing_run_does_not_take_the_others_along(context, monkeypatch):
    monkeypatch.setattr(
        experiments,
        "_images",
        lambda network, *_, real=experiments._images: real(network, *_) if network["dataset"] != "mnist" else _gone(),
    )
    runs = plans.plan("smoke", "mnist", ["none"], stages=["train"]) + plans.plan("smoke", "mnist-5k", ["none"], stages=["train"])
    failures = experiments.ensure(runs, context)
    assert len(failures) == 1 and "could not be had" in failures[0]
    assert records.find(runs[1], [context.store]) is not None


@pytest.mark.parametrize(
    "error", [ImportError("this attack needs adv_lib: pip install it"), torch.OutOfMemoryError("CUDA out of memory.\nTried 2 GiB")]
)
def test_a_missing_library_or_too_little_memory_is_one_failed_run(context, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setitem(experiments.RUNNERS, "attack", fails)
    monkeypatch.setitem(experiments.RUNNERS, "model", lambda config, *_: records.write(
        context.store, config, pd.DataFrame({"accuracy": [0.5], "at_chance": [False]}), columns={}, provenance={"wall_seconds": 1.0}))  # fmt: skip
    monkeypatch.setattr(experiments, "_summary", lambda record: "made")
    network, attack = plans.plan("smoke", "mnist-5k", ["none"])
    assert experiments.ensure([attack, network], context) == [f"{records.key(attack)}: {' '.join(str(error).split())}"]
    assert records.find(network, [context.store]) is not None


def test_a_fault_of_ours_is_one_failed_run_that_says_where(context, monkeypatch):
    monkeypatch.setitem(experiments.RUNNERS, "attack", lambda *_: {}["at_chance"])
    network, attack = plans.plan("smoke", "mnist-5k", ["none"])
    (failure,) = experiments.ensure([attack, network], context)
    assert re.fullmatch(rf"{records.key(attack)}: KeyError in test_experiments.py, line \d+: 'at_chance'", failure)
    assert records.find(network, [context.store]) is not None


def test_a_folder_that_changes_after_it_was_planned_is_not_taken_for_what_it_was(context, data_root, tmp_path):
    def fill(pixel):
        for half, names in data.IDX_FILES.items():
            labels = np.arange(40 if half == "train" else 20, dtype=np.uint8) % 10
            for name, array in zip(names, (np.full((len(labels), 28, 28), pixel, np.uint8), labels), strict=True):
                (tmp_path / "mine" / name).write_bytes(data.encode_idx(array))

    (tmp_path / "mine").mkdir()
    fill(1)
    runs = plans.plan("smoke", str(tmp_path / "mine"), ["none"], stages=["train"])
    fill(2)
    again = plans.plan("smoke", str(tmp_path / "mine"), ["none"], stages=["train"])
    assert records.key(runs[0]) != records.key(again[0])
    (failure,) = experiments.ensure([*runs, *again], context)
    assert "are not those that this run was planned with" in failure and failure.startswith(records.key(runs[0]))
    assert [path.name for path in context.store.iterdir() if path.name != ".work"] == [records.key(again[0])]


def test_one_record_that_cannot_be_published_does_not_keep_others_back(context, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "ZOO", tmp_path / "zoo")
    command = ["run", "--profile", "smoke", "--dataset", "mnist-5k", "--temperatures", "none", "--quiet", "--threads", "1"]
    assert cli.main([*command, "--store", str(tmp_path / "mine")]) == 0
    network, attack = plans.plan("smoke", "mnist-5k", ["none"])
    changed = records.find(network, [tmp_path / "mine"]).table()[["accuracy", "at_chance"]].assign(accuracy=0.5)
    records.publish(records.write(tmp_path / "other", network, changed, columns={}, provenance={"wall_seconds": 1.0}))
    capsys.readouterr()
    assert cli.main([*command, "--store", str(tmp_path / "mine"), "--publish"]) == 1
    seen = capsys.readouterr()
    assert "2 of 2 runs are recorded, 1 published in" in seen.out
    assert seen.err.count("\n") == 1 and "holds another result of this run" in seen.err
    assert (tmp_path / "results" / records.key(attack)).is_dir()


@pytest.mark.parametrize("spelled", ["./mine,./mine/", "./mine,{}/mine"])
def test_a_folder_is_one_data_set_however_it_is_spelled(spelled, tmp_path, monkeypatch, data_root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for names in data.IDX_FILES.values():
        for name in names:
            (tmp_path / "mine" / name).write_bytes(b"")
    options = cli.parser().parse_args(["run", "--profile", "smoke", "--dataset", spelled.format(tmp_path)])
    assert len(cli._plan(options, "smoke", ["none"], ["train"])) == 1


def _gone():
    raise data.DataError("mnist could not be had")


def test_status_of_one_data_set_leaves_out_profiles_without_its_shape(context, capsys):
    assert cli.main(["status", "--dataset", "cifar10"]) == 0
    assert "quick: 0 of" in capsys.readouterr().out


def test_a_teacher_at_chance_is_never_passed_on(context, monkeypatch):
    monkeypatch.setattr(experiments, "CHANCE", 1.01)
    runs = plans.plan("smoke", "mnist-5k", [20], stages=["train"])
    failures = experiments.ensure(runs, context)
    assert len(failures) == 1 and "stayed at chance" in failures[0]
    assert records.find(runs[0], [context.store]).table()["at_chance"].tolist() == [True]
    assert records.find(runs[1], [context.store]) is None


def test_an_attack_with_denormals_flushed_is_computed_on_the_processor(context, monkeypatch):
    network, attack = plans.plan("smoke", "mnist-5k", ["none"])
    assert experiments.ensure([network], context) == []
    elsewhere = dataclasses.replace(context, device="meta")  # on which nothing can be computed
    monkeypatch.setattr(experiments, "load_model", lambda config, _, real=experiments.load_model: real(config, context))
    flushed = {**attack, "flush": True}
    assert experiments.ensure([flushed], elsewhere) == []
    record = records.find(flushed, [context.store])
    assert record.info["provenance"]["device"] == "cpu" and len(record.table()) == 45


def test_results_for_a_chapter(context):
    rows = experiments.results("smoke", '["mnist-5k"]', "[20]", stages=["train", "attack"])
    assert set(rows["attack"]["role"]) == {"plain", "student"}  # the plain network always stands beside
    assert comparison.success_table(rows["attack"])["attacks"].tolist() == [45, 45]
    assert experiments.results("smoke", None, [20])["model"]["accuracy"].equals(rows["model"]["accuracy"])


def test_results_of_what_is_on_record_compute_nothing(context, monkeypatch):
    assert experiments.ensure(plans.plan("smoke", "mnist-5k", ["none"]), context) == []
    monkeypatch.setattr(experiments, "ensure", None)
    there = experiments.results("smoke", None, [20], compute=False)
    assert there["model"]["role"].tolist() == ["plain"] and there["attack"]["role"].unique().tolist() == ["plain"]
    nothing = experiments.results("table2", compute=False)
    assert set(nothing) == set(experiments.RUNNERS) and all(table.empty for table in nothing.values())


def test_results_say_which_kinds_they_return():
    assert all(f'"{kind}"' in experiments.results.__doc__ for kind in experiments.RUNNERS)


def test_of_the_records_of_a_run_the_one_on_most_images_is_published(context, monkeypatch):
    monkeypatch.setitem(training.RECIPES, ("quick", "mnist"), training.RECIPES["smoke", "mnist"])
    monkeypatch.setitem(plans.PROFILES, "quick", dataclasses.replace(plans.PROFILES["smoke"], name="quick", images=3))
    monkeypatch.setattr(experiments, "WIDE", (7, 5))
    seen = []
    for images in (2, None, 5, 7):  # the fewest are those of what is repeated many times
        assert experiments.ensure(plans.plan("quick", "mnist-5k", ["none"], images=images), context) == []
        seen.append([
            experiments.results(name, ["mnist-5k"], ["none"])["attack"]["image"].nunique() for name in (experiments.PUBLISHED, "quick")
        ])  # fmt: skip
    assert seen == [[2, 3], [3, 3], [5, 3], [7, 3]]


def test_draws_are_nested():
    assert list(plans.drawn_images(10_000, 100)) == list(plans.drawn_images(10_000, 1000)[:100])
    rows, targets = all_targets(torch.tensor([3, 0]), 4)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1] and targets.tolist() == [0, 1, 2, 1, 2, 3]


def test_command_line(context, tmp_path, capsys):
    store = str(tmp_path / "cli")
    assert cli.main(["data", "mnist-5k"]) == 0
    assert "verified" in capsys.readouterr().out
    assert (
        cli.main(["run", "--profile", "smoke", "--temperatures", "none", "--store", store, "--quiet", "--publish", "--threads", "1"]) == 0
    )
    assert "2 of 2 runs are recorded" in capsys.readouterr().out
    assert len(records.load(store=records.PUBLISHED, kind="attack")) == 45
    assert cli.main(["status", "--profile", "smoke", "--store", store]) == 0
    out = capsys.readouterr().out
    assert "smoke: 2 of 8 runs recorded, 0 running, 6 missing" in out and "should take about" in out


def test_failures_are_one_line_and_exit_code_1(context, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["run", "--profile", "smoke", "--store", str(tmp_path / "file" / "x"), "--quiet"]) == 1
    assert "name another by --store" in capsys.readouterr().err
    run = plans.plan("smoke", "mnist-5k", ["none"], stages=["train"])[0]
    path = context.store / records.key(run)
    path.mkdir(parents=True)
    (path / "record.json").write_text(json.dumps({"schema": 1}))
    assert cli.main(["run", "--profile", "smoke", "--temperatures", "none", "--stages", "train", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "is not a record" in captured.err and captured.err.count("\n") == 1
    assert "0 of 1 runs are recorded" in captured.out
    assert cli.main(["status", "--profile", "smoke"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(records.RecordError):
        cli.main(["status", "--profile", "smoke", "--debug"])


def test_status_lists_the_rest_beside_a_damaged_record(context, capsys):
    assert experiments.ensure(plans.plan("smoke", "mnist-5k", ["none"], stages=["train"], seeds=[0, 1]), context) == []
    network, sound = plans.plan("smoke", "mnist-5k", ["none"], stages=["train"], seeds=[0, 1])
    (context.store / records.key(network) / "record.json").write_text("{")
    assert cli.main(["status", "--profile", "smoke", "--temperatures", "none", "--seeds", "0,1"]) == 1
    out, err = capsys.readouterr()
    assert "smoke: 1 of 4 runs recorded, 0 running, 2 missing, 1 damaged" in out and f"damaged  {records.key(network)}" in out
    assert out.count("  missing  ") == 2 and records.key(sound) not in out
    assert err.startswith("distill: ") and err.count("\n") == 1 and records.key(network) in err and "is not a record" in err


def test_temperatures():
    assert plans.parse_temperatures(["none", 1, "20", 0.5]) == ["none", 1.0, 20.0, 0.5]
    assert plans.listed("[1, 20]") == [1, 20] and plans.listed('["a"]') == ["a"] and plans.listed("a,b") == ["a", "b"]
    assert plans.listed(20) == [20] and plans.parse_temperatures([20, "20", "none", "none"]) == [20.0, "none"]
    with pytest.raises(ValueError, match="is no list"):
        plans.listed("[1, ")


def test_version_needs_no_installed_package(capsys, monkeypatch):
    import importlib.metadata

    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and re.fullmatch(r"distill \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_open_choices_change_one_thing_each(context):
    assert set(analysis.CHOICES) - {""} == set(plans.CHOICES)  # each has a name for readers
    base = {run["role"]: run for run in plans.plan("quick", "cifar10", ["none", 20], stages=["train"])}
    runs = plans.plan("quick", "cifar10", ["none", 20], stages=["choices"])
    for name, change in plans.CHOICES.items():
        for role in ("plain", "teacher", "student"):
            run = next(run for run in runs if run["kind"] == "model" and run["role"] == f"{name} {role}")
            assert {k: v for k, v in run.items() if base[role].get(k) != v and k not in ("role", "teacher")} == change
            if role == "student":
                assert run["teacher"] == records.key(plans.needs(run)[0]) and plans.needs(run)[0]["role"] == f"{name} teacher"
    assert not any("channelwise" in run["role"] for run in plans.plan("smoke", "mnist-5k", [20], stages=["choices"]))  # is not standardised
    own = [run for run in plans.plan("smoke", "mnist-5k", ["none"], stages=["choices"]) if run["role"] in ("padded plain", "torch plain")]
    assert experiments.ensure(own, context) == []
    network, attack, again = (records.find(run, [context.store]) for run in own if run["role"] == "padded plain")
    assert network.table()["parameters"].item() > 312_202 and len(attack.table()) == len(again.table()) == 45
    found = experiments.results("smoke", "mnist-5k", ["none"], stages=("train", "choices"))
    table = analysis.choices_table(found["model"], found["attack"])
    assert list(table["role"]) == ["plain", "torch plain", "padded plain"] and set(table["temperature"]) == {"none"}
    assert table["what"].iloc[1] == analysis.CHOICES["torch"] and list(table["ours_images"]) == [0, 5, 5]  # the first was not attacked
    assert analysis.choices_table(found["model"][found["model"]["role"] == "plain"], found["attack"]).empty


def test_images_are_as_the_network_takes_them(context, monkeypatch):
    seen = []
    monkeypatch.setattr(experiments, "_load", lambda *arguments: seen.append(arguments))
    for run in plans.plan("quick", "cifar10", ["none"], stages=["choices"]):
        if run["kind"] == "model" and run["role"].startswith(("plain", "channelwise")):
            experiments._images(run, False, context)
    assert [arguments[5:] for arguments in seen] == [("feature",), ("channel",)]


def on_one_in(fit, number):
    """Training on one image in so many."""
    return lambda model, images, labels, **options: fit(model, images[::number], labels[::number], **options)


def test_ablations_change_one_thing_each(context, monkeypatch):
    runs = plans.plan("smoke", "mnist-5k", [20], stages=["ablations"])
    by_role = {run["role"]: run for run in runs if run["kind"] == "model"}
    recipes = {role: run["recipe"] for role, run in by_role.items()}
    assert recipes["warm student"] == recipes["student"] and by_role["warm student"]["start"] == {"temperature": 1.0, "epochs": 1.0}
    changed = {name for name in recipes["sgd student"] if recipes["rate student"][name] != recipes["sgd student"][name]}
    assert changed == {"learning_rate"} and recipes["rate student"]["learning_rate"] == pytest.approx(0.1 * 20 * 0.1)
    scaled = [run for run in runs if run["kind"] == "attack" and run["attack_temperature"] < 1]
    assert [(run["role"], run["attack_temperature"], run["output"]) for run in scaled] == [
        ("plain", 1 / 20, o) for o in ("softmax", "log_softmax")
    ]
    warm = [run for run in runs if run["role"].startswith("warm") and run["kind"] == "model"]
    monkeypatch.setattr(training, "fit", on_one_in(training.fit, 4))
    assert experiments.ensure(warm, context) == []
    student, teacher = (experiments.load_model(run, context).model for run in reversed(warm))
    assert records.find(warm[1], [context.store]).config["teacher"] == records.key(warm[0])
    assert not torch.equal(student.last.weight, teacher.last.weight)
    assert plans.plan("smoke", "mnist-5k", ["none"], stages=["ablations"]) == plans.plan("smoke", "mnist-5k", ["none"], stages=["train"])


def test_seconds_of_a_training_are_with_those_of_the_one_it_starts_from(context, monkeypatch):
    real = on_one_in(training.fit, 5)
    monkeypatch.setattr(training, "fit", lambda *given, **options: [{**epoch, "seconds": 70.0 if "checkpoint" in options else 1000.0}
                                                                    for epoch in real(*given, **options)])  # fmt: skip
    runs = plans.plan("smoke", "mnist-5k", [20], stages=["ablations"])
    for role, seconds in (("warm teacher", 1070), ("sgd teacher", 70 * 2)):
        (run,) = [run for run in runs if run["kind"] == "model" and run["role"] == role]
        assert experiments.ensure([run], context) == []
        record = records.find(run, [context.store])
        row, made = record.table().iloc[0], record.info["provenance"]
        assert row["train_seconds"] == seconds <= made["wall_seconds"] < seconds + 60
        assert row["epochs"] == run["recipe"]["epochs"] and len(made["history"]) == np.ceil(row["epochs"])


def test_where_no_attack_stops_a_row_says_so(context, monkeypatch):
    runs = plans.plan("smoke", "mnist-5k", ["none"], stages=["stops"])
    assert experiments.ensure(runs[:2], context) == []
    read = records.Record.table
    monkeypatch.setattr(records.Record, "table", lambda record: read(record).assign(success=True))
    written = experiments.run(runs[2], context).path
    table = read(records.read(written))
    assert table["status"].tolist() == [""] and table["units_on"].tolist() == [-1] and table["largest_derivative"].isna().all()


def test_what_a_stop_leaves_of_a_network_is_told():
    hidden, out = torch.nn.Linear(1, 2), torch.nn.Linear(2, 2)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0], [2.0]]))
        hidden.bias.copy_(torch.tensor([-1.0, -1.0]))
        out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        out.bias.copy_(torch.tensor([0.1, 0.0]))
    model = torch.nn.Sequential(torch.nn.ReLU(), hidden, torch.nn.ReLU(), out)  # the first is on for all of them
    on, largest, predicted = experiments._left(model, torch.tensor([[0.25], [0.75], [2.0]]))
    assert (on.tolist(), largest.tolist(), predicted.tolist()) == ([0, 1, 1], [0.0, 6.0, 6.0], [0, 1, 1])
    assert model[1].weight.dtype == torch.float32  # the network itself is left as it was

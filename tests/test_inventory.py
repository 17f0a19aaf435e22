"""What is on record is counted rightly, and what is missing is estimated from its like."""

import pandas as pd
import pytest

from distill import inventory, plans, records


def write(store, config, seconds, **told):
    provenance = {"wall_seconds": seconds, "dtype": "float32", "device": "cpu", **told}
    return records.write(
        store,
        config,
        pd.DataFrame({"accuracy": [0.9], "at_chance": [False]}),
        columns={"dataset": config["dataset"]},
        provenance=provenance,
    )


@pytest.fixture
def store(tmp_path):
    """The plain network of the profile quick, 6 seconds, and its attack on 50 images, 25 seconds."""
    network, attack = plans.plan("quick", "mnist", ["none"])
    write(tmp_path, network, 6.0)
    write(tmp_path, attack, 25.0)
    return tmp_path


def test_gaps_say_what_is_there_what_is_missing_and_how_long_it_should_take(store):
    gaps = inventory.gaps("quick", store=store, temperatures=["none", 1, 20]).set_index(["dataset", "stage"])
    train, attack = gaps.loc[("mnist", "train")], gaps.loc[("mnist", "attack")]
    assert (train["runs"], train["recorded"], train["there"], train["missing"]) == (5, 1, "none", "1, 20")  # one plain, two pairs
    assert train["seconds"] == pytest.approx(4 * 6.0)
    assert (attack["recorded"], attack["missing"]) == (1, "1, 20")
    assert attack["seconds"] == pytest.approx(2 * 25.0)
    other = gaps.loc[("cifar10", "train")]
    assert (other["recorded"], other["seconds"], other["untimed"]) == (0, 0, 5)  # nothing like it is on record


def test_time_goes_with_the_epochs_and_the_images(store):
    speed = inventory.speeds(store)
    epochs = plans.plan("quick", "mnist", ["none"])[0]["recipe"]["epochs"]
    assert speed == {("mnist", "model"): pytest.approx(6.0 / epochs), ("mnist", "attack"): pytest.approx(0.5)}
    long = plans.plan("paper", "mnist", ["none"])
    seconds, untimed = inventory.seconds_left(long, speed)
    assert untimed == 0 and seconds == pytest.approx(50 * 6.0 / epochs + 1000 * 0.5)


def test_the_epochs_that_a_training_starts_from_are_counted_where_their_time_is(tmp_path):
    warm = next(run for run in plans.plan("quick", "mnist", [20], stages=["ablations"]) if run["role"] == "warm teacher")
    epochs = warm["recipe"]["epochs"]
    assert inventory.size(warm) == epochs + 1
    write(tmp_path / "now", warm, 10 * (epochs + 1), start_seconds=10.0)
    write(tmp_path / "earlier", warm, 10 * epochs)
    for store in ("now", "earlier"):
        assert inventory.speeds(tmp_path / store) == {("mnist", "model"): pytest.approx(10.0)}
        assert inventory.seconds_left([warm], inventory.speeds(tmp_path / store)) == (pytest.approx(10 * (epochs + 1)), 0)


def test_every_run_of_a_plan_is_of_one_stage():
    whole = {records.key(run) for run in plans.plan("paper", "mnist", stages=list(plans.STAGES))}
    parts = [records.key(run) for stage in plans.STAGES for run in inventory.of_stage("paper", "mnist", stage)]
    assert set(parts) == whole and len(parts) == len(whole)


def test_runs_name_their_stage_and_where_they_were_made(store):
    other = {**plans.plan("quick", "mnist", ["none"], precision="bfloat16")[0]}
    write(store, other, 1.0)
    made = inventory.runs(store)
    assert sorted(made["stage"]) == ["attack", inventory.OTHER, "train"]
    assert made["seconds"].sum() == 32 and set(made["processor"]) == {records.processor()}


def test_a_data_folder_that_is_gone_does_not_hide_the_other_runs(tmp_path):
    config = {"kind": "model", "dataset": str(tmp_path / "gone"), "profile": "quick", "role": "plain", "temperature": 1.0, "seed": 0}
    write(tmp_path / "store", config, 3.0)
    assert inventory.runs(tmp_path / "store")["stage"].tolist() == [inventory.OTHER]
    nothing = inventory.runs(tmp_path / "nothing")
    assert nothing.empty and list(nothing) == list(inventory.runs(tmp_path / "store"))

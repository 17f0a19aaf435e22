"""Tables of published attacks, on rows whose answers can be counted by hand; and the stages that make the rows."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest

from distill import checks, experiments, figures_sound, plans, records, soundness, training
from distill.attacks.adapters import ATTACKS


def rows(attack, broken, *, at=1.0, steps=None, label=None, linf=0.1, role="student", draw=soundness.UNTARGETED, **more):
    """An attack on five images of class 0; ``broken`` says which fall."""
    n = len(broken)
    return pd.DataFrame({
        "profile": "quick", "dataset": "mnist", "role": role, "temperature": 100.0 if role == "student" else 1.0, "draw": draw,
        "attack": attack, "attack_temperature": at, "steps": steps or ATTACKS[attack].steps, "radius": 0.3 if attack == "pgd" else np.nan,
        "image": np.arange(n), "label": 0 if label is None else label, "source": 0, "success": np.array(broken, bool),
        "pixels_changed": 7, "l1": 3.0, "l2": 2.0, "linf": linf, "passes": 101.0, "record": "a-record", **more,
    })  # fmt: skip


def test_rates_are_of_the_images_that_were_right():
    table = soundness.attack_table(
        pd.concat([rows("pgd", [1, 1, 0, 0, 1], label=[0, 0, 0, 0, 5]), rows("fmn_l0", [1, 1, 1, 1, 1], at=100.0)])
    )
    pgd, fmn = (table[table["attack"] == name].iloc[0] for name in ("pgd", "fmn_l0"))
    assert (pgd["ours"], pgd["images"], pgd["clean"], pgd["radius"], pgd["distance"]) == (50.0, 4, 80.0, 0.3, 0.1)
    assert pgd["low"] < 50 < pgd["high"]
    assert (fmn["ours"], fmn["divided"], fmn["norm"], fmn["distance"], fmn["temperature"]) == (100.0, 100.0, "l0", 7, "100")


def test_fgsm_and_pgd_stand_beside_the_paper_attack_by_the_scale_of_the_logits():
    draw = {"draw": soundness.BOUNDED, "radius": 0.3}
    ball = pd.concat([
        rows("fgsm", [0, 0, 0, 1, 1], label=[0, 0, 0, 0, 5], **draw), rows("fgsm", [0, 0, 1, 1], at=100.0, **draw),
        rows("fgsm_dl", [1, 1, 1, 0], **draw), rows("pgd", [0, 1, 1, 1], **draw), rows("pgd", [1, 1, 1, 1], at=100.0, **draw),
        rows("fgsm", [1, 1, 1, 0], role="plain", **draw),
        rows("pgd", [0, 0, 0, 0]),  # of the other stage
    ]).assign(output="logits", precision="float32", flush=False, product=False, seed=0)  # fmt: skip
    target = rows("fgsm", [0, 0, 0, 1], draw="").assign(attack="jsma", output="softmax", precision="float32", flush=False, product=False, max_features=112,
                                                       features_changed=10, status="SUCCESS", target=1, seed=0)  # fmt: skip
    both = pd.concat([ball, target])
    table = soundness.beside_jsma(both).set_index(["temperature", "line"])
    hot = table.loc["100"]
    assert hot["ours"].to_dict() == {"jsma": 25.0, "fgsm": 25.0, "pgd": 75.0, "fgsm divided": 50.0, "pgd divided": 100.0, "fgsm_dl": 75.0}
    assert hot.loc["fgsm", ["images", "clean", "radius"]].tolist() == [4, 80.0, 0.3]
    assert table.loc["none", "ours"].to_dict() == {"fgsm": 75.0, "fgsm divided": 75.0}
    assert set(soundness.beside_jsma(ball)["line"]) == {"fgsm", "pgd", "fgsm divided", "pgd divided", "fgsm_dl"}
    assert soundness.beside_jsma(target.drop(columns=["steps", "attack_temperature", "radius", "linf"])).empty  # as JSMA's records are
    text = figures_sound.beside_text(soundness.beside_jsma(both)).set_index("T")
    assert text.loc["100", "FGSM, Z / T"].startswith("50\N{NO-BREAK SPACE}[") and text.loc["none", "PGD, Z / T"] == "–"
    assert text.loc["100", "JSMA"].startswith("25.0") and text.loc["100", "images (clean)"] == "4 (100.0 %); JSMA: 4"


def test_the_union_is_taken_example_by_example():
    attacks = pd.concat([
        rows("pgd", [0, 0, 0, 1, 1], label=[0, 0, 0, 0, 5]),  # one falls at scale 1; the last was wrong from the start
        rows("pgd", [1, 0, 0, 0, 1], at=100.0),
        rows("fmn_linf", [1, 1, 1, 1, 1], linf=[0.1, 0.2, 0.31, 0.1, 0.0]),  # the third leaves the ball
        rows("random", [1, 1, 1, 1, 1], linf=0.9),  # neither within the ball nor an attack
    ])  # fmt: skip
    found = soundness.robust_accuracy(attacks).iloc[0]
    assert (found["clean"], found["one"], found["within"], found["any"]) == (80.0, 60.0, 20.0, 0.0)
    assert found["within_low"] < 20 < found["within_high"] and found["images"] == 5


def test_distances_are_the_best_average_and_worst_target():
    attacks = pd.concat([
        rows("fmn_l0", [1, 1], draw=soundness.TARGETED, target=1).assign(pixels_changed=[4, 10]),
        rows("fmn_l0", [1, 1], draw=soundness.TARGETED, target=2).assign(pixels_changed=[8, 30]),
        rows("fmn_l0", [0, 1], draw=soundness.TARGETED, target=3).assign(pixels_changed=[1, 50]),
    ])  # fmt: skip
    table = soundness.distances(attacks).set_index("case")
    assert table["ours"].to_dict() == {"best": 7.0, "average": 18.0, "worst": 29.0}
    assert table["theirs"].to_dict() == {"best": 10, "average": 19, "worst": 36}
    assert table["success"].iloc[0] == pytest.approx(500 / 6)
    assert soundness.distances(attacks.assign(dataset="mnist-5k"))["theirs"].isna().all()


def test_the_ratio_of_distances_is_of_images_that_both_networks_classify_rightly():
    near = rows("fmn_l0", [1, 1, 1], role="plain", draw=soundness.TARGETED, target=1).assign(pixels_changed=[4, 10, 90])
    far = rows("fmn_l0", [1, 1, 1, 1], draw=soundness.TARGETED, target=1, label=[0, 0, 5, 0]).assign(pixels_changed=[8, 20, 1, 70])
    (found,) = soundness.distance_ratios(pd.concat([near, far])).to_dict("records")
    assert (found["ratio"], found["low"], found["high"], found["images"]) == pytest.approx((2, 2, 2, 2))
    further = pd.concat([near, far.assign(pixels_changed=[8, 40, 1, 70])])
    found = soundness.distance_ratios(further).iloc[0]
    assert found["low"] < found["ratio"] < found["high"] and found["ratio"] == pytest.approx(48 / 14)
    assert soundness.distance_ratios(near).empty and soundness.distance_ratios(further.assign(success=False)).empty


@pytest.mark.parametrize(
    ("table", "draw"),
    [
        (soundness.attack_table, soundness.UNTARGETED),
        (soundness.robust_accuracy, soundness.UNTARGETED),
        (soundness.checklist, soundness.UNTARGETED),
        (soundness.distances, soundness.TARGETED),
        (soundness.distance_ratios, soundness.TARGETED),
    ],
)
def test_networks_of_several_runs_are_not_mixed_in_silence(table, draw):
    own = pd.concat([rows(name, [1, 1, 0, 1, 1], draw=draw, target=1, seed=0) for name in ("pgd", "ddn", "fgsm")])
    table(own)
    for more, says in (({"seed": 1}, "of several seeds"), ({}, "several records")):
        with pytest.raises(ValueError, match=says):
            table(pd.concat([own, own.assign(record="other", **more)]))


@pytest.mark.parametrize(
    ("question", "way", "worse"),
    [
        ("many steps", "naive", rows("fgsm", [1, 1, 1, 1, 0])),
        ("without a bound", "sound", rows("ddn", [1, 1, 1, 1, 0], at=100.0)),
        ("without gradients", "naive", rows("square", [1, 1, 1, 1, 0])),
        ("crafted on the undefended", "sound", rows("transfer", [1, 1, 1, 1, 1], at=100.0)),
        ("random", "naive", rows("random", [1, 1, 1, 1, 0])),
    ],
)
def test_each_question_has_an_answer_that_fails(question, way, worse):
    fine = {
        "pgd": [1, 1, 1, 0, 0],
        "fgsm": [1, 0, 0, 0, 0],
        "ddn": [1] * 5,
        "square": [1, 1, 0, 0, 0],
        "transfer": [1, 1, 0, 0, 0],
        "random": [0] * 5,
    }
    attack = worse["attack"].iloc[0]
    if attack == "transfer":
        fine["ddn"] = [1, 1, 1, 0, 0]
    good = pd.concat([rows(name, broken, at=100.0 if name in ("transfer", "ddn") else 1.0) for name, broken in fine.items()])
    table = soundness.checklist(good)
    counts = table["way"].value_counts()
    assert (counts["naive"], counts["sound"]) == (3, 4)  # no attack out of the box without a bound; FGSM was not run on divided logits
    undivided = soundness.checklist(pd.concat([good, rows("ddn", fine["ddn"], at=1.0)]))
    assert (undivided["way"] == "naive").sum() == 3  # DDN takes a random direction where the gradient vanishes, so it answers nothing
    asked = table[table["way"] == way].set_index("question")["holds"]
    assert asked[asked.index.str.contains(question)].item()
    bad = soundness.checklist(pd.concat([good[good["attack"] != attack], worse]))
    asked = bad[bad["way"] == way].set_index("question")["holds"]
    assert not asked[asked.index.str.contains(question)].item()


def test_more_effort_must_not_help_the_sound_way():
    base = pd.concat([rows(name, [1, 1, 1, 0, 0], at=100.0) for name in ("pgd", "apgd_dlr", "ddn")])
    for doubled, holds in (([1, 1, 1, 0, 0], True), ([1, 1, 1, 1, 1], False)):
        table = soundness.checklist(pd.concat([base, rows("apgd_dlr", doubled, at=100.0, steps=200)]))
        assert table.set_index(["way", "question"])["holds"].to_dict()["sound", "twice the steps do not help"] == holds


def test_a_few_points_more_are_a_sign_of_nothing_and_what_was_not_measured_is_no_answer():
    pgd = rows("pgd", [1] * 10 + [0] * 30)
    for won, holds in ((12, True), (13, False)):  # 5 and 7.5 points more
        table = soundness.checklist(pd.concat([pgd, rows("square", [1] * won + [0] * (40 - won))]))
        (naive,) = table[table["way"] == "naive"].to_dict("records")
        assert (naive["question"], naive["holds"]) == ("an attack without gradients does no better", holds)


def test_the_stages_record_every_attack_of_the_suite(tmp_path, data_root, monkeypatch):
    pytest.importorskip("adv_lib")
    monkeypatch.setitem(training.RECIPES, ("smoke", "mnist"), training.Recipe("smoke", 0.5, "adam", 3e-3, 0.9, dropout=0.0, batch_size=32))
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    suite = ("fgsm", "apgd_dlr", "fmn_linf", "fmn_l0", "transfer", "random")
    monkeypatch.setitem(plans.PROFILES, "smoke", dataclasses.replace(plans.profile("smoke"), suite=suite))
    monkeypatch.setattr(plans, "MINIMAL", ("fmn_l0",))
    for name, spec in ATTACKS.items():
        monkeypatch.setitem(ATTACKS, name, spec._replace(steps=min(spec.steps, 10)))
    monkeypatch.setattr(checks, "diagnose", functools.partial(checks.diagnose, divisors=(10,), steps=5, queries=10))
    context = experiments.Context.new(tmp_path / "own", say=lambda text: None)
    runs = plans.plan("smoke", "mnist-5k", [20], stages=["sound", "distances"])
    assert [run["role"] for run in runs if run["kind"] == "model"] == ["teacher", "student", "plain"]  # images come from the plain one
    assert experiments.ensure(runs, context) == []
    tables = [(run, records.find(run, [context.store]).table()) for run in runs if run["kind"] in ("attack", "diagnosis")]
    (_, untargeted), (_, diagnosis), (_, targeted) = tables
    assert untargeted["attack"].unique().tolist() == [*suite, "random_features"]
    assert set(untargeted.loc[untargeted["attack"] == "fgsm", "attack_temperature"]) == {1.0, 20.0}
    assert set(untargeted.loc[untargeted["attack"] == "apgd_dlr", "steps"]) == {10, 20}
    bounded = untargeted[untargeted["radius"].notna()]
    assert set(bounded["radius"]) == {0.3} and (bounded["linf"] <= 0.3 + 1e-6).all()
    wrong = untargeted["label"] != untargeted["source"]
    assert untargeted.loc[wrong, "success"].all() and (untargeted.loc[wrong, "l2"] == 0).all()
    own = untargeted[(untargeted["attack"] == "random_features") & ~wrong]
    assert (own["features_changed"] <= plans.MAX_FEATURES).all() and (own["features_changed"] > 0).all()
    assert len(targeted) == 18 and (targeted["target"] != targeted["source"]).all() and set(targeted["draw"]) == {soundness.TARGETED}
    assert len(soundness.attack_table(untargeted)) == 10 and len(soundness.distances(targeted)) in (0, 3)
    assert set(diagnosis["attack_temperature"]) == {1.0, 20.0} and (diagnosis["images"] == 10).all()

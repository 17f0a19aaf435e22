"""What the tables say of rows whose answer is known."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import scipy

from distill import analysis, claims, comparison, experiments, figures, metrics, plans, records, tables


def rows(changed, *, role="student", temperature=100.0, output="softmax", precision="float32", attack_temperature=1.0, flush=False,
         product=False, draw="", max_features=112, dataset="mnist", targets=3):  # fmt: skip
    """Attacks on images with three targets each: the features changed, None for a failure at a zero gradient."""
    success = [value is not None for value in changed]
    return pd.DataFrame({
        "image": np.arange(len(changed)) // targets, "success": success, "features_changed": [value or 0 for value in changed],
        "status": ["SUCCESS" if s else "ZERO_GRADIENT" for s in success], "profile": "quick", "dataset": dataset, "role": role,
        "temperature": temperature, "seed": 0, "output": output, "precision": precision, "attack_temperature": attack_temperature,
        "flush": flush, "product": product, "draw": draw, "max_features": max_features, "record": f"{role}-{temperature:g}-{output}-{precision}-{flush}",
    })  # fmt: skip


def test_every_arithmetic_is_told_apart():
    kinds = {
        "float32": {}, "flush": {"flush": True}, "product": {"product": True},
        "product_flush": {"product": True, "flush": True}, "float64": {"precision": "float64"}, "exact": {"output": "log_softmax"},
        "scaled": {"attack_temperature": 100.0}, "logits": {"output": "logits"},
    }  # fmt: skip
    for name, options in kinds.items():
        assert set(analysis.variant(rows([2], **options))) == {name}
    assert set(kinds) == set(analysis.VARIANTS)
    for other in ({"draw": "sweep"}, {"attack_temperature": 7.0}, {"precision": "bfloat16"}):
        assert set(analysis.variant(rows([2], **other))) == {""}


def test_what_an_experiment_of_the_papers_size_would_have_measured():
    half = [1, 1, 1] * 100 + [None] * 300  # of 200 images the first 100 fall towards all three targets
    (row,) = analysis.paper_sized(rows(half), draws=200_000).to_dict("records")
    assert (row["ours"], row["whole"], row["of"], row["paper"]) == (100.0, 50.0, 200, 0.45)
    wanted = scipy.stats.hypergeom(200, 100, 100).ppf([0.025, 0.975])
    assert (row["least"], row["most"]) == pytest.approx(wanted, abs=0.01) and not row["within"]
    printed = rows([1] * 13 + [None] * 887, temperature=50.0, targets=9)  # the paper prints 1.45 % for what can only be 13 of 900
    (row,) = analysis.paper_sized(printed).to_dict("records")
    assert (row["paper"], row["least"], row["most"]) == pytest.approx((1.45, 1300 / 900, 1300 / 900)) and row["within"]
    rare = [1, None, None] + [None] * 597
    (row,) = analysis.paper_sized(rows(rare)).to_dict("records")
    assert (row["least"], row["most"]) == pytest.approx((0, 100 / 300)) and not row["within"]
    assert analysis.paper_sized(rows([1, 1, None] * 100, temperature=20.0))[["least", "most"]].iloc[0].tolist() == pytest.approx(
        [200 / 3] * 2
    )
    assert analysis.paper_sized(rows([1] * 297)).empty and analysis.paper_sized(rows([1])[:0]).empty
    text = tables.paper_sized_text(analysis.paper_sized(rows(half)))
    assert text["the paper's value among the draws"].tolist() == ["no"] and text["all images (%)"].tolist() == ["50.00 (200)"]


def test_an_experiment_of_the_papers_size_has_the_first_images_of_the_fixed_order():
    run = next(one for one in plans.plan("paper", "cifar10", [100]) if one["kind"] == "attack")
    attacks = records.find(run, [records.PUBLISHED]).table()
    assert attacks["image"].drop_duplicates().tolist() == plans.drawn_images(10_000, 1000).tolist()
    first = attacks[attacks["image"].isin(plans.drawn_images(10_000, 100))]
    (row,) = analysis.paper_sized(attacks).to_dict("records")
    assert row["ours"] == pytest.approx(100 * first["success"].mean()) and len(first) == 900


def test_split_counts_only_what_the_budget_allows():
    table = analysis.split_table(pd.concat([
        rows([10, None, None, 20, None, None]),
        rows([10, 112, 114, 20, 400, 600], output="log_softmax", max_features=784),
    ])).set_index("variant")  # fmt: skip
    assert table.loc["float32", "ours"] == pytest.approx(100 / 3) and table.loc["float32", "zero_gradient"] == pytest.approx(2 / 3)
    assert math.isnan(table.loc["float32", "unlimited"])
    exact = table.loc["exact"]
    assert (exact["ours"], exact["over_budget"], exact["unlimited"]) == (pytest.approx(50), pytest.approx(0.5), 100)
    assert exact["features"] == pytest.approx((10 + 112 + 20) / 3)


def test_variants_are_compared_on_the_images_that_all_of_them_met():
    attacks = pd.concat([
        rows([10, 10, 10, None, None, None]), rows([10, None, None], product=True),  # the second image was met by one alone
        rows([2] * 6, temperature=20.0), rows([4] * 6, role="plain", output="logits"),
    ])  # fmt: skip
    met = analysis.on_common_images(attacks, ("float32", "product"))
    table = analysis.split_table(met.assign(record=met["record"] + analysis.variant(met))).set_index(["temperature", "variant"])
    assert table["ours"].to_dict() == pytest.approx({("100", "float32"): 100, ("100", "product"): 100 / 3, ("20", "float32"): 100})
    assert table["images"].tolist() == [1, 1, 2]  # what has one variant loses nothing
    assert analysis.on_common_images(attacks, ("flush",)).empty and analysis.on_common_images(attacks[:0], ("flush",)).empty
    nothing = analysis.split_table(analysis.on_common_images(attacks, ("flush",)))
    assert nothing.empty and analysis.distance_from_paper(nothing).empty


@pytest.mark.parametrize("table", [analysis.split_table, analysis.robustness_table, analysis.invariance_table])
def test_attacks_of_several_runs_are_not_mixed_in_silence(table):
    own = rows([10, 4, None], draw="sweep" if table is analysis.invariance_table else "")
    assert len(table(own)) > 0
    with pytest.raises(ValueError, match="of several seeds .0, 1.; allowed is one"):
        table(pd.concat([own, own.assign(seed=1, record="other")]))
    with pytest.raises(ValueError, match=r"several records for quick, mnist, student, 100.0.*; allowed is one for each profile"):
        table(pd.concat([own, own.assign(record="other")]))
    apart = own.assign(role="plain", record="other")
    assert len(table(pd.concat([own, apart]))) == 2 * len(table(own))


@pytest.mark.parametrize("table", [analysis.confidence_table, analysis.amplitude_table, analysis.amplitude_quantiles])
def test_measurements_of_several_runs_are_not_mixed_in_silence(table):
    own = pd.DataFrame({
        "image": range(4), "label": 1, "predicted": 1, "probability": 0.5, "probability_at_T": 0.3, "certain": False, "gap": 2.0, "logit_l1": 5.0,
        "log10_amplitude": -3.0, "float32_amplitude": 1e-3, "float32_zero_share": 0.0, "float64_zero_share": 0.0,
        "profile": "quick", "dataset": "mnist", "role": "student", "temperature": 20.0, "seed": 0, "record": "r",
    })  # fmt: skip
    assert len(table(own)) > 0
    for more, says in (({"seed": 1}, "of several seeds"), ({}, "several records")):
        with pytest.raises(ValueError, match=says):
            table(pd.concat([own, own.assign(record="other", **more)]))


def test_distance_from_the_paper_is_over_the_temperatures_that_all_have():
    said = comparison.reported("fig7", "mnist")
    table = pd.DataFrame(
        [("student", t, v, said[t] + off) for t, off in (("20", 1.0), ("100", -3.0)) for v in ("float32", "product")]
        + [("student", "40", "float32", 99.0), ("student", "7", "float32", 50.0), ("student", "7", "product", 50.0), ("plain", "none", "float32", 0.0)],
        columns=["role", "temperature", "variant", "ours"],
    ).assign(dataset="mnist")  # fmt: skip
    found = analysis.distance_from_paper(table)
    assert found["variant"].tolist() == ["float32", "product"] and found["temperatures"].tolist() == [2, 2]
    assert found["distance"].tolist() == pytest.approx([2.0, 2.0])
    other = table.assign(ours=table["ours"] + table["variant"].eq("product") * 5.0)
    assert analysis.distance_from_paper(other).set_index("variant")["distance"].to_dict() == pytest.approx({"float32": 2.0, "product": 4.0})
    assert analysis.distance_from_paper(table.assign(dataset="kmnist")).empty  # of which the paper says nothing


def test_seeds_stand_beside_the_interval_of_one():
    attacks = pd.concat([rows(changed).assign(seed=seed, record=f"r{seed}") for seed, changed in
                         ((0, [5, 5, 5, None, 5, 5]), (1, [5, None, None, None, 5, None]), (2, [None, 5, None, 5, 5, None]))])  # fmt: skip
    alone = rows([5] * 6, temperature=20.0)  # of one seed
    table = analysis.seed_table(pd.concat([attacks, alone]), analysis.split_table)
    (row,) = table.to_dict("records")
    assert (row["temperature"], row["variant"], row["seeds"], row["records"]) == ("100", "float32", [0, 1, 2], ["r0", "r1", "r2"])
    assert row["each"] == pytest.approx([500 / 6, 200 / 6, 300 / 6]) and (row["least"], row["most"]) == pytest.approx((200 / 6, 500 / 6))
    assert row["standard_deviation"] == pytest.approx(np.std(row["each"], ddof=1))
    widths = [metrics.success_rate(own) for _, own in attacks.groupby("seed")]
    assert row["standard_error"] == pytest.approx(np.mean([100 * (w.high - w.low) / 3.92 for w in widths]))
    fewer = attacks[(attacks["seed"] == 0) | (attacks["image"] == attacks["image"].min())]  # the others met one image alone
    assert analysis.seed_table(fewer, analysis.split_table)["each"].tolist() == [
        pytest.approx(
            [100 * attacks[(attacks["seed"] == seed) & (attacks["image"] == attacks["image"].min())]["success"].mean() for seed in range(3)]
        )
    ]
    hot = attacks.assign(temperature=50.0, record="hot " + attacks["record"])
    assert analysis.seed_table(pd.concat([fewer, hot]), analysis.split_table)["images"].tolist() == [1, 2]  # each network by itself
    assert tables.seed_text(table)["each seed"].tolist() == ["83.3, 33.3, 50.0"]
    assert tables.seed_text(table.assign(each=[[-0.5, 0.25]]), 2)["each seed"].tolist() == ["\N{MINUS SIGN}0.50, 0.25"]
    assert analysis.seed_table(alone, analysis.split_table).empty and analysis.seed_table(alone[:0], analysis.split_table).empty


def test_tables_keep_the_order_of_temperatures_where_recipes_have_different_ones():
    attacks = pd.concat([
        one.assign(profile=profile, record=f"{profile} {at}")
        for profile, temperatures in (("paper", ("none", 100.0)), ("quick", ("none", 1.0, 20.0, 100.0)))
        for at in temperatures
        for one in [rows([4] * 6, role="plain", temperature=1.0) if at == "none" else rows([4, None] * 3, temperature=at)]
    ])  # fmt: skip
    expected = ["none", "100", "none", "1", "20", "100"]
    assert tables.split_short(analysis.split_table(attacks))["T"].tolist() == expected
    fewer = rows([4] * 3, output="logits").assign(record="fewer")
    short = tables.split_short(analysis.split_table(pd.concat([rows([4, None] * 3), fewer])))
    network = pd.DataFrame(
        [
            {"profile": "quick", "dataset": "mnist", "role": role, "temperature": 100.0, "accuracy": share}
            for role, share in (("student", 0.9916), ("teacher", 0.9925))
        ]
    )
    beside = tables.split_short(analysis.split_table(rows([4, None] * 3)), clean=tables.clean_accuracy(network))
    assert beside["clean accuracy"].tolist() == ["99.16%"] and "clean accuracy" not in short  # the student's, not its teacher's
    assert short["images"].tolist() == [f"2; {tables.SHORT['logits']}: 1"] and len(short) == 1
    most = tables.split_short(analysis.split_table(pd.concat([rows([4, None] * 3), fewer, rows([4] * 3, precision="float64")])))
    assert most["images"].tolist() == [f"1; {tables.SHORT['float32']}: 2"]  # two of three met one image
    assert tables.status_text(attacks)["T"].tolist() == expected


def test_a_line_has_a_gap_where_nothing_was_measured():
    none, hot = rows([4] * 6, role="plain", temperature=1.0), rows([None] * 6)
    exact = [one.assign(output="log_softmax", success=True, features_changed=8) for one in (none, rows([8] * 6, temperature=20.0), hot)]
    table = analysis.split_table(pd.concat([none, hot, *exact[:2]]))
    (axes,) = figures.headline(table).axes
    drawn = {line.get_label(): line for line in axes.containers}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["none", "20", "100"]
    float32, exact = (drawn[name].lines[0].get_ydata() for name in ("ours, gradients in float32", "ours, exact arithmetic"))
    assert np.array_equal(float32, [100, np.nan, 0], equal_nan=True) and np.array_equal(exact, [100, 100, np.nan], equal_nan=True)
    paper = next(line for line in axes.lines if line.get_label() == "paper")
    assert paper.get_ydata().tolist() == [95.89, 1.34, 0.45]


def test_budget_curve_rises_to_all_and_refuses_a_larger_budget():
    attack = rows([2, 10, 30, 40, None, 100])
    curve = analysis.budget_curve(attack, [0, 2, 30, 112]).set_index("budget")["ours"]
    assert curve.tolist() == pytest.approx([0, 100 / 6, 50, 500 / 6])
    with pytest.raises(ValueError, match="up to that"):
        analysis.budget_curve(attack, [113])


def test_robustness_depends_on_what_a_failure_counts():
    attack = rows([10, None, 4, None, None, None, 30, 20, None])  # smallest: 4, never, 20
    percent = 100 / 784
    assert analysis.robustness(attack, 784, reading="capped").value == pytest.approx((4 + 112 + 20) / 3 * percent)
    assert analysis.robustness(attack, 784, reading="excluded").value == pytest.approx(12 * percent)
    assert analysis.robustness(attack, 784, reading="median").value == pytest.approx(20 * percent)
    nothing = rows([None] * 9)
    assert analysis.robustness(nothing, 784, reading="capped").value == pytest.approx(112 * percent)
    assert analysis.robustness(nothing, 784, reading="excluded") is None and analysis.robustness(nothing, 784, reading="median") is None
    with pytest.raises(ValueError, match="capped, excluded, median"):
        analysis.robustness(attack, 784, reading="mean")
    table = analysis.robustness_table(attack.assign(seed=0)).set_index("reading")
    assert table["images"].to_dict() == {"capped": 3, "excluded": 2, "median": 3} and (table["broken"] == 2).all()
    alone = analysis.robustness_table(attack.assign(seed=0), ["capped"]).set_index("reading")
    pd.testing.assert_frame_equal(alone, table.loc[["capped"]])
    for readings in ("capped", ["caped"]):
        with pytest.raises(ValueError, match="allowed are lists of capped, excluded, median, exact"):
            analysis.robustness_table(attack, readings)
    exact = rows([4] * 9, output="log_softmax", max_features=784, targets=9)  # of one image alone
    for others, said in ((attack, "3; exact arithmetic: 1"), (attack[attack["image"] == attack["image"].min()], "1")):
        assert tables.robustness_text(analysis.robustness_table(pd.concat([others, exact])))["images"].tolist() == [said]


def test_confidence_is_zero_where_wrong():
    table = analysis.confidence_table(pd.DataFrame({
        "image": range(4), "label": [1, 2, 3, 4], "predicted": [1, 2, 3, 0], "probability": [1.0, 0.5, 0.5, 0.9], "probability_at_T": 0.3,
        "certain": [True, False, False, False], "gap": 2.0, "logit_l1": 5.0, "profile": "quick", "dataset": "cifar10", "role": "student",
        "temperature": 20.0, "record": "r",
    })).iloc[0]  # fmt: skip
    assert table["ours"] == pytest.approx(50) and table["certain"] == 0.25 and table["paper"] == 81.06


def test_amplitudes_fall_into_the_papers_bins_by_arithmetic():
    measured = pd.DataFrame({
        "log10_amplitude": [-500.0, -41.0, -39.0, -2.0], "float32_amplitude": [0.0, 0.0, 1e-39, 1e-2], "flush_amplitude": [0.0, 0.0, 0.0, 1e-2],
        "float64_amplitude": [0.0, 1e-41, 1e-39, 1e-2], "profile": "quick", "dataset": "cifar10", "role": "student", "temperature": 100.0, "record": "r",
    })  # fmt: skip
    table = analysis.amplitude_table(measured)
    alone = analysis.amplitude_table(measured, ["float32"])
    pd.testing.assert_frame_equal(alone, table[table["arithmetic"] == "float32"].reset_index(drop=True))
    with pytest.raises(ValueError, match="allowed are lists of float32, flush, float64, exact"):
        analysis.amplitude_table(measured, ["float16"])
    first = table[table["bin"] == 0].set_index("arithmetic")
    assert first["ours"].to_dict() == {"float32": 50, "flush": 75, "float64": 50, "exact": 50} and set(first["paper"]) == {79.1}
    assert (table.groupby("arithmetic")["ours"].sum() == 100).all()
    assert table[(table["bin"] == 9) & (table["arithmetic"] == "exact")]["ours"].item() == 25


def test_an_image_without_any_derivative_takes_no_quantile_but_its_own_along():
    def quantiles(logs):
        (row,) = analysis.amplitude_quantiles(pd.DataFrame({
            "log10_amplitude": logs, "float32_zero_share": 0.0, "float64_zero_share": 0.0, "profile": "quick", "dataset": "cifar10",
            "role": "student", "temperature": 100.0, "record": "r",
        })).to_dict("records")  # fmt: skip
        return [row["q05"], row["median"], row["q95"]]

    logs = np.linspace(-9.0, -1.0, 20)
    assert quantiles(logs) == pytest.approx(np.quantile(logs, [0.05, 0.5, 0.95]))
    one, half = np.where(np.arange(20) < 1, -np.inf, logs), np.where(np.arange(20) < 10, -np.inf, logs)
    assert quantiles(one) == [-np.inf, pytest.approx(-5.0), pytest.approx(np.quantile(logs, 0.95))]
    assert quantiles(half)[:2] == [-np.inf, -np.inf]  # the median lies between an infinity and a number
    assert quantiles(np.full(20, -np.inf)) == [-np.inf] * 3


def test_paper_has_a_value_for_every_claim_and_there_are_twenty_or_more():
    assert len(claims.CLAIMS) >= 20 and len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    nothing = claims.judge({})
    assert set(nothing["verdict"]) == {"not on record"} and nothing["paper"].notna().all()


def test_every_number_of_the_figures_judged_is_a_claim_and_the_short_list_is_a_part_of_it():
    of_measure = pd.DataFrame([vars(claim) for claim in claims.CLAIMS]).groupby(["measure", "dataset"])["temperature"].agg(set)
    assert len(claims.CLAIMS) > 80 and any(claim.short for claim in claims.CLAIMS) and not all(claim.short for claim in claims.CLAIMS)
    for measure, (figure, quantity) in claims.SOURCES.items():
        for dataset in ("mnist", "cifar10"):
            said = comparison.reported(figure, dataset, quantity)
            if measure not in claims.OF_SEVERAL and len(said):
                assert of_measure[measure, dataset] == set(said)


def test_the_largest_loss_and_the_largest_robustness_are_of_any_temperature():
    networks = pd.DataFrame([
        {"profile": "paper", "dataset": "cifar10", "role": role, "temperature": t, "seed": 0, "correct": correct, "test_images": 10_000, "accuracy": correct / 10_000,
         "right_bits": np.packbits(np.arange(10_000) < correct).tobytes(), "record": f"{role}-{t:g}"}
        for role, t, correct in (("plain", 1.0, 8_000), ("student", 2.0, 7_990), ("student", 50.0, 7_800), ("student", 100.0, 7_900))
    ])  # fmt: skip
    loss = claims.judge({"model": networks}).set_index(["measure", "dataset"]).loc[("loss", "cifar10")]
    assert (loss["paper"], loss["ours"], loss["temperature"], loss["record"]) == (1.37, pytest.approx(2.0), "any", "student-50")
    assert loss["low"] < 2 < loss["high"] and loss["verdict"] == comparison.REPRODUCED  # the paper's interval is wider
    attacks = pd.concat(
        [rows([40] * 9, temperature=20.0), rows([60, 60, 50] + [None] * 6, temperature=40.0), rows([1] * 9, role="plain", temperature=1.0)]
    )
    judged = claims.judge({"attack": attacks}).set_index(["measure", "dataset"])
    most = judged.loc[("ceiling", "mnist")]
    assert (most["paper"], most["record"]) == (14.08, attacks["record"].unique()[1]) and most["ours"] == pytest.approx(
        100 * (50 + 112 + 112) / 3 / 784
    )
    assert most["section"] == "V-D" and judged.loc[("loss", "mnist"), "verdict"] == "not on record"


def test_what_section_v_b_says_otherwise_is_judged_beside_the_figure():
    attacks = pd.concat(
        [
            rows([4, 4, 4] * 269 + [None] * 93, role="plain", temperature=1.0, dataset="cifar10"),
            rows([4] * 50 + [None] * 250, temperature=20.0, dataset="cifar10"),
        ]
    )
    judged = claims.judge({"attack": attacks}).set_index(["measure", "dataset", "temperature"])
    assert judged.loc[("elsewhere", "cifar10", "none"), "paper"] == 89.9 and judged.loc[("success", "cifar10", "none"), "paper"] == 87.89
    assert judged.loc[("elsewhere", "cifar10", "20"), ["paper", "verdict"]].tolist() == [16.76, comparison.REPRODUCED]


def test_a_rise_of_robustness_is_of_the_undefended_networks():
    def images(*changed):
        return [value for value in changed for _ in range(3)]

    attacks = pd.concat([rows(images(8, 12, 10), role="plain", temperature=1.0), rows(images(20, 40, 30), temperature=20.0)])
    judged = claims.judge({"attack": attacks}).set_index(["measure", "dataset", "temperature"])
    rise = judged.loc["rise", "mnist", "20"]
    assert (rise["paper"], rise["ours"]) == pytest.approx((100 * (13.79 / 1.55 - 1), 200))
    assert rise["low"] < 200 < rise["high"] and rise["verdict"] == comparison.NOT
    said = claims._said(next(claim for claim in claims.CLAIMS if claim.measure == "rise"))
    assert said.low == pytest.approx(100 * (13.785 / 1.555 - 1)) and said.high == pytest.approx(100 * (13.795 / 1.545 - 1))


def test_confidence_and_what_makes_it_are_two_tables_of_the_same_networks():
    table = pd.DataFrame([
        {"profile": "quick", "dataset": "cifar10", "role": role, "temperature": "1", "paper": paper, "ours": 71.0, "low": 70.0, "high": 72.0, "paper_maximum": paper / 100,
         "maximum": 0.93, "certain": 0.25, "gap": 1.85, "logit_l1": 4511.7, "images": 10_000} for role, paper in (("teacher", math.nan), ("student", 71.85))
    ])  # fmt: skip
    text = tables.confidence_text(table, {("quick", "cifar10", "1"): comparison.REPRODUCED}, {("quick", "cifar10", "1"): comparison.NOT})
    assert text["verdict"].tolist() == ["–", comparison.REPRODUCED] and text["verdict on that"].tolist() == ["–", comparison.NOT]
    assert text["paper (%)"].tolist() == ["–", "71.85"] and "verdict" not in tables.confidence_text(table)
    logits = tables.logits_text(table)
    assert logits["L1 norm of the logits"].tolist() == ["4,512"] * 2 and logits[["network", "T"]].equals(text[["network", "T"]])


def test_chapters_have_the_verdict_of_each_recipe_and_the_first_page_that_of_the_papers():
    own = pd.concat([rows([4, 4, 4] * 299 + [None] * 36, role="plain", temperature=1.0), rows([None] * 900)])
    other = pd.concat([rows([4, 4, 4] * 299, role="plain", temperature=1.0), rows([4] * 900)]).assign(profile="paper")
    both = {"attack": pd.concat([own, other.assign(record=other["record"] + "-paper")])}
    verdicts = claims.verdicts(both, "success")
    assert verdicts["quick", "mnist", "100"] == comparison.REPRODUCED and verdicts["paper", "mnist", "100"] == comparison.NOT
    assert ("quick", "mnist", "20") not in verdicts
    assert claims.judge(both).set_index("claim").loc["JSMA success on MNIST, T = 100 (%)", ["profile", "verdict"]].tolist() == [
        "paper",
        comparison.NOT,
    ]
    robust = claims.verdicts({"attack": own}, "robustness")
    assert robust["quick", "mnist", "none"] == comparison.NOT and len(robust) == 1  # the paper has no value at T = 100
    text = tables.robustness_text(analysis.robustness_table(own), robust)
    assert text["verdict on that"].tolist() == [comparison.NOT, "–"]
    assert "verdict on that" not in tables.robustness_text(analysis.robustness_table(own))
    assert claims.verdicts({}, "success") == {}
    with pytest.raises(ValueError, match="measure is 'speed'; allowed are success, level"):
        claims.verdicts(both, "speed")
    counted = tables.claims_count(claims.judge({"attack": own}))
    assert counted["numbers"].sum() == len(claims.CLAIMS) and counted[comparison.REPRODUCED].sum() == 2


def test_a_claim_is_judged_by_the_rule():
    attacks = pd.concat([
        rows([4, 4, 4] * 299 + [None] * 36, role="plain", temperature=1.0, targets=3),
        rows([None] * 900),
        rows([4, None, None] * 150 + [None] * 450, temperature=20.0),
        rows([4, None, None] * 300, temperature=40.0),
    ])  # fmt: skip
    judged = claims.judge({"attack": attacks}).set_index("claim")
    assert judged.loc["JSMA success on MNIST, the undefended network (%)", "verdict"] == comparison.REPRODUCED
    assert judged.loc["JSMA success on MNIST, T = 100 (%)", ["ours", "verdict"]].tolist() == [0, comparison.REPRODUCED]
    assert judged.loc["JSMA success on MNIST, T = 20 (%)", "verdict"] == comparison.DIRECTION
    assert judged.loc["robustness on MNIST, T = 20 (% of the features)", "ours"] == pytest.approx(100 * (4 + 112) / 2 / 784)
    assert judged.loc["robustness on MNIST, T = 20 (% of the features)", "verdict"] == comparison.DIRECTION
    assert judged.loc["robustness on MNIST, T = 40 (% of the features)", "verdict"] == comparison.NOT  # below the undefended network's


def test_the_papers_values_have_their_own_intervals():
    said = {claim.text: claims._said(claim) for claim in claims.CLAIMS}
    for text, value, width in (
        ("JSMA success on MNIST, the undefended network (%)", 95.89, 2.6),  # Wilson, 863 of 900
        ("accuracy on CIFAR10, the undefended network (%)", 80.95, 1.54),  # Wilson, 8,095 of 10,000
        ("robustness on MNIST, T = 20 (% of the features)", 13.79, 0.01),  # the text rounds to two digits
        ("robustness on MNIST, T = 40 (% of the features)", 14.1, 0.1),  # read off a bar
        ("images with mean gradient below 1e-40 on CIFAR10, T = 100 (%)", 79.1, 0.6),
        ("mean largest probability at its own T on CIFAR10, T = 20 (%)", 14.0, 1.36),
    ):
        assert said[text].value == pytest.approx(value) and said[text].high - said[text].low == pytest.approx(width, rel=0.05)


def test_every_published_verdict_leads_to_a_record_that_says_the_same():
    stages = ("train", "attack", "predictions", "sensitivity", "smoothing")
    judged = claims.judge(experiments.results("published", stages=stages, store=records.PUBLISHED))
    on_record = judged[judged["verdict"] != "not on record"]
    assert len(on_record) >= 20
    for _, claim in on_record.iterrows():
        table = records.named(claim["record"], records.PUBLISHED).table()
        if claim["claim"].startswith("JSMA success"):
            assert claim["ours"] == pytest.approx(100 * table["success"].mean()) and claim["n"] == len(table)
            assert claim["low"] <= claim["ours"] <= claim["high"]
        elif claim["claim"].startswith("accuracy"):
            assert claim["ours"] == pytest.approx(100 * table["correct"].item() / table["test_images"].item()) and claim["n"] == 10_000
        elif claim["measure"] == "amplitude":
            assert claim["ours"] == pytest.approx(100 * (table["float32_amplitude"] < 1e-40).mean())
        elif claim["measure"] in ("robustness", "ceiling"):
            features, capped = {"mnist": 784, "cifar10": 3072}[claim["dataset"]], table["features_changed"].where(table["success"], 112)
            assert claim["ours"] == pytest.approx(100 * capped.groupby(table["image"]).min().mean() / features)
        elif claim["measure"] == "maximum":
            assert claim["ours"] == pytest.approx(100 * table["probability_at_T"].mean(), rel=1e-5)
        elif claim["measure"] in ("accuracy", "loss"):
            plain = judged[
                (judged["measure"] == "level") & (judged["dataset"] == claim["dataset"]) & (judged["temperature"] == "none")
            ].iloc[0]
            before = (
                records.named(plain["record"], records.PUBLISHED).table()["correct"].item()
                if plain["profile"] == claim["profile"]
                else None
            )
            change = (table["correct"].item() - before) / 100
            assert claim["ours"] == pytest.approx(change if claim["measure"] == "accuracy" else -change)
        elif claim["measure"] == "rise":
            plain = judged[(judged["measure"] == "robustness") & (judged["dataset"] == claim["dataset"])].set_index("temperature")["ours"]
            assert claim["ours"] == pytest.approx(100 * (plain[claim["temperature"]] / plain["none"] - 1))
        elif claim["measure"] == "steep":
            assert claim["ours"] == pytest.approx(100 * (table["float32_amplitude"] >= 1e-3).mean())
        elif claim["claim"].startswith("confidence"):
            assert claim["ours"] == pytest.approx(100 * (table["probability"] * (table["label"] == table["predicted"])).mean(), rel=1e-5)
        else:
            raise AssertionError(f"{claim['claim']} is not worked out anew")
    assert metrics.CONFIDENCE == 0.95


def test_ablations_hold_each_network_against_both_arithmetics():
    def network(role, temperature, correct, at_chance=False):
        return {"profile": "quick", "dataset": "mnist", "role": role, "temperature": temperature, "seed": 0, "correct": correct,
                "test_images": 100, "at_chance": at_chance, "record": f"{role}-{temperature:g}"}  # fmt: skip

    networks = pd.DataFrame([network("plain", 1.0, 99), network("warm student", 100.0, 97), network("sgd student", 100.0, 11, True), network("rate student", 100.0, 96),
                             network("warm teacher", 100.0, 98)])  # fmt: skip
    attacks = pd.concat([
        rows([10, None, 8, 20, 4, 6], role="plain", temperature=1.0),
        rows([None, None, None, None, 4, None], role="plain", temperature=1.0, attack_temperature=0.01),  # its logits times 100
        rows([None, None, None, 20, None, None], role="warm student"), rows([8] * 9, role="rate student"),
        rows([10, 12, 8, 20, 4, 200], role="warm student", output="log_softmax", max_features=784),
    ])  # fmt: skip
    table = analysis.ablation_table(networks, attacks).set_index(["role", "temperature"])
    assert set(table.index) == {
        ("plain", "none"),
        ("warm student", "100"),
        ("sgd student", "100"),
        ("rate student", "100"),
        ("scaled", "100"),
    }  # a teacher is not used
    alone = table.loc["rate student", "100"]  # attacked in one arithmetic only
    assert (alone["ours"], alone["ours_images"]) == (100, 3) and math.isnan(alone["exact"])
    warm, scaled = table.loc["warm student", "100"], table.loc["scaled", "100"]
    assert (warm["accuracy"], warm["ours"], warm["exact"], warm["ours_images"], warm["exact_images"]) == pytest.approx(
        (97, 100 / 6, 500 / 6, 2, 2)
    )
    assert (scaled["accuracy"], scaled["ours"]) == pytest.approx((99, 100 / 6)) and math.isnan(scaled["exact"])
    assert table.loc["sgd student", "100"]["at_chance"] and math.isnan(table.loc["sgd student", "100"]["ours"])
    again = pd.concat(
        [attacks, rows([None, 8, None, 20, 4, 30], role="plain", temperature=1.0, attack_temperature=0.01, output="log_softmax")]
    )
    scaled = analysis.ablation_table(networks, again).set_index(["role", "temperature"]).loc["scaled", "100"]
    assert (scaled["ours"], scaled["exact"]) == pytest.approx((100 / 6, 400 / 6))
    text = tables.ablation_text(table.reset_index())
    assert (
        text["images"].tolist() == ["2", "2", "0", "3", "2"]
        and "2; in exact arithmetic: 1" in tables.ablation_text(table.reset_index().assign(exact_images=1))["images"].tolist()
    )
    assert "stayed at chance" in text["what was done"].iloc[2] and text["in exact arithmetic (%)"].iloc[2] == "–"


def test_smoothed_labels_without_a_temperature_are_shown_with_none():
    networks = pd.DataFrame([
        {"profile": "quick", "dataset": "mnist", "role": role, "temperature": t, "correct": 99, "test_images": 100, "at_chance": False, "record": role}
        for role, t in (("plain", 1.0), ("smoothed", 1.0), ("student", 1.0))
    ])  # fmt: skip
    table = analysis.ablation_table(networks, pd.concat([rows([4] * 3, role=role, temperature=1.0) for role in networks["role"]]))
    (axes,) = figures.ablations(table).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["nothing: the undefended network", "smoothed labels, no temperature", "defensive distillation, T = 1"]
    assert tables.ablation_text(table)["T"].tolist() == ["none", "none", "1"]


def test_a_student_is_held_against_its_teacher_on_the_images_of_both():
    attacks = pd.concat([
        rows([None, None, 8, None, None, None, 4, 4, 4], role="student"),  # the third image was shown to the student alone
        rows([2, 4, None, None, None, None], role="teacher"),
        rows([2] * 6, role="student", output="log_softmax"),
        rows([2] * 6, role="student", temperature=20.0),  # its teacher was not attacked
        rows([2] * 6, role="plain", temperature=1.0), rows([2] * 6, role="sgd student"), rows([2] * 6, role="teacher", attack_temperature=7.0),
    ])  # fmt: skip
    table = analysis.teacher_table(attacks)
    (row,) = table.to_dict("records")
    assert (row["temperature"], row["variant"], row["attacks"], row["images"]) == ("100", "float32", 6, 2)
    assert (row["teacher"], row["student"], row["change"]) == pytest.approx((200 / 6, 100 / 6, -100 / 6))
    assert row["change_low"] < row["change"] < row["change_high"]
    assert (row["record"], row["teacher_record"]) == ("student-100-softmax-float32-False", "teacher-100-softmax-float32-False")
    assert analysis.teacher_table(attacks[:0]).empty
    with pytest.raises(ValueError, match="several seeds"):
        analysis.teacher_table(pd.concat([attacks, attacks.assign(seed=1)]))
    both = pd.concat([attacks, rows([2] * 6, role="teacher", output="log_softmax")])
    table = analysis.teacher_table(both)
    text = tables.teacher_text(table)
    assert text["change (points)"].tolist()[0].startswith("\N{MINUS SIGN}16.67") and text["teacher, exact (%)"].tolist()[0].startswith(
        "100.0"
    )
    (axes,) = figures.teachers(table).axes
    shown = {line.get_label(): list(line.get_ydata()) for line in axes.lines} | {
        c.get_label(): list(c.lines[0].get_ydata()) for c in axes.containers
    }
    assert shown["teacher alone: hard labels at T"] == pytest.approx([200 / 6]) and shown["paper"] == pytest.approx([0.45])


def test_choices_leave_out_the_attacks_of_the_ablations():
    networks = pd.DataFrame([
        {"profile": "quick", "dataset": "mnist", "role": role, "temperature": 1.0, "seed": 0, "correct": 99, "test_images": 100, "at_chance": False,
         "precision": "float32", "record": role} for role in ("plain", "padded plain")
    ])  # fmt: skip
    attacks = pd.concat([rows([4, None, None] * 2, role=role, temperature=1.0) for role in ("plain", "padded plain")])
    scaled = rows([4] * 6, role="plain", temperature=1.0, attack_temperature=0.05)  # the undefended network, its logits times 20
    warm = rows([4] * 6, role="warm student", temperature=20.0)
    table = analysis.choices_table(networks, pd.concat([attacks, scaled, warm]))
    assert table.equals(analysis.choices_table(networks, attacks)) and list(table["role"]) == ["plain", "padded plain"]


@pytest.mark.parametrize("draw", [figures.success, figures.accuracy])
def test_a_recipe_has_the_same_mark_in_every_panel(draw):
    """CIFAR10 has the short training alone, which is MNIST's second line."""
    networks = [("mnist", "paper"), ("mnist", "quick"), ("cifar10", "quick")]
    table = pd.DataFrame([
        {"dataset": dataset, "profile": profile, "temperature": t, "ours": 5.0, "low": 4.0, "high": 6.0, "attacks": 9, "images": 1, "record": "a"}
        for dataset, profile in networks for t in ("1", "20")
    ])  # fmt: skip
    figure = draw(table)
    drawn = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in figure.axes]
    short = [lines["ours, short training"].lines[0] for lines in drawn]
    recipe = drawn[0]["ours, the paper's recipe"].lines[0]
    assert "ours, the paper's recipe" not in drawn[1]
    assert (short[0].get_color(), short[0].get_marker()) == (short[1].get_color(), short[1].get_marker())
    assert short[1].get_color() != recipe.get_color() and short[1].get_marker() != recipe.get_marker()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "paper",
        "ours, the paper's recipe",
        "ours, short training",
    ]


def test_rows_of_other_recipes_are_folded_below_the_papers():
    table = pd.DataFrame(
        {"training": ["short training", "the paper's recipe", "short training", "one of no name"], "T": ["1", "2", "5", "10"]}
    )
    text = tables.by_recipe(table)
    shown, *folded = text.split('<details class="recipe">')
    assert re.findall("<td>(.*)</td>", shown) == ["2"] and "By the paper's recipe" in shown
    assert [re.findall("<td>(.*)</td>", part) for part in folded] == [["1", "5"], ["10"]]
    assert "<summary>Short training: 2 more rows</summary>" in folded[0]
    alone = table[table["training"] == "short training"]
    assert tables.by_recipe(alone) == f'<p class="recipe">By short training</p>\n{tables.html(alone.drop(columns="training"))}'
    assert tables.by_recipe(table[:0]) == tables.html(table[:0])


def amplitudes(profile, values, *, role="student", temperature=100.0, dataset="cifar10"):
    """Derivatives of a network whose images have these mean amplitudes, in float32 and exactly."""
    return pd.DataFrame({
        "profile": profile, "dataset": dataset, "role": role, "temperature": temperature, "seed": 0, "image": range(len(values)),
        "record": f"{profile}-{role}-{temperature:g}", "float32_amplitude": values, "log10_amplitude": np.log10(values),
    })  # fmt: skip


def test_gradients_are_judged_in_float32():
    measured = amplitudes("quick", [0.0] * 80 + [0.01] * 20).assign(float64_amplitude=0.01, flush_amplitude=0.01, log10_amplitude=-2.0)
    judged = claims.judge({"sensitivity": measured}).set_index("claim")
    assert judged.loc["images with mean gradient below 1e-40 on CIFAR10, T = 100 (%)", ["ours", "n"]].tolist() == [80, 100]


def test_figure_9_as_a_reader_sees_it():
    low = amplitudes("paper", [1e-50] * 90 + [1e-12] * 5 + [0.01] * 5)
    high = amplitudes("quick", [1e-50] * 10 + [0.01] * 90)
    table = analysis.amplitude_table(pd.concat([low, high, amplitudes("paper", [0.01] * 100, role="plain", temperature=1.0)]))
    first = tables.bin_text(table, 0, {("paper", "cifar10", "100"): comparison.NOT})
    assert sorted(first["T"]) == ["100", "100", "none"]
    hot = first[first["T"] == "100"].set_index("training")
    recipes = [comparison.RECIPES[name] for name in ("paper", "quick")]
    assert hot.loc[recipes, "verdict on float32"].tolist() == [comparison.NOT, "–"]
    assert (
        hot.loc[recipes[0], "float32 (%)"].startswith("90.0")
        and hot.loc[recipes[0], "float64 (%)"] == "–"
        and hot.loc[recipes[1], "paper (%)"] == "79.1"
    )
    bins = tables.bins_text(table)
    assert len(bins) == 20 and list(bins.columns[3:]) == ["undefended", "T = 100"]
    ours = bins[bins["training"] == recipes[0]]["T = 100"].str.split(" / ").str[1].astype(float)
    assert ours.sum() == pytest.approx(100) and ours.iloc[[0, 6, 9]].tolist() == [90, 5, 5]
    assert bins[bins["training"] == recipes[1]]["undefended"].eq("–").all()
    between = tables.between_text(table).set_index("T")
    assert between.loc["100", [f"{name} (%)" for name in recipes]].tolist() == ["95.0", "10.0"]
    paper = sum(
        comparison.reported("fig9", "cifar10", f"share_of_samples_with_mean_gradient_amplitude_in_{a}..{b}")["100"]
        for a, b in analysis.BINS[:7]
    )
    assert between.loc["100", "paper (%)"] == f"{paper:.1f}" and between.loc["100", "paper between the two"] == "yes"
    assert between.loc["none", "paper between the two"] == "–"
    apart = analysis.amplitude_table(pd.concat([amplitudes("paper", [1e-50] * 20 + [0.01] * 80), high]))
    assert tables.between_text(apart)["paper between the two"].tolist() == ["no"]
    empty = analysis.amplitude_table(amplitudes("quick", [0.01], dataset="fashion-mnist"))
    assert tables.bins_text(empty).empty and tables.between_text(empty).empty and len(tables.bin_text(empty, 0)) == 1


def test_undefended_networks_stand_beside_their_accuracy_and_the_jsma_papers_attack():
    ours = rows([2, 4, None] * 50, role="plain", temperature=1.0)
    logits = rows([4, None, None] * 50, role="plain", temperature=1.0, output="logits")
    networks = pd.DataFrame([{"profile": "quick", "dataset": "mnist", "role": "plain", "temperature": 1.0, "accuracy": 0.9812}])
    text = tables.undefended_text(pd.concat([ours, rows([1] * 3)]), networks, {("quick", "mnist", "none"): comparison.NOT})
    assert len(text) == 1 and text[["clean accuracy", "paper (%)", "verdict"]].iloc[0].tolist() == ["98.12%", "95.89", comparison.NOT]
    assert text["ours (%) [95 % interval]"].iloc[0].startswith("66.67") and text["attacks (images)"].iloc[0] == "150 (50)"
    assert text["features changed where it succeeded (%)"].iloc[0].startswith(f"{100 * 3 / 784:.2f}")
    assert tables.undefended_text(ours, networks[:0])["clean accuracy"].tolist() == ["–"]
    both = tables.jsma_paper_text(pd.concat([ours, logits, logits.assign(dataset="cifar10"), logits.assign(role="student")])).set_index(
        "differentiated"
    )
    assert both.loc["logits", ["JSMA paper: success (%)", "JSMA paper: features changed (%)", "attacks (images)"]].tolist() == [
        "97.05",
        "4.02",
        "150 (50)",
    ]
    assert (
        both.loc["softmax", "JSMA paper: success (%)"] == "–"
        and both.loc["logits", "ours (%) [95 % interval]"].startswith("33.33")
        and len(both) == 2
    )
    assert tables.jsma_paper_text(logits.assign(dataset="cifar10")).empty

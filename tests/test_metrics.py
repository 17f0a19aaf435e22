"""Intervals and verdicts against known values."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from distill import comparison, figures, metrics, tables
from distill.metrics import Estimate


def test_wilson():
    found = metrics.accuracy(9951, 10_000)
    assert found.value == 0.9951
    z, p, n = 1.959964, 0.9951, 10_000
    centre, half = (p + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    for right, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="allowed is"):
            metrics.accuracy(right, n)


def test_cluster_bootstrap_sees_that_targets_of_one_image_are_not_independent():
    generator = np.random.default_rng(0)
    image = np.repeat(np.arange(200), 9)
    together = np.repeat(generator.random(200) < 0.5, 9)  # all nine targets of an image share one fate
    apart = generator.random(1800) < 0.5
    wide, narrow = metrics.clustered_mean(together, image), metrics.clustered_mean(apart, image)
    assert (wide.n, wide.clusters) == (1800, 200)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(3, rel=0.2)  # sqrt(9)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 200), rel=0.1)
    assert metrics.clustered_mean(together, image) == wide  # the same seed, the same interval


def test_coverage_of_the_cluster_bootstrap():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(200):
        chance = generator.beta(2, 2, 60)
        values = generator.random((60, 9)) < chance[:, None]
        found = metrics.clustered_mean(values.ravel(), np.repeat(np.arange(60), 9))
        hits += found.low <= 0.5 <= found.high
    assert stats.binomtest(hits, 200, 0.94).pvalue > 0.001


def test_many_clusters_have_the_interval_that_the_bootstrap_approaches(monkeypatch):
    generator = np.random.default_rng(2)
    sizes = generator.integers(1, 9, 1500)
    image = np.repeat(np.arange(1500), sizes)
    values = np.repeat(generator.random(1500), sizes) + generator.random(len(image))
    normal = metrics.clustered_mean(values, image)
    monkeypatch.setattr(metrics, "MANY", 10**9)
    bootstrap = metrics.clustered_mean(values, image)
    assert normal != bootstrap and normal.value == bootstrap.value
    assert normal.high - normal.low == pytest.approx(bootstrap.high - bootstrap.low, rel=0.08)
    assert (normal.high + normal.low) / 2 == pytest.approx(normal.value)


def test_rates_of_many_clusters_have_wilsons_interval_with_the_effective_sample_size(monkeypatch):
    image = np.repeat(np.arange(1500), 9)
    for fallen in (1, 1499):  # whole images: as informative as one attack each
        together = metrics.clustered_mean(image < fallen, image)
        alone = metrics.accuracy(fallen, 1500)
        assert 0 <= together.low < together.value < together.high <= 1
        assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=2e-3)
    few = metrics.clustered_mean(np.arange(len(image)) % 4500 == 0, image)  # 3 of 13,500: the normal interval begins below 0
    assert 0 < few.low < few.value < few.high
    halves = np.random.default_rng(3).random(len(image)) < 0.5
    wilson = metrics.clustered_mean(halves, image)
    monkeypatch.setattr(metrics, "MANY", 10**9)
    bootstrap = metrics.clustered_mean(halves, image)
    assert wilson.high - wilson.low == pytest.approx(bootstrap.high - bootstrap.low, rel=0.08)


def test_no_spread_falls_to_wilson_over_images():
    none = metrics.clustered_mean(np.zeros(90), np.repeat(np.arange(10), 9))
    assert none.low == 0 and none.high == pytest.approx(metrics.accuracy(0, 10).high)
    every = metrics.clustered_mean(np.ones(90), np.repeat(np.arange(10), 9))
    assert every.high == 1 and every.low == pytest.approx(metrics.accuracy(10, 10).low)
    with pytest.raises(ValueError, match="at least one value"):
        metrics.clustered_mean([], [])


def test_the_verdict_rule():
    paper, apart = Estimate(50, 48, 52, 900, 100), Estimate(30, 28, 32, 9, 9)
    said, fell = Estimate(-40, -44, -36, 900, 100), Estimate(-60, -65, -55, 9, 9)

    def judged(paper_change, our_change):
        return comparison.verdict(paper, apart, paper_change=paper_change, our_change=our_change)

    assert comparison.verdict(paper, Estimate(53, 51, 55, 9, 9)) == comparison.REPRODUCED
    assert judged(said, fell) == comparison.DIRECTION
    assert judged(Estimate(40, 36, 44, 900, 100), fell) == comparison.NOT  # the other way
    assert judged(said, Estimate(-30, -63, 3, 9, 9)) == comparison.NOT  # perhaps no change
    assert judged(Estimate(-40, -81, 1, 900, 100), fell) == comparison.NOT  # the paper's perhaps none
    assert judged(said, Estimate(-19, -20, -18, 9, 9)) == comparison.NOT  # less than half
    assert judged(said, Estimate(-81, -83, -79, 9, 9)) == comparison.NOT  # more than twice
    assert judged(said, Estimate(-20, -22, -18, 9, 9)) == judged(said, Estimate(-80, -83, -77, 9, 9)) == comparison.DIRECTION
    assert judged(None, fell) == judged(said, None) == comparison.verdict(paper, apart) == comparison.NOT


def test_reported_values_are_the_papers():
    assert comparison.reported("fig7", "mnist")["none"] == 95.89
    assert comparison.reported("fig7", "cifar10")["100"] == 5.11
    assert comparison.reported("fig8", "cifar10")["100"] == -1.37
    assert len(comparison.reported("fig7", "mnist")) == 10
    assert comparison.reported("fig7", "mnist-5k") == {}


def attacks(rate, role, temperature, dataset="mnist"):
    success = np.arange(900) < 900 * rate
    return pd.DataFrame({
        "profile": "quick", "dataset": dataset, "role": role, "temperature": temperature, "record": f"{dataset}{role}{temperature}", "image": np.arange(900) % 100, "success": success,
        "features_changed": np.where(success, 20, 112), "status": np.where(success, "SUCCESS", "ZERO_GRADIENT"),
    })  # fmt: skip


def test_success_table():
    rows = pd.concat(
        [attacks(0.95, "plain", 1.0), attacks(0.30, "student", 100.0), attacks(0.95, "student", 2.0), attacks(0.1, "student", 3.0)]
    )
    table = comparison.success_table(rows).set_index("temperature")
    assert list(table.index) == ["none", "2", "3", "100"]
    assert table.loc["none", "ours"] == pytest.approx(95) and table.loc["none", "verdict"] == comparison.REPRODUCED
    assert table.loc["100", "paper"] == 0.45 and table.loc["100", "verdict"] == comparison.DIRECTION
    assert table.loc["2", "verdict"] == comparison.NOT  # the paper's fell to 82.23, ours did not
    assert table.loc["3", "verdict"] == comparison.NOTHING and math.isnan(table.loc["3", "paper"])
    assert table["features"].tolist() == [20.0] * 4


def network(role, temperature, right):
    return {"profile": "quick", "dataset": "mnist", "role": role, "temperature": temperature, "accuracy": right.mean(), "correct": int(right.sum()),
            "test_images": len(right), "right_bits": np.packbits(right).tobytes(), "record": f"{role}{temperature}"}  # fmt: skip


def test_accuracy_table_counts_only_images_on_which_networks_differ():
    plain = np.ones(10_000, bool)
    plain[:100] = False
    student = plain.copy()
    student[100:150] = False
    table = comparison.accuracy_table(
        pd.DataFrame([network("plain", 1.0, plain), network("teacher", 20.0, plain), network("student", 20.0, student)])
    )
    row = table.set_index("temperature").loc["20"]
    assert row["ours"] == pytest.approx(-0.5) and row["teacher"] == pytest.approx(99.0)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 100 * math.sqrt(0.005 * 0.995 / 10_000), rel=1e-3)
    assert row["paper"] == -0.46 and row["verdict"] == comparison.REPRODUCED
    worse = comparison.accuracy_table(pd.DataFrame([network("plain", 1.0, plain), network("student", 20.0, np.arange(10_000) < 6000)]))
    interval = row["paper_high"] - row["paper_low"]  # of shares of 99.51 and 99.05 %, read off a bar, however good ours are
    assert interval == pytest.approx(2 * (1.96 * math.sqrt((99.51 * 0.49 + 99.05 * 0.95) / 10_000) + 0.02), rel=1e-6)
    assert worse.set_index("temperature").loc["20", "paper_high"] - worse.set_index("temperature").loc["20", "paper_low"] == interval


def test_the_worst_change_is_that_whose_interval_reaches_lowest_and_is_judged_by_all_of_it():
    def losing(count, temperature, dataset="mnist", of=10_000):
        return network("student", temperature, np.arange(of) >= count) | {"dataset": dataset}

    def worst(*students):
        dataset, of = students[0]["dataset"], students[0]["test_images"]
        plain = network("plain", 1.0, np.ones(of, bool)) | {"dataset": dataset}
        (row,) = comparison.worst_changes(comparison.accuracy_table(pd.DataFrame([plain, *students]))).to_dict("records")
        return row

    held = worst(losing(10, 20.0), losing(60, 2.0), losing(0, 100.0))  # of MNIST Figure 8's largest loss is 1.28 points, of CIFAR10 1.37
    assert (held["temperature"], held["temperatures"], held["answer"]) == ("2", 3, "holds")
    assert held["ours"] == pytest.approx(-0.6) and held["paper"] == -1.28 and held["limit"] == -1.37
    assert worst(losing(135, 20.0))["answer"] == "open"
    assert worst(losing(300, 20.0))["answer"] == "fails"
    half = network("plain", 1.0, np.arange(10_000) < 5000)
    other_half = network("student", 5.0, np.arange(10_000) >= 5000)  # as many right, and so uncertain that its interval reaches lower
    (row,) = comparison.worst_changes(
        comparison.accuracy_table(pd.DataFrame([half, network("student", 20.0, np.arange(10_000) < 4990), other_half]))
    ).to_dict("records")
    assert row["temperature"] == "5" and row["ours"] == 0 and row["answer"] == "open"
    other = worst(losing(300, 20.0, "fashion-mnist"))
    assert other["answer"] == "" and math.isnan(other["paper"])
    plain = comparison.accuracy_table(pd.DataFrame([network("plain", 1.0, np.ones(100, bool))]))
    assert comparison.worst_changes(plain).empty and "answer" in comparison.worst_changes(plain)


def test_runs_are_never_mixed_in_silence():
    one = attacks(0.95, "plain", 1.0)
    for several in (pd.concat([one.assign(seed=0), one.assign(seed=1)]), pd.concat([one, one.assign(record="other")])):
        with pytest.raises(ValueError, match="several"):
            comparison.success_table(several)
    alone = comparison.accuracy_table(pd.DataFrame([network("student", 20.0, np.ones(100, bool))]))
    assert alone["verdict"].tolist() == [comparison.NO_PLAIN]
    assert figures.accuracy(alone[:0]).axes


def test_figures_and_texts_show_what_the_tables_hold():
    rows = pd.concat([attacks(0.95, "plain", 1.0), attacks(0.0, "student", 100.0), attacks(0.5, "student", 3.0, "kmnist")])
    table = comparison.success_table(rows)
    drawn = figures.success(table)
    assert [axes.get_title() for axes in drawn.axes] == ["MNIST", "KMNIST"]
    ours = next(line for line in drawn.axes[0].lines if line.get_label() != "paper")
    assert list(ours.get_ydata()) == pytest.approx([95.0, 0.0])
    clean = pd.DataFrame([network("plain", 1.0, np.ones(100, bool)), network("student", 100.0, np.arange(100) > 1)])
    text = tables.success_text(table, clean)
    assert text["clean accuracy"].tolist() == ["100.00%", "98.00%", "–"]
    assert text["paper (%)"].tolist() == ["95.89", "0.45", "–"]
    assert metrics.interval_text(-0.001, -1.23, 0.5, 1, True) == "+0.0\xa0[\N{MINUS SIGN}1.2,\xa0+0.5]"
    assert metrics.interval_text(0.26, math.nan, math.nan, 2) == "0.26\xa0[–]"
    assert "100.0%" in tables.status_text(rows)["ZERO_GRADIENT"].tolist()


def test_the_line_drawn_is_of_the_profile_with_the_most_temperatures_or_of_what_is_counted():
    table = pd.DataFrame(
        [("mnist", "paper", "none"), ("mnist", "paper", "100"), ("mnist", "quick", "none"), ("mnist", "quick", "100"), ("mnist", "quick", "20"),
         ("cifar10", "quick", "none"), ("cifar10", "paper", "none")], columns=["dataset", "profile", "temperature"])  # fmt: skip
    assert comparison.fullest(table) == {"mnist": "quick", "cifar10": "paper"}
    assert comparison.fullest(table[:0]) == {}
    ways = table.assign(role=["plain", "teacher", "plain", "teacher", "teacher", "plain", "plain"])
    assert comparison.fullest(ways, "role") == {"mnist": "paper", "cifar10": "paper"}

"""The paper's numbers beside ours: intervals for both, and one rule for the verdict."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from distill import metrics
from distill.metrics import Estimate

REPRODUCED, DIRECTION, NOT = "reproduced", "reproduced in direction", "not reproduced"
NOTHING = "not in the paper"
NO_PLAIN = "no plain network to compare with"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR10", "mnist-5k": "MNIST (5,000 digits)", "fashion-mnist": "Fashion-MNIST",
          "fashion-mnist-by-class": "Fashion-MNIST", "kmnist": "KMNIST"}  # fmt: skip
RECIPES = {  # by profile
    "paper": "the paper's recipe",
    "table2": "the letter of Table II",
    "quick": "short training",
    "smoke": "smoke test",
}
NETWORK = ["profile", "dataset", "role", "temperature"]  # the columns that tell networks of one seed apart
USED = ("plain", "student")  # networks that are used and attacked; teachers are not
TARGETS = 900  # attacks behind each of the paper's success rates
TEST_IMAGES = 10_000  # behind each of its accuracies


@functools.cache
def _reported() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("reported.csv"), keep_default_na=False)


@functools.cache
def reported(figure: str, dataset: str, quantity: str | None = None) -> Mapping[str, float]:
    """The paper's values of a figure or of its text, by temperature ("none", "1", ...).

    Returns
    -------
    Mapping of str to float
        In the unit of ``reported.csv``; empty where the paper has none.
    """
    table = _reported()
    rows = table[(table["figure"] == figure) & (table["dataset"] == dataset)]
    if quantity is not None:
        rows = rows[rows["quantity"] == quantity]
    return MappingProxyType({str(t): float(v) for t, v in zip(rows["temperature"], rows["value"], strict=True)})


def reading_error(figure: str, dataset: str, temperature: str) -> float:
    """How far a value of a figure may be wrong, in the unit of ``reported.csv``: by reading it off a bar, or as the text rounds it."""
    table = _reported()
    own = table[(table["figure"] == figure) & (table["dataset"] == dataset) & (table["temperature"] == temperature)]
    (error,) = {float(text) for text in own["uncertainty"] if text}
    return error


def reported_table() -> pd.DataFrame:
    """Every number that the paper reports: figure, data set, quantity, temperature, value, unit, source, uncertainty."""
    return _reported().copy()


def title(dataset: str) -> str:
    """A data set's name as a reader knows it; a folder's is its path's last part."""
    return TITLES.get(dataset, Path(dataset).name)


def label(role: str, temperature: float) -> str:
    """How the paper names a network on its axes: "none" for a plain one, else its temperature."""
    return "none" if role.endswith("plain") else f"{temperature:g}"


def verdict(paper: Estimate, ours: Estimate, *, paper_change: Estimate | None = None, our_change: Estimate | None = None) -> str:
    """Whether a number of the paper was reproduced.

    "reproduced": the two 95 % intervals overlap. "reproduced in direction": they do not, but both changes against the
    undefended network have the same sign, neither interval holds zero, and ours is at least half and at most twice
    the paper's. Else "not reproduced"; so a claim that something hardly changes has no direction.

    Parameters
    ----------
    paper, ours : Estimate
    paper_change, our_change : Estimate, optional
        Against the undefended network.
    """
    if paper.low <= ours.high and ours.low <= paper.high:
        return REPRODUCED
    if paper_change is None or our_change is None or any(change.low * change.high <= 0 for change in (paper_change, our_change)):
        return NOT
    return DIRECTION if 0.5 <= our_change.value / paper_change.value <= 2 else NOT


def success_table(attacks: pd.DataFrame) -> pd.DataFrame:
    """Figure 7 in numbers: success rate of the attack on each network, ours and the paper's, in percent.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack" of one attack; those on the plain network and on students are used.

    Returns
    -------
    DataFrame
        A row a profile, data set and temperature: ``profile``, ``dataset``, ``temperature``, ``paper``, ``paper_low``, ``paper_high``,
        ``ours``, ``low``, ``high``, ``attacks``, ``images``, ``features`` (mean of the successful), ``verdict``.
    """
    attacks = attacks[attacks["role"].isin(USED)]
    one_of_each(attacks, "attacks")
    rows = []
    for (run_profile, dataset), of_dataset in attacks.groupby(["profile", "dataset"], sort=False):
        said = reported("fig7", str(dataset))
        groups = {label(role, t): group for (role, t), group in of_dataset.groupby(["role", "temperature"])}
        rates = {name: metrics.success_rate(group).times(100) for name, group in groups.items()}
        for name in in_order(groups):
            ours, paper = rates[name], None
            if name in said:
                paper = _paper_rate(said[name])
            changes = {}
            if paper and name != "none":
                changes = {"paper_change": difference(_paper_rate(said["none"]), paper), "our_change": difference(rates.get("none"), ours)}
            won = groups[name][groups[name]["success"]]
            rows.append({
                "profile": run_profile, "dataset": dataset, "temperature": name, **_both(paper, ours), "attacks": ours.n, "images": ours.clusters,
                "features": won["features_changed"].mean() if len(won) else math.nan, "record": groups[name]["record"].iloc[0],
                "verdict": verdict(paper, ours, **changes) if paper else NOTHING,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _paper_rate(value: float) -> Estimate:
    """A success rate of the paper in percent, as of 900 attacks."""
    return metrics.accuracy(round(value / 100 * TARGETS), TARGETS).times(100)._replace(value=value)


def change_of_accuracy(dataset: str, temperature: str) -> Estimate:
    """Figure 8's change of accuracy in points, with an interval.

    The paper does not say which images changed: as for two independent shares of its test images, and read off a bar.
    """
    change = reported("fig8", dataset)[temperature]
    before = reported("text", dataset, "accuracy")["none"] / 100
    after = before + change / 100
    spread = 100 * math.sqrt((before * (1 - before) + after * (1 - after)) / TEST_IMAGES)
    error = 1.96 * spread + reading_error("fig8", dataset, temperature)
    return Estimate(change, change - error, change + error, TEST_IMAGES, TEST_IMAGES)


def accuracy_table(networks: pd.DataFrame) -> pd.DataFrame:
    """Figure 8 in numbers: each student's accuracy against the plain network's, in percent and points.

    Parameters
    ----------
    networks : DataFrame
        Rows of kind "model".

    Returns
    -------
    DataFrame
        A row a profile, data set and student: ``profile``, ``dataset``, ``temperature``, ``accuracy``, ``accuracy_low``, ``accuracy_high``,
        ``teacher`` (its accuracy), ``images``, and of the change against the plain network in points ``paper``,
        ``paper_low``, ``paper_high``, ``ours``, ``low``, ``high``, ``verdict``; the plain network's row has no change.
    """
    networks = networks[networks["role"].isin(["plain", "teacher", "student"])]
    one_of_each(networks, "networks")
    rows = []
    for (run_profile, dataset), of_dataset in networks.groupby(["profile", "dataset"], sort=False):
        said = reported("fig8", str(dataset))
        plain = of_dataset[of_dataset["role"] == "plain"]
        teachers = of_dataset[of_dataset["role"] == "teacher"].set_index("temperature")["accuracy"]
        shown = {label(r["role"], r["temperature"]): r for _, r in of_dataset[of_dataset["role"] != "teacher"].iterrows()}
        for name in in_order(shown):
            network = shown[name]
            share = metrics.accuracy(network["correct"], network["test_images"]).times(100)
            row = {"profile": run_profile, "dataset": dataset, "temperature": name, "accuracy": share.value, "accuracy_low": share.low,
                   "accuracy_high": share.high, "teacher": 100 * teachers.get(network["temperature"], math.nan) if name != "none" else math.nan,
                   "images": share.n, "record": network["record"]}  # fmt: skip
            if name == "none" or plain.empty:
                rows.append({**row, **_both(None, None), "verdict": NOTHING if name == "none" else NO_PLAIN})
                continue
            ours = paired_change(plain.iloc[0], network)
            paper = None
            if name in said:
                paper = change_of_accuracy(str(dataset), name)
            judged = verdict(paper, ours, paper_change=paper, our_change=ours) if paper else NOTHING
            rows.append({**row, **_both(paper, ours), "verdict": judged})
    return pd.DataFrame(rows)


def worst_changes(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The claim behind Figure 8, a student stays close to the undefended network: the largest loss over all temperatures.

    Parameters
    ----------
    accuracies : DataFrame
        Of `accuracy_table`.

    Returns
    -------
    DataFrame
        A row a profile and data set, in the order given: ``profile``, ``dataset``, ``temperatures`` (how many),
        ``temperature`` (whose interval reaches lowest), ``ours``, ``low`` and ``high`` of it, ``paper`` (the
        largest loss of that data set in Figure 8), ``limit`` (the paper's largest on either data set, in points)
        and ``answer``: "holds" if the whole interval is within the limit, "fails" if the whole is beyond, else
        "open"; "" for data sets that the paper does not have.
    """
    table = _reported()
    limit = float(table.loc[table["figure"] == "fig8", "value"].astype(float).min())
    rows = []
    for (profile, dataset), group in accuracies.dropna(subset=["ours"]).groupby(["profile", "dataset"], sort=False):
        worst = group.loc[group["low"].idxmin()]
        said = reported("fig8", str(dataset))
        answer = "" if not said else "holds" if worst["low"] >= limit else "fails" if worst["high"] < limit else "open"
        rows.append({"profile": profile, "dataset": dataset, "temperatures": group["temperature"].nunique(),
                     **worst[["temperature", "ours", "low", "high"]], "paper": min(said.values(), default=math.nan), "limit": limit,
                     "answer": answer})  # fmt: skip
    columns = ["profile", "dataset", "temperatures", "temperature", "ours", "low", "high", "paper", "limit", "answer"]
    return pd.DataFrame(rows, columns=columns)


def accuracy_level(networks: pd.DataFrame) -> pd.DataFrame:
    """`accuracy_table` with each network's own accuracy as ``ours``, ``low`` and ``high``, instead of its change."""
    table = accuracy_table(networks)
    return table.assign(ours=table["accuracy"], low=table["accuracy_low"], high=table["accuracy_high"])


def one_of_each(rows: pd.DataFrame, what: str, *further: str) -> None:
    """Refuse rows of several runs where the table has one line: they would be mixed in silence.

    Parameters
    ----------
    rows : DataFrame
    what : str
        What the rows are, for the message.
    *further : str
        Columns that part lines of one network, such as ``variant``.

    Raises
    ------
    ValueError
        If they are of several seeds, or of several records of one profile, data set, role, temperature and ``further``.
    """
    seeds = rows["seed"].unique() if "seed" in rows else []
    if len(seeds) > 1:
        raise ValueError(f"the {what} are of several seeds ({', '.join(map(str, seeds))}); allowed is one")
    groups = rows.groupby([*NETWORK, *further])["record"].nunique()
    if (groups > 1).any():
        *first, last = "profile", "data set", "role", "temperature", *further
        raise ValueError(
            f"the {what} hold several records for {', '.join(map(str, groups.idxmax()))}; allowed is one for each {', '.join(first)} and {last}"
        )


def paired_change(plain: pd.Series, student: pd.Series) -> Estimate:
    """Change of accuracy in points over the same test images, with a normal interval of the paired difference.

    Parameters
    ----------
    plain, student : Series
        Of kind "model": two networks that were tested on the same images.
    """
    n = int(student["test_images"])
    before, after = (np.unpackbits(np.frombuffer(row["right_bits"], np.uint8), count=n).astype(float) for row in (plain, student))
    change = 100 * (after - before)
    error = 1.96 * change.std(ddof=1) / math.sqrt(n)
    return Estimate(change.mean(), change.mean() - error, change.mean() + error, n, n)


def difference(first: Estimate | None, second: Estimate) -> Estimate | None:
    """Second minus first, with the interval of independent estimates: wider than that of the same images would be."""
    if first is None:
        return None
    value = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value, value - below, value + above, second.n, second.clusters)


def _both(paper: Estimate | None, ours: Estimate | None) -> dict[str, float]:
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0)
    p, o = paper or nothing, ours or nothing
    return {"paper": p.value, "paper_low": p.low, "paper_high": p.high, "ours": o.value, "low": o.low, "high": o.high}


def fullest(table: pd.DataFrame, by: str = "temperature") -> dict[str, str]:
    """For each data set the profile to draw as one line: that with the most temperatures, and of equals the paper's recipe.

    Parameters
    ----------
    table : DataFrame
        With columns ``dataset``, ``profile`` and that of `by`.
    by : str
        The column whose different values are counted instead of temperatures.
    """
    found: dict[str, str] = {}
    for dataset, rows in table.groupby("dataset", sort=False):
        counts = rows.groupby("profile", sort=False)[by].nunique()
        found[str(dataset)] = max(counts.index, key=lambda name: (counts[name], name == "paper"))
    return found


def as_number(name: str) -> float:
    """A label's place on an axis of temperatures: "none" comes before all others."""
    return -1.0 if name == "none" else float(name)


def in_order(names: Iterable[str]) -> list[str]:
    """Labels of temperatures as the paper orders them: "none", then rising."""
    return sorted(names, key=as_number)

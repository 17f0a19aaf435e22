"""Every claim of the paper that has a number: where it is made, what we measured, from which record, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from distill import analysis, comparison, metrics
from distill.metrics import Estimate

PROFILES = ("paper", "quick")  # a claim is judged by the first of them that is on record; a smoke test judges none

SOURCES = {  # a measure's figure and quantity in reported.csv
    "success": ("fig7", None),
    "level": ("text", "accuracy"),
    "accuracy": ("fig8", None),
    "robustness": ("fig10", "robustness"),
    "confidence": ("table3", None),
    "maximum": ("text", "mean_max_probability"),
    "smoothing": ("text", "label_smoothing_jsma_success_rate"),
    "amplitude": ("fig9", "share_of_samples_with_mean_gradient_amplitude_in_0..1e-40"),
    "steep": ("fig9", "share_of_samples_with_mean_gradient_amplitude_in_1e-3..1"),
    "rise": ("fig10", "robustness"),
    "elsewhere": ("text", "jsma_success_rate_section_VB"),
    "loss": ("fig8", None),
    "ceiling": ("fig10", "robustness_maximum_quoted"),
}
OF_SEVERAL = ("rise", "loss")  # measures that are worked out from several numbers of their figure
SHORT = {  # temperatures of each measure that stand for all of it where there is no room for more
    "success": ("none", "1", "5", "10", "20", "100"),
    "accuracy": ("1", "20", "100"),
    "robustness": ("none", "20", "50"),
    "confidence": ("1", "20"),
    "amplitude": ("none", "20", "100"),
    "steep": ("none", "100"),
}


@dataclass(frozen=True)
class Claim:
    """A number of the paper.

    Attributes
    ----------
    text, section, chapter : str
        What is claimed, where in the paper, and on which page of the book it is measured.
    measure : {"success", "level", "accuracy", "robustness", "rise", "confidence", "maximum", "smoothing", "amplitude", "steep", "elsewhere", "loss", "ceiling"}
    dataset, temperature : str
        Of the network; "none" is the undefended one, "any" the temperature at which there is most.
    short : bool
        Whether it is one of the few that stand for its figure where there is no room for all.
    """

    text: str
    section: str
    chapter: str
    measure: str
    dataset: str
    temperature: str
    short: bool


def _claims() -> list[Claim]:
    kinds = {  # measure: what it is of, its unit, its section, its chapter
        "success": ("JSMA success on {}, {}", "%", "V-B, Figure 7", "success"),
        "level": ("accuracy on {}, {}", "%", "V-A and V-B", "accuracy"),
        "accuracy": ("change of accuracy on {}, {}", "points", "V-C, Figure 8", "accuracy"),
        "robustness": ("robustness on {}, {}", "% of the features", "V-D, Figure 10", "robustness"),
        "rise": ("robustness on {}, {}, above the undefended network's", "% of it", "V-D", "robustness"),
        "confidence": ("confidence on {}, {}", "%", "V-D, Table III", "confidence"),
        "maximum": ("mean largest probability at its own T on {}, {}", "%", "V-D", "confidence"),
        "smoothing": ("JSMA success with smoothed labels on {}", "%", "V-B", "confidence"),
        "amplitude": ("images with mean gradient below 1e-40 on {}, {}", "%", "V-D, Figure 9", "gradients"),
        "steep": ("images with mean gradient above 1e-3 on {}, {}", "%", "V-D, Figure 9", "gradients"),
        "elsewhere": ("JSMA success on {}, {}, as section V-B has it", "%", "V-B", "success"),
        "loss": ("largest loss of accuracy on {}, {}", "points", "V-C, Figure 8", "accuracy"),
        "ceiling": ("largest robustness on {}, {}", "% of the features", "V-D", "robustness"),
    }
    made = []
    for dataset in ("mnist", "cifar10"):
        for measure, (text, unit, section, chapter) in kinds.items():
            temperatures = list(comparison.reported(SOURCES[measure][0], dataset, SOURCES[measure][1]))
            if measure == "rise":  # what section V-D says in words
                temperatures = {"mnist": ["20"], "cifar10": ["50"]}[dataset]
            if measure in ("loss", "ceiling"):
                temperatures = ["any"] if temperatures else []
            for at in temperatures if temperatures == ["any"] else comparison.in_order(temperatures):
                network = {"none": "the undefended network", "any": "at any T"}.get(at, f"T = {at}")
                short = at in SHORT.get(measure, (at,))
                made.append(
                    Claim(f"{text.format(comparison.title(dataset), network)} ({unit})", section, chapter, measure, dataset, at, short)
                )
    return made


CLAIMS = _claims()


def judge(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The verdict on every claim.

    All are judged by the rule of `comparison.verdict`, success rates and changes of accuracy within
    `comparison.success_table` and `comparison.accuracy_table`; "not on record" where nothing was measured. The change is
    taken against the undefended network, or against T = 1 where the paper has no value of it. Of two profiles that are
    on record the paper's own recipe counts.

    Parameters
    ----------
    rows : dict of str to DataFrame
        By kind, as `experiments.results` returns them for the stages train, attack, predictions, sensitivity and
        smoothing.

    Returns
    -------
    DataFrame
        A row a claim: ``claim``, ``section``, ``chapter``, ``measure``, ``dataset``, ``temperature``, ``short``, ``paper``, ``ours``, ``low``,
        ``high``, ``n``, ``profile``, ``record``, ``verdict``.
    """
    tables = _tables(rows)
    judged = []
    for claim in CLAIMS:
        table = tables.get(claim.measure, pd.DataFrame())
        found = _first(table, claim.dataset, claim.temperature)
        row = {"claim": claim.text, "section": claim.section, "chapter": claim.chapter, "measure": claim.measure, "dataset": claim.dataset,
               "temperature": claim.temperature, "short": claim.short, "paper": _said(claim).value}  # fmt: skip
        if found is None or math.isnan(found["ours"]):
            nothing = {"ours": math.nan, "low": math.nan, "high": math.nan, "n": 0, "profile": "", "record": ""}
            judged.append({**row, **nothing, "verdict": "not on record"})
            continue
        judged.append({
            **row, "ours": found["ours"], "low": found["low"], "high": found["high"], "n": int(found["n"]), "profile": found["profile"],
            "record": found["record"], "verdict": _verdict(claim, table, found),
        })  # fmt: skip
    return pd.DataFrame(judged)


def verdicts(rows: dict[str, pd.DataFrame], measure: str) -> dict[tuple[str, str, str], str]:
    """The verdict on every number of one measure, of each recipe that is on record, by the rule of `judge`.

    Parameters
    ----------
    rows : dict of str to DataFrame
        As for `judge`; the kind that the measure needs is enough.
    measure : str
        Of `SOURCES`.

    Returns
    -------
    dict
        By profile, data set and temperature; without those of which the paper has no number, or we none.

    Raises
    ------
    ValueError
        If the measure is unknown.
    """
    if measure not in SOURCES:
        raise ValueError(f"measure is {measure!r}; allowed are {', '.join(SOURCES)}")
    table = _tables(rows).get(measure, pd.DataFrame())
    out = {}
    for claim in CLAIMS:
        if claim.measure == measure and len(table):
            own = table[(table["dataset"] == claim.dataset) & (table["temperature"] == claim.temperature) & table["ours"].notna()]
            for _, found in own.iterrows():
                out[str(found["profile"]), claim.dataset, claim.temperature] = _verdict(claim, table, found)
    return out


def _verdict(claim: Claim, table: pd.DataFrame, found: pd.Series) -> str:
    """The verdict on a claim, of the row of its measure's table that was found for it."""
    if claim.measure in ("success", "accuracy"):
        return str(found["verdict"])
    ours = Estimate(found["ours"], found["low"], found["high"], int(found["n"]), int(found["n"]))
    return comparison.verdict(_said(claim), ours, **_changes(claim, table, found, ours))


def _tables(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A table a measure, with the columns profile, dataset, temperature, ours, low, high, n and record."""
    tables: dict[str, pd.DataFrame] = {}
    if len(rows.get("attack", ())):
        attacks = analysis.paper_attack(rows["attack"])
        if attacks["role"].isin(comparison.USED).any():
            tables["success"] = comparison.success_table(attacks).assign(n=lambda t: t["attacks"])
            tables["robustness"] = analysis.robustness_table(attacks, ["capped"]).assign(n=lambda t: t["images"])
            tables["rise"] = _rises(tables["robustness"])
            tables["ceiling"] = _largest(tables["robustness"])
            tables["elsewhere"] = tables["success"]
        control = [
            {"profile": profile, "dataset": dataset, "temperature": "none", "ours": rate.value, "low": rate.low,
             "high": rate.high, "n": rate.n, "record": group["record"].iloc[0]}
            for (profile, dataset), group in attacks[attacks["role"] == "smoothed"].groupby(["profile", "dataset"])
            for rate in [metrics.success_rate(group).times(100)]
        ]  # fmt: skip
        tables["smoothing"] = pd.DataFrame(control)
    if len(rows.get("model", ())):
        tables["accuracy"] = comparison.accuracy_table(rows["model"]).assign(n=lambda t: t["images"])
        changes = tables["accuracy"]
        tables["loss"] = _largest(changes.assign(ours=-changes["ours"], low=-changes["high"], high=-changes["low"]))
        tables["level"] = comparison.accuracy_level(rows["model"]).assign(n=lambda t: t["images"])
    if len(rows.get("prediction", ())):
        students = rows["prediction"][rows["prediction"]["role"].isin(comparison.USED)]
        confidence = analysis.confidence_table(students).assign(n=lambda t: t["images"])
        tables["confidence"] = confidence
        largest = students.groupby("record")["probability_at_T"]
        middle, error = (100 * confidence["record"].map(of_record) for of_record in (largest.mean(), 1.96 * largest.sem()))
        tables["maximum"] = confidence.assign(ours=middle, low=middle - error, high=middle + error)
    if len(rows.get("sensitivity", ())):
        bins = analysis.amplitude_table(rows["sensitivity"], ["float32"]).assign(n=lambda t: t["images"])
        tables["amplitude"], tables["steep"] = (bins[bins["bin"] == number] for number in (bins["bin"].min(), bins["bin"].max()))
    return tables


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Of each recipe and data set the row of the temperature at which the distilled network has most, its temperature "any"."""
    own = table[(table["temperature"] != "none") & table["ours"].notna()]
    return own.loc[own.groupby(["profile", "dataset"], sort=False)["ours"].idxmax()].assign(temperature="any")


def _rises(robustness: pd.DataFrame) -> pd.DataFrame:
    """How far robustness lies above the undefended network's, in percent of it; the interval is of independent estimates."""
    start = robustness[robustness["temperature"] == "none"].set_index(["profile", "dataset"])
    here = pd.MultiIndex.from_frame(robustness[["profile", "dataset"]])
    before = start.reindex(here).reset_index(drop=True)
    own = robustness.reset_index(drop=True)
    return own.assign(
        ours=100 * (own["ours"] / before["ours"] - 1),
        low=100 * (own["low"] / before["high"] - 1),
        high=100 * (own["high"] / before["low"] - 1),
    )


def _first(table: pd.DataFrame, dataset: str, temperature: str) -> pd.Series | None:
    for profile in PROFILES if len(table) else ():
        found = table[(table["profile"] == profile) & (table["dataset"] == dataset) & (table["temperature"] == temperature)]
        if len(found):
            return found.iloc[0]
    return None


def _said(claim: Claim, temperature: str | None = None) -> Estimate:
    """The paper's value in percent, with the interval of its sample where that is known, else the error of reading its bars or of rounding.

    Of a mean over the test images the paper gives no spread; a share of as many images has the widest that there is.
    """
    at = temperature or claim.temperature
    figure, quantity = SOURCES[claim.measure]
    said = comparison.reported(figure, claim.dataset, quantity)
    if claim.measure == "loss":
        change = comparison.change_of_accuracy(claim.dataset, min(said, key=lambda t: said[t]))
        return Estimate(-change.value, -change.high, -change.low, change.n, change.clusters)
    value = said[at]
    if claim.measure == "rise":
        error, first = (comparison.reading_error(figure, claim.dataset, t) for t in (at, "none"))
        middle, low, high = (
            100 * (after / before - 1)
            for after, before in ((value, said["none"]), (value - error, said["none"] + first), (value + error, said["none"] - first))
        )
        return Estimate(middle, low, high, 0, 0)
    if claim.measure == "maximum":
        value *= 100  # a fraction there
    if claim.measure in ("accuracy", "robustness", "ceiling", "amplitude", "steep"):
        error = comparison.reading_error(figure, claim.dataset, at)
        return Estimate(value, value - error, value + error, 0, 0)
    n = comparison.TARGETS if claim.measure in ("success", "elsewhere", "smoothing") else comparison.TEST_IMAGES
    return metrics.accuracy(round(value / 100 * n), n).times(100)._replace(value=value)


def _changes(claim: Claim, table: pd.DataFrame, found: pd.Series, ours: Estimate) -> dict:
    """The paper's change and ours against the undefended network, or where the paper has none against T = 1."""
    base = "1" if claim.measure in ("confidence", "maximum") else "none"
    if claim.measure in ("smoothing", "rise", "loss", "ceiling") or claim.temperature == base:
        return {}
    own = table[table["profile"] == found["profile"]]
    before = own[(own["dataset"] == claim.dataset) & (own["temperature"] == base)]
    if before.empty:
        return {}
    start = before.iloc[0]
    plain = Estimate(start["ours"], start["low"], start["high"], int(start["n"]), int(start["n"]))
    return {"paper_change": comparison.difference(_said(claim, base), _said(claim)), "our_change": comparison.difference(plain, ours)}

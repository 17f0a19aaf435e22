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
}


@dataclass(frozen=True)
class Claim:
    """A number of the paper.

    Attributes
    ----------
    text, section, chapter : str
        What is claimed, where in the paper, and on which page of the book it is measured.
    measure : {"success", "level", "accuracy", "robustness", "confidence", "maximum", "smoothing", "amplitude"}
    dataset, temperature : str
        Of the network; "none" is the undefended one.
    """

    text: str
    section: str
    chapter: str
    measure: str
    dataset: str
    temperature: str


def _claims() -> list[Claim]:
    names = {"mnist": "MNIST", "cifar10": "CIFAR10"}
    made = []
    for dataset, name in names.items():
        for at in ("none", "1", "5", "10", "20", "100"):
            network = "the undefended network" if at == "none" else f"T = {at}"
            made.append(Claim(f"JSMA success on {name}, {network} (%)", "V-B, Figure 7", "success", "success", dataset, at))
        made.append(Claim(f"accuracy on {name}, the undefended network (%)", "V-A", "accuracy", "level", dataset, "none"))
        made.append(Claim(f"accuracy on {name}, T = 20 (%)", "V-B", "accuracy", "level", dataset, "20"))
        for at in ("1", "20", "100"):
            made.append(Claim(f"change of accuracy on {name}, T = {at} (points)", "V-C, Figure 8", "accuracy", "accuracy", dataset, at))
        for at in ("none", "20", "40" if dataset == "mnist" else "50"):
            network = "the undefended network" if at == "none" else f"T = {at}"
            made.append(
                Claim(f"robustness on {name}, {network} (% of the features)", "V-D, Figure 10", "robustness", "robustness", dataset, at)
            )
    for at in ("1", "20"):
        made.append(Claim(f"confidence on CIFAR10, T = {at} (%)", "V-D, Table III", "confidence", "confidence", "cifar10", at))
    for at in ("1", "20", "40"):
        made.append(Claim(f"mean largest probability at its own T on CIFAR10, T = {at} (%)", "V-D", "confidence", "maximum", "cifar10", at))
    made.append(Claim("JSMA success with smoothed labels on MNIST (%)", "V-B", "confidence", "smoothing", "mnist", "none"))
    for at in ("none", "20", "100"):
        network = "the undefended network" if at == "none" else f"T = {at}"
        made.append(
            Claim(
                f"images with mean gradient below 1e-40 on CIFAR10, {network} (%)", "V-D, Figure 9", "gradients", "amplitude", "cifar10", at
            )
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
        A row a claim: ``claim``, ``section``, ``chapter``, ``paper``, ``ours``, ``low``, ``high``, ``n``,
        ``profile``, ``record``, ``verdict``.
    """
    tables = _tables(rows)
    judged = []
    for claim in CLAIMS:
        said = _said(claim)
        table = tables.get(claim.measure, pd.DataFrame())
        row = {"claim": claim.text, "section": claim.section, "chapter": claim.chapter, "paper": said.value}
        found = _first(table, claim.dataset, claim.temperature)
        if found is None or math.isnan(found["ours"]):
            judged.append(
                {
                    **row,
                    "ours": math.nan,
                    "low": math.nan,
                    "high": math.nan,
                    "n": 0,
                    "profile": "",
                    "record": "",
                    "verdict": "not on record",
                }
            )
            continue
        ours = Estimate(found["ours"], found["low"], found["high"], int(found["n"]), int(found["n"]))
        judged.append({
            **row, "ours": ours.value, "low": ours.low, "high": ours.high, "n": ours.n, "profile": found["profile"], "record": found["record"],
            "verdict": found["verdict"] if claim.measure in ("success", "accuracy") else comparison.verdict(said, ours, **_changes(claim, table, found, ours)),
        })  # fmt: skip
    return pd.DataFrame(judged)


def _tables(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A table a measure, with the columns profile, dataset, temperature, ours, low, high, n and record."""
    tables: dict[str, pd.DataFrame] = {}
    if len(rows.get("attack", ())):
        attacks = analysis.paper_attack(rows["attack"])
        tables["success"] = comparison.success_table(attacks).assign(n=lambda t: t["attacks"])
        robust = analysis.robustness_table(attacks)
        tables["robustness"] = robust[robust["reading"] == "capped"].assign(n=lambda t: t["images"])
        control = [
            {"profile": profile, "dataset": dataset, "temperature": "none", "ours": rate.value, "low": rate.low,
             "high": rate.high, "n": rate.n, "record": group["record"].iloc[0]}
            for (profile, dataset), group in attacks[attacks["role"] == "smoothed"].groupby(["profile", "dataset"])
            for rate in [metrics.success_rate(group).times(100)]
        ]  # fmt: skip
        tables["smoothing"] = pd.DataFrame(control)
    if len(rows.get("model", ())):
        tables["accuracy"] = comparison.accuracy_table(rows["model"]).assign(n=lambda t: t["images"])
        tables["level"] = comparison.accuracy_level(rows["model"]).assign(n=lambda t: t["images"])
    if len(rows.get("prediction", ())):
        students = rows["prediction"][rows["prediction"]["role"].isin(comparison.USED)]
        confidence = analysis.confidence_table(students).assign(n=lambda t: t["images"])
        tables["confidence"] = confidence
        largest = students.groupby("record")["probability_at_T"]
        middle, error = (100 * confidence["record"].map(of_record) for of_record in (largest.mean(), 1.96 * largest.sem()))
        tables["maximum"] = confidence.assign(ours=middle, low=middle - error, high=middle + error)
    if len(rows.get("sensitivity", ())):
        bins = analysis.amplitude_table(rows["sensitivity"])
        tables["amplitude"] = bins[(bins["bin"] == 0) & (bins["arithmetic"] == "float32")].assign(n=lambda t: t["images"])
    return tables


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
    value = comparison.reported(figure, claim.dataset, quantity)["none" if claim.measure == "smoothing" else at]
    if claim.measure == "maximum":
        value *= 100  # a fraction there
    if claim.measure in ("accuracy", "robustness", "amplitude"):
        error = comparison.reading_error(figure, claim.dataset, at)
        return Estimate(value, value - error, value + error, 0, 0)
    n = comparison.TARGETS if claim.measure in ("success", "smoothing") else comparison.TEST_IMAGES
    return metrics.accuracy(round(value / 100 * n), n).times(100)._replace(value=value)


def _changes(claim: Claim, table: pd.DataFrame, found: pd.Series, ours: Estimate) -> dict:
    """The paper's change and ours against the undefended network, or where the paper has none against T = 1."""
    base = "1" if claim.measure in ("confidence", "maximum") else "none"
    if claim.measure == "smoothing" or claim.temperature == base:
        return {}
    own = table[table["profile"] == found["profile"]]
    before = own[(own["dataset"] == claim.dataset) & (own["temperature"] == base)]
    if before.empty:
        return {}
    start = before.iloc[0]
    plain = Estimate(start["ours"], start["low"], start["high"], int(start["n"]), int(start["n"]))
    return {"paper_change": comparison.difference(_said(claim, base), _said(claim)), "our_change": comparison.difference(plain, ours)}

"""One function a figure: rows in, matplotlib figure out."""

from __future__ import annotations

import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill import comparison, metrics

OURS, PAPER = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[1]


def _style() -> None:
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update({"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True, "axes.titleweight": "bold"})


def success(table: pd.DataFrame) -> Figure:
    """Figure 7: success rate of the attack against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `comparison.success_table`.
    """
    figure, panels = _panels(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        _compare(axes, rows)
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104), xlabel="distillation temperature T")
    panels[0].set_ylabel("JSMA success rate (%)")
    panels[0].legend(frameon=True)
    return figure


def accuracy(table: pd.DataFrame) -> Figure:
    """Figure 8: change of accuracy against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `comparison.accuracy_table`.
    """
    table = table[table["temperature"] != "none"]
    figure, panels = _panels(table)
    if table.empty:
        panels[0].set_title("no distilled network among these temperatures")
        return figure
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        axes.axhline(0, color="0.35", linewidth=1)
        _compare(axes, rows)
        axes.set(title=comparison.title(str(dataset)), xlabel="distillation temperature T")
    panels[0].set_ylabel("change of accuracy (points)")
    panels[0].legend(frameon=True)
    return figure


def _panels(table: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    _style()
    count = max(1, table["dataset"].nunique())
    figure, panels = plt.subplots(1, count, figsize=(4.9 * count if count > 1 else 6, 3.9), squeeze=False)
    return figure, list(panels[0])


def _compare(axes: Axes, rows: pd.DataFrame) -> None:
    """Paper's values and ours at the same places, one place a temperature."""
    names = list(rows["temperature"])
    places = range(len(names))
    axes.plot([x - 0.08 for x in places], rows["paper"], marker="D", markersize=6, markerfacecolor="none", linestyle="--",
              linewidth=1.2, color=PAPER, label="paper")  # fmt: skip
    errors = [rows["ours"] - rows["low"], rows["high"] - rows["ours"]]
    axes.errorbar([x + 0.08 for x in places], rows["ours"], yerr=[e.clip(lower=0).fillna(0) for e in errors], marker="o",
                  markersize=6, capsize=3, linewidth=1.6, color=OURS, label="ours, 95 % interval")  # fmt: skip
    axes.set_xticks(list(places), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(axis="x", visible=False)


# --- tables as a reader sees them --------------------------------------------------------------------------


def success_text(table: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """`comparison.success_table` as a reader sees it, with the clean accuracy of each network."""
    clean = {
        (row["dataset"], "none" if row["role"] == "plain" else f"{row['temperature']:g}"): f"{row['accuracy']:.2%}"
        for _, row in networks[networks["role"] != "teacher"].iterrows()
    }
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "T": table["temperature"],
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "ours (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "attacks (images)": [f"{a:,} ({i:,})" for a, i in zip(table["attacks"], table["images"], strict=True)],
        "features changed": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["features"]],
        "clean accuracy": [clean.get(key, "–") for key in zip(table["dataset"], table["temperature"], strict=True)],
        "verdict": table["verdict"],
    })  # fmt: skip


def accuracy_text(table: pd.DataFrame) -> pd.DataFrame:
    """`comparison.accuracy_table` as a reader sees it."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "T": table["temperature"],
        "accuracy (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["accuracy"], table["accuracy_low"], table["accuracy_high"], strict=True)],
        "its teacher (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["teacher"]],
        "test images": [f"{n:,}" for n in table["images"]],
        "paper's change (points)": ["–" if math.isnan(v) else f"{v:+.2f}" for v in table["paper"]],
        "our change [95 % interval]": [metrics.interval_text(*v, digits=2, sign=True) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "verdict": ["the plain network" if t == "none" else v for t, v in zip(table["temperature"], table["verdict"], strict=True)],
    })  # fmt: skip


def percent_text(share: metrics.Estimate) -> str:
    """A share with its interval, in percent."""
    return metrics.interval_text(100 * share.value, 100 * share.low, 100 * share.high, 2)


def status_text(attacks: pd.DataFrame) -> pd.DataFrame:
    """Why attacks stopped: their share by status, a row a network."""
    shares = (
        attacks.assign(T=["none" if r == "plain" else f"{t:g}" for r, t in zip(attacks["role"], attacks["temperature"], strict=True)])
        .groupby(["dataset", "T"], sort=False)["status"].value_counts(normalize=True).unstack(fill_value=0.0)
    )  # fmt: skip
    columns = [name for name in ("SUCCESS", "BUDGET", "NO_VALID_PAIR", "ZERO_GRADIENT") if name in shares]
    text = shares[columns].map(lambda share: f"{share:.1%}").reset_index()
    text["dataset"] = [comparison.title(d) for d in text["dataset"]]
    return text.rename(columns={"dataset": "data set"}).rename_axis(columns=None)


def html(table: pd.DataFrame) -> str:
    """A table as HTML for a page, verdicts marked by their own class."""
    return table.to_html(index=False, border=0, justify="left", classes="comparison", na_rep="–")

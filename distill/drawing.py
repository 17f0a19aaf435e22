"""What every figure shares: the style, a panel a data set, lines with intervals whose points tell their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill import page

OURS, PAPER = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[1]
COLOURS = [OURS, *sns.color_palette("colorblind")[2:]]
MARKERS = "osv^PXdh*<"
OURS_COLUMNS = ("ours", "low", "high")


LINE = 0.19  # inches, of a legend


def set_style() -> None:
    """Set the style of every figure."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font="DejaVu Sans")  # which comes with matplotlib
    mpl.rcParams.update({"figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True, "axes.titleweight": "bold"})


def panels_of(table: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each data set of the table."""
    set_style()
    count = max(1, table["dataset"].nunique())
    figure, panels = plt.subplots(1, count, figsize=(4.9 * count if count > 1 else 6, 3.9), squeeze=False)
    return figure, list(panels[0])


def paper_line(axes: Axes, said: Mapping[str, float], names: list[str], *, shift: float = 0.0) -> None:
    """The paper's values, at the temperatures for which it has one."""
    there = [name for name in names if name in said]
    places, values = [names.index(name) + shift for name in there], [said[name] for name in there]
    axes.plot(places, values, marker="D", markersize=6, markerfacecolor="none", linestyle="--", linewidth=1.2, color=PAPER, label="paper")
    page.mark(axes, places, values, [{"series": "paper", "T": name, "value": said[name]} for name in there])


def interval_line(axes: Axes, rows: pd.DataFrame, names: list[str], *, shift: float = 0.0, columns: tuple[str, str, str] = OURS_COLUMNS, **style: Any) -> None:  # fmt: skip
    """Values with their intervals, one row a temperature; where nothing was measured the line has a gap."""
    own = rows.set_index("temperature").reindex(names)
    value, low, high = (own[column].to_numpy(float) for column in columns)
    axes.errorbar(
        np.arange(len(names)) + shift,
        value,
        yerr=error_bars(value, low, high),
        **{"markersize": 6, "capsize": 3, "linewidth": 1.6, **style},
    )
    page.mark(axes, np.arange(len(names)) + shift, value, point_rows(own, columns, series=style["label"], T=names))


def error_bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """How far an interval reaches below and above its value, for `Axes.errorbar`; an end that is not known reaches nowhere."""
    return [np.nan_to_num(part.clip(min=0), posinf=0.0) for part in (value - low, high - value)]


def point_rows(own: pd.DataFrame, columns: tuple[str, str, str], **what: Any) -> list[dict[str, Any]]:
    """Rows for `page.mark`: what each is of, its value and interval, how many attacks and images it stands on, and its record."""
    counts = [name for name in ("attacks", "images", "record") if name in own]
    given = own[[*columns, *counts]].set_axis(["value", "low", "high", *counts], axis=1)
    return [{**of, **row} for of, row in zip(pd.DataFrame(what, index=own.index).to_dict("records"), given.to_dict("records"), strict=True)]


def temperature_axis(axes: Axes, names: list[str]) -> None:
    """One place on the axis for each temperature."""
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel("distillation temperature T")
    axes.grid(axis="x", visible=False)


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """One legend below all panels, of what these axes show, in so many columns or as many of them as the figure is wide enough for."""
    handles, texts = axes.get_legend_handles_labels()
    for count in range(columns, 0, -1):
        legend = figure.legend(handles, texts, loc="outside lower center", ncols=count, frameon=False, fontsize=9)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            rows = -(-len(texts) // count) - -(-len(texts) // columns)
            figure.set_figheight(figure.get_figheight() + LINE * rows)  # the axes keep their height
            return
        legend.remove()

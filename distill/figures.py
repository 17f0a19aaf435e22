"""One function a figure: rows in, matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill import analysis, comparison, page
from distill.comparison import RECIPES
from distill.drawing import (
    COLOURS,
    MARKERS,
    OURS,
    OURS_COLUMNS,
    error_bars,
    interval_line,
    legend_below,
    panels_of,
    paper_line,
    point_rows,
    set_style,
    temperature_axis,
)
from distill.plans import MAX_FEATURES


def success(table: pd.DataFrame) -> Figure:
    """Figure 7: success rate of the attack against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `comparison.success_table`.
    """
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        _compare(axes, rows, comparison.reported("fig7", str(dataset)), list(table["profile"].unique()))
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104))
    panels[0].set_ylabel("JSMA success rate (%)")
    _legend_of_all(panels)
    return figure


def accuracy(table: pd.DataFrame) -> Figure:
    """Figure 8: change of accuracy against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `comparison.accuracy_table`.
    """
    table = table[table["temperature"] != "none"]
    figure, panels = panels_of(table)
    if table.empty:
        panels[0].set_title("no distilled network among these temperatures")
        return figure
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        axes.axhline(0, color="0.35", linewidth=1)
        _compare(axes, rows, comparison.reported("fig8", str(dataset)), list(table["profile"].unique()))
        axes.set_title(comparison.title(str(dataset)))
    panels[0].set_ylabel("change of accuracy (points)")
    _legend_of_all(panels)
    return figure


def _compare(axes: Axes, rows: pd.DataFrame, said: Mapping[str, float], profiles: Sequence[str]) -> None:
    """Paper's values and ours at the same places, one place a temperature and one line a profile; ``profiles`` are those of all panels."""
    names = comparison.in_order(set(rows["temperature"]) | (set(said) if len(set(rows["profile"])) > 1 else set()))
    paper_line(axes, said, names, shift=-0.12)
    for number, profile in enumerate(profiles):  # the same mark in each panel
        if profile in set(rows["profile"]):
            interval_line(axes, rows[rows["profile"] == profile], names, shift=0.12 * number, marker=MARKERS[number], color=COLOURS[number],
                  label=f"ours, {RECIPES.get(profile, profile)}")  # fmt: skip
    temperature_axis(axes, names)


def _legend_of_all(panels: Sequence[Axes]) -> None:
    """In the first panel a legend of what any panel shows."""
    shown = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[0].legend(list(shown.values()), list(shown), frameon=True)


HEADLINE = {
    "float32": ("ours, gradients in float32", COLOURS[0]),
    "product": ("ours, saliency multiplied in float32", COLOURS[3]),
    "exact": ("ours, exact arithmetic", COLOURS[2]),
}
PRODUCT = {
    "float32": HEADLINE["float32"],
    "product": HEADLINE["product"],
    "product_flush": ("the same, denormals flushed to zero", COLOURS[4]),
}


def headline(table: pd.DataFrame, own: dict[str, tuple[str, Any]] = HEADLINE) -> Figure:
    """The book's one figure: the paper's values, its attack on our networks, and the same attack in exact arithmetic.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.split_table`, of one profile a data set.
    own : dict
        Of the variants shown: label and colour.
    """
    table = table[table["role"].isin(comparison.USED)]
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(set(rows["temperature"]))
        paper_line(axes, comparison.reported("fig7", str(dataset)), names)
        for number, (variant, (text, colour)) in enumerate(own.items()):
            interval_line(axes, rows[rows["variant"] == variant], names, marker=MARKERS[number], color=colour, label=text)
        temperature_axis(axes, names)
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104))
    panels[0].set_ylabel("JSMA success rate (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def split(table: pd.DataFrame) -> Figure:
    """The paper's attack and the same attack in other arithmetic, success against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.split_table`, of one profile a data set.
    """
    table = table[table["role"].isin(comparison.USED)]
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(rows["temperature"].unique())
        for number, (variant, text) in enumerate((name, analysis.VARIANTS[name]) for name in analysis.SPLIT):
            interval_line(axes, rows[rows["variant"] == variant], names, shift=0.06 * (number - 2.5), marker=MARKERS[number], markersize=5, capsize=2,
                  linestyle="-" if variant in ("float32", "exact") else ":", color=sns.color_palette("colorblind")[number], label=text)  # fmt: skip
        temperature_axis(axes, names)
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104))
    panels[0].set_ylabel(f"success within {MAX_FEATURES} features (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def robustness(table: pd.DataFrame) -> Figure:
    """Figure 10: smallest share of features towards any target against temperature, in several readings.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.robustness_table`, of one profile a data set.
    """
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(rows["temperature"].unique())
        paper_line(axes, comparison.reported("fig10", str(dataset), "robustness"), names, shift=-0.1)
        for number, (reading, text) in enumerate(analysis.READINGS.items()):
            interval_line(axes, rows[rows["reading"] == reading], names, shift=0.08 * number, marker=MARKERS[number], markersize=5, capsize=2,
                  linestyle="-" if reading in ("capped", "exact") else ":", color=COLOURS[number], label=text)  # fmt: skip
        cap = 100 * MAX_FEATURES / analysis.features_of(str(dataset))
        axes.axhline(cap, color="0.35", linewidth=1)
        axes.text(0.01, cap, "budget", transform=axes.get_yaxis_transform(), va="bottom", fontsize=9)
        temperature_axis(axes, names)
        axes.set(title=comparison.title(str(dataset)), ylim=(0, 1.12 * cap))
    panels[0].set_ylabel("features to be changed (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def invariance(table: pd.DataFrame) -> Figure:
    """Success of the paper's attack on softmax(Z / T') against T', a line a network.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.invariance_table`, of one profile a data set.
    """
    names = comparison.in_order(table["temperature"].unique())
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        for name in comparison.in_order(rows["temperature"].unique()):
            number = names.index(name)  # one colour a network in all panels
            own = rows[rows["temperature"] == name].sort_values("attack_temperature")
            colour = sns.color_palette("colorblind")[number % 10]
            axes.plot(own["attack_temperature"], own["ours"], marker=MARKERS[number % len(MARKERS)], markersize=4, color=colour,
                      label="undefended" if name == "none" else f"T = {name}")  # fmt: skip
            axes.fill_between(own["attack_temperature"], own["low"], own["high"], color=colour, alpha=0.15, linewidth=0)
            page.mark(axes, own["attack_temperature"], own["ours"],
                      point_rows(own, OURS_COLUMNS, **{"T": name, "T'": own["attack_temperature"].map("{:g}".format)}))  # fmt: skip
        axes.axvline(1, color="0.35", linewidth=1)
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104), xscale="log", xlabel="logits divided by T'")
    panels[0].set_ylabel("JSMA success rate (%)")
    legend_below(figure, panels[0], columns=5)
    return figure


def budget_curves(curves: dict[str, pd.DataFrame], *, mark: int = MAX_FEATURES) -> Figure:
    """Success against budget, a line a network; the paper's budget is marked.

    Parameters
    ----------
    curves : dict of str to DataFrame
        Label to `analysis.budget_curve`.
    mark : int
        The budget to mark.
    """
    set_style()
    figure, axes = plt.subplots(figsize=(6.4, 3.9))
    for number, (text, curve) in enumerate(curves.items()):
        colour = sns.color_palette("colorblind")[number % 10]
        axes.plot(curve["budget"], curve["ours"], color=colour, label=text)
        axes.fill_between(curve["budget"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        page.mark(
            axes,
            curve["budget"],
            curve["ours"],
            point_rows(curve, OURS_COLUMNS, series=text, budget=curve["budget"].astype(str) + " features"),
        )
    axes.axvline(mark, color="0.35", linewidth=1)
    axes.set(ylim=(-4, 104), xlabel="features that may be changed", ylabel="success of the exact attack (%)")
    axes.legend(frameon=True, loc="lower right")
    return figure


def pictures(rows: pd.DataFrame, value: float, *, columns: int = 10) -> Figure:
    """Figures 2 and 6: images and what the attack made of them, drawn from the record of the attack alone.

    Parameters
    ----------
    rows : DataFrame
        Rows of kind "attack" of the stage "gallery", in the order in which they are shown.
    value : float
        What a changed feature was set to.
    columns : int
        Pictures a line.
    """
    set_style()
    lines = -(-len(rows) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(0.95 * columns, 1.12 * lines), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (_, row) in zip(grid.flat, rows.iterrows(), strict=False):
        pixels = np.array(row["pixels"], np.float32)
        pixels[np.asarray(row["trace"], int)] = value
        _show(axes, pixels)
        mark = "" if row["success"] else " ✗"
        axes.set_title(f"{row['source']}→{row['target']}{mark}", fontsize=8, fontweight="normal", pad=2)
    return figure


def soft_labels(logits: dict[float, pd.Series], pixels: pd.Series, *, classes: int) -> Figure:
    """Images, and below each the probabilities of networks at their own temperatures.

    Parameters
    ----------
    logits : dict of float to Series
        Temperature to the logits (classes,) of each image, by test index.
    pixels : Series
        Features (n,) of the images to show, by test index.
    classes : int
    """
    set_style()
    figure, grid = plt.subplots(1 + len(logits), len(pixels), figsize=(1.7 * len(pixels), 1.3 * (1 + len(logits))), squeeze=False)
    for column, (image, values) in enumerate(pixels.items()):
        _show(grid[0, column], np.asarray(values, np.float32))
        for row, (temperature, of_network) in enumerate(logits.items(), 1):
            scaled = np.asarray(of_network[image], np.float64) / temperature
            probabilities = np.exp(scaled - scaled.max())
            axes = grid[row, column]
            axes.bar(range(classes), probabilities / probabilities.sum(), color=OURS)
            page.mark(axes, range(classes), probabilities / probabilities.sum(), [
                {"image": int(image), "T": f"{temperature:g}", "class": label, "probability": value}
                for label, value in enumerate(probabilities / probabilities.sum())])  # fmt: skip
            axes.set(yscale="log", ylim=(1e-8, 2), yticks=[1e-8, 1e-4, 1], xticks=range(0, classes, 3))
            axes.tick_params(labelsize=8)
            axes.grid(axis="x", visible=False)
            if column == 0:
                axes.set_ylabel(f"T = {temperature:g}", fontsize=9)
    return figure


def saliency(rows: pd.DataFrame) -> Figure:
    """What the first step of an attack ranks features by, a map a target.

    Parameters
    ----------
    rows : DataFrame
        Rows of the stage "gallery" of one image, with ``pixels`` and ``saliency``.
    """
    set_style()
    figure, grid = plt.subplots(2, 5, figsize=(8.2, 3.7))
    _show(grid[0, 0], np.asarray(rows["pixels"].iloc[0], np.float32))
    grid[0, 0].set_title(f"the image: {rows['source'].iloc[0]}", fontsize=9, fontweight="normal")
    for axes in list(grid.flat)[1 + len(rows) :]:
        axes.axis("off")
    for axes, (_, row) in zip(list(grid.flat)[1:], rows.iterrows(), strict=False):
        values = _planes(np.asarray(row["saliency"], np.float32)).sum(-1)
        limit = np.abs(values).max() or 1.0
        axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.axis("off")
        axes.set_title(f"towards {row['target']}", fontsize=9, fontweight="normal")
    return figure


def path(rows: pd.DataFrame, value: float) -> Figure:
    """One attack at five moments, its changed features marked.

    Parameters
    ----------
    rows : DataFrame
        One row of the stage "gallery".
    value : float
        What a changed feature was set to.
    """
    set_style()
    row = rows.iloc[0]
    figure, grid = plt.subplots(1, 5, figsize=(8.2, 2.0))
    order = np.asarray(row["trace"], int)
    for axes, part in zip(grid, np.linspace(0, 1, 5), strict=True):
        done = 2 * round(part * len(order) / 2)
        pixels = np.array(row["pixels"], np.float32)
        pixels[order[:done]] = value
        _show(axes, pixels)
        axes.set_title(f"{done} changed", fontsize=9, fontweight="normal")
    return figure


def _planes(flat: np.ndarray) -> np.ndarray:
    """Features (C * H * W,) as (H, W, C)."""
    side = 28 if flat.size == 784 else 32
    return flat.reshape(-1, side, side).transpose(1, 2, 0)


def _show(axes: Axes, flat: np.ndarray) -> None:
    image = _planes(flat)
    low, high = image.min(), image.max()
    axes.imshow((image - low) / max(high - low, 1e-6), cmap="gray", interpolation="nearest")
    axes.axis("off")


def amplitudes(table: pd.DataFrame) -> Figure:
    """Figure 9: share of images in each bin of the mean gradient amplitude, against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.amplitude_table`, of one profile a data set.
    """
    set_style()
    datasets = list(table["dataset"].unique())
    columns = analysis.ARITHMETICS
    figure, grid = plt.subplots(
        len(datasets), len(columns), figsize=(2.6 * len(columns) + 1, 3.1 * len(datasets)), squeeze=False, sharey=True
    )
    colours = sns.color_palette("viridis", len(analysis.BINS))
    for line, dataset in zip(grid, datasets, strict=True):
        for axes, (arithmetic, text) in zip(line, columns.items(), strict=True):
            rows = table[(table["dataset"] == dataset) & (table["arithmetic"] == arithmetic)]
            names = comparison.in_order(rows["temperature"].unique())
            below = np.zeros(len(names))
            for number, (low, high) in enumerate(analysis.BINS):
                own = rows[rows["bin"] == number].set_index("temperature").reindex(names)
                shares = own["ours"].fillna(0).to_numpy()
                axes.bar(
                    names, shares, bottom=below, color=colours[number], width=0.8, linewidth=0, clip_on=False, label=f"{low} to {high}"
                )
                of = point_rows(own.round({"low": 2, "high": 2}), OURS_COLUMNS, T=names, bin=f"{low} to {high}", paper=own["paper"])
                page.mark(axes, range(len(names)), below + shares, of, bottom=below, width=0.8)
                below = below + shares
            axes.set(title=f"{comparison.title(dataset)}\n{text}", ylim=(0, 100))
            axes.tick_params(labelsize=8)
            axes.grid(axis="x", visible=False)
            axes.set_xlabel("T")
        line[0].set_ylabel("images (%)")
    handles, texts = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def amplitude_quantiles(table: pd.DataFrame) -> Figure:
    """The exact mean gradient amplitude against temperature: median and the middle nine tenths of the images.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.amplitude_quantiles`, of one profile a data set.
    """
    set_style()
    figure, axes = plt.subplots(figsize=(6.8, 4.1))
    names = comparison.in_order(table["temperature"].unique())
    for number, (dataset, rows) in enumerate(table.groupby("dataset", sort=False)):
        interval_line(axes, rows, names, shift=0.1 * number, columns=("median", "q05", "q95"), marker=MARKERS[number], color=COLOURS[number],
              label=comparison.title(str(dataset)))  # fmt: skip
    for exponent, text in ((-45, "float32 ends"), (-324, "float64 ends")):
        axes.axhline(exponent, color="0.35", linewidth=1)
        axes.text(0.01, exponent, text, transform=axes.get_yaxis_transform(), va="bottom", fontsize=9)
    temperature_axis(axes, names)
    axes.set_ylabel("log10 of the mean gradient amplitude")
    axes.legend(frameon=True, loc="lower left")
    return figure


def saturation(table: pd.DataFrame) -> Figure:
    """How large the logits grow with temperature, and how often float32 rounds the largest probability to exactly 1.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.confidence_table`.
    """
    set_style()
    names = comparison.in_order(table["temperature"].unique())
    figure, panels = plt.subplots(1, 2, figsize=(9.8, 3.9))
    for number, ((profile, dataset), rows) in enumerate(table.groupby(["profile", "dataset"], sort=False)):
        own = rows.set_index("temperature").reindex(names)
        style = {
            "marker": MARKERS[number],
            "color": COLOURS[number],
            "label": f"{comparison.title(str(dataset))}, {RECIPES.get(profile, profile)}",
        }
        for axes, values in zip(panels, (own["logit_l1"], 100 * own["certain"]), strict=True):
            axes.plot(range(len(names)), values, **style)
            page.mark(
                axes,
                range(len(names)),
                values,
                [{"series": style["label"], "T": t, "value": v, "images": n} for t, v, n in zip(names, values, own["images"], strict=True)],
            )
    for axes in panels:
        temperature_axis(axes, names)
    panels[0].set(yscale="log", ylabel="mean L1 norm of the logits")
    panels[1].set(ylabel="probability exactly 1 in float32 (%)", ylim=(-4, 104))
    panels[0].legend(frameon=True)
    return figure


def ablations(table: pd.DataFrame) -> Figure:
    """Success of the paper's attack and of the exact one, a row a network.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.ablation_table`, of one profile a data set.
    """
    set_style()
    count = max(1, table["dataset"].nunique())
    heights = [len(rows) + 1 for _, rows in table.groupby("dataset", sort=False)] or [1]
    figure, panels = plt.subplots(count, 1, figsize=(8.2, 0.9 + 0.42 * len(table)), squeeze=False, height_ratios=heights)
    for axes, (dataset, rows) in zip(panels[:, 0], table.groupby("dataset", sort=False), strict=False):
        places = np.arange(len(rows))[::-1]
        for number, (column, text) in enumerate((("ours", "the paper's attack, float32"), ("exact", "in exact arithmetic"))):
            value, low, high = (rows[name].to_numpy(float) for name in (column, f"{column}_low", f"{column}_high"))
            axes.errorbar(value, places - 0.16 * number, xerr=error_bars(value, low, high), linestyle="none", marker=MARKERS[number], markersize=6, capsize=3,
                          color=COLOURS[2 * number], label=text)  # fmt: skip
            page.mark(axes, value, places - 0.16 * number, point_rows(rows, (column, f"{column}_low", f"{column}_high"), series=text,
                      network=rows["what"].to_numpy(), T=analysis.trained_at(rows)))  # fmt: skip
        names = [
            w.split(" (")[0] + ("" if t == "none" else f", T = {t}") for w, t in zip(rows["what"], analysis.trained_at(rows), strict=True)
        ]
        axes.set_yticks(places, names)
        axes.set(title=comparison.title(str(dataset)), xlim=(-4, 104), xlabel="success within 112 features (%)")
        axes.grid(axis="y", visible=False)
    legend_below(figure, panels[-1, 0], columns=2)
    return figure


TOGETHER = {  # of `analysis.teacher_table`: the network's role, the variant, and what a reader is told
    ("student", "float32"): "student: the defence",
    ("teacher", "float32"): "teacher alone: hard labels at T",
    ("student", "exact"): "student, exact arithmetic",
    ("teacher", "exact"): "teacher alone, exact arithmetic",
}


def teachers(table: pd.DataFrame) -> Figure:
    """The attack on each student and on the teacher it was distilled from, against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `analysis.teacher_table`, of one profile a data set.
    """
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(set(rows["temperature"]))
        paper_line(axes, comparison.reported("fig7", str(dataset)), names)
        for number, ((role, arithmetic), text) in enumerate(TOGETHER.items()):
            interval_line(axes, rows[rows["variant"] == arithmetic], names, shift=0.1 * (number % 2), columns=(role, f"{role}_low", f"{role}_high"), label=text,
                  marker=MARKERS[number], linestyle="-" if role == "student" else ":", color=COLOURS[0 if arithmetic == "float32" else 2])  # fmt: skip
        temperature_axis(axes, names)
        axes.set(title=comparison.title(str(dataset)), ylim=(-4, 104))
    panels[0].set_ylabel("JSMA success rate (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def training_curves(history: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy on the training batches, epoch by epoch, a line a network.

    Parameters
    ----------
    history : dict of str to DataFrame
        Label to rows of ``epoch`` and ``accuracy``.
    """
    set_style()
    figure, axes = plt.subplots(figsize=(6.4, 3.9))
    for number, (text, curve) in enumerate(history.items()):
        axes.plot(curve["epoch"], 100 * curve["accuracy"], marker=MARKERS[number % len(MARKERS)], markersize=4,
                  color=sns.color_palette("colorblind")[number % 10], label=text)  # fmt: skip
        page.mark(axes, curve["epoch"], 100 * curve["accuracy"],
                  [{"series": text, "epoch": f"epoch {e}", "value": 100 * a} for e, a in zip(curve["epoch"], curve["accuracy"], strict=True)])  # fmt: skip
    axes.set(xlabel="epoch", ylabel="accuracy on training batches (%)", ylim=(0, 101))
    axes.legend(frameon=True, loc="lower right")
    return figure

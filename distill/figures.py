"""One function a figure: rows in, matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill import analysis, comparison, metrics, page
from distill.drawing import (
    COLOURS,
    MARKERS,
    OURS,
    OURS_COLUMNS,
    RECIPES,
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

SHORT = {
    "float32": "float32",
    "flush": "float32, flushed",
    "product": "float32, product in float32",
    "product_flush": "the same, flushed",
    "float64": "float64",
    "exact": "log-softmax",
    "scaled": "softmax(Z / T)",
    "logits": "logits",
}
READINGS = {
    "capped": "failed attacks count as the budget",
    "excluded": "failed attacks left out",
    "median": "median, failed attacks above all others",
    "exact": "exact arithmetic, no budget",
}
# success and features changed where it succeeded, percent, on MNIST's test set (Papernot et al. 2016, "The limitations ...")
JSMA_PAPER = (97.05, 4.02)
LOW_BINS = 7  # of Figure 9's ten, those below 1e-10

NOTHING_SAID: Mapping[tuple[str, str, str], str] = MappingProxyType({})


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
        for number, (reading, text) in enumerate(READINGS.items()):
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


def amplitude_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.amplitude_quantiles` as a reader sees it."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "log10 of the mean amplitude: median": table["median"].map("{:.1f}".format),
        "5 % to 95 % of images": [f"{low:.1f} to {high:.1f}".replace("-", "\N{MINUS SIGN}") for low, high in zip(table["q05"], table["q95"], strict=True)],
        "derivatives exactly 0 in float32": table["float32_zero"].map("{:.1f} %".format),
        "in float64": table["float64_zero"].map("{:.1f} %".format),
        "images with no derivative left in float32": table["float32_all_zero"].map("{:.1f} %".format),
        "images": table["images"],
    })  # fmt: skip


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


def _trained_at(table: pd.DataFrame) -> np.ndarray:
    """T of each row of `analysis.ablation_table`, "none" where the labels were smoothed without one."""
    return table["temperature"].mask(table["role"] == "smoothed", "none").to_numpy()


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
                      network=rows["what"].to_numpy(), T=_trained_at(rows)))  # fmt: skip
        names = [w.split(" (")[0] + ("" if t == "none" else f", T = {t}") for w, t in zip(rows["what"], _trained_at(rows), strict=True)]
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


def teacher_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.teacher_table` as a reader sees it: a row a temperature, both arithmetics side by side."""
    lines = []
    for (profile, dataset, temperature), pair in table.groupby(["profile", "dataset", "temperature"], sort=False):
        line = {"data set": comparison.title(str(dataset)), "training": RECIPES.get(profile, profile), "T": temperature}
        for _, row in pair.iterrows():
            where, digits = {"float32": ("", 2), "exact": (", exact", 1)}[row["variant"]]
            line |= {
                f"teacher{where} (%)": metrics.interval_text(row["teacher"], row["teacher_low"], row["teacher_high"], digits),
                f"student{where} (%)": metrics.interval_text(row["student"], row["student_low"], row["student_high"], digits),
                f"change{where} (points)": metrics.interval_text(row["change"], row["change_low"], row["change_high"], digits, sign=True),
            }
        lines.append(line | {"images": _images_met(pair.set_index("variant")["images"].rename(SHORT))})
    return pd.DataFrame(lines).fillna("–")


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


# --- tables as a reader sees them --------------------------------------------------------------------------


def clean_accuracy(networks: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Test accuracy of the networks that are attacked, as a reader sees it, by profile, data set and temperature; of rows of kind "model"."""
    return {
        (row["profile"], row["dataset"], comparison.label(row["role"], row["temperature"])): f"{row['accuracy']:.2%}"
        for _, row in networks[networks["role"].isin(comparison.USED)].iterrows()
    }


def success_text(table: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """`comparison.success_table` as a reader sees it, with the clean accuracy of each network."""
    clean = clean_accuracy(networks)
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "ours (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "attacks (images)": [f"{a:,} ({i:,})" for a, i in zip(table["attacks"], table["images"], strict=True)],
        "features changed": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["features"]],
        "clean accuracy": [clean.get(key, "–") for key in zip(table["profile"], table["dataset"], table["temperature"], strict=True)],
        "verdict": table["verdict"],
    })  # fmt: skip


def paper_sized_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.paper_sized` as a reader sees it."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "first 100 images (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "95 % of draws of 100 images (%)": [f"{low:.2f} to {high:.2f}" for low, high in zip(table["least"], table["most"], strict=True)],
        "all images (%)": [f"{v:.2f} ({n:,})" for v, n in zip(table["whole"], table["of"], strict=True)],
        "the paper's value among the draws": ["–" if math.isnan(p) else "yes" if w else "no" for p, w in zip(table["paper"], table["within"], strict=True)],
    })  # fmt: skip


def accuracy_text(table: pd.DataFrame) -> pd.DataFrame:
    """`comparison.accuracy_table` as a reader sees it."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "accuracy (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["accuracy"], table["accuracy_low"], table["accuracy_high"], strict=True)],
        "its teacher (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["teacher"]],
        "test images": [f"{n:,}" for n in table["images"]],
        "paper's change (points)": ["–" if math.isnan(v) else f"{v:+.2f}".replace("-", "\N{MINUS SIGN}") for v in table["paper"]],
        "our change [95 % interval]": [metrics.interval_text(*v, digits=2, sign=True) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "verdict": ["the plain network" if t == "none" else v for t, v in zip(table["temperature"], table["verdict"], strict=True)],
    })  # fmt: skip


def split_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.split_table` as a reader sees it."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "what is differentiated": [analysis.VARIANTS[v] for v in table["variant"]],
        "success (%) [95 % interval]": [metrics.interval_text(*v) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "attacks (images)": [f"{a:,} ({i:,})" for a, i in zip(table["attacks"], table["images"], strict=True)],
        "features changed": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["features"]],
        "gradient exactly zero": [f"{v:.1%}" for v in table["zero_gradient"]],
        "no valid pair": [f"{v:.1%}" for v in table["no_valid_pair"]],
        "over budget": [f"{v:.1%}" for v in table["over_budget"]],
        "without budget (%)": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["unlimited"]],
    })  # fmt: skip


def _images_met(counts: pd.Series) -> str:
    """How many images most of these met (the larger number, where as many met either), and which met another number."""
    usual = counts.mode().max()
    others = counts[counts != usual]
    return "; ".join([f"{usual:,}", *(f"{', '.join(others.index[others == n])}: {n:,}" for n in others.unique())])


def split_short(
    table: pd.DataFrame, shown: Sequence[str] = analysis.SPLIT, clean: Mapping[tuple[str, str, str], str] = NOTHING_SAID
) -> pd.DataFrame:
    """`analysis.split_table` with a row a network and a column an arithmetic, those ``shown``: success with its interval.

    ``images`` is of `_images_met`; with `clean_accuracy` given there is a column of it.
    """
    own = table[table["role"].isin(comparison.USED) & table["variant"].isin(shown)]
    keys = ["profile", "dataset", "temperature"]
    text = [metrics.interval_text(*v) for v in zip(own["ours"], own["low"], own["high"], strict=True)]
    counts = {}
    for key, group in own.groupby(keys, sort=False):
        counts[key] = _images_met(group.set_index("variant")["images"].rename(SHORT))
    wide = own.assign(text=text).pivot_table(index=keys, columns="variant", values="text", aggfunc="first", sort=False)
    wide = wide.reindex(pd.MultiIndex.from_frame(own[keys].drop_duplicates()))  # in the table's order
    wide = wide.reindex(columns=[variant for variant in shown if variant in wide]).fillna("–").reset_index()
    wide.insert(3, "images", [counts[key] for key in zip(wide["profile"], wide["dataset"], wide["temperature"], strict=True)])
    if clean:
        wide.insert(
            3, "clean accuracy", [clean.get(key, "–") for key in zip(wide["profile"], wide["dataset"], wide["temperature"], strict=True)]
        )
    wide["profile"] = [RECIPES.get(p, p) for p in wide["profile"]]
    wide["dataset"] = [comparison.title(d) for d in wide["dataset"]]
    wide = wide.rename(columns={"profile": "training", "dataset": "data set", "temperature": "T", **SHORT})
    return wide.rename_axis(columns=None)


def seed_text(table: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """`analysis.seed_table` as a reader sees it."""
    variants = {"attack": [SHORT[v] for v in table["variant"]]} if "variant" in table else {}
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"], **variants,
        "each seed": [", ".join(f"{value:.{digits}f}" for value in each) for each in table["each"]],
        "standard deviation over seeds": table["standard_deviation"].map(f"{{:.{digits}f}}".format),
        "standard error over images": table["standard_error"].map(f"{{:.{digits}f}}".format),
        "images": [f"{n:,}" for n in table["images"]],
    })  # fmt: skip


def robustness_text(table: pd.DataFrame, verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID) -> pd.DataFrame:
    """`analysis.robustness_table` as a reader sees it, one column a reading, and the verdict on the first, of `claims.verdicts`."""
    rows = []
    for (profile, dataset, temperature), group in table.groupby(["profile", "dataset", "temperature"], sort=False):
        readings = group.set_index("reading")
        row = {"data set": comparison.title(dataset), "training": RECIPES.get(profile, profile), "T": temperature}
        paper = group["paper"].iloc[0]
        row["paper (%)"] = "–" if math.isnan(paper) else f"{paper:.2f}"
        for reading, text in READINGS.items():
            row[f"{text} (%)"] = "–"
            if reading in readings.index:
                value, low, high = (float(readings.loc[reading, column]) for column in ("ours", "low", "high"))
                row[f"{text} (%)"] = metrics.interval_text(value, low, high, 2).replace("\N{NO-BREAK SPACE}[", " [")  # many columns
            if reading == "capped" and verdicts:
                row["verdict on that"] = verdicts.get((str(profile), str(dataset), str(temperature)), "–")
        row["images"] = _images_met(readings["attacked"].rename({name: text.split(",")[0] for name, text in READINGS.items()}))
        row["broken"] = f"{readings.loc['capped', 'broken']:,}" if "capped" in readings.index else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def confidence_text(
    table: pd.DataFrame,
    verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID,
    of_maximum: Mapping[tuple[str, str, str], str] = NOTHING_SAID,
) -> pd.DataFrame:
    """Confidence of `analysis.confidence_table` as a reader sees it; the verdicts are of `claims.verdicts`, on confidence and on the largest probability."""
    of_students = [
        (p, d, t) if r == "student" else ("", "", "")
        for p, d, r, t in zip(table["profile"], table["dataset"], table["role"], table["temperature"], strict=True)
    ]
    return pd.DataFrame({
        **_named(table),
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "confidence (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        **({"verdict": [verdicts.get(key, "–") for key in of_students]} if verdicts else {}),
        "largest probability at its T: paper": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper_maximum"]],
        "ours": [f"{v:.2f}" for v in table["maximum"]],
        **({"verdict on that": [of_maximum.get(key, "–") for key in of_students]} if of_maximum else {}),
        "test images": [f"{n:,}" for n in table["images"]],
    })  # fmt: skip


def logits_text(table: pd.DataFrame) -> pd.DataFrame:
    """What makes the confidence of `analysis.confidence_table`, as a reader sees it: how large the logits are."""
    return pd.DataFrame({
        **_named(table),
        "probability exactly 1 in float32": [f"{v:.1%}" for v in table["certain"]],
        "gap of the two largest logits": [f"{v:.1f}" for v in table["gap"]],
        "L1 norm of the logits": [f"{v:,.0f}" for v in table["logit_l1"]],
        "test images": [f"{n:,}" for n in table["images"]],
    })  # fmt: skip


def _named(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns that say of which network a row is, teachers among them."""
    return {
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "network": [str(r) for r in table["role"]],
        "T": [str(t) for t in table["temperature"]],
    }


def ablation_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.ablation_table` as a reader sees it."""

    def cells(name: str, low: str, high: str, digits: int) -> list[str]:
        return [
            "–" if math.isnan(v[0]) else metrics.interval_text(*v, digits=digits)
            for v in zip(table[name], table[low], table[high], strict=True)
        ]

    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": _trained_at(table),
        "what was done": [w + (" (stayed at chance)" if c else "") for w, c in zip(table["what"], table["at_chance"], strict=True)],
        "accuracy (%) [95 % interval]": cells("accuracy", "accuracy_low", "accuracy_high", 2),
        "the paper's attack (%)": cells("ours", "ours_low", "ours_high", 1),
        "in exact arithmetic (%)": cells("exact", "exact_low", "exact_high", 1),
        "images (the paper's attack)": table["images"],
    })  # fmt: skip


def undefended_text(
    attacks: pd.DataFrame, networks: pd.DataFrame, verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID
) -> pd.DataFrame:
    """The paper's attack on the undefended networks: success and features changed, with the clean accuracy of each.

    Parameters
    ----------
    attacks, networks : DataFrame
        Rows of kind "attack" and "model"; of the attacks those on the undefended networks count.
    verdicts : mapping
        Of `claims.verdicts`, on success.
    """
    clean, lines = clean_accuracy(networks), []
    for (profile, dataset), group in attacks[attacks["role"] == "plain"].groupby(["profile", "dataset"], sort=False):
        rate, paper = metrics.success_rate(group), comparison.reported("fig7", str(dataset)).get("none", math.nan)
        lines.append({
            "data set": comparison.title(str(dataset)), "training": RECIPES.get(str(profile), str(profile)),
            "clean accuracy": clean.get((profile, dataset, "none"), "–"), "paper (%)": "–" if math.isnan(paper) else f"{paper:.2f}",
            "ours (%) [95 % interval]": percent_text(rate), "verdict": verdicts.get((str(profile), str(dataset), "none"), "–"),
            "attacks (images)": f"{rate.n:,} ({rate.clusters:,})", "features changed where it succeeded (%)": _features_text(group, str(dataset)),
        })  # fmt: skip
    return pd.DataFrame(lines)


def _features_text(attacks: pd.DataFrame, dataset: str) -> str:
    """Features changed by the attacks that succeeded, with its interval, in percent of all features."""
    changed, share = metrics.features_changed(attacks), 100 / analysis.features_of(dataset)
    return metrics.interval_text(changed.value * share, changed.low * share, changed.high * share, 2)


def jsma_paper_text(attacks: pd.DataFrame) -> pd.DataFrame:
    """The attack that differentiates the logits, as the JSMA paper's did, beside the one on the softmax: on MNIST, undefended.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", all variants.
    """
    own = attacks[analysis.variant(attacks).isin(["float32", "logits"]) & (attacks["role"] == "plain") & (attacks["dataset"] == "mnist")]
    success, changed = JSMA_PAPER
    lines = []
    for (profile, output), group in own.groupby(["profile", "output"], sort=False):
        rate, same = metrics.success_rate(group), output == "logits"
        lines.append({
            "training": RECIPES.get(str(profile), str(profile)), "differentiated": str(output), "JSMA paper: success (%)": f"{success:.2f}" if same else "–",
            "ours (%) [95 % interval]": percent_text(rate), "JSMA paper: features changed (%)": f"{changed:.2f}" if same else "–",
            "our features changed (%)": _features_text(group, "mnist"), "attacks (images)": f"{rate.n:,} ({rate.clusters:,})",
        })  # fmt: skip
    return pd.DataFrame(lines)


def first_bin_text(table: pd.DataFrame, verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID) -> pd.DataFrame:
    """The first bin of `analysis.amplitude_table`, a column an arithmetic; the verdicts are of `claims.verdicts`, on float32."""
    lines = []
    for (profile, dataset, at), group in table[table["bin"] == 0].groupby(["profile", "dataset", "temperature"], sort=False):
        paper, cells = group["paper"].iloc[0], group.set_index("arithmetic")
        line = {
            "data set": comparison.title(dataset),
            "training": RECIPES.get(profile, profile),
            "T": at,
            "paper (%)": "–" if math.isnan(paper) else f"{paper:.1f}",
        }
        for arithmetic, text in analysis.ARITHMETICS.items():
            line[f"{text} (%)"] = "–"
            if arithmetic in cells.index:
                ours, low, high = (float(cells.loc[arithmetic, column]) for column in ("ours", "low", "high"))
                line[f"{text} (%)"] = metrics.interval_text(ours, low, high)
        lines.append({**line, "verdict on float32": verdicts.get((profile, dataset, at), "–"), "images": f"{group['images'].iloc[0]:,}"})
    return pd.DataFrame(lines)


def bins_text(table: pd.DataFrame) -> pd.DataFrame:
    """All bins of `analysis.amplitude_table` in float32, paper / ours in percent, a row a bin and a column a temperature that the paper has."""
    own, lines = table[(table["arithmetic"] == "float32") & table["paper"].notna()], []
    for (profile, dataset, number), cells in own.groupby(["profile", "dataset", "bin"], sort=False):
        low, high = analysis.BINS[number]
        values = cells.set_index("temperature")
        lines.append({"data set": comparison.title(dataset), "training": RECIPES.get(profile, profile), "mean amplitude": f"{low} to {high}"} | {
            "undefended" if at == "none" else f"T = {at}": f"{values.loc[at, 'paper']:.1f} / {values.loc[at, 'ours']:.1f}" for at in comparison.in_order(values.index)
        })  # fmt: skip
    return pd.DataFrame(lines).fillna("–")


def between_text(table: pd.DataFrame) -> pd.DataFrame:
    """Share of images below 1e-10, the seven lowest bins of `analysis.amplitude_table`, in float32: whether the paper's lies between our trainings'."""
    own = table[(table["arithmetic"] == "float32") & (table["bin"] < LOW_BINS) & table["paper"].notna()]
    sums = own.groupby(["dataset", "temperature", "profile"], sort=False)[["paper", "ours"]].sum().reset_index()
    lines = []
    for (dataset, at), group in sums.groupby(["dataset", "temperature"], sort=False):
        paper = group["paper"].iloc[0]
        inside = "–" if len(group) < 2 else "yes" if group["ours"].min() <= paper <= group["ours"].max() else "no"
        lines.append({
            "data set": comparison.title(dataset), "T": at, "paper (%)": f"{paper:.1f}",
            **{f"{RECIPES.get(p, p)} (%)": f"{ours:.1f}" for p, ours in zip(group["profile"], group["ours"], strict=True)}, "paper between the two": inside,
        })  # fmt: skip
    return pd.DataFrame(lines).fillna("–")


def claims_count(table: pd.DataFrame) -> pd.DataFrame:
    """How many of the paper's numbers got which verdict, a row a figure or section and data set of `claims.judge`."""
    own = table.assign(dataset=table["dataset"].map(comparison.title))
    counts = own.groupby(["section", "dataset"], sort=False)["verdict"].value_counts().unstack(fill_value=0)
    columns = [name for name in (comparison.REPRODUCED, comparison.DIRECTION, comparison.NOT, "not on record") if name in counts]
    counts = counts[columns].reindex(pd.MultiIndex.from_frame(own[["section", "dataset"]].drop_duplicates()))
    counts.insert(0, "numbers", counts.sum(axis=1))
    return counts.reset_index().rename(columns={"dataset": "data set"}).rename_axis(columns=None)


def claims_text(table: pd.DataFrame) -> pd.DataFrame:
    """`claims.judge` as a reader sees it, each claim with a link to its chapter."""
    return pd.DataFrame({
        "claim": [f'<a href="{c}.html">{t}</a>' for t, c in zip(table["claim"], table["chapter"], strict=True)],
        "section": table["section"],
        "paper": [f"{v:.2f}".replace("-", "\N{MINUS SIGN}") for v in table["paper"]],
        "ours [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "n": [f"{n:,}" if n else "–" for n in table["n"]],
        "training": [RECIPES.get(p, "–") for p in table["profile"]],
        "verdict": table["verdict"],
    })  # fmt: skip


def percent_text(share: metrics.Estimate) -> str:
    """A share with its interval, in percent."""
    return metrics.interval_text(*share.times(100)[:3], digits=2)


def status_text(attacks: pd.DataFrame) -> pd.DataFrame:
    """Why attacks stopped: their share by status, a row a network."""
    named = attacks.assign(T=[comparison.label(r, t) for r, t in zip(attacks["role"], attacks["temperature"], strict=True)])
    keys = ["profile", "dataset", "T"]
    shares = named.groupby(keys, sort=False)["status"].value_counts(normalize=True).unstack(fill_value=0.0)
    shares = shares.reindex(pd.MultiIndex.from_frame(named[keys].drop_duplicates()))  # in the rows' order
    columns = [name for name in ("SUCCESS", "BUDGET", "NO_VALID_PAIR", "ZERO_GRADIENT") if name in shares]
    text = shares[columns].map(lambda share: f"{share:.1%}").reset_index()
    text["dataset"] = [comparison.title(d) for d in text["dataset"]]
    text["profile"] = [RECIPES.get(p, p) for p in text["profile"]]
    return text.rename(columns={"dataset": "data set", "profile": "training"}).rename_axis(columns=None)


def html(table: pd.DataFrame, *, escape: bool = True) -> str:
    """A table as HTML for a page; without ``escape`` its cells may be HTML themselves."""
    return table.to_html(index=False, border=0, justify="left", classes="comparison", na_rep="–", escape=escape)


def by_recipe(table: pd.DataFrame) -> str:
    """A table as `html`, its rows parted by their recipe: the paper's own stand open, those of each other recipe can be unfolded.

    Parameters
    ----------
    table : DataFrame
        With a column ``training``, which becomes the heading of each part.
    """
    known = list(RECIPES.values())
    parts = {str(name): rows.drop(columns="training") for name, rows in table.groupby("training", sort=False)}
    if not parts:
        return html(table)
    first, *others = sorted(parts, key=lambda name: known.index(name) if name in known else len(known))
    return f'<p class="recipe">By {first}</p>\n{html(parts[first])}' + "".join(
        f'\n<details class="recipe"><summary>{name.capitalize()}: {len(parts[name])} more rows</summary>\n{html(parts[name])}</details>'
        for name in others
    )

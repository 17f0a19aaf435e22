"""Figures and tables of the chapter on published attacks."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from distill import checks, comparison, metrics
from distill.attacks.adapters import ATTACKS
from distill.comparison import RECIPES
from distill.drawing import COLOURS, MARKERS, interval_line, legend_below, panels_of, temperature_axis

NAMES = {
    "fgsm": "FGSM",
    "fgsm_dl": "FGSM, difference of logits",
    "pgd": "PGD",
    "pgd_dl": "PGD, difference of logits",
    "apgd_ce": "APGD, cross-entropy",
    "apgd_dlr": "APGD, logit ratio (DLR)",
    "square": "Square (no gradient)",
    "carlini_wagner_l2": "Carlini & Wagner L2",
    "ddn": "DDN",
    "fmn_l0": "FMN L0",
    "fmn_l1": "FMN L1",
    "fmn_l2": "FMN L2",
    "fmn_linf": "FMN L∞",
    "sigma_zero": "σ-zero",
    "hop_skip_jump": "HopSkipJump (classes only)",
    "transfer": "transfer from the undefended network",
    "random": "random signs (control)",
    "random_features": "random features (control)",
}
NORMS = {"l0": "L0 (pixels)", "l1": "L1", "l2": "L2", "linf": "L∞"}
BESIDE = {"jsma": "JSMA, the paper's", "fgsm": "FGSM, logits as they are", "pgd": "PGD, logits as they are",
          "fgsm divided": "FGSM, logits divided by T", "pgd divided": "PGD, logits divided by T",
          "fgsm_dl": "FGSM, difference of logits", "pgd_dl": "PGD, difference of logits"}  # fmt: skip
LINES = {"clean": "no attack", "one": "PGD on the undivided logits", "within": "union of all attacks in the same ball"}


def robust_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy that is left, against temperature: without attack, after one that trusts the softmax, after the union of all.

    Parameters
    ----------
    table : DataFrame
        Of `soundness.robust_accuracy`, of one profile a data set.
    """
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(rows["temperature"].unique())
        for number, (column, text) in enumerate(LINES.items()):
            interval_line(axes, rows, names, shift=0.07 * (number - 1), columns=(column, f"{column}_low", f"{column}_high"), marker=MARKERS[number],
                  color=COLOURS[number], label=text)  # fmt: skip
        temperature_axis(axes, names)
        radius = rows["radius"].iloc[0]
        axes.set(title=f"{comparison.title(str(dataset))}, L∞ ≤ {radius:.2g}", ylim=(-4, 104))
    panels[0].set_ylabel("accuracy (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def beside_jsma(table: pd.DataFrame) -> Figure:
    """The paper's attack, FGSM and PGD, success against temperature.

    Parameters
    ----------
    table : DataFrame
        Of `soundness.beside_jsma`, of one profile a data set.
    """
    figure, panels = panels_of(table)
    for axes, (dataset, rows) in zip(panels, table.groupby("dataset", sort=False), strict=True):
        names = comparison.in_order(rows["temperature"].unique())
        for number, (line, text) in enumerate(BESIDE.items()):
            own = rows[rows["line"] == line]
            interval_line(axes, own, names, shift=0.07 * (number - 3), marker=MARKERS[number], color=COLOURS[number], label=text)
        temperature_axis(axes, names)
        axes.set(title=f"{comparison.title(str(dataset))}, FGSM and PGD L∞ ≤ {rows['radius'].max():.2g}", ylim=(-4, 104))
    panels[0].set_ylabel("success rate (%)")
    legend_below(figure, panels[0], columns=2)
    return figure


def beside_text(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.beside_jsma` as a reader sees it: a row a network, a column an attack, in whole percent but for JSMA."""
    heads = {"jsma": "JSMA", "fgsm": "FGSM", "fgsm divided": "FGSM, Z / T", "fgsm_dl": "FGSM, two logits",
             "pgd": "PGD", "pgd divided": "PGD, Z / T", "pgd_dl": "PGD, two logits"}  # fmt: skip
    rows = []
    for (profile, dataset, temperature), group in table.groupby(["profile", "dataset", "temperature"], sort=False):
        found = {row["line"]: (row["ours"], row["low"], row["high"]) for _, row in group.iterrows()}
        cells = {
            head: metrics.interval_text(*found[line], digits=int(line == "jsma")) if line in found else "–" for line, head in heads.items()
        }
        rest = group[group["line"] != "jsma"]
        met = "–" if rest.empty else f"{int(rest['images'].max()):,} ({rest['clean'].max():.1f} %)"
        met += "".join(f"; JSMA: {n:,}" for n in group.loc[group["line"] == "jsma", "images"])
        rows.append({"data set": comparison.title(dataset), "training": RECIPES.get(profile, profile), "T": temperature, **cells,
                     "images (clean)": met})  # fmt: skip
    return pd.DataFrame(rows)


def attack_text(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.attack_table` as a reader sees it."""
    names = [
        NAMES[name] + (", twice the steps" if name in ATTACKS and steps != ATTACKS[name].steps else "")
        for name, steps in zip(table["attack"], table["steps"], strict=True)
    ]
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "attack": names,
        "logits divided by": [f"{v:g}" for v in table["divided"]],
        "bound": ["none" if math.isnan(r) else f"L∞ ≤ {r:.3g}" for r in table["radius"]],
        "success (%) [95 % interval]": [metrics.interval_text(*v) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "median distance": ["–" if math.isnan(d) else f"{d:.3g} {NORMS[n]}" for d, n in zip(table["distance"], table["norm"], strict=True)],
        "images (clean accuracy)": [f"{n:,} ({c:.1f} %)" for n, c in zip(table["images"], table["clean"], strict=True)],
        "forward passes an image": [f"{v:,.0f}" for v in table["passes"]],
    })  # fmt: skip


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.attack_table` with a row an attack and scale, and a column a network: success in percent."""
    own = table[[name not in ATTACKS or steps == ATTACKS[name].steps for name, steps in zip(table["attack"], table["steps"], strict=True)]]
    scale = ["1" if d == 1 else "T" for d in own["divided"]]
    text = [metrics.interval_text(*v, digits=0) for v in zip(own["ours"], own["low"], own["high"], strict=True)]
    named = own.assign(scale=scale, text=text, attack=[NAMES[name] for name in own["attack"]],
                       network=["undefended" if t == "none" else f"T = {t}" for t in own["temperature"]])  # fmt: skip
    columns = ["undefended", *(f"T = {t}" for t in comparison.in_order(own["temperature"].unique()) if t != "none")]
    free = {NAMES[name]: spec.scale_free for name, spec in ATTACKS.items()} | {NAMES["random_features"]: True}
    out = []
    for (attack, scale_), group in named.groupby(["attack", "scale"], sort=False):
        if scale_ == "1" and free[attack] and (named["attack"].eq(attack) & named["scale"].eq("T")).any():
            continue  # the undefended network, or T = 1, of an attack whose scale does not matter: shown in its other row
        pool = (
            named[named["attack"].eq(attack)]
            if free[attack]
            else pd.concat([group, named[named["attack"].eq(attack) & named["divided"].eq(1)]])
        )
        cells = pool.drop_duplicates("network").set_index("network")["text"]
        out.append({"attack": attack, "logits": "not varied" if free[attack] else "divided by T" if scale_ == "T" else "undivided",
                    **{name: cells.get(name, "–") for name in columns if name in set(named["network"])}})  # fmt: skip
    return pd.DataFrame(out).sort_values("attack", key=lambda names: names.map(list(NAMES.values()).index), kind="stable")


def robust_text(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.robust_accuracy` as a reader sees it."""

    def cells(column: str) -> list[str]:
        return [metrics.interval_text(*v) for v in zip(table[column], table[f"{column}_low"], table[f"{column}_high"], strict=True)]

    return pd.DataFrame({
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": table["temperature"],
        "ball": [f"L∞ ≤ {r:.2g}" for r in table["radius"]],
        "no attack (%)": cells("clean"),
        "PGD, undivided logits (%)": cells("one"),
        "union within the ball (%)": cells("within"),
        "union at any distance (%)": cells("any"),
        "images": table["images"],
    })  # fmt: skip


def distance_text(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.distances` as a reader sees it: ours and Carlini & Wagner's, a row a network and norm."""
    rows = []
    for (profile, dataset, temperature, attack), group in table.groupby(["profile", "dataset", "temperature", "attack"], sort=False):
        row = {"data set": comparison.title(dataset), "training": RECIPES.get(profile, profile), "T": temperature,
               "norm": NORMS[group["norm"].iloc[0]], "attack": NAMES[attack]}  # fmt: skip
        for _, case in group.iterrows():
            digits = 1 if case["norm"] == "l0" else 2 if case["norm"] == "l2" else 3
            row[f"{case['case']} target [95 % interval]"] = metrics.interval_text(case["ours"], case["low"], case["high"], digits)
        theirs = group["theirs"]
        row["Carlini & Wagner: best / average / worst"] = "–" if theirs.isna().any() else " / ".join(f"{v:g}" for v in theirs)
        row["success (%)"] = f"{group['success'].iloc[0]:.1f}"
        row["images"] = group["images"].iloc[0]
        rows.append(row)
    return pd.DataFrame(rows)


def checklist_text(table: pd.DataFrame) -> pd.DataFrame:
    """`soundness.checklist` as a reader sees it: a row a question and network, the two ways side by side."""
    text = [
        f"{'yes' if h else 'NO'} ({a:.0f} against {b:.0f} %)"
        for h, a, b in zip(table["holds"], table["first"], table["second"], strict=True)
    ]
    keys = ["dataset", "temperature", "question"]
    wide = table.assign(text=text).pivot_table(index=keys, columns="way", values="text", aggfunc="first", sort=False)
    wide = wide.reindex(pd.MultiIndex.from_frame(table[keys].drop_duplicates()), columns=["naive", "sound"])  # in the table's order
    wide = wide.fillna("–").reset_index().rename_axis(columns=None)
    wide["dataset"] = [comparison.title(d) for d in wide["dataset"]]
    return wide.rename(columns={"dataset": "data set", "temperature": "T", "naive": "attack out of the box", "sound": "logits divided by T, and attacks on logits"})  # fmt: skip


def flags_text(diagnoses: pd.DataFrame) -> pd.DataFrame:
    """Rows of kind "diagnosis" as a reader sees them, each flag with a link to its explanation."""
    return pd.DataFrame({
        "data set": [comparison.title(d) for d in diagnoses["dataset"]],
        "T": [comparison.label(r, t) for r, t in zip(diagnoses["role"], diagnoses["temperature"], strict=True)],
        "logits divided by": [f"{v:g}" for v in diagnoses["attack_temperature"]],
        "flag": [f'<a href="warnings.html#{f.lower().replace("_", "-")}">{f}</a>' if f in checks.EXPLANATIONS else "none" for f in diagnoses["flag"]],
        "what was seen": diagnoses["message"],
        "images drawn": diagnoses["images"],
    })  # fmt: skip

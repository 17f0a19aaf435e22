"""The picture that a link to the book is shown with, drawn from records."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from distill import analysis, comparison, experiments, figures


def draw(path: Path, *, profile: str = "published", store: str | None = None) -> str:
    """Draw the headline's figure as 1200 x 630 pixels, and say what it shows: the sentence is also the file's own description.

    Parameters
    ----------
    path : Path
        Of the PNG to write.
    profile : str
        See `experiments.results`.
    store : str, optional
        See `experiments.results`.

    Returns
    -------
    str
        The sentence.
    """
    table = analysis.split_table(experiments.results(profile, store=store, stages=("train", "attack", "split"))["attack"])
    own = table[table["variant"].isin(["float32", "exact"]) & table["role"].isin(comparison.USED)]
    exact = own[own["variant"] == "exact"]
    recipe = {name: group["profile"].iloc[0] for name, group in (own if exact.empty else exact).groupby("dataset", sort=False)}
    own = own[own["dataset"].map(recipe) == own["profile"]]
    said = []
    for name, rows in own.groupby("dataset", sort=False):
        wide = rows.pivot(index="temperature", columns="variant", values="ours").dropna().drop(index="none", errors="ignore")
        for at in comparison.in_order(wide.index)[-1:]:
            rates = " in float32 and ".join(f"{wide.loc[at, variant]:.1f} %" for variant in ("float32", "exact") if variant in wide)
            said.append(f"{comparison.title(str(name))} at T = {at}: {rates} in exact arithmetic")
    sentence = "JSMA's success rate on distilled networks. " + "; ".join(said) + "."
    figure = figures.headline(own)
    figure.set_size_inches(8, 4.2)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # inches
    figure.suptitle("Defensive distillation, replicated", fontsize=17, fontweight="bold")
    figure.savefig(path, dpi=150, metadata={"Description": sentence, "Software": None})
    plt.close(figure)
    return sentence

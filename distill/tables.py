"""Tables as a reader sees them: measured rows in, formatted text out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from distill import analysis, comparison, metrics
from distill.comparison import RECIPES

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
# success and features changed where it succeeded, percent, on MNIST's test set (Papernot et al. 2016, "The limitations ...")
JSMA_PAPER = (97.05, 4.02)
LOW_BINS = 7  # of Figure 9's ten, those below 1e-10

NOTHING_SAID: Mapping[tuple[str, str, str], str] = MappingProxyType({})


def html(table: pd.DataFrame, *, escape: bool = True) -> str:
    """A table as HTML for a page; without ``escape`` its cells may be HTML themselves."""
    drawn = table.to_html(index=False, border=0, justify="left", classes="comparison", na_rep="–", escape=escape)
    return re.sub(r"<td>-(?=\d|inf)", "<td>\N{MINUS SIGN}", drawn)  # as numbers with an interval have it


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


def percent_text(share: metrics.Estimate) -> str:
    """A share with its interval, in percent."""
    return metrics.interval_text(*share.times(100)[:3], digits=2)


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
        **_used(table),
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "ours (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "attacks (images)": [f"{a:,} ({i:,})" for a, i in zip(table["attacks"], table["images"], strict=True)],
        "features changed": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["features"]],
        "clean accuracy": [clean.get(key, "–") for key in zip(table["profile"], table["dataset"], table["temperature"], strict=True)],
        "verdict": table["verdict"],
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


def paper_sized_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.paper_sized` as a reader sees it."""
    return pd.DataFrame({
        **_used(table),
        "paper (%)": ["–" if math.isnan(v) else f"{v:.2f}" for v in table["paper"]],
        "first 100 images (%) [95 % interval]": [metrics.interval_text(*v, digits=2) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "95 % of draws of 100 images (%)": [f"{low:.2f} to {high:.2f}" for low, high in zip(table["least"], table["most"], strict=True)],
        "all images (%)": [f"{v:.2f} ({n:,})" for v, n in zip(table["whole"], table["of"], strict=True)],
        "the paper's value among the draws": ["–" if math.isnan(p) else "yes" if w else "no" for p, w in zip(table["paper"], table["within"], strict=True)],
    })  # fmt: skip


def status_text(attacks: pd.DataFrame) -> pd.DataFrame:
    """Why attacks stopped: their share by status, a row a network."""
    named = attacks.assign(T=[comparison.label(r, t) for r, t in zip(attacks["role"], attacks["temperature"], strict=True)])
    keys = ["profile", "dataset", "T"]
    shares = named.groupby(keys, sort=False)["status"].value_counts(normalize=True).unstack(fill_value=0.0)
    shares = shares.reindex(pd.MultiIndex.from_frame(named[keys].drop_duplicates()))  # in the rows' order
    columns = [name for name in ("SUCCESS", "BUDGET", "NO_VALID_PAIR", "ZERO_GRADIENT") if name in shares]
    text = shares[columns].map(lambda share: f"{share:.1%}")
    text["attacks"] = named.groupby(keys, sort=False).size().map("{:,}".format)
    text = text.reset_index()
    text["dataset"] = [comparison.title(d) for d in text["dataset"]]
    text["profile"] = [RECIPES.get(p, p) for p in text["profile"]]
    return text.rename(columns={"dataset": "data set", "profile": "training"}).rename_axis(columns=None)


def accuracy_text(table: pd.DataFrame) -> pd.DataFrame:
    """`comparison.accuracy_table` as a reader sees it."""
    return pd.DataFrame({
        **_used(table),
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
        **_used(table),
        "what is differentiated": [analysis.VARIANTS[v] for v in table["variant"]],
        "success (%) [95 % interval]": [metrics.interval_text(*v) for v in zip(table["ours"], table["low"], table["high"], strict=True)],
        "attacks (images)": [f"{a:,} ({i:,})" for a, i in zip(table["attacks"], table["images"], strict=True)],
        "features changed": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["features"]],
        "gradient exactly zero": [f"{v:.1%}" for v in table["zero_gradient"]],
        "no valid pair": [f"{v:.1%}" for v in table["no_valid_pair"]],
        "over budget": [f"{v:.1%}" for v in table["over_budget"]],
        "without budget (%)": ["–" if math.isnan(v) else f"{v:.1f}" for v in table["unlimited"]],
    })  # fmt: skip


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


def _images_met(counts: pd.Series) -> str:
    """How many images most of these met (the larger number, where as many met either), and which met another number."""
    usual = counts.mode().max()
    others = counts[counts != usual]
    return "; ".join([f"{usual:,}", *(f"{', '.join(others.index[others == n])}: {n:,}" for n in others.unique())])


def robustness_text(table: pd.DataFrame, verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID) -> pd.DataFrame:
    """`analysis.robustness_table` as a reader sees it, one column a reading, and the verdict on the first, of `claims.verdicts`."""
    rows = []
    for (profile, dataset, temperature), group in table.groupby(["profile", "dataset", "temperature"], sort=False):
        readings = group.set_index("reading")
        row = {"data set": comparison.title(dataset), "training": RECIPES.get(profile, profile), "T": temperature}
        paper = group["paper"].iloc[0]
        row["paper (%)"] = "–" if math.isnan(paper) else f"{paper:.2f}"
        for reading, text in analysis.READINGS.items():
            row[f"{text} (%)"] = "–"
            if reading in readings.index:
                value, low, high = (float(readings.loc[reading, column]) for column in ("ours", "low", "high"))
                row[f"{text} (%)"] = metrics.interval_text(value, low, high, 2).replace("\N{NO-BREAK SPACE}[", " [")  # many columns
            if reading == "capped" and verdicts:
                row["verdict on that"] = verdicts.get((str(profile), str(dataset), str(temperature)), "–")
        row["images"] = _images_met(readings["attacked"].rename({name: text.split(",")[0] for name, text in analysis.READINGS.items()}))
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


def _used(table: pd.DataFrame, temperature: Iterable[object] | None = None) -> dict[str, list[str]]:
    """The columns that say of which network a row is, where teachers are not among them."""
    return {
        "data set": [comparison.title(d) for d in table["dataset"]],
        "training": [RECIPES.get(p, p) for p in table["profile"]],
        "T": [str(t) for t in (table["temperature"] if temperature is None else temperature)],
    }


def _named(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns that say of which network a row is, teachers among them."""
    data_set, training, temperature = _used(table).items()
    return dict([data_set, training, ("network", [str(r) for r in table["role"]]), temperature])


def bin_text(table: pd.DataFrame, number: int, verdicts: Mapping[tuple[str, str, str], str] = NOTHING_SAID) -> pd.DataFrame:
    """One bin of `analysis.amplitude_table`, a column an arithmetic; the verdicts are of `claims.verdicts`, on float32."""
    lines = []
    for (profile, dataset, at), group in table[table["bin"] == number].groupby(["profile", "dataset", "temperature"], sort=False):
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


def amplitude_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.amplitude_quantiles` as a reader sees it."""
    return pd.DataFrame({
        **_used(table),
        "log10 of the mean amplitude: median": table["median"].map("{:.1f}".format),
        "5 % to 95 % of images": [f"{low:.1f} to {high:.1f}".replace("-", "\N{MINUS SIGN}") for low, high in zip(table["q05"], table["q95"], strict=True)],
        "derivatives exactly 0 in float32": table["float32_zero"].map("{:.1f} %".format),
        "in float64": table["float64_zero"].map("{:.1f} %".format),
        "images with no derivative left in float32": table["float32_all_zero"].map("{:.1f} %".format),
        "images": table["images"],
    })  # fmt: skip


def ablation_text(table: pd.DataFrame) -> pd.DataFrame:
    """`analysis.ablation_table` as a reader sees it."""

    def cells(name: str, low: str, high: str, digits: int) -> list[str]:
        return [
            "–" if math.isnan(v[0]) else metrics.interval_text(*v, digits=digits)
            for v in zip(table[name], table[low], table[high], strict=True)
        ]

    return pd.DataFrame({
        **_used(table, analysis.trained_at(table)),
        "what was done": [w + (" (stayed at chance)" if c else "") for w, c in zip(table["what"], table["at_chance"], strict=True)],
        "accuracy (%) [95 % interval]": cells("accuracy", "accuracy_low", "accuracy_high", 2),
        "the paper's attack (%)": cells("ours", "ours_low", "ours_high", 1),
        "in exact arithmetic (%)": cells("exact", "exact_low", "exact_high", 1),
        "images": [
            f"{int(ours):,}" + (f"; in exact arithmetic: {int(exact):,}" if exact and exact != ours else "")
            for ours, exact in zip(table["ours_images"], table["exact_images"], strict=True)
        ],
    })  # fmt: skip


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


def seed_text(table: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """`analysis.seed_table` as a reader sees it."""
    variants = {"attack": [SHORT[v] for v in table["variant"]]} if "variant" in table else {}
    return pd.DataFrame({
        **_used(table), **variants,
        "each seed": [", ".join(f"{value:.{digits}f}" for value in each).replace("-", "\N{MINUS SIGN}") for each in table["each"]],
        "standard deviation over seeds": table["standard_deviation"].map(f"{{:.{digits}f}}".format),
        "standard error over images": table["standard_error"].map(f"{{:.{digits}f}}".format),
        "images": [f"{n:,}" for n in table["images"]],
    })  # fmt: skip


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

"""What published attacks say of a network: rates, the union over attacks, distances, and the checklist of a sound evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from distill import analysis, comparison, metrics
from distill.attacks.adapters import ATTACKS
from distill.checks import NEARLY_ALL
from distill.comparison import NETWORK
from distill.metrics import Estimate

UNTARGETED, TARGETED = "suite, targets none", "suite, targets all"  # the column ``draw``
BOUNDED = "bounded suite"
MEASURES = {"l0": "pixels_changed", "l1": "l1", "l2": "l2", "linf": "linf"}
UNBOUNDED = ("carlini_wagner_l2", "ddn", "fmn_l2", "fmn_linf", "fmn_l0", "sigma_zero")  # white-box attacks that may change everything
MARGIN = 0.05  # by which one attack may beat another without being a sign of anything


def _drawn(attacks: pd.DataFrame, draw: str) -> pd.DataFrame:
    """Rows of one stage, of one record a network."""
    rows = attacks[attacks["draw"] == draw]
    comparison.one_of_each(rows, "attacks")
    return rows


def attack_table(attacks: pd.DataFrame, draw: str = UNTARGETED) -> pd.DataFrame:
    """Success away from the label, a row a network, attack, number of steps and scale of the logits.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stage "sound", or of "bounded".
    draw : str
        Which of the two: `UNTARGETED` or `BOUNDED`.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature`` ("none", "1", ...), ``attack``, ``steps``, ``divided`` (what the logits
        were divided by), ``norm``, ``radius`` (pixels in [0, 1]; nan for attacks without a bound), ``ours``, ``low``,
        ``high`` (percent of the images classified rightly), ``images`` (those), ``clean`` (percent classified rightly),
        ``distance`` (median over successes, in the norm), ``passes`` (forward passes an image), ``record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    rows = []
    chosen = _drawn(attacks, draw)
    for (profile, dataset, role, temperature, name, steps, divided), group in chosen.groupby(
        [*NETWORK, "attack", "steps", "attack_temperature"], sort=False
    ):
        right = group[group["label"] == group["source"]]
        rate = metrics.accuracy(int(right["success"].sum()), len(right)).times(100)
        norm = "l0" if name == "random_features" else ATTACKS[name].norm
        rows.append({
            "profile": profile, "dataset": dataset, "temperature": comparison.label(role, temperature), "attack": name,
            "steps": int(steps), "divided": divided, "norm": norm, "radius": group["radius"].iloc[0],
            "ours": rate.value, "low": rate.low, "high": rate.high, "images": rate.n, "clean": 100 * len(right) / len(group),
            "distance": right.loc[right["success"], MEASURES[norm]].median(), "passes": float(group["passes"].iloc[0]),
            "record": group["record"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def beside_jsma(attacks: pd.DataFrame) -> pd.DataFrame:
    """The paper's attack beside FGSM and PGD on the same networks, where the latter two were run.

    They do not ask the same: JSMA is to reach a target within its budget of features, the other two are to leave the label within
    an Linf ball. What is compared is how each depends on the temperature.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stages "attack" and "bounded".

    Returns
    -------
    DataFrame
        A row a network and ``line``: "jsma"; "fgsm" and "pgd" on the cross-entropy of the logits as they are; "fgsm divided" and
        "pgd divided" on that of the logits divided by the temperature of distillation (by 1 on the undefended network);
        "fgsm_dl" and "pgd_dl" on the difference of two logits. ``profile``, ``dataset``, ``temperature``;
        ``ours``, ``low``, ``high`` (percent; of targets for "jsma", else of the images classified rightly), ``images``
        (those), ``clean`` (percent classified rightly; nan for "jsma"), ``radius``, ``record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    if not (attacks["draw"] == BOUNDED).any():
        return pd.DataFrame()
    table = attack_table(attacks, BOUNDED)
    free = table["attack"].map(lambda name: ATTACKS[name].scale_free)
    lines = [table[free].assign(line=table["attack"])]
    for divided, suffix in ((False, ""), (True, " divided")):
        scale = table.groupby(["profile", "dataset", "temperature"])["divided"].transform("max" if divided else "min")
        lines.append(table[~free & (table["divided"] == scale)].assign(line=lambda rows, suffix=suffix: rows["attack"] + suffix))
    jsma = comparison.success_table(analysis.paper_attack(attacks))
    if len(jsma):
        lines.insert(0, jsma.merge(table[["profile", "dataset"]].drop_duplicates()).assign(line="jsma"))
    columns = ["profile", "dataset", "temperature", "line", "ours", "low", "high", "images", "clean", "radius", "record"]
    return pd.concat([part.reindex(columns=columns) for part in lines], ignore_index=True)


def robust_accuracy(attacks: pd.DataFrame) -> pd.DataFrame:
    """Accuracy that is left when each image meets its best attack: the union over attacks, example by example.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature``, ``images``, ``radius``, and in percent of all images, each with
        ``_low`` and ``_high``: ``clean``; ``one`` (after PGD on the undivided logits alone, as one would who trusts
        them); ``within`` (after every attack, where it stayed within the radius in Linf); ``any`` (after every
        attack that sees the network's gradients, and the transferred one, whatever the distance).

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    rows = []
    for (profile, dataset, role, temperature), group in _drawn(attacks, UNTARGETED).groupby(NETWORK, sort=False):
        radius = group["radius"].max()
        wrong = (group["label"] != group["source"]).groupby(group["image"]).any()
        inside = group["success"] & (group["linf"] <= radius + 1e-6)
        naive = group["success"] & (group["attack"] == "pgd") & (group["attack_temperature"] == 1)
        white = group["success"] & group["attack"].isin([name for name in ATTACKS if name not in ("square", "hop_skip_jump", "random")])
        row: dict[str, object] = {"profile": profile, "dataset": dataset, "temperature": comparison.label(role, temperature),
                                  "images": len(wrong), "radius": radius}  # fmt: skip
        for name, lost in (("clean", None), ("one", naive), ("within", inside), ("any", white)):
            broken = wrong if lost is None else wrong | lost.groupby(group["image"]).any()
            share = metrics.accuracy(int((~broken).sum()), len(broken)).times(100)
            row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        rows.append(row | {"record": group["record"].iloc[0]})
    return pd.DataFrame(rows)


def reported_distances() -> pd.DataFrame:
    """Carlini & Wagner 2017, tables IV and VI: mean distances with 100 % success, pixels in [0, 1], first 1,000 test images."""
    return pd.read_csv(Path(__file__).with_name("reported_later.csv"), keep_default_na=False)


def distances(attacks: pd.DataFrame) -> pd.DataFrame:
    """The smallest changes that reach a target, over images classified rightly: the best, average and worst of its nine targets.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stage "distances".

    Returns
    -------
    DataFrame
        A row a network, attack and ``case`` ("best", "average", "worst"): ``profile``, ``dataset``, ``temperature``,
        ``attack``, ``norm``, ``ours``, ``low``, ``high`` (mean over images; failed attacks left out, see ``success``),
        ``theirs`` (`reported_distances`, nan where they have none), ``success`` (percent), ``images``, ``record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    theirs = reported_distances().set_index(["dataset", "temperature", "measure"])
    rows = []
    for (profile, dataset, role, temperature, name), group in _drawn(attacks, TARGETED).groupby([*NETWORK, "attack"], sort=False):
        right = group[group["label"] == group["source"]]
        norm, at = ATTACKS[name].norm, comparison.label(role, temperature)
        by_image = right[right["success"]].groupby("image")[MEASURES[norm]]
        key = (dataset, at, norm)
        for case, values in (("best", by_image.min()), ("average", by_image.mean()), ("worst", by_image.max())):
            mean = metrics.clustered_mean(values, values.index) if len(values) else Estimate(np.nan, np.nan, np.nan, 0, 0)
            rows.append({
                "profile": profile, "dataset": dataset, "temperature": at, "attack": name, "norm": norm, "case": case,
                "ours": mean.value, "low": mean.low, "high": mean.high, "theirs": float(theirs.loc[key, case]) if key in theirs.index else np.nan,
                "success": 100 * right["success"].mean(), "images": right["image"].nunique(), "record": group["record"].iloc[0],
            })  # fmt: skip
    return pd.DataFrame(rows)


def distance_ratios(attacks: pd.DataFrame, temperature: str = "100") -> pd.DataFrame:
    """How much farther a distilled network's targets are than the undefended network's, image by image.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stage "distances".
    temperature : str
        Of the distilled network, as `comparison.label` writes it.

    Returns
    -------
    DataFrame
        A row a profile, data set and attack: ``profile``, ``dataset``, ``attack``, ``norm``, ``ratio`` of the two mean
        distances (each image's average over its targets), ``low``, ``high`` (95 % bootstrap over images; nan below two), and
        ``images``: those that both networks classify rightly and on which the attack reached a target of both.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    rows = []
    for (profile, dataset, name), group in _drawn(attacks, TARGETED).groupby(["profile", "dataset", "attack"], sort=False):
        norm = ATTACKS[name].norm
        won = group[(group["label"] == group["source"]) & group["success"]]
        at = [comparison.label(role, t) for role, t in zip(won["role"], won["temperature"], strict=True)]
        means = won.groupby([np.array(at, dtype=object), "image"])[MEASURES[norm]].mean().unstack(0)
        if not {"none", temperature} <= set(means.columns):
            continue
        both = means[["none", temperature]].dropna().to_numpy()
        if not len(both):
            continue
        low = high = np.nan
        if len(both) > 1:
            low, high = scipy.stats.bootstrap(
                (both[:, 1], both[:, 0]), lambda far, near, axis: far.mean(axis) / near.mean(axis), paired=True, vectorized=True,
                n_resamples=metrics.RESAMPLES, confidence_level=metrics.CONFIDENCE, method="percentile", random_state=0,
            ).confidence_interval  # fmt: skip
        rows.append({"profile": profile, "dataset": dataset, "attack": name, "norm": norm,
                     "ratio": both[:, 1].mean() / both[:, 0].mean(), "low": low, "high": high, "images": len(both)})  # fmt: skip
    return pd.DataFrame(rows)


class Item(NamedTuple):
    """One line of the checklist for one network."""

    question: str
    first: float  # percent
    second: float
    holds: bool


def checklist(attacks: pd.DataFrame) -> pd.DataFrame:
    """The tests that an evaluation must pass before its failures mean anything, for each network and two ways to attack it.

    The way "naive" is PGD on the undivided cross-entropy, as it comes out of the box, within the ball; "sound" adds the
    logits divided by the temperature of distillation, attacks that compare logits, and attacks without a bound. Sources: Carlini et al. 2019
    (arXiv 1902.06705, section 4), Athalye et al. 2018 (arXiv 1802.00420, section 3).

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature``, ``way``, ``question``, ``first`` and ``second`` (percent, the two
        rates compared), ``holds``, ``images``, ``record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    rows = []
    for (profile, dataset, role, temperature), group in _drawn(attacks, UNTARGETED).groupby(NETWORK, sort=False):
        right = group[group["label"] == group["source"]]
        for way, scale in (("naive", 1.0), ("sound", temperature)):
            for item in _items(right, way, scale):
                rows.append({"profile": profile, "dataset": dataset, "temperature": comparison.label(role, temperature), "way": way,
                             **item._asdict(), "images": right["image"].nunique(), "record": group["record"].iloc[0]})  # fmt: skip
    return pd.DataFrame(rows)


def _items(rows: pd.DataFrame, way: str, scale: float) -> list[Item]:
    def rate(*names: str, at: float | None = scale, steps: str = "usual") -> float:
        """Percent of images that fall to any of these attacks."""
        own = rows[rows["attack"].isin(names)]
        usual = own["steps"].eq(own["attack"].map({name: ATTACKS[name].steps for name in names}))
        own = own[(usual if steps == "usual" else ~usual)]
        own = own if at is None else own[own["attack_temperature"].eq(at)]
        return 100 * own.groupby("image")["success"].any().mean() if len(own) else np.nan

    naive = way == "naive"
    best = rate("pgd") if naive else rate("pgd", "apgd_ce", "apgd_dlr", at=None)  # within the ball
    top = np.nan if naive else rate(*UNBOUNDED)  # out of the box no cross-entropy is attacked without a bound
    margin = 100 * MARGIN

    def no_better(question: str, than: float, other: float) -> Item:
        return Item(question, than, other, than + margin >= other)

    items = [
        no_better("many steps do at least as well as one", best, rate("fgsm")),
        Item("without a bound nearly every image falls", top, 100 * NEARLY_ALL, top >= 100 * NEARLY_ALL),
        no_better("an attack without gradients does no better", best, rate("square", at=None)),
        no_better("images crafted on the undefended network do no better", top, rate("transfer", at=None)),
        no_better("random changes of the same size do no better", best, rate("random", at=None)),
    ]
    if not naive:
        items.append(no_better("twice the steps do not help", rate("apgd_dlr"), rate("apgd_dlr", steps="doubled")))
    return [item for item in items if not np.isnan([item.first, item.second]).any()]  # a rate that was not measured

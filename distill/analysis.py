"""What rows of attacks and predictions say: robustness, confidence, the split by arithmetic, success against budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from distill import comparison, data, metrics, models
from distill.comparison import NETWORK
from distill.metrics import Estimate
from distill.plans import MAX_FEATURES

VARIANTS = {  # the same attack, differentiating the same network, in other arithmetic or at another output
    "float32": "softmax, float32: the paper's attack",
    "flush": "softmax, float32, denormals flushed to zero",
    "product": "softmax, float32, saliency multiplied in float32",
    "product_flush": "softmax, float32, saliency multiplied in float32, denormals flushed to zero",
    "float64": "softmax, float64",
    "exact": "log-softmax: the same ranking without underflow",
    "scaled": "softmax(Z / T)",
    "logits": "logits",
}
SPLIT = ("float32", "flush", "float64", "exact", "scaled", "logits")  # what of the paper's effect is floating point
EDGES = ("0", "1e-40", "1e-35", "1e-30", "1e-25", "1e-20", "1e-15", "1e-10", "1e-5", "1e-3", "1")  # of Figure 9's bins
BINS = tuple(itertools.pairwise(EDGES))
READINGS = {
    "capped": "failed attacks count as the budget",
    "excluded": "failed attacks left out",
    "median": "median, failed attacks above all others",
    "exact": "exact arithmetic, no budget",
}
ARITHMETICS = {"float32": "float32", "flush": "float32, flushed", "float64": "float64", "exact": "exact"}


def variant(attacks: pd.DataFrame) -> pd.Series:
    """Which of `VARIANTS` each row is, from its columns; "" for attacks that belong to no comparison.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack".
    """
    softmax, at_one = attacks["output"] == "softmax", attacks["attack_temperature"] == 1
    single, flush = attacks["precision"] == "float32", attacks["flush"].astype(bool)
    product = attacks["product"].astype(bool) if "product" in attacks else pd.Series(False, attacks.index)
    named = pd.Series("", attacks.index)
    named[softmax & at_one & single & ~flush & ~product] = "float32"
    named[softmax & at_one & single & product & ~flush] = "product"
    named[softmax & at_one & single & product & flush] = "product_flush"
    named[softmax & at_one & single & flush & ~product] = "flush"
    named[softmax & at_one & (attacks["precision"] == "float64")] = "float64"
    named[(attacks["output"] == "log_softmax") & at_one & single] = "exact"
    named[softmax & single & ~at_one & (attacks["attack_temperature"] == attacks["temperature"])] = "scaled"
    named[(attacks["output"] == "logits") & at_one & single] = "logits"
    return named.mask(attacks["draw"] != "", "")


def on_common_images(attacks: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Rows of these variants, of each network on the images alone that every one of its variants among them was run on.

    Runs of one network may rest on different numbers of images; a comparison of their rates must not.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack".
    variants : sequence of str
        Of `VARIANTS`. One that a network was not attacked by takes nothing from the others.
    """
    named = variant(attacks) if len(attacks) else pd.Series(dtype=object)
    asked = named.isin(variants).to_numpy()
    if not asked.any():
        return attacks[asked]
    network = ["profile", "dataset", "role", "temperature", "seed"]
    runs = attacks.loc[asked, [*network, "image"]].assign(variant=named[asked]).reset_index(drop=True)
    there = runs.groupby([*network, "image"])["variant"].transform("nunique")
    common = there == runs.groupby(network)["variant"].transform("nunique")
    return attacks.iloc[np.flatnonzero(asked)[common.to_numpy()]]


def paper_attack(attacks: pd.DataFrame) -> pd.DataFrame:
    """Only the paper's own attack: softmax in float32 on the drawn images."""
    return attacks[variant(attacks) == "float32"] if len(attacks) else attacks


def features_of(dataset: str) -> int:
    """Features of an image of this data set: one channel of one pixel each."""
    channels, size = models.ARCHITECTURES[data.dataset(dataset).architecture][:2]
    return channels * size**2


def paper_sized(attacks: pd.DataFrame, images: int = 100, draws: int = 100_000) -> pd.DataFrame:
    """What an experiment of the paper's size, 100 images towards nine targets each, would have measured on each of our networks.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack" of one attack; those on the plain network and on students are used.
    images : int
        Of the smaller experiment. Networks attacked on fewer are left out.
    draws : int
        Random draws of so many of a network's images, without replacement.

    Returns
    -------
    DataFrame
        A row a network: ``profile``, ``dataset``, ``temperature`` ("none", "1", ...), ``paper`` (Figure 7; nan where it has none),
        ``ours``, ``low``, ``high`` (percent; the first ``images`` of the fixed random order, and their own interval), ``least``, ``most`` (between
        which 95 % of the draws lie), ``whole`` (the rate over all ``of`` images), ``within`` (whether the paper's value, in
        whole attacks of 900, lies between ``least`` and ``most``), ``record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    attacks = attacks[attacks["role"].isin(comparison.USED)] if len(attacks) else attacks
    comparison.one_of_each(attacks, "attacks")
    rows = []
    for (profile, dataset, role, temperature), group in attacks.groupby(NETWORK, sort=False) if len(attacks) else ():
        by_image = group.groupby("image", sort=False)["success"].agg(["sum", "size"])
        if len(by_image) < images:
            continue
        first = metrics.success_rate(group[group["image"].isin(by_image.index[:images])]).times(100)
        kinds = by_image.value_counts()  # images alike in successes and targets are one colour of balls in an urn
        drawn = np.random.default_rng(0).multivariate_hypergeometric(kinds.to_numpy(), images, size=draws)
        won, met = (drawn @ np.array([kind[column] for kind in kinds.index]) for column in (0, 1))
        least, most = 100 * np.percentile(won / met, [2.5, 97.5])
        at = comparison.label(role, temperature)
        paper = comparison.reported("fig7", str(dataset)).get(at, np.nan)
        said = paper if np.isnan(paper) else 100 * round(paper / 100 * comparison.TARGETS) / comparison.TARGETS  # it is printed rounded
        rows.append({"profile": profile, "dataset": dataset, "temperature": at, "paper": paper, "ours": first.value, "low": first.low, "high": first.high,
                     "least": least, "most": most, "whole": 100 * group["success"].mean(), "of": len(by_image),
                     "within": bool(least <= said <= most), "record": group["record"].iloc[0]})  # fmt: skip
    return pd.DataFrame(rows)


def _with_variant(attacks: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Whose attacks they are, these columns alone, and ``variant``: a table of millions of rows is costly to copy whole."""
    if attacks.empty:
        return pd.DataFrame(columns=[*NETWORK, "record", *columns, "variant"])
    kept = [name for name in (*NETWORK, "seed", "record", *columns) if name in attacks]
    return attacks[kept].assign(variant=variant(attacks))


def success_within(attacks: pd.DataFrame, budget: int) -> Estimate:
    """Share of attacks that reached their target with at most ``budget`` features, clustered by source image."""
    return metrics.clustered_mean(attacks["success"] & (attacks["features_changed"] <= budget), attacks["image"])


def split_table(attacks: pd.DataFrame, *, budget: int = MAX_FEATURES) -> pd.DataFrame:
    """Success of the same attack in each arithmetic, a row a network and variant.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stages "attack" and "split".
    budget : int
        Features that may be changed.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``role``, ``temperature`` ("none", "1", ...), ``variant``, ``ours``, ``low``, ``high``
        (percent), ``attacks``, ``images``, ``features`` (mean of the successful), the shares ``zero_gradient``,
        ``no_valid_pair`` and ``over_budget`` of the attacks that failed for that reason within the budget, and
        ``unlimited``: success in percent with every feature allowed, where the run had no budget.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network and variant: their rows would be mixed.
    """
    rows = []
    chosen = _with_variant(attacks, ["image", "success", "features_changed", "max_features", "status"])
    chosen = chosen[chosen["variant"] != ""]
    if len(chosen):
        comparison.one_of_each(chosen, "attacks", "variant")
    for (profile, dataset, role, temperature, name), group in chosen.groupby([*NETWORK, "variant"], sort=False):
        rate = success_within(group, budget)
        within = group["success"] & (group["features_changed"] <= budget)
        early = ~group["success"] & (group["features_changed"] + 2 <= budget)  # else the budget would have ended it
        unlimited = group["max_features"].iloc[0] >= features_of(dataset)
        rows.append({
            "profile": profile, "dataset": dataset, "role": role, "temperature": comparison.label(role, temperature), "variant": name,
            **_percent(rate), "attacks": rate.n, "images": rate.clusters,
            "features": group.loc[within, "features_changed"].mean(),
            "zero_gradient": (early & (group["status"] == "ZERO_GRADIENT")).mean(),
            "no_valid_pair": (early & (group["status"] == "NO_VALID_PAIR")).mean(),
            "over_budget": (~within & ~early).mean(),
            "unlimited": 100 * group["success"].mean() if unlimited else np.nan, "record": group["record"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def distance_from_paper(table: pd.DataFrame) -> pd.DataFrame:
    """How far our success rates lie from Figure 7's on average, over the distilled networks at the temperatures that the paper has.

    Parameters
    ----------
    table : DataFrame
        Of `split_table`, of one profile a data set.

    Returns
    -------
    DataFrame
        ``dataset``, ``variant``, ``distance`` (mean absolute difference, points) and ``temperatures`` (how many: those at
        which every variant of the data set was measured). See `on_common_images`.
    """
    rows: list[dict] = []
    students = table[table["role"] == "student"] if len(table) else pd.DataFrame(columns=["dataset"])
    for dataset, group in students.groupby("dataset", sort=False):
        said = pd.Series(comparison.reported("fig7", str(dataset)), dtype=float)
        wide = group.pivot_table(index="temperature", columns="variant", values="ours", sort=False)
        wide = wide[wide.index.isin(said.index)].dropna()
        away = wide.sub(said.reindex(wide.index), axis=0).abs().mean() if len(wide) else pd.Series(dtype=float)
        rows += [{"dataset": dataset, "variant": name, "distance": value, "temperatures": len(wide)} for name, value in away.items()]
    return pd.DataFrame(rows, columns=["dataset", "variant", "distance", "temperatures"])


def seed_table(rows: pd.DataFrame, table: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """How far networks lie apart that differ in nothing but the seed, beside the interval that one of them has.

    Parameters
    ----------
    rows : DataFrame
        Of several seeds; what was measured with one alone is left out, as are images that some seed of the same network
        and variant was not attacked on.
    table : callable
        Makes ``ours``, ``low`` and ``high`` of the rows of one seed: `split_table` or `comparison.accuracy_table`.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature`` and, of the split, ``variant``; ``seeds`` and ``each`` (lists: the value of
        each seed), ``least``, ``most`` and ``standard_deviation`` (standard deviation over the seeds), ``standard_error`` (mean standard
        error over images within a seed: a 3.92th of its interval), ``images``, ``records`` (list).
    """
    if "image" in rows and len(rows):
        named = rows.assign(variant=variant(rows) if "output" in rows else "")
        of_image, of_run = (named.groupby([*NETWORK, "variant", *by])["seed"].transform("nunique") for by in (["image"], []))
        rows = rows[(of_image == of_run).to_numpy()]
    tables = [table(own).assign(seed=seed) for seed, own in (rows.groupby("seed") if len(rows) else ())]
    every = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if "role" in every:
        every = every[every["role"].isin(comparison.USED)]
    keys = ["profile", "dataset", "temperature", *(["variant"] if "variant" in every else [])]
    out = []
    for key, group in every.dropna(subset="ours").groupby(keys, sort=False) if len(every) else ():
        if len(group) > 1:
            out.append({
                **dict(zip(keys, key, strict=True)), "seeds": group["seed"].tolist(), "each": group["ours"].tolist(),
                "least": group["ours"].min(), "most": group["ours"].max(), "standard_deviation": group["ours"].std(),
                "standard_error": ((group["high"] - group["low"]) / 3.92).mean(), "images": group["images"].iloc[0], "records": group["record"].tolist(),
            })  # fmt: skip
    return pd.DataFrame(out)


def budget_curve(attacks: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """Success against budget from one run: rows of ``budget``, ``ours``, ``low``, ``high`` in percent, ``attacks``, ``images``.

    Parameters
    ----------
    attacks : DataFrame
        Rows of one network and variant, run with a budget of at least the largest of ``budgets``.
    budgets : sequence of int

    Raises
    ------
    ValueError
        If the run had a smaller budget.
    """
    allowed = int(attacks["max_features"].min())
    if max(budgets) > allowed:
        raise ValueError(f"a budget of {max(budgets)} is asked of attacks that had {allowed}; allowed are budgets up to that")
    rows = []
    for budget in budgets:
        rate = success_within(attacks, budget)
        rows.append({"budget": budget, **_percent(rate), "attacks": rate.n, "images": rate.clusters, "record": attacks["record"].iloc[0]})
    return pd.DataFrame(rows)


def robustness(attacks: pd.DataFrame, features: int, *, reading: str) -> Estimate | None:
    """Figure 10 and equation 11: the smallest change towards any target, in percent of the features, mean over images.

    Parameters
    ----------
    attacks : DataFrame
        Rows of one network, with all targets of each image.
    features : int
        Of an image.
    reading : {"capped", "excluded", "median"}
        What a failed attack contributes, which the paper does not say. "capped": the budget, so that no value can
        exceed it. "excluded": nothing; an image without a success is left out. "median": the median over images
        instead of the mean, with images that were not broken above every other.

    Returns
    -------
    Estimate or None
        None where the reading gives no number: no success at all, or a median that is beyond the budget.

    Raises
    ------
    ValueError
        If the reading is unknown.
    """
    readings = ("capped", "excluded", "median")
    if reading not in readings:
        raise ValueError(f"reading is {reading!r}; allowed are {', '.join(readings)}")
    changed = attacks["features_changed"].where(attacks["success"], np.inf)
    smallest = changed.groupby(attacks["image"]).min()
    if reading == "capped":
        values = smallest.clip(upper=int(attacks["max_features"].max()))
    elif reading == "excluded":
        values = smallest[np.isfinite(smallest)]
    else:
        draws = np.random.default_rng(0).choice(smallest.to_numpy(), (metrics.RESAMPLES, len(smallest)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975], method="nearest")
        middle = float(np.median(smallest))
        percent = 100 / features
        n = len(smallest)
        return Estimate(middle * percent, low * percent, high * percent, n, n) if np.isfinite(middle) else None
    if values.empty:
        return None
    return metrics.clustered_mean(values, values.index).times(100 / features)


def robustness_table(attacks: pd.DataFrame, readings: Sequence[str] = tuple(READINGS)) -> pd.DataFrame:
    """Figure 10 in numbers: a row a network and reading, ours and the paper's, in percent of the features.

    The paper's attack in every reading; and the exact one without a budget (reading "exact").

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stages "attack" and "split".
    readings : sequence of str
        Those of `READINGS` that are wanted: the median, which is resampled, takes longest.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature``, ``reading``, ``paper``, ``ours``, ``low``, ``high``, ``images`` that the
        value is of (where failed attacks are left out, those with a success), ``attacked`` (images), ``broken`` (images with at least one success).

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network and variant: their rows would be mixed; or if a name is unknown.
    """
    _check_known("readings", readings, READINGS)
    rows = []
    chosen = _with_variant(attacks, ["image", "success", "features_changed", "max_features"])
    chosen = chosen[chosen["role"].isin(comparison.USED) & chosen["variant"].isin(["float32", "exact"])]
    comparison.one_of_each(chosen, "attacks", "variant")
    for (profile, dataset, role, temperature, name), group in chosen.groupby([*NETWORK, "variant"], sort=False):
        features = features_of(dataset)
        whole = group["max_features"].iloc[0] >= features
        here = ("capped", "excluded", "median") if name == "float32" else ("exact",) if name == "exact" and whole else ()
        said = comparison.reported("fig10", str(dataset), "robustness")
        for reading in [reading for reading in here if reading in readings]:
            ours = robustness(group, features, reading="excluded" if reading == "exact" else reading)
            value = ours or Estimate(np.nan, np.nan, np.nan, 0, 0)
            at = comparison.label(role, temperature)
            rows.append({
                "profile": profile, "dataset": dataset, "temperature": at, "reading": reading,
                "paper": said.get(at, np.nan), "ours": value.value, "low": value.low, "high": value.high,
                "images": value.clusters, "record": group["record"].iloc[0], "attacked": group["image"].nunique(), "broken": int(group.groupby("image")["success"].any().sum()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def confidence_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Table III and equation 12: probability of the predicted class where right, 0 where wrong, mean over the test set.

    Parameters
    ----------
    predictions : DataFrame
        Rows of kind "prediction".

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``role``, ``temperature``, ``paper``, ``ours``, ``low``, ``high`` (percent),
        ``paper_maximum`` and ``maximum`` (mean largest probability at the network's own T), ``certain`` (share of
        images whose largest float32 probability is exactly 1), ``gap`` and ``logit_l1`` (means), ``images``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    comparison.one_of_each(predictions, "predictions")
    rows = []
    for (profile, dataset, role, temperature), group in predictions.groupby(NETWORK, sort=False):
        at = comparison.label(role, temperature)
        value = group["probability"].where(group["label"] == group["predicted"], 0.0)
        ours = metrics.clustered_mean(value, group["image"]).times(100)
        said = comparison.reported("table3", str(dataset)) if role == "student" else {}
        maximum = comparison.reported("text", str(dataset), "mean_max_probability") if role == "student" else {}
        rows.append({
            "profile": profile, "dataset": dataset, "role": role, "temperature": at, "paper": said.get(at, np.nan),
            "ours": ours.value, "low": ours.low, "high": ours.high, "paper_maximum": maximum.get(at, np.nan),
            "maximum": group["probability_at_T"].mean(), "certain": group["certain"].mean(), "gap": group["gap"].mean(),
            "logit_l1": group["logit_l1"].mean(), "images": len(group), "record": group["record"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


ABLATIONS = {  # a network's role: what was done to it
    "plain": "nothing: the undefended network",
    "student": "defensive distillation",
    "teacher": "trained at T on hard labels, no distillation",
    "smoothed": "smoothed labels, no temperature",
    "warm student": "distillation after one epoch at T = 1 (Carlini & Wagner's recipe)",
    "sgd student": "distillation by a few epochs of the paper's optimiser",
    "rate student": "the same with 0.1 T times its learning rate",
}


CHOICES = {  # the same for what the paper leaves open
    "": "as published here",
    "torch": "PyTorch's first weights",
    "padded": "padded convolutions",
    "channelwise": "images standardised by channel",
    "bfloat16": "only the precision changed",
}
CHOICES_BY_ROLE = {f"{name} {role}".strip(): what for name, what in CHOICES.items() for role in comparison.USED}


def ablation_table(networks: pd.DataFrame, attacks: pd.DataFrame, what: Mapping[str, str] = ABLATIONS) -> pd.DataFrame:
    """What of distillation matters: accuracy, the paper's success and the exact success of networks trained otherwise.

    Parameters
    ----------
    networks, attacks : DataFrame
        Rows of kinds "model" and "attack", those of the stages "attack", "split", "teachers", "smoothing" and "ablations".
    what : mapping of str to str
        The roles that are shown, and what was done to each; `CHOICES_BY_ROLE` with the rows of the stage "choices".

    Returns
    -------
    DataFrame
        A row a network: ``profile``, ``dataset``, ``role``, ``temperature``, ``what``, ``at_chance``, and
        in percent, each with ``_low`` and ``_high``: ``accuracy``, ``ours`` (the paper's attack), ``exact`` (log-softmax,
        the same budget); ``precision`` of the training, ``ours_images`` and ``exact_images`` attacked, ``record``. And a row "undefended, its logits times T" for each T for
        which it was attacked so: the same network, the same predictions, and nan for an arithmetic that is not on record.
    """
    rates = split_table(attacks[attacks["draw"] == ""]).set_index(["profile", "dataset", "role", "temperature", "variant"])
    nothing = {"ours": np.nan, "low": np.nan, "high": np.nan, "images": 0}
    rows = []
    for _, network in networks[networks["role"].isin(what)].iterrows():
        at = comparison.label(network["role"], network["temperature"])
        share = metrics.accuracy(int(network["correct"]), int(network["test_images"])).times(100)
        row = {name: network[name] for name in ("profile", "dataset", "role")} | {
            "temperature": at, "what": what[network["role"]], "at_chance": bool(network["at_chance"]),
            "accuracy": share.value, "accuracy_low": share.low, "accuracy_high": share.high, "precision": network.get("precision", ""),
            "record": network["record"],
        }  # fmt: skip
        rows.append(row | _rates(rates, nothing, row, row["role"]))
    own = attacks[(attacks["role"] == "plain") & (attacks["attack_temperature"] < 1) & (attacks["draw"] == "")]
    for (profile, dataset, scale), group in own.groupby(["profile", "dataset", "attack_temperature"], sort=False):
        base = next((row for row in rows if (row["profile"], row["dataset"], row["role"]) == (profile, dataset, "plain")), None)
        if base is None:
            continue
        row = {**base, "temperature": f"{1 / scale:g}", "what": "nothing but its logits multiplied by T", "role": "scaled"}
        for name, output in (("ours", "softmax"), ("exact", "log_softmax")):
            one = group[group["output"] == output]
            rate = metrics.success_rate(one).times(100) if len(one) else metrics.Estimate(np.nan, np.nan, np.nan, 0, 0)
            row |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
            row |= {f"{name}_images": rate.clusters}
        rows.append(row)
    return pd.DataFrame(rows)


def teacher_table(attacks: pd.DataFrame) -> pd.DataFrame:
    """What the second network adds: the student's success beside that of its teacher, trained at the same T on hard labels.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", those of the stages "attack", "split" and "teachers".

    Returns
    -------
    DataFrame
        A row a temperature and variant ("float32", "exact") in which both were attacked, on the images of both:
        ``profile``, ``dataset``, ``temperature``, ``variant``, ``teacher`` and ``student`` (percent, each with ``_low`` and
        ``_high``), ``change`` (student minus teacher, points), ``change_low``, ``change_high`` (of independent estimates, which is wider than
        the interval of the same images would be), ``attacks``, ``images``, ``record`` and ``teacher_record``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network and variant: their rows would be mixed.
    """
    columns = ["profile", "dataset", "temperature", "variant"]
    if attacks.empty:
        return pd.DataFrame()
    named = attacks.assign(variant=variant(attacks))
    named = named[named["role"].isin(("teacher", "student")) & named["variant"].isin(("float32", "exact"))]
    met = named.groupby([*columns, "image"])["role"].transform("nunique")
    table = split_table(named[met == 2].drop(columns="variant"))
    out = []
    for key, pair in table.groupby(columns, sort=False) if len(table) else ():
        row = dict(zip(columns, key, strict=True))
        share = {
            str(one["role"]): Estimate(one["ours"], one["low"], one["high"], one["attacks"], one["images"])
            for one in pair.to_dict("records")
        }
        for role, rate in share.items():
            row |= {role: rate.value, f"{role}_low": rate.low, f"{role}_high": rate.high}
        change = comparison.difference(share["teacher"], share["student"])
        assert change is not None
        record = pair.set_index("role")["record"]
        out.append({
            **row, "change": change.value, "change_low": change.low, "change_high": change.high, "attacks": change.n, "images": change.clusters,
            "record": record["student"], "teacher_record": record["teacher"],
        })  # fmt: skip
    return pd.DataFrame(out)


def trained_at(table: pd.DataFrame) -> np.ndarray:
    """T of each row of `ablation_table`, "none" where the labels were smoothed without one."""
    return table["temperature"].mask(table["role"] == "smoothed", "none").to_numpy()


def choices_table(networks: pd.DataFrame, attacks: pd.DataFrame) -> pd.DataFrame:
    """What the paper leaves open: `ablation_table` of networks with one choice made otherwise, and of those published beside them.

    Parameters
    ----------
    networks, attacks : DataFrame
        Rows of kinds "model" and "attack", those of the stages "attack", "split" and "choices".

    Returns
    -------
    DataFrame
        As `ablation_table`, in the order of `CHOICES` for each temperature. A published network is there only at
        temperatures at which a choice was made otherwise, and on the images on which the others were attacked too.
    """
    here = ["profile", "dataset"]
    otherwise = [role for role in CHOICES_BY_ROLE if role not in comparison.USED]
    chosen = networks[networks["role"].isin(otherwise)]
    tried = chosen.assign(role=chosen["role"].str.split().str[-1])[[*here, "role", "temperature"]].drop_duplicates()
    if tried.empty:
        return pd.DataFrame()
    networks = pd.concat([networks.merge(tried), chosen], ignore_index=True)
    met = attacks.loc[attacks["role"].isin(otherwise), [*here, "image"]].drop_duplicates()
    both = attacks[variant(attacks).isin(["float32", "exact"])]  # and not the undefended network with its logits multiplied
    table = ablation_table(networks, both.merge(met), CHOICES_BY_ROLE)
    places = [{value: place for place, value in enumerate(networks[column].unique())} for column in here]
    keys = (
        table[here]
        .apply(lambda column: column.map(places[here.index(column.name)]))
        .assign(hot=table["temperature"].map(comparison.as_number), order=table["what"].map(list(CHOICES.values()).index))
    )
    return table.loc[keys.sort_values([*here, "hot", "order"]).index].reset_index(drop=True)


def _rates(rates: pd.DataFrame, nothing: dict, row: dict, role: str) -> dict:
    """Success in both arithmetics of one network."""
    out: dict[str, float] = {}
    for variant_, name in (("float32", "ours"), ("exact", "exact")):
        key = (row["profile"], row["dataset"], role, row["temperature"], variant_)
        found = rates.loc[key] if key in rates.index else nothing
        out |= {name: found["ours"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
        out |= {f"{name}_images": found["images"]}
    return out


def invariance_table(attacks: pd.DataFrame) -> pd.DataFrame:
    """Success of the paper's attack on softmax(Z / T') against T', a row a network and T', in percent.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    chosen = attacks[attacks["draw"] == "sweep"]
    comparison.one_of_each(chosen, "attacks")
    rows = []
    for (profile, dataset, role, temperature, at), group in chosen.groupby([*NETWORK, "attack_temperature"], sort=False):
        rate = metrics.success_rate(group)
        rows.append({
            "profile": profile, "dataset": dataset, "temperature": comparison.label(role, temperature), "attack_temperature": at,
            **_percent(rate), "attacks": rate.n, "images": rate.clusters,
            "zero_gradient": (group["status"] == "ZERO_GRADIENT").mean(), "record": group["record"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def amplitude_table(sensitivity: pd.DataFrame, arithmetics: Sequence[str] = tuple(ARITHMETICS)) -> pd.DataFrame:
    """Figure 9 in numbers: share of images in each bin of the mean gradient amplitude, in each arithmetic.

    Parameters
    ----------
    sensitivity : DataFrame
        Rows of kind "sensitivity".
    arithmetics : sequence of str
        Those of `ARITHMETICS` that are wanted.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature``, ``arithmetic`` (of `ARITHMETICS`), ``bin`` (0 to 9), ``paper``,
        ``ours``, ``low``, ``high`` in percent, and ``images``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed; or if a name is unknown.
    """
    _check_known("arithmetics", arithmetics, ARITHMETICS)
    comparison.one_of_each(sensitivity, "derivatives")
    rows = []
    for (profile, dataset, role, temperature), group in sensitivity.groupby(NETWORK, sort=False):
        at = comparison.label(role, temperature)
        for arithmetic in arithmetics:
            if arithmetic != "exact" and f"{arithmetic}_amplitude" not in group:
                continue
            exact = group["log10_amplitude"]
            with np.errstate(divide="ignore"):
                values = exact if arithmetic == "exact" else np.log10(group[f"{arithmetic}_amplitude"])
            for number, (low, high) in enumerate(BINS):
                with np.errstate(divide="ignore"):
                    inside = (values >= np.log10(float(low))) & (values < np.log10(float(high)))
                share = metrics.accuracy(int(inside.sum()), len(group))
                quantity = f"share_of_samples_with_mean_gradient_amplitude_in_{low}..{high}"
                rows.append({
                    "profile": profile, "dataset": dataset, "temperature": at, "arithmetic": arithmetic, "bin": number,
                    "paper": comparison.reported("fig9", str(dataset), quantity).get(at, np.nan),
                    **_percent(share), "images": len(group), "record": group["record"].iloc[0],
                })  # fmt: skip
    return pd.DataFrame(rows)


def amplitude_quantiles(sensitivity: pd.DataFrame) -> pd.DataFrame:
    """log10 of the exact mean gradient amplitude: median and quantiles over images, and how much float32 and float64 lose.

    Returns
    -------
    DataFrame
        ``profile``, ``dataset``, ``temperature``, ``q05``, ``median``, ``q95`` (log10), ``float32_zero`` and
        ``float64_zero`` (percent of the derivatives that are exactly zero), ``float32_all_zero`` (percent of images
        all of whose derivatives are), ``images``.

    Raises
    ------
    ValueError
        If there are several seeds, or several records of one network: their rows would be mixed.
    """
    comparison.one_of_each(sensitivity, "derivatives")
    rows = []
    for (profile, dataset, role, temperature), group in sensitivity.groupby(NETWORK, sort=False):
        quantiles = _quantiles(group["log10_amplitude"], [0.05, 0.5, 0.95])
        rows.append({
            "profile": profile, "dataset": dataset, "temperature": comparison.label(role, temperature), "record": group["record"].iloc[0],
            "q05": quantiles[0.05], "median": quantiles[0.5], "q95": quantiles[0.95],
            "float32_zero": 100 * group["float32_zero_share"].mean(), "float64_zero": 100 * group["float64_zero_share"].mean(),
            "float32_all_zero": 100 * (group["float32_zero_share"] == 1).mean(), "images": len(group),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _check_known(what: str, given: Sequence[str], allowed: Mapping[str, str]) -> None:
    if isinstance(given, str) or not set(given) <= set(allowed):
        raise ValueError(f"{what} is {given!r}; allowed are lists of {', '.join(allowed)}")


def _quantiles(values: pd.Series, at: list[float]) -> pd.Series:
    """Quantiles by linear interpolation, but next to an infinity, where there is none, the value below."""
    with np.errstate(invalid="ignore"):
        between = values.quantile(at)
    return between.where(np.isfinite(between), values.quantile(at, interpolation="lower"))


def _percent(share: Estimate) -> dict[str, float]:
    """A share as the columns ``ours``, ``low`` and ``high``, in percent."""
    return {"ours": 100 * share.value, "low": 100 * share.low, "high": 100 * share.high}

"""Rates and means with 95 % intervals, and what an attack did."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

CONFIDENCE = 0.95
Z = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2))  # standard errors on each side
RESAMPLES = 2000
MANY = 1000  # clusters beyond which the bootstrap is left for the normal distribution that it approaches


class Estimate(NamedTuple):
    """A value, its 95 % interval, and how many observations and independent clusters it stands on."""

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit, such as percent."""
        return self._replace(value=self.value * factor, low=self.low * factor, high=self.high * factor)


def accuracy(right: int, n: int) -> Estimate:
    """Share of images classified rightly, with Wilson's interval.

    Raises
    ------
    ValueError
        If ``n`` is not positive or ``right`` not between 0 and ``n``.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} of {n} is no share; allowed is 0 <= right <= n, n > 0")
    return Estimate(right / n, *_wilson_of_counts(int(right), int(n)), n, n)


def clustered_mean(values: np.ndarray | pd.Series, clusters: np.ndarray | pd.Series, *, seed: int = 0) -> Estimate:
    """Mean of values whose clusters, not they, are independent, with a 95 % interval that knows it.

    The interval is a percentile cluster bootstrap. With more than `MANY` clusters it rests on the linearised standard
    error of the ratio of the clusters' sums to their sizes: for a rate p (all values 0 or 1) it is Wilson's with the
    effective sample size p (1 - p) / (standard error)^2, for other measures the normal one.

    For attack rates a cluster is a source image: the nine targets of one image succeed or fail together more
    often than chance would have it. Where all clusters agree entirely, resampling shows no spread; then the
    interval for rates is Wilson's on the number of clusters, which still says how little few images can tell.

    Parameters
    ----------
    values : array (n,)
        Successes as bool, or any measure.
    clusters : array (n,)
        The cluster of each value.
    seed : int
        Of the resampling.

    Raises
    ------
    ValueError
        If there are no values, or the lengths differ.
    """
    frame = pd.DataFrame({"value": np.asarray(values, np.float64), "cluster": np.asarray(clusters)})
    if frame.empty:
        raise ValueError("a mean needs at least one value")
    groups = frame.groupby("cluster")["value"].agg(["sum", "count"])
    total, size = groups["sum"].to_numpy(), groups["count"].to_numpy()
    mean, n, m = frame["value"].mean(), len(frame), len(groups)
    rate = bool(frame["value"].isin([0, 1]).all())
    if np.ptp(total / size) == 0 and rate:
        low, high = _wilson_of_counts(round(mean * m), m)
        return Estimate(mean, min(low, mean), max(high, mean), n, m)
    if m < 2:
        return Estimate(mean, float("nan"), float("nan"), n, m)
    if m > MANY:
        half = Z * math.sqrt(m / (m - 1) * np.square(total - mean * size).sum()) / n
        low, high = _wilson(mean, mean * (1 - mean) / (half / Z) ** 2) if rate else (mean - half, mean + half)
        return Estimate(mean, low, high, n, m)
    return Estimate(mean, *_bootstrap(total.tobytes(), size.astype(np.int64).tobytes(), seed), n, m)


@functools.lru_cache(maxsize=1024)
def _bootstrap(total: bytes, size: bytes, seed: int) -> tuple[float, float]:
    """Percentile interval of the ratio of float64 sums to int64 sizes; a chapter asks for the same ones in several tables."""
    interval = scipy.stats.bootstrap(
        (np.frombuffer(total), np.frombuffer(size, np.int64)), lambda s, k, axis: s.sum(axis) / k.sum(axis), paired=True, vectorized=True,
        n_resamples=RESAMPLES, batch=200, confidence_level=CONFIDENCE, method="percentile", random_state=seed,
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def _wilson_of_counts(right: int, n: int) -> tuple[float, float]:
    test = scipy.stats.binomtest(right, n, right / n)  # of the share that was found: its p-value is 1, and costs no search
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share of n observations, which need not be a whole number."""
    centre, half = (rate + Z**2 / (2 * n)) / (1 + Z**2 / n), Z / (1 + Z**2 / n) * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def success_rate(attacks: pd.DataFrame) -> Estimate:
    """Share of attacks that reached their target: Figure 7's success rate, clustered by source image.

    Parameters
    ----------
    attacks : DataFrame
        Rows of kind "attack", with the columns ``success`` and ``image``.
    """
    return clustered_mean(attacks["success"], attacks["image"])


def features_changed(attacks: pd.DataFrame) -> Estimate:
    """Mean number of features that successful attacks changed, clustered by source image.

    Raises
    ------
    ValueError
        If no attack succeeded.
    """
    won = attacks[attacks["success"]]
    return clustered_mean(won["features_changed"], won["image"])


def interval_text(value: float, low: float, high: float, digits: int = 1, sign: bool = False) -> str:
    """A value and its interval for a reader, which no browser breaks: "94.2 [92.1, 95.8]"; dashes for what there is not."""
    if value is None or math.isnan(value):
        return "–"
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    if math.isnan(low) or math.isnan(high):  # one cluster has no spread
        return f"{form.format(value)}\N{NO-BREAK SPACE}[–]".replace("-", "\N{MINUS SIGN}")
    numbers = [form.format(0.0 if round(number, digits) == 0 else number) for number in (value, low, high)]  # no "-0.0"
    return "{}\N{NO-BREAK SPACE}[{},\N{NO-BREAK SPACE}{}]".format(*numbers).replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")

"""How far means over seeds can be trusted: intervals, and comparisons of methods seed by seed.

A mean of one run is called that, everywhere: its interval is NaN and its `interval` says `one run`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

Kind = Literal["t", "bootstrap"]
FEW = 10
"""Below so many values Student's t is used: a bootstrap of a few values is too narrow."""
DRAWS = 10_000
_COSTS = (
    "bytes_",
    "virtual_s",
    "wall_s",
    "rounds_to",
    "flops_",
    "device_s",
    "measured_s",
    "energy",
    "co2e",
    "harmed",
    "specialist_harmed",
)
"""Columns of which less is better begin so; of all others but the score, more is."""
_EXACT = 12
"""Up to so many pairs all 2ⁿ signs are tried."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and the interval in which the mean over all seeds lies with some confidence."""

    mean: float
    low: float
    high: float
    n: int
    """How many values, one per seed."""
    interval: str
    """`t`, `bootstrap`; `one run` or `no run` where there can be no interval: low and high are NaN."""

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """What one method is ahead of another by, over pairs of runs with the same setting and seed."""

    difference: Estimate
    """First minus second, in the metric's unit."""
    wins: int
    """Pairs in which the first is better; `ties` have the same score."""
    ties: int
    p: float
    """Two-sided, of a sign-flip test: how often differences of this size come about by chance. With n
    pairs it can't be below 2/2ⁿ; NaN with fewer than two pairs."""


def estimate(
    values: Iterable[float], *, confidence: float = 0.95, kind: Kind | None = None, seed: int = 0
) -> Estimate:
    """The mean of some values with its interval; NaN is left out.

    kind: `t` (Student, supposes roughly normal values) or `bootstrap` (percentiles of DRAWS resampled
    means); absent: t for fewer than FEW values. The bootstrap's draws depend on `seed` alone.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}; expected a share between 0 and 1")
    array = np.asarray(list(values), float)
    array = array[~np.isnan(array)]
    n = len(array)
    if n < 2:
        mean = float(array[0]) if n else math.nan
        return Estimate(mean, math.nan, math.nan, n, "one run" if n else "no run")
    mean, kind = float(array.mean()), kind or ("t" if n < FEW else "bootstrap")
    if kind == "t":
        half = float(stdtrit(n - 1, (1 + confidence) / 2)) * float(array.std(ddof=1)) / math.sqrt(n)
        return Estimate(mean, mean - half, mean + half, n, kind)
    picks = np.random.default_rng(seed).integers(n, size=(DRAWS, n))
    tail = (1 - confidence) / 2
    low, high = np.quantile(array[picks].mean(axis=1), (tail, 1 - tail))
    return Estimate(mean, float(low), float(high), n, kind)


def means(
    frame: pd.DataFrame,
    value: str = "score",
    by: Sequence[str] = ("setting", "contender"),
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row per group, in order of appearance: the `by` columns, mean, low, high, sd, n, interval.

    Runs that are repetitions (same group, same seed) count once: they are no further evidence.
    """
    columns = [*by, "mean", "low", "high", "sd", "n", "interval"]
    groups = independent(frame, value, by).groupby(list(by), sort=False, dropna=False)[value]
    table = groups.agg(["mean", "std", "count"]).reset_index()
    n, mean, sd = (table[c].to_numpy(float) for c in ("count", "mean", "std"))
    half = np.full(len(table), np.nan)
    few = (n > 1) & (n < FEW)
    half[few] = stdtrit(n[few] - 1, (1 + confidence) / 2) * sd[few] / np.sqrt(n[few])
    low, high = mean - half, mean + half
    for place in np.flatnonzero(n >= FEW):
        key = tuple(table.loc[place, list(by)])
        found = estimate(groups.get_group(key), confidence=confidence)
        low[place], high[place] = found.low, found.high
    kinds = np.select([n == 0, n == 1, n < FEW], ["no run", "one run", "t"], "bootstrap")
    table = table.assign(low=low, high=high, sd=sd, n=table["count"], interval=kinds.tolist())
    return table[columns]


def independent(frame: pd.DataFrame, value: str = "score", by: Sequence[str] = ()) -> pd.DataFrame:
    """The rows without those that repeat a setting, contender and seed of an earlier one that has a value;
    `by`: what else makes rows different. Where repetitions differ (other threads, a GPU) the first counts."""
    if "seed" not in frame:
        return frame
    names = (*by, "setting", "contender", "method", "round", "participant", "metric", "seed")
    told = [c for c in dict.fromkeys(names) if c in frame]
    valued = np.argsort(frame[value].isna().to_numpy(), kind="stable")
    first = ~frame.iloc[valued].duplicated(told).to_numpy()
    return frame.iloc[np.sort(valued[first])]


def compare(
    summary: pd.DataFrame,
    first: str,
    second: str,
    *,
    value: str = "score",
    by: Sequence[str] = ("setting", "seed"),
    confidence: float = 0.95,
) -> Comparison:
    """Compare two contenders over the runs that agree in the `by` columns.

    For methods that were run in folders of their own, whose settings differ in the method,
    `by=("seed",)`. The interval is over seeds where all pairs are of one setting. Raises ValueError where no
    pair is there, or where the pairs' scores are of several metrics.
    """
    paired = _pairs(summary, first, second, value, by)
    if paired.empty:
        raise ValueError(f"no runs of {first} and {second} with the same {' and '.join(by)}")
    difference = (paired[first] - paired[second]).to_numpy(float)
    told = summary[summary["contender"].isin([first, second]) & summary[value].notna()]
    if value == "score" and "metric" in told and told["metric"].nunique() > 1:
        metrics = ", ".join(sorted(told["metric"].unique()))
        raise ValueError(f"scores of one metric are compared, not of {metrics}: choose some of the runs")
    higher = bool(told["higher_is_better"].iloc[0]) if value == "score" else not value.startswith(_COSTS)
    better = difference if higher else -difference
    return Comparison(
        estimate(difference, confidence=confidence),
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        p=_sign_flip(difference),
    )


def comparisons(
    summary: pd.DataFrame, first: str, *, value: str = "score", by: Sequence[str] = ("setting", "seed")
) -> pd.DataFrame:
    """`first` against every other contender with a pair: a row each.

    contender; difference (first − contender), low, high, n pairs, interval; wins, ties; p.
    """
    rows = []
    for other in dict.fromkeys(summary["contender"]):
        if other == first or _pairs(summary, first, str(other), value, by).empty:
            continue
        found = compare(summary, first, str(other), value=value, by=by)
        d = found.difference
        rows.append((other, d.mean, d.low, d.high, d.n, d.interval, found.wins, found.ties, found.p))
    columns = ["contender", "difference", "low", "high", "n", "interval", "wins", "ties", "p"]
    return pd.DataFrame(rows, columns=columns)


def _pairs(summary: pd.DataFrame, first: str, second: str, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Columns `first` and `second`, a row for each setting and seed that has both."""
    rows = summary[summary["contender"].isin([first, second]) & summary[value].notna()]
    rows = rows.drop_duplicates([*by, "contender"])
    wide = rows.pivot(index=list(by), columns="contender", values=value)
    return wide.reindex(columns=[first, second]).dropna()


def _sign_flip(difference: np.ndarray) -> float:
    """How many of the sign patterns give a mean at least as far from zero."""
    n = len(difference)
    if n < 2:
        return math.nan
    if n <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        drawn = np.random.default_rng(0).integers(2, size=(DRAWS, n)) * 2.0 - 1.0
        signs = np.vstack([np.ones(n), drawn])  # what was seen is one of the patterns
    far = np.abs(signs @ difference)
    return float((far >= far[0] * (1 - 1e-12)).mean())

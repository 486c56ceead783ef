"""How well an attack tells members from others: AUC, true positives at few false ones, with intervals.

A score is larger the more an attack believes in membership.

Legend: M members, N others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

LEVEL = 0.95
"""Of the intervals in the tables."""


@dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


def auc(members_M: np.ndarray, others_N: np.ndarray, level: float = LEVEL) -> Estimate:
    """Chance that a member scores above somebody else, ties counting half, with DeLong's interval.

    DeLong, DeLong, Clarke-Pearson; Biometrics 44 (1988). The interval of an attack that never errs is a
    point: it says nothing about so few examples.
    """
    above_M = _below(others_N, members_M)
    below_N = 1 - _below(members_M, others_N)
    value = float(above_M.mean())
    deviation = math.sqrt(_variance(above_M) / len(above_M) + _variance(below_N) / len(below_N))
    reach = float(special.ndtri(0.5 + level / 2)) * deviation
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def tpr_at(members_M: np.ndarray, others_N: np.ndarray, fpr: float, level: float = LEVEL) -> Estimate:
    """Part of the members above the lowest threshold that at most a part `fpr` of the others exceeds.

    Clopper and Pearson's interval at that threshold. With fewer than 1 ÷ fpr others none may exceed it.
    """
    threshold = np.sort(others_N)[::-1][int(fpr * len(others_N) + 1e-9)]
    return proportion(int((members_M > threshold).sum()), len(members_M), level)


def proportion(hits: int, trials: int, level: float = LEVEL) -> Estimate:
    """hits ÷ trials with Clopper and Pearson's interval, which is never too narrow."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return Estimate(hits / trials, low, high)


def refutes(
    members_M: np.ndarray,
    others_N: np.ndarray,
    threshold: float,
    epsilon: float,
    delta: float,
    level: float = 0.999,
) -> bool:
    """Whether the scores show, at the level, that what they are of is not (ε, δ)-private.

    It is only if TPR ≤ e^ε FPR + δ and 1 − FPR ≤ e^ε (1 − TPR) + δ at every threshold (Kairouz, Oh,
    Viswanath, arXiv 1311.0776). The threshold has to come from elsewhere than these scores.
    """
    tpr = proportion(int((members_M > threshold).sum()), len(members_M), level)
    fpr = proportion(int((others_N > threshold).sum()), len(others_N), level)
    factor = math.exp(epsilon)
    return tpr.low > factor * fpr.high + delta or 1 - fpr.high > factor * (1 - tpr.low) + delta


def _below(population: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each value the part of the population below it, equals counting half."""
    ascending = np.sort(population)
    less = np.searchsorted(ascending, values, "left")
    at_most = np.searchsorted(ascending, values, "right")
    return np.asarray((less + at_most) / (2 * len(ascending)))


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0

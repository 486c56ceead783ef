"""GNMax: votes of participants with noise, so that none of them shows in what is released.

PATE's aggregation (Papernot, Song, Mironov, Raghunathan, Talwar, Erlingsson; ICLR 2018; arXiv 1802.08908),
with participants as teachers and proxy samples as queries:

    votes      n_c(x) = participants whose likeliest class of x is c
    check      x is answered if max_c n_c(x) + N(0, σ₁²) ≥ T           (Confident-GNMax; left out without T)
    label      argmax_c n_c(x) + N(0, σ²)

What is hidden is a whole participant: neighbours differ in all votes of one of them. A label then costs
α/σ² of Rényi divergence at order α, a check α/(2σ₁²), whatever the votes are; labels and checks of all
rounds add up. With `data_dependent` both cost less where the votes are clear (theorem 6 and propositions 7
and 10), but that ε is itself a fact about private data.

The coordinator sees votes without noise and is trusted with them; what it releases, the student and its
answers, are made of labels and so cost nothing more. The noise comes from the run's seed, once, when the pool
is closed: votes are integers, which hosts add up in any order.

Legend: Q queries, K classes, O orders.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from fedsim.aggregation.exact import Pooled
from fedsim.config import Positive, Settings
from fedsim.privacy import ORDERS
from fedsim.seeding import generator
from fedsim.types import Knowledge, Responses

_ORDERS = np.array(ORDERS, np.float64)
_CHUNK = 2**12  # queries whose costs are held at once
_LEAST = 1e-12  # a divergence ÷ α that takes noise without end


class GNMaxSettings(Settings):
    """Client-level privacy by noisy votes, see `aggregation.gnmax`."""

    epsilon: Positive | None = None
    """ε of a whole participant over all rounds: the noise is solved for it."""
    noise: Positive | None = None
    """In place of `epsilon`: σ, standard deviation of the noise on each class, in votes."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ of (ε, δ); well below 1 ÷ the number of participants."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """T as a part of all participants: samples whose first class has fewer votes are mostly not answered."""
    check: Positive = 3.0
    """σ₁ ÷ σ, of the noise on that check."""
    data_dependent: bool = False
    """Whether the ε in the tables is that of the votes there were, rather than of the worst there can be."""

    @model_validator(mode="after")
    def _one_of_both(self) -> GNMaxSettings:
        if (self.epsilon is None) == (self.noise is None):
            raise ValueError("either epsilon or noise")
        if self.epsilon is not None and epsilon_of(_LEAST * _ORDERS, self.delta) >= self.epsilon:
            raise ValueError("a larger epsilon or delta: no noise is enough")
        return self

    def sigma(self, queries: int) -> float:
        """σ for that many queries in the whole run, all of them answered."""
        if self.noise is not None:
            return self.noise
        assert self.epsilon is not None
        checks = 0.0 if self.threshold is None else 0.5 / self.check**2
        return math.sqrt(queries * (1 + checks) / _slope(self.epsilon, self.delta))


class GNMaxPool:
    """The votes of a round; closed by `result`, which draws the noise.

    sigma: σ.   people: of the whole run.   seed, round, contender: of the noise.
    cost: [O] what the labels cost at the orders of `fedsim.privacy`, after `result`.
    """

    disagreement = None

    def __init__(
        self,
        samples: np.ndarray,
        classes: int,
        levels: int,
        want: GNMaxSettings,
        sigma: float,
        people: int,
        seed: int,
        round: int,
        contender: str = "",
    ) -> None:
        self.samples, self.levels, self.cost = samples, levels, np.zeros(len(_ORDERS))
        self._want, self._sigma, self._people = want, sigma, people
        self._key = seed, round, contender
        self._votes = np.zeros((len(samples), classes), np.int64)

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        votes = self._votes.copy()  # an empty pool comes to a host in memory that it shares
        votes[np.searchsorted(self.samples, knowledge.samples), favourites(knowledge)] += 1
        self._votes = votes

    def merge(self, other: GNMaxPool) -> None:
        self._votes = self._votes + other._votes

    def result(self) -> Pooled:
        """The labels of the samples that are answered, all of a row on one class."""
        votes, sigma, want = self._votes, self._sigma, self._want
        rng = generator(*self._key, "gnmax")
        answered = np.ones(len(votes), bool)
        cost = np.zeros(len(_ORDERS))
        if want.threshold is not None:
            level, around = want.threshold * self._people, want.check * sigma
            answered = votes.max(axis=1) + around * rng.standard_normal(len(votes)) >= level
            cost += check_cost(votes, level, around, want.data_dependent)
        labels = (votes + sigma * rng.standard_normal(votes.shape)).argmax(axis=1)[answered]
        self.cost = cost + label_cost(votes[answered], sigma, want.data_dependent)
        offsets = np.arange(len(labels) + 1, dtype=np.int64)
        probs = np.ones(len(labels), np.float32)
        return Pooled(self.samples[answered], 1, votes.shape[1], offsets, labels.astype(np.int32), probs)


def favourites(responses: Responses) -> np.ndarray:
    """The class that each row gives most to, [R] int64; the first of several."""
    row = np.repeat(np.arange(responses.rows), np.diff(responses.offsets))
    order = np.lexsort((-responses.counts, row))
    return np.asarray(responses.ids[order[responses.offsets[:-1]]], np.int64)


# What it costs ------------------------------------------------------------------------------------


def label_cost(votes_QK: np.ndarray, sigma: float, data_dependent: bool = False) -> np.ndarray:
    """Rényi divergence [O] of the labels of Q queries together (proposition 8; theorem 6)."""
    if not data_dependent:
        return len(votes_QK) * _ORDERS / sigma**2
    from scipy.special import log_ndtr

    total, classes = np.zeros(len(_ORDERS)), votes_QK.shape[1]
    for start in range(0, len(votes_QK), _CHUNK):
        votes = np.sort(votes_QK[start : start + _CHUNK], axis=1)
        behind = (votes[:, -1:] - votes[:, :-1]) / (math.sqrt(2) * sigma)
        # Proposition 7: that another class than the first wins.
        log_q = np.minimum(np.logaddexp.reduce(log_ndtr(-behind), axis=1), math.log1p(-1 / classes))
        total += _dependent(log_q, sigma).sum(axis=0)
    return total


def check_cost(votes_QK: np.ndarray, level: float, sigma: float, data_dependent: bool = False) -> np.ndarray:
    """The same of the checks of Q queries against `level`, with noise σ₁ = `sigma`: a participant moves
    the largest number of votes by one, where it moves two numbers of votes by one each."""
    wide = math.sqrt(2) * sigma
    if not data_dependent:
        return len(votes_QK) * _ORDERS / wide**2
    from scipy.special import log_ndtr

    above = (votes_QK.max(axis=1) - level) / sigma
    log_q = np.minimum(log_ndtr(above), log_ndtr(-above))  # of the less likely outcome
    return np.asarray(
        sum(_dependent(log_q[k : k + _CHUNK], wide).sum(0) for k in range(0, len(log_q), _CHUNK))
    )


def epsilon_of(costs: np.ndarray, delta: float) -> float:
    """ε at δ of a Rényi divergence [O] (Balle, Barthe, Gaboardi, Hsu, Sato, arXiv 1905.09982, theorem 21)."""
    if not costs.any():
        return 0.0
    a = _ORDERS
    return max(0.0, float(np.min(costs + np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1))))


@lru_cache(maxsize=64)
def _slope(epsilon: float, delta: float) -> float:
    """c such that a divergence of c · α is ε at δ."""
    low = high = _LEAST
    while epsilon_of(high * _ORDERS, delta) < epsilon:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of(middle * _ORDERS, delta) < epsilon else (low, middle)
    return low


def _dependent(log_q_Q: np.ndarray, sigma: float) -> np.ndarray:
    """[Q, O] of a mechanism with noise σ whose likeliest outcome fails with probability q (theorem 6,
    with the orders μ of proposition 10); α/σ² where the theorem says nothing."""
    log_q, a = log_q_Q[:, None], _ORDERS
    plain = np.broadcast_to(a / sigma**2, (len(log_q), len(a)))
    with np.errstate(all="ignore"):  # where the theorem does not hold, numbers may be anything
        mu2 = sigma * np.sqrt(-log_q)
        mu1 = mu2 + 1
        e1, e2 = mu1 / sigma**2, mu2 / sigma**2
        log_p = _log1mexp(log_q)
        log_a = (a - 1) * (log_p - _log1mexp((log_q + e2) * (1 - 1 / mu2)))
        log_b = (a - 1) * (e1 - log_q / mu2)
        found = np.logaddexp(log_p + log_a, log_q + log_b) / (a - 1)
        most = (mu2 - 1) * e2 - mu2 * (np.log1p(1 / mu2) + np.log1p(1 / (mu2 - 1)))
        holds = (a < mu1) & (mu2 > 1) & (log_q <= most) & (-log_q > e2)
    return np.where(holds, np.minimum(plain, found), plain)


def _log1mexp(x: np.ndarray) -> np.ndarray:
    """log(1 − e^x) of x < 0."""
    return np.asarray(np.where(x > -1, np.log(-np.expm1(x)), np.log1p(-np.exp(x))))

"""How far participants are apart on a sample: the Jensen–Shannon divergence of their answers,

    D(x) = H(1/N Σ_k p_k(x)) − 1/N Σ_k H(p_k(x)),        0 … log N nats, mean over positions

All count alike, whatever they claim. Exact: entropies are summed as integers of 2^−20 quanta.
"""

from __future__ import annotations

import numpy as np

from fedsim.aggregation.exact import CountSum, merge_sums
from fedsim.types import Responses

_STEP = 2.0**-20


class Disagreement:
    """Σ of N participants' counts, and Σ of their n·log n, per sample."""

    def __init__(self, positions: int, classes: int, levels: int) -> None:
        self._mean = CountSum(positions, classes, levels)
        n = np.arange(1, levels + 1)
        self._table = np.rint(n * np.log(n) / _STEP).astype(np.int64)
        self._samples = self._sharpness = self._people = np.zeros(0, np.int64)

    def add(self, responses: Responses) -> None:
        if responses.tail:
            raise ValueError("the entropy of rows with tails is not that of their counts")
        ones = np.ones(len(responses.samples), np.int64)
        self._mean.add(responses, ones)
        sharpness = np.zeros_like(ones)
        if len(ones):
            firsts = responses.offsets[: -1 : responses.positions]
            sharpness = np.add.reduceat(self._table[responses.counts - 1], firsts)
        self._merge(responses.samples, sharpness, ones)

    def merge(self, other: Disagreement) -> None:
        self._mean.merge(other._mean)
        self._merge(other._samples, other._sharpness, other._people)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(samples [n] int64 ascending, nats [n] float64)."""
        pooled, levels = self._mean.result(), self._mean.unit
        if not len(pooled.samples):
            return pooled.samples, np.zeros(0)
        probs = pooled.probs.astype(np.float64)
        firsts = pooled.offsets[: -1 : pooled.positions]
        of_mean = np.add.reduceat(-probs * np.log(probs), firsts) / pooled.positions
        rows = self._people * pooled.positions  # H(n/L) = log L − 1/L Σ n log n
        mean_of = np.log(levels) - self._sharpness * _STEP / levels / rows
        return pooled.samples, np.maximum(of_mean - mean_of, 0.0)

    def _merge(self, samples: np.ndarray, sharpness: np.ndarray, people: np.ndarray) -> None:
        before = self._samples
        self._samples, self._sharpness = merge_sums(before, self._sharpness, samples, sharpness)
        _, self._people = merge_sums(before, self._people, samples, people)

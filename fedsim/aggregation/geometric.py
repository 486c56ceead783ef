"""The mean of logits: responses averaged in the logarithm rather than in probability.

Softmax of the mean of logits is the normalised geometric mean of the probabilities. On a grid most
counts are 0, whose logarithm is none, so half a quantum is added to every count, and taken off again:

    p̄(c) ∝ exp( Σ_k w_k log(1 + n_k(c)/a) ÷ Σ_k w_k ) − 1,       a = ½ quantum

As a → 0 this is the geometric mean, as a → ∞ the arithmetic one; equal answers are left as they are for
any a. A class that nobody named adds nothing, so the sum is as sparse as the answers, whatever the
vocabulary. Logarithms are integers of 2^−20, from one table: the same bits in any order.
"""

from __future__ import annotations

import numpy as np

from fedsim.aggregation.exact import CountSum, merge_sums
from fedsim.types import Responses

_SMOOTHING = 0.5
_STEP = 2.0**-20


class LogSum(CountSum):
    """Σ w·log(1 + counts/a), per (sample, position, class), and Σ w per sample, in int64."""

    def __init__(self, positions: int, classes: int, unit: int) -> None:
        super().__init__(positions, classes, unit)
        self._table = np.rint(np.log1p(np.arange(unit + 1) / _SMOOTHING) / _STEP).astype(np.int64)
        self.largest = int(self._table[-1])
        self._samples = np.zeros(0, np.int64)
        self._weights = np.zeros(0, np.int64)

    def add(self, responses: Responses, weights: np.ndarray) -> None:
        """As CountSum.add, with weights [n]."""
        if weights.ndim != 1:
            raise ValueError(f"weights {list(weights.shape)} for {len(responses.samples)} samples")
        if responses.tail:
            raise ValueError("the logarithm of a tail's even shares is not that of its sum")
        super().add(responses, weights)
        self._samples, self._weights = merge_sums(
            self._samples, self._weights, responses.samples, weights.astype(np.int64)
        )

    def merge(self, other: CountSum) -> None:
        """As CountSum.merge."""
        assert isinstance(other, LogSum)
        super().merge(other)
        self._samples, self._weights = merge_sums(
            self._samples, self._weights, other._samples, other._weights
        )

    def _means(self, samples: np.ndarray, mass: np.ndarray) -> np.ndarray:
        weights = self._weights[np.searchsorted(self._samples, samples)]
        return np.expm1(mass * _STEP / weights)

    def _values(self, counts: np.ndarray, times: int) -> np.ndarray:
        return self._table[counts.astype(np.int64) * times]

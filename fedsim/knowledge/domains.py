"""Which participants a sample's pooled answer comes from, as a few numbers.

Participant k has a fixed code u_k of D signs, and d(x) = Σ_k w_k(x) u_k ÷ Σ_k w_k(x), with the weights
that its claims and skills earned. With equal weights all samples have one d. Codes in place of one number
per participant keep the sum, and the student's layer that reads it, from growing with their number.
"""

from __future__ import annotations

import numpy as np

from fedsim.seeding import generator

SIZE = 8
"""D: codes of 2^8 participants can differ, and random ones overlap by a third of D at most, mostly."""


def code(seed: int, participant: int) -> np.ndarray:
    """u_k, [D] int64 of ±1."""
    return generator(seed, participant, "domain").integers(0, 2, SIZE) * 2 - 1


class DomainSum:
    """Σ_k w_k(x) u_k and Σ_k w_k(x) for the samples of a round, as integers.

    samples: [n] int64 ascending.
    """

    def __init__(self, seed: int, samples: np.ndarray) -> None:
        self.seed, self.samples = seed, samples
        self._codes = np.zeros((len(samples), SIZE), np.int64)
        self._weights = np.zeros(len(samples), np.int64)

    def add(self, participant: int, samples: np.ndarray, weights: np.ndarray) -> None:
        """weights: [n] integers ≥ 0, of these samples, which are among the round's."""
        rows = np.searchsorted(self.samples, samples)
        self._codes[rows] += weights[:, None] * code(self.seed, participant)
        self._weights[rows] += weights

    def merge(self, other: DomainSum) -> None:
        self._codes += other._codes
        self._weights += other._weights

    def result(self) -> np.ndarray:
        """d(x), [n, D] float32 in −1 … 1; zeros where nobody has weight."""
        return (self._codes / np.maximum(1, self._weights)[:, None]).astype(np.float32)

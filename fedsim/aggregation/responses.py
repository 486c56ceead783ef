"""What the coordinator does with responses: pools them, sharpens them, remembers them.

p̄(x) = Σ_k w_k(x) p_k(x) ÷ Σ_k w_k(x) is exact: the counts on the grid are summed as integers with
integer weights, so the order of arrival changes no bit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.types import Knowledge, Responses

_UNIT = 2**16
"""A weight of 1 as an integer: sums are exact, and a weight can shrink and grow by e^±8."""
_REACH = 8.0


class ResponsePool:
    """Σ w_k(x) · counts, exact and in any order.

    reference: [n] nats, what a participant's loss on a sample is measured against; None weighs all
        alike. Losses are reported by the participants themselves, so their effect is bounded.
    """

    def __init__(self, sum: CountSum, confidence: float, reference: np.ndarray | None) -> None:
        self.sum, self._confidence, self._reference = sum, confidence, reference

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        weights = np.full(len(knowledge.samples), _UNIT, np.int64)
        if self._reference is not None and knowledge.claims is not None:
            gain = self._confidence * (self._reference - knowledge.claims)
            weights = np.rint(_UNIT * np.exp(np.clip(gain, -_REACH, _REACH))).astype(np.int64)
        self.sum.add(knowledge, weights)

    def merge(self, other: ResponsePool) -> None:
        self.sum.merge(other.sum)


def as_pooled(responses: Responses) -> Pooled:
    """One sender's responses as a teacher."""
    probs = (responses.counts / responses.levels).astype(np.float32)
    return Pooled(
        responses.samples,
        responses.positions,
        responses.classes,
        responses.offsets,
        responses.ids,
        probs,
    )


def sharpen(pooled: Pooled, beta: float) -> Pooled:
    """Enhanced ERA, p^β ÷ Σ p^β row by row; β = 1 is the identity."""
    if beta == 1.0:
        return pooled
    starts, lengths = pooled.offsets[:-1], np.diff(pooled.offsets)
    # By the largest of the row, so that not all of it underflows when β is large.
    largest = np.repeat(np.maximum.reduceat(pooled.probs, starts), lengths)
    powered = (pooled.probs.astype(np.float64) / largest) ** beta
    totals = np.add.reduceat(powered, starts)
    return replace(pooled, probs=(powered / np.repeat(totals, lengths)).astype(np.float32))


def recall(memory: dict[str, np.ndarray], fresh: Pooled) -> Pooled:
    """Fresh rows, and those of earlier rounds for samples that are not among them; kept in `memory`."""
    if memory:
        old = Pooled(
            memory["samples"],
            fresh.positions,
            fresh.classes,
            memory["offsets"],
            memory["ids"],
            memory["probs"],
        )
        fresh = union(fresh, old)
    memory.update(samples=fresh.samples, offsets=fresh.offsets, ids=fresh.ids, probs=fresh.probs)
    return fresh


def union(first: Pooled, second: Pooled) -> Pooled:
    """The rows of both, samples ascending; where both have a sample, the first's rows."""
    samples = np.concatenate([first.samples, second.samples])
    _, chosen = np.unique(samples, return_index=True)  # the first of equals
    p = first.positions
    rows = (chosen[:, None] * p + np.arange(p)).ravel()
    lengths = np.concatenate([np.diff(first.offsets), np.diff(second.offsets)])
    starts = np.concatenate([first.offsets[:-1], second.offsets[:-1] + first.offsets[-1]])
    taken = lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(taken)])
    entries = np.repeat(starts[rows] - offsets[:-1], taken) + np.arange(offsets[-1])
    return Pooled(
        samples[chosen],
        p,
        first.classes,
        offsets,
        np.concatenate([first.ids, second.ids])[entries],
        np.concatenate([first.probs, second.probs])[entries],
    )

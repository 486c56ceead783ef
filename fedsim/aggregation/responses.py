"""What the coordinator does with responses: pools them, sharpens them, remembers them.

p̄(x) = Σ_k w_k(x) p_k(x) ÷ Σ_k w_k(x) is exact: the counts on the grid are summed as integers with
integer weights, so the order of arrival changes no bit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.rows import gather
from fedsim.types import Knowledge, Responses
from fedsim.wire.quantise import largest_remainder

_UNIT = 2**16
"""A weight of 1 as an integer: sums are exact, and a weight can shrink and grow by e^±8."""
_REACH = 8.0
_CHUNK_VALUES = 2**22
"""Probabilities held densely at once."""


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
        (responses.tails / responses.levels).astype(np.float32) if responses.tail else None,
    )


def dense(pooled: Pooled, rows: np.ndarray) -> np.ndarray:
    """The probabilities of the rows at `rows` [r], [r, K] float32."""
    offsets, entries = gather(pooled.offsets, rows)
    probs = np.zeros((len(rows), pooled.classes), np.float32)
    probs[np.repeat(np.arange(len(rows)), np.diff(offsets)), pooled.ids[entries]] = pooled.probs[entries]
    if pooled.rests is not None:
        probs += pooled.rests[rows, None] / np.float32(pooled.classes)
    return probs


def sharpen(pooled: Pooled, beta: float) -> Pooled:
    """Enhanced ERA, p^β ÷ Σ p^β row by row; β = 1 is the identity."""
    if beta == 1.0:
        return pooled
    starts, lengths = pooled.offsets[:-1], np.diff(pooled.offsets)
    # By the largest of the row, so that not all of it underflows when β is large.
    largest = np.repeat(np.maximum.reduceat(pooled.probs, starts), lengths)
    if pooled.rests is None:
        powered = (pooled.probs.astype(np.float64) / largest) ** beta
        totals = np.add.reduceat(powered, starts)
        return replace(pooled, probs=(powered / np.repeat(totals, lengths)).astype(np.float32))
    # A class that isn't named has an even share of the rest, one that is named has it as well.
    shares = pooled.rests.astype(np.float64) / pooled.classes
    largest += np.repeat(shares, lengths)
    floors = (shares / largest[starts]) ** beta
    powered = ((pooled.probs + np.repeat(shares, lengths)) / largest) ** beta
    totals = np.add.reduceat(powered, starts) + floors * (pooled.classes - lengths)
    powered -= np.repeat(floors, lengths)
    return replace(
        pooled,
        probs=(powered / np.repeat(totals, lengths)).astype(np.float32),
        rests=(floors * pooled.classes / totals).astype(np.float32),
    )


def era(pooled: Pooled, temperature: float) -> Pooled:
    """Entropy reduction aggregation of DS-FL, softmax(p̄ ÷ T) over all K classes, row by row.

    Classes that nobody named take part with p̄ = 0, so every row comes out with K entries.
    """
    rows, classes = len(pooled.offsets) - 1, pooled.classes
    scaled = dense(pooled, np.arange(rows)).astype(np.float64)
    scaled /= temperature
    scaled -= scaled.max(axis=1, keepdims=True)  # e^0 is the largest: nothing overflows
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return replace(
        pooled,
        offsets=np.arange(rows + 1) * classes,
        ids=np.tile(np.arange(classes, dtype=np.int32), rows),
        probs=scaled.astype(np.float32).ravel(),
        rests=None,
    )


def quantised(pooled: Pooled, levels: int) -> Responses:
    """Pooled rows on the grid of `levels`, nearest in L1, so that they can be sent."""
    rows, classes = len(pooled.offsets) - 1, pooled.classes
    lengths, ids, counts = [], [], []
    for start in range(0, rows, size := max(1, _CHUNK_VALUES // classes)):
        probs = dense(pooled, np.arange(start, min(start + size, rows)))
        length, class_ids, count = largest_remainder(probs, levels)
        lengths.append(length)
        ids.append(class_ids)
        counts.append(count)
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    return Responses(
        samples=pooled.samples,
        positions=pooled.positions,
        classes=classes,
        levels=levels,
        offsets=np.concatenate([[0], ends]),
        ids=np.concatenate(ids),
        counts=np.concatenate(counts),
    )


def recall(memory: dict[str, np.ndarray], fresh: Pooled) -> Pooled:
    """Fresh rows, and those of earlier rounds for samples that are not among them; kept in `memory`."""
    if "samples" in memory:
        old = Pooled(
            memory["samples"],
            fresh.positions,
            fresh.classes,
            memory["offsets"],
            memory["ids"],
            memory["probs"],
            memory.get("rests"),
        )
        fresh = union(fresh, old)
    memory.update(samples=fresh.samples, offsets=fresh.offsets, ids=fresh.ids, probs=fresh.probs)
    if fresh.rests is not None:
        memory["rests"] = fresh.rests
    return fresh


def union(first: Pooled, second: Pooled) -> Pooled:
    """The rows of both, samples ascending; where both have a sample, the first's rows."""
    samples = np.concatenate([first.samples, second.samples])
    _, chosen = np.unique(samples, return_index=True)  # the first of equals
    p = first.positions
    rows = (chosen[:, None] * p + np.arange(p)).ravel()
    both = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    offsets, entries = gather(both, rows)
    rests = None
    if first.rests is not None or second.rests is not None:
        none = (np.zeros(len(part.offsets) - 1, np.float32) for part in (first, second))
        each = (part.rests for part in (first, second))
        rests = np.concatenate([z if r is None else r for r, z in zip(each, none, strict=True)])[rows]
    return Pooled(
        samples[chosen],
        p,
        first.classes,
        offsets,
        np.concatenate([first.ids, second.ids])[entries],
        np.concatenate([first.probs, second.probs])[entries],
        rests,
    )

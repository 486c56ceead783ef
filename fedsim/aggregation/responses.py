"""What the coordinator does with responses: pools them, sharpens them, remembers them.

p̄(x) = Σ_k w_k(x) p_k(x) ÷ Σ_k w_k(x) is exact: the counts on the grid are summed as integers with
integer weights, so the order of arrival changes no bit. The mean can be of logits instead, and instead
of a mean there can be the best answer of each sample.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.aggregation.disagreement import Disagreement
from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.weights import Weighing
from fedsim.rows import gather
from fedsim.types import Knowledge, Responses
from fedsim.wire.quantise import largest_remainder

EQUAL = Weighing()

_CHUNK_VALUES = 2**22
"""Probabilities held densely at once."""


class ResponsePool:
    """Σ w_k(x) · answers, exact and in any order.

    samples: [n] what was asked about.
    sum: CountSum for the mean of probabilities, LogSum for that of logits.
    disagreement: where it is wanted how far participants are apart.
    """

    def __init__(
        self,
        samples: np.ndarray,
        sum: CountSum,
        weighing: Weighing = EQUAL,
        disagreement: Disagreement | None = None,
    ) -> None:
        self.samples = samples
        self.sum, self._weighing, self.disagreement = sum, weighing, disagreement

    @property
    def levels(self) -> int:
        """Quanta that a row of the answers is divided into."""
        return self.sum.unit

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        self.sum.add(knowledge, self._weighing.units(knowledge))
        if self.disagreement is not None:
            self.disagreement.add(knowledge)

    def merge(self, other: ResponsePool) -> None:
        self.sum.merge(other.sum)
        if self.disagreement is not None and other.disagreement is not None:
            self.disagreement.merge(other.disagreement)

    def result(self) -> Pooled:
        return self.sum.result()


class BestPool:
    """Per sample the answer of who claims to know it best; among equals of the lower participant.

    Holds one answer per sample, however many were given.
    """

    def __init__(
        self,
        samples: np.ndarray,
        positions: int,
        classes: int,
        levels: int,
        weighing: Weighing,
        disagreement: Disagreement | None = None,
    ) -> None:
        self.samples, self.levels = samples, levels
        self._weighing, self.disagreement = weighing, disagreement
        none = np.zeros(0, np.int64)
        offsets, ids, probs = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
        self._held = Pooled(none, positions, classes, offsets, ids, probs)
        self._gains, self._who = np.zeros(0), none

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        who = np.full(len(knowledge.samples), participant, np.int64)
        self._take(as_pooled(knowledge), self._weighing.gains(knowledge), who)
        if self.disagreement is not None:
            self.disagreement.add(knowledge)

    def merge(self, other: BestPool) -> None:
        self._take(other._held, other._gains, other._who)
        if self.disagreement is not None and other.disagreement is not None:
            self.disagreement.merge(other.disagreement)

    def result(self) -> Pooled:
        return self._held

    def _take(self, rows: Pooled, gains: np.ndarray, who: np.ndarray) -> None:
        gains, who = np.concatenate([self._gains, gains]), np.concatenate([self._who, who])
        samples = np.concatenate([self._held.samples, rows.samples])
        order = np.lexsort((who, -gains, samples))
        chosen = order[np.flatnonzero(np.diff(samples[order], prepend=-1))]
        self._held = _pick(self._held, rows, chosen)
        self._gains, self._who = gains[chosen], who[chosen]


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


def of_samples(pooled: Pooled, places: np.ndarray) -> np.ndarray:
    """The same of all rows of the samples at `places` [n], [n · p, K] float32."""
    p = pooled.positions
    return dense(pooled, (places[:, None] * p + np.arange(p)).ravel())


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


def recall(memory: dict[str, np.ndarray], fresh: Pooled | None, positions: int, classes: int) -> Pooled:
    """Fresh rows, and those of earlier rounds for samples that are not among them; kept in `memory`.

    fresh: None where nobody was asked.
    """
    if "samples" in memory:
        samples, offsets, ids, probs = (memory[name] for name in ("samples", "offsets", "ids", "probs"))
        old = Pooled(samples, positions, classes, offsets, ids, probs, memory.get("rests"))
        fresh = old if fresh is None else union(fresh, old)
    if fresh is None:
        raise ValueError("there is nothing to remember")
    memory.update(samples=fresh.samples, offsets=fresh.offsets, ids=fresh.ids, probs=fresh.probs)
    if fresh.rests is not None:
        memory["rests"] = fresh.rests
    return fresh


def union(first: Pooled, second: Pooled) -> Pooled:
    """The rows of both, samples ascending; where both have a sample, the first's rows."""
    _, chosen = np.unique(np.concatenate([first.samples, second.samples]), return_index=True)
    return _pick(first, second, chosen)


def _pick(first: Pooled, second: Pooled, chosen: np.ndarray) -> Pooled:
    """Some samples of both, with their rows.   chosen: their places, the second's after the first's."""
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
        np.concatenate([first.samples, second.samples])[chosen],
        p,
        first.classes,
        offsets,
        np.concatenate([first.ids, second.ids])[entries],
        np.concatenate([first.probs, second.probs])[entries],
        rests,
    )


def whole(samples: np.ndarray, positions: int, probs_RK: np.ndarray) -> Pooled:
    """Rows in which every class has its share, [R, K]."""
    rows, classes = probs_RK.shape
    return Pooled(
        samples,
        positions,
        classes,
        np.arange(rows + 1) * classes,
        np.tile(np.arange(classes, dtype=np.int32), rows),
        probs_RK.astype(np.float32).ravel(),
    )

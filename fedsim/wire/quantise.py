"""From probability rows to counts on the simplex grid {0, 1/L, …, 1}.

largest_remainder   the constrained quantiser Q_b of CFD ("Communication-Efficient Federated
                    Distillation", Sattler, Marban, Rischke, Samek, arXiv 2012.00632), L = 2^b − 1:
                    the grid point that is nearest in L1. Deterministic, biased: what is far below
                    1/L vanishes.
sample              RS-KD ("Sparse Logit Sampling", arXiv 2503.16870): L ids drawn from the row
                    with replacement, count/L estimates p without bias; variance p(1 − p)/L.
systematic          L equidistant points with one random offset per row on the row's cumulative
                    sum. Unbiased as well, and every count is within one of L·p, so the variance
                    is at most 1/(4 L²); but the counts of a row depend on each other's order.

top_k               the `top` most probable classes by name, the rest of the mass as a tail that is spread
                    evenly over all classes (the tail bucket of DistillKit and TRL). A named class has at
                    least its even share of the rest, so only what it has above that is sent for it, and
                    rows with tails add up class by class. Biased within the tail, as it forgets who has
                    what there; without a tail, renormalised, it would be biased everywhere.

Legend: R rows, K classes, L levels, nnz classes with a count ≥ 1, over all rows.
A quantiser returns (lengths [R] int32, ids [nnz] int32 ascending within a row, counts [nnz]
int32 ≥ 1 summing to L per row, or to less where it leaves a tail). Rows need not be normalised:
each is divided by its own sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fedsim.types import Responses

Quantised = tuple[np.ndarray, np.ndarray, np.ndarray]
Quantiser = Callable[..., Quantised]  # (probabilities [R, K], levels, generator); `top_k` also `top`

MAX_LEVELS = 2**20
_CHUNK = 1 << 17  # probabilities worked on at a time: 1 MB of float64, which stays in the cache
_FRACTION = 1 << 40  # remainders and cumulative sums are compared as integers of this resolution
_FEW = 24  # classes up to which remainders are compared in pairs
_MAX_CLASSES = 1 << 22  # a class id is packed below a remainder in one int64


def largest_remainder(probs: np.ndarray, levels: int, rng: np.random.Generator | None = None) -> Quantised:
    """The nearest grid point in L1; equal remainders (to 2^−40) go to the lower class id. No `rng` is used.

    probs: [R, K] float32, non-negative. Raises ValueError for anything else or `levels` < 1.
    """
    parts = []
    for rows, totals in _chunks(probs, levels):
        scaled = rows * (levels / totals)[:, None]
        parts.append(_sparse(_nearest(scaled, levels)))
    return _join(parts)


def top_k(
    probs: np.ndarray, levels: int, rng: np.random.Generator | None = None, *, top: int = 16
) -> Quantised:
    """The `top` largest classes and a tail, rounded together to the nearest grid point. No `rng` is used.

    probs: [R, K] float32, non-negative. Equal probabilities go to the lower class id. What is left of
    `levels` is the tail. The most probable class is always named, by one quantum at least.
    """
    parts = []
    for rows, totals in _chunks(probs, levels):
        size, classes = rows.shape
        kept = min(top, classes)
        named = _largest(rows, kept)
        ids = np.nonzero(named)[1].reshape(size, kept)
        values = rows[named].reshape(size, kept) / totals[:, None]
        scaled = np.empty((size, kept + 1))
        share = np.maximum(1 - values.sum(axis=1), 0) / max(1, classes - kept)
        scaled[:, :kept] = np.maximum(values - share[:, None], 0) * levels
        scaled[:, kept] = levels - scaled[:, :kept].sum(axis=1)
        counts = _nearest(np.maximum(scaled, 0), levels)[:, :kept]
        nameless = np.flatnonzero(counts.sum(axis=1) == 0)
        counts[nameless, values[nameless].argmax(axis=1)] = 1
        row, place = np.nonzero(counts)
        lengths = np.bincount(row, minlength=size).astype(np.int32)
        parts.append((lengths, ids[row, place].astype(np.int32), counts[row, place]))
    return _join(parts)


def sample(probs: np.ndarray, levels: int, rng: np.random.Generator) -> Quantised:
    """L draws per row with replacement, each an exact multinomial draw up to 2^−40 in probability.

    probs: [R, K] float32, non-negative. A class of probability 0 is never drawn.
    """
    parts = []
    for rows, _ in _chunks(probs, levels, draws=levels):
        size, classes = rows.shape
        # Inverse of the cumulative sum, as one sorted list for all rows. Integers, because adding
        # the row number to a float would move a draw near a boundary into the next class or row.
        np.cumsum(rows, axis=1, out=rows)
        rows /= rows[:, -1:]  # ends in exactly 1, from the last class that has any probability
        rows *= _FRACTION
        cumulative = rows.astype(np.int64)
        first = np.arange(size)[:, None]
        cumulative += first * _FRACTION
        draws = (rng.random((size, levels)) * _FRACTION).astype(np.int64)
        draws += first * _FRACTION
        draws.sort(axis=1)
        flat = np.searchsorted(cumulative.ravel(), draws.ravel(), side="right")
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        ids = flat[starts]
        counts = np.diff(starts, append=len(flat)).astype(np.int32)
        lengths = np.bincount(ids // classes, minlength=size).astype(np.int32)
        parts.append((lengths, (ids % classes).astype(np.int32), counts))
    return _join(parts)


def systematic(probs: np.ndarray, levels: int, rng: np.random.Generator) -> Quantised:
    """The points (u + 0), (u + 1), …, (u + L − 1) on the row's cumulative sum scaled to L, u ~ U[0, 1).

    probs: [R, K] float32, non-negative.
    """
    parts = []
    for rows, _ in _chunks(probs, levels):
        np.cumsum(rows, axis=1, out=rows)
        rows /= rows[:, -1:]
        rows *= levels
        # 2^30 steps, so that L − u is exact and always rounds up to L.
        rows -= rng.integers(1 << 30, size=(len(rows), 1)) / (1 << 30)
        below = np.ceil(rows, out=rows).astype(np.int32)  # points below the end of each class
        below[:, 1:] = np.diff(below, axis=1)
        parts.append(_sparse(below))
    return _join(parts)


def to_dense(responses: Responses, rows: slice) -> np.ndarray:
    """The probabilities [r, K] float32 of the response rows `rows` (step 1): counts / levels and tails."""
    start, stop, step = rows.indices(responses.rows)
    if step != 1:
        raise ValueError(f"rows must be contiguous, not of step {step}")
    stop = max(start, stop)
    offsets = responses.offsets[start : stop + 1]
    dense = np.zeros((stop - start, responses.classes), np.float32)
    entries = slice(int(offsets[0]), int(offsets[-1]))
    row = np.repeat(np.arange(stop - start), np.diff(offsets))
    dense[row, responses.ids[entries]] = responses.counts[entries] / np.float32(responses.levels)
    if responses.tail:
        dense += (responses.tails[start:stop, None] / (responses.levels * responses.classes)).astype(
            np.float32
        )
    return dense


QUANTISERS: dict[str, Quantiser] = {
    "largest_remainder": largest_remainder,
    "sample": sample,
    "systematic": systematic,
    "top_k": top_k,
}
TAILED = ("top_k",)
"""Those whose rows may have a tail."""


def _chunks(probs: np.ndarray, levels: int, draws: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`probs` as float64 blocks of rows that the caller may overwrite, checked on the way, and their sums.

    draws: numbers per row that the caller makes besides the row itself.
    """
    if probs.ndim != 2 or not 1 <= probs.shape[1] <= _MAX_CLASSES:
        raise ValueError(f"probabilities must be [R, K], K ≤ {_MAX_CLASSES}, not {list(probs.shape)}")
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels must be in 1…{MAX_LEVELS}, not {levels}")
    step = max(1, _CHUNK // max(probs.shape[1], draws))
    for start in range(0, len(probs), step):
        rows = probs[start : start + step].astype(np.float64)
        total = rows.sum(axis=1)
        if not (rows.min() >= 0 and total.min() > 0 and np.isfinite(total).all()):
            raise ValueError(f"rows {start}…{start + len(rows) - 1} are no probabilities")
        yield rows, total


def _nearest(scaled: np.ndarray, levels: int) -> np.ndarray:
    """The counts [r, K] int32 nearest to `scaled` [r, K] ≥ 0, which is overwritten; both sum to `levels`."""
    classes = scaled.shape[1]
    floors = np.floor(scaled)
    missing = levels - (floors @ np.ones(classes)).astype(np.int64)  # whole numbers: exact in any order
    counts: np.ndarray = floors.astype(np.int32)
    scaled -= floors
    scaled *= _FRACTION
    if classes <= _FEW:
        counts += _first(np.ascontiguousarray(scaled.T).astype(np.int64), missing).T
        return counts
    # One integer per class that sorts by remainder and then by lower id: no ties are left, so
    # a partial sort has one answer. A full one would cost five times as much at K = 1,024.
    keys = scaled.astype(np.int64)
    keys *= classes
    keys += np.arange(classes)[::-1]
    most = min(int(missing.max(initial=0)), classes)
    if most:
        if most < classes:
            keys.partition(classes - most, axis=1)
        best = np.sort(keys[:, classes - most :], axis=1)[:, ::-1]
        row, place = np.nonzero(np.arange(most) < missing[:, None])
        counts[row, classes - 1 - best[row, place] % classes] += 1
    return counts


def _first(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """1 for the `number` [r] largest values [K, r] of each column, of equal ones the first; [K, r] int8.

    By comparing all pairs, which for a few classes costs a tenth of sorting that many short rows.
    """
    ahead = np.zeros(values.shape, np.int8)  # how many are larger, or equal and before
    for i in range(1, len(values)):
        before = values[:i] >= values[i]
        ahead[i] += before.sum(axis=0, dtype=np.int8)
        ahead[:i] += ~before
    first: np.ndarray = ahead < number
    return first.view(np.int8)


def _largest(rows: np.ndarray, number: int) -> np.ndarray:
    """Which classes are the `number` largest of each row, [r, K] bool; of equal ones the lower ids."""
    if number == rows.shape[1]:
        return np.ones(rows.shape, bool)
    least = np.partition(rows, rows.shape[1] - number, axis=1)[:, -number, None]
    named: np.ndarray = rows >= least
    for row in np.flatnonzero(named.sum(axis=1) > number):  # equal ones at the border, which is rare
        ties = np.flatnonzero(rows[row] == least[row])
        named[row, ties[number - int((rows[row] > least[row]).sum()) :]] = False
    return named


def _sparse(counts: np.ndarray) -> Quantised:
    """Dense counts [r, K] int32 as (lengths, ids, counts)."""
    named = counts > 0
    lengths = named.sum(axis=1, dtype=np.int32)
    ids = np.broadcast_to(np.arange(counts.shape[1], dtype=np.int32), counts.shape)[named]
    return lengths, ids, counts[named]


def _join(parts: list[Quantised]) -> Quantised:
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32)
    lengths, ids, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return lengths, ids, counts

"""What changed in somebody's answers since the last time: only that is sent, where both ends hold the rest.

Answers here are about the same samples every time. They are kept in `memory`, under a name, as arrays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.types import Responses


def changed(old: Responses, new: Responses) -> Responses:
    """The answers of `new` that differ from those of `old`, which is about the same samples."""
    lengths = np.diff(new.offsets)
    same = np.diff(old.offsets) == lengths
    rows = np.flatnonzero(same)
    before, after = _entries(old.offsets, rows), _entries(new.offsets, rows)
    apart = (old.ids[before] != new.ids[after]) | (old.counts[before] != new.counts[after])
    starts = np.cumsum(lengths[rows]) - lengths[rows]
    if len(rows):
        same[rows] = ~np.logical_or.reduceat(apart, starts)
    return select(new, np.flatnonzero(~same.reshape(-1, new.positions).all(axis=1)))


def patched(old: Responses, new: Responses) -> Responses:
    """The answers of both; where both have a sample, those of `new`."""
    both = replace(
        new,
        samples=np.concatenate([new.samples, old.samples]),
        offsets=np.concatenate([new.offsets, old.offsets[1:] + new.offsets[-1]]),
        ids=np.concatenate([new.ids, old.ids]),
        counts=np.concatenate([new.counts, old.counts]),
    )
    _, chosen = np.unique(both.samples, return_index=True)  # the first of equals
    return select(both, chosen)


def select(responses: Responses, index: np.ndarray) -> Responses:
    """The answers to the samples at these places."""
    p = responses.positions
    rows = (index[:, None] * p + np.arange(p)).ravel()
    entries = _entries(responses.offsets, rows)
    ends = np.cumsum(np.diff(responses.offsets)[rows], dtype=np.int64)
    return replace(
        responses,
        samples=responses.samples[index],
        offsets=np.concatenate([np.zeros(1, np.int64), ends]),
        ids=responses.ids[entries],
        counts=responses.counts[entries],
    )


def keep(memory: dict[str, np.ndarray], name: str, responses: Responses) -> None:
    memory[f"{name} samples"] = responses.samples
    memory[f"{name} offsets"] = responses.offsets
    memory[f"{name} ids"] = responses.ids
    memory[f"{name} counts"] = responses.counts
    memory[f"{name} shape"] = np.array([responses.positions, responses.classes, responses.levels])


def kept(memory: dict[str, np.ndarray], name: str) -> Responses | None:
    """What `keep` kept under this name."""
    if f"{name} samples" not in memory:
        return None
    positions, classes, levels = memory[f"{name} shape"].tolist()
    samples, offsets, ids, counts = (memory[f"{name} {c}"] for c in ("samples", "offsets", "ids", "counts"))
    return Responses(samples, positions, classes, levels, offsets, ids, counts)


def _entries(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the entries of these rows are, row after row."""
    lengths = np.diff(offsets)[rows]
    first = np.repeat(offsets[rows] - (np.cumsum(lengths) - lengths), lengths)
    return np.asarray(first + np.arange(len(first)))

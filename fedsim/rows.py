"""Rows of different lengths, laid end to end: row r is offsets[r]:offsets[r + 1] of the entries."""

from __future__ import annotations

import numpy as np


def gather(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows at `rows` [r], put end to end: offsets [r + 1] int64, and where the entries come from."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    ends = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends, np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])

"""The symbols that a stream has, and how often each: what both ends derive the same code from.

A table is two bodies of bits: the gaps between the distinct symbols, and one byte per symbol for
its count in a floating-point format with four significant bits. Counts rounded that way make the
stream about 0.0005 bits per symbol longer, exact ones would make the table twice as large.
"""

from __future__ import annotations

import numpy as np

from fedsim.errors import MessageError
from fedsim.wire import bits

MAX_DISTINCT = 2**16
"""The largest alphabet of a table; a stream with more distinct symbols is coded raw."""

# What a byte stands for; strictly increasing, at most 15 · 2^30.
COUNTS = np.array([b if b < 8 else (8 + b % 8) << (b // 8 - 1) for b in range(256)], np.int64)


def histogram(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct symbols ascending [D] int64, each symbol's index among them [n] int32, counts [D]."""
    top = int(symbols.max()) if len(symbols) else 0
    if top > max(MAX_DISTINCT, 4 * len(symbols)):  # too sparse for a table indexed by symbol
        alphabet, index, counts = np.unique(symbols, return_inverse=True, return_counts=True)
        return alphabet.astype(np.int64), index.astype(np.int32), counts
    frequency = np.bincount(symbols)
    alphabet = np.flatnonzero(frequency)
    position = np.zeros(len(frequency), np.int32)
    position[alphabet] = np.arange(len(alphabet))
    return alphabet, position[symbols], frequency[alphabet]


def count_to_byte(counts: np.ndarray) -> np.ndarray:
    """Counts 1…2^34−1 as bytes: below 16 exact, above 8…15 times a power of two, rounded down."""
    shift = np.zeros(len(counts), np.int64)
    for _ in range(30):
        shift += (counts >> shift) > 15
    return (shift << 3) + (counts >> shift)


def write(alphabet: np.ndarray) -> bytes:
    """The distinct symbols, ascending, as a body of gaps."""
    return bits.encode(np.diff(alphabet, prepend=-1) - 1)


def read(body: memoryview, distinct: int) -> tuple[np.ndarray, int]:
    """`distinct` ascending symbols [D] int32 from the start of `body`, and how many bytes they took."""
    gaps, used = bits.read(body, distinct)
    alphabet = np.cumsum(gaps, dtype=np.int64)
    alphabet += np.arange(distinct)
    if alphabet[-1] > bits.MAX_SYMBOL:
        raise MessageError("corrupted", "a symbol past 2^31−1")
    return alphabet.astype(np.int32), used


def read_levels(body: memoryview, distinct: int) -> tuple[np.ndarray, int]:
    """`distinct` count bytes [D] int32 from the start of `body`, and how many bytes they took."""
    levels, used = bits.read(body, distinct)
    if not 1 <= levels.min() <= levels.max() <= 255:
        raise MessageError("corrupted", "a count out of range")
    return levels, used


def look_up(alphabet: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The symbols at `index` [n] int32, which may be overwritten."""
    if alphabet[-1] - alphabet[0] == len(alphabet) - 1:
        index += alphabet[0]  # without gaps, which is the common case, the look-up is an addition
        return index
    symbols: np.ndarray = alphabet[index]
    return symbols

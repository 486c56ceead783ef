"""Responses coded against rows that both ends hold already: only how they differ is sent.

Sections of such a message that differ from those of a plain one (see messages.py):

    base      CRC-32 of the reference's rows (u32), then entropy-coded: 1 for a sample with such, else 0 [n]
    kept      for each magnitude of the reference's count a stream, after its length (u32), of how far the
              counts of such classes are from it, entropy-coded, as 0, −1, 1, −2, 2 … ↦ 0, 1, 2, 3, 4 …;
              without the class that the reference counts highest, which has what is left
    lengths   entropy-coded number of other classes per row [R]
    ids       entropy-coded gaps of the other classes' ids within a row, minus one
    counts    entropy-coded counts of the other classes, minus one

A tail counts as one more class, K. The reference's counts are also the context of what is coded: where
it has 1, counts are coded by another table than where it has 20. So a class that the reference is wrong
about costs little more than without it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from isal.isal_zlib import crc32

from fedsim.errors import MessageError
from fedsim.rows import gather
from fedsim.types import Responses
from fedsim.wire.container import Buffer
from fedsim.wire.entropy import decode_symbols, encode_symbols

_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_INT32_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Reference:
    """Rows of counts that both ends hold: p rows for each of n samples, tails as entries of class K.

    samples: [n] int64 ascending.   offsets: [n·p + 1] int64.   ids, counts: [nnz] int32.
    """

    samples: np.ndarray
    positions: int
    offsets: np.ndarray
    ids: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, responses: Responses) -> Reference:
        """The rows of one message."""
        if not responses.tail:
            r = responses
            return cls(r.samples, r.positions, r.offsets, r.ids, r.counts)
        return cls(responses.samples, responses.positions, *_with_tails(responses))

    @classmethod
    def none(cls, positions: int) -> Reference:
        """Without any sample."""
        nothing = np.zeros(0, np.int32)
        return cls(np.zeros(0, np.int64), positions, np.zeros(1, np.int64), nothing, nothing)

    def joined(self, other: Reference) -> Reference:
        """The samples of both, which must differ."""
        samples = np.concatenate((self.samples, other.samples))
        offsets = np.concatenate((self.offsets, other.offsets[1:] + self.offsets[-1]))
        ids, counts = np.concatenate((self.ids, other.ids)), np.concatenate((self.counts, other.counts))
        return Reference(samples, self.positions, offsets, ids, counts).take(np.argsort(samples))

    def take(self, places: np.ndarray) -> Reference:
        """The samples at `places` [m], in that order."""
        rows = (places[:, None] * self.positions + np.arange(self.positions)).ravel()
        offsets, entries = gather(self.offsets, rows)
        return Reference(
            self.samples[places], self.positions, offsets, self.ids[entries], self.counts[entries]
        )

    def among(self, samples: np.ndarray) -> Reference:
        """The rows of those of its samples that are in `samples`."""
        return self.take(np.flatnonzero(np.isin(self.samples, samples)))

    def checksum(self) -> int:
        """CRC-32 of all of it, the same on any machine."""
        crc = crc32(np.ascontiguousarray(self.samples, "<i8").data)
        crc = crc32(np.ascontiguousarray(self.offsets, "<i8").data, crc)
        crc = crc32(np.ascontiguousarray(self.ids, "<i4").data, crc)
        return int(crc32(np.ascontiguousarray(self.counts, "<i4").data, crc))


def encode(responses: Responses, reference: Reference, coder: str) -> dict[str, Buffer] | None:
    """The sections; None where the reference has none of the samples."""
    samples, stride = responses.samples, responses.classes + 1
    reference = reference.among(samples)
    if not len(reference.samples):
        return None
    offsets, ids, counts = _with_tails(responses) if responses.tail else _rows(responses)
    keys = _rows_of(offsets) * stride + ids
    base = _base(reference, samples)
    known = base * stride + reference.ids
    place = np.minimum(np.searchsorted(keys, known), len(keys) - 1)
    hit = keys[place] == known
    moved = np.where(hit, counts[place], 0) - reference.counts
    moved = np.where(moved < 0, -2 * moved - 1, 2 * moved)
    free = _pivots(reference)
    other = np.ones(len(keys), bool)
    other[place[hit]] = False
    lengths = np.add.reduceat(other, offsets[:-1], dtype=np.int64)
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    gaps = np.diff(ids[other], prepend=0) - 1
    first = starts[:-1][lengths > 0]
    gaps[first] = ids[other][first]
    streams = []
    for places in _by_context(reference.counts, free):
        stream = encode_symbols(moved[places], coder)
        streams += [_LENGTH.pack(len(stream)), stream]
    has = np.isin(samples, reference.samples).astype(np.int32)
    return {
        "base": _CRC.pack(reference.checksum()) + encode_symbols(has, coder),
        "kept": b"".join(streams),
        "lengths": encode_symbols(lengths, coder),
        "ids": encode_symbols(gaps, coder),
        "counts": encode_symbols(counts[other] - 1, coder),
    }


def decode(
    sections: dict[str, memoryview],
    reference: Reference | None,
    samples: np.ndarray,
    positions: int,
    classes: int,
    levels: int,
    tail: bool,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets [R + 1] int64, ids [nnz] int32, counts [nnz] int32), checked.

    most: entries that may be declared.   Raises MessageError: unexpected where the reference is another
    one than the sender's, else as `messages.decode`.
    """
    rows, stride = len(samples) * positions, classes + 1
    if reference is None or reference.positions != positions:
        raise MessageError("unexpected", "coded against rows that are not there")
    reference = _referred(sections["base"], reference, samples)
    base = _base(reference, samples)
    kept, free = _decode_kept(sections["kept"], reference)
    lengths = _stream(sections["lengths"], rows)
    if int(lengths.sum(dtype=np.int64)) > most:
        raise MessageError("oversized", f"{int(lengths.sum(dtype=np.int64))} entries, at most {most}")
    keys, counts = _decode_others(sections, lengths, stride)

    # What no class was given is the pivot's; rows without a reference must have given all.
    totals = np.zeros(rows, np.int64)
    totals[base[free]] = np.add.reduceat(kept, reference.offsets[:-1], dtype=np.int64)
    named = np.flatnonzero(lengths)
    if len(named):
        totals[named] += np.add.reduceat(
            counts, (np.cumsum(lengths, dtype=np.int64) - lengths)[named], dtype=np.int64
        )
    left = levels - totals
    pivots = base[free]
    if left.min(initial=0) < 0 or np.delete(left, pivots).any():
        raise MessageError("off-simplex", f"a row of counts that don't sum to {levels}")
    kept[free] = left[pivots]
    del lengths, totals, left, named, pivots

    there = kept > 0
    keys = np.concatenate(((base * stride + reference.ids)[there], keys))
    counts = np.concatenate((kept[there], counts))
    del base, kept, there, free
    order = np.argsort(keys, kind="stable")  # two ascending runs: a merge, not a sort
    keys, counts = keys[order], counts[order]
    del order
    if (keys[1:] <= keys[:-1]).any():
        raise MessageError("off-simplex", "a class twice in a row")
    row, ids = np.divmod(keys, stride)
    del keys
    if not tail and (ids == classes).any():
        raise MessageError("off-simplex", f"class {classes} of {classes}")
    if tail:
        own = ids < classes
        row, ids, counts = row[own], ids[own], counts[own]
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=rows), out=offsets[1:])
    if rows and np.diff(offsets).min() < 1:
        raise MessageError("off-simplex", "a row without a class")
    return offsets, ids.astype(np.int32), counts


def _referred(section: memoryview, reference: Reference, samples: np.ndarray) -> Reference:
    if len(section) < _CRC.size:
        raise MessageError("corrupted", "no checksum of the reference")
    has = _stream(section[_CRC.size :], len(samples))
    if has.max(initial=0) > 1:
        raise MessageError("corrupted", "neither with nor without a reference")
    wanted = samples[has > 0]
    reference = reference.among(wanted)
    (crc,) = _CRC.unpack_from(section)
    if len(reference.samples) != len(wanted) or not len(wanted) or reference.checksum() != crc:
        raise MessageError("unexpected", "coded against other rows than the receiver has")
    return reference


def _decode_kept(section: memoryview, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the reference's entries [nnz] int32, and which of them are left open, 0 for now."""
    free = _pivots(reference)
    kept = np.zeros(len(reference.counts), np.int32)
    for places in _by_context(reference.counts, free):
        if len(section) < _LENGTH.size:
            raise MessageError("corrupted", "too few streams of counts")
        (length,) = _LENGTH.unpack_from(section)
        moved = _stream(section[_LENGTH.size :][:length], len(places))
        kept[places] = (moved >> 1) ^ -(moved & 1)
        section = section[_LENGTH.size + length :]
    if len(section):
        raise MessageError("corrupted", f"{len(section)} bytes after the counts")
    if len(kept) and (kept > _INT32_MAX - reference.counts).any():
        raise MessageError("off-simplex", "a count past 2^31−1")
    kept += reference.counts
    kept[free] = 0
    if kept.min(initial=0) < 0:
        raise MessageError("off-simplex", "a count below 0")
    return kept, free


def _decode_others(
    sections: dict[str, memoryview], lengths: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys (row · stride + class) [nnz] int64 of the classes that the reference doesn't name, and counts."""
    size = int(lengths.sum(dtype=np.int64))
    keys = _stream(sections["ids"], size).astype(np.int64)
    counts = _stream(sections["counts"], size)
    if not size:
        return keys, counts
    if counts.max() == _INT32_MAX:
        raise MessageError("off-simplex", "a count past 2^31−1")
    counts += 1
    # Each gap but a row's first is one more than was sent; then one sum over all rows, less what the
    # rows before have added up to.
    named = np.flatnonzero(lengths)
    first = (np.cumsum(lengths, dtype=np.int64) - lengths)[named]
    keys += 1
    keys[first] -= 1
    last = np.add.reduceat(keys, first)
    if last.max() >= stride:
        raise MessageError("off-simplex", f"class {last.max()} of {stride - 1}")
    keys[first] += named * stride
    keys[first[1:]] -= named[:-1] * stride + last[:-1]
    np.cumsum(keys, out=keys)
    return keys, counts


def _rows(responses: Responses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return responses.offsets, responses.ids, responses.counts


def _with_tails(responses: Responses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, ids and counts with each tail as an entry of class K at the end of its row."""
    offsets, tails = responses.offsets, responses.tails
    has = tails > 0
    ends = offsets[1:][has]
    added = np.concatenate(([0], np.cumsum(has)))
    ids = np.insert(responses.ids, ends, responses.classes).astype(np.int32)
    return offsets + added, ids, np.insert(responses.counts, ends, tails[has]).astype(np.int32)


def _rows_of(offsets: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _base(reference: Reference, samples: np.ndarray) -> np.ndarray:
    """The row, in a message about `samples`, of each of the reference's entries [nnz] int64."""
    p = reference.positions
    rows = (np.searchsorted(samples, reference.samples)[:, None] * p + np.arange(p)).ravel()
    return np.repeat(rows, np.diff(reference.offsets))


def _pivots(reference: Reference) -> np.ndarray:
    """The first entry of each row that has its largest count."""
    starts = reference.offsets[:-1]
    largest = np.maximum.reduceat(reference.counts, starts)
    row = _rows_of(reference.offsets)
    candidates = np.flatnonzero(reference.counts == largest[row])
    first: np.ndarray = candidates[np.diff(row[candidates], prepend=-1) > 0]
    return first


_LEAST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_CONTEXT_OF = np.searchsorted(_LEAST[1:], np.arange(_LEAST[-1] + 1), side="right").astype(np.uint8)


def _by_context(counts: np.ndarray, free: np.ndarray) -> list[np.ndarray]:
    """Which entries are coded by each table: by the reference's count, from 1, 2, 3, then two tables to an
    octave, up to 64; those that are left open by none."""
    context = _CONTEXT_OF[np.minimum(counts, _LEAST[-1])]
    context[free] = len(_LEAST)
    order = np.argsort(context, kind="stable")
    return np.split(order, np.cumsum(np.bincount(context, minlength=len(_LEAST))[: len(_LEAST)]))[:-1]


def _stream(section: memoryview, size: int) -> np.ndarray:
    symbols = decode_symbols(section, size)
    if len(symbols) != size:
        raise MessageError("corrupted", f"a stream of {len(symbols)} symbols, {size} expected")
    return symbols

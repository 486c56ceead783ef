"""Large alphabets with a small table: frequent symbols by name, rare ones by their magnitude.

    number F of symbols with a token of their own (u32), those symbols (see alphabet.py), length of
    the stream of tokens (u32), that stream, the extra bits

Token i < F is a symbol. Any other token, F + b, says that the symbol lies in the bucket b of numbers with
the same four leading bits; as many extra bits as the bucket needs say where. Gaps between class ids of
a large vocabulary take tens of thousands of values, most of them a few times: to name each in a table
costs more than to know its probability saves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from fedsim.errors import MessageError
from fedsim.wire import alphabet as alphabets
from fedsim.wire import bits

_HEADER = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_ENTRY_BITS = 24.0
"""About what a table says about a symbol."""

# Bucket b holds _FIRST[b] … _FIRST[b] + 2^_WIDTH[b] − 1; the last is that of 2^31 − 1.
_BUCKETS = 15 + 8 * 27 + 1
_FIRST = alphabets.COUNTS[:_BUCKETS]
_WIDTH = np.maximum(np.arange(_BUCKETS) // 8 - 1, 0)


def encode(symbols: np.ndarray, inner: Callable[[np.ndarray], bytes]) -> bytes | None:
    """The body, or None where nothing would be shared.   inner: makes a stream of the tokens."""
    alphabet, index, counts = alphabets.histogram(symbols)
    bucket = alphabets.count_to_byte(alphabet)
    named = _worth_naming(bucket, counts)
    names = alphabet[named]
    if len(names) in (0, len(alphabet)) or len(names) > alphabets.MAX_DISTINCT:  # more are refused
        return None
    token_of = np.where(named, np.cumsum(named) - 1, len(names) + bucket).astype(np.int32)
    width_of = np.where(named, 0, _WIDTH[bucket]).astype(np.uint8)
    rest_of = (alphabet - _FIRST[bucket]).astype(np.int32)
    stream, width = inner(token_of[index]), width_of[index]
    extras = [bits.encode(rest_of[index[width == w]]) for w in range(1, 32) if (width_of == w).any()]
    return b"".join(
        (_HEADER.pack(len(names)), alphabets.write(names), _LENGTH.pack(len(stream)), stream, *extras)
    )


def _worth_naming(bucket: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which of the symbols get a token of their own, [D] bool: of each bucket those of the largest counts, as
    many as make the stream shortest. Of n tokens one that comes c times takes c log₂(n ÷ c) bits, and who is
    taken out of a bucket makes it rarer for those who stay.

    bucket: [D] ascending.   counts: [D].
    """
    named: np.ndarray = _WIDTH[bucket] == 0
    starts = np.searchsorted(bucket, np.arange(_BUCKETS + 1))
    for b in np.unique(bucket[~named]):
        some = slice(starts[b], starts[b + 1])
        order = np.argsort(-counts[some], kind="stable")
        out = counts[some][order].astype(np.float64)
        stay = np.maximum(out.sum() - np.concatenate(([0.0], np.cumsum(out))), 0.0)
        bits_out = np.concatenate(([0.0], np.cumsum(_ENTRY_BITS - out * np.log2(out))))
        bits_stay = stay * (_WIDTH[b] - np.log2(np.maximum(stay, 1.0)))
        named[some][order[: np.argmin(bits_out + bits_stay)]] = True
    return named


def decode(body: memoryview, size: int, most: int, inner: Callable[[memoryview], np.ndarray]) -> np.ndarray:
    """The `size` int32 symbols of a body, at most `most` with names. Raises MessageError (corrupted).

    inner: reads a stream of at most `size` tokens.
    """
    if len(body) < _HEADER.size:
        raise _corrupted("no table")
    (number,) = _HEADER.unpack_from(body)
    if not 1 <= number <= min(most, size):
        raise _corrupted(f"{number} named symbols for a stream of {size}, at most {most} different")
    body = body[_HEADER.size :]
    names, used = alphabets.read(body, number)
    body = body[used:]
    if len(body) < _LENGTH.size:
        raise _corrupted("no length of the stream")
    (length,) = _LENGTH.unpack_from(body)
    tokens = inner(body[_LENGTH.size :][:length])
    body = body[_LENGTH.size + length :]
    if len(tokens) != size or tokens.max() >= number + _BUCKETS:
        raise _corrupted(f"{len(tokens)} tokens of {size}, or one out of range")
    widths = np.concatenate((np.zeros(number, np.uint8), _WIDTH.astype(np.uint8)))[tokens]
    symbols: np.ndarray = np.concatenate((names, _FIRST.astype(np.int32)))[tokens]
    del tokens
    for width in range(1, int(widths.max()) + 1):
        places = widths == width
        count = int(np.count_nonzero(places))
        if not count:
            continue
        extra, used = bits.read(body, count)
        if extra.max() >> width:
            raise _corrupted(f"more than {width} extra bits")
        body = body[used:]
        symbols[places] += extra
    if len(body):
        raise _corrupted(f"{len(body)} bytes after the last symbol")
    return symbols


def _corrupted(detail: str) -> MessageError:
    return MessageError("corrupted", detail)

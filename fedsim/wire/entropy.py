"""Entropy coding of a stream of symbols.

A stream is a byte that names the coder, the number of symbols n (u32), and the coder's body:

    raw       the symbols minus their minimum, bit-packed (bits.py)
    ans       a table of counts, then asymmetric numeral systems: within 0.5 % of the entropy (ans.py)
    huffman   a table, then code words of whole bits, several symbols to a word where one would
              cost less than a bit: within 2 % (huffman.py)
    buckets   in front of the two above, where it makes a large alphabet's table smaller (buckets.py)

A further coder is a file with an `encode` and a `decode`, and one entry in CODERS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from fedsim.errors import MessageError
from fedsim.wire import ans, bits, buckets, huffman
from fedsim.wire.alphabet import MAX_DISTINCT
from fedsim.wire.bits import MAX_SYMBOL

_STREAM = struct.Struct("<BI")
_BUCKETS = 3
_FEW = 256  # bytes of a stream from which a smaller table is looked for,
_SHARE = 0.005  # if the table may be more than this part of them


def encode_symbols(symbols: np.ndarray, coder: str = "ans") -> bytes:
    """Code `symbols` [n], integers in 0…2^31−1. All fall back to `raw` where that is smaller.

    Raises ValueError for another shape, type or range and for an unknown coder.
    """
    if coder not in CODERS:
        raise ValueError(f"coder {coder!r} is not one of {sorted(CODERS)}")
    if symbols.ndim != 1 or symbols.dtype.kind not in "iu":
        raise ValueError(f"symbols must be integers [n], not {symbols.dtype} {list(symbols.shape)}")
    if len(symbols) and (symbols.min() < 0 or symbols.max() > MAX_SYMBOL):
        raise ValueError("symbols must be in 0…2^31−1")
    data = _smaller(symbols, coder)
    # No more symbols than the span are in a table, at up to two bytes each.
    if coder != "raw" and len(data) > _FEW and 2 * int(symbols.max() - symbols.min()) > _SHARE * len(data):
        body = buckets.encode(symbols, lambda tokens: _smaller(tokens, coder))
        if body is not None and len(body) < len(data) - _STREAM.size:
            data = _STREAM.pack(_BUCKETS, len(symbols)) + body
    return data


def _smaller(symbols: np.ndarray, coder: str) -> bytes:
    """The stream of `coder`, or `raw` where that is not longer."""
    code, encode, _ = CODERS[coder]
    body = encode(symbols)
    width = int(symbols.max() - symbols.min()).bit_length() if len(symbols) else 0
    if body is None or len(body) >= bits.size_of(width, len(symbols)):
        code, body = CODERS["raw"][0], bits.encode(symbols)
    return _STREAM.pack(code, len(symbols)) + body


def decode_symbols(data: bytes | memoryview, max_symbols: int, distinct: int = MAX_DISTINCT) -> np.ndarray:
    """The int32 symbols of a stream that `encode_symbols` wrote.

    distinct: how many different ones can be valid. A larger table is refused before it is read: it
    could take more than the symbols do.

    Raises MessageError: oversized for more than `max_symbols`, found before anything of that
    size is allocated; corrupted for whatever else is wrong. Besides the result at most about
    2 × len(data) + 4 bytes per symbol + 40 bytes per distinct symbol are allocated for a while.
    """
    view = memoryview(data)
    if len(view) < _STREAM.size or view[0] != _BUCKETS:
        return _decode(view, max_symbols, distinct)
    _, size = _STREAM.unpack_from(view)
    if size > max_symbols:
        raise MessageError("oversized", f"a stream of {size} symbols, at most {max_symbols} are accepted")
    # Each of its tokens stands for one symbol at least.
    return buckets.decode(
        view[_STREAM.size :], size, distinct, lambda stream: _decode(stream, size, distinct)
    )


def _decode(data: memoryview, max_symbols: int, distinct: int) -> np.ndarray:
    """A stream that is coded by one of CODERS alone."""
    if len(data) < _STREAM.size:
        raise MessageError("corrupted", "no stream header")
    code, size = _STREAM.unpack_from(data)
    if size > max_symbols:
        raise MessageError("oversized", f"a stream of {size} symbols, at most {max_symbols} are accepted")
    for known, _, decode in CODERS.values():
        if known == code:
            return decode(data[_STREAM.size :], size, distinct)
    raise MessageError("corrupted", f"coder {code}")


Encoder = Callable[[np.ndarray], bytes | None]
Decoder = Callable[[memoryview, int, int], np.ndarray]

CODERS: dict[str, tuple[int, Encoder, Decoder]] = {
    "raw": (0, bits.encode, lambda body, size, distinct: bits.decode(body, size)),
    "ans": (1, ans.encode, ans.decode),
    "huffman": (2, huffman.encode, huffman.decode),
}
"""Name → (code on the wire, encode or None where it can't, decode a body of n symbols, at most D of them
different)."""

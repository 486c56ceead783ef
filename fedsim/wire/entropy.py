"""Entropy coding of a stream of symbols: a compact histogram, then a static-model coder.

A stream is a byte that names the coder, the number of symbols n (u32), and the coder's body:

    raw   base (u32), width (u8), n × width bits: the symbols minus their minimum, bit-packed.
          A stream with one distinct symbol has width 0 and costs these ten bytes.
    ans   number of distinct symbols D (u32), the table, 32-bit words of an asymmetric numeral
          system (Duda, arXiv 1311.2540; the `constriction` library).

The table is two raw bodies: the gaps between the distinct symbols, and one byte per symbol for
its count in a floating-point format with four significant bits. Counts rounded that way make
the stream about 0.0005 bits per symbol longer, exact ones would make the table twice as large.

Both ends must derive the same model bit for bit, so everything up to the model is integer
arithmetic: frequencies ≥ 1 that sum to 2^24, the precision of the coder. `constriction` takes
floats and adds its own floor of 1 per symbol; given the frequencies minus one, its scale factor
is exactly 1 and every partial sum an integer below 2^53, so no rounding is left (tested).

A further coder (Huffman, a delta against a stream both ends hold) is one entry in CODERS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import constriction
import numpy as np

from fedsim.errors import MessageError

MAX_SYMBOL = 2**31 - 1
MAX_DISTINCT = 2**16
"""The largest alphabet of an `ans` table; a stream with more distinct symbols is coded raw."""

_STREAM = struct.Struct("<BI")
_RAW = struct.Struct("<IB")
_ANS = struct.Struct("<I")
_PRECISION = 1 << 24
_CHUNK = 1 << 10  # symbols (a multiple of 8) unpacked at a time: a byte per bit, some 70 per symbol


def encode_symbols(symbols: np.ndarray, coder: str = "ans") -> bytes:
    """Code `symbols` [n], integers in 0…2^31−1. `ans` falls back to `raw` where that is smaller.

    Raises ValueError for another shape, type or range and for an unknown coder.
    """
    if coder not in CODERS:
        raise ValueError(f"coder {coder!r} is not one of {sorted(CODERS)}")
    if symbols.ndim != 1 or symbols.dtype.kind not in "iu":
        raise ValueError(f"symbols must be integers [n], not {symbols.dtype} {list(symbols.shape)}")
    if len(symbols) and (symbols.min() < 0 or symbols.max() > MAX_SYMBOL):
        raise ValueError("symbols must be in 0…2^31−1")
    code, encode, _ = CODERS[coder]
    body = encode(symbols)
    if body is None:
        code, encode, _ = CODERS["raw"]
        body = encode(symbols)
        assert body is not None
    return _STREAM.pack(code, len(symbols)) + body


def decode_symbols(data: bytes | memoryview, max_symbols: int) -> np.ndarray:
    """The int32 symbols of a stream that `encode_symbols` wrote.

    Raises MessageError: oversized for more than `max_symbols`, found before anything of that
    size is allocated; corrupted for whatever else is wrong. Besides the result at most about
    2 × len(data) + 4 bytes per symbol + 40 bytes per distinct symbol are allocated for a while.
    """
    if len(data) < _STREAM.size:
        raise _corrupted("no stream header")
    code, size = _STREAM.unpack_from(data)
    if size > max_symbols:
        raise MessageError("oversized", f"a stream of {size} symbols, at most {max_symbols} are accepted")
    for known, _, decode in CODERS.values():
        if known == code:
            return decode(memoryview(data)[_STREAM.size :], size)
    raise _corrupted(f"coder {code}")


# ---- raw


def _encode_raw(symbols: np.ndarray) -> bytes:
    base = int(symbols.min()) if len(symbols) else 0
    width = (int(symbols.max()) - base).bit_length() if len(symbols) else 0
    packed = [_RAW.pack(base, width)]
    if width:
        for start in range(0, len(symbols), _CHUNK):
            chunk = (symbols[start : start + _CHUNK].astype(np.int64) - base).astype(">u4")
            bits = np.unpackbits(chunk.view(np.uint8).reshape(-1, 4), axis=1)
            packed.append(np.packbits(bits[:, 32 - width :]).tobytes())
    return b"".join(packed)


def _raw_size(width: int, size: int) -> int:
    return _RAW.size + (size * width + 7) // 8


def _decode_raw(body: memoryview, size: int) -> np.ndarray:
    symbols, used = _read_raw(body, size)
    if used != len(body):
        raise _corrupted(f"{len(body)} bytes of bits, {used} expected")
    return symbols


def _read_raw(body: memoryview, size: int) -> tuple[np.ndarray, int]:
    """`size` int32 symbols from the start of `body`, and how many bytes they took."""
    if len(body) < _RAW.size:
        raise _corrupted("no raw header")
    base, width = _RAW.unpack_from(body)
    used = _raw_size(width, size)
    if base > MAX_SYMBOL or width > 31 or used > len(body):
        raise _corrupted(f"{size} symbols of {width} bits from {base} in {len(body)} bytes")
    symbols = np.full(size, base, np.int32)
    packed = np.frombuffer(body, np.uint8, used - _RAW.size, _RAW.size)
    for start in range(0, size if width else 0, _CHUNK):
        count = min(_CHUNK, size - start)
        first = start // 8 * width
        bits = np.zeros((count, 32), np.uint8)
        window = packed[first : first + (count * width + 7) // 8]
        bits[:, 32 - width :] = np.unpackbits(window, count=count * width).reshape(count, width)
        values = np.packbits(bits, axis=1).view(">u4").ravel()
        if base + int(values.max()) > MAX_SYMBOL:
            raise _corrupted("a symbol past 2^31−1")
        symbols[start : start + count] += values.astype(np.int32)
    return symbols, used


# ---- ans


def _encode_ans(symbols: np.ndarray) -> bytes | None:
    """The body, or None where bit-packing is at least as small or the alphabet is too large."""
    alphabet, index, counts = _histogram(symbols)
    if not 2 <= len(alphabet) <= MAX_DISTINCT:
        return None
    levels = _count_to_byte(counts)
    gaps = np.diff(alphabet, prepend=-1) - 1
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(index, _model(_COUNTS[levels]))
    words = coder.get_compressed().astype("<u4").tobytes()
    body = b"".join((_ANS.pack(len(alphabet)), _encode_raw(gaps), _encode_raw(levels), words))
    width = int(alphabet[-1] - alphabet[0]).bit_length()
    return body if len(body) < _raw_size(width, len(symbols)) else None


def _decode_ans(body: memoryview, size: int) -> np.ndarray:
    if len(body) < _ANS.size:
        raise _corrupted("no table")
    (distinct,) = _ANS.unpack_from(body)
    if not 2 <= distinct <= min(MAX_DISTINCT, size):
        raise _corrupted(f"a table of {distinct} symbols for a stream of {size}")
    body = body[_ANS.size :]
    gaps, used = _read_raw(body, distinct)
    body = body[used:]
    levels, used = _read_raw(body, distinct)
    body = body[used:]
    if not 1 <= levels.min() <= levels.max() <= 255 or len(body) % 4:
        raise _corrupted("a count out of range, or half a word")
    alphabet = np.cumsum(gaps, dtype=np.int64)
    alphabet += np.arange(distinct)
    if alphabet[-1] > MAX_SYMBOL:
        raise _corrupted("a symbol past 2^31−1")
    alphabet = alphabet.astype(np.int32)
    del gaps  # the table may be as long as the stream: what is kept counts against the limit
    model = _model(_COUNTS[levels])
    del levels
    try:
        # The copy aligns the words: a section starts at any byte.
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(body, "<u4").astype(np.uint32))
        index: np.ndarray = coder.decode(model, size)
        finished = coder.is_empty()
    except BaseException as error:
        # A Rust panic arrives as pyo3_runtime.PanicException, which can't be imported and is no
        # Exception; KeyboardInterrupt and its like must still pass.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise _corrupted(f"the coder gave up: {error}") from None
        raise
    if not finished:
        raise _corrupted("words left over after the last symbol")
    if alphabet[-1] - alphabet[0] == distinct - 1:
        index += alphabet[0]  # without gaps, which is the common case, the look-up is an addition
        return index
    symbols: np.ndarray = alphabet[index]
    return symbols


def _histogram(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct symbols ascending [D] int64, each symbol's index among them [n] int32, counts [D]."""
    top = int(symbols.max()) if len(symbols) else 0
    if top > max(MAX_DISTINCT, 4 * len(symbols)):  # too sparse for a table indexed by symbol
        alphabet, index, counts = np.unique(symbols, return_inverse=True, return_counts=True)
        return alphabet.astype(np.int64), index.astype(np.int32), counts
    histogram = np.bincount(symbols)
    alphabet = np.flatnonzero(histogram)
    position = np.zeros(len(histogram), np.int32)
    position[alphabet] = np.arange(len(alphabet))
    return alphabet, position[symbols], histogram[alphabet]


def _count_to_byte(counts: np.ndarray) -> np.ndarray:
    """Counts 1…2^34−1 as bytes: below 16 exact, above 8…15 times a power of two, rounded down."""
    shift = np.zeros(len(counts), np.int64)
    for _ in range(30):
        shift += (counts >> shift) > 15
    return (shift << 3) + (counts >> shift)


# What a byte stands for; strictly increasing, at most 15 · 2^30.
_COUNTS = np.array([b if b < 8 else (8 + b % 8) << (b // 8 - 1) for b in range(256)], np.int64)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Positive counts [D] int64, each below 2^36, as frequencies ≥ 1 that sum to 2^24 exactly."""
    scaled = counts * (_PRECISION - len(counts))
    scaled //= counts.sum()
    scaled += 1
    scaled[np.argmax(scaled)] += _PRECISION - scaled.sum()
    return scaled


def _model(counts: np.ndarray) -> constriction.stream.model.Categorical:
    above_floor = frequencies(counts)
    above_floor -= 1
    return constriction.stream.model.Categorical(above_floor.astype(np.float64), perfect=False)


def _corrupted(detail: str) -> MessageError:
    return MessageError("corrupted", detail)


Encoder = Callable[[np.ndarray], bytes | None]
Decoder = Callable[[memoryview, int], np.ndarray]

CODERS: dict[str, tuple[int, Encoder, Decoder]] = {
    "raw": (0, _encode_raw, _decode_raw),
    "ans": (1, _encode_ans, _decode_ans),
}
"""Name → (code on the wire, encode or None where it does not pay, decode a body of n symbols)."""

"""Integers packed as bits: the plainest body of a stream, and what tables are made of.

base (u32), width (u8), n × width bits: the symbols minus their minimum. One distinct symbol has
width 0 and costs these five bytes.
"""

from __future__ import annotations

import struct

import numpy as np

from fedsim.errors import MessageError

MAX_SYMBOL = 2**31 - 1

_RAW = struct.Struct("<IB")
_CHUNK = 1 << 10  # symbols (a multiple of 8) unpacked at a time: a byte per bit, some 70 per symbol


def encode(symbols: np.ndarray) -> bytes:
    """`symbols` [n], integers in 0…2^31−1, as a body."""
    base = int(symbols.min()) if len(symbols) else 0
    width = (int(symbols.max()) - base).bit_length() if len(symbols) else 0
    packed = [_RAW.pack(base, width)]
    if width:
        for start in range(0, len(symbols), _CHUNK):
            chunk = (symbols[start : start + _CHUNK].astype(np.int64) - base).astype(">u4")
            bits = np.unpackbits(chunk.view(np.uint8).reshape(-1, 4), axis=1)
            packed.append(np.packbits(bits[:, 32 - width :]).tobytes())
    return b"".join(packed)


def size_of(width: int, size: int) -> int:
    """Bytes of a body of `size` symbols of `width` bits."""
    return _RAW.size + (size * width + 7) // 8


def decode(body: memoryview, size: int) -> np.ndarray:
    """The int32 symbols of a body that holds nothing else. Raises MessageError (corrupted)."""
    symbols, used = read(body, size)
    if used != len(body):
        raise MessageError("corrupted", f"{len(body)} bytes of bits, {used} expected")
    return symbols


def read(body: memoryview, size: int) -> tuple[np.ndarray, int]:
    """`size` int32 symbols from the start of `body`, and how many bytes they took."""
    if len(body) < _RAW.size:
        raise MessageError("corrupted", "no raw header")
    base, width = _RAW.unpack_from(body)
    used = size_of(width, size)
    if base > MAX_SYMBOL or width > 31 or used > len(body):
        raise MessageError("corrupted", f"{size} symbols of {width} bits from {base} in {len(body)} bytes")
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
            raise MessageError("corrupted", "a symbol past 2^31−1")
        symbols[start : start + count] += values.astype(np.int32)
    return symbols, used

"""Asymmetric numeral systems (Duda, arXiv 1311.2540; the `constriction` library): at the entropy.

    number of distinct symbols D (u32), the alphabet, the counts (see alphabet.py), 32-bit words

Both ends must derive the same model bit for bit, so everything up to the model is integer
arithmetic: frequencies ≥ 1 that sum to 2^24, the precision of the coder. `constriction` takes
floats and adds its own floor of 1 per symbol; given the frequencies minus one, its scale factor
is exactly 1 and every partial sum an integer below 2^53, so no rounding is left (tested).
"""

from __future__ import annotations

import struct

import constriction
import numpy as np

from fedsim.errors import MessageError
from fedsim.wire import alphabet as alphabets
from fedsim.wire import bits

_HEADER = struct.Struct("<I")
_PRECISION = 1 << 24


def encode(symbols: np.ndarray) -> bytes | None:
    """The body, or None where the alphabet has one symbol or too many."""
    alphabet, index, counts = alphabets.histogram(symbols)
    if not 2 <= len(alphabet) <= alphabets.MAX_DISTINCT:
        return None
    levels = alphabets.count_to_byte(counts)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(index, _model(alphabets.COUNTS[levels]))
    words = coder.get_compressed().astype("<u4").tobytes()
    return b"".join((_HEADER.pack(len(alphabet)), alphabets.write(alphabet), bits.encode(levels), words))


def decode(body: memoryview, size: int, most: int) -> np.ndarray:
    """The `size` int32 symbols of a body, at most `most` different ones. Raises MessageError (corrupted)."""
    if len(body) < _HEADER.size:
        raise _corrupted("no table")
    (distinct,) = _HEADER.unpack_from(body)
    if not 2 <= distinct <= min(most, size):
        raise _corrupted(f"a table of {distinct} symbols for a stream of {size}, at most {most} different")
    body = body[_HEADER.size :]
    alphabet, used = alphabets.read(body, distinct)
    body = body[used:]
    levels, used = alphabets.read_levels(body, distinct)
    body = body[used:]
    if len(body) % 4:
        raise _corrupted("half a word")
    model = _model(alphabets.COUNTS[levels])
    del levels  # the table may be as long as the stream: what is kept counts against the limit
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
    return alphabets.look_up(alphabet, index)


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

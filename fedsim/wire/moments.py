"""Codec of moments. Sections of such a message (d numbers read, K given out):

    meta      number of examples (u64), d, K (u32 each)
    scatter   float32 [d (d + 1) / 2]
    products  float32 [K, d]

What is a mean of vectors of length 1 has bounds, and a message beyond them is refused.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import MessageError
from fedsim.types import Moments
from fedsim.wire.container import Buffer
from fedsim.wire.reading import expected, require, unpack_meta

if TYPE_CHECKING:
    from fedsim.wire.messages import Expectation, Style

_META = struct.Struct("<QII")
_LOOSE = 1e-3
"""What float32 may add to a length of 1, and more."""


def encode(moments: Moments, style: Style) -> dict[str, Buffer]:
    outputs, width = moments.products.shape
    if moments.scatter.shape != (width * (width + 1) // 2,):
        raise ValueError(f"{moments.scatter.shape} numbers of scatter for a width of {width}")
    return {
        "meta": _META.pack(moments.examples, width, outputs),
        "scatter": moments.scatter.astype("<f4").tobytes(),
        "products": moments.products.astype("<f4").tobytes(),
    }


def decode(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Moments:
    require(sections, {"meta", "scatter", "products"}, set())
    examples, width, outputs = unpack_meta(_META, sections["meta"])
    expected("width", width, expect.rank)
    expected("outputs", outputs, expect.classes)
    expected("bytes of scatter", len(sections["scatter"]), 2 * width * (width + 1))
    expected("bytes of products", len(sections["products"]), 4 * outputs * width)
    scatter = np.frombuffer(sections["scatter"], "<f4").astype(np.float32)
    products = np.frombuffer(sections["products"], "<f4").astype(np.float32)
    if not (np.isfinite(scatter).all() and np.isfinite(products).all()):
        raise MessageError("non-finite", "moments")
    starts = np.arange(width) * (2 * width + 1 - np.arange(width)) // 2  # of the rows: the diagonal
    largest = max(float(np.abs(part).max(initial=0)) for part in (scatter, products))
    if largest > 1 + _LOOSE:
        raise MessageError("unexpected", f"a mean of {largest:g}, at most 1 is possible")
    trace, size = float(scatter[starts].sum()), float(np.linalg.norm(products))
    if not (0 <= trace <= 1 + _LOOSE and size <= 1 + _LOOSE):
        raise MessageError("unexpected", f"a trace of {trace:g} and products of {size:g}, at most 1 each")
    return Moments(scatter, products.reshape(outputs, width), examples)


def memory_limit(expect: Expectation) -> int:
    """Bytes, see `messages.memory_limit`."""
    return 2 * expect.rank * (expect.rank + 1) + 4 * expect.rank * expect.classes + 1024

"""Codec of masked sums. Sections of such a message:

    meta    number of examples (u64)
    codes   u32 [m]

Behind a mask every code is as likely as any other: nothing can be coded shorter, and nothing can be checked
but the size.
"""

from __future__ import annotations

import struct

import numpy as np

from fedsim.types import MaskedSums
from fedsim.wire.container import Buffer
from fedsim.wire.expectation import Expectation, Style
from fedsim.wire.reading import expected, require, unpack_meta

_META = struct.Struct("<Q")


def encode(sums: MaskedSums, style: Style) -> dict[str, Buffer]:
    return {"meta": _META.pack(sums.examples), "codes": sums.codes.astype("<u4").tobytes()}


def decode(sections: dict[str, memoryview], expect: Expectation, limit: int) -> MaskedSums:
    require(sections, {"meta", "codes"}, set())
    (examples,) = unpack_meta(_META, sections["meta"])
    expected("bytes of codes", len(sections["codes"]), 4 * expect.size)
    return MaskedSums(np.frombuffer(sections["codes"], "<u4").astype(np.uint32), examples)

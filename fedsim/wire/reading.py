"""What every decoder begins with: is what a sender declares what the receiver expects?"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsim.errors import MessageError
from fedsim.wire.alphabet import MAX_DISTINCT
from fedsim.wire.entropy import decode_symbols
from fedsim.wire.expectation import Expectation


def expected(name: str, value: object, expected: object) -> None:
    if value != expected:
        raise MessageError("unexpected", f"{name} {value}, expected {expected}")


def require(sections: Mapping[str, object], needed: set[str], optional: set[str]) -> None:
    if not needed <= sections.keys() <= needed | optional:
        raise MessageError("unexpected", f"sections {', '.join(sections)}")


def unpack_meta(layout: struct.Struct, section: memoryview) -> tuple[Any, ...]:
    if len(section) != layout.size:
        raise MessageError("corrupted", f"{len(section)} bytes of meta, expected {layout.size}")
    return layout.unpack(section)


def stream(section: memoryview, size: int, distinct: int = MAX_DISTINCT) -> np.ndarray:
    """Exactly `size` symbols, int32.   distinct: see `decode_symbols`."""
    symbols = decode_symbols(section, size, distinct)
    if len(symbols) != size:
        raise MessageError("corrupted", f"a stream of {len(symbols)} symbols, {size} expected")
    return symbols


def decode_samples(section: memoryview | None, size: int, expect: Expectation) -> np.ndarray:
    """The sample ids of a message about `size` samples, [size] int64."""
    if section is None:
        if expect.samples is None:
            raise MessageError("unexpected", "no sample ids, and the receiver does not know them")
        expected("number of samples", size, len(expect.samples))
        return expect.samples.astype(np.int64)
    samples = stream(section, size).astype(np.int64)
    samples[1:] += 1
    np.cumsum(samples, out=samples)
    if size and samples[-1] >= expect.proxy_size:
        raise MessageError("unexpected", f"sample {samples[-1]} of {expect.proxy_size}")
    if expect.samples is not None and not np.array_equal(samples, expect.samples):
        raise MessageError("unexpected", "other samples than agreed")
    return samples

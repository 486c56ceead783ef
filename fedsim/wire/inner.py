"""Codecs of what lies inside a model: features and prototypes.

Sections of a features message (L layers, n samples, r columns):

    meta      L, r, n (u32 each)
    samples   as in a responses message
    scales    float32 [L, r]
    codes     entropy-coded codes plus 127 [L, r, n], column after column

Sections of a prototypes message (m prototypes of r numbers):

    meta       slots, r, m (u32 each); prototype (group, slot) is number group · slots + slot
    groups     entropy-coded gaps of those numbers, minus one [m]
    counts     entropy-coded counts, minus one [m]
    centroids  float16 [m, r]
    confidence u8 [m], in 255ths

A decoder gets what the message's codec in `messages` gets, and keeps the same promises.
"""

from __future__ import annotations

import struct

import numpy as np

from fedsim.errors import MessageError
from fedsim.types import Features, Prototypes
from fedsim.wire.container import Buffer
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.expectation import Expectation, Style
from fedsim.wire.reading import decode_samples, expected, require, stream, unpack_meta

STEPS = 127
"""The largest code of a feature."""
BYTES_PER_CODE = 16
"""One byte of `limit` in this many per feature code: what decoding one takes is at most four times that."""
BYTES_PER_NUMBER = 4
"""The same for the numbers of centroids; a prototype's other fields count as ROW of them."""
ROW = 16

_META = struct.Struct("<III")


def encode_features(features: Features, style: Style) -> dict[str, Buffer]:
    layers, samples, columns = features.codes.shape
    if features.scales.shape != (layers, columns) or len(features.samples) != samples:
        raise ValueError(f"{features.scales.shape} scales and {len(features.samples)} samples for the codes")
    if features.codes.dtype != np.int8 or (samples and features.codes.min(initial=0) < -STEPS):
        raise ValueError(f"codes must be int8 from −{STEPS} on")
    if np.any(np.diff(features.samples, prepend=-1) < 1):
        raise ValueError("samples must ascend from 0 on")
    codes = np.moveaxis(features.codes, 1, 2).astype(np.int32).ravel() + STEPS
    sections: dict[str, Buffer] = {
        "meta": _META.pack(layers, columns, samples),
        "scales": features.scales.astype("<f4").tobytes(),
        "codes": encode_symbols(codes, style.coder),
    }
    if not style.samples_known:
        sections["samples"] = encode_symbols(np.diff(features.samples, prepend=-1) - 1, style.coder)
    return sections


def decode_features(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Features:
    require(sections, {"meta", "scales", "codes"}, {"samples"})
    layers, columns, size = unpack_meta(_META, sections["meta"])
    expected("layers", layers, expect.layers)
    if not 1 <= columns <= expect.rank:
        raise MessageError("unexpected", f"{columns} columns, at most {expect.rank} are expected")
    if max(layers * columns, 1) * size > limit // BYTES_PER_CODE:
        raise MessageError("oversized", f"{layers} × {size} × {columns} features in {limit} bytes")
    samples = decode_samples(sections.get("samples"), size, expect)
    scales = _numbers(sections["scales"], "<f4", layers * columns, "scales")
    if scales.min(initial=0) < 0:
        raise MessageError("unexpected", "a negative scale")
    codes = stream(sections["codes"], layers * columns * size)
    if codes.max(initial=0) > 2 * STEPS:
        raise MessageError("unexpected", f"a code of {codes.max() - STEPS}")
    codes -= STEPS
    stacked = np.moveaxis(codes.astype(np.int8).reshape(layers, columns, size), 1, 2)
    return Features(samples, stacked, scales.reshape(layers, columns))


def encode_prototypes(prototypes: Prototypes, style: Style) -> dict[str, Buffer]:
    size, width = prototypes.centroids.shape
    slots = int(prototypes.slots.max(initial=0)) + 1
    numbers = prototypes.groups * slots + prototypes.slots
    if not size == len(numbers) == len(prototypes.counts) == len(prototypes.confidence):
        raise ValueError(f"{len(numbers)} names and {len(prototypes.counts)} counts for {size} centroids")
    if np.any(np.diff(numbers, prepend=-1) < 1) or prototypes.slots.min(initial=0) < 0:
        raise ValueError("prototypes must ascend by group and slot")
    if prototypes.counts.min(initial=1) < 1:
        raise ValueError("a prototype has at least one example")
    with np.errstate(over="ignore"):  # past 65,504 a number becomes infinite, and is refused as such
        centroids = prototypes.centroids.astype("<f2").tobytes()
    return {
        "meta": _META.pack(slots, width, size),
        "groups": encode_symbols(np.diff(numbers, prepend=-1) - 1, style.coder),
        "counts": encode_symbols(prototypes.counts - 1, style.coder),
        "centroids": centroids,
        "confidence": np.rint(np.clip(prototypes.confidence, 0, 1) * 255).astype(np.uint8).tobytes(),
    }


def decode_prototypes(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Prototypes:
    require(sections, {"meta", "groups", "counts", "centroids", "confidence"}, set())
    slots, width, size = unpack_meta(_META, sections["meta"])
    if not 1 <= slots <= expect.slots:
        raise MessageError("unexpected", f"{slots} slots, at most {expect.slots} are expected")
    expected("numbers per centroid", width, expect.rank)
    if size > expect.groups * slots or size * (width + ROW) > limit // BYTES_PER_NUMBER:
        raise MessageError("oversized", f"{size} prototypes of {width} numbers in {limit} bytes")
    numbers = stream(sections["groups"], size).astype(np.int64)
    numbers[1:] += 1
    np.cumsum(numbers, out=numbers)
    if size and numbers[-1] >= expect.groups * slots:
        raise MessageError("unexpected", f"group {numbers[-1] // slots} of {expect.groups}")
    counts = stream(sections["counts"], size).astype(np.int64) + 1
    centroids = _numbers(sections["centroids"], "<f2", size * width, "centroids").reshape(size, width)
    if len(sections["confidence"]) != size:
        raise MessageError("corrupted", f"{len(sections['confidence'])} bytes of confidence for {size}")
    confidence = np.frombuffer(sections["confidence"], np.uint8).astype(np.float32) / np.float32(255)
    return Prototypes(numbers // slots, numbers % slots, centroids, counts, confidence)


def _numbers(section: memoryview, layout: str, size: int, what: str) -> np.ndarray:
    """`size` finite numbers as float32."""
    if len(section) != size * np.dtype(layout).itemsize:
        raise MessageError("corrupted", f"{len(section)} bytes of {what} for {size}")
    numbers = np.frombuffer(section, layout).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise MessageError("non-finite", what)
    return numbers

"""A change of parameters in few bits: blocks of steps, rounded at random without bias, entropy-coded.

In the manner of QSGD (Alistarh et al., NeurIPS 2017, arXiv 1610.02132), with the largest magnitude of each
block in place of its norm: what lies between two steps is rounded to one or the other by a draw whose
mean is the number itself, so that a mean over many senders loses nothing but variance.

Sections of an update message:

    meta      number of examples (u64), levels (u8)
    scales    float32, one for each BLOCK of parameters
    codes     entropy-coded codes plus levels [P]

Legend: P parameters, B blocks.
"""

from __future__ import annotations

import struct

import numpy as np

from fedsim.errors import MessageError
from fedsim.types import Update
from fedsim.wire.container import Buffer
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.expectation import Expectation, Style
from fedsim.wire.reading import expected, require, stream, unpack_meta

BLOCK = 1024
"""Parameters that share a scale, in the order of the vector: 0.03 bits of it for each."""

_META = struct.Struct("<QB")


def levels(bits: int) -> int:
    """The largest code of so many bits: 127 of 8."""
    return (1 << bits - 1) - 1


def quantise(change: np.ndarray, bits: int, examples: int, rng: np.random.Generator) -> Update:
    """A change [P] float32 as an Update; E[values] is the change.   bits: 2…8."""
    most = levels(bits)
    padded = np.zeros(-(-len(change) // BLOCK) * BLOCK, np.float32)
    padded[: len(change)] = change
    blocks = padded.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, initial=0) / np.float32(most)
    # Numbers that aren't finite make a scale that isn't either, which the receiver refuses.
    with np.errstate(invalid="ignore", over="ignore"):
        blocks /= np.where(scales > 0, scales, 1)[:, None]
        blocks += rng.random(blocks.shape, np.float32)
        np.floor(blocks, out=blocks)
    codes = np.clip(np.nan_to_num(padded[: len(change)]), -most, most).astype(np.int8)
    return Update(codes, scales, most, examples)


def values(update: Update) -> np.ndarray:
    """The change that an update tells of, [P] float32."""
    changed = update.codes.astype(np.float32)
    for block, scale in enumerate(update.scales):
        changed[block * BLOCK : (block + 1) * BLOCK] *= scale
    return changed


def encode(update: Update, style: Style) -> dict[str, Buffer]:
    return {
        "meta": _META.pack(update.examples, update.levels),
        "scales": update.scales.astype("<f4").tobytes(),
        "codes": encode_symbols(update.codes.astype(np.int32) + update.levels, style.coder),
    }


def decode(sections: dict[str, memoryview], expect: Expectation, limit: int, largest: float) -> Update:
    """Raises MessageError; `largest` is what no changed parameter may exceed."""
    require(sections, {"meta", "scales", "codes"}, set())
    examples, most = unpack_meta(_META, sections["meta"])
    expected("levels", most, expect.levels)
    blocks = -(-expect.size // BLOCK)
    expected("bytes of scales", len(sections["scales"]), 4 * blocks)
    scales = np.frombuffer(sections["scales"], "<f4").astype(np.float32)
    if not np.isfinite(scales).all():
        raise MessageError("non-finite", "scales")
    if blocks and not 0 <= scales.min() <= scales.max() <= largest / most:
        raise MessageError("unexpected", f"a scale from {scales.min():g} to {scales.max():g}")
    codes = stream(sections["codes"], expect.size, distinct=2 * most + 1)
    if len(codes) and codes.max() > 2 * most:
        raise MessageError("unexpected", f"a code of {codes.max() - most}")
    codes -= most
    return Update(codes.astype(np.int8), scales, most, examples)

"""Sequences and their scores to sections and back.

Sections of a sequences message (N sequences of M tokens, M′ scored tokens, C claims):

    about     N, M, M′, C (u32 each)
    samples   as in a responses message
    ends      entropy-coded lengths, minus one [N]
    tokens    entropy-coded tokens [M]
    scores    entropy-coded −log p in steps of 1/32 nat [M′]; absent where M′ is 0
    claims    float16 [C]; absent where the sender has none
    meta, lengths, ids, counts    the rows, as in a responses message; absent where the scores are all
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import MessageError
from fedsim.sequences import NOTHING
from fedsim.types import Responses, Rollouts, Sequences
from fedsim.wire.container import Buffer
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.reading import decode_samples, expected, require, stream, unpack_meta

if TYPE_CHECKING:
    from fedsim.wire.messages import Expectation

STEP = 1 / 32
"""Nats between two scores that can be told apart: 3 % of a probability."""
LOWEST = 64.0
"""Nats below 0 beyond which a score says no more."""
BYTES_PER_TOKEN = 16
"""One byte of `limit` in this many per token or score: what decoding one takes is at most four times that."""

_ABOUT = struct.Struct("<IIII")
_ROWS = ("meta", "lengths", "ids", "counts")

RowEncoder = Callable[[Responses, bool], dict[str, Buffer]]
RowDecoder = Callable[[dict[str, memoryview], "Expectation", int], Responses]


def encode(rollouts: Rollouts, samples_known: bool, rows: RowEncoder) -> dict[str, Buffer]:
    sequences = rollouts.sequences or NOTHING
    if len(sequences) and sequences.lengths.min() < 1:
        raise ValueError("every sequence needs a token")
    if np.any(np.diff(sequences.samples, prepend=-1) < 1):
        raise ValueError("samples must ascend from 0 on")
    scores = np.zeros(0) if rollouts.scores is None else rollouts.scores
    claims = np.zeros(0) if rollouts.claims is None else rollouts.claims
    sections: dict[str, Buffer] = {
        "about": _ABOUT.pack(len(sequences), len(sequences.tokens), len(scores), len(claims)),
        "ends": encode_symbols(sequences.lengths - 1),
        "tokens": encode_symbols(sequences.tokens.astype(np.int64)),
    }
    if not samples_known:
        sections["samples"] = encode_symbols(np.diff(sequences.samples, prepend=-1) - 1)
    if len(scores):
        sections["scores"] = encode_symbols(coded(scores))
    if len(claims):
        with np.errstate(over="ignore"):  # past 65,504 a claim becomes infinite, and is refused as such
            sections["claims"] = claims.astype("<f2").tobytes()
    if rollouts.rows is not None:
        if rollouts.rows.rows != len(scores):
            raise ValueError(f"{rollouts.rows.rows} rows for {len(scores)} scores")
        sections |= rows(rollouts.rows, True)
    return sections


def coded(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities as multiples of −STEP, [M] int64."""
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    codes: np.ndarray = np.rint(np.clip(-scores, 0, LOWEST) / STEP).astype(np.int64)
    return codes


def decode(sections: dict[str, memoryview], expect: Expectation, limit: int, rows: RowDecoder) -> Rollouts:
    detailed = set(_ROWS) if expect.levels else set()
    require(sections, {"about", "ends", "tokens"}, {"samples", "scores", "claims", *detailed})
    size, tokens, scored, claimed = unpack_meta(_ABOUT, sections["about"])
    if max(size, tokens, scored, claimed) > limit // BYTES_PER_TOKEN:
        raise MessageError("oversized", f"{max(tokens, scored)} tokens in a limit of {limit} bytes")
    scores = None
    if scored:
        require(sections, {"about", "ends", "tokens", "scores", *detailed}, {"samples", "claims"})
        codes = stream(sections["scores"], scored)
        if codes.max() * STEP > LOWEST:
            raise MessageError("unexpected", f"a score of −{codes.max() * STEP:g}")
        scores = (codes * -STEP).astype(np.float32)
    found = None
    if scored and detailed:
        of_rows = replace(expect, kind="responses", positions=1, samples=np.arange(scored))
        found = rows({name: sections[name] for name in _ROWS}, of_rows, limit)
    return Rollouts(_sequences(sections, size, tokens, expect), scores, found, _claims(sections, claimed))


def _sequences(
    sections: dict[str, memoryview], size: int, tokens: int, expect: Expectation
) -> Sequences | None:
    samples = decode_samples(sections.get("samples"), size, expect)
    lengths = stream(sections["ends"], size).astype(np.int64) + 1
    if size and lengths.max() > expect.positions:
        raise MessageError("unexpected", f"a sequence of {lengths.max()} tokens, at most {expect.positions}")
    expected("number of tokens", tokens, int(lengths.sum()))
    ids = stream(sections["tokens"], tokens)
    if tokens and ids.max() >= expect.classes:
        raise MessageError("unexpected", f"token {ids.max()} of {expect.classes}")
    return Sequences(samples, np.concatenate([[0], np.cumsum(lengths)]), ids) if size else None


def _claims(sections: dict[str, memoryview], size: int) -> np.ndarray | None:
    section = sections.get("claims", memoryview(b""))
    if len(section) != 2 * size:
        raise MessageError("corrupted", f"{len(section)} bytes of claims, {2 * size} expected")
    claims = np.frombuffer(section, "<f2").astype(np.float32)
    if not np.isfinite(claims).all():
        raise MessageError("non-finite", "claims")
    return claims if size else None

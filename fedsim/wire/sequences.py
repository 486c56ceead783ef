"""Sequences and their scores to sections and back.

Sections of a sequences message (N sequences of M tokens with J drawn beside each, M′ scored tokens with J′
beside each, C claims):

    about     N, M, J, M′, J′, C (u32 each)
    samples   as in a responses message
    ends      entropy-coded lengths, minus one [N]
    tokens    entropy-coded tokens [M]
    drawn     entropy-coded tokens [M, J]; absent where J is 0
    scores    entropy-coded −log p in steps of 1/32 nat [M′, 1 + J′]; absent where M′ is 0
    claims    float16 [C]; absent where the sender has none
    meta, lengths, ids, counts    the rows, as in a responses message; absent where the scores are all
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedsim.errors import MessageError
from fedsim.learning.sequences import NOTHING
from fedsim.types import Responses, Rollouts, Sequences
from fedsim.wire.container import Buffer
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.expectation import Expectation
from fedsim.wire.reading import decode_samples, expected, require, stream, unpack_meta

STEP = 1 / 32
"""Nats between two scores that can be told apart: 3 % of a probability."""
LOWEST = 64.0
"""Nats below 0 beyond which a score says no more."""
BYTES_PER_TOKEN = 16
"""One byte of `limit` in this many per token or score: what decoding one takes is at most four times that."""

_ABOUT = struct.Struct("<IIIIII")
_ROWS = ("meta", "lengths", "ids", "counts")

RowEncoder = Callable[[Responses, bool], dict[str, Buffer]]
RowDecoder = Callable[[dict[str, memoryview], "Expectation", int], Responses]


def encode(rollouts: Rollouts, samples_known: bool, rows: RowEncoder) -> dict[str, Buffer]:
    sequences = rollouts.sequences or NOTHING
    if len(sequences) and sequences.lengths.min() < 1:
        raise ValueError("every sequence needs a token")
    if np.any(np.diff(sequences.samples, prepend=-1) < 1):
        raise ValueError("samples must ascend from 0 on")
    drawn = np.zeros((0, 0), np.int64) if rollouts.drawn is None else rollouts.drawn.astype(np.int64)
    if drawn.size and len(drawn) != len(sequences.tokens):
        raise ValueError(f"tokens drawn at {len(drawn)} places of {len(sequences.tokens)}")
    scores = np.zeros((0, 1)) if rollouts.scores is None else rollouts.scores
    claims = np.zeros(0) if rollouts.claims is None else rollouts.claims
    sections: dict[str, Buffer] = {
        "about": _ABOUT.pack(
            len(sequences),
            len(sequences.tokens),
            drawn.shape[1],
            len(scores),
            scores.shape[1] - 1,
            len(claims),
        ),
        "ends": encode_symbols(sequences.lengths - 1),
        "tokens": encode_symbols(sequences.tokens.astype(np.int64)),
    }
    if not samples_known:
        sections["samples"] = encode_symbols(np.diff(sequences.samples, prepend=-1) - 1)
    if len(scores):
        sections["scores"] = encode_symbols(coded(scores.ravel()))
    if drawn.size:
        sections["drawn"] = encode_symbols(drawn.ravel())
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
    require(sections, {"about", "ends", "tokens"}, {"samples", "drawn", "scores", "claims", *detailed})
    size, tokens, draws, scored, beside, claimed = unpack_meta(_ABOUT, sections["about"])
    if max(draws, beside) > expect.draws:
        raise MessageError("unexpected", f"{max(draws, beside)} tokens beside each, at most {expect.draws}")
    most = max(size, tokens * (1 + draws), scored * (1 + beside), claimed)
    if most > limit // BYTES_PER_TOKEN:
        raise MessageError("oversized", f"{most} tokens in a limit of {limit} bytes")
    scores = None
    if scored:
        require(sections, {"about", "ends", "tokens", "scores", *detailed}, {"samples", "drawn", "claims"})
        codes = stream(sections["scores"], scored * (1 + beside))
        if codes.max() * STEP > LOWEST:
            raise MessageError("unexpected", f"a score of −{codes.max() * STEP:g}")
        scores = (codes * -STEP).astype(np.float32).reshape(scored, 1 + beside)
    found = None
    if scored and detailed:
        of_rows = replace(expect, kind="responses", positions=1, samples=np.arange(scored))
        found = rows({name: sections[name] for name in _ROWS}, of_rows, limit)
    sequences = _sequences(sections, size, tokens, expect)
    drawn = None
    if draws:
        require(sections, {"drawn"}, set(sections))
        drawn = _tokens(sections["drawn"], tokens * draws, expect).reshape(tokens, draws)
    return Rollouts(sequences, drawn, scores, found, _claims(sections, claimed))


def _sequences(
    sections: dict[str, memoryview], size: int, tokens: int, expect: Expectation
) -> Sequences | None:
    samples = decode_samples(sections.get("samples"), size, expect)
    lengths = stream(sections["ends"], size).astype(np.int64) + 1
    if size and lengths.max() > expect.positions:
        raise MessageError("unexpected", f"a sequence of {lengths.max()} tokens, at most {expect.positions}")
    expected("number of tokens", tokens, int(lengths.sum()))
    ids = _tokens(sections["tokens"], tokens, expect)
    return Sequences(samples, np.concatenate([[0], np.cumsum(lengths)]), ids) if size else None


def _tokens(section: memoryview, size: int, expect: Expectation) -> np.ndarray:
    ids = stream(section, size)
    if size and ids.max() >= expect.classes:
        raise MessageError("unexpected", f"token {ids.max()} of {expect.classes}")
    return ids


def _claims(sections: dict[str, memoryview], size: int) -> np.ndarray | None:
    section = sections.get("claims", memoryview(b""))
    if len(section) != 2 * size:
        raise MessageError("corrupted", f"{len(section)} bytes of claims, {2 * size} expected")
    claims = np.frombuffer(section, "<f2").astype(np.float32)
    if not np.isfinite(claims).all():
        raise MessageError("non-finite", "claims")
    return claims if size else None

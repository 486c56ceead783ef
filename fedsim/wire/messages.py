"""Knowledge to message and back. Decoding trusts nothing: see `decode`.

Sections of a responses message (n samples, p positions, R = n·p rows, nnz entries):

    meta      classes, levels, positions, n (u32 each)
    samples   entropy-coded gaps of the sample ids; absent where both ends know them
    lengths   entropy-coded entries per row, minus one [R]
    ids       entropy-coded gaps of the class ids within a row, minus one [nnz]; a row's first
              entry is its first id itself
    counts    entropy-coded counts, minus one, without each row's last: the row sums to `levels` [nnz − R];
              all of them where rows may have a tail, which is then what is left [nnz]
    claims    float16 [n]; absent where the sender has none
    skills    float16 [G]; there if and only if the receiver expects them

One with a section `base` is coded against rows that both ends have: see delta.py.

A mixture's sections are its parts, each named by its kind and made of the sections of that kind.

The "minus one"s make ascending ids and positive counts the only thing a message can say.

Sections of a parameters message:

    meta      number of examples (u64), number format (u8, 0 = float32), five bytes of padding, so that
              the numbers begin at a multiple of 16 and need not be copied to be worked with
    vector    the P numbers, little-endian

An update message (parameters in few bits) is described in `update`, one of masked sums in `masked`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedsim.errors import MessageError
from fedsim.types import (
    Features,
    Knowledge,
    MaskedSums,
    Mixture,
    Parameters,
    Prototypes,
    Responses,
    Rollouts,
    Update,
)
from fedsim.wire import delta, inner, masked, sequences, update
from fedsim.wire.container import Buffer, Content, Message, join, split, unpack
from fedsim.wire.delta import Reference
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.expectation import Expectation, Style
from fedsim.wire.reading import decode_samples as _decode_samples
from fedsim.wire.reading import expected as _expected
from fedsim.wire.reading import require as _require
from fedsim.wire.reading import stream as _stream
from fedsim.wire.reading import unpack_meta as _unpack

MAX_PARAMETER = 2.0**18
"""No parameter may be larger in absolute value: the exact sum that pools them has that range."""
_LOOK_CLOSER = 64.0
"""Parameters of a smaller norm need no other bound. Of others the largest is looked for, a tighter bound with
which sums of large models stay quick."""
BYTES_PER_ENTRY = 16
"""One byte of `limit` in this many per row entry: what decoding an entry takes is at most four times that."""
BYTES_PER_CHANGE = 32
"""The same for messages that are coded against a reference."""

_RESPONSES_META = struct.Struct("<IIII")
_PARAMETERS_META = struct.Struct("<QB5x")
_FLOAT32 = 0


def encode(
    knowledge: Knowledge,
    *,
    direction: str,
    round: int,
    sender: int,
    samples_known: bool = False,
    coder: str = "ans",
    reference: Reference | None = None,
) -> Message:
    """The message that carries `knowledge`; it may view it, so that only packing it copies.

    samples_known: the receiver's Expectation holds the sample ids, so they are not sent.
    coder: one of `entropy.CODERS`; the message says which, so that the receiver need not know.
    reference: rows that the receiver has as well, of the same or other samples; responses are coded
        against them where that is smaller.
    Raises ValueError for knowledge that breaks its own invariants (counts that don't sum to
    `levels`, ids out of order). Numbers are not judged: a claim or parameter that isn't finite is
    sent, as a diverged or hostile participant would, and refused by the receiver.
    """
    kind = next(kind for kind, codec in CODECS.items() if isinstance(knowledge, codec[0]))
    sections = CODECS[kind][1](knowledge, Style(samples_known, coder, reference))
    return Message(kind, direction, round, sender, sections)


def decode(data: Buffer | Message, expect: Expectation, limit: int) -> Knowledge:
    """The knowledge in `data`, which may come from anyone; `limit` in bytes bounds what it costs.

    A Message is one of this process that was never packed: it is judged as its bytes would be.

    A message longer than `limit`, or one that declares more than `limit` / 16 entries, is refused
    before anything of that size is allocated; the arrays in use at any time, the result included,
    stay below 4 × `limit` (from 64 KiB on; below that, constant costs show). A compressed message
    can be far smaller than its content, so take `limit` from `memory_limit`, not from a typical
    message.

    Raises MessageError: truncated, corrupted, oversized; non-finite (claims, parameters);
    off-simplex (a row that isn't a distribution over the classes); unexpected (anything that
    contradicts `expect`).
    """
    message = data if isinstance(data, Message) else unpack(data, limit)
    if message.size > limit:
        raise MessageError("oversized", f"{message.size} bytes, the receiver accepts {limit}")
    for name in ("kind", "direction", "round", "sender"):
        _expected(name, getattr(message, name), getattr(expect, name))
    if message.kind not in CODECS:
        raise MessageError("unexpected", f"no codec for {message.kind}")
    sections: dict[str, Any] = {
        name: content if isinstance(content, list) else memoryview(content)
        for name, content in message.sections.items()
    }
    return CODECS[message.kind][2](sections, expect, limit)


def memory_limit(expect: Expectation) -> int:
    """The `limit` for `decode` that admits every valid message of this expectation, in bytes."""
    if expect.kind in ("parameters", "update", "masked"):
        return 4 * expect.size + 1024
    if expect.kind == "mixture":
        return sum(memory_limit(part) for part in expect.parts) + 1024
    if expect.kind == "prototypes":
        most = expect.groups * expect.slots
        return inner.BYTES_PER_NUMBER * most * (expect.rank + inner.ROW) + (1 << 16)
    samples = expect.proxy_size if expect.samples is None else len(expect.samples)
    if expect.kind == "features":
        return inner.BYTES_PER_CODE * samples * max(1, expect.layers * expect.rank) + (1 << 16)
    if expect.kind == "sequences":
        entries = expect.positions * (1 + max(expect.draws, min(expect.classes, expect.levels)))
        return BYTES_PER_ENTRY * max(expect.size, samples) * entries + (1 << 16)
    each = BYTES_PER_ENTRY if expect.reference is None else BYTES_PER_CHANGE
    return each * samples * expect.positions * min(expect.classes, expect.levels) + (1 << 16)


# ---- responses


def _encode_responses(responses: Responses, style: Style) -> dict[str, Buffer]:
    _check(responses)
    sections = _plain(responses, style.coder)
    if style.reference is not None and responses.rows:
        changes = delta.encode(responses, style.reference, style.coder)
        if changes is not None and _size(changes) < _size(sections):
            sections = changes
    size = len(responses.samples)
    sections["meta"] = _RESPONSES_META.pack(responses.classes, responses.levels, responses.positions, size)
    if not style.samples_known:
        sections["samples"] = encode_symbols(np.diff(responses.samples, prepend=-1) - 1, style.coder)
    if responses.claims is not None:
        with np.errstate(over="ignore"):  # past 65,504 a claim becomes infinite, and is refused as such
            sections["claims"] = responses.claims.astype("<f2").tobytes()
    if responses.skills is not None:
        with np.errstate(over="ignore"):
            sections["skills"] = responses.skills.astype("<f2").tobytes()
    return sections


def _plain(responses: Responses, coder: str) -> dict[str, Buffer]:
    """The sections of the rows themselves."""
    offsets, ids, counts = responses.offsets, responses.ids, responses.counts
    gaps = np.diff(ids, prepend=0)
    gaps -= 1
    gaps[offsets[:-1]] = ids[offsets[:-1]]
    if not responses.tail:
        counts = np.delete(counts, offsets[1:] - 1)
    return {
        "lengths": encode_symbols(np.diff(offsets) - 1, coder),
        "ids": encode_symbols(gaps, coder),
        "counts": encode_symbols(counts - 1, coder),
    }


def _size(sections: dict[str, Buffer]) -> int:
    return sum(map(len, sections.values()))


def _check(responses: Responses) -> None:
    offsets, ids, counts = responses.offsets, responses.ids, responses.counts
    if len(offsets) != responses.rows + 1 or offsets[0] != 0 or not offsets[-1] == len(ids) == len(counts):
        raise ValueError(f"{len(offsets)} offsets for {responses.rows} rows, {len(ids)} ids")
    if responses.claims is not None and len(responses.claims) != len(responses.samples):
        raise ValueError(f"{len(responses.claims)} claims for {len(responses.samples)} samples")
    if np.any(np.diff(responses.samples, prepend=-1) < 1):
        raise ValueError("samples must ascend from 0 on")
    if responses.rows == 0:
        return
    if np.diff(offsets).min() < 1 or counts.min() < 1 or ids.min() < 0 or ids.max() >= responses.classes:
        raise ValueError("every row needs an entry, every count must be ≥ 1, every id a class")
    rising = np.diff(ids) > 0
    rising[offsets[1:-1] - 1] = True  # from one row to the next ids may fall
    sums = np.add.reduceat(counts, offsets[:-1], dtype=np.int64)
    wrong = sums > responses.levels if responses.tail else sums != responses.levels
    if not rising.all() or wrong.any():
        raise ValueError(f"ids must ascend within a row and its counts sum to {responses.levels}")


def _decode_responses(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Responses:
    skilled = {"skills"} if expect.groups else set()
    optional = {"samples", "claims", "base", "kept"}
    _require(sections, {"meta", "lengths", "ids", "counts", *skilled}, optional)
    classes, levels, positions, size = _unpack(_RESPONSES_META, sections["meta"])
    _expected("classes", classes, expect.classes)
    if not (expect.coarser and 1 <= levels <= expect.levels):
        _expected("levels", levels, expect.levels)
    _expected("positions", positions, expect.positions)
    rows = size * positions
    most = limit // (BYTES_PER_CHANGE if "base" in sections else BYTES_PER_ENTRY)
    if max(rows, size) > most:
        raise MessageError("oversized", f"{rows} rows in a limit of {limit} bytes")
    samples = _decode_samples(sections.get("samples"), size, expect)
    claims = _decode_numbers(sections.get("claims"), size, "claims")
    skills = _decode_numbers(sections.get("skills"), expect.groups, "skills")
    if "base" in sections:
        _require(sections, {"base", "kept"}, set(sections))
        offsets, ids, counts = delta.decode(
            sections, expect.reference, samples, positions, classes, levels, expect.tail, most
        )
    else:
        offsets = _decode_offsets(sections["lengths"], rows, min(classes, levels))
        if offsets[-1] > most:
            raise MessageError("oversized", f"{offsets[-1]} entries in a limit of {limit} bytes")
        ids = _decode_ids(sections["ids"], offsets, classes)
        counts = _decode_counts(sections["counts"], offsets, levels, expect.tail)
    return Responses(samples, positions, classes, levels, offsets, ids, counts, claims, skills, expect.tail)


def _decode_numbers(section: memoryview | None, size: int, name: str) -> np.ndarray | None:
    """float16 as float32, [size]."""
    if section is None:
        return None
    if len(section) != 2 * size:
        raise MessageError("corrupted", f"{len(section)} bytes of {name}, {2 * size} expected")
    numbers = np.frombuffer(section, "<f2").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise MessageError("non-finite", name)
    return numbers


def _decode_offsets(section: memoryview, rows: int, longest: int) -> np.ndarray:
    lengths = _stream(section, rows)
    if rows and lengths.max() >= longest:  # still minus one
        raise MessageError("off-simplex", f"a row of {int(lengths.max()) + 1} entries, at most {longest}")
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    offsets += np.arange(rows + 1)
    return offsets


def _decode_ids(section: memoryview, offsets: np.ndarray, classes: int) -> np.ndarray:
    """Undo the gaps of all rows with one cumulative sum, in place."""
    ids = _stream(section, int(offsets[-1]))
    if not len(ids):
        return ids
    starts = offsets[:-1]
    # int64: a hostile row could wrap around int32 and come out in range.
    last = np.add.reduceat(ids, starts, dtype=np.int64)
    last += np.diff(offsets)
    last -= 1
    if last.max() >= classes:
        raise MessageError("off-simplex", f"class {last.max()} of {classes}")
    ids += 1
    ids[starts] -= 1
    ids[starts[1:]] -= last[:-1].astype(np.int32)  # each row begins where the sum before it ended
    np.cumsum(ids, out=ids)
    return ids


def _decode_counts(section: memoryview, offsets: np.ndarray, levels: int, tail: bool) -> np.ndarray:
    entries, rows = int(offsets[-1]), len(offsets) - 1
    inner = np.ones(entries, bool)
    if not tail:
        inner[offsets[1:] - 1] = False
    counts = np.zeros(entries, np.int32)
    counts[inner] = _stream(section, int(np.count_nonzero(inner)))
    if counts.max(initial=0) >= levels:
        raise MessageError("off-simplex", f"a count exceeds {levels}")
    counts += inner  # minus one on the wire; the last of a row, where it isn't sent, is still 0
    if rows:
        rest = levels - np.add.reduceat(counts, offsets[:-1], dtype=np.int64)
        if rest.min() < (0 if tail else 1):
            raise MessageError("off-simplex", f"a row of counts exceeds {levels}")
        if not tail:
            counts[offsets[1:] - 1] = rest
    return counts


# ---- parameters


def _encode_parameters(parameters: Parameters, style: Style) -> Mapping[str, Content]:
    meta = _PARAMETERS_META.pack(parameters.examples, _FLOAT32)
    pieces: list[Buffer] = [
        np.ascontiguousarray(piece, "<f4").view(np.uint8).data for piece in parameters.pieces
    ]
    return {"meta": meta, "vector": pieces}


def _decode_parameters(sections: dict[str, Any], expect: Expectation, limit: int) -> Parameters:
    _require(sections, {"meta", "vector"}, set())
    examples, number_format = _unpack(_PARAMETERS_META, sections["meta"])
    content = sections["vector"]  # in pieces where it wasn't packed
    contents = content if isinstance(content, list) else [content]
    _expected("number format", number_format, _FLOAT32)
    _expected("bytes of parameters", sum(map(len, contents)), 4 * expect.size)
    pieces = tuple(np.frombuffer(some, "<f4").astype(np.float32, copy=False) for some in contents)
    bound = _norm(pieces)
    if not bound <= _LOOK_CLOSER:
        ends = [float(end) for piece in pieces if len(piece) for end in (-piece.min(), piece.max())]
        if not all(map(math.isfinite, ends)):
            raise MessageError("non-finite", "parameters")
        bound = max(ends)
        if bound > MAX_PARAMETER:
            raise MessageError("unexpected", f"a parameter of {bound:g}")
    return Parameters(pieces, examples, bound)


def _norm(pieces: Sequence[np.ndarray]) -> float:
    """A little more than √Σx², which no magnitude exceeds; infinite or NaN where a number is. To look for the
    largest takes half as long again.

    A rounded sum of what isn't negative is never less than any of its terms, in whatever order it is made.
    The little more is for terms that were rounded down, in the worst case to nothing.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return 1.0001 * math.sqrt(sum(float(np.dot(piece, piece)) for piece in pieces)) + 1e-18


def _decode_update(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Update:
    return update.decode(sections, expect, limit, MAX_PARAMETER)


# ---- mixture


def _encode_mixture(mixture: Mixture, style: Style) -> dict[str, Buffer]:
    parts = mixture.parts()
    if not parts:
        raise ValueError("a mixture of nothing")
    return {kind: join(CODECS[kind][1](part, style)) for kind, part in parts.items()}


def _decode_mixture(sections: dict[str, memoryview], expect: Expectation, limit: int) -> Mixture:
    """Each part has as much of the limit as it can need, as long as there is some left."""
    expectations = {part.kind: part for part in expect.parts}
    _require(sections, set(), set(expectations))
    if not sections:
        raise MessageError("unexpected", "a mixture of nothing")
    parts: dict[str, Any] = {}
    for kind, section in sections.items():
        share = min(limit, memory_limit(expectations[kind]))
        if len(section) > share:
            raise MessageError("oversized", f"{len(section)} bytes of {kind}, at most {share} are accepted")
        parts[kind] = CODECS[kind][2](split(section), expectations[kind], share)
        limit -= share
    return Mixture(**parts)


def _encode_sequences(rollouts: Rollouts, style: Style) -> dict[str, Buffer]:
    def rows(answers: Responses, samples_known: bool) -> dict[str, Buffer]:
        return _encode_responses(answers, Style(samples_known, style.coder))

    return sequences.encode(rollouts, style.samples_known, rows)


Encoder = Callable[[Any, Style], Mapping[str, Content]]
Decoder = Callable[[dict[str, memoryview], Expectation, int], Knowledge]

CODECS: dict[str, tuple[type, Encoder, Decoder]] = {
    "responses": (Responses, _encode_responses, _decode_responses),
    "parameters": (Parameters, _encode_parameters, _decode_parameters),
    "update": (Update, update.encode, _decode_update),
    "masked": (MaskedSums, masked.encode, masked.decode),
    "features": (Features, inner.encode_features, inner.decode_features),
    "prototypes": (Prototypes, inner.encode_prototypes, inner.decode_prototypes),
    "mixture": (Mixture, _encode_mixture, _decode_mixture),
    "sequences": (
        Rollouts,
        _encode_sequences,
        partial(sequences.decode, rows=_decode_responses),
    ),
}
"""Kind → (the record it carries, record → sections, sections → record)."""

"""Valid messages of every kind and coder, what can be done to their bytes, and what has to hold of whatever
is accepted all the same."""

import dataclasses
import struct
from typing import Any

import numpy as np

from fedsim.types import (
    Features,
    Knowledge,
    MaskedSums,
    Mixture,
    Parameters,
    Prototypes,
    Responses,
    Rollouts,
    Sequences,
    Update,
)
from fedsim.wire import Expectation, encode, update
from fedsim.wire.container import Message, checksum
from fedsim.wire.delta import Reference
from fedsim.wire.quantise import QUANTISERS, TAILED


def responses_of(
    size: int,
    positions: int,
    classes: int,
    levels: int,
    *,
    name: str = "sample",
    claims: bool = True,
    seed: int = 0,
) -> Responses:
    """What a model might send about `size` samples of a proxy set three times as large."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.3), size * positions).astype(np.float32) + np.float32(1e-9)
    lengths, ids, counts = QUANTISERS[name](probs, levels, rng)
    return Responses(
        np.sort(rng.choice(3 * size, size, replace=False)),
        positions,
        classes,
        levels,
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        ids,
        counts,
        rng.exponential(2, size).astype(np.float16).astype(np.float32) if claims else None,
        tail=name in TAILED,
    )


def features_of(size: int, layers: int, rank: int, seed: int = 0) -> Features:
    """Codes of Gaussian columns, as PCA leaves them."""
    rng = np.random.default_rng(seed)
    codes = np.clip(np.rint(rng.normal(0, 40, (layers, size, rank))), -127, 127).astype(np.int8)
    scales = rng.exponential(0.1, (layers, rank)).astype(np.float32)
    return Features(np.sort(rng.choice(3 * size, size, replace=False)), codes, scales)


def prototypes_of(groups: int, slots: int, rank: int, size: int, seed: int = 0) -> Prototypes:
    """`size` of the possible groups × slots, with numbers that the wire holds exactly."""
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(groups * slots, size, replace=False))
    return Prototypes(
        numbers // slots,
        numbers % slots,
        rng.normal(0, 1, (size, rank)).astype(np.float16).astype(np.float32),
        rng.integers(1, 500, size),
        rng.integers(0, 256, size).astype(np.float32) / np.float32(255),
    )


def expectation(knowledge: Knowledge, *, samples_known: bool = False, **changes: Any) -> Expectation:
    if isinstance(knowledge, Parameters):
        expect = Expectation("parameters", "up", 4, 2, size=len(knowledge.vector))
    elif isinstance(knowledge, Update):
        expect = Expectation("update", "up", 4, 2, levels=knowledge.levels, size=len(knowledge.codes))
    elif isinstance(knowledge, MaskedSums):
        expect = Expectation("masked", "up", 4, 2, size=len(knowledge.codes))
    elif isinstance(knowledge, Mixture):
        parts = [expectation(part, samples_known=samples_known) for part in knowledge.parts().values()]
        expect = Expectation("mixture", "up", 4, 2, parts=tuple(parts))
    elif isinstance(knowledge, Prototypes):
        groups, slots = (int(ids.max(initial=0)) + 1 for ids in (knowledge.groups, knowledge.slots))
        rank = knowledge.centroids.shape[1]
        expect = Expectation("prototypes", "up", 4, 2, rank=rank, groups=groups, slots=slots)
    elif isinstance(knowledge, Features):
        layers, _, rank = knowledge.codes.shape
        expect = Expectation(
            "features", "up", 4, 2, layers=layers, rank=rank,
            proxy_size=int(knowledge.samples.max(initial=0)) + 1,
            samples=knowledge.samples if samples_known else None,
        )  # fmt: skip
    else:
        expect = Expectation(
            "responses", "up", 4, 2,
            classes=knowledge.classes, positions=knowledge.positions, levels=knowledge.levels,
            proxy_size=int(knowledge.samples.max(initial=0)) + 1,
            samples=knowledge.samples if samples_known else None,
            tail=knowledge.tail,
        )  # fmt: skip
    return dataclasses.replace(expect, **changes)


def write(knowledge: Knowledge, *, samples_known: bool = False) -> Message:
    return encode(knowledge, direction="up", round=4, sender=2, samples_known=samples_known)


def send(knowledge: Knowledge, *, samples_known: bool = False) -> bytes:
    return write(knowledge, samples_known=samples_known).data


WRITTEN: list[tuple[Message, Expectation]] = []
CHANGE = np.linspace(-1, 1, 1500, dtype=np.float32) ** 5
for knowledge, known in (
    (responses_of(40, 3, 30, 31), False),
    (responses_of(300, 1, 10, 7, name="largest_remainder"), True),
    (responses_of(60, 1, 10, 1, name="largest_remainder", claims=False), False),
    (responses_of(20, 2, 900, 255, seed=1), False),
    (Parameters((np.linspace(-1, 1, 70, dtype=np.float32),), 12), False),
    (update.quantise(CHANGE, 8, 12, np.random.default_rng(0)), False),
    (features_of(90, 2, 6), True),
    (MaskedSums(np.random.default_rng(0).integers(0, 2**32, 70, np.uint32), 12), False),
    (prototypes_of(10, 3, 8, 20), False),
    (Mixture(responses_of(30, 1, 10, 15), features_of(50, 1, 8), prototypes_of(10, 1, 8, 7)), False),
    (Mixture(features=features_of(50, 1, 8), prototypes=prototypes_of(4, 2, 8, 8)), True),
):
    WRITTEN.append((write(knowledge, samples_known=known), expectation(knowledge, samples_known=known)))
ROLLOUTS = Rollouts(
    Sequences(np.array([1, 4, 5]), np.array([0, 2, 3, 7]), np.arange(7, dtype=np.int32)),
    np.arange(14, dtype=np.int32).reshape(7, 2),
    -np.linspace(0, 9, 180, dtype=np.float32).reshape(60, 3),
    dataclasses.replace(responses_of(60, 1, 30, 15, claims=False), samples=np.arange(60)),
    np.linspace(1, 2, 5, dtype=np.float32),
)
WRITTEN.append(
    (
        write(ROLLOUTS),
        Expectation(
            "sequences", "up", 4, 2, classes=30, positions=20, levels=15, proxy_size=9, size=5, draws=2
        ),
    )
)
for coder, name in (("ans", "largest_remainder"), ("huffman", "top_k")):
    told, answer = (responses_of(90, 2, 30, levels, name=name, claims=False) for levels in (60, 63))
    close = {"direction": "up", "round": 4, "sender": 2, "reference": Reference.of(told), "coder": coder}
    WRITTEN.append((encode(answer, **close), expectation(answer, reference=Reference.of(told))))
for coder in ("huffman", "raw"):
    for said in (
        responses_of(40, 3, 30, 31),
        features_of(90, 2, 6),
        update.quantise(CHANGE, 4, 12, np.random.default_rng(0)),
    ):
        envelope = {"direction": "up", "round": 4, "sender": 2, "coder": coder}
        WRITTEN.append((encode(said, **envelope), expectation(said)))
VICTIMS = [(message.data, expect) for message, expect in WRITTEN]


def mutate(message: bytearray, how: str, a: int, b: int, value: int) -> bytearray:
    """One mutation; `a` and `b` choose places, `value` what is put there."""
    if not message:
        return message
    a, b = a % len(message), b % len(message)
    if how == "flip":
        message[a] ^= 1 << value % 8
    elif how == "byte":
        message[a] = value % 256
    elif how == "word":  # the extremes of a declared number
        message[a : a + 4] = struct.pack("<I", (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)[value % 6])
    elif how == "truncate":
        del message[a:]
    elif how == "extend":
        message += bytes([value % 256]) * (1 + b % 64)
    elif how == "splice":  # a piece of another message, which shifts what follows
        other = VICTIMS[value % len(VICTIMS)][0]
        message[a : a + b % 50] = other[b % len(other) :][: value % 60]
    elif how == "delete":
        del message[a : a + 1 + value % 8]
    elif how == "section length":  # moves a border, or breaks the table
        at = 25 + 5 * (a % 7)
        if at + 4 <= len(message):
            length = struct.unpack_from("<I", message, at)[0]
            struct.pack_into("<I", message, at, (length + value % 17 - 8) % 2**32)
    return message


def seal(message: bytearray) -> bytes:
    """Repair what the frame checks (magic, length, checksum), so that the codec has to read it."""
    if len(message) >= 24:
        message[:4] = b"FEDS"
        struct.pack_into("<I", message, 16, len(message))
        struct.pack_into("<I", message, 20, checksum(message))
    return bytes(message)


MUTATIONS = ("flip", "byte", "word", "truncate", "extend", "splice", "delete", "section length")


def assert_valid(knowledge: Knowledge, expect: Expectation) -> None:
    """Encoding checks every invariant of responses again, so what was accepted can be sent on."""
    encode(knowledge, direction="up", round=0, sender=0)
    if isinstance(knowledge, Parameters):
        assert np.isfinite(knowledge.vector).all()
        assert len(knowledge.vector) == expect.size
    elif isinstance(knowledge, Update):
        assert np.isfinite(update.values(knowledge)).all()
        assert len(knowledge.codes) == expect.size and np.abs(knowledge.codes).max() <= expect.levels
    elif isinstance(knowledge, MaskedSums):
        assert knowledge.codes.dtype == np.uint32 and len(knowledge.codes) == expect.size
    elif isinstance(knowledge, Mixture):
        allowed = {part.kind: part for part in expect.parts}
        for kind, part in knowledge.parts().items():
            assert_valid(part, allowed[kind])
    elif isinstance(knowledge, Features):
        assert (np.isfinite(knowledge.scales) & (knowledge.scales >= 0)).all()
        assert knowledge.codes.shape[0] == expect.layers
        assert knowledge.codes.shape[2] <= expect.rank
    elif isinstance(knowledge, Prototypes):
        assert np.isfinite(knowledge.centroids).all()
        assert ((knowledge.confidence >= 0) & (knowledge.confidence <= 1)).all()
        assert knowledge.groups.max(initial=0) < expect.groups
        assert knowledge.slots.max(initial=0) < expect.slots
    elif isinstance(knowledge, Rollouts):
        if knowledge.scores is not None:
            assert np.isfinite(knowledge.scores).all() and knowledge.scores.max() <= 0
        if knowledge.sequences is not None:
            assert knowledge.sequences.samples.max() < expect.proxy_size
            assert (
                1
                <= knowledge.sequences.lengths.min()
                <= knowledge.sequences.lengths.max()
                <= expect.positions
            )
            assert 0 <= knowledge.sequences.tokens.min() <= knowledge.sequences.tokens.max() < expect.classes
    else:
        assert knowledge.claims is None or np.isfinite(knowledge.claims).all()
        assert (knowledge.classes, knowledge.levels) == (expect.classes, expect.levels)
        assert knowledge.samples.max(initial=0) < expect.proxy_size

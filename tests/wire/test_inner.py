"""Messages of features and prototypes, and any mixture of knowledge in one message."""

import dataclasses
import itertools
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.types import Features, Mixture, Prototypes
from fedsim.wire import decode, memory_limit
from fedsim.wire.container import join, pack, unpack
from fedsim.wire.entropy import encode_symbols
from tests.wire.hostile import expectation, features_of, prototypes_of, responses_of, send
from tests.wire.test_messages import assert_same, reason


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_features_round_trip(size: int, layers: int, rank: int, known: bool, seed: int) -> None:
    sent = features_of(size, layers, rank, seed)
    expect = expectation(sent, samples_known=known)
    assert_same(decode(send(sent, samples_known=known), expect, memory_limit(expect)), sent)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 9), st.data())
def test_prototypes_round_trip(groups: int, slots: int, rank: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, groups * slots))
    sent = prototypes_of(groups, slots, rank, size, seed=groups)
    expect = expectation(sent)
    assert_same(decode(send(sent), expect, memory_limit(expect)), sent)


PARTS = {
    "responses": responses_of(20, 1, 10, 15),
    "features": features_of(20, 2, 5),
    "prototypes": prototypes_of(10, 2, 5, 11),
}


@pytest.mark.parametrize(
    "chosen", [c for n in (1, 2, 3) for c in itertools.combinations(PARTS, n)], ids="-".join
)
def test_any_mixture_travels_in_one_message(chosen: tuple[str, ...]) -> None:
    sent = Mixture(**{kind: PARTS[kind] for kind in chosen})  # type: ignore[arg-type]
    expect = expectation(Mixture(**PARTS))  # type: ignore[arg-type]
    data = send(sent)
    assert_same(decode(data, expect, memory_limit(expect)), sent)
    alone = sum(len(send(PARTS[kind])) - 24 for kind in chosen)
    assert len(data) == 24 + alone + len(chosen) * (5 + 1)  # one header, and a table for each part


def test_a_mixture_holds_what_is_expected_and_something() -> None:
    everything = Mixture(**PARTS)  # type: ignore[arg-type]
    data = send(everything)
    for missing in PARTS:
        fewer = expectation(Mixture(**{k: v for k, v in PARTS.items() if k != missing}))  # type: ignore[arg-type]
        assert reason(data, fewer) == "unexpected"
    assert reason(pack("mixture", "up", 4, 2, {}), expectation(everything)) == "unexpected"
    with pytest.raises(ValueError, match="nothing"):
        send(Mixture())


def test_the_parts_share_the_limit() -> None:
    """Three parts of a third of the limit each are within it; a fourth of them is not more for any."""
    sent = Mixture(**PARTS)  # type: ignore[arg-type]
    expect = expectation(sent)
    assert memory_limit(expect) >= sum(memory_limit(part) for part in expect.parts)
    assert reason(send(sent), expect, memory_limit(expect.parts[0])) == "oversized"


SAMPLES = encode_symbols(np.zeros(3, int))
FEATURES: dict[str, Any] = {
    "meta": struct.pack("<III", 1, 2, 3),
    "samples": SAMPLES,
    "scales": np.ones(2, "<f4").tobytes(),
    "codes": encode_symbols(np.full(6, 127)),
}
PROTOTYPES: dict[str, Any] = {
    "meta": struct.pack("<III", 2, 3, 2),
    "groups": encode_symbols(np.array([0, 2])),
    "counts": encode_symbols(np.array([0, 4])),
    "centroids": np.ones(6, "<f2").tobytes(),
    "confidence": b"\x00\xff",
}
MANY = 2**32 - 1
BOMB = struct.pack("<BIIB", 0, MANY, 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"meta": struct.pack("<III", 2, 2, 3)}, "unexpected"),  # more layers than agreed
        ({"meta": struct.pack("<III", 1, 3, 3)}, "unexpected"),  # more columns
        ({"meta": struct.pack("<III", 1, 2, MANY)}, "oversized"),
        ({"meta": b""}, "corrupted"),
        ({"scales": np.ones(3, "<f4").tobytes()}, "corrupted"),
        ({"scales": np.array([1, np.inf], "<f4").tobytes()}, "non-finite"),
        ({"scales": np.array([1, -1], "<f4").tobytes()}, "unexpected"),
        ({"codes": encode_symbols(np.full(6, 255))}, "unexpected"),  # code 128
        ({"codes": encode_symbols(np.full(5, 9))}, "corrupted"),
        ({"codes": BOMB}, "oversized"),
        ({"samples": encode_symbols(np.array([0, 0, 7]))}, "unexpected"),
        ({"groups": SAMPLES}, "unexpected"),
    ],
)
def test_hostile_features(changes: dict[str, bytes], expected: str) -> None:
    honest = Features(np.arange(3), np.zeros((1, 3, 2), np.int8), np.ones((1, 2), np.float32))
    expect = expectation(honest)
    assert_same(decode(pack("features", "up", 4, 2, FEATURES), expect, 1 << 16), honest)
    assert reason(pack("features", "up", 4, 2, FEATURES | changes), expect, 1 << 16) == expected
    inside = pack("mixture", "up", 4, 2, {"features": join(FEATURES | changes)})
    assert reason(inside, expectation(Mixture(features=honest)), 1 << 18) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"meta": struct.pack("<III", 3, 3, 2)}, "unexpected"),  # more slots than agreed
        ({"meta": struct.pack("<III", 2, 4, 2)}, "unexpected"),  # other width
        ({"meta": struct.pack("<III", 2, 3, MANY)}, "oversized"),
        ({"groups": encode_symbols(np.array([0, 3]))}, "unexpected"),  # group 2 of 2
        ({"groups": encode_symbols(np.array([0, 2**31 - 1]))}, "unexpected"),
        ({"groups": BOMB}, "oversized"),
        ({"counts": encode_symbols(np.array([1]))}, "corrupted"),
        ({"centroids": np.ones(5, "<f2").tobytes()}, "corrupted"),
        ({"centroids": np.array([1, 1, np.nan, 1, 1, 1], "<f2").tobytes()}, "non-finite"),
        ({"confidence": b"\x00"}, "corrupted"),
        ({"vector": b""}, "unexpected"),
    ],
)
def test_hostile_prototypes(changes: dict[str, bytes], expected: str) -> None:
    honest = Prototypes(
        np.array([0, 1]), np.array([0, 1]), np.ones((2, 3), np.float32),
        np.array([1, 5]), np.array([0, 1], np.float32),
    )  # fmt: skip
    expect = expectation(honest)
    assert_same(decode(pack("prototypes", "up", 4, 2, PROTOTYPES), expect, 1 << 16), honest)
    assert reason(pack("prototypes", "up", 4, 2, PROTOTYPES | changes), expect, 1 << 16) == expected


def test_too_large_a_centroid_is_sent_and_refused() -> None:
    sent = dataclasses.replace(prototypes_of(3, 1, 2, 3), centroids=np.full((3, 2), 1e9, np.float32))
    assert reason(send(sent), expectation(sent)) == "non-finite"


def test_the_sender_is_told_what_is_wrong() -> None:
    features, prototypes = features_of(4, 1, 2), prototypes_of(5, 1, 2, 3)
    for change in (
        {"scales": np.ones((2, 2), np.float32)},
        {"codes": np.full((1, 4, 2), -128, np.int8)},
        {"samples": np.array([3, 2, 5, 9])},
    ):
        with pytest.raises(ValueError, match=r"scales|codes|ascend"):
            send(dataclasses.replace(features, **change))
    for change in (
        {"groups": prototypes.groups[::-1]},
        {"counts": np.array([1, 0, 1])},
        {"confidence": np.ones(2, np.float32)},
    ):
        with pytest.raises(ValueError, match=r"ascend|one example|counts"):
            send(dataclasses.replace(prototypes, **change))


def test_an_empty_message_section_is_corrupted() -> None:
    expect = expectation(Mixture(features=features_of(3, 1, 2)))
    for content in (b"", b"\x05", join({"meta": b""}) + b"x"):
        assert reason(pack("mixture", "up", 4, 2, {"features": content}), expect) == "corrupted"


def test_codes_cost_about_their_entropy() -> None:
    sent = features_of(1000, 1, 16)
    codes = sent.codes.astype(int).ravel() + 127
    share = np.bincount(codes) / len(codes)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(codes) / 8
    sections = unpack(send(sent), 1 << 20).sections
    assert entropy < len(sections["codes"]) < 1.03 * entropy + 64

"""Messages: exact round trips, real bytes, and a decoder that survives 10,000 hostile inputs."""

import dataclasses
import random
import struct
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import MessageError
from fedsim.types import (
    COORDINATOR,
    Knowledge,
    Parameters,
    Responses,
)
from fedsim.wire import Expectation, bits, decode, encode, memory_limit
from fedsim.wire.container import Message, anatomy, pack, unpack
from fedsim.wire.entropy import encode_symbols
from fedsim.wire.messages import CODECS
from fedsim.wire.quantise import QUANTISERS
from tests.wire.hostile import (
    MUTATIONS,
    VICTIMS,
    WRITTEN,
    assert_valid,
    expectation,
    mutate,
    responses_of,
    seal,
    send,
    write,
)


def assert_same(a: Knowledge, b: Knowledge) -> None:
    assert type(a) is type(b)
    for name in (field.name for field in dataclasses.fields(a)):
        value, other = getattr(a, name), getattr(b, name)
        if isinstance(a, Parameters) and name == "pieces":
            value, other = a.vector, b.vector
        if isinstance(a, Parameters) and name == "bound":
            continue  # whatever was easily found
        if dataclasses.is_dataclass(value):
            assert_same(value, other)
            continue
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            assert np.array_equal(value, other), name
        else:
            assert value == other, name


def reason(data: bytes | Message, expect: Expectation, limit: int = 1 << 20) -> str:
    with pytest.raises(MessageError) as caught:
        decode(data, expect, limit)
    return caught.value.reason


@settings(deadline=None)
@given(
    size=st.integers(0, 12),
    positions=st.integers(1, 5),
    classes=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 7, 31, 255, 65_535]),
    name=st.sampled_from(sorted(QUANTISERS)),
    claims=st.booleans(),
    samples_known=st.booleans(),
    seed=st.integers(0, 1_000),
)
def test_responses_round_trip(
    size: int,
    positions: int,
    classes: int,
    levels: int,
    name: str,
    claims: bool,
    samples_known: bool,
    seed: int,
) -> None:
    sent = responses_of(size, positions, classes, levels, name=name, claims=claims, seed=seed)
    message = encode(sent, direction="up", round=4, sender=2, samples_known=samples_known)
    expect = expectation(sent, samples_known=samples_known)
    assert_same(decode(message.data, expect, memory_limit(expect)), sent)
    assert len(message.data) == 24 + sum(5 + len(s) for s in unpack(message.data, 1 << 30).sections.values())


@given(st.lists(st.floats(-(2**18), 2**18, width=32), max_size=50), st.integers(0, 2**40))
def test_parameters_round_trip(values: list[float], examples: int) -> None:
    vector = np.array(values, np.float32)
    sent = Parameters((vector,), examples)
    expect = expectation(sent)
    data = send(sent)
    assert_same(decode(data, expect, memory_limit(expect)), sent)
    assert len(data) == 4 * len(values) + 24 + 2 * 5 + 14


@given(st.lists(st.lists(st.floats(-(2**18), 2**18, width=32), max_size=9), min_size=1, max_size=5))
def test_parameters_in_pieces_are_the_bytes_of_those_in_one(values: list[list[float]]) -> None:
    pieces = tuple(np.array(some, np.float32) for some in values)
    joined = np.array([number for some in values for number in some], np.float32)
    apart = Parameters(pieces, 3)
    assert apart.size == len(joined) and np.array_equal(apart.vector, joined)
    assert send(apart) == send(Parameters((joined,), 3))


@pytest.mark.parametrize(("message", "expect"), WRITTEN)
def test_a_message_that_was_never_packed_is_judged_as_its_bytes(
    message: Message, expect: Expectation
) -> None:
    limit = memory_limit(expect)
    assert message.size == len(message.data)
    assert list(message.anatomy.items()) == list(anatomy(message.data).items())
    assert_same(decode(message, expect, limit), decode(message.data, expect, limit))
    for wrong in ({"round": 5}, {"sender": 3}, {"direction": "down"}, {"kind": "rumours"}):
        assert reason(message, dataclasses.replace(expect, **wrong)) == "unexpected"
    with pytest.raises(MessageError, match="oversized"):
        decode(message, expect, message.size - 1)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("number", "why"), [(np.nan, "non-finite"), (-np.inf, "non-finite"), (3e5, "unexpected")]
)
def test_no_piece_of_parameters_goes_unseen(place: int, number: float, why: str) -> None:
    pieces = (np.ones(2, np.float32), np.zeros(0, np.float32), np.full(3, -2, np.float32))
    expect = Expectation("parameters", "up", 4, 2, size=5)
    sent = Parameters(pieces, 3)
    received = decode(write(sent), expect, memory_limit(expect))
    assert isinstance(received, Parameters) and received.bound is not None and 2 <= received.bound < 4
    pieces[0 if place < 2 else 2][place if place < 2 else place - 2] = number
    assert reason(write(sent), expect) == reason(send(sent), expect) == why


@pytest.mark.parametrize("exponent", [-149, -140, -75, -64, -40, 0, 5, 17])
@pytest.mark.parametrize("size", [1, 7, 4_097, 300_000])
def test_no_parameter_exceeds_the_bound(exponent: int, size: int) -> None:
    """Nor does it help that its square is rounded, down or to nothing, or that it is one of many."""
    rng = np.random.default_rng(size)
    numbers = np.ldexp(rng.uniform(-1, 1, size), exponent).astype(np.float32)
    numbers[-1] = np.ldexp(1.1, exponent)  # its square is rounded down
    pieces = numbers[: size // 3], numbers[size // 3 :]
    expect = Expectation("parameters", "up", 4, 2, size=size)
    received = decode(write(Parameters(pieces, 3)), expect, memory_limit(expect))
    assert isinstance(received, Parameters) and received.bound is not None
    largest = float(numbers.max())
    assert largest <= received.bound
    if received.bound > 64:  # then it is the largest itself
        assert received.bound == largest


def test_the_envelope_says_what_the_bytes_say() -> None:
    message = encode(Parameters((np.ones(3, np.float32),), 5), direction="down", round=9, sender=COORDINATOR)
    container = unpack(message.data, 1 << 20)
    assert (message.direction, message.round, message.sender, message.kind) == ("down", 9, -1, "parameters")
    assert (container.direction, container.round, container.sender, container.kind) == (
        "down",
        9,
        -1,
        "parameters",
    )


def test_claims_are_rounded_to_half_precision() -> None:
    claims = np.array([0.1, 3.3, 1e-3], np.float32)
    sent = dataclasses.replace(responses_of(3, 1, 4, 7), claims=claims)
    received = decode(send(sent), expectation(sent), 1 << 20)
    assert isinstance(received, Responses)
    assert received.claims is not None
    np.testing.assert_allclose(received.claims, claims, rtol=2**-11)


def test_skills_come_along_where_they_are_expected() -> None:
    skills = np.array([0.5, 2.25, 7.0], np.float32)
    sent = dataclasses.replace(responses_of(3, 1, 4, 7), skills=skills)
    assert_same(decode(send(sent), expectation(sent, groups=3), 1 << 20), sent)
    assert len(send(sent)) == len(send(dataclasses.replace(sent, skills=None))) + 5 + 3 * 2
    assert reason(send(sent), expectation(sent)) == "unexpected"
    assert reason(send(sent), expectation(sent, groups=4)) == "corrupted"
    assert reason(send(responses_of(3, 1, 4, 7)), expectation(sent, groups=3)) == "unexpected"
    for number in (np.nan, -np.inf, 1e6):
        broken = dataclasses.replace(sent, skills=np.array([1, number, 2], np.float32))
        assert reason(send(broken), expectation(sent, groups=3)) == "non-finite"


def test_a_coarser_grid_is_taken_where_it_may_be_one() -> None:
    sent = responses_of(3, 1, 4, 7)
    assert_same(decode(send(sent), expectation(sent, levels=31, coarser=True), 1 << 20), sent)
    assert reason(send(sent), expectation(sent, levels=31)) == "unexpected"
    assert reason(send(sent), expectation(sent, levels=6, coarser=True)) == "unexpected"
    sections = {name: bytes(view) for name, view in unpack(send(sent), 1 << 20).sections.items()}
    sections["meta"] = struct.pack("<IIII", 4, 0, 1, 3)
    assert reason(resealed(sections), expectation(sent, coarser=True)) == "unexpected"


def test_samples_both_ends_know_cost_nothing() -> None:
    sent = responses_of(200, 1, 10, 7)
    short, long = send(sent, samples_known=True), send(sent)
    assert "samples" not in unpack(short, 1 << 20).sections
    assert len(long) - len(short) > 200 / 8
    assert_same(decode(long, expectation(sent, samples_known=True), 1 << 20), sent)
    assert reason(short, expectation(sent)) == "unexpected"
    others = expectation(sent, samples=sent.samples + 1, proxy_size=1_000)
    assert reason(long, others) == "unexpected"
    assert reason(short, expectation(sent, samples=sent.samples[:-1])) == "unexpected"


def test_one_bit_labels_stay_below_their_bound() -> None:
    """CFD: b = 1 costs at most log2 K bits a row: 80,000 rows of 10 classes are 33.2 KB."""
    ids = np.random.default_rng(0).integers(0, 10, 80_000).astype(np.int32)
    labels = Responses(np.arange(80_000), 1, 10, 1, np.arange(80_001), ids, np.ones(80_000, np.int32))
    least = 80_000 * np.log2(10) / 8
    assert 0.999 * least < len(send(labels, samples_known=True)) < 1.005 * least + 150


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "parameters"), ("direction", "down"), ("round", 5), ("sender", 3),
        ("classes", 11), ("positions", 3), ("levels", 15), ("proxy_size", 10),
    ],
)  # fmt: skip
def test_what_contradicts_the_expectation_is_unexpected(field: str, value: Any) -> None:
    sent = responses_of(20, 2, 10, 7)
    assert reason(send(sent), expectation(sent, **{field: value})) == "unexpected"


def test_values_that_cannot_be() -> None:
    bad = {
        "non-finite": [np.nan, np.inf, -np.inf],
        "unexpected": [2.0**18 + 1, -(2.0**19)],
    }
    for expected, values in bad.items():
        for value in values:
            sent = Parameters((np.array([0, value, 1], np.float32),), 1)
            assert reason(send(sent), expectation(sent)) == expected
    sent = Parameters((np.ones(3, np.float32),), 1)
    assert reason(send(sent), expectation(sent, size=4)) == "unexpected"
    for loss in (np.nan, np.inf, 1e6):
        labels = dataclasses.replace(responses_of(2, 1, 4, 7), claims=np.array([loss, 1], np.float32))
        assert reason(send(labels), expectation(labels)) == "non-finite"


def resealed(sections: dict[str, bytes]) -> bytes:
    return pack("responses", "up", 4, 2, sections)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"counts": [3, 0]}, "off-simplex"),  # 4 of 3 quanta, nothing left for the last class
        ({"counts": [1, 0, 0]}, "oversized"),  # more counts than entries
        ({"ids": [0, 0, 0, 5]}, "off-simplex"),  # class 6 of 4
        ({"ids": [0, 0, 2**31 - 1, 2**31 - 1]}, "off-simplex"),  # wraps around int32
        ({"ids": [0, 0, 1]}, "corrupted"),
        ({"lengths": [1, 3]}, "off-simplex"),  # four entries in three quanta
        ({"lengths": [1]}, "corrupted"),
        ({"lengths": [0, 1]}, "oversized"),  # more ids than the lengths allow
        ({"samples": [0, 9]}, "unexpected"),  # sample 10 of 3
        ({"samples": [0, 2**31 - 1]}, "unexpected"),
        ({"claims": [1]}, "corrupted"),
        ({"vector": [1]}, "unexpected"),
    ],
)
def test_a_hostile_sender_who_knows_the_format(changes: dict[str, list[int]], expected: str) -> None:
    """Two rows over four classes with three quanta; one section is replaced, the checksum is right."""
    streams = {"lengths": [1, 1], "ids": [0, 0, 1, 1], "counts": [0, 1], "samples": [0, 0]}
    honest = {name: encode_symbols(np.array(values)) for name, values in streams.items()}
    honest["meta"] = struct.pack("<IIII", 4, 3, 1, 2)
    expect = Expectation("responses", "up", 4, 2, classes=4, positions=1, levels=3, proxy_size=3)
    read = decode(resealed(honest), expect, 1 << 16)
    assert isinstance(read, Responses)
    assert (read.samples.tolist(), read.ids.tolist(), read.counts.tolist()) == (
        [0, 1],
        [0, 1, 1, 3],
        [1, 2, 2, 1],
    )
    changed = {name: encode_symbols(np.array(values)) for name, values in changes.items()}
    assert reason(resealed(honest | changed), expect) == expected


@pytest.mark.parametrize("missing", ["meta", "lengths", "ids", "counts"])
def test_every_section_is_needed(missing: str) -> None:
    sent = responses_of(3, 1, 4, 7)
    sections = {name: bytes(view) for name, view in unpack(send(sent), 1 << 20).sections.items()}
    del sections[missing]
    assert reason(resealed(sections), expectation(sent)) == "unexpected"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"levels": 8}, "sum to"),
        ({"classes": 2}, "a class"),
        ({"samples": np.array([4, 3, 9])}, "ascend"),
        ({"samples": np.array([-1, 3, 9])}, "ascend"),
        ({"positions": 2}, "offsets"),
        ({"claims": np.zeros(2, np.float32)}, "claims"),
    ],
)
def test_the_sender_is_told_what_is_wrong(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        send(dataclasses.replace(responses_of(3, 1, 6, 7), **change))


# ---- memory


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_of(data: bytes, expect: Expectation, limit: int) -> tuple[Knowledge | MessageError, int]:
    """What decoding gives, and the most bytes that were allocated for it at any time."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        result: Knowledge | MessageError = decode(data, expect, limit)
    except MessageError as error:
        result = error
    return result, tracemalloc.get_traced_memory()[1] - before


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("limit", [1 << 16, 1 << 19, 1 << 22])
@pytest.mark.parametrize("positions", [1, 8])
@pytest.mark.parametrize("levels", [1, 2, 100])
@pytest.mark.parametrize("classes", [100, 1 << 20])
def test_decoding_stays_within_four_times_the_limit(
    limit: int, positions: int, levels: int, classes: int
) -> None:
    """Valid messages with as many entries as the limit admits, in the costliest mixes of rows,
    entries and alphabets: one entry per row, and ids so spread that every gap is its own symbol.
    """
    entries = limit // 16
    width = min(levels, 50)
    size = entries // width // positions
    rng = np.random.default_rng(0)
    ids = np.sort(rng.integers(0, classes - width, (size * positions, width)), axis=1) + np.arange(width)
    counts = np.ones_like(ids)
    counts[:, -1] = levels - width + 1
    offsets = np.arange(size * positions + 1) * width
    claims = rng.random(size).astype(np.float16).astype(np.float32)
    samples = np.cumsum(rng.integers(1, 50, size))
    sent = Responses(
        samples, positions, classes, levels, offsets,
        ids.ravel().astype(np.int32), counts.ravel().astype(np.int32), claims,
    )  # fmt: skip
    for known in (False, True):
        result, peak = peak_of(send(sent, samples_known=known), expectation(sent, samples_known=known), limit)
        assert not isinstance(result, MessageError), result
        assert_same(result, sent)
        assert peak <= 4 * limit


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("limit", [1 << 16, 1 << 20])
def test_the_largest_table_stays_within_four_times_the_limit(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest sender never writes a table with as many symbols as the stream has; a hostile one may."""
    monkeypatch.setattr(bits, "size_of", lambda width, size: 1 << 30)
    entries = limit // 16
    ids = np.random.default_rng(0).permutation(entries).astype(np.int32)
    ones, samples = np.ones(entries, np.int32), np.arange(entries)
    sent = Responses(samples, 1, entries, 1, np.arange(entries + 1), ids, ones, ones.astype(np.float32))
    data = send(sent)
    assert unpack(data, 1 << 30).sections["ids"][0] == 1
    monkeypatch.undo()
    result, peak = peak_of(data, expectation(sent), limit)
    assert not isinstance(result, MessageError), result
    assert_same(result, sent)
    assert peak <= 4 * limit


@pytest.mark.usefixtures("traced")
def test_parameters_stay_within_four_times_the_limit() -> None:
    sent = Parameters((np.random.default_rng(0).normal(size=100_000).astype(np.float32),), 1)
    expect = expectation(sent)
    result, peak = peak_of(send(sent), expect, memory_limit(expect))
    assert isinstance(result, Parameters)
    assert peak <= 4 * memory_limit(expect)


@pytest.mark.usefixtures("traced")
def test_bombs_are_refused_before_they_unfold() -> None:
    """A few dozen bytes that declare a billion rows, entries or samples."""
    limit, many = 1 << 16, 2**32 - 1
    bomb = struct.pack("<BIIB", 0, many, 0, 0)  # a constant stream
    huge = Expectation("responses", "up", 4, 2, classes=10, positions=1, levels=3, proxy_size=2**31)
    wide = dataclasses.replace(huge, classes=many, levels=many)
    for size, expect, replaced in (
        (many, huge, {}),
        (1, huge, {"lengths": bomb}),
        (1, huge, {"samples": bomb}),
        (1, huge, {"ids": bomb}),
        (1, huge, {"counts": bomb}),
        (1, wide, {"lengths": encode_symbols(np.array([2**31 - 1]))}),
        (many, dataclasses.replace(huge, positions=0), {"samples": bomb}),
    ):
        sections = {
            name: encode_symbols(np.zeros(1, int)) for name in ("samples", "lengths", "ids", "counts")
        }
        sections["meta"] = struct.pack("<IIII", expect.classes, expect.levels, expect.positions, size)
        result, peak = peak_of(resealed(sections | replaced), expect, limit)
        assert isinstance(result, MessageError)
        assert result.reason == "oversized"
        assert peak < limit


# ---- fuzzing


@pytest.mark.usefixtures("traced")
def test_ten_thousand_mutated_messages() -> None:
    """Only a MessageError or valid knowledge comes out, in bounded memory. Three in four are
    resealed: an attacker computes checksums too, and only then the deep decoder is reached.
    Hypothesis draws one seed for each hundred: drawing every number itself takes minutes.
    """
    seen: Counter[str] = Counter()

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**63))
    def hundred_attacks(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(100):
            original, expect = draw.choice(VICTIMS)
            message = bytearray(original)
            for _ in range(draw.randint(1, 3)):
                message = mutate(message, draw.choice(MUTATIONS), *(draw.getrandbits(16) for _ in range(3)))
            data = seal(message) if draw.random() < 0.75 else bytes(message)
            limit = max(1 << 16, memory_limit(expect))
            result, peak = peak_of(data, expect, limit)
            assert peak <= 4 * limit
            if isinstance(result, MessageError):
                seen[result.reason] += 1
            else:
                seen["valid"] += 1
                assert_valid(result, expect)

    hundred_attacks()
    assert seen.total() >= 10_000
    assert set(seen) == {*MessageError.REASONS, "valid"}, seen
    assert all(number >= 10 for number in seen.values()), seen


def test_every_kind_of_knowledge_has_a_victim() -> None:
    assert {expect.kind for _, expect in VICTIMS} == set(CODECS)
    assert sum("base" in unpack(data, 1 << 30).sections for data, _ in VICTIMS) == 2

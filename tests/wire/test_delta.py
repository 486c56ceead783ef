"""Responses coded against rows that both ends hold: exact, never larger, refused out of step."""

import dataclasses
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import MessageError
from fedsim.types import Responses
from fedsim.wire import Expectation, decode, delta, encode, memory_limit
from fedsim.wire.container import pack, unpack
from fedsim.wire.delta import Reference
from fedsim.wire.entropy import decode_symbols, encode_symbols
from fedsim.wire.messages import BYTES_PER_CHANGE
from fedsim.wire.quantise import QUANTISERS, TAILED

LIMITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # the reference's counts that share a stream, from


def quantised(
    logits: np.ndarray, samples: np.ndarray, levels: int, name: str = "sample", seed: int = 0
) -> Responses:
    """Logits [n, p, K] as a model would send them."""
    _, positions, classes = logits.shape
    probs = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float32).reshape(-1, classes)
    top = {"top": 3} if name == "top_k" else {}
    lengths, ids, counts = QUANTISERS[name](probs, levels, np.random.default_rng(seed), **top)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Responses(samples, positions, classes, levels, offsets, ids, counts, tail=name in TAILED)


def pair(
    size: int = 30,
    positions: int = 2,
    classes: int = 20,
    levels: int = 31,
    name: str = "sample",
    apart: float = 0.3,
    seed: int = 0,
    every: int = 2,
) -> tuple[Responses, Reference]:
    """Responses, and the rows of another model that agrees up to `apart` nats on one in `every` of the
    samples, and some more."""
    rng = np.random.default_rng(seed)
    samples = np.sort(rng.choice(4 * size, size, replace=False))
    others = np.union1d(samples[::every], rng.choice(4 * size, size // 2))
    logits = rng.normal(0, 2.5, (4 * size, positions, classes))
    noise = rng.normal(0, apart, logits.shape)
    told = quantised((logits + noise)[others], others, levels + 4, name, seed + 1)
    return quantised(logits[samples], samples, levels, name, seed), Reference.of(told)


def expectation(sent: Responses, reference: Reference | None, known: bool = True) -> Expectation:
    return Expectation(
        "responses", "up", 4, 2, classes=sent.classes, positions=sent.positions, levels=sent.levels,
        proxy_size=int(sent.samples.max(initial=0)) + 1,
        samples=sent.samples if known else None, tail=sent.tail, reference=reference,
    )  # fmt: skip


def send(sent: Responses, reference: Reference | None, known: bool = True, coder: str = "ans") -> bytes:
    return encode(
        sent, direction="up", round=4, sender=2, samples_known=known, coder=coder, reference=reference
    ).data


def sections_of(data: bytes) -> dict[str, memoryview]:
    return unpack(data, 1 << 30).sections


def assert_same(a: Responses, b: Responses) -> None:
    for name in ("samples", "offsets", "ids", "counts"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        assert np.array_equal(x, y), name
    assert a.tail == b.tail


@settings(deadline=None)
@given(
    size=st.integers(1, 12),
    positions=st.integers(1, 3),
    classes=st.integers(1, 12),
    levels=st.sampled_from([1, 2, 7, 31, 255]),
    name=st.sampled_from(sorted(QUANTISERS)),
    apart=st.sampled_from([0.0, 0.3, 5.0]),
    known=st.booleans(),
    coder=st.sampled_from(["ans", "huffman", "raw"]),
    seed=st.integers(0, 1_000),
)
def test_round_trip(
    size: int,
    positions: int,
    classes: int,
    levels: int,
    name: str,
    apart: float,
    known: bool,
    coder: str,
    seed: int,
) -> None:
    sent, reference = pair(size, positions, classes, levels, name, apart, seed)
    data = send(sent, reference, known, coder)
    expect = expectation(sent, reference, known)
    read = decode(data, expect, memory_limit(expect))
    assert isinstance(read, Responses)
    assert_same(read, sent)
    assert len(data) <= len(send(sent, None, known, coder))


def read_slowly(
    sections: dict[str, memoryview], sent: Responses, reference: Reference
) -> list[dict[int, int]]:
    """The rows {class: count} by the description in delta.py, entry by entry; a tail is class K."""

    def symbols(section: memoryview) -> list[int]:
        return [int(s) for s in decode_symbols(section, 1 << 20)]

    kept = bytes(sections["kept"])
    streams = []
    while kept:
        (length,) = struct.unpack_from("<I", kept)
        streams.append(iter(symbols(memoryview(kept[4 : 4 + length]))))
        kept = kept[4 + length :]
    assert len(streams) == len(LIMITS)
    has = symbols(sections["base"][4:])
    lengths, ids, counts = (iter(symbols(sections[name])) for name in ("lengths", "ids", "counts"))
    known = {}
    for i, sample in enumerate(reference.samples.tolist()):
        for t in range(reference.positions):
            row = slice(*reference.offsets[i * reference.positions + t :][:2].tolist())
            named = zip(reference.ids[row].tolist(), reference.counts[row].tolist(), strict=True)
            known[sample, t] = dict(named)
    rows = []
    for sample, flag in zip(sent.samples.tolist(), has, strict=True):
        for t in range(sent.positions):
            row: dict[int, int] = {}
            pivot = None
            if flag:
                told = known[sample, t]
                pivot = min(c for c in told if told[c] == max(told.values()))
                for c, count in told.items():
                    if c != pivot:
                        stream = streams[max(i for i, least in enumerate(LIMITS) if count >= least)]
                        moved = next(stream)
                        row[c] = count + (-(moved + 1) // 2 if moved % 2 else moved // 2)
            c = -1
            for place in range(next(lengths)):
                c = next(ids) if place == 0 else c + 1 + next(ids)
                row[c] = next(counts) + 1
            if pivot is not None:
                row[pivot] = sent.levels - sum(row.values())
            rows.append({c: count for c, count in sorted(row.items()) if count})
    return rows


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_the_sections_say_what_is_written_about_them(name: str) -> None:
    sent, reference = pair(name=name, levels=90)
    sections = delta.encode(sent, reference, "ans")
    assert sections is not None
    rows = read_slowly({name: memoryview(section) for name, section in sections.items()}, sent, reference)
    tails = sent.tails.tolist()
    for r, row in enumerate(rows):
        entries = slice(*sent.offsets[r : r + 2].tolist())
        wanted = dict(zip(sent.ids[entries].tolist(), sent.counts[entries].tolist(), strict=True))
        if tails[r]:
            wanted[sent.classes] = tails[r]
        assert row == wanted


def test_what_the_receiver_has_costs_next_to_nothing() -> None:
    """The frame, and a few bytes for each stream, whatever the size."""
    for size in (100, 1_000):
        sent, _ = pair(size=size, levels=63)
        assert len(send(sent, Reference.of(sent))) < 300


def test_the_closer_the_smaller() -> None:
    sizes = [len(send(*pair(size=400, apart=apart, every=1))) for apart in (0.1, 0.5, 3.0)]
    assert sizes[0] < sizes[1] < sizes[2]
    logits = np.random.default_rng(0).normal(0, 3, (400, 1, 30))
    samples = np.arange(400)
    sent = quantised(logits, samples, 255, "largest_remainder")
    close = Reference.of(quantised(logits + 0.1, samples, 255, "largest_remainder"))
    assert len(send(sent, close)) < 0.1 * len(send(sent, None))


def test_what_has_nothing_to_do_with_it_is_sent_as_if_there_were_none() -> None:
    sent, _ = pair(size=50)
    far = dataclasses.replace(Reference.of(sent), samples=sent.samples + 1_000)
    assert send(sent, far) == send(sent, None)
    rng = np.random.default_rng(3)
    other = quantised(rng.normal(0, 2.5, (50, 2, 20)), sent.samples, 31)
    assert len(send(sent, Reference.of(other))) <= len(send(sent, None))


def test_a_receiver_out_of_step_refuses() -> None:
    """Never wrong rows: another reference, none, or one that lacks a sample is found by its checksum."""
    sent, reference = pair(size=200, apart=0.05, every=1)
    data = send(sent, reference)
    assert "base" in sections_of(data)
    common = reference.among(sent.samples)
    moved = common.counts.copy()
    moved[-1] += 1
    for other in (
        None,
        dataclasses.replace(common, counts=moved),
        common.take(np.arange(1, len(common.samples))),
        common.take(np.zeros(0, np.int64)),
        dataclasses.replace(common, positions=1, offsets=common.offsets[::2]),
    ):
        with pytest.raises(MessageError) as caught:
            decode(data, expectation(sent, other), 1 << 20)
        assert caught.value.reason == "unexpected"


def test_rows_that_nobody_refers_to_may_differ() -> None:
    sent, reference = pair(size=200, apart=0.05, every=1)
    assert "base" in sections_of(send(sent, reference))
    mine = reference.among(sent.samples)
    assert len(mine.samples) < len(reference.samples)
    expect = expectation(sent, mine)
    read = decode(send(sent, reference), expect, memory_limit(expect))
    assert isinstance(read, Responses)
    assert_same(read, sent)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lengths": [0]}, "corrupted"),
        ({"lengths": [0, 9]}, "corrupted"),
        ({"lengths": [0, 2**31 - 1]}, "oversized"),
        ({"lengths": [1, 1], "ids": [1, 1], "counts": [0, 2]}, "off-simplex"),  # class 1 has a count already
        ({"lengths": [1, 1], "ids": [2, 1], "counts": [6, 2]}, "off-simplex"),  # 7 + 1 of 7 quanta
        ({"kept": [5]}, "off-simplex"),  # three below 2
        ({"kept": [12]}, "off-simplex"),  # six above: nothing left for the largest
        ({"kept": [0, 0]}, "oversized"),
        ({"ids": [4]}, "off-simplex"),  # class 4 of 4
        ({"ids": [2**31 - 1]}, "off-simplex"),
        ({"counts": [2**31 - 1]}, "off-simplex"),
        ({"counts": [1]}, "off-simplex"),  # a row without a reference that has not given all
    ],
)
def test_a_hostile_sender_who_knows_the_format(changes: dict[str, list[int]], expected: str) -> None:
    """Two samples of seven quanta over four classes, the first of them with a reference."""
    reference = Reference.of(
        Responses(
            np.array([0]), 1, 4, 7, np.array([0, 2]), np.array([0, 1], np.int32), np.array([5, 2], np.int32)
        )
    )
    sent = Responses(
        np.array([0, 1]), 1, 4, 7, np.array([0, 2, 3]),
        np.array([0, 1, 3], np.int32), np.array([6, 1, 7], np.int32),
    )  # fmt: skip
    honest = delta.encode(sent, reference, "ans")
    assert honest is not None
    honest["meta"] = struct.pack("<IIII", 4, 7, 1, 2)
    expect = expectation(sent, reference)
    read = decode(pack("responses", "up", 4, 2, honest), expect, 1 << 16)
    assert isinstance(read, Responses)
    assert_same(read, sent)
    changed = {name: encode_symbols(np.array(values)) for name, values in changes.items()}
    if "kept" in changes:
        streams = [changed["kept"] if least == 2 else encode_symbols(np.zeros(0, int)) for least in LIMITS]
        changed["kept"] = b"".join(struct.pack("<I", len(stream)) + stream for stream in streams)
    with pytest.raises(MessageError) as caught:
        decode(pack("responses", "up", 4, 2, honest | changed), expect, 1 << 16)
    assert caught.value.reason == expected


@pytest.mark.parametrize("positions", [1, 8])
@pytest.mark.parametrize("levels", [1, 100])
@pytest.mark.parametrize("near", [True, False])
def test_decoding_stays_within_four_times_the_limit(positions: int, levels: int, near: bool) -> None:
    """As many entries as the limit admits; the reference is as large as the message."""
    limit, classes = 1 << 20, 1 << 16
    width = min(levels, 50)
    size = limit // BYTES_PER_CHANGE // width // positions
    rng = np.random.default_rng(0)

    def rows() -> Responses:
        ids = np.sort(rng.integers(0, classes - width, (size * positions, width)), axis=1) + np.arange(width)
        counts = np.ones_like(ids)
        counts[:, -1] = levels - width + 1
        offsets = np.arange(size * positions + 1) * width
        return Responses(
            np.arange(size), positions, classes, levels, offsets,
            ids.ravel().astype(np.int32), counts.ravel().astype(np.int32),
        )  # fmt: skip

    sent = rows()
    changed = sent.ids.copy()
    changed[:: width * 2] = 0
    reference = Reference.of(dataclasses.replace(sent, ids=changed) if near else rows())
    sections = delta.encode(sent, reference, "ans")
    assert sections is not None
    sections["meta"] = struct.pack("<IIII", classes, levels, positions, size)
    data, expect = pack("responses", "up", 4, 2, sections), expectation(sent, reference)
    tracemalloc.start()
    try:
        read = decode(data, expect, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(read, Responses)
    assert_same(read, sent)
    assert peak <= 4 * limit

"""Updates in few bits: unbiased, bounded, and checked before they are believed."""

import struct
import tracemalloc

import numpy as np
import pytest

from fedsim.errors import MessageError
from fedsim.types import Update
from fedsim.wire import Expectation, ans, decode, encode, huffman, memory_limit, update
from fedsim.wire.container import pack
from fedsim.wire.expectation import Style

SIZE = 2500
CHANGE = np.random.default_rng(0).normal(0, 0.1, SIZE).astype(np.float32)


def expectation(bits: int = 8, size: int = SIZE) -> Expectation:
    return Expectation("update", "up", 3, 1, levels=update.levels(bits), size=size)


def send(knowledge: Update) -> bytes:
    return encode(knowledge, direction="up", round=3, sender=1).data


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_rounding_is_to_a_neighbour_and_without_bias(bits: int):
    draws = [
        update.values(update.quantise(CHANGE, bits, 1, np.random.default_rng(seed))) for seed in range(400)
    ]
    blocks = [CHANGE[at : at + update.BLOCK] for at in range(0, SIZE, update.BLOCK)]
    step = np.concatenate([np.full(len(b), np.abs(b).max() / (2 ** (bits - 1) - 1)) for b in blocks])
    assert np.all(np.abs(np.array(draws) - CHANGE) < 1.001 * step)
    # A draw's standard deviation is at most half a step, that of the mean of 400 a fortieth.
    error = (np.mean(draws, axis=0) - CHANGE) / step
    assert np.abs(error).max() < 5 / 40
    assert abs(error.mean()) < 5 / 40 / SIZE**0.5


def test_the_largest_of_a_block_and_zero_are_exact():
    change = np.zeros(3 * update.BLOCK, np.float32)
    change[[3, 2000]] = 0.75, -2.0
    back = update.values(update.quantise(change, 8, 1, np.random.default_rng(1)))
    np.testing.assert_allclose(back, change, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [0, 1, update.BLOCK, SIZE])
def test_an_update_comes_back_as_it_went(size: int):
    sent = update.quantise(CHANGE[:size], 8, 77, np.random.default_rng(2))
    expect = expectation(size=size)
    back = decode(send(sent), expect, memory_limit(expect))
    assert np.array_equal(back.codes, sent.codes) and np.array_equal(back.scales, sent.scales)
    assert (back.levels, back.examples) == (127, 77)


def test_a_message_has_no_more_than_its_bits_and_scales():
    change = np.random.default_rng(3).normal(0, 1, 200_000).astype(np.float32)
    for bits in (8, 4, 2):
        coarse = update.quantise(change, bits, 1, np.random.default_rng(0))
        sent, histogram = send(coarse), np.bincount(coarse.codes.astype(int) + 127)
        p = histogram[histogram > 0] / len(change)
        entropy = -(p * np.log2(p)).sum() * len(change) / 8
        scales = 4 * -(-len(change) // update.BLOCK)
        assert entropy + scales < len(sent) < 1.003 * entropy + scales + 400 <= len(change) * bits / 8 + 2000


def hostile(**changes: object) -> bytes:
    good = update.quantise(CHANGE, 8, 1, np.random.default_rng(0))
    sections = update.encode(good, Style())
    return pack("update", "up", 3, 1, {**sections, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scales": np.array([1, np.nan, 1], "<f4").tobytes()}, "non-finite"),
        ({"scales": np.array([1, np.inf, 1], "<f4").tobytes()}, "non-finite"),
        ({"scales": np.array([1, -1, 1], "<f4").tobytes()}, "unexpected"),
        ({"scales": np.array([1, 1e6, 1], "<f4").tobytes()}, "unexpected"),
        ({"scales": np.array([1, 1], "<f4").tobytes()}, "unexpected"),
        ({"codes": update.encode_symbols(np.full(SIZE, 255))}, "unexpected"),
        ({"codes": update.encode_symbols(np.full(SIZE - 1, 3))}, "corrupted"),
        ({"codes": (b"\0" + (2**30).to_bytes(4, "little") + bytes(5))}, "oversized"),
        ({"codes": b""}, "corrupted"),
        ({"meta": bytes(8)}, "corrupted"),
        ({"meta": update._META.pack(1, 7)}, "unexpected"),
        ({"claims": b""}, "unexpected"),
    ],
)
def test_a_hostile_update_is_refused(changes: dict, reason: str):
    with pytest.raises(MessageError) as refused:
        decode(hostile(**changes), expectation(), memory_limit(expectation()))
    assert refused.value.reason == reason


def test_a_change_that_is_no_number_is_sent_and_refused():
    for wrong in (np.nan, np.inf):
        change = CHANGE.copy()
        change[5] = wrong
        with pytest.raises(MessageError, match="scales"):
            decode(send(update.quantise(change, 8, 1, np.random.default_rng(0))), expectation(), 2**20)


@pytest.mark.parametrize(("code", "coder"), [(1, ans), (2, huffman)])
def test_a_table_of_more_symbols_than_there_are_codes_is_refused_before_it_costs(code: int, coder):
    size = 2**16
    expect = expectation(size=size)
    body = coder.encode(np.random.default_rng(0).permutation(size) * 7919)
    scales = np.zeros(-(-size // update.BLOCK), "<f4").tobytes()
    codes = struct.pack("<BI", code, size) + body
    sections = {"meta": update._META.pack(1, 127), "scales": scales, "codes": codes}
    message = pack("update", "up", 3, 1, sections)
    limit = memory_limit(expect)
    assert len(message) < limit
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="a table of 65536 symbols"):
            decode(message, expect, limit)
        assert tracemalloc.get_traced_memory()[1] < limit / 4
    finally:
        tracemalloc.stop()


def test_a_table_of_all_codes_is_accepted():
    for coder in ("ans", "huffman"):
        codes = np.tile(np.arange(-127, 128, dtype=np.int8), 40)
        sent = Update(codes, np.ones(-(-len(codes) // update.BLOCK), np.float32), 127, 1)
        message = encode(sent, direction="up", round=3, sender=1, coder=coder).data
        expect = expectation(size=len(codes))
        assert np.array_equal(decode(message, expect, memory_limit(expect)).codes, codes)

"""Entropy coding: exact, as small as the entropy, the same bits everywhere, safe on any input."""

import itertools
import math
import struct
import tracemalloc

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import MessageError
from fedsim.wire import alphabet, buckets, huffman
from fedsim.wire.ans import frequencies
from fedsim.wire.entropy import CODERS, MAX_SYMBOL, decode_symbols, encode_symbols

HEADER = 5


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(len(symbols) / counts)).sum()) / 8


def zipf(classes: int, size: int, seed: int = 0) -> np.ndarray:
    weights = 1 / np.arange(1, classes + 1)
    return np.random.default_rng(seed).choice(classes, size, p=weights / weights.sum())


@given(
    st.one_of(
        st.lists(st.integers(0, 3), max_size=300),
        st.lists(st.integers(0, MAX_SYMBOL), max_size=60),
        st.lists(st.sampled_from([0, 5, 70_000, MAX_SYMBOL]), max_size=300),
    ),
    st.sampled_from(sorted(CODERS)),
)
def test_round_trip(values: list[int], coder: str) -> None:
    symbols = np.array(values, np.int64)
    data = encode_symbols(symbols, coder)
    decoded = decode_symbols(data, len(symbols))
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, symbols)


@pytest.mark.parametrize("classes", [2, 3, 300, 65_536, 70_000])
@pytest.mark.parametrize("stride", [1, 977])
def test_round_trip_of_large_alphabets(classes: int, stride: int) -> None:
    """65,536 distinct symbols still have a table; more than that are packed as bits."""
    rng = np.random.default_rng(classes)
    symbols = np.concatenate([np.arange(classes), rng.integers(0, classes, 200_000)]) * stride
    rng.shuffle(symbols)
    assert np.array_equal(decode_symbols(encode_symbols(symbols), len(symbols)), symbols)


@pytest.mark.parametrize(
    "probabilities",
    [(0.95, 0.05), (0.5, 0.25, 0.125, 0.125), (0.4, 0.2, 0.2, 0.1, 0.1), (0.1,) * 10, (0.999, 0.001)],
)
def test_size_is_the_entropy(probabilities: tuple[float, ...]) -> None:
    """Never below the entropy, at most 0.5 % above it, and below the floor of 1 bit of Huffman."""
    rng = np.random.default_rng(1)
    symbols = rng.choice(len(probabilities), 400_000, p=probabilities)
    size, least = len(encode_symbols(symbols)), entropy_bytes(symbols)
    table = HEADER + 4 + 5 + 5 + 2 * len(probabilities)
    assert least <= size <= 1.005 * least + table + 8  # the last words are not full
    if least < len(symbols) / 10:
        assert size < len(symbols) / 8


# From the published code words of each; the third has nothing shorter than its entropy of 3.3219.
PUBLISHED = [((0.5, 0.25, 0.125, 0.125), 1.75), ((0.4, 0.2, 0.2, 0.1, 0.1), 2.2), ((0.1,) * 10, 3.4)]


def exactly(probabilities: tuple[float, ...], size: int) -> np.ndarray:
    """`size` symbols in random order, each exactly as often as its probability says."""
    counts = np.rint(np.array(probabilities) * size).astype(int)
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(("probabilities", "bits_each"), PUBLISHED)
def test_huffman_code_words_have_the_published_lengths(
    probabilities: tuple[float, ...], bits_each: float
) -> None:
    counts = np.rint(np.array(probabilities) * 1_000).astype(int)
    lengths = huffman.code_lengths(counts)
    assert (counts * lengths).sum() / 1_000 == bits_each
    assert (0.5**lengths).sum() == 1  # Kraft: a complete prefix code
    # DEFLATE writes just these, but that it needs a word for the end, beside that of a rarest symbol.
    symbols = exactly(probabilities, 400_000).astype(np.uint8)
    with_end = bits_each + min(probabilities)
    size = len(huffman.deflate(symbols)) * 8 / len(symbols)
    assert bits_each <= size <= 1.003 * with_end


def test_blocks_of_four_cost_a_third_of_single_symbols() -> None:
    """(.95, .05): an entropy of .286 bits, 1 by single symbols, .367 by blocks of four (by enumeration)."""
    p = 0.95 ** np.arange(4, -1, -1) * 0.05 ** np.arange(5)
    blocks = np.array([p[f"{n:04b}".count("1")] for n in range(16)])
    lengths = huffman.code_lengths(np.rint(blocks * 16e8).astype(np.int64))
    assert (blocks * lengths).sum() / 4 == pytest.approx(0.367, abs=0.0005)
    symbols = np.random.default_rng(0).choice(2, 400_000, p=[0.95, 0.05])
    fours = huffman.block(symbols.astype(np.uint8), 2, 4)
    assert len(huffman.deflate(fours)) * 8 / len(symbols) == pytest.approx(0.367, rel=0.02)
    assert len(encode_symbols(symbols, "huffman")) * 8 / len(symbols) < 0.31  # eights, which a byte holds


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=60))
def test_huffman_is_within_a_bit_of_the_entropy(counts: list[int]) -> None:
    """H ≤ L < H + 1, and no code word of a commoner symbol is longer."""
    number = np.array(counts)
    lengths = huffman.code_lengths(number)
    p = number / number.sum()
    entropy = -(p * np.log2(p)).sum()
    assert entropy - 1e-9 <= (p * lengths).sum() < entropy + 1
    order = np.argsort(-number, kind="stable")
    for a, b in itertools.pairwise(order):
        assert lengths[a] <= lengths[b] or number[a] == number[b]


@pytest.mark.parametrize(
    "probabilities",
    [
        *(p for p, _ in PUBLISHED),
        (0.7, 0.2, 0.1),
        tuple(1 / n for n in range(1, 17)),
        tuple(1 / n for n in range(1, 200)),
    ],
)
def test_huffman_is_within_two_percent_above_one_bit(probabilities: tuple[float, ...]) -> None:
    p = np.array(probabilities) / sum(probabilities)
    symbols = np.random.default_rng(1).choice(len(p), 400_000, p=p)
    least = entropy_bytes(symbols)
    assert least * 8 > len(symbols)
    assert least <= len(encode_symbols(symbols, "huffman")) <= 1.02 * least


def test_below_one_bit_huffman_codes_several_symbols_at_once() -> None:
    """Twenty symbols, of which two don't fit into a byte: the common ones are blocked by themselves."""
    for common, most in ((0.9, 1.05), (0.8, 1.03)):
        p = np.array([common, *((1 - common) / 19,) * 19])
        symbols = np.random.default_rng(1).choice(20, 400_000, p=p)
        assert len(encode_symbols(symbols, "huffman")) <= most * entropy_bytes(symbols)


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_a_large_alphabet_needs_no_large_table(coder: str) -> None:
    """100,000 gaps of 10,000 kinds, some of them frequent: a full table alone would be 10 % of them."""
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(1 / 3_000, 100_000), 30_000)
    symbols[rng.random(100_000) < 0.2] = 17_777
    data = encode_symbols(symbols, coder)
    assert data[0] == 3
    assert len(data) <= 1.02 * entropy_bytes(symbols)
    assert np.array_equal(decode_symbols(data, len(symbols)), symbols)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 3))
def test_the_symbols_named_are_those_that_make_the_stream_shortest(counts: list[int], octave: int) -> None:
    first = 16 << octave  # a bucket of 2^(octave + 1) numbers, and a frequent symbol outside of it
    counts = counts[: 2 << octave]
    own = np.array([1000, *counts])
    bucket = alphabet.count_to_byte(np.array([0, *range(first, first + len(counts))]))
    assert len(set(bucket[1:])) == 1

    def cost(named: tuple[bool, ...]) -> float:
        """Bits of all tokens by their entropy, of what is left to say, and of the table."""
        rest = sum(c for c, alone in zip(counts, named, strict=True) if not alone)
        alone = [c for c, alone in zip(counts, named, strict=True) if alone]
        tokens = [c for c in (1000, *alone, rest) if c]
        entropy = sum(c * math.log2(own.sum() / c) for c in tokens)
        return entropy + rest * (octave + 1) + buckets._ENTRY_BITS * len(alone)

    chosen = buckets._worth_naming(bucket, own)
    assert chosen[0]  # small numbers have a token anyway
    best = min(map(cost, itertools.product([False, True], repeat=len(counts))))
    assert cost(tuple(chosen[1:].tolist())) == pytest.approx(best)


def test_a_smooth_source_of_many_symbols_is_reached_though_its_table_is_large() -> None:
    symbols = zipf(30_000, 100_000)
    weights = 1 / np.arange(1, 30_001)
    source = -(weights / weights.sum() * np.log2(weights / weights.sum())).sum() / 8 * len(symbols)
    assert entropy_bytes(symbols) < 0.98 * source  # the counts know more than any code can
    assert len(encode_symbols(symbols)) < 1.004 * source


@pytest.mark.parametrize("classes", [16, 1_024, 20_000])
def test_size_is_the_entropy_of_zipf(classes: int) -> None:
    symbols = zipf(classes, 1_000_000)
    table = HEADER + 4 + 5 + 5 + 2 * classes
    assert len(encode_symbols(symbols)) <= 1.005 * entropy_bytes(symbols) + table + 8


def test_one_distinct_symbol_costs_ten_bytes() -> None:
    assert len(encode_symbols(np.full(1_000_000, 12_345))) == 10
    assert len(encode_symbols(np.zeros(0, np.int64))) == 10


def test_the_smaller_of_ans_and_raw_is_taken() -> None:
    short = np.array([0, 9, 3, 3])
    assert encode_symbols(short) == encode_symbols(short, "raw")
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, 1_024, 20_000)  # nothing to gain: a table would only cost
    assert encode_symbols(uniform) == encode_symbols(uniform, "raw")
    skewed = zipf(1_024, 20_000)
    assert len(encode_symbols(skewed)) < len(encode_symbols(skewed, "raw"))


@given(st.lists(st.integers(1, 2**33), min_size=2, max_size=50))
def test_frequencies_sum_to_the_precision(counts: list[int]) -> None:
    scaled = frequencies(np.array(counts, np.int64))
    assert scaled.sum() == 2**24
    assert scaled.min() >= 1


def test_a_tail_of_rare_symbols_keeps_frequencies_positive() -> None:
    counts = np.array([2**33] * 25_000 + [1] * 40_536, np.int64)
    assert frequencies(counts).min() >= 1
    assert frequencies(counts).sum() == 2**24


@pytest.mark.parametrize("classes", [2, 17, 1_024, 65_536])
def test_the_library_uses_our_integer_frequencies_unrounded(classes: int) -> None:
    """The coder maps the low 24 bits of its state to a symbol: so each symbol's interval can be
    read off, and it must begin and end exactly where the integers say.
    """
    rng = np.random.default_rng(classes)
    expected = frequencies(rng.integers(1, 1 << rng.integers(2, 30), classes))
    model = constriction.stream.model.Categorical((expected - 1).astype(np.float64), perfect=False)
    ends = np.cumsum(expected)
    for symbol in {0, 1, classes - 1, *rng.integers(0, classes, 200).tolist()}:
        for quantile in (ends[symbol] - expected[symbol], ends[symbol] - 1):
            state = np.array([int(quantile) | 5 << 24, 77], np.uint32)
            assert constriction.stream.stack.AnsCoder(state).decode(model, 1)[0] == symbol


def test_the_bytes_never_change() -> None:
    """A known answer: another platform, or another version of a library, must write the same."""
    symbols = (np.arange(400) ** 3 % 101 % 7 % 5).astype(np.int32)
    data = encode_symbols(symbols)
    assert data[0] == 1
    assert data.hex() == KNOWN


def test_count_bytes_are_monotone_and_close() -> None:
    counts = np.unique(np.concatenate([np.arange(1, 5_000), np.logspace(1, 10, 1_000).astype(np.int64)]))
    levels = alphabet.count_to_byte(counts)
    assert levels.max() <= 255
    back = alphabet.COUNTS[levels]
    assert (back <= counts).all()
    assert (counts < back * 1.125).all()
    assert np.array_equal(back[counts < 16], counts[counts < 16])


def test_the_sender_is_told_what_is_wrong() -> None:
    for symbols in (np.array([-1]), np.array([2**31]), np.zeros((2, 2), int), np.array([0.5])):
        with pytest.raises(ValueError, match="symbols must be"):
            encode_symbols(symbols)
    with pytest.raises(ValueError, match="'morse'"):
        encode_symbols(np.array([1]), "morse")


def test_more_symbols_than_allowed_are_refused_before_allocation() -> None:
    bomb = bytearray(encode_symbols(np.zeros(10, int)))
    bomb[1:5] = (2**32 - 1).to_bytes(4, "little")  # a billion zeros in ten bytes
    tracemalloc.start()
    with pytest.raises(MessageError, match="oversized"):
        decode_symbols(bytes(bomb), 1_000)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_decode_or_raise(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([ANS, RAW, HUFFMAN, GROUPED, SPLIT, BUCKETS]))
    message = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 20))
    try:
        decoded = decode_symbols(bytes(message[: len(message) - cut]), 10_000)
    except MessageError as error:
        assert error.reason in {"corrupted", "oversized"}
    else:
        assert len(decoded) <= 10_000
        assert len(decoded) == 0 or decoded.min() >= 0


def test_the_original_streams_are_one_of_each() -> None:
    assert (ANS[0], RAW[0], HUFFMAN[0], GROUPED[0], SPLIT[0], BUCKETS[0]) == (1, 0, 2, 2, 2, 3)
    assert HUFFMAN[9] > 1 and SPLIT[9] == 0
    assert math.isclose(len(ANS), entropy_bytes(zipf(60, 9_000)), rel_tol=0.05)


def test_symbols_sorted_by_count_are_no_alphabet_without_gaps():
    """The rarest is the first of 300 and the commonest the last, as if all between were in order."""
    counts = np.where(np.arange(300) % 2, 3000, 1000)
    counts[0], counts[-1] = 500, 5000
    symbols = np.random.default_rng(0).permutation(np.repeat(np.arange(300), counts))
    data = encode_symbols(symbols, "huffman")
    assert data[0] == HUFFMAN[0] and np.array_equal(decode_symbols(data, len(symbols)), symbols)


def test_no_more_symbols_are_named_than_a_reader_allows():
    seldom = 2**17 + np.arange(140_000)
    symbols = np.concatenate([np.repeat(seldom[::2], 41), seldom[1::2]])
    assert np.array_equal(decode_symbols(encode_symbols(symbols), len(symbols)), symbols)


ANS = encode_symbols(zipf(60, 9_000))
HUFFMAN = encode_symbols(exactly((0.7, 0.2, 0.1), 9_000), "huffman")
GROUPED = struct.pack("<BI", 2, 9_000) + (huffman.encode(zipf(300, 9_000)) or b"")
SPLIT = struct.pack("<BI", 2, 9_000) + (huffman.encode(exactly((0.8, *(0.01,) * 20), 9_000)) or b"")
BUCKETS = encode_symbols(zipf(5_000, 9_000))
RAW = encode_symbols(zipf(300, 100), "raw")
KNOWN = (
    "01900100000500000000000000001d00000004991100d44d25ebb2eb10d7f9ea3668c414eaec173533a8a62118e65a31"
    "d6eff22bb669b19e201b123bd6f62ea0c3a85b5428b04020381c5115bc1c8e17bf39c5dc70bae0ffd5c65b9ed12d3f94"
    "651d97973c090caf01b404b4b9af409a6570e471af8df43159b665c13dfe61c54541c7bd096555310000"
)

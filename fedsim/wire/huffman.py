"""Huffman coding (Huffman 1952), the bits themselves by DEFLATE in its Huffman-only mode (RFC 1951).

    number of distinct symbols D (u32), tokens to a byte b (u8), the alphabet, where D > 256 the
    counts (see alphabet.py), length of the DEFLATE stream (u32), the stream, the extra bits

DEFLATE knows 256 symbols, and no code word is shorter than a bit:

- Up to 256 distinct symbols, a token is a symbol. With more, symbols of about equal count share a
  token and are told apart by extra bits, as in DEFLATE's own lengths and distances: in a Huffman tree
  equal counts are a full subtree. A group of m symbols is split by the binary digits of m, so that
  its extra bits are all used.
- Where a code for single tokens stays 1 % above the entropy, as it must below one bit a token, b
  tokens make one of a larger alphabet, as many as fit into a byte.
- Where not even two fit, the stream is split (b = 0): the h ∈ {1, 3, 15} most common symbols, and one more
  that says "another", make a body; the others a second one. That is h (u8), those symbols (u32 each),
  the length of the first body (u32), both bodies.

The size depends on the zlib in use, by a few bytes; what is read back does not.
"""

from __future__ import annotations

import heapq
import struct
import zlib

import numpy as np

from fedsim.errors import MessageError
from fedsim.wire import alphabet as alphabets
from fedsim.wire import bits

TOKENS = 256
"""Values of a byte: what DEFLATE codes."""

_HEADER = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")
_HEADS = (1, 3, 15)  # with "another", eight, four and two of them fit into a byte
_WORTH = 1.01
_FREQUENT = 0.3  # below this share of the commonest symbol a code of whole bits wastes next to nothing


def encode(symbols: np.ndarray, split: bool = True) -> bytes | None:
    """The body, or None where the alphabet has one symbol or too many.   split: whether it may be split."""
    alphabet, index, counts = alphabets.histogram(symbols)
    if not 2 <= len(alphabet) <= alphabets.MAX_DISTINCT:
        return None
    frequent = counts.max() > _FREQUENT * len(symbols)
    if split and frequent and _fitting(len(alphabet)) == 1 and _excess(counts) > _WORTH:
        return min((_encode_split(alphabet, index, counts, heads) for heads in _HEADS), key=len)
    parts = [alphabets.write(alphabet)]
    together, extras = 1, list[bytes]()
    if len(alphabet) <= TOKENS:
        tokens = index.astype(np.uint8)
        if _excess(counts) > _WORTH:
            together = _fitting(len(alphabet))
    else:
        levels = alphabets.count_to_byte(counts)
        parts.append(bits.encode(levels))
        order, starts, widths = _groups(levels)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order))
        rank = rank[index]
        tokens = (np.searchsorted(starts, rank, side="right") - 1).astype(np.uint8)
        rank -= starts[tokens]
        width = widths[tokens]
        extras = [bits.encode(rank[width == w]) for w in _present(widths)]
    stream = deflate(block(tokens, len(alphabet), together) if together > 1 else tokens)
    header = _HEADER.pack(len(alphabet), together)
    return b"".join((header, *parts, _LENGTH.pack(len(stream)), stream, *extras))


def decode(body: memoryview, size: int, most: int, split: bool = True) -> np.ndarray:
    """The `size` int32 symbols of a body, at most `most` different ones. Raises MessageError (corrupted)."""
    if len(body) < _HEADER.size:
        raise _corrupted("no table")
    distinct, together = _HEADER.unpack_from(body)
    if not 2 <= distinct <= min(most, size):
        raise _corrupted(f"a table of {distinct} symbols for a stream of {size}, at most {most} different")
    if split and not together:
        return _decode_split(body[_HEADER.size :], size, most)
    if together not in (1, _fitting(distinct)):
        raise _corrupted(f"{together} tokens of {distinct} to a byte")
    body = body[_HEADER.size :]
    alphabet, used = alphabets.read(body, distinct)
    body = body[used:]
    if distinct <= TOKENS:
        order = starts = np.arange(distinct, dtype=np.int32)
        widths = np.zeros(distinct, np.int32)
    else:
        levels, used = alphabets.read_levels(body, distinct)
        body = body[used:]
        order, starts, widths = _groups(levels)
    tokens, body = _inflate(body, -(-size // together))
    if together > 1:
        tokens = _unblock(tokens, distinct, together)[:size]
    if tokens.max() >= len(starts):
        raise _corrupted(f"token {tokens.max()} of {len(starts)}")
    ranks = starts[tokens]
    for width in _present(widths):
        places = (widths == width)[tokens]
        extra, used = bits.read(body, int(np.count_nonzero(places)))
        if len(extra) and extra.max() >> width:
            raise _corrupted(f"more than {width} extra bits")
        body = body[used:]
        ranks[places] += extra
    if len(body):
        raise _corrupted(f"{len(body)} bytes after the last symbol")
    return alphabets.look_up(alphabet, ranks if distinct <= TOKENS else order[ranks])


def _encode_split(alphabet: np.ndarray, index: np.ndarray, counts: np.ndarray, heads: int) -> bytes:
    common = np.argsort(-counts, kind="stable")[:heads]
    head_of = np.full(len(alphabet), heads, np.uint8)
    head_of[common] = np.arange(heads)
    head = head_of[index]
    first, second = encode(head), encode(alphabet[index[head == heads]], split=False)
    assert first is not None and second is not None  # either has two symbols at least
    parts = struct.pack(f"<B{heads}II", heads, *alphabet[common].tolist(), len(first))
    return b"".join((_HEADER.pack(len(alphabet), 0), parts, first, second))


def _decode_split(body: memoryview, size: int, most: int) -> np.ndarray:
    heads = body[0] if len(body) else 0
    layout = struct.Struct(f"<B{heads}II")
    if heads not in _HEADS or len(body) < layout.size:
        raise _corrupted("a split stream without its parts")
    _, *common, length = layout.unpack_from(body)
    if max(common) > bits.MAX_SYMBOL:
        raise _corrupted("a symbol past 2^31−1")
    body = body[layout.size :]
    head = decode(body[:length], size, most, split=False)
    if head.max() > heads:
        raise _corrupted(f"{head.max()} of {heads} common symbols")
    others = head == heads
    number = int(np.count_nonzero(others))
    if not number:
        raise _corrupted("a split stream without a second part")
    symbols: np.ndarray = np.array((*common, 0), np.int32)[head]
    symbols[others] = decode(body[length:], number, most, split=False)
    return symbols


def deflate(tokens: np.ndarray) -> bytes:
    """`tokens` [n] uint8 in Huffman codes: a code of its own for each 32,768 of them."""
    coder = zlib.compressobj(wbits=-15, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(tokens.tobytes()) + coder.flush()


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code word in an optimal prefix code, [D] int64, for counts [D] > 0."""
    heap = [(int(count), node) for node, count in enumerate(counts)]
    heapq.heapify(heap)
    parents = np.zeros(2 * len(counts) - 1, np.int64)
    for parent in range(len(counts), len(parents)):
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = parent
        heapq.heappush(heap, (a + b, parent))
    depths = np.zeros(len(parents), np.int64)
    for node in reversed(range(len(parents) - 1)):
        depths[node] = depths[parents[node]] + 1
    lengths: np.ndarray = depths[: len(counts)]
    return lengths


def block(tokens: np.ndarray, base: int, together: int) -> np.ndarray:
    """Tokens [n] below `base` as numbers of `together` digits, [⌈n / together⌉] uint8."""
    padded = np.zeros(-(-len(tokens) // together) * together, np.uint8)
    padded[: len(tokens)] = tokens
    numbers = np.zeros(len(padded) // together, np.uint8)
    for digit in range(together):
        numbers *= base
        numbers += padded[digit::together]
    return numbers


def _unblock(numbers: np.ndarray, base: int, together: int) -> np.ndarray:
    tokens = np.empty(len(numbers) * together, np.uint8)
    for digit in reversed(range(together)):
        tokens[digit::together] = numbers % base
        numbers = numbers // base
    return tokens


def _fitting(distinct: int) -> int:
    """How many tokens of so many kinds fit into a byte, at least one."""
    together = 1
    while distinct ** (together + 1) <= TOKENS:
        together += 1
    return together


def _excess(counts: np.ndarray) -> float:
    """Mean length of a code word over the entropy; DEFLATE's end mark has a word as well."""
    entropy = (counts * np.log2(counts.sum() / counts)).sum()
    return float((counts * code_lengths(np.append(counts, 1))[:-1]).sum() / entropy)


def _groups(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols of about equal count [D] in groups of powers of two, at most 256 of them.

    Returns the symbols in the groups' order [D], where each group begins there and its extra bits.
    """
    for dropped in range(9):  # with all bits of the count dropped there are at most 17 groups
        kind = levels >> dropped
        order = np.argsort(kind, kind="stable").astype(np.int32)
        sizes = np.bincount(kind)
        widths = [bit for m in sizes.tolist() for bit in range(m.bit_length()) if m >> bit & 1]
        if len(widths) <= TOKENS:
            break
    ends = np.cumsum(np.left_shift(1, np.array(widths)))
    starts = np.concatenate(([0], ends[:-1])).astype(np.int32)
    return order, starts, np.array(widths, np.int32)


def _present(widths: np.ndarray) -> list[int]:
    """The numbers of extra bits that there are, without none."""
    return [int(width) for width in np.unique(widths) if width]


def _inflate(body: memoryview, size: int) -> tuple[np.ndarray, memoryview]:
    """`size` tokens from the start of `body`, and what comes after them."""
    if len(body) < _LENGTH.size:
        raise _corrupted("no length of the stream")
    (length,) = _LENGTH.unpack_from(body)
    stream, rest = body[_LENGTH.size :][:length], body[_LENGTH.size + length :]
    coder = zlib.decompressobj(wbits=-15)
    try:
        tokens = coder.decompress(stream, size)
        finished = coder.eof or not coder.decompress(coder.unconsumed_tail, 1)
    except zlib.error as error:
        raise _corrupted(str(error)) from None
    if len(tokens) != size or len(stream) != length or not finished or not coder.eof or coder.unused_data:
        raise _corrupted(f"{len(tokens)} tokens of {size} in a stream of {length} bytes")
    return np.frombuffer(tokens, np.uint8), rest


def _corrupted(detail: str) -> MessageError:
    return MessageError("corrupted", detail)

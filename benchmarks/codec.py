"""Responses on the wire, stage by stage: size against the entropy of what is sent, and speed per core.

Three shapes of answers: 10 labels, a vocabulary of 1,024 and one of 32,000. The stages are quantising,
coding against another model's answers (delta), and the two entropy coders over the streams of a message.
Raw input of all stages is the same: the probabilities as fp32. One process, one thread. Tables count as
bytes.

Two entropies stand beside the bytes. That of the symbols as counted knows how often each came, which a coder
has to send: where tens of thousands of symbols came a few times each, it is below what any
code can reach. The source's is estimated from it by Miller and Madow's correction, (D − 1) ÷ 2n nats a symbol
for D distinct ones among n; the limits are about that. In long streams both are the same.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import medians
from fedsim.types import Responses
from fedsim.wire.container import unpack
from fedsim.wire.delta import Reference
from fedsim.wire.entropy import decode_symbols, encode_symbols
from fedsim.wire.expectation import Expectation
from fedsim.wire.messages import decode, encode, memory_limit
from fedsim.wire.quantise import QUANTISERS, TAILED, Quantised

SPEED = 100.0
"""Least MB/s of raw input per core, of each stage."""
PART = 2**24  # probabilities in memory at once
ANS, HUFFMAN, MESSAGE = 1.005, 1.02, 1.01
"""Most bytes over the entropy, tables included; Huffman's counts where a symbol has more than a bit."""


@dataclass(frozen=True)
class Shape:
    """Answers of one kind: R rows of K classes on a grid of L levels."""

    name: str
    rows: int
    classes: int
    levels: int
    quantisers: tuple[str, ...]


SHAPES = (
    Shape("10 labels", 400_000, 10, 255, ("largest_remainder",)),
    Shape("1,024 tokens", 80_000, 1_024, 15, tuple(QUANTISERS)),
    Shape("32,000 tokens", 48_000, 32_000, 31, ("sample", "systematic", "top_k")),
)


def main() -> None:
    """Print one table for each shape."""
    for shape in SHAPES:
        raw = shape.rows * shape.classes * 4 / 1e6
        print(
            f"\n{shape.name}: {shape.rows:,} rows, {shape.levels} levels, {raw:.0f} MB as fp32\n"
            f"{'':<19}{'stage':<10}{'bytes/row':>10}{'÷ counted':>11}{'÷ source':>10}{'limit':>7}"
            f"{'in MB/s':>9}{'out MB/s':>9}{'limit':>7}"
        )
        mine: dict[str, list[Quantised]] = {name: [] for name in shape.quantisers}
        theirs: dict[str, list[Quantised]] = {name: [] for name in shape.quantisers}
        for part, (probs, other) in enumerate(_answers(shape)):
            for name in shape.quantisers:
                quantise = QUANTISERS[name]
                mine[name].append(quantise(probs, shape.levels, np.random.default_rng((1, part))))
                theirs[name].append(quantise(other, shape.levels, np.random.default_rng((2, part))))
        for name in shape.quantisers:
            _quantiser(shape, name, raw, probs, mine.pop(name), theirs.pop(name))


def _quantiser(
    shape: Shape,
    name: str,
    raw: float,
    probs: np.ndarray,
    mine: list[Quantised],
    theirs: list[Quantised],
) -> None:
    """The lines of one quantiser.   probs: some answers, to be timed with."""
    sent, reference = _responses(shape, name, mine), Reference.of(_responses(shape, name, theirs))
    quantise = QUANTISERS[name]
    (spent,) = medians(lambda: quantise(probs, shape.levels, np.random.default_rng(1)), runs=3)
    _line(name, "quantise", probs.nbytes / 1e6, into=spent)
    for coder, limit, least in (("ans", ANS, 0.0), ("huffman", HUFFMAN, 1.0)):
        data = _coded(sent, coder, None)
        streams = [s for s in _streams(data) if len(s) and _entropy(s)[0] >= least * len(s) / 8]
        size = sum(len(encode_symbols(stream, coder)) for stream in streams)
        spent = medians(*_both(streams, coder), runs=3)
        _line("", coder, raw, *spent, size=len(data) / shape.rows, over=_ratios(size, streams), most=limit)
    for coder, referred in (("ans", None), ("ans", reference)):
        data = _coded(sent, coder, referred)
        expect = Expectation(
            "responses", "up", 1, 0, classes=shape.classes, positions=1, levels=shape.levels,
            proxy_size=shape.rows, samples=sent.samples, tail=sent.tail, reference=referred,
        )  # fmt: skip
        spent = medians(
            lambda coder=coder, referred=referred: _coded(sent, coder, referred),
            lambda data=data, expect=expect: decode(data, expect, memory_limit(expect)),
            runs=3,
        )
        over = _ratios(len(data), list(_streams(data)))
        stage = "message" if referred is None else "… delta"
        _line("", stage, raw, *spent, size=len(data) / shape.rows, over=over, most=MESSAGE)


def _line(
    name: str,
    stage: str,
    raw: float,
    into: float | None = None,
    out: float | None = None,
    *,
    size: float | None = None,
    over: tuple[float, float] | None = None,
    most: float | None = None,
) -> None:
    slow = any(spent is not None and raw / spent < SPEED for spent in (into, out))
    large = over is not None and most is not None and over[1] > most
    sizes = " " * 38
    if over is not None:
        sizes = f"{size:>10.2f}{over[0]:>11.4f}{over[1]:>10.4f}{most:>7}"
    speeds = "".join(f"{raw / spent:>9.0f}" if spent else " " * 9 for spent in (into, out))
    short = "  short: " + ", ".join(["size"] * large + ["speed"] * slow) if slow or large else ""
    print(f"{name:<19}{stage:<10}{sizes}{speeds}{SPEED:>7.0f}{short}")


def _answers(shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Probabilities of one model and of another that is close to it, [r, K] float32, part by part: sharp,
    with a long tail, like a trained model's."""
    rng, size = np.random.default_rng(0), PART // shape.classes
    for start in range(0, shape.rows, size):
        rows = min(size, shape.rows - start), shape.classes
        logits = np.float32(1.5) * rng.standard_normal(rows, np.float32)
        logits -= np.float32(1.2) * np.log(np.arange(1, shape.classes + 1, dtype=np.float32))
        yield _softmax(logits), _softmax(logits + np.float32(0.2) * rng.standard_normal(rows, np.float32))


def _softmax(logits: np.ndarray) -> np.ndarray:
    probs: np.ndarray = np.exp(logits)
    probs /= probs.sum(1, keepdims=True)
    return probs


def _responses(shape: Shape, name: str, parts: list[Quantised]) -> Responses:
    lengths, ids, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tail = name in TAILED
    return Responses(np.arange(shape.rows), 1, shape.classes, shape.levels, offsets, ids, counts, tail=tail)


def _coded(sent: Responses, coder: str, reference: Reference | None) -> bytes:
    return encode(
        sent, direction="up", round=1, sender=0, samples_known=True, coder=coder, reference=reference
    ).data


def _both(streams: list[np.ndarray], coder: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Encoding and decoding all streams."""
    coded = [encode_symbols(stream, coder) for stream in streams]
    return (
        lambda: [encode_symbols(stream, coder) for stream in streams],
        lambda: [decode_symbols(data, len(s)) for data, s in zip(coded, streams, strict=True)],
    )


def _streams(data: bytes) -> Iterator[np.ndarray]:
    """The symbols of all streams of a message."""
    for name, section in unpack(data, len(data)).sections.items():
        if name == "kept":
            while len(section):
                (length,) = struct.unpack_from("<I", section)
                yield decode_symbols(section[4 : 4 + length], 1 << 30)
                section = section[4 + length :]
        elif name == "base":
            yield decode_symbols(section[4:], 1 << 30)
        elif name != "meta":
            yield decode_symbols(section, 1 << 30)


def _ratios(size: int, streams: list[np.ndarray]) -> tuple[float, float]:
    """Bytes ÷ the entropy of the symbols as counted, and ÷ the source's."""
    counted, source = (sum(each) for each in zip(*map(_entropy, streams), strict=True))
    return size / counted, size / source


def _entropy(stream: np.ndarray) -> tuple[float, float]:
    """Bytes that a coder would take who knows the counts; and who knows the source, as Miller and Madow
    (1955) estimate it."""
    _, counts = np.unique(stream, return_counts=True)
    n = max(1, counts.sum())
    nats = -float((counts * np.log(counts / n)).sum())
    per_byte = 8 * math.log(2)
    return nats / per_byte, (nats + (len(counts) - 1) / 2) / per_byte

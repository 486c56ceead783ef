"""Responses on the wire, stage by stage: size against the entropy of what is sent, and speed per core.

Three shapes of answers: 10 labels, a vocabulary of 1,024 and one of 32,000. The stages are quantising,
coding against another model's answers (delta), and the two entropy coders over the streams of a message.
Raw input is what a stage spares: the probabilities as fp32. One process, one thread.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import medians
from fedsim.types import Responses
from fedsim.wire.container import unpack
from fedsim.wire.delta import Reference
from fedsim.wire.entropy import decode_symbols, encode_symbols
from fedsim.wire.messages import Expectation, decode, encode, memory_limit
from fedsim.wire.quantise import QUANTISERS, TAILED

SPEED = 100.0
"""Least MB/s of raw input per core, of each stage."""
ANS, HUFFMAN = 1.005, 1.02
"""Most bytes over the entropy; Huffman's counts where a symbol has more than a bit."""


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
    Shape("1,024 tokens", 40_000, 1_024, 15, tuple(QUANTISERS)),
    Shape("32,000 tokens", 2_000, 32_000, 31, ("sample", "systematic", "top_k")),
)


def main() -> None:
    """Print one table for each shape."""
    for shape in SHAPES:
        logits = _logits(shape, 0)
        other = logits + np.random.default_rng(1).normal(0, 0.2, logits.shape).astype(np.float32)
        probs, theirs = (_softmax(each) for each in (logits, other))
        raw = probs.nbytes / 1e6
        print(
            f"\n{shape.name}: {shape.rows:,} rows, {shape.levels} levels, {raw:.0f} MB as fp32\n"
            f"{'':<19}{'stage':<10}{'bytes/row':>10}{'÷ entropy':>11}{'limit':>7}"
            f"{'in MB/s':>9}{'out MB/s':>9}{'limit':>7}"
        )
        for name in shape.quantisers:
            _quantiser(shape, name, probs, theirs, raw)


def _quantiser(shape: Shape, name: str, probs: np.ndarray, theirs: np.ndarray, raw: float) -> None:
    quantise = QUANTISERS[name]
    sent = _responses(shape, name, probs)
    reference = Reference.of(_responses(shape, name, theirs))
    (spent,) = medians(lambda: quantise(probs, shape.levels, np.random.default_rng(1)), runs=3)
    _line(name, "quantise", raw, into=spent)
    for coder, limit, least in (("ans", ANS, 0.0), ("huffman", HUFFMAN, 1.0)):
        data = _coded(sent, coder, None)
        streams = [stream for stream in _streams(data) if len(stream) and _bits(stream) >= least]
        coded = [encode_symbols(stream, coder) for stream in streams]
        size, entropy = sum(map(len, coded)), sum(_bits(s) * len(s) for s in streams) / 8
        spent = medians(*_both(streams, coder), runs=3)
        _line("", coder, raw, *spent, size=len(data) / shape.rows, ratio=size / entropy, most=limit)
    for coder, referred in (("ans", None), ("ans", reference)):
        data = _coded(sent, coder, referred)
        expect = Expectation(
            "responses", "up", 1, 0, shape.classes, 1, shape.levels, shape.rows,
            sent.samples, tail=sent.tail, reference=referred,
        )  # fmt: skip
        spent = medians(
            lambda coder=coder, referred=referred: _coded(sent, coder, referred),
            lambda data=data, expect=expect: decode(data, expect, memory_limit(expect)),
            runs=3,
        )
        streams = list(_streams(data))
        entropy = sum(_bits(s) * len(s) for s in streams) / 8
        stage = "message" if referred is None else "… delta"
        _line("", stage, raw, *spent, size=len(data) / shape.rows, ratio=len(data) / entropy, most=ANS)


def _line(
    name: str,
    stage: str,
    raw: float,
    into: float | None = None,
    out: float | None = None,
    *,
    size: float | None = None,
    ratio: float | None = None,
    most: float | None = None,
) -> None:
    slow = any(spent is not None and raw / spent < SPEED for spent in (into, out))
    large = ratio is not None and most is not None and ratio > most
    sizes = f"{size:>10.2f}{ratio:>11.4f}{most:>7}" if size is not None else " " * 28
    speeds = "".join(f"{raw / spent:>9.0f}" if spent else " " * 9 for spent in (into, out))
    short = "  short: " + ", ".join(["size"] * large + ["speed"] * slow) if slow or large else ""
    print(f"{name:<19}{stage:<10}{sizes}{speeds}{SPEED:>7.0f}{short}")


def _logits(shape: Shape, seed: int) -> np.ndarray:
    """Sharp, with a long tail, like a trained model's, [R, K] float32."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((shape.rows, shape.classes), np.float32)
    noise *= np.float32(1.5)
    noise -= np.float32(1.2) * np.log(np.arange(1, shape.classes + 1, dtype=np.float32))
    return noise


def _softmax(logits: np.ndarray) -> np.ndarray:
    probs: np.ndarray = np.exp(logits)
    probs /= probs.sum(1, keepdims=True)
    return probs


def _responses(shape: Shape, name: str, probs: np.ndarray) -> Responses:
    lengths, ids, counts = QUANTISERS[name](probs, shape.levels, np.random.default_rng(1))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    samples = np.arange(shape.rows)
    return Responses(samples, 1, shape.classes, shape.levels, offsets, ids, counts, tail=name in TAILED)


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


def _bits(stream: np.ndarray) -> float:
    """Empirical entropy of a symbol: the limit of a coder whose table does not change."""
    _, counts = np.unique(stream, return_counts=True)
    p = counts / max(1, counts.sum())
    return float(-(p * np.log2(p)).sum())

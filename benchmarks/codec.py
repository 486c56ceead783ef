"""Responses on the wire: bytes against the entropy of what is sent, and speed against a plain copy.

40,000 rows over 1,024 classes, shaped like a language model's: sharp, with a long tail.
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import medians
from fedsim.types import Responses
from fedsim.wire import Expectation, decode, encode, memory_limit
from fedsim.wire.quantise import QUANTISERS

ROWS, CLASSES, LEVELS = 40_000, 1024, 15


def main() -> None:
    """Print one line per quantiser."""
    rng = np.random.default_rng(0)
    logits = -1.2 * np.log(np.arange(1, CLASSES + 1)) + rng.normal(0, 1.5, (ROWS, CLASSES))
    probs = np.exp(logits, dtype=np.float32)
    probs /= probs.sum(1, keepdims=True)
    megabytes = probs.nbytes / 1e6
    print(f"\nresponses: {ROWS:,} rows × {CLASSES:,} classes, {LEVELS} levels, {megabytes:.0f} MB as fp32")
    print(
        f"{'quantiser':<18}{'bytes a row':>12}{'÷ entropy':>11}"
        f"{'quantise':>10}{'encode':>9}{'decode':>9}  MB/s of fp32"
    )
    for name, quantise in QUANTISERS.items():
        lengths, ids, counts = quantise(probs, LEVELS, np.random.default_rng(1))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        samples = np.arange(ROWS)
        responses = Responses(samples, 1, CLASSES, LEVELS, offsets, ids, counts)
        expect = Expectation(
            "responses",
            "up",
            1,
            0,
            classes=CLASSES,
            positions=1,
            levels=LEVELS,
            proxy_size=ROWS,
            samples=samples,
        )

        def coded(responses: Responses = responses) -> bytes:
            return encode(responses, direction="up", round=1, sender=0, samples_known=True).data

        data = coded()
        spent = medians(
            lambda quantise=quantise: quantise(probs, LEVELS, np.random.default_rng(1)),
            coded,
            lambda data=data, expect=expect: decode(data, expect, memory_limit(expect)),
            runs=3,
        )
        speeds = "".join(f"{megabytes / s:>{w}.0f}" for s, w in zip(spent, (10, 9, 9), strict=True))
        ratio = len(data) / _entropy(responses)
        print(f"{name:<18}{len(data) / ROWS:>12.2f}{ratio:>11.4f}{speeds}")


def _entropy(responses: Responses) -> float:
    """Empirical entropy of the three streams of a message, in bytes: the limit of a static coder."""
    lengths = np.diff(responses.offsets)
    starts = responses.offsets[:-1]
    gaps = np.diff(responses.ids, prepend=0) - 1  # as they are sent: ids ascend
    gaps[starts] = responses.ids[starts]
    last = np.zeros(len(gaps), bool)
    last[responses.offsets[1:] - 1] = True
    bits = 0.0
    for stream in (lengths, gaps, responses.counts[~last]):
        _, counts = np.unique(stream, return_counts=True)
        p = counts / counts.sum()
        bits += float(-(counts * np.log2(p)).sum())
    return bits / 8

"""Error feedback: what a biased quantiser takes away comes back."""

import numpy as np
import pytest

from fedsim.types import Responses
from fedsim.wire.feedback import Feedback
from fedsim.wire.quantise import Quantised, largest_remainder, to_dense

SAMPLES, POSITIONS, CLASSES = 5, 2, 12


def rows(seed: int = 0) -> np.ndarray:
    return (
        np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.7), SAMPLES * POSITIONS).astype(np.float32)
    )


def dense(sent: Quantised, levels: int) -> np.ndarray:
    lengths, ids, counts = sent
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    samples = np.arange(len(lengths) // POSITIONS)
    return to_dense(Responses(samples, POSITIONS, CLASSES, levels, offsets, ids, counts), slice(None))


@pytest.mark.parametrize("levels", [1, 7])
def test_the_mean_of_what_is_sent_becomes_what_was_meant(levels: int) -> None:
    """Over T rounds the mean is off by the last error divided by T; without, by the same in each round."""
    rounds, probs = 64, rows()
    feedback = Feedback({}, SAMPLES, POSITIONS, CLASSES)
    every, total = np.arange(SAMPLES), np.zeros_like(probs, dtype=np.float64)
    for _ in range(rounds):
        wanted = feedback.wanted(every, probs)
        sent = largest_remainder(np.maximum(wanted, 0), levels)
        feedback.keep(every, wanted, sent, levels)
        total += dense(sent, levels)
    without = dense(largest_remainder(probs, levels), levels)
    assert np.abs(total / rounds - probs).max() < 2 / levels / rounds
    assert np.abs(without - probs).max() > 0.3 / levels


def test_errors_are_what_was_meant_less_what_was_sent() -> None:
    """And belong to the samples that were asked about; float16 holds them to 2^−11."""
    memory: dict[str, np.ndarray] = {}
    feedback, asked, probs = Feedback(memory, SAMPLES, POSITIONS, CLASSES), np.array([1, 3]), rows()
    first = probs[: 2 * POSITIONS]
    wanted = feedback.wanted(asked, first)
    assert np.array_equal(wanted, first)
    sent = largest_remainder(wanted, 5)
    feedback.keep(asked, wanted, sent, 5)
    again = Feedback(dict(memory), SAMPLES, POSITIONS, CLASSES)  # as after a restart
    error = first - dense(sent, 5)
    np.testing.assert_allclose(again.wanted(asked, first), first + error, atol=2**-11)
    others = np.array([0, 2])
    assert np.array_equal(again.wanted(others, first), first)

"""Rows with tails, against the same arithmetic on dense rows."""

import numpy as np
import pytest

from fedsim.aggregation.disagreement import Disagreement
from fedsim.aggregation.exact import CountSum
from fedsim.aggregation.geometric import LogSum
from fedsim.aggregation.responses import as_pooled, dense, era, sharpen, union
from fedsim.types import Responses
from fedsim.wire.quantise import to_dense, top_k

CLASSES, POSITIONS, LEVELS = 9, 2, 31


def answers(samples: list[int], seed: int, top: int = 3) -> Responses:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(CLASSES, 0.5), len(samples) * POSITIONS).astype(np.float32)
    lengths, ids, counts = top_k(probs, LEVELS, top=top)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Responses(np.array(samples), POSITIONS, CLASSES, LEVELS, offsets, ids, counts, tail=True)


def whole(answer: Responses) -> np.ndarray:
    return to_dense(answer, slice(None)).astype(np.float64)


def everything(pooled) -> np.ndarray:
    return dense(pooled, np.arange(len(pooled.offsets) - 1)).astype(np.float64)


def test_rows_with_tails_add_up_class_by_class() -> None:
    """In any order and split over hosts; one without a tail (all classes named) among them."""
    samples = [0, 3, 4]
    people = [answers(samples, 1), answers(samples, 2), answers(samples, 3, top=CLASSES)]
    weights = [np.array([3, 1, 7]), np.array([2, 5, 1]), np.array([1, 1, 1])]
    expected = sum(np.repeat(w, POSITIONS)[:, None] * whole(p) for w, p in zip(weights, people, strict=True))
    expected /= expected.sum(1, keepdims=True)
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        sums = [CountSum(POSITIONS, CLASSES, LEVELS) for _ in range(2)]
        for place, who in enumerate(order):
            sums[place % 2].add(people[who], weights[who])
        sums[0].merge(sums[1])
        results.append(sums[0].result())
    np.testing.assert_allclose(everything(results[0]), expected, atol=1e-6)
    assert np.array_equal(results[0].probs, results[1].probs)
    assert np.array_equal(results[0].rests, results[1].rests)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 40.0])
def test_sharpening_is_a_power_of_every_class(beta: float) -> None:
    answer = answers([0, 1, 2, 3], 5)
    expected = whole(answer) ** beta
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(everything(sharpen(as_pooled(answer), beta)), expected, atol=2e-6)


def test_era_is_a_softmax_over_every_class() -> None:
    answer = answers([0, 1], 6)
    expected = np.exp(whole(answer) / 0.1)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(everything(era(as_pooled(answer), 0.1)), expected, atol=1e-6)


def test_a_union_keeps_the_tails_of_both() -> None:
    first, second = answers([1, 4], 7), answers([0, 4, 5], 8)
    both = union(as_pooled(first), as_pooled(second))
    assert both.samples.tolist() == [0, 1, 4, 5]
    one, other = whole(first), whole(second)
    np.testing.assert_allclose(
        everything(both), np.concatenate([other[:2], one[:2], one[2:], other[4:]]), atol=1e-7
    )


def test_what_has_no_meaning_with_a_tail_is_refused() -> None:
    answer, ones = answers([0, 1], 9), np.ones(2, np.int64)
    with pytest.raises(ValueError, match="tail"):
        LogSum(POSITIONS, CLASSES, LEVELS).add(answer, ones)
    with pytest.raises(ValueError, match="tails"):
        Disagreement(POSITIONS, CLASSES, LEVELS).add(answer)
    with pytest.raises(ValueError, match="tail"):
        CountSum(POSITIONS, CLASSES, LEVELS).add(answer, np.ones((2, CLASSES), np.int64))

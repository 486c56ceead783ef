"""Exact sums: the same bits in every order, and the numbers a naive sum would give."""

import dataclasses
import math
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.aggregation.exact import CountSum, FixedPointSum, Pooled
from fedsim.types import Responses
from fedsim.wire.quantise import sample, to_dense


def responses_of(samples: list[int], positions: int, classes: int, levels: int, seed: int) -> Responses:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.3), len(samples) * positions).astype(np.float32) + np.float32(
        1e-9
    )
    lengths, ids, counts = sample(probs, levels, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Responses(np.array(samples, np.int64), positions, classes, levels, offsets, ids, counts)


def same_bits(a: Pooled, b: Pooled) -> bool:
    return all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes() if isinstance(x, np.ndarray) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def dense(pooled: Pooled) -> np.ndarray:
    result = np.zeros((len(pooled.offsets) - 1, pooled.classes), np.float32)
    result[np.repeat(np.arange(len(result)), np.diff(pooled.offsets)), pooled.ids] = pooled.probs
    return result


# ---- FixedPointSum


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 10)), min_size=2, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_changes_no_bit(parts: list[tuple[float, float]], random: Random) -> None:
    vectors = [(np.array([x, -x, x / 3, x**2 / 1e3]), w) for x, w in parts]
    forward, shuffled = FixedPointSum(4), FixedPointSum(4)
    for vector, weight in vectors:
        forward.add(vector, weight)
    random.shuffle(vectors)
    for vector, weight in vectors:
        shuffled.add(vector, weight)
    assert forward.value().tobytes() == shuffled.value().tobytes()
    assert forward.weight == shuffled.weight
    if forward.weight:
        assert forward.mean().tobytes() == shuffled.mean().tobytes()


def test_float_sums_would_not_pass() -> None:
    """The reason for the integers: the same vectors, summed as floats, differ by order."""
    vectors: np.ndarray = np.random.default_rng(0).normal(size=(20, 1_000))
    assert np.add.reduce(vectors).tobytes() != np.add.reduce(vectors[::-1]).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_mean_are_the_weighted_sum_and_mean(dtype: type) -> None:
    rng = np.random.default_rng(1)
    size = 200_000  # several chunks
    vectors: np.ndarray = rng.normal(size=(5, size)).astype(dtype)
    weights = [1, 0.25, 3, 0.1, 7]
    total = FixedPointSum(size)
    for vector, weight in zip(vectors, weights, strict=True):
        total.add(vector, weight)
    assert total.weight == sum(map(Fraction, weights))
    np.testing.assert_allclose(total.value(), np.tensordot(weights, vectors, 1), atol=5 * 2**-44)
    np.testing.assert_allclose(total.mean(), np.average(vectors, 0, weights), atol=5 * 2**-44)


def test_a_vector_in_pieces_adds_what_it_adds_in_one() -> None:
    vector = np.random.default_rng(2).normal(size=100_000).astype(np.float32)  # pieces of several chunks
    whole, apart = FixedPointSum(len(vector)), FixedPointSum(len(vector))
    whole.add(vector, 0.3)
    apart.add(np.split(vector, [0, 1, 70_000, 70_000, 99_999]), 0.3)
    assert apart.value().tobytes() == whole.value().tobytes()


def test_weights_add_up_exactly_from_the_smallest_float_on() -> None:
    weights = [5e-324, 0.1, 2.0**-1022, 0.0, 1e290, 3]
    total, other = FixedPointSum(1), FixedPointSum(1)
    for weight in weights:
        total.add(np.zeros(1), weight)
        other.add(np.zeros(1), weight)
    total.merge(other)
    assert total.weight == 2 * sum(map(Fraction, weights))


def test_numbers_on_the_grid_are_exact() -> None:
    """float32 numbers from 2⁻²⁰ on: a single participant comes out as it went in."""
    vector = (np.random.default_rng(0).normal(size=1_000) + 3).astype(np.float32)
    total = FixedPointSum(1_000)
    total.add(vector, 1)
    assert np.array_equal(total.mean().astype(np.float32), vector)


def test_tiny_terms_are_not_lost_beside_large_ones() -> None:
    total = FixedPointSum(1)
    for value in (2.0**17, *[2.0**-40] * 1_000, -(2.0**17)):
        total.add(np.array([value]))
    assert total.value()[0] == 1_000 * 2.0**-40


@pytest.mark.parametrize(
    ("vector", "weight", "match"),
    [
        (np.zeros(3), 1, "the sum has"),
        (np.array([np.nan, 0]), 1, "largest number"),
        (np.array([0, -np.inf]), 1, "largest number"),
        (np.array([2.0**19, 0]), 1, "out of"),
        (np.array([1.0, 0]), 2.0**19, "out of"),
        (np.array([1e300, 0]), 1e300, "largest number"),
        (np.zeros(2), -1, "not negative"),
        (np.zeros(2), math.nan, "not negative"),
        ([np.zeros(2), np.zeros(1)], 1, "the sum has"),
        ([np.zeros((1, 2))], 1, "the sum has"),
        ([np.zeros(1), np.array([np.nan])], 1, "largest number"),
        ([np.array([1.0]), np.array([-(2.0**19)])], 1, "out of"),
    ],
)
def test_what_cannot_be_added_is_refused_and_changes_nothing(
    vector: np.ndarray | list[np.ndarray], weight: float, match: str
) -> None:
    total = FixedPointSum(2)
    total.add(np.array([1.0, 2.0]), 2)
    with pytest.raises(ValueError, match=match):
        total.add(vector, weight)
    assert total.mean().tolist() == [1, 2]


def test_a_sum_that_grows_out_of_range_is_refused() -> None:
    total = FixedPointSum(1)
    total.add(np.array([2.0**18]))
    with pytest.raises(ValueError, match="out of"):
        for _ in range(2):
            total.add(np.array([2.0**18]))


def test_sums_that_were_merged_go_their_own_ways() -> None:
    """What was handed over is copied only when one of the two goes on."""
    ones, taken, again = np.ones(3, np.float32), FixedPointSum(3), FixedPointSum(3)
    given = FixedPointSum(3)
    given.add(ones)
    taken.merge(given)
    again.merge(given)
    given.add(ones, 2)
    assert (given.value() == 3).all() and (taken.value() == 1).all()
    taken.add(ones, 4)
    assert (given.value() == 3).all() and (taken.value() == 5).all() and (again.value() == 1).all()
    again.merge(taken)
    again.merge(given)
    assert (again.value() == 9).all() and (taken.value() == 5).all() and (given.value() == 3).all()


def test_a_sum_that_came_from_elsewhere_is_not_written_to() -> None:
    """Ray hands arrays over that are read-only."""
    there, here = FixedPointSum(3), FixedPointSum(3)
    there.add(np.ones(3, np.float32))
    assert there._total is not None
    there._total.flags.writeable = False
    here.merge(there)
    here.merge(there)
    here.add(np.ones(3, np.float32))
    assert (here.value() == 3).all()


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="mean of nothing"):
        FixedPointSum(3).mean()


# ---- CountSum


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 6), max_size=5), st.integers(0, 3), st.integers(0, 50)),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
    st.permutations(range(6)),
)
def test_pooling_is_the_weighted_mean_in_any_order(
    parts: list[tuple[set[int], int, int]], per_class: bool, order: list[int]
) -> None:
    """Against a dense float64 sum; participants deliver different samples."""
    positions, classes, levels = 2, 5, 7
    mass = np.zeros((7 * positions, classes))
    deliveries = []
    for samples, weight, seed in parts:
        responses = responses_of(sorted(samples), positions, classes, levels, seed)
        weights = np.full(len(samples), weight) + np.arange(len(samples)) % 2
        if per_class:
            weights = weights[:, None] * np.array([0, 1, 2, 1, 5])
        deliveries.append((responses, weights))
        rows = np.repeat(responses.samples, positions) * positions + np.tile(
            np.arange(positions), len(samples)
        )
        weights_nK = np.broadcast_to(weights.T, (classes, len(samples))).T
        expanded = np.repeat(weights_nK, positions, axis=0)
        np.add.at(mass, rows, to_dense(responses, slice(None)) * expanded)

    pooled = CountSum(positions, classes, levels)
    for delivery in deliveries:
        pooled.add(*delivery)
    result = pooled.result()

    complete = (mass.sum(1).reshape(7, positions) > 0).all(1)
    assert np.array_equal(result.samples, np.flatnonzero(complete))
    kept = mass[np.repeat(complete, positions)]
    np.testing.assert_allclose(dense(result), kept / kept.sum(1, keepdims=True), atol=1e-6)
    assert (result.probs > 0).all()
    assert result.offsets[-1] == len(result.ids)
    for part in np.split(result.ids, result.offsets[1:-1]):
        assert (np.diff(part) > 0).all()

    other = CountSum(positions, classes, levels)
    for index in order:
        if index < len(deliveries):
            other.add(*deliveries[index])
    assert same_bits(other.result(), result)


def test_identical_participants_equal_any_one_of_them() -> None:
    one = responses_of([1, 4, 9], 3, 20, 31, 0)
    single, many = CountSum(3, 20, 31), CountSum(3, 20, 31)
    single.add(one, np.ones(3, np.int64))
    for weight in (1, 5, 11):
        many.add(one, np.full(3, weight))
    assert same_bits(single.result(), many.result())
    assert np.array_equal(dense(single.result()), to_dense(one, slice(None)))


def test_grids_of_different_fineness_weigh_the_same() -> None:
    coarse, fine = responses_of([0], 1, 4, 1, 0), responses_of([0], 1, 4, 3, 1)
    pooled = CountSum(1, 4, 3)
    for part in (coarse, fine):
        pooled.add(part, np.ones(1, np.int64))
    expected = (to_dense(coarse, slice(None)) + to_dense(fine, slice(None))) / 2
    np.testing.assert_allclose(dense(pooled.result()), expected, atol=1e-7)


def test_memory_does_not_grow_with_the_participants() -> None:
    pooled = CountSum(2, 50, 31)
    sizes = []
    for seed in range(60):
        pooled.add(responses_of(list(range(20)), 2, 50, 31, seed % 6), np.ones(20, np.int64))
        sizes.append(len(pooled._keys))
    assert sizes[5] == sizes[-1] <= 20 * 2 * 50


def test_nothing_pooled_is_empty() -> None:
    result = CountSum(2, 5, 3).result()
    assert len(result.samples) == len(result.ids) == len(result.probs) == 0
    assert result.offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "weights", "match"),
    [
        ({}, np.ones(2), "weights float64"),
        ({}, np.ones(3, np.int64), r"\[3\] for 2"),
        ({}, np.ones((2, 4), np.int64), r"\[2, 4\] for 2"),
        ({}, np.array([1, -1]), "negative"),
        ({}, np.full(2, 2**60), "out of int64"),
        ({"levels": 4}, np.ones(2, np.int64), "divide the unit"),
        ({"classes": 6}, np.ones(2, np.int64), "can't be added"),
        ({"positions": 2, "samples": np.array([3])}, np.ones(1, np.int64), "can't be added"),
        ({"samples": np.array([0, 2**62])}, np.ones(2, np.int64), "leaves int64"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    change: dict[str, Any], weights: np.ndarray, match: str
) -> None:
    part = responses_of([0, 1], 1, 5, 31, 0)
    pooled = CountSum(1, 5, 31)
    pooled.add(part, np.ones(2, np.int64))
    before = pooled.result()
    with pytest.raises(ValueError, match=match):
        pooled.add(dataclasses.replace(part, **change), weights)
    assert same_bits(pooled.result(), before)

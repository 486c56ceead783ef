"""The last layer in closed form, against scikit-learn, and the sums that it is made of."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fedsim.errors import MessageError
from fedsim.knowledge.moments import MomentSum, measure, solve, unit, whole
from fedsim.types import Moments
from fedsim.wire import decode, encode
from tests.wire.hostile import expectation, moments_of

SIZES = (40, 3, 17)
WIDTH, OUTPUTS = 6, 4


def examples(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, OUTPUTS, size)
    read = rng.normal(0, 1, (size, WIDTH)).astype(np.float32)
    read[:, :OUTPUTS] += np.eye(OUTPUTS)[labels]
    return read * rng.uniform(0.1, 9, (size, 1)).astype(np.float32), np.eye(OUTPUTS, dtype=np.float32)[labels]


PARTS = [measure(*examples(size, seed)) for seed, size in enumerate(SIZES)]


def pooled(who: tuple[int, ...] = (0, 1, 2)) -> Moments:
    pool = MomentSum(WIDTH, OUTPUTS, SIZES)
    for participant in who:
        pool.add(participant, PARTS[participant])
    return pool.result()


def test_it_is_ridge_regression_on_examples_of_length_one():
    read, wanted = (np.concatenate(parts) for parts in zip(*map(examples, SIZES, range(3)), strict=True))
    for ridge in (0.01, 1.0):
        penalty = ridge / WIDTH * len(read)
        known = Ridge(alpha=penalty, fit_intercept=False).fit(unit(read), wanted.astype(np.float64))
        np.testing.assert_allclose(solve(pooled(), ridge), known.coef_, atol=1e-6)


def test_it_does_not_matter_who_has_which_example():
    read, wanted = (np.concatenate(parts) for parts in zip(*map(examples, SIZES, range(3)), strict=True))
    shuffled = np.random.default_rng(9).permutation(len(read))
    pool = MomentSum(WIDTH, OUTPUTS, SIZES)
    for k, rows in enumerate(np.split(shuffled, np.cumsum(SIZES)[:-1])):
        pool.add(k, measure(read[rows], wanted[rows]))
    np.testing.assert_allclose(pool.result().products, pooled().products, atol=1e-7)
    np.testing.assert_allclose(solve(pool.result(), 0.01), solve(pooled(), 0.01), atol=1e-5)


def test_order_and_hosts_leave_no_trace():
    one = pooled()
    for order in itertools.permutations(range(3)):
        assert np.array_equal(pooled(order).scatter, one.scatter)
    left, right = MomentSum(WIDTH, OUTPUTS, SIZES), MomentSum(WIDTH, OUTPUTS, SIZES)
    left.add(2, PARTS[2])
    right.add(0, PARTS[0])
    right.add(1, PARTS[1])
    left.merge(right)
    assert np.array_equal(left.result().products, one.products)


def test_those_who_are_missing_leave_the_mean_of_the_others():
    read, wanted = (np.concatenate(parts) for parts in zip(examples(40, 0), examples(17, 2), strict=True))
    np.testing.assert_allclose(pooled((0, 2)).products, measure(read, wanted).products, atol=1e-7)


def test_lengths_do_not_count():
    read, wanted = examples(12, 0)
    longer = measure(7 * read, 3 * wanted)
    np.testing.assert_allclose(longer.scatter, measure(read, wanted).scatter, atol=1e-6)
    assert np.trace(whole(longer)) == pytest.approx(1, abs=1e-6)
    nothing = measure(np.zeros((2, WIDTH)), np.zeros((2, OUTPUTS)))
    assert not nothing.scatter.any() and np.isfinite(solve(nothing, 0.01)).all()


@pytest.mark.parametrize("size", [1, 2])
def test_fewer_examples_than_numbers_are_enough(size: int):
    read, wanted = examples(size, 5)
    weights = solve(measure(read, wanted), 1e-6)
    np.testing.assert_allclose(unit(read) @ weights.T, wanted, atol=1e-3)


def test_lies_are_refused_and_add_nothing():
    pool = MomentSum(WIDTH, OUTPUTS, SIZES)
    turned = np.eye(WIDTH) / WIDTH - np.eye(WIDTH)[::-1] / 2
    indefinite = replace(PARTS[0], scatter=turned[np.triu_indices(WIDTH)].astype(np.float32))
    for lie in (replace(PARTS[0], examples=4000), indefinite):
        with pytest.raises(MessageError) as caught:
            pool.add(0, lie)
        assert caught.value.reason == "unexpected"
    pool.add(0, PARTS[0])
    assert np.array_equal(pool.result().products, pooled((0,)).products)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"scatter": lambda s: s * np.float32(1.2)}, "unexpected"),
        ({"scatter": lambda s: -s}, "unexpected"),
        ({"products": lambda p: p * np.float32(50)}, "unexpected"),
        ({"products": lambda p: p * np.float32(np.nan)}, "non-finite"),
        ({"products": lambda p: p[:2]}, "unexpected"),
    ],
)
def test_what_unit_vectors_cannot_give_is_not_accepted(change, reason):
    honest = moments_of(8, 3, 20)
    (name, how), expect = next(iter(change.items())), expectation(honest)
    sent = encode(replace(honest, **{name: how(getattr(honest, name))}), direction="up", round=4, sender=2)
    with pytest.raises(MessageError) as caught:
        decode(sent.data, expect, 2**20)
    assert caught.value.reason == reason


def test_a_message_says_what_was_measured():
    honest = moments_of(8, 3, 20)
    heard = decode(encode(honest, direction="up", round=4, sender=2).data, expectation(honest), 2**20)
    assert isinstance(heard, Moments) and heard.examples == 20
    assert np.array_equal(heard.scatter, honest.scatter) and np.array_equal(heard.products, honest.products)

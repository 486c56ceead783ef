"""Masked sums: what is left when the masks are gone, and what nobody can see before."""

import copy
import itertools

import numpy as np
import pytest
from scipy import stats

from fedsim.aggregation.masks import Circle, MaskedSum
from fedsim.errors import MessageError
from fedsim.types import MaskedSums

SIZES, NUMBERS = (40, 3, 17, 9), 500
CIRCLE = Circle(seed=1, round=5, contender="ours", members=(0, 1, 2, 3))
PLAIN = np.random.default_rng(0).uniform(-1, 1, (len(SIZES), NUMBERS))


def sent(who: int, circle: Circle = CIRCLE) -> MaskedSums:
    return circle.hide(who, PLAIN[who], SIZES[who] / sum(SIZES), SIZES[who])


def pool(who: tuple[int, ...] = (), circle: Circle = CIRCLE) -> MaskedSum:
    sum = MaskedSum(circle, NUMBERS, SIZES)
    for participant in who:
        sum.add(participant, sent(participant, circle))
    return sum


def test_masks_cancel_in_the_sum_of_all():
    mean = np.average(PLAIN, axis=0, weights=SIZES)
    np.testing.assert_allclose(pool((0, 1, 2, 3)).mean(), mean, atol=1e-8)


@pytest.mark.parametrize("heard", [(0,), (1, 3), (0, 2, 3)])
def test_what_those_who_are_missing_leave_is_taken_off(heard: tuple[int, ...]):
    mean = np.average(PLAIN[list(heard)], axis=0, weights=[SIZES[k] for k in heard])
    np.testing.assert_allclose(pool(heard).mean(), mean, atol=1e-7)


def test_only_those_who_were_asked_hide_each_other():
    asked = Circle(1, 5, "ours", (1, 2))
    mean = np.average(PLAIN[1:3], axis=0, weights=SIZES[1:3])
    np.testing.assert_allclose(pool((1, 2), asked).mean(), mean, atol=1e-7)


def test_order_and_hosts_leave_no_trace():
    one = pool((0, 1, 2, 3)).mean()
    for order in itertools.permutations(range(4)):
        assert np.array_equal(pool(order).mean(), one)
    empty = pool()
    left, right = copy.deepcopy(empty), copy.deepcopy(empty)
    for who, part in ((3, left), (0, right), (2, right), (1, left)):
        part.add(who, sent(who))
    left.merge(right)
    left.merge(empty)
    assert np.array_equal(left.mean(), one)


def test_a_message_alone_is_noise():
    """Whatever it hides, its codes are spread evenly."""
    for hidden in (np.zeros(NUMBERS), PLAIN[1]):
        codes = CIRCLE.hide(1, hidden, 1.0, 3).codes
        assert stats.kstest(codes / 2**32, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(codes.view(np.int32), PLAIN[1])[0, 1]) < 0.12
    for other in (Circle(1, 6, "ours", CIRCLE.members), Circle(1, 5, "theirs", CIRCLE.members)):
        assert not np.array_equal(other.hide(1, PLAIN[1], 1.0, 3).codes, codes)  # no mask serves twice


def test_of_several_messages_only_the_sum_is_known():
    """What two say differently, with the same sum, can't be told from their messages' sum."""
    shift = np.full(NUMBERS, 0.01)
    a = CIRCLE.hide(0, PLAIN[0] + shift, 0.5, 40).codes + CIRCLE.hide(1, PLAIN[1] - shift, 0.5, 3).codes
    b = CIRCLE.hide(0, PLAIN[0], 0.5, 40).codes + CIRCLE.hide(1, PLAIN[1], 0.5, 3).codes
    assert np.abs((a - b).view(np.int32)).max() <= 2  # rounded to 2⁻³⁰


def test_nobody_counts_for_more_than_it_registered_with():
    masked = pool((0,))
    with pytest.raises(MessageError) as caught:
        masked.add(1, MaskedSums(sent(1).codes, 4000))
    assert caught.value.reason == "unexpected"
    assert np.array_equal(masked.mean(), pool((0,)).mean())
    with pytest.raises(ValueError, match="nobody"):
        pool().mean()

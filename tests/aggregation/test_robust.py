"""Defences against independent definitions, and what every one of them owes an honest majority."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import trim_mean

from fedsim.aggregation.robust import (
    RULES,
    TRUSTING,
    Guard,
    RobustPool,
    cronus,
    geometric_median,
    median,
    outliers,
    strangers,
    suspects,
    trimmed_mean,
)
from fedsim.types import Responses
from fedsim.wire.quantise import largest_remainder, to_dense

N, P, K, LEVELS = 6, 2, 5, 60
ALL = [*RULES, *TRUSTING]


def rows(seed: int, sharpness: float = 0.5, number: int = N * P) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(K, sharpness), number).astype(np.float32)


def said(probs: np.ndarray) -> Responses:
    lengths, ids, counts = largest_remainder(probs, LEVELS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Responses(np.arange(N), P, K, LEVELS, offsets, ids, counts)


@pytest.mark.parametrize("measure", [outliers, lambda a, asked=None: strangers(a, 2, asked)])
def test_rows_that_nobody_asks_about_hide_no_liar(measure):
    """On padding all say the same, which looks like agreement."""
    base = rows(0)

    def answers(padded: int) -> list[Responses]:
        every = []
        for who in range(5):
            mine = 0.7 * base + 0.3 * rows(who + 1)
            mine = (1 - mine) / (K - 1) if who > 2 else mine
            dense = np.zeros((N, P + padded, K), np.float32)
            dense[:, :P], dense[:, P:, 0] = mine.reshape(N, P, K), 1
            lengths, ids, counts = largest_remainder(dense.reshape(-1, K), LEVELS)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            every.append(Responses(np.arange(N), P + padded, K, LEVELS, offsets, ids, counts))
        return every

    asked = np.tile(np.arange(P + 8) < P, N)
    plain = measure(answers(0))
    assert plain[3:].min() > 0.3
    np.testing.assert_allclose(measure(answers(8), asked), plain, rtol=1e-6)


def pooled(defence: str, answers: dict[int, Responses], suspected: float = 0.4) -> np.ndarray:
    """[R, K]"""
    pool = RobustPool(np.arange(N), LEVELS, Guard(defence, suspected, 2.0), trust=np.zeros(9))  # type: ignore[arg-type]
    for who, answer in answers.items():
        pool.add(who, answer)
    result = pool.result()
    dense = np.zeros((N * P, K))
    dense[np.repeat(np.arange(N * P), np.diff(result.offsets)), result.ids] = result.probs
    np.testing.assert_allclose(dense.sum(1), 1, rtol=1e-6)
    return dense


def test_suspects_are_the_largest_minority_asked_for():
    assert [suspects(0.4, n) for n in (1, 2, 3, 5, 10, 20)] == [0, 0, 1, 2, 4, 8]
    assert suspects(0.2, 5) == 1
    assert suspects(0.21, 5) == 2
    assert suspects(0.49, 10) == 4  # half of ten are no minority


def test_the_trimmed_mean_and_the_median_are_scipys():
    stack = np.stack([rows(seed).astype(float) for seed in range(7)])
    np.testing.assert_allclose(trimmed_mean(stack, 2), trim_mean(stack, 2 / 7 + 1e-9, axis=0))
    np.testing.assert_allclose(median(stack, 2), trim_mean(stack, 3 / 7 + 1e-9, axis=0))


def test_the_geometric_median_minimises_the_sum_of_distances():
    stack = np.stack([rows(seed, number=3).astype(float) for seed in range(6)])
    found = geometric_median(stack)
    for row in range(3):
        points = stack[:, row]
        best = minimize(
            lambda z, x=points: np.linalg.norm(x - z, axis=1).sum(), points.mean(0), method="BFGS"
        )
        assert np.linalg.norm(points - found[row], axis=1).sum() == pytest.approx(best.fun, rel=1e-4)


def test_cronus_leaves_out_who_lies_farthest_along_the_leading_direction():
    stack = np.stack([rows(seed, number=4).astype(float) for seed in range(7)])
    found = cronus(stack, 2)
    for row in range(4):
        left = stack[:, row]
        for _ in range(2):
            centred = left - left.mean(0)
            _, vectors = np.linalg.eigh(np.cov(centred.T))
            left = np.delete(left, np.abs(centred @ vectors[:, -1]).argmax(), 0)
        np.testing.assert_allclose(found[row], left.mean(0), atol=1e-12)


def test_outliers_are_measured_against_the_usual_distance():
    same = rows(1)
    answers = [said(same), said(0.9 * same + 0.02), said(same), said(np.roll(same, 1, axis=1))]
    found = outliers(answers)
    assert found[[0, 2]].tolist() == [0, 0]
    assert found[3] > 5 * found[1]
    assert outliers([said(same)] * 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("defence", ALL)
def test_identical_participants_are_answered_like_one(defence: str):
    one = said(rows(2))
    together = pooled(defence, dict.fromkeys(range(5), one))
    np.testing.assert_allclose(together, to_dense(one, slice(0, N * P)), atol=1e-6)


@pytest.mark.parametrize("defence", ALL)
def test_the_order_of_arrival_and_of_hosts_changes_no_bit(defence: str):
    answers = {who: said(rows(who)) for who in range(5)}
    expected = pooled(defence, answers)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 37):
        assert np.array_equal(pooled(defence, {who: answers[who] for who in order}), expected)
    first, second = (
        RobustPool(np.arange(N), LEVELS, Guard(defence, 0.4, 2.0), trust=np.zeros(9)) for _ in "ab"
    )  # type: ignore[arg-type]
    for who in (4, 1):
        first.add(who, answers[who])
    for who in (3, 0, 2):
        second.add(who, answers[who])
    second.merge(first)
    dense = pooled(defence, answers)
    assert np.array_equal(second.result().probs, dense[dense > 0].astype(np.float32))


@pytest.mark.parametrize("defence", ALL)
def test_two_of_five_liars_move_it_less_than_the_mean(defence: str):
    honest = rows(3, 0.3)
    near = {who: said(0.8 * honest + 0.2 * rows(10 + who)) for who in range(3)}
    liar = np.eye(K, dtype=np.float32)[honest.argmin(1)]
    attacked = pooled(defence, near | {3: said(liar), 4: said(liar)})
    mean = np.mean([to_dense(a, slice(0, N * P)) for a in (*near.values(), said(liar), said(liar))], axis=0)
    truth = np.mean([to_dense(a, slice(0, N * P)) for a in near.values()], axis=0)
    assert np.abs(attacked - truth).sum() < 0.6 * np.abs(mean - truth).sum()
    assert (attacked.argmax(1) == truth.argmax(1)).mean() >= (mean.argmax(1) == truth.argmax(1)).mean()


def test_guarded_weights_fall_from_round_to_round():
    honest = rows(4, 0.3)
    answers = {who: said(0.9 * honest + 0.1 * rows(20 + who)) for who in range(4)}
    answers[6] = said(rows(30))
    trust = np.zeros(9)
    for _ in range(2):
        before = trust
        pool = RobustPool(np.arange(N), LEVELS, Guard("expguard", 0.4, 2.0), trust=trust)
        for who, answer in answers.items():
            pool.add(who, answer)
        pool.result()
        assert pool.trust is not None
        trust = pool.trust
        assert trust[6] < before[6] - 1
        assert trust[[4, 5, 7, 8]].tolist() == [0, 0, 0, 0]  # who is not there keeps what it had
    assert trust[6] == min(trust)


def test_strangers_are_those_whose_answers_correlate_least():
    """The second best correlation of each of five, from numpy's own, over all numbers of an answer."""
    answers = [said(0.6 * rows(7, 0.3) + 0.4 * rows(40 + who)) for who in range(4)] + [said(rows(50))]
    flat = np.stack([to_dense(a, slice(0, N * P)).ravel() for a in answers])
    second = np.sort(np.corrcoef(flat) - 2 * np.eye(5), axis=1)[:, -2]
    expected = np.maximum(0, 1 - second / np.median(second))
    np.testing.assert_allclose(strangers(answers, 2), expected, atol=1e-6)
    assert strangers(answers, 2).argmax() == 4


def test_agreement_finds_answers_that_are_upside_down_and_distances_do_not():
    """Three that know different classes, two that tell of each class how little they think of it."""
    truth = np.eye(K)[np.random.default_rng(0).integers(0, K, N * P)]
    answers = []
    for who in range(5):
        known = truth * (np.arange(K) != who)  # of the class it does not know it guesses
        sure = known + (1 - known.sum(1, keepdims=True)) / K
        honest = 0.9 * sure + 0.02
        answers.append(said((honest if who < 3 else (1 - honest) / (K - 1)).astype(np.float32)))
    assert strangers(answers, 2)[3:].min() > 1 > 10 * strangers(answers, 2)[:3].max()
    assert outliers(answers)[3:].max() < 0.5


def test_one_participant_is_taken_at_its_word():
    for defence in ALL:
        one = said(rows(5))
        np.testing.assert_allclose(pooled(defence, {2: one}), to_dense(one, slice(0, N * P)), atol=1e-6)

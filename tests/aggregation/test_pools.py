"""Pools of every kind: the properties that all share, and each against its formula in floats."""

import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedsim.aggregation.disagreement import Disagreement
from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.geometric import LogSum
from fedsim.aggregation.responses import BestPool, ResponsePool, as_pooled, recall
from fedsim.aggregation.weights import REACH, Weighing, reach, relevance
from fedsim.types import Responses
from fedsim.wire.quantise import largest_remainder, to_dense

N, P, K, L, G = 14, 2, 6, 60, 3
SAMPLES = np.arange(5, 5 + N)
rng = np.random.default_rng


def said(seed: int, *, present: int = K) -> Responses:
    """What somebody answers, with claims and skills.   present: classes that it names at most."""
    draw = rng(seed)
    probs = np.zeros((N * P, K), np.float32)
    probs[:, :present] = draw.dirichlet(np.full(present, 0.4), N * P) + 1e-9
    lengths, ids, counts = largest_remainder(probs, L)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    claims, skills = draw.exponential(2, N), draw.exponential(1, G)
    return Responses(
        SAMPLES, P, K, L, offsets, ids, counts, claims.astype(np.float32), skills.astype(np.float32)
    )


WEIGHINGS = {
    "uniform": Weighing(),
    "claims": Weighing(1.5, rng(99).exponential(2, N)),
    "scaled": Weighing(4.0, rng(98).normal(0, 30, N), scale=30.0),
    "personal": Weighing(personal=2.0, need=np.array([0.2, 3.0, 1.0])),
    "both, bounded": Weighing(2.0, np.ones(N), 1.0, 1.0, np.ones(G), reach(0.6, 3)),
}
KINDS: dict[str, Callable[[Weighing], Any]] = {
    "probabilities": lambda w: ResponsePool(SAMPLES, CountSum(P, K, L), w, Disagreement(P, K, L)),
    "logits": lambda w: ResponsePool(SAMPLES, LogSum(P, K, L), w, Disagreement(P, K, L)),
    "best": lambda w: BestPool(SAMPLES, P, K, L, w, Disagreement(P, K, L)),
}
EVERY = pytest.mark.parametrize(
    "make", [lambda kind=k, w=w: KINDS[kind](WEIGHINGS[w]) for k in KINDS for w in WEIGHINGS],
    ids=[f"{k}-{w}" for k in KINDS for w in WEIGHINGS],
)  # fmt: skip


def dense(pooled: Pooled) -> np.ndarray:
    rows = np.zeros((len(pooled.offsets) - 1, K))
    rows[np.repeat(np.arange(len(rows)), np.diff(pooled.offsets)), pooled.ids] = pooled.probs
    return rows


def of(answer: Responses) -> np.ndarray:
    return to_dense(answer, slice(None)).astype(np.float64)


def gather(make: Callable[[], Any], answers: dict[int, Responses]) -> Any:
    pool = make()
    for who, answer in answers.items():
        pool.add(who, answer)
    return pool


def bits(pool: Any) -> list[bytes]:
    pooled, apart = pool.result(), pool.disagreement.result()
    columns = (pooled.samples, pooled.offsets, pooled.ids, pooled.probs, *apart)
    return [np.asarray(column).tobytes() for column in columns]


# What all pools share -----------------------------------------------------------------------------


@EVERY
def test_one_opinion_is_that_opinion_whoever_holds_it(make: Callable[[], Any]):
    answer = said(0)
    same = {
        k: replace(answer, claims=said(k).claims, skills=said(k).skills) for k in range(5)
    }  # they know it alike and say different things of themselves
    pool = gather(make, same)
    np.testing.assert_allclose(dense(pool.result()), of(answer), atol=2e-6)
    assert np.array_equal(pool.result().samples, SAMPLES)
    np.testing.assert_allclose(pool.disagreement.result()[1], 0, atol=1e-6)


@EVERY
def test_one_participant_is_heard_as_it_speaks(make: Callable[[], Any]):
    np.testing.assert_allclose(dense(gather(make, {7: said(3)}).result()), of(said(3)), atol=2e-6)


@EVERY
def test_order_and_place_change_no_bit(make: Callable[[], Any]):
    answers = {k: said(k) for k in range(4)}
    expected = bits(gather(make, answers))
    for order in itertools.permutations(range(4)):
        assert bits(gather(make, {k: answers[k] for k in order})) == expected
    for split in (1, 2, 3):  # two hosts pool on their own; their pools travel
        here, there = (
            gather(make, {k: answers[k] for k in part}) for part in (range(split), range(split, 4))
        )
        pool = pickle.loads(pickle.dumps(there))
        pool.merge(here)
        assert bits(pool) == expected
    empty = make()
    empty.merge(gather(make, answers))
    assert bits(empty) == expected


@EVERY
def test_rows_are_distributions_and_absent_classes_stay_absent(make: Callable[[], Any]):
    pooled = gather(make, {k: said(k, present=K - 2) for k in range(3)}).result()
    rows = dense(pooled)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    assert (rows[:, K - 2 :] == 0).all()
    assert (pooled.probs > 0).all()


@EVERY
def test_memory_does_not_grow_with_participants(make: Callable[[], Any]):
    answers = {k: replace(said(k % 3), claims=said(k).claims) for k in range(60)}
    few, many = (len(pickle.dumps(gather(make, {k: answers[k] for k in range(n)}))) for n in (6, 60))
    assert many <= few + 200


@EVERY
def test_an_empty_pool_has_no_rows(make: Callable[[], Any]):
    pool = make()
    assert len(pool.result().samples) == len(pool.disagreement.result()[0]) == 0


# Weights ------------------------------------------------------------------------------------------


def weights(weighing: Weighing, answer: Responses) -> list[float]:
    """w_k(x) sample by sample, from the formula."""
    found = []
    for i in range(N):
        gain = 0.0
        if weighing.reference is not None:
            gain += weighing.confidence * (weighing.reference[i] - answer.claims[i]) / weighing.scale
        if weighing.need is not None:
            total = math.fsum(weighing.need)
            gain += weighing.personal * math.fsum(
                n / total * (n - s) for n, s in zip(weighing.need, answer.skills, strict=True)
            )
        found.append(math.exp(min(max(gain, -weighing.reach), weighing.reach)))
    return found


@pytest.mark.parametrize("weighing", WEIGHINGS.values(), ids=list(WEIGHINGS))
def test_means_are_the_weighted_ones(weighing: Weighing):
    answers = [said(k) for k in range(3)]
    w = np.repeat([weights(weighing, a) for a in answers], P, axis=1)[:, :, None]
    p = np.array([of(a) for a in answers])
    arithmetic = (w * p).sum(0) / w.sum(0)
    pool = gather(lambda: KINDS["probabilities"](weighing), dict(enumerate(answers)))
    np.testing.assert_allclose(dense(pool.result()), arithmetic, atol=5e-4)
    logarithms = (w * np.log(1 + p * L / 0.5)).sum(0) / w.sum(0)
    geometric = np.exp(logarithms) - 1
    pool = gather(lambda: KINDS["logits"](weighing), dict(enumerate(answers)))
    np.testing.assert_allclose(dense(pool.result()), geometric / geometric.sum(1, keepdims=True), atol=5e-4)


def test_on_a_fine_grid_the_mean_of_logits_is_the_softmax_of_their_mean():
    fine, logits = 65535, rng(0).normal(0, 1, (3, N * P, K))
    pool = LogSum(P, K, fine)
    for z in logits:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        lengths, ids, counts = largest_remainder(p.astype(np.float32), fine)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        pool.add(Responses(SAMPLES, P, K, fine, offsets, ids, counts), np.ones(N, np.int64))
    mean = np.exp(logits.mean(0))
    np.testing.assert_allclose(dense(pool.result()), mean / mean.sum(1, keepdims=True), atol=5e-4)


def test_a_sum_of_logarithms_refuses_what_could_leave_its_range():
    pool = LogSum(P, K, L)
    with pytest.raises(ValueError, match="int64"):
        pool.add(said(0), np.full(N, 2**45))
    with pytest.raises(ValueError, match="weights"):
        pool.add(said(0), np.ones((N, K), np.int64))
    assert len(pool.result().samples) == 0


@pytest.mark.parametrize("lie", [-6e4, 6e4])
@pytest.mark.parametrize(("share", "people"), [(0.5, 3), (0.3, 5), (0.9, 2), (0.25, 4)])
def test_nobody_gets_more_than_the_largest_share(share: float, people: int, lie: float):
    weighing = Weighing(50.0, np.full(N, 2.0), personal=50.0, need=np.ones(G), reach=reach(share, people))
    extreme = [
        replace(said(k), claims=np.full(N, c, np.float32), skills=np.full(G, c, np.float32))
        for k, c in enumerate([lie] + [-lie] * (people - 1))
    ]
    w = np.exp([weighing.gains(a) for a in extreme])
    assert (w / w.sum(0)).max() <= share * (1 + 1e-9)
    if lie < 0:  # and the bound is reached
        assert (w[0] / w.sum(0)).min() == pytest.approx(share)


def test_a_share_below_the_mean_can_not_be_the_largest():
    with pytest.raises(ValueError, match="below the mean of 5"):
        reach(0.19, 5)
    assert reach(1.0, 5) == reach(0.5, 1) == REACH


def test_relevance_is_what_the_student_lacks_and_another_has():
    need = np.array([3.0, 0.5, 0.5])
    helpful, elsewhere = np.array([0.5, 2.0, 2.0]), np.array([3.0, 0.0, 0.0])
    assert relevance(need, helpful) > relevance(need, elsewhere) > 0
    assert relevance(need, need) == 0
    assert relevance(np.zeros(3), helpful) == 0  # it lacks nothing
    only = np.array([0.0, 2.0, 0.0])
    assert relevance(only, np.array([9.0, 0.5, 9.0])) == pytest.approx(1.5)


def test_who_claims_nothing_weighs_as_the_student_would():
    weighing = WEIGHINGS["claims"]
    assert np.array_equal(weighing.gains(replace(said(0), claims=None)), np.zeros(N))


# The best teacher, disagreement, memory ------------------------------------------------------------


def test_only_the_best_of_each_sample_counts():
    answers = [said(k) for k in range(4)]
    pool = gather(lambda: KINDS["best"](WEIGHINGS["claims"]), dict(enumerate(answers)))
    best = np.argmin([a.claims for a in answers], axis=0)
    assert len(set(best)) > 1
    expected = np.concatenate([of(answers[k])[i * P : (i + 1) * P] for i, k in enumerate(best)])
    np.testing.assert_allclose(dense(pool.result()), expected, atol=1e-7)


def test_among_equals_it_is_the_lower_participant():
    answers = {k: replace(said(k), claims=np.ones(N, np.float32)) for k in (9, 4, 6)}
    pool = gather(lambda: KINDS["best"](WEIGHINGS["claims"]), answers)
    np.testing.assert_allclose(dense(pool.result()), of(answers[4]), atol=1e-7)


def entropy(p: np.ndarray) -> float:
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def test_disagreement_is_the_jensen_shannon_divergence():
    answers = [said(k) for k in range(3)]
    apart = Disagreement(P, K, L)
    for answer in answers:
        apart.add(answer)
    samples, nats = apart.result()
    p = np.array([of(a) for a in answers])
    rows = [entropy(p[:, r].mean(0)) - np.mean([entropy(q) for q in p[:, r]]) for r in range(N * P)]
    assert np.array_equal(samples, SAMPLES)
    assert nats == pytest.approx(np.reshape(rows, (N, P)).mean(1), abs=1e-5)


def test_those_who_name_different_classes_disagree_the_most():
    apart = Disagreement(1, 3, 4)
    for k in range(3):
        counts, ids = np.full(2, 4, np.int32), np.array([k, 0], np.int32)
        apart.add(Responses(np.array([1, 6]), 1, 3, 4, np.arange(3), ids, counts))
    assert apart.result()[1] == pytest.approx([math.log(3), 0.0], abs=1e-6)


def test_a_round_without_answers_recalls_those_before():
    memory: dict[str, np.ndarray] = {"validation": np.zeros(2)}
    with pytest.raises(ValueError, match="nothing to remember"):
        recall(memory, None, P, K)
    first = recall(memory, as_pooled(said(1)), P, K)
    again = recall(memory, None, P, K)
    assert np.array_equal(dense(again), dense(first))

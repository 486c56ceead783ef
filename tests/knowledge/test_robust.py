"""False prototypes and features of a minority: what they can't do once there is a defence."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fedsim.adversaries import tamper
from fedsim.aggregation.robust import RULES, TRUSTING, Guard
from fedsim.config import Adversary
from fedsim.errors import MessageError
from fedsim.knowledge.features import ConsensusSum, projection, reduced
from fedsim.knowledge.prototypes import PrototypeSum
from fedsim.knowledge.robust import RobustConsensus, RobustPrototypes
from fedsim.types import Features, Prototypes

GROUPS, WIDTH, FAR = 6, 4, 50.0
SIZES = (1000,) * 5
CENTRES = 10 * np.random.default_rng(0).normal(size=(GROUPS, WIDTH))
DEFENCES = [*RULES, *TRUSTING]


def honest(who: int, spread: float = 0.5) -> Prototypes:
    """Centroids near those that all agree on; who + 5 examples of each."""
    rng = np.random.default_rng(1 + who)
    return Prototypes(
        np.arange(GROUPS),
        np.zeros(GROUPS, np.int64),
        (CENTRES + spread * rng.normal(size=CENTRES.shape)).astype(np.float32),
        np.full(GROUPS, who + 5),
        rng.uniform(0.2, 0.8, GROUPS).astype(np.float32),
    )


def false(who: int) -> Prototypes:
    lie = tamper(honest(who), None, Adversary(kind="false_prototypes"), np.random.default_rng(0))
    assert isinstance(lie, Prototypes)
    return replace(lie, counts=np.full(GROUPS, 160))  # and of as many examples as it may claim


def pool_of(defence: str) -> RobustPrototypes:
    return RobustPrototypes(WIDTH, SIZES, FAR, Guard(defence, 0.4, 5.0))  # type: ignore[arg-type]


def pooled(pool: RobustPrototypes | PrototypeSum, liars: tuple[int, ...]) -> Prototypes:
    for who in range(5):
        pool.add(who, false(who) if who in liars else honest(who))
    return pool.result()


@pytest.mark.parametrize("liars", [(3,), (1, 4)])
@pytest.mark.parametrize("defence", DEFENCES)
def test_false_prototypes_do_not_move_the_pooled_ones_far(defence: str, liars: tuple[int, ...]):
    mean = np.mean([honest(who).centroids for who in range(5) if who not in liars], axis=0)
    reach = max(np.linalg.norm(honest(who).centroids - mean, axis=1).max() for who in range(5))
    off = np.linalg.norm(pooled(pool_of(defence), liars).centroids - mean, axis=1)
    assert off.max() <= 2 * reach
    undefended = PrototypeSum(GROUPS, 1, WIDTH, SIZES, FAR)
    assert np.linalg.norm(pooled(undefended, liars).centroids - mean, axis=1).max() > 5 * reach


@pytest.mark.parametrize("defence", ["median", "trimmed_mean"])
@pytest.mark.parametrize("seed", range(5))
def test_numbers_stay_within_those_of_the_honest_whatever_two_of_five_send(defence: str, seed: int):
    rng, pool = np.random.default_rng(seed), pool_of(defence)
    for who in range(5):
        if who < 3:
            pool.add(who, honest(who))
        else:
            wild = rng.choice([-1e30, -20, 0, 20, 1e30], CENTRES.shape).astype(np.float32)
            pool.add(who, replace(honest(who), centroids=wild))
    stack = np.stack([honest(who).centroids for who in range(3)])
    found = pool.result().centroids
    assert (found >= stack.min(0) - 1e-5).all() and (found <= stack.max(0) + 1e-5).all()


def test_what_liars_may_be_a_majority_of_is_left_out():
    """Of group 0 three tell something, of group 1 two, of group 2 nobody."""
    pool = RobustPrototypes(WIDTH, SIZES, FAR, Guard("median", 0.2, 0.0))  # one of five
    for who in range(5):
        kept = [g for g in range(GROUPS) if g > 2 or (g == 0 and who < 3) or (g == 1 and who < 2)]
        pool.add(who, Prototypes(*(column[kept] for column in vars(honest(who)).values())))
    assert pool.result().groups.tolist() == [0, 3, 4, 5]
    assert pool.result().counts.tolist() == [5 + 6 + 7, *[5 + 6 + 7 + 8 + 9] * 3]
    assert len(pool_of("median").result()) == 0


@pytest.mark.parametrize("defence", DEFENCES)
def test_neither_order_nor_hosts_change_a_bit(defence: str):
    expected = pooled(pool_of(defence), (2,))
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 37):
        first, second = pool_of(defence), pool_of(defence)
        for place, who in enumerate(order):
            (first if place < 2 else second).add(who, false(who) if who == 2 else honest(who))
        first.merge(second)
        for a, b in zip(vars(first.result()).values(), vars(expected).values(), strict=True):
            assert a.tobytes() == b.tobytes()


def test_nobody_counts_more_than_it_has():
    pool = RobustPrototypes(WIDTH, (29,), FAR, Guard("median", 0.4, 0.0))
    with pytest.raises(MessageError, match="30 examples, registered 29"):
        pool.add(0, honest(0))


# Features -----------------------------------------------------------------------------------------

SAMPLES = np.arange(60)
COMMON = np.random.default_rng(5).normal(size=(len(SAMPLES), 5))


def view(who: int) -> Features:
    """What all see, in a basis of its own, with noise."""
    rng = np.random.default_rng(50 + who)
    states = COMMON @ rng.normal(size=(5, 9)) + 0.3 * rng.normal(size=(len(SAMPLES), 9))
    return reduced(SAMPLES, [states, states**2], 5)


def turned(who: int) -> Features:
    lie = tamper(view(who), None, Adversary(kind="false_features"), np.random.default_rng(0))
    assert isinstance(lie, Features)
    return lie


def told(embedding: np.ndarray, of: np.ndarray) -> float:
    """Part of the variance of what all see that can be read off an embedding by a linear map."""
    seen = of - of.mean(0)
    return float(((projection(embedding) @ seen) ** 2).sum() / (seen**2).sum())


@pytest.mark.parametrize("liars", [(), (0,), (1, 2)])
def test_false_features_are_left_out(liars: tuple[int, ...]):
    robust, plain = RobustConsensus(2, len(SAMPLES), 0.4), ConsensusSum(2, len(SAMPLES), 5)
    for who in (4, 2, 0, 1, 3):
        for pool in (robust, plain):
            pool.add(who, turned(who) if who in liars else view(who))
    assert not set(robust.trusted(0)) & set(liars) and len(robust.trusted(0)) == 3
    truth = told(robust.result(5)[0], COMMON)
    lies = told(robust.result(5)[0], np.roll(COMMON, 1, axis=0))
    assert truth > 0.9
    assert lies < 0.2
    if len(liars) == 2:
        assert told(plain.result(5)[0], np.roll(COMMON, 1, axis=0)) > 2 * lies


def test_the_consensus_of_those_who_are_trusted_is_the_plain_one_of_them():
    robust = RobustConsensus(2, len(SAMPLES), 0.4)
    others = RobustConsensus(2, len(SAMPLES), 0.4)
    for who in range(5):
        (robust if who % 2 else others).add(who, turned(who) if who == 3 else view(who))
    robust.merge(others)
    plain = ConsensusSum(1, len(SAMPLES), 3)
    for who in robust.trusted(1):
        of_all = view(who)
        plain.add(who, Features(SAMPLES, of_all.codes[1:], of_all.scales[1:]))
    assert robust.result(4)[1].tobytes() == plain.result(4)[0].tobytes()
    assert RobustConsensus(2, len(SAMPLES), 0.4).result(3) == []

"""What attacks are measured by, against enumeration, resampling and the binomial distribution."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedsim.attacks import metrics

rng = np.random.default_rng


def test_auc_is_the_share_of_pairs_in_order():
    members, others = rng(0).integers(6, size=40), rng(1).integers(5, size=30)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(members, others)]
    assert metrics.auc(members, others).value == pytest.approx(np.mean(pairs))


def test_its_interval_is_that_of_resampling():
    members, others = rng(2).normal(0.7, 1, 300), rng(3).normal(0, 1, 200)
    draws = rng(4)
    again = [metrics.auc(draws.choice(members, 300), draws.choice(others, 200)).value for _ in range(1000)]
    low, high = np.quantile(again, [0.025, 0.975])
    found = metrics.auc(members, others)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_intervals_hold_the_truth_as_often_as_they_say():
    draws, truth = rng(5), 0.5
    held = 0
    for _ in range(400):
        found = metrics.auc(draws.normal(size=60), draws.normal(size=80))
        held += found.low <= truth <= found.high
    assert 0.91 < held / 400 < 0.98


@pytest.mark.parametrize(("fpr", "allowed"), [(0.001, 0), (0.01, 1), (0.05, 5)])
def test_true_positives_are_counted_where_few_others_are_above(fpr: float, allowed: int):
    members, others = rng(6).normal(1, 1, 150), rng(7).normal(0, 1, 100)
    best = max(np.mean(members > t) for t in others if (others > t).sum() <= allowed)
    assert metrics.tpr_at(members, others, fpr).value == best


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20), (7, 500)])
def test_proportions_have_the_exact_interval(hits: int, trials: int):
    found = metrics.proportion(hits, trials)
    exact = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_randomised_response_is_as_private_as_it_is_and_no_more():
    """It tells the truth with e^ε ÷ (1 + e^ε): exactly ε-private."""
    epsilon, draws = 1.0, rng(8)
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    members = (draws.random(20_000) < truth).astype(float)
    others = (draws.random(20_000) > truth).astype(float)
    assert not metrics.refutes(members, others, 0.5, epsilon, 0.0)
    assert metrics.refutes(members, others, 0.5, 0.9 * epsilon, 0.0)


def test_either_side_can_refute():
    """A mechanism that sometimes says for sure who is not a member is as little private as one that
    sometimes says who is."""
    rarely = (np.arange(4000) % 20 == 0).astype(float)
    never = np.zeros(4000)
    assert metrics.refutes(rarely, never, 0.5, 1.0, 1e-5)
    assert metrics.refutes(1 - never, 1 - rarely, 0.5, 1.0, 1e-5)
    assert not metrics.refutes(rarely, never, 0.5, 1.0, 0.06)

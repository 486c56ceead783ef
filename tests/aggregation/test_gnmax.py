"""Noisy votes: what they cost by published code, by a maintained accountant and by the definition of Rényi
divergence; and that what is released keeps to it."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedsim.aggregation.gnmax import (
    GNMaxPool,
    GNMaxSettings,
    check_cost,
    epsilon_of,
    favourites,
    label_cost,
)
from fedsim.attacks import metrics
from fedsim.privacy import ORDERS
from fedsim.types import Responses
from fedsim.wire.quantise import largest_remainder

DELTA = 1e-5
CLEAR_TO_UNCLEAR = np.array(
    [[250] + [0] * 9, [200, 30, 10, 5, 5] + [0] * 5, [120, 110, 20] + [0] * 7, [90, 85, 75] + [0] * 7]
)


def at(costs: np.ndarray, order: float) -> float:
    return float(costs[ORDERS.index(order)])


@pytest.mark.parametrize(("queries", "sigma"), [(1, 4.0), (100, 40.0), (3000, 150.0)])
def test_labels_cost_what_an_accountant_says_of_the_gaussian_mechanism(queries: int, sigma: float):
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    # A vote that is changed moves the numbers of votes by a distance of √2.
    costs = rdp.compute_rdp(q=1.0, noise_multiplier=sigma / 2**0.5, steps=queries, orders=list(ORDERS))
    expected, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=costs, delta=DELTA)
    found = label_cost(np.zeros((queries, 10), np.int64), sigma)
    np.testing.assert_allclose(found, costs)
    assert epsilon_of(found, DELTA) == pytest.approx(expected, abs=1e-6)
    # By hand, with the plain conversion: min over α of Qα/σ² + ln(1/δ) ÷ (α − 1).
    plain = queries / sigma**2 + 2 * math.sqrt(queries * math.log(1 / DELTA)) / sigma
    assert 0.75 * plain < epsilon_of(found, DELTA) < plain


@pytest.mark.parametrize(
    ("sigma", "published"),
    [
        (20.0, {2: 0.010000001090147903, 8: 0.040000003742539356, 32: 0.16004510410137204}),
        (40.0, {2: 0.003353546659702315, 8: 0.011056484340586866, 32: 0.04461509166141468}),
    ],
)
def test_clear_votes_cost_what_the_authors_code_says(sigma: float, published: dict[float, float]):
    """The sum over the four rows by `rdp_gaussian` of tensorflow/privacy, research/pate_2018/core.py."""
    found = label_cost(CLEAR_TO_UNCLEAR, sigma, data_dependent=True)
    assert {order: at(found, order) for order in published} == pytest.approx(published, rel=1e-9)


def test_checks_cost_what_the_authors_code_says():
    found = check_cost(CLEAR_TO_UNCLEAR, 150, 30.0, data_dependent=True)
    published = {2: 0.003453699898775244, 8: 0.013486114549789143, 32: 0.04777678534250766}
    assert {order: at(found, order) for order in published} == pytest.approx(published, rel=1e-9)
    assert at(check_cost(CLEAR_TO_UNCLEAR, 150, 30.0), 8) == pytest.approx(4 * 8 / (2 * 30**2))


@pytest.mark.parametrize("sigma", [1.5, 4.0, 10.0])
def test_no_bound_is_below_the_divergence_itself(sigma: float):
    """Two classes: the outcome is a coin, and the divergence of two coins is known."""
    for first, change in itertools.product(range(10, 20), (-1, 1)):
        votes, neighbour = (first, 20 - first), (first + change, 20 - first - change)
        gaps = [(a - b) / (2**0.5 * sigma) for a, b in (votes, neighbour)]
        for order in (1.5, 4.0, 32):
            for dependent in (False, True):  # what depends on the votes is the loss of those who cast them
                bound = at(label_cost(np.array([votes]), sigma, dependent), order)
                assert divergence(*gaps, order) <= bound * (1 + 1e-9)


def divergence(gap: float, other: float, order: float) -> float:
    """Of a coin that falls on its side with chance Φ(gap) from one of Φ(other)."""
    log_p, log_q = (stats.norm.logcdf([x, -x]) for x in (gap, other))
    return float(np.logaddexp.reduce(order * log_p + (1 - order) * log_q)) / (order - 1)


def test_noise_is_solved_for_the_target():
    plain, checked = GNMaxSettings(epsilon=2.0), GNMaxSettings(epsilon=2.0, threshold=0.6, check=2.0)
    votes = np.zeros((500, 10), np.int64)
    assert epsilon_of(label_cost(votes, plain.sigma(500)), DELTA) == pytest.approx(2.0, abs=1e-6)
    sigma = checked.sigma(500)
    both = label_cost(votes, sigma) + check_cost(votes, 3, 2 * sigma)
    assert epsilon_of(both, DELTA) == pytest.approx(2.0, abs=1e-6)
    assert epsilon_of(np.zeros(len(ORDERS)), DELTA) == 0
    assert GNMaxSettings(noise=3.0).sigma(500) == 3


def said(labels: np.ndarray, samples: np.ndarray, classes: int = 4, levels: int = 15) -> Responses:
    """Answers that hold each label likeliest, though others possible."""
    probs = np.full((len(labels), classes), 0.5 / classes, np.float32)
    probs[np.arange(len(labels)), labels] += 0.5
    lengths, ids, counts = largest_remainder(probs, levels)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Responses(samples, 1, classes, levels, offsets, ids, counts)


def pool_of(samples: np.ndarray, round: int = 1, people: int = 6, **settings: float) -> GNMaxPool:
    want = GNMaxSettings(**settings)  # type: ignore[arg-type]
    return GNMaxPool(samples, 4, 15, want, want.sigma(len(samples)), people, seed=0, round=round)


SAMPLES = np.arange(0, 600, 2)
VOTES = np.random.default_rng(0).integers(0, 4, (6, len(SAMPLES)))


def released(pool: GNMaxPool) -> tuple[np.ndarray, np.ndarray]:
    result = pool.result()
    assert (result.probs == 1).all() and (np.diff(result.offsets) == 1).all()
    return result.samples, result.ids


def test_the_favourite_is_the_first_of_the_likeliest():
    labels = np.array([3, 0, 2])
    assert favourites(said(labels, np.arange(3))).tolist() == labels.tolist()
    even = Responses(np.array([0]), 1, 4, 4, np.array([0, 2]), np.array([1, 3], np.int32), np.full(2, 2))
    assert favourites(even).tolist() == [1]


def test_hosts_and_the_order_of_arrival_change_no_bit_and_noise_comes_once():
    answers = [said(v, SAMPLES) for v in VOTES]
    outcomes = []
    for order, hosts in itertools.product(([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1]), (1, 2, 3)):
        pool = pool_of(SAMPLES, noise=1.0)
        for part in range(hosts):
            host = pool_of(SAMPLES, noise=1.0)
            for who in order[part::hosts]:
                host.add(who, answers[who])
            pool.merge(host)
        outcomes.append(released(pool)[1])
    assert all(np.array_equal(outcomes[0], other) for other in outcomes)
    counts = np.stack([np.bincount(votes, minlength=4) for votes in VOTES.T])
    clear = np.sort(counts, 1)[:, -1] - np.sort(counts, 1)[:, -2] >= 4
    right = (outcomes[0] == counts.argmax(1))[clear].mean()
    assert right > 0.9
    later = pool_of(SAMPLES, round=2, noise=1.0)
    later.add(0, answers[0])
    first = pool_of(SAMPLES, noise=1.0)
    first.add(0, answers[0])
    assert not np.array_equal(released(later)[1], released(first)[1])


def test_only_what_enough_agree_on_is_answered_and_charged():
    pool, half = pool_of(SAMPLES, noise=0.01, threshold=0.75), len(SAMPLES) // 2
    for who in range(6):  # all agree on the first half; two sides of three on the second
        labels = np.full(len(SAMPLES), 1)
        labels[half:] = who % 2
        pool.add(who, said(labels, SAMPLES))
    samples, labels = released(pool)
    assert np.array_equal(samples, SAMPLES[:half]) and (labels == 1).all()
    charged = half / 0.01**2 + len(SAMPLES) / (2 * 0.03**2)
    np.testing.assert_allclose(pool.cost, charged * np.array(ORDERS))


def labels_one(present: bool, sigma: float, seed: int) -> np.ndarray:
    """The label of 4,000 samples that six vote on three against three, or four against two."""
    want, samples = GNMaxSettings(noise=sigma), np.arange(4000)
    pool = GNMaxPool(samples, 4, 15, want, sigma, 6, seed=seed, round=1)
    for who in range(6):
        vote = 1 if who < (4 if present else 3) else 2
        pool.add(who, said(np.full(len(samples), vote), samples))
    return (released(pool)[1] == 1).astype(float)


@pytest.mark.parametrize(("factor", "broken"), [(1.0, False), (8.0, True)])
def test_what_is_released_keeps_to_the_bound_and_too_little_noise_does_not(factor: float, broken: bool):
    sigma = 6.0
    epsilon = epsilon_of(label_cost(np.zeros((1, 4)), sigma), DELTA)
    scores = (labels_one(present, sigma / factor, seed) for seed, present in ((1, True), (2, False)))
    assert metrics.refutes(*scores, 0.5, epsilon, DELTA) == broken

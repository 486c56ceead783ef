"""What several models' features agree on, against independent computations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.knowledge.features import (
    RIDGE,
    ConsensusSum,
    LinearMap,
    aligned,
    as_features,
    embedding,
    projection,
    reduced,
)
from fedsim.types import Features

rng = np.random.default_rng
SAMPLES = np.arange(40)


def rotation(width: int, seed: int) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(width, width)))[0]


def hidden(seed: int, width: int = 12) -> np.ndarray:
    """[40, width], directions of unequal strength around a mean that is not zero."""
    scale = np.linspace(3, 0.5, width)
    return rng(seed).normal(size=(len(SAMPLES), width)) * scale + rng(seed + 100).normal(size=width)


def consensus(views: list[np.ndarray], rank: int) -> np.ndarray:
    total = ConsensusSum(1, len(SAMPLES), len(views))
    for view in views:
        total.add(0, reduced(SAMPLES, [view], view.shape[1]))
    return total.result(rank)[0]


def test_maxvar_is_the_dense_decomposition_of_all_views_side_by_side():
    """Σ P_k = Z Zᵀ for Z = [U_k diag(s ÷ √(s² + λ))]: the left singular vectors of Z, no P_k built."""
    views = [hidden(seed, width) for seed, width in enumerate((5, 9, 12))]
    sides = []
    for view in views:
        u, s, _ = np.linalg.svd(view - view.mean(0), full_matrices=False)
        penalty = RIDGE * np.sum(s**2) / len(s)
        sides.append(u * (s / np.sqrt(s**2 + penalty)))
    left, lengths, _ = np.linalg.svd(np.hstack(sides) / np.sqrt(3))
    expected = left[:, :4] * lengths[:4] * np.sqrt(len(SAMPLES))
    found = consensus(views, 4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=0.1)  # steps of int8
    np.testing.assert_allclose(np.var(found, axis=0), lengths[:4] ** 2, atol=1e-3)
    exact = embedding(sum(projection(v) for v in views) / 3, 4)
    np.testing.assert_allclose(exact @ exact.T, expected @ expected.T, atol=1e-9)
    assert (exact[np.abs(exact).argmax(0), np.arange(4)] > 0).all()  # its signs are settled


def test_rotated_copies_of_the_same_features_align_exactly():
    states = hidden(0, 6)
    turned = [states @ rotation(6, seed) * factor for seed, factor in enumerate((1.0, 30.0, 0.01))]
    for copy in turned:
        np.testing.assert_allclose(projection(copy), projection(states), atol=1e-10)
    together, alone = consensus([states, *turned], 6), consensus([states], 6)
    np.testing.assert_allclose(together @ together.T, alone @ alone.T, atol=0.06)  # steps of int8
    agreement = np.var(together, axis=0)
    assert (agreement > 0.8).all() and agreement[0] > 0.99
    # It says of the samples what the features say: nothing is left that they don't predict.
    design = np.column_stack([states, np.ones(len(states))])
    left = together - design @ np.linalg.lstsq(design, together, rcond=None)[0]
    assert np.abs(left).max() < 0.05


def test_what_few_know_counts_for_little():
    shared, own = hidden(0, 4), [hidden(seed, 3) for seed in range(1, 6)]
    views = [np.hstack([shared @ rotation(4, seed), extra]) for seed, extra in enumerate(own)]
    agreement = np.var(consensus(views, 12), axis=0)
    assert agreement[3] > 0.8 and agreement[4] < 0.7  # four directions are everybody's
    assert (np.diff(agreement) <= 1e-12).all()


@pytest.mark.parametrize("people", [1, 2, 7])
def test_identical_participants_are_as_one(people: int):
    one, many = consensus([hidden(3)], 5), consensus([hidden(3)] * people, 5)
    np.testing.assert_allclose(many, one, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)), st.integers(0, 5))
def test_neither_order_nor_who_pools_changes_a_bit(order: list[int], cut: int):
    sent = [reduced(SAMPLES, [hidden(k), hidden(k + 50, 7)], 6) for k in range(5)]
    straight, left, right = (ConsensusSum(2, len(SAMPLES), 5) for _ in range(3))
    for features in sent:
        straight.add(0, features)
    for place, k in enumerate(order):
        (left if place < cut else right).add(k, sent[k])
    left.merge(right)
    for a, b in zip(straight.result(6), left.result(6), strict=True):
        assert a.tobytes() == b.tobytes()


def test_one_without_features_changes_nothing_but_the_agreement():
    nothing = np.full((len(SAMPLES), 3), 7.0)
    with_it, without = consensus([hidden(0), nothing], 4), consensus([hidden(0)], 4)
    np.testing.assert_allclose(with_it * np.sqrt(2), without, atol=1e-6)
    assert not np.any(projection(nothing))


def test_nobody_sent_any():
    assert ConsensusSum(2, 10, 3).result(4) == []


@pytest.mark.parametrize("samples, width", [(40, 12), (3, 12), (40, 2), (2, 2)])
def test_reduced_features_are_the_best_of_their_rank(samples: int, width: int):
    states = hidden(1, width)[:samples]
    features = reduced(np.arange(samples), [states], 4)
    centred = states - states.mean(0)
    right = np.linalg.svd(centred, full_matrices=False)[2]
    columns = min(4, samples, width)
    assert features.codes.shape == (1, samples, columns)
    found, best = features.values(0), centred @ right[:columns].T
    step = np.abs(best).max(0) / 127 + 1e-9
    assert (np.abs(np.abs(found) - np.abs(best)) <= step).all()  # signs are the decomposition's affair


def test_fewer_steps_are_coarser():
    codes = [reduced(SAMPLES, [hidden(0)], 4, steps).codes for steps in (127, 15, 1)]
    assert [np.abs(c).max() for c in codes] == [127, 15, 1]
    fine, coarse = (projection(reduced(SAMPLES, [hidden(0)], 4, n).values(0)) for n in (127, 15))
    off = np.linalg.norm(fine - coarse) / np.linalg.norm(fine)
    assert 0.01 < off < 0.2


def test_an_embedding_travels_number_by_number():
    numbers = rng(0).normal(size=(10, 3)) * [1, 100, 0]
    values = as_features(np.arange(10), [numbers]).values(0)
    assert (np.abs(values - numbers) <= np.abs(numbers).max(0) / 127 / 2 + 1e-6).all()


def test_a_turned_embedding_is_turned_back():
    earlier = hidden(0, 5) - hidden(0, 5).mean(0)
    np.testing.assert_allclose(aligned(earlier @ rotation(5, 1), earlier), earlier, atol=1e-9)
    other = aligned(hidden(2, 5), earlier)
    np.testing.assert_allclose(other @ other.T, hidden(2, 5) @ hidden(2, 5).T)  # only turned


def test_a_linear_map_finds_the_map_that_was_there():
    states, matrix = hidden(0, 6), rng(1).normal(size=(6, 3))
    target = states @ matrix + [5, 0, -5]
    predicted = LinearMap(states, target)(states)
    ridge = RIDGE * np.trace(np.cov(states.T, bias=True)) * len(states) / 6
    centred = states - states.mean(0)
    stacked = np.vstack([centred, np.sqrt(ridge) * np.eye(6)])  # ridge regression as least squares
    rows = np.vstack([target - target.mean(0), np.zeros((6, 3))])
    solution = np.linalg.lstsq(stacked, rows, rcond=None)[0]
    np.testing.assert_allclose(predicted, centred @ solution + target.mean(0))
    assert np.abs(predicted - target).max() < 0.1 * np.abs(target).max()


@pytest.mark.parametrize("scale", [0.0, 1e-38, 3e38])
def test_no_scale_that_a_stranger_can_send_does_harm(scale: float):
    codes = rng(0).integers(-127, 128, (1, 40, 3)).astype(np.int8)
    total = ConsensusSum(1, 40, 2)
    total.add(0, Features(SAMPLES, codes, np.full((1, 3), scale, np.float32)))
    total.add(1, reduced(SAMPLES, [hidden(0)], 3))
    (found,) = total.result(3)
    assert np.isfinite(found).all() and (np.var(found, axis=0) <= 1 + 1e-9).all()

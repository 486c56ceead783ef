"""Prototypes, against scikit-learn and brute force, and in the corners."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedsim.errors import MessageError
from fedsim.knowledge.prototypes import (
    PrototypeSum,
    build,
    complete,
    filled,
    k_means,
    nearest,
    spread_out,
)
from fedsim.types import Prototypes

rng = np.random.default_rng
FAR = 1e3


def blobs(seed: int, groups: int = 3, each: int = 20, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, width] around a centre for each group, in no order, and their groups."""
    draw = rng(seed)
    names = draw.permutation(np.repeat(np.arange(groups), each))
    centres = rng(99).normal(0, 5, (groups, width))
    return centres[names] + draw.normal(size=(len(names), width)), names


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_means_is_that_of_scikit_learn(k: int):
    points, _ = blobs(0, each=40)
    start = points[:k]
    reference = KMeans(k, init=start, n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(points)
    centres, labels = k_means(points, start)
    assert np.array_equal(labels, reference.labels_)
    np.testing.assert_allclose(centres, reference.cluster_centers_, atol=1e-5)


def test_k_means_finds_the_best_of_all_partitions_where_groups_lie_apart():
    points, _ = blobs(1, groups=2, each=4, width=2)
    costs = [
        sum(((points[part == j] - points[part == j].mean(0)) ** 2).sum() for j in (0, 1))
        for part in map(np.array, itertools.product((0, 1), repeat=8))
        if 0 < part.sum() < 8
    ]
    centres, labels = k_means(points, spread_out(points, 2))
    assert ((points - centres[labels]) ** 2).sum() == pytest.approx(min(costs))


def test_a_centre_without_points_stays():
    centres, labels = k_means(np.zeros((3, 2)), np.array([[0.0, 0.0], [9.0, 9.0]]))
    assert np.array_equal(centres, [[0, 0], [9, 9]]) and not labels.any()


def test_starting_points_are_far_apart_and_no_more_than_are_distinct():
    points = np.array([[0.0], [0.1], [10.0], [10.1], [-20.0]])
    assert set(spread_out(points, 3).ravel().round()) == {0, 10, -20}
    assert len(spread_out(np.repeat(points[:2], 5, axis=0), 4)) == 2


def test_one_prototype_a_group_is_its_mean():
    points, groups = blobs(0)
    found = build(points, groups, 1)
    assert np.array_equal(found.groups, [0, 1, 2]) and not found.slots.any()
    assert np.array_equal(found.counts, [20, 20, 20])
    for group, centroid in enumerate(found.centroids):
        np.testing.assert_allclose(centroid, points[groups == group].mean(0), rtol=1e-6)


def test_confidence_is_higher_where_points_lie_close():
    tight, wide = rng(0).normal(0, 0.1, (50, 3)), rng(1).normal(5, 2, (50, 3))
    found = build(np.vstack([tight, wide]), np.repeat([0, 1], 50), 1)
    assert 0 < found.confidence[1] < found.confidence[0] < 1
    points = np.vstack([tight, wide])
    spread = ((tight - tight.mean(0)) ** 2).mean(1).sum()
    variance = np.mean(np.var(points, axis=0))
    assert found.confidence[0] == pytest.approx(1 / (1 + (spread + 5 * variance) / 55 / variance), rel=1e-5)


@pytest.mark.parametrize("slots", [1, 3])
def test_absent_classes_are_left_out_and_one_example_says_little(slots: int):
    points, groups = blobs(0)
    keep = groups != 1
    alone = np.flatnonzero(groups == 2)[1:]
    keep[alone] = False
    found = build(points[keep], groups[keep], slots)
    assert set(found.groups) == {0, 2}
    one = found.groups == 2
    assert found.counts[one].tolist() == [1]
    np.testing.assert_allclose(found.centroids[one], points[(groups == 2) & keep], rtol=1e-6)
    assert 0 < found.confidence[one][0] < found.confidence[~one].max()


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_or_one_point_in_all(number: int):
    found = build(np.ones((number, 3)), np.zeros(number, np.int64), 2)
    assert len(found) == number and np.isfinite(found.confidence).all()


def test_k_means_starts_from_the_coordinators_and_keeps_their_places():
    points, _ = blobs(0)
    first = build(points, np.zeros(len(points), np.int64), 3)
    part = build(points[:20], np.zeros(20, np.int64), 3, first, split=False)
    centres, labels = k_means(points[:20], first.centroids)
    assert np.array_equal(part.slots, np.unique(labels))
    np.testing.assert_allclose(part.centroids, centres[part.slots], rtol=1e-6)
    far = first.centroids[0] + 100
    only = build(np.tile(far, (20, 1)), np.zeros(20, np.int64), 3, first, split=False)
    assert only.counts.tolist() == [20]  # what lies together is one prototype, in the place of the nearest
    assert only.slots[0] == np.argmin(((first.centroids - far) ** 2).sum(1))


def test_groups_that_the_coordinator_does_not_know_get_their_mean():
    points, groups = blobs(0)
    known = build(points[groups == 0], groups[groups == 0], 2)
    found = build(points, groups, 2, known, split=False)
    assert found.groups.tolist() == [0, 0, 1, 2] and found.slots.tolist() == [0, 1, 0, 0]
    split = build(points, groups, 2, known)
    assert split.groups.tolist() == [0, 0, 1, 1, 2, 2]


def pooled(parts: list[Prototypes], sizes: list[int], order: list[int] | None = None) -> Prototypes:
    total = PrototypeSum(5, 2, 4, tuple(sizes), FAR)
    for k in order or range(len(parts)):
        total.add(k, parts[k])
    return total.result()


def test_the_pool_of_all_is_the_prototype_of_all_examples_together():
    sets = [blobs(seed, groups=g, each=n) for seed, (g, n) in enumerate([(3, 4), (2, 9), (1, 1)])]
    parts = [build(p, g, 1) for p, g in sets]
    together = build(np.vstack([p for p, _ in sets]), np.concatenate([g for _, g in sets]), 1)
    found = pooled(parts, [len(p) for p, _ in sets])
    assert np.array_equal(found.groups, together.groups) and np.array_equal(found.counts, together.counts)
    np.testing.assert_allclose(found.centroids, together.centroids, atol=1e-5)
    assert ((found.confidence > 0) & (found.confidence < 1)).all()


@pytest.mark.parametrize("people", [1, 2, 6])
def test_identical_participants_are_as_one(people: int):
    part = build(*blobs(0), 2)
    found = pooled([part] * people, [60] * people)
    assert np.array_equal(found.counts, part.counts * people)
    np.testing.assert_allclose(found.centroids, part.centroids, atol=1e-6)
    np.testing.assert_allclose(found.confidence, part.confidence, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)), st.integers(0, 4))
def test_neither_order_nor_who_pools_changes_a_bit(order: list[int], cut: int):
    parts = [build(*blobs(seed, groups=seed + 1), 2) for seed in range(4)]
    sizes = tuple(len(p.counts) * 60 for p in parts)
    left, right = PrototypeSum(5, 2, 4, sizes, FAR), PrototypeSum(5, 2, 4, sizes, FAR)
    for place, k in enumerate(order):
        (left if place < cut else right).add(k, parts[k])
    left.merge(right)
    straight = pooled(parts, list(sizes))
    for a, b in zip(vars(left.result()).values(), vars(straight).values(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_nobody_counts_more_than_it_has_or_pulls_further_than_all_lie():
    part = build(*blobs(0), 1)
    total = PrototypeSum(5, 2, 4, (60, 59), 10.0)
    with pytest.raises(MessageError, match="60 examples, registered 59"):
        total.add(1, part)
    assert len(total.result()) == 0
    far = Prototypes(part.groups, part.slots, part.centroids * 1e4, part.counts, part.confidence)
    total.add(0, far)
    assert np.abs(total.result().centroids).max() <= 10


def test_gaps_are_filled_and_nothing_is_replaced():
    first, second = build(*blobs(0, groups=2), 1), build(*blobs(1, groups=4), 2)
    both = filled(first, second)
    assert both.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(both.centroids[[0, 2]], first.centroids)
    assert np.array_equal(both.centroids[[1, 3]], second.centroids[[1, 3]])
    assert np.array_equal(vars(filled(second, first))["counts"], second.counts)
    assert complete(both, 2).groups.tolist() == both.groups.tolist()
    assert len(complete(first, 2)) == 0


def test_nearest_is_by_hand():
    points, groups = blobs(0)
    prototypes = build(points, groups, 2)
    expected = [
        prototypes.groups[min(range(6), key=lambda j: np.linalg.norm(p - prototypes.centroids[j]))]
        for p in points
    ]
    assert np.array_equal(nearest(points, prototypes), expected)

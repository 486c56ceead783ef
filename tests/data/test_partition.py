"""What every partitioner promises, then what each is for."""

import numpy as np
import pytest

from fedsim.config import Partition
from fedsim.data.partition import PARTITIONERS, dirichlet, distribution, iid, quantity
from fedsim.errors import ConfigError

GROUPS = np.random.default_rng(7).integers(0, 10, size=2000)
EVERY = pytest.mark.parametrize("kind", sorted(PARTITIONERS))


def parts_of(kind: str, count: int = 8, seed: int = 0, groups: np.ndarray = GROUPS, **settings: float):
    partition = Partition(kind=kind, **settings)
    return PARTITIONERS[kind](groups, count, partition, np.random.default_rng(seed))


def entropy(counts: np.ndarray) -> float:
    """Mean entropy of the rows' mixtures, in nats."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-12)), axis=1).mean())


@EVERY
@pytest.mark.parametrize("alpha", [1e-6, 0.1, 1.0, 1e300])
@pytest.mark.parametrize("count", [1, 8, 100])
def test_disjoint_complete_and_none_below_the_minimum(kind: str, alpha: float, count: int):
    parts = parts_of(kind, count, alpha=alpha, minimum=10)
    assert len(parts) == count
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(GROUPS)))
    assert min(map(len, parts)) >= 10
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)


@EVERY
def test_a_minimum_that_takes_everything(kind: str):
    assert {len(part) for part in parts_of(kind, 200, alpha=0.05, minimum=10)} == {10}


@EVERY
def test_the_seed_decides(kind: str):
    first, again, other = (np.concatenate(parts_of(kind, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@EVERY
def test_too_many_participants_are_told_how_many_there_may_be(kind: str):
    with pytest.raises(ConfigError, match=r"participants\.count: 201 .* at most 200: 2000 private"):
        parts_of(kind, 201, minimum=10)


def test_dirichlet_is_more_skewed_at_a_smaller_alpha():
    skew = [
        np.mean([entropy(distribution(GROUPS, parts_of("dirichlet", seed=s, alpha=a), 10)) for s in range(5)])
        for a in (0.1, 0.5, 10.0, 1e4)
    ]
    assert skew == sorted(skew)
    assert skew[0] < 0.5 * np.log(10)
    assert skew[2] > 0.9 * np.log(10)
    assert skew[3] == pytest.approx(np.log(10), abs=0.01)


def test_dirichlet_shares_have_the_distributions_mean_and_variance():
    # One label, so the sizes are one draw: mean 1/K, variance (K − 1) / (K²(Kα + 1)).
    groups, count, alpha = np.zeros(1000, dtype=np.int64), 4, 0.5
    draws = np.array(
        [
            [len(p) / 1000 for p in dirichlet(groups, count, Partition(alpha=alpha, minimum=1), r)]
            for r in np.random.default_rng(0).spawn(400)
        ]
    )
    assert draws.mean(axis=0) == pytest.approx(np.full(count, 0.25), abs=0.04)
    assert draws.var() == pytest.approx(3 / (16 * (count * alpha + 1)), rel=0.2)


def test_iid_has_equal_sizes_and_every_label_in_proportion():
    parts = iid(GROUPS, 8, Partition(kind="iid"), np.random.default_rng(0))
    assert {len(part) for part in parts} == {250}
    counts = distribution(GROUPS, parts, 10)
    assert np.all(counts.max(axis=0) - counts.min(axis=0) <= 1)


def test_quantity_varies_sizes_but_not_the_mixture():
    parts = quantity(GROUPS, 8, Partition(kind="quantity", alpha=0.5, minimum=50), np.random.default_rng(0))
    sizes = np.array([len(part) for part in parts])
    assert sizes.max() > 4 * sizes.min()
    assert entropy(distribution(GROUPS, parts, 10)) > 0.95 * np.log(10)


def test_distribution_counts_every_example_once():
    counts = distribution(GROUPS, parts_of("dirichlet"), 12)
    assert counts.shape == (8, 12)
    assert counts.dtype == np.int64
    assert np.array_equal(counts.sum(axis=0), np.bincount(GROUPS, minlength=12))

import numpy as np
import pytest

from fedsim.config import Split
from fedsim.data.splits import split, stratify
from fedsim.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_parts_are_disjoint_and_complete():
    parts = split(np.repeat([0, 1, 2], [50, 30, 20]), Split(), rng())
    assert list(parts) == ["test", "validation", "proxy", "private"]
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(100))
    assert all(np.all(np.diff(part) > 0) for part in parts.values())


@pytest.mark.parametrize("seed", range(5))
def test_every_part_holds_its_fraction_of_the_whole_and_of_every_group(seed: int):
    groups = rng(seed).integers(0, 7, size=1000)
    fractions = [0.1, 0.05, 0.2, 0.65]
    for part, fraction in zip(stratify(groups, fractions, rng(seed)), fractions, strict=True):
        assert abs(len(part) - fraction * 1000) <= 1
        for group in range(7):
            expected = fraction * np.sum(groups == group)
            assert abs(np.sum(groups[part] == group) - expected) <= 2


def test_many_tiny_groups_still_fill_a_small_part():
    # Rounding 0.05 of two examples, group by group, would leave it empty.
    parts = split(np.repeat(np.arange(50), 2), Split(), rng())
    assert len(parts["validation"]) == 5


def test_the_seed_decides():
    groups = np.zeros(200, dtype=np.int64)
    first, again, other = (split(groups, Split(), rng(s))["proxy"] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (Split(test=0.0), "data.split.test"),
        (Split(validation=0.01), "data.split.validation"),
        (Split(proxy=0.01), "data.split.proxy"),
        (Split(test=0.4, validation=0.3, proxy=0.2999), "data.split"),
    ],
)
def test_an_empty_part_is_an_error_that_names_it(settings: Split, field: str):
    with pytest.raises(ConfigError, match="only 20 examples") as caught:
        split(np.zeros(20, dtype=np.int64), settings, rng())
    assert caught.value.field == field

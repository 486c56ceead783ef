"""Quantisers: on the grid, nearest in L1 (CFD) or unbiased (RS-KD), the same for any chunking."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.types import Responses
from fedsim.wire import quantise
from fedsim.wire.quantise import (
    QUANTISERS,
    Quantised,
    largest_remainder,
    sample,
    systematic,
    to_dense,
    top_k,
)

RANDOM = ("sample", "systematic")


def rows_of(classes: int, size: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (size, classes))
    probs: np.ndarray = np.exp(logits).astype(np.float32)
    probs /= probs.sum(1, keepdims=True)
    return probs


def dense(quantised: Quantised, classes: int) -> np.ndarray:
    lengths, ids, counts = quantised
    result = np.zeros((len(lengths), classes), np.int64)
    result[np.repeat(np.arange(len(lengths)), lengths), ids] = counts
    return result


probabilities = st.integers(1, 12).flatmap(
    lambda classes: st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=classes, max_size=classes).filter(
            lambda r: sum(r) > 1e-3
        ),
        min_size=1,
        max_size=8,
    )
)


@pytest.mark.parametrize("name", sorted(QUANTISERS))
@settings(deadline=None)
@given(rows=probabilities, levels=st.integers(1, 300), seed=st.integers(0, 100))
def test_rows_are_on_the_simplex_grid(name: str, rows: list[list[float]], levels: int, seed: int) -> None:
    probs = np.array(rows, np.float32)
    lengths, ids, counts = QUANTISERS[name](probs, levels, np.random.default_rng(seed))
    assert lengths.dtype == ids.dtype == counts.dtype == np.int32
    assert lengths.sum() == len(ids) == len(counts)
    assert lengths.min() >= 1
    assert counts.min() >= 1
    assert (dense((lengths, ids, counts), probs.shape[1]).sum(1) == levels).all()
    for part in np.split(ids, np.cumsum(lengths)[:-1]):
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("name", sorted(QUANTISERS))
@pytest.mark.parametrize("levels", [1, 7, 1_000])
def test_classes_of_probability_zero_never_appear(name: str, levels: int) -> None:
    probs = rows_of(20, 3_000)
    probs[:, [0, 7, 8, 19]] = 0
    counts = dense(QUANTISERS[name](probs, levels, np.random.default_rng(0)), 20)
    assert not counts[:, [0, 7, 8, 19]].any()


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_largest_remainder_is_the_l1_optimum(classes: int, bits: int) -> None:
    """Against every grid point there is."""
    levels = 2**bits - 1
    probs = np.concatenate([rows_of(classes, 200), np.eye(classes, dtype=np.float32)])
    grid = np.array([g for g in itertools.product(range(levels + 1), repeat=classes) if sum(g) == levels])
    exact = probs / probs.sum(1, keepdims=True, dtype=np.float64)
    best = np.abs(grid / levels - exact[:, None]).sum(2).min(1)
    found = np.abs(dense(largest_remainder(probs, levels), classes) / levels - exact).sum(1)
    np.testing.assert_allclose(found, best, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 1_024])
def test_one_bit_is_argmax(classes: int) -> None:
    probs = rows_of(classes, 500)
    lengths, ids, counts = largest_remainder(probs, 1)
    assert (lengths == 1).all()
    assert (counts == 1).all()
    assert np.array_equal(ids, probs.argmax(1))


def test_ties_go_to_the_lower_id() -> None:
    assert dense(largest_remainder(np.full((1, 4), 0.25, np.float32), 1), 4).tolist() == [[1, 0, 0, 0]]
    assert dense(largest_remainder(np.full((1, 4), 0.25, np.float32), 7), 4).tolist() == [[2, 2, 2, 1]]
    wide = np.full((3, 1_024), 1 / 1_024, np.float32)
    assert np.array_equal(largest_remainder(wide, 31)[1].reshape(3, 31), np.tile(np.arange(31), (3, 1)))


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_fine_levels_are_the_identity(name: str) -> None:
    probs = rows_of(8, 20)
    levels = 2**16 if name == "sample" else 2**20
    found = dense(QUANTISERS[name](probs, levels, np.random.default_rng(0)), 8) / levels
    tolerance = 5 / np.sqrt(levels) if name == "sample" else 2 / levels
    assert np.abs(found - probs / probs.sum(1, keepdims=True)).max() < tolerance


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("levels", [1, 5, 31])
def test_random_quantisers_are_unbiased(name: str, levels: int) -> None:
    """E[counts / L] = p within five standard errors, which top-k and the nearest point miss."""
    row = rows_of(16, 1, seed=3)[0]
    repeats = 40_000
    probs = np.tile(row, (repeats, 1))
    counts = dense(QUANTISERS[name](probs, levels, np.random.default_rng(5)), 16)
    error = np.abs(counts.mean(0) / levels - row)
    bound = 5 * np.sqrt(row * (1 - row) / levels / repeats)
    assert (error <= bound).all()

    kept = np.where(row >= np.sort(row)[-4], row, 0)
    assert (np.abs(kept / kept.sum() - row) > bound).any()
    nearest = dense(largest_remainder(row[None], levels), 16)[0] / levels
    assert (np.abs(nearest - row) > bound).any()


def test_sample_is_multinomial() -> None:
    """Variance and covariance of counts: L·p·(1 − p) and −L·p·q, as for draws with replacement."""
    row = np.array([0.5, 0.3, 0.2, 0.0], np.float32)
    levels, repeats = 10, 100_000
    counts = dense(sample(np.tile(row, (repeats, 1)), levels, np.random.default_rng(2)), 4)
    expected = levels * (np.diag(row) - np.outer(row, row))
    np.testing.assert_allclose(np.cov(counts.T), expected, atol=0.04)


def test_systematic_counts_are_within_one_of_the_expectation() -> None:
    probs = rows_of(50, 2_000)
    counts = dense(systematic(probs, 31, np.random.default_rng(0)), 50)
    assert np.abs(counts - 31 * probs.astype(np.float64)).max() < 1 + 1e-4


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_the_size_of_the_chunks_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probs = rows_of(30, 500)
    whole = QUANTISERS[name](probs, 31, np.random.default_rng(0))
    monkeypatch.setattr(quantise, "_CHUNK", 70)
    for a, b in zip(whole, QUANTISERS[name](probs, 31, np.random.default_rng(0)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_the_scale_of_a_row_does_not_matter(name: str) -> None:
    probs = rows_of(30, 100)
    whole = QUANTISERS[name](probs, 31, np.random.default_rng(0))
    scaled = QUANTISERS[name](probs * np.float32(4), 31, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(whole, scaled, strict=True))


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_what_is_no_probability_is_refused(name: str) -> None:
    rng = np.random.default_rng(0)
    for bad in ([[0.5, np.nan]], [[0.5, np.inf]], [[1.5, -0.5]], [[0.0, 0.0]]):
        with pytest.raises(ValueError, match="no probabilities"):
            QUANTISERS[name](np.array(bad, np.float32), 3, rng)
    with pytest.raises(ValueError, match="levels"):
        QUANTISERS[name](np.ones((1, 2), np.float32), 0, rng)
    assert all(len(part) == 0 for part in QUANTISERS[name](np.zeros((0, 5), np.float32), 3, rng))


def test_to_dense_reads_any_window() -> None:
    probs = rows_of(9, 12)
    lengths, ids, counts = largest_remainder(probs, 31)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    responses = Responses(np.array([2, 3, 8]), 4, 9, 31, offsets, ids, counts)
    whole = to_dense(responses, slice(None))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, dense((lengths, ids, counts), 9).astype(np.float32) / np.float32(31))
    for window in (slice(0, 5), slice(5, 12), slice(11, 99), slice(12, 12), slice(-2, None), slice(7, 3)):
        np.testing.assert_array_equal(to_dense(responses, window), whole[window])
    with pytest.raises(ValueError, match="contiguous"):
        to_dense(responses, slice(0, 8, 2))


def test_top_k_names_the_largest_and_spreads_the_rest() -> None:
    """Against a loop over sorted rows: within a quantum everywhere, and exact in the limit."""
    probs = rows_of(40, 200, seed=4)
    exact = probs.astype(np.float64) / probs.sum(1, keepdims=True, dtype=np.float64)
    for levels, tolerance in ((63, 1 / 63), (2**20, 3e-6)):
        lengths, ids, counts = top_k(probs, levels, top=5)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        sent = Responses(np.arange(200), 1, 40, levels, offsets, ids, counts, tail=True)
        assert (sent.tails >= 0).all()
        for row, found in zip(exact, to_dense(sent, slice(None)), strict=True):
            named = sorted(range(40), key=lambda c: (-row[c], c))[:5]
            wanted = np.full(40, (1 - row[named].sum()) / 35)
            wanted[named] = row[named]
            assert np.abs(found - wanted).max() < tolerance
            np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)


def test_top_k_of_equal_classes_takes_the_lower_ids() -> None:
    probs = np.array([[1, 4, 2, 2, 2, 2, 1, 1]], np.float32)
    lengths, ids, counts = top_k(probs, 100, top=3)
    assert (lengths.tolist(), ids.tolist()) == ([3], [1, 2, 3])
    # The rest, 7 of 15, is 9.33 of 100 for each: what the named ones have above that is sent.
    assert counts.tolist() == [17, 4, 4]


def test_top_k_of_an_even_row_still_names_a_class() -> None:
    lengths, ids, counts = top_k(np.ones((2, 50), np.float32), 7, top=3)
    assert (lengths.tolist(), ids.tolist(), counts.tolist()) == ([1, 1], [0, 0], [1, 1])


def test_with_all_classes_named_top_k_is_the_nearest_grid_point() -> None:
    probs = rows_of(12, 100)
    for a, b in zip(top_k(probs, 31), largest_remainder(probs, 31), strict=True):
        assert np.array_equal(a, b)

"""Scores of generated text against their definitions."""

import numpy as np
import pytest

from fedsim.evaluation import distinct, excess_error, rouge_l


def test_rouge_l_is_the_f_of_the_longest_common_subsequence():
    # "the cat here" is common to both: 3 of 3 words written, 3 of 5 expected.
    assert rouge_l(["the cat here"], ["the cat is right here"]) == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert rouge_l(["a b", "x"], ["a b", "y"]) == pytest.approx(0.5)


def test_distinct_counts_different_n_grams_over_all_texts():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) == 0.0


def test_excess_error_compares_own_beginnings_with_the_teachers():
    # The student errs twice as much behind its own words from the fifth token on.
    offsets, own = np.array([0, 8, 16, 20]), np.array([True, False, False])
    error = np.concatenate([[1.0] * 4, [2.0] * 4, [1.0] * 8, [1.0] * 4])
    assert excess_error(error, offsets, own) == pytest.approx({"excess_error_4": 0, "excess_error_8": 0.5})
    assert excess_error(error, offsets, np.ones(3, bool)) == {}

"""Scores of generated text against their definitions."""

import pytest

from fedsim.evaluation import distinct, rouge_l


def test_rouge_l_is_the_f_of_the_longest_common_subsequence():
    # "the cat here" is common to both: 3 of 3 words written, 3 of 5 expected.
    assert rouge_l(["the cat here"], ["the cat is right here"]) == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert rouge_l(["a b", "x"], ["a b", "y"]) == pytest.approx(0.5)


def test_distinct_counts_different_n_grams_over_all_texts():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) == 0.0

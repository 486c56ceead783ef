"""Scores of generated text against their definitions."""

import numpy as np
import pytest

from fedsim.evaluation.generated import _writable, bleu, distinct, excess_error, rouge_l


def test_rouge_l_is_the_f_of_the_longest_common_subsequence():
    # "the cat here" is common to both: 3 of 3 words written, 3 of 5 expected.
    assert rouge_l(["the cat here"], ["the cat is right here"]) == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert rouge_l(["a b", "x"], ["a b", "y"]) == pytest.approx(0.5)


def test_a_reference_ends_where_its_text_does():
    reference, end = np.array([5, 6, 0, 7, 8]), 0  # packed windows go on with the next document
    assert _writable(reference, end).tolist() == [5, 6, 0]
    assert _writable(reference[3:], end).tolist() == [7, 8]


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


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 threes, 1 of 3 fours; as long as the reference.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(["the cat is on a mat"], ["the cat is on the mat"]) == pytest.approx(expected)
    # Half as long: exp(1 − 8/4), all n-grams right.
    assert bleu(["a b c d"], ["a b c d e f g h"]) == pytest.approx(100 * np.exp(-1))
    # Counts are of all pairs together, not a mean of each pair's own.
    assert bleu(["a b c d e", "x y z q"], ["a b c d e", "a b c d"]) == pytest.approx(
        100 * (5 / 9 * 4 / 7 * 3 / 5 * 2 / 3) ** 0.25
    )

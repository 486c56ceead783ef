"""Intervals and comparisons against scipy's, and what is said of a single run."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_few_values_have_students_interval(n, confidence):
    values = RNG.normal(40, 3, n)
    found = statistics.estimate(values, confidence=confidence)
    expected = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.n, found.interval) == (n, "t") and found.mean == pytest.approx(values.mean())


def test_many_values_have_a_bootstrap_interval():
    values = RNG.exponential(2.0, 40)
    found = statistics.estimate(values)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.interval == "bootstrap"
    # Two bootstraps agree as far as their draws do: a few hundredths of the width.
    width = expected.high - expected.low
    assert abs(found.low - expected.low) < 0.04 * width and abs(found.high - expected.high) < 0.04 * width
    assert found == statistics.estimate(values)  # the same draws every time


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    held = [statistics.estimate(rng.normal(0, 1, 4), confidence=0.9) for _ in range(2000)]
    share = np.mean([e.low <= 0 <= e.high for e in held])
    assert abs(share - 0.9) < 0.025  # over three standard errors


def test_one_run_is_called_one_run():
    found = statistics.estimate([48.0])
    assert (found.mean, found.n, found.interval) == (48.0, 1, "one run")
    assert math.isnan(found.low) and math.isnan(found.high)
    assert statistics.estimate([math.nan]).interval == "no run"
    with pytest.raises(ValueError, match="confidence"):
        statistics.estimate([1, 2], confidence=95)


def table(**scores):
    """contender → its scores under seeds 0, 1, 2, …"""
    rows = [
        {"run": f"r{seed}", "setting": "", "contender": name, "seed": seed, "score": score,
         "higher_is_better": False}
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_means_are_per_setting_and_contender():
    frame = table(a=[1.0, 3.0], b=[5.0])
    found = statistics.means(frame).set_index("contender")
    assert found.loc["a", ["mean", "n", "interval"]].tolist() == [2.0, 2, "t"]
    assert found.loc["a", "sd"] == pytest.approx(math.sqrt(2))
    assert found.loc["b", ["mean", "n", "interval"]].tolist() == [5.0, 1, "one run"]
    assert np.isnan(found.loc["b", "low"])


def test_a_run_that_was_repeated_is_no_further_evidence():
    frame = table(a=[1.0, 3.0])
    twice = pd.concat([frame, frame.assign(run="again")])
    assert statistics.means(twice).equals(statistics.means(frame))
    # On other threads, say, it comes out a little different: still of that seed.
    other = pd.concat(
        [frame.assign(score=np.nan), frame, frame.assign(run="again", score=frame["score"] + 1)]
    )
    assert statistics.means(other).equals(statistics.means(frame))


def test_pairs_are_compared_by_seed():
    a, b = RNG.normal(40, 5, 8), RNG.normal(0, 0.5, 8)
    frame = table(a=a, b=a + 1 + b)
    found = statistics.compare(frame, "a", "b")
    expected = stats.ttest_rel(a, a + 1 + b)
    low, high = expected.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    # Lower is better: the first wins where its score is below.
    assert found.wins == int((a < a + 1 + b).sum()) and found.ties == 0
    exact = stats.permutation_test((a, a + 1 + b), lambda x, y: np.mean(x - y), permutation_type="samples",
                                   n_resamples=np.inf)  # fmt: skip
    assert found.p == pytest.approx(exact.pvalue)


def test_scores_of_two_metrics_are_not_compared():
    text = table(a=[30.0, 31.0], b=[40.0, 40.0]).assign(setting="text", metric="perplexity")
    images = table(a=[0.9, 0.9], b=[0.8, 0.8]).assign(setting="image", metric="accuracy")
    both = pd.concat([text, images.assign(higher_is_better=True)])
    with pytest.raises(ValueError, match=r"one metric.*accuracy, perplexity"):
        statistics.compare(both, "a", "b")
    assert statistics.compare(both[both["metric"] == "accuracy"], "a", "b").wins == 2


def test_fewer_bytes_win_whatever_the_score_is():
    frame = table(a=[0.9, 0.9], b=[0.8, 0.8]).assign(higher_is_better=True)
    frame = frame.assign(bytes_up=[10, 10, 900, 900], ratio_to_centralized=frame["score"])
    assert statistics.compare(frame, "a", "b", value="bytes_up").wins == 2
    assert statistics.compare(frame, "a", "b", value="ratio_to_centralized").wins == 2


def test_many_pairs_are_tested_by_drawn_signs():
    d = RNG.normal(0.3, 1, 30)
    found = statistics.compare(table(a=d, b=np.zeros(30)), "a", "b")
    exact = stats.permutation_test(
        (d, np.zeros(30)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    )
    assert found.p == pytest.approx(exact.pvalue, abs=0.02)


def test_only_runs_with_a_partner_count():
    frame = pd.concat([table(a=[1.0, 2.0, 3.0], b=[2.0, 2.0])])
    found = statistics.comparisons(frame, "a")
    assert found[["contender", "difference", "n", "wins", "ties"]].to_numpy().tolist() == [
        ["b", -0.5, 2, 1, 1]
    ]
    with pytest.raises(ValueError, match="no runs of a and c with the same setting and seed"):
        statistics.compare(frame, "a", "c")

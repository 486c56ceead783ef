"""LiRA where everything is known: scores that are normal."""

import numpy as np
import pytest
from scipy.stats import norm

from fedsim.attacks import lira, metrics

rng = np.random.default_rng


def world(distance: float, n: int = 40_000, shadows: int = 64):
    """Examples of different difficulty, whose scores move by `distance` deviations where they are in."""
    draws = rng(0)
    hard = draws.normal(0, 5, n)
    inside = np.zeros((shadows, n), bool)
    inside[: shadows // 2] = True
    inside = draws.permuted(inside, axis=0)
    scores = hard + 2.0 * (draws.normal(size=(shadows, n)) + distance * inside)
    member = np.arange(n) < n // 2
    target = hard + 2.0 * (draws.normal(size=n) + distance * member)
    return target, scores, inside, member


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("attack", [lira.online, lira.offline])
def test_it_reaches_the_power_of_the_likelihood_ratio(distance: float, attack):
    target, shadows, inside, member = world(distance)
    found = attack(target, shadows, inside)
    for fpr in (0.001, 0.01, 0.1):
        # μ of an example is known to ±σ/√32, which blunts the attack a little.
        best = norm.cdf(norm.ppf(fpr) + distance)
        assert metrics.tpr_at(found[member], found[~member], fpr).value == pytest.approx(best, abs=0.02)
    blunt = metrics.auc(target[member], target[~member]).value
    assert metrics.auc(found[member], found[~member]).value > blunt + 0.05


def test_the_online_score_is_the_log_likelihood_ratio():
    scores = np.array([[1.0, 2.0], [3.0, 2.5], [-1.0, 0.0], [-2.0, 0.5]])
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    # Within: means 2 and 2.25, squares 2 and 0.125 with two degrees of freedom; without: −1.5, 0.25.
    sigma_in, sigma_out = (2.125 / 2) ** 0.5, (0.625 / 2) ** 0.5
    target = np.array([0.3, 1.0])
    expected = norm.logpdf(target, [2, 2.25], sigma_in) - norm.logpdf(target, [-1.5, 0.25], sigma_out)
    np.testing.assert_allclose(lira.online(target, scores, inside), expected)
    np.testing.assert_allclose(lira.offline(target, scores, inside), (target - [-1.5, 0.25]) / sigma_out)


def test_offline_does_not_look_at_shadows_that_saw_the_example():
    target, shadows, inside, _ = world(1.0, n=50, shadows=8)
    changed = np.where(inside, 1e6, shadows)
    np.testing.assert_array_equal(
        lira.offline(target, shadows, inside), lira.offline(target, changed, inside)
    )


def test_an_example_needs_shadows_of_both_kinds():
    with pytest.raises(ValueError, match="some that did not"):
        lira.online(np.zeros(2), np.zeros((3, 2)), np.ones((3, 2), bool))


def test_scores_that_do_not_vary_are_no_division_by_zero():
    inside = np.array([[True], [False]])
    assert np.isfinite(lira.online(np.zeros(1), np.zeros((2, 1)), inside)).all()

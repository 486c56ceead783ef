"""Label-distribution inference, where the truth is known: answers of exact classifiers with given priors."""

import numpy as np
import pytest

from fedsim.attacks.labels import correlations, errors, estimates
from fedsim.types import Responses
from fedsim.wire.quantise import largest_remainder

N, K, LEVELS = 400, 6, 1000


def said(probs_NK: np.ndarray) -> Responses:
    lengths, ids, counts = largest_remainder(probs_NK.astype(np.float32), LEVELS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Responses(np.arange(len(probs_NK)), 1, K, LEVELS, offsets, ids, counts)


def bayes(priors_nK: np.ndarray, evidence: float) -> list[Responses]:
    """p_k(y | x) ∝ p(x | y) π_k(y) of a normal x around each of K corners, `evidence` apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, N)
    x = evidence * np.eye(K)[labels] + rng.normal(size=(N, K))
    likelihood = np.exp(evidence * x - evidence**2 / 2)
    posterior = likelihood[None] * priors_nK[:, None]
    return [said(p / p.sum(1, keepdims=True)) for p in posterior]


PRIORS = np.random.default_rng(1).dirichlet(np.full(K, 1.0), 4)


def test_answers_that_are_nothing_but_priors_give_them_away():
    found = estimates(bayes(PRIORS, 0.0))
    for name in ("answers", "ratio"):
        np.testing.assert_allclose(found[name], PRIORS, atol=2 / LEVELS)
    np.testing.assert_allclose(found["guess"], np.broadcast_to(PRIORS.mean(0), PRIORS.shape), atol=2 / LEVELS)
    assert errors(found["answers"], PRIORS).max() < 0.01 < errors(found["guess"], PRIORS).min()
    assert correlations(found["answers"], PRIORS).min() > 0.99


@pytest.mark.parametrize("evidence", [0.5, 1.0, 2.0])
def test_the_better_a_model_knows_its_samples_the_less_it_tells(evidence: float):
    found = estimates(bayes(PRIORS, evidence))
    by = {name: errors(values, PRIORS).mean() for name, values in found.items()}
    assert by["ratio"] < by["guess"] and by["answers"] < by["guess"]
    clearer = estimates(bayes(PRIORS, 2 * evidence))
    assert errors(clearer["answers"], PRIORS).mean() > by["answers"]
    assert correlations(found["ratio"], PRIORS).min() > 0.5


def test_of_equal_institutions_nothing_but_the_guess_is_told():
    found = estimates(bayes(np.repeat(PRIORS[:1], 3, axis=0), 1.0))
    np.testing.assert_allclose(found["answers"], found["guess"], atol=1e-9)


def test_errors_by_hand():
    found, truth = (
        np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]),
        np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]),
    )
    assert errors(found, truth).tolist() == [0.25, 1.0]
    assert correlations(found, truth)[1] == pytest.approx(-0.5)
    assert correlations(np.full((1, 3), 1 / 3), truth[:1]).tolist() == [0]

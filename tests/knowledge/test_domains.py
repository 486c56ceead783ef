"""Whose answers a sample is taught by."""

import numpy as np

from fedsim.knowledge.domains import SIZE, DomainSum, code

SAMPLES = np.array([1, 4, 5, 9])


def test_a_domain_is_the_weighted_mean_of_codes():
    weights = np.random.default_rng(0).integers(0, 100, (3, 4))
    weights[:, 3] = 0
    total, part = DomainSum(7, SAMPLES), DomainSum(7, SAMPLES)
    for k in (2, 0):
        total.add(k, SAMPLES, weights[k])
    part.add(1, SAMPLES[1:], weights[1, 1:])
    total.merge(part)
    weights[1, 0] = 0
    codes = np.stack([code(7, k) for k in range(3)])
    expected = [np.average(codes, axis=0, weights=w) if w.any() else np.zeros(SIZE) for w in weights.T]
    np.testing.assert_allclose(total.result(), expected, atol=1e-6)


def test_codes_are_signs_of_the_seed_and_differ():
    codes = np.stack([code(0, k) for k in range(20)])
    assert set(np.unique(codes)) == {-1, 1}
    assert len(np.unique(codes, axis=0)) > 15
    assert np.array_equal(code(0, 3), codes[3]) and not np.array_equal(code(1, 3), codes[3])


def test_of_one_participant_it_is_the_code():
    total = DomainSum(0, SAMPLES)
    total.add(5, SAMPLES, np.full(4, 2**16))
    assert np.array_equal(total.result(), np.tile(code(0, 5), (4, 1)))

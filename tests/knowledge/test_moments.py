"""The last layer in closed form, against scikit-learn, and what examples can have."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fedsim.knowledge.moments import Moments, measure, of_vector, size, solve, unit

WIDTH, OUTPUTS = 6, 4


def examples(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, OUTPUTS, number)
    read = rng.normal(0, 1, (number, WIDTH)).astype(np.float32)
    read[:, :OUTPUTS] += np.eye(OUTPUTS)[labels]
    wanted = np.eye(OUTPUTS, dtype=np.float32)[labels]
    return read * rng.uniform(0.1, 9, (number, 1)).astype(np.float32), wanted


def test_it_is_ridge_regression_on_examples_of_length_one():
    read, wanted = examples(60, 0)
    for ridge in (0.01, 1.0):
        penalty = ridge / WIDTH * len(read)
        known = Ridge(alpha=penalty, fit_intercept=False).fit(unit(read), wanted.astype(np.float64))
        np.testing.assert_allclose(solve(measure(read, wanted), ridge), known.coef_, atol=1e-9)


def test_the_mean_of_parts_by_their_numbers_is_that_of_all():
    read, wanted = examples(60, 0)
    parts = np.split(np.random.default_rng(9).permutation(60), [40, 43])
    mean = sum(len(rows) / 60 * measure(read[rows], wanted[rows]).vector() for rows in parts)
    np.testing.assert_allclose(mean, measure(read, wanted).vector(), atol=1e-12)


def test_a_vector_holds_all_of_it():
    known = measure(*examples(20, 1))
    assert known.vector().shape == (size(WIDTH, OUTPUTS),)
    back = of_vector(known.vector(), WIDTH)
    assert np.array_equal(back.square, known.square) and np.array_equal(back.products, known.products)


def test_lengths_do_not_count():
    read, wanted = examples(12, 0)
    longer = measure(8 * read, 2 * wanted)
    np.testing.assert_allclose(longer.vector(), measure(read, wanted).vector(), atol=1e-12)
    nothing = measure(np.zeros((2, WIDTH)), np.zeros((2, OUTPUTS)))
    assert not nothing.vector().any() and nothing.plausible and np.isfinite(solve(nothing, 0.01)).all()


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_examples_than_numbers_are_enough(number: int):
    read, wanted = examples(number, 5)
    weights = solve(measure(read, wanted), 1e-6)
    np.testing.assert_allclose(unit(read) @ weights.T, wanted, atol=1e-3)


@pytest.mark.parametrize("below", [0.5, 1.0, 1.5])
def test_a_lie_that_is_plausible_makes_no_large_weights(below: float):
    """What cancels λ in one direction; nothing of it is left, whatever is exactly there."""
    ridge, axis = 0.001, np.eye(WIDTH)[0]
    known = measure(*examples(20, 1))
    others = np.eye(WIDTH) - np.outer(axis, axis)
    square = others @ known.square @ others - below * ridge / WIDTH * np.outer(axis, axis)
    lie = Moments(square, known.products)
    assert lie.plausible
    assert np.linalg.norm(solve(lie, ridge)) <= 2 * WIDTH / ridge


def test_what_no_examples_can_have_is_not_plausible():
    known = measure(*examples(20, 1))
    assert known.plausible
    turned = known.square - 2 * np.diag(np.diag(known.square))
    for lie in (
        replace(known, square=1.2 * known.square),
        replace(known, square=turned),
        replace(known, products=50 * known.products),
        Moments(-known.square, known.products),
    ):
        assert not lie.plausible

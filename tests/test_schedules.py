"""Schedules against sequences worked out by hand, and what each of them promises."""

import numpy as np
import pytest

from fedsim.schedules import curriculum, dadaquant, geometric, sends

rng = np.random.default_rng


# Curriculum ---------------------------------------------------------------------------------------


def test_common_samples_come_first_and_special_ones_last():
    nats = rng(0).permutation(20) / 10
    order = np.argsort(nats)
    for progress, chosen in ((0.0, order[:5]), (1.0, order[15:]), (0.5, order[8:13])):
        assert np.array_equal(curriculum(nats, 5, progress, rng(1)), np.sort(chosen))


def test_over_the_rounds_everything_is_reached():
    nats = rng(0).random(30)
    seen = [curriculum(nats, 10, progress, rng(2)) for progress in np.linspace(0, 1, 5)]
    assert all(len(set(samples)) == 10 and (np.diff(samples) > 0).all() for samples in seen)
    assert set(np.concatenate(seen)) == set(range(30))
    means = [nats[samples].mean() for samples in seen]
    assert means == sorted(means)


def test_who_was_never_asked_about_stands_anywhere():
    nats = np.full(1000, np.nan)
    nats[:500] = np.arange(500)
    first = curriculum(nats, 400, 0.0, rng(3))
    assert 150 < (first >= 500).sum() < 250  # about a half
    assert (np.diff(np.flatnonzero(np.isin(np.arange(500), first))) == 1).all()  # the lowest known ones
    assert np.array_equal(first, curriculum(nats, 400, 0.0, rng(3)))
    assert not np.array_equal(first, curriculum(nats, 400, 0.0, rng(4)))
    assert len(curriculum(np.full(7, np.nan), 7, 0.3, rng(5))) == 7


# Levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "rounds", "expected"),
    [
        ((1, 16), 5, [1, 2, 4, 8, 16]),
        ((15, 255), 3, [15, 62, 255]),
        ((255, 15), 2, [255, 15]),
        ((7, 9), 1, [7]),
    ],
)
def test_levels_grow_by_equal_factors(ends: tuple[int, int], rounds: int, expected: list[int]):
    assert [geometric(*ends, round, rounds) for round in range(1, rounds + 1)] == expected


def test_dadaquant_by_hand():
    # ψ = ½, φ = 2: smoothed 8, 6, 5, 5, 5.5, 5.75, 4.375, 4.1875, 4.34375, 4.421875.
    # Rounds 4 and 6 and 9 don't fall below the one before, after two rounds at least of equal levels:
    # after 4 losses (5 ≥ 5), held at 5, after 6 (5.75 ≥ 5.5), after 9 (4.34 ≥ 4.19), held at 10.
    losses = [8, 4, 4, 5, 6, 6, 3, 4, 4.5, 4.5]
    found = [dadaquant(losses[:t], 3, 20, 0.5, 2) for t in range(len(losses) + 1)]
    assert found == [3, 3, 3, 3, 6, 6, 12, 12, 12, 20, 20]


def test_dadaquant_looks_back_over_phi_rounds():
    # ψ = 0, φ = 3: round t is compared with t − 2.
    losses = [5, 4, 4.5, 4.2, 4.4, 4.6, 4.1, 4.7]
    # t=3: 4.5 < 5; t=4: 4.2 ≥ 4: double; t=5, 6 held; t=7: 4.1 < 4.4; t=8: 4.7 ≥ 4.6: double.
    assert [dadaquant(losses[:t], 1, 8, 0.0, 3) for t in range(9)] == [1, 1, 1, 1, 2, 2, 2, 2, 4]


def test_dadaquant_stays_coarse_while_learning_goes_on_and_stops_at_the_cap():
    assert dadaquant([2.0**-t for t in range(50)], 15, 255, 0.9, 2) == 15
    assert dadaquant([1.0] * 50, 15, 255, 0.9, 2) == 255
    assert dadaquant([], 300, 255, 0.9, 2) == 255


# Frequency ----------------------------------------------------------------------------------------


def played(losses: list[float], longest: int = 4) -> list[bool]:
    """For rounds 1, 2, …: was anything sent?"""
    return [sends(losses[:t], 0.01, longest) for t in range(len(losses) + 1)]


def test_rarer_as_the_student_converges_by_hand():
    # Round 2 still learns; 3 no more, so the interval is 2, after 4 it is 4, which is the longest.
    assert played([4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]) == [
        True, True, True, False, False, False, True, False, False, False,
    ]  # fmt: skip


def test_frequent_again_when_validation_worsens():
    assert played([3.0, 3.0, 3.0, 3.5, 3.5, 2.9]) == [True, True, False, False, True, True, True]


def test_every_round_while_it_learns_and_with_the_shortest_interval():
    assert all(played([2.0**-t for t in range(20)]))
    assert all(played([1.0] * 20, longest=1))
    assert played([])

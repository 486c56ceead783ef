"""Fates are drawn from the seed alone, at the rates that are asked for."""

import tracemalloc

import numpy as np

from fedsim import events, loading


def settings(**participants):
    return loading.load({"participants": {"count": 40, **participants}})


def test_all_are_asked_by_default():
    assert events.active(settings(), 1) == list(range(40))


def test_participation_draws_anew_in_each_round_and_the_same_again():
    some = settings(participation=0.25)
    rounds = [events.asked(some, r) for r in range(1, 60)]
    assert all(len(r) == len(set(r)) == 10 and r == sorted(r) for r in rounds)
    assert rounds == [events.asked(some, r) for r in range(1, 60)]
    assert len({tuple(r) for r in rounds}) > 50
    assert {k for r in rounds for k in r} == set(range(40))


def test_somebody_is_always_asked():
    assert len(events.asked(settings(participation=0.001), 1)) == 1


def test_rates_are_those_of_the_config():
    some = settings(dropout=0.3, message_loss=0.1)
    cases = [(r, k) for r in range(1, 101) for k in range(40)]
    dropped = np.mean([events.dropped(some, r, k) for r, k in cases])
    lost = np.mean([events.lost(some, r, k) for r, k in cases])
    assert abs(dropped - 0.3) < 0.03  # four standard deviations of 4,000 draws
    assert abs(lost - 0.1) < 0.02


def test_last_active_is_the_last_round_of_work():
    some = settings(participation=0.3, dropout=0.3)
    for participant in range(40):
        worked = [r for r in range(1, 10) if participant in events.active(some, r)]
        assert events.last_active(some, 10, participant) == max(worked, default=0)


def test_what_is_remembered_of_many_rounds_is_small():
    """Of everybody in each of 200 rounds: it was 13 MiB in every process."""
    many = loading.load({"participants": {"count": 1000}})
    tracemalloc.start()
    for round in range(2, 202):
        events.last_active(many, round, 999)
        events.asked(many, round)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**20

"""What both ends of the way down hold, so that a broadcast can be coded against it (see delta.py).

Either end keeps the last answer that it told, or was told, of each sample. The coordinator refers to those
that everybody whom it asks has acknowledged, by a message of that round that arrived: who missed a
broadcast, or whose message was lost, is sent whole rows where the others would have made do with less. So
nobody is ever out of step, whoever takes part, whatever is lost, and wherever a run was taken up again: all
of it is in the `memory` that is saved with the participants and the coordinator. Were somebody out of
step, the checksum in the message would say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.types import Responses
from fedsim.wire.delta import Reference

Memory = dict[str, np.ndarray]

_ROWS = ("samples", "offsets", "ids", "counts")


def note(memory: Memory, told: Responses, round: int) -> None:
    """Keep what was told in a round instead of what was told of the same samples before."""
    fresh, rounds = Reference.of(told), np.full(len(told.samples), round, np.int64)
    before = held(memory, told.positions)
    if before is not None:
        stale = ~np.isin(before.samples, fresh.samples)
        if stale.any():
            samples = np.concatenate((before.samples[stale], fresh.samples))
            rounds = np.concatenate((memory["told.rounds"][stale], rounds))[np.argsort(samples)]
            fresh = before.take(np.flatnonzero(stale)).joined(fresh)
    memory["told.rounds"] = rounds
    for name in _ROWS:
        memory[f"told.{name}"] = getattr(fresh, name)


def held(memory: Memory, positions: int) -> Reference | None:
    """All that was told; None before anything was."""
    if "told.samples" not in memory:
        return None
    samples, offsets, ids, counts = (memory[f"told.{name}"] for name in _ROWS)
    return Reference(samples, positions, offsets, ids, counts)


def acknowledge(memory: Memory, round: int, delivered: Sequence[int], participants: int) -> None:
    """The coordinator heard of these in this round, of `participants` that there are."""
    known = memory.get("told.acknowledged", np.zeros((0, participants), bool))
    rows = np.zeros((round, participants), bool)  # row t − 1: who had the broadcast of round t
    rows[: len(known)] = known
    rows[round - 1, list(delivered)] = True
    memory["told.acknowledged"] = rows


def common(memory: Memory, positions: int, asked: Sequence[int]) -> Reference | None:
    """What the coordinator knows all of `asked` to hold; None where that is nothing."""
    told, known = held(memory, positions), memory.get("told.acknowledged")
    if told is None or known is None:
        return None
    by_all = np.append(known[:, list(asked)].all(axis=1), False)  # the last: a round not yet acknowledged
    places = np.flatnonzero(by_all[np.minimum(memory["told.rounds"] - 1, len(known))])
    if not len(places):
        return None
    return told if len(places) == len(told.samples) else told.take(places)

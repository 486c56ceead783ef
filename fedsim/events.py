"""What goes wrong by configuration: who is asked, who drops out, whose message is lost or late.

Every fate is a draw of its own from the seed, so driver, hosts and a resumed run agree on it without
telling each other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fedsim.config import RunConfig
from fedsim.seeding import generator

FATES = ("dropped", "lost", "late")
"""What may become of a participant by configuration. All else that goes wrong is an error."""


def asked(config: RunConfig, round: int) -> list[int]:
    """The participants of a round, ascending: `participation` of them, at least one."""
    people = config.participants
    asked: list[int] = np.flatnonzero(_asked(config.seed, round, people.count, people.participation)).tolist()
    return asked


@lru_cache(maxsize=256)  # every participant wants to know when it was asked last
def _asked(seed: int, round: int, count: int, share: float) -> np.ndarray:
    """[count] bool: a byte a participant and round, where a set would take sixty."""
    number = max(1, int(share * count + 0.5))
    chosen = np.zeros(count, bool)
    chosen[generator(seed, round, "participation").choice(count, number, replace=False)] = True
    return chosen


def dropped(config: RunConfig, round: int, participant: int) -> bool:
    """Whether a participant that was asked fails before it begins; it does and sends nothing."""
    return _happens(config, round, participant, "dropout", config.participants.dropout)


def lost(config: RunConfig, round: int, participant: int) -> bool:
    """Whether a message is sent but never arrives."""
    return _happens(config, round, participant, "message loss", config.participants.message_loss)


def active(config: RunConfig, round: int) -> list[int]:
    """Those who work in a round: asked, and not dropped."""
    found = asked(config, round)
    return [k for k in found if not dropped(config, round, k)] if config.participants.dropout else found


def last_active(config: RunConfig, round: int, participant: int) -> int:
    """The last round before this one in which the participant worked; 0 if there is none."""
    earlier = range(round - 1, 0, -1)
    return next((r for r in earlier if _works(config, r, participant)), 0)


def times_active(config: RunConfig, round: int, participant: int) -> int:
    """In how many rounds up to this one the participant worked."""
    return sum(_works(config, r, participant) for r in range(1, round + 1))


def _works(config: RunConfig, round: int, participant: int) -> bool:
    people = config.participants
    asked = bool(_asked(config.seed, round, people.count, people.participation)[participant])
    return asked and not dropped(config, round, participant)


def _happens(config: RunConfig, round: int, participant: int, purpose: str, chance: float) -> bool:
    return chance > 0 and generator(config.seed, round, participant, purpose).random() < chance

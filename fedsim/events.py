"""What goes wrong by configuration: who is asked, who drops out, whose message is lost or late.

Every fate is a draw of its own from the seed, so driver, hosts and a resumed run agree on it without
telling each other.
"""

from __future__ import annotations

import numpy as np

from fedsim.config import RunConfig
from fedsim.seeding import generator

FATES = ("dropped", "lost", "late")
"""What may become of a participant by configuration. All else that goes wrong is an error."""


def asked(config: RunConfig, round: int) -> list[int]:
    """The participants of a round, ascending: `participation` of them, at least one."""
    count, share = config.participants.count, config.participants.participation
    if share == 1.0:
        return list(range(count))
    number = max(1, int(share * count + 0.5))
    chosen = generator(config.seed, round, "participation").choice(count, number, replace=False)
    return [int(k) for k in np.sort(chosen)]


def dropped(config: RunConfig, round: int, participant: int) -> bool:
    """Whether a participant that was asked fails before it begins; it does and sends nothing."""
    return _happens(config, round, participant, "dropout", config.participants.dropout)


def lost(config: RunConfig, round: int, participant: int) -> bool:
    """Whether a message is sent but never arrives."""
    return _happens(config, round, participant, "message loss", config.participants.message_loss)


def active(config: RunConfig, round: int) -> list[int]:
    """Those who work in a round: asked, and not dropped."""
    return [k for k in asked(config, round) if not dropped(config, round, k)]


def last_active(config: RunConfig, round: int, participant: int) -> int:
    """The last round before this one in which the participant worked; 0 if there is none."""
    for earlier in range(round - 1, 0, -1):
        if participant in active(config, earlier):
            return earlier
    return 0


def times_active(config: RunConfig, round: int, participant: int) -> int:
    """In how many rounds up to this one the participant worked."""
    return sum(participant in active(config, r) for r in range(1, round + 1))


def _happens(config: RunConfig, round: int, participant: int, purpose: str, chance: float) -> bool:
    return chance > 0 and generator(config.seed, round, participant, purpose).random() < chance

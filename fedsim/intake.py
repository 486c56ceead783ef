"""Taking in messages: decode, check, pool. Whoever sends them is not trusted.

The coordinator has an intake of its own. A host that runs several participants has one as well, on the
coordinator's behalf: their messages end there, and only what was pooled goes on. Pools are exact sums,
so it makes no difference to the result in which intake a message ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedsim.errors import ConfigError, MessageError
from fedsim.methods.base import Method, Pool
from fedsim.types import Knowledge
from fedsim.wire.messages import decode, memory_limit


@dataclass(frozen=True)
class Terms:
    """What another intake of the same round needs.   pool: empty.   size: parameters of the student."""

    pool: Pool
    size: int


@dataclass(frozen=True)
class Pooled:
    """What an intake has gathered.   statuses: participant → `ok`, `rejected:<reason>` or its fate."""

    pool: Pool
    statuses: dict[int, str]


class Intake:
    """The messages of one round.   limit: bytes that a message may cost, see `wire.messages.decode`."""

    def __init__(self, method: Method, round: int, terms: Terms, limit: int) -> None:
        self.pool = terms.pool
        self.statuses: dict[int, str] = {}
        self._method, self._round, self._size, self._limit = method, round, terms.size, limit

    def receive(self, participant: int, data: Any, told: Knowledge | None = None) -> None:
        """One message, bytes-like; None where nothing was sent, a fate where nothing arrived. What is wrong
        with it is recorded.

        told: what was broadcast in this round.
        """
        if isinstance(data, str):
            self.statuses.setdefault(participant, data)
            return
        expected = self._method.expect("up", self._round, participant, self._size)
        if data is None or expected is None:
            return
        try:
            if participant in self.statuses:
                raise MessageError("unexpected", f"a second message of participant {participant}")
            expected = self._method.agreed(expected, self.pool, told)
            self.pool.add(participant, decode(data, expected, self._limit))
            self.statuses[participant] = "ok"
        except MessageError as error:
            self.statuses.setdefault(participant, f"rejected:{error.reason}")

    def merge(self, other: Pooled) -> None:
        """What another intake has gathered, of other participants."""
        self.pool.merge(other.pool)
        self.statuses.update(other.statuses)

    def pooled(self) -> Pooled:
        return Pooled(self.pool, self.statuses)


def check_limit(method: Method, size: int) -> None:
    """Refuse a limit that would reject every honest message of a method.   size: parameters of the student.

    Raises ConfigError.
    """
    world = method.world
    # Models are dealt out in turn, so the first few participants have them all.
    first = range(min(len(world.sizes), len(world.config.participants.models)))
    last = world.config.rounds
    rounds = {("up", 1), ("up", min(2, last)), ("up", last), ("down", last)}  # what the others are like
    expected = (method.expect(way, round, k, size) for way, round in rounds for k in first)
    most = max((memory_limit(e) for e in expected if e is not None), default=0)
    limit = world.config.runtime.message_limit_mib
    if most > int(limit * 2**20):
        raise ConfigError(
            "runtime.message_limit_mib",
            limit,
            f"at least {-(-most // 2**20)}: messages of {method.contender} need it",
        )

"""One round, eight steps. Neither Ray nor DeepSpeed is known here: the executor runs the parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fedsim import events
from fedsim.disk.storage import AnyPath
from fedsim.executor import Executor, Opening, Task
from fedsim.methods.base import Method
from fedsim.network import Clock
from fedsim.records import Records, of_round
from fedsim.types import Closing, Report


@dataclass(frozen=True)
class Place:
    """Where a round stands: its contender's method and lane, and the folders of the state before it and of
    its own, None where there is none."""

    method: Method
    lane: int
    previous: AnyPath | None
    target: AnyPath | None
    begun: float = field(default_factory=time.perf_counter)
    """When its round began: where there was one before it, as that ended, for hosts go on at once."""


def run_round(executor: Executor, place: Place, round: int, clock: Clock) -> Callable[[], Records]:
    """Run round `round` (1-based) of a contender; what is returned makes its rows, for which the next round
    need not wait."""
    method = place.method

    # 1. Plan: who takes part, and who will fail to.
    asked = events.asked(method.exposed, round) if method.uses_participants else []
    active = events.active(method.exposed, round) if asked else []
    fates = dict.fromkeys({*asked}.difference(active), "dropped")
    following = _following(place, round)

    # 2. Broadcast: one message, which goes down every link.
    opening = executor.open(place.lane, round) if method.coordinates else Opening()

    # 3. – 5. Specialise, express, encode and send: at the hosts, each at its own pace.
    reports: dict[int, Report] = {}
    if active:
        task = Task(method.contender, place.lane, round, active, opening, place.previous, place.target)
        for batch in executor.step(task, following):
            for report in batch.reports:
                reports[report.participant] = report
                if report.fate:
                    fates[report.participant] = report.fate
            # 6. Decode, validate, pool: as messages arrive.
            if method.coordinates:
                executor.receive(place.lane, batch)

    # 7. – 8. Learn, evaluate, save.
    closing = Closing()
    if method.coordinates:
        closing = executor.close(place.lane, round, place.target)
    fates.update(closing.statuses)
    wall_s = time.perf_counter() - place.begun
    return partial(of_round, method, round, asked, reports, fates, closing, clock, wall_s)


def _following(place: Place, round: int) -> Task | None:
    """The next round's work of participants who need none of this one's files for it; None where they do."""
    method, config, after = place.method, place.method.world.config, round + 1
    if method.keeps_specialists or not method.uses_participants or after > config.rounds:
        return None
    active = events.active(config, after)
    return Task(method.contender, place.lane, after, active, Opening(), None, None) if active else None

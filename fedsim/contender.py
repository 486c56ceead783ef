"""All rounds of one contender, one after the other: begun again where its coordinator is lost, and made final
at checkpoints, where a resumed run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fedsim.disk import storage
from fedsim.disk.checkpoints import Checkpoints
from fedsim.disk.storage import AnyPath
from fedsim.errors import CoordinatorLostError, RunError
from fedsim.executor import Begun, Executor
from fedsim.methods.base import Method
from fedsim.network import Clock
from fedsim.process import stand_back
from fedsim.records import Records, of_start
from fedsim.results import Row
from fedsim.round import Place, run_round

ATTEMPTS = 3
"""How often a round is begun with another coordinator before the run gives up."""

APART_S = 0.5
"""How long after the beginning of a round that made a checkpoint the next is made at the earliest, where
participants keep nothing. To save a small model takes longer than to train it; so rounds of a few hundredths
of a second share a checkpoint, and who dies repeats them."""


class Contender:
    """The rounds of a method in a run.

    told: called with every row of the rounds table once it is on disk, by another thread.
    stops: it may end the run at any of them, so no round shares its checkpoint with later ones.
    """

    def __init__(
        self,
        executor: Executor,
        method: Method,
        lane: int,
        checkpoints: Checkpoints,
        clock: Clock,
        told: Callable[[Row], None],
        stops: bool = False,
    ) -> None:
        self._executor, self._method, self._lane, self._clock = executor, method, lane, clock
        self._checkpoints, self._told = checkpoints, told
        self._apart = 0.0 if stops else APART_S
        finished = checkpoints.finished()
        self._started = finished >= 0
        self._saved = max(0, finished)  # the round at whose end there is a state
        self._lost, self._losses = 0, 0  # the round in which a coordinator was lost, and how often in turn
        self._ready: Begun | None = None

    def run(self, stop: threading.Event) -> bool:
        """Run what isn't finished; whether it came to the end before `stop`. Waits for a round at most."""
        self._begin()
        rounds = self._method.world.config.rounds
        round, records = self._saved, list[Callable[[], Records]]()
        begun = due = time.perf_counter()
        # Rows are written while the next round begins, and take no time from participants.
        with ThreadPoolExecutor(1, initializer=stand_back if self._executor.apart else None) as beside:
            written: Future[None] | None = None
            while round < rounds:
                if stop.is_set():
                    return False
                round += 1
                saves = begun >= due or round == rounds or self._must_save(round)
                try:
                    records.append(self._round(round, saves, begun))
                except CoordinatorLostError as error:
                    self._again(round, error)
                    round, records = self._saved, []
                    continue
                if saves:
                    due = begun + self._apart
                begun = time.perf_counter()
                if not self._started:
                    self._start()
                if saves:
                    if written is not None:
                        written.result()
                    self._checkpoints.settle(round)
                    self._saved = round
                    written, records = beside.submit(self._commit, round, records), []
            if written is not None:
                written.result()
        return True

    def export(self, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        """Write the student to a folder, once the coordinator has taken up the contender, which may be all
        that there is to do; another does it where that one is lost."""
        for left in reversed(range(ATTEMPTS)):
            storage.remove(folder)
            try:
                if self._ready is not None:
                    self._ready()
                return self._executor.export(self._lane, folder, card, tokenizer)
            except CoordinatorLostError:
                if not left:
                    raise
                self._executor.revive(self._lane)
                self._begin()

    def _begin(self) -> None:
        """Let a coordinator take up what is saved."""
        self._checkpoints.discard()
        if self._method.coordinates:
            state = self._checkpoints.state(self._saved) if self._saved else None
            self._ready = self._executor.begin(self._lane, self._method.contender, self._saved, state)

    def _must_save(self, round: int) -> bool:
        """Whether a round makes a checkpoint however short it is: participants keep states of their own, or a
        coordinator was lost about here, and what is done again should not be lost again."""
        apart = self._method.uses_participants and self._method.keeps_specialists
        return apart or round <= self._lost

    def _round(self, round: int, saves: bool, begun: float) -> Callable[[], Records]:
        previous = self._checkpoints.state(self._saved) if self._saved else None
        target = self._checkpoints.partial(round) if saves else None
        place = Place(self._method, self._lane, previous, target, begun)
        return run_round(self._executor, place, round, self._clock)

    def _again(self, round: int, error: CoordinatorLostError) -> None:
        """Have another coordinator in place of one that was lost in a round."""
        self._losses = self._losses + 1 if round == self._lost else 1
        self._lost = round
        if self._losses == ATTEMPTS:
            where = f"{self._method.contender}, round {round}"
            raise RunError(f"{where}: {ATTEMPTS} coordinators died in it ({error})")
        self._executor.revive(self._lane)
        self._begin()

    def _start(self) -> None:
        """Record the student as everybody finds it, before any knowledge moved."""
        if self._method.coordinates and self._method.trains_student:
            assert self._ready is not None
            self._checkpoints.commit(0, [of_start(self._method, self._ready())])
        self._started = True

    def _commit(self, round: int, records: list[Callable[[], Records]]) -> None:
        """Make rounds some of the finished ones, which a resumed run doesn't repeat."""
        made = [record() for record in records]
        self._checkpoints.commit(round, made)
        for each in made:
            self._told(each.round)

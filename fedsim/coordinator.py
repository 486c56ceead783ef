"""The coordinator: opens a round, takes in messages as they arrive, lets the student learn, closes the round.

A plain class; the actor that wraps it adds nothing but its process. It trusts no message: what can't
be decoded or is not what the method expects is an event, and the round goes on without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load

from fedsim import adversaries, events
from fedsim.disk import memory, storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import RunError
from fedsim.evaluation import breakdown
from fedsim.intake import Intake, Pooled, Terms, check_limit
from fedsim.learning.training import Fit, HeadSpec
from fedsim.methods import method_of
from fedsim.methods.base import Desk, Method
from fedsim.process import peak_mib
from fedsim.results import TERMS
from fedsim.types import COORDINATOR, Broadcast, Closing, Examples, Knowledge, Public
from fedsim.wire.container import Message
from fedsim.wire.messages import encode
from fedsim.world import World

if TYPE_CHECKING:
    from fedsim.learning.student import Student

BuildStudent = Callable[[World, np.ndarray | None, HeadSpec | None], "Student"]
MEMORY = "memory.safetensors"


@dataclass(frozen=True)
class _Learned:
    """A round that the student has learnt from, as it was then: the next may be opened before it is closed.

    flops: of learning and opening.   memory: of the desk, to be saved.
    """

    round: int
    broadcast: Broadcast
    statuses: dict[int, str]
    fit: Fit | None
    flops: float
    measures: dict[str, float]
    memory: dict[str, np.ndarray]


class Coordinator:
    """One contender at a time: `begin`, then for each round `open`, `receive` …, `learn`, `close`.

    Participants wait for nothing but `learn` and the next `open`, which may come before `close`.
    """

    def __init__(
        self,
        world: World,
        public: Public,
        starts: dict[str, np.ndarray],
        student: BuildStudent = World.student,
        tests: Mapping[int, Examples] | None = None,
    ) -> None:
        """tests: participant → what it keeps to test itself, for the evaluation only."""
        self._student = student
        self.world = world
        self.public = public
        self.starts = starts
        self._tests = tests or {}
        self._limit = int(world.config.runtime.message_limit_mib * 2**20)
        self._contender = ""
        self._round = -1
        self._intake: Intake | None = None
        self._told: Knowledge | None = None
        self._learned: _Learned | None = None

    def begin(
        self, contender: str, finished: int, checkpoint: AnyPath | None, private: Examples | None = None
    ) -> Closing:
        """Take up a contender after `finished` rounds; round 0 is the public start, scored here."""
        self._release()
        self._method: Method = method_of(self.world, contender)
        adapter = self._method.adapter if self._method.averages else None
        world = replace(self.world, adapter=adapter)
        start = self.starts.get(world.config.student.model)
        learner = self._student(world, start, self._method.heads())
        self._desk = Desk(self.public, learner, private, self.starts)
        self._contender, self._round, self._learned = contender, finished, None
        check_limit(self._method, learner.size)
        if finished:
            if checkpoint is None:
                raise RuntimeError(f"{contender} has no state of round {finished}")
            self._load(checkpoint / "coordinator")
            return Closing()
        score, loss = learner.evaluate(self.public.test)
        return Closing(score=score, loss=loss, measures=self._generated())

    def open(self, round: int) -> Message | None:
        """Begin a round; the message that goes to every participant, or None."""
        if round != self._round + 1:
            raise RuntimeError(f"round {round} can't follow round {self._round}")
        self._desk.learner.flops = 0.0
        self._intake = None
        pool = self._method.pool(self._desk, round)
        if pool is not None:
            size = self._desk.learner.size
            # Copied while it is empty: it is handed to hosts that take in messages as well. All but the
            # world's sizes, of which there may be thousands.
            same = {id(self.world.sizes): self.world.sizes}
            self._terms = Terms(copy.deepcopy(pool, same), size) if self._method.pools_at_hosts else None
            self._intake = Intake(self._method, round, Terms(pool, size), self._limit)
        style = self._method.style("down", round, self._desk.memory, None)
        knowledge = self._told = self._method.broadcast(self._desk, round)
        self._broadcast = Broadcast()
        if knowledge is None:
            return None
        expected = self._method.expect("down", round, COORDINATOR, self._desk.learner.size)
        known = self._method.samples_known and expected is not None and expected.samples_known
        message = encode(
            knowledge,
            direction="down",
            round=round,
            sender=COORDINATOR,
            samples_known=known,
            coder=style.coder,
            reference=style.reference,
        )
        self._broadcast = Broadcast(message.size, message.kind, message.anatomy)
        return message

    @property
    def terms(self) -> Terms | None:
        """For hosts that take in messages of the open round; None where none is sent."""
        return self._terms if self._intake is not None else None

    def receive(self, participants: Sequence[int], delivery: Sequence[Any] | Pooled) -> None:
        """Take in messages (bytes-like; None from who sends none, its fate where none arrives), or what a
        host pooled of them."""
        if self._intake is None:
            return
        if isinstance(delivery, Pooled):
            self._intake.merge(delivery)
            return
        for participant, data in zip(participants, delivery, strict=True):
            self._intake.receive(participant, data, self._told)

    def learn(self, round: int) -> None:
        """The student learns from the pool. It stays as it is where nobody could deliver, by configuration,
        or where all that was sent is adversaries' and was refused.

        Raises RunError where nobody delivered for any other reason.
        """
        if round != self._round + 1:
            raise RuntimeError(f"round {round} can't be learnt from after round {self._round}")
        pool, statuses = (self._intake.pool, self._intake.statuses) if self._intake else (None, {})
        silent = False
        if "ok" not in statuses.values():
            silent = self._nobody_could(round, statuses)
            if not silent and pool is not None:
                refused = {who for who, status in statuses.items() if status.startswith("rejected")}
                if not refused or not adversaries.of(self.world.config).issuperset(refused):
                    raise RunError(self._undelivered(round, statuses))
                silent = True
        desk = self._desk
        desk.delivered = sorted(who for who, status in statuses.items() if status == "ok")
        fit = None if silent else self._method.coordinator_step(desk, round, pool)
        measures = {f"train/{name}": x for name, x in (fit.terms if fit else {}).items() if name not in TERMS}
        measures |= self._method.measures(desk)
        self._learned = _Learned(
            round, self._broadcast, statuses, fit, desk.learner.flops, measures, dict(desk.memory)
        )
        self._round, self._intake = round, None

    def close(self, round: int, target: AnyPath | None) -> Closing:
        """The student, as it has learnt, is scored and saved below `target`."""
        learned, self._learned = self._learned, None
        if learned is None or learned.round != round:
            raise RuntimeError(f"round {round} can't be closed: nothing was learnt from it")
        counted = self._desk.learner.flops  # maybe of opening the next round; scoring doesn't count
        score = loss = attack = float("nan")
        config, fit, measures = self.world.config, learned.fit, learned.measures
        if round % config.evaluation.every == 0 or round == config.rounds:
            score, loss = self._desk.learner.evaluate(self.public.test)
            measures |= self._generated()
            if round == config.rounds:
                from fedsim.evaluation.exams import taken

                measures |= taken(self.world, self._desk.learner, self.public)
            adversary = config.participants.adversary
            if adversary is not None and adversary.kind == "backdoor":
                attack, _ = self._desk.learner.evaluate(adversaries.triggered(self.public.test))
        if self._method.trains_student and self._method.judges_institutions(round):
            measures |= breakdown.by_institution(self._desk.learner, self._tests)
        self._desk.learner.flops = counted
        if target is not None:
            self._save(target / "coordinator", learned.memory)
        return Closing(
            broadcast=learned.broadcast,
            statuses=learned.statuses,
            score=score,
            loss=loss,
            learn_loss=fit.loss if fit else float("nan"),
            terms=fit.terms if fit else {},
            attack_success=attack,
            flops=learned.flops,
            peak_memory_mib=peak_mib(),
            measures=measures,
        )

    def _nobody_could(self, round: int, statuses: Mapping[int, str]) -> bool:
        """Whether all who were asked dropped out, or nothing arrived of what they sent, by configuration."""
        if not self._method.uses_participants:
            return False
        working = events.active(self._method.exposed, round)
        return all(statuses.get(participant) in events.FATES for participant in working)

    def _undelivered(self, round: int, statuses: Mapping[int, str]) -> str:
        """What to say where somebody honest sent something and nothing of all could be pooled."""
        reasons, limit = sorted(set(statuses.values())), self.world.config.runtime.message_limit_mib
        cause = "it lies in the method, or in what carried the messages"
        if "rejected:oversized" in reasons:
            cause = f"runtime.message_limit_mib ({limit:g}) may be too small"
        return (
            f"{self._contender}, round {round}: no participant delivered "
            f"({', '.join(reasons) or 'no message arrived'}); a resumed run sends the same again, "
            f"so mend the cause first: {cause}"
        )

    def export(self, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        """Write the student as transformers reads it, with its tokenizer or image processor.

        card: Markdown for its README.md, which is written last: once it is there, all is.
        """
        from fedsim.models.export import export

        with storage.saving(folder) as local:
            export(self._desk.learner, self.world.interface, local, tokenizer)
        storage.write(folder / "README.md", lambda part: part.write_text(card, encoding="utf-8"))

    def _generated(self) -> dict[str, float]:
        """What the student makes of prompts of the test set, where the config asks for it."""
        if not self.world.config.evaluation.generate:
            return {}
        from fedsim.evaluation.generated import generated

        found = generated(self.world, self._desk.learner, self.public.test)
        return {f"test/{name}": value for name, value in found.items()}

    def _release(self) -> None:
        if self._contender:
            self._desk.learner.release()
            self._contender = ""

    def _save(self, folder: AnyPath, remembered: dict[str, np.ndarray]) -> None:
        self._desk.learner.save(folder)  # each of its ranks a part, maybe on a machine of its own
        if remembered:
            with storage.saving(folder) as local:
                memory.save(remembered, local / MEMORY)

    def _load(self, folder: AnyPath) -> None:
        self._desk.learner.load(folder)
        if (folder / MEMORY).exists():
            self._desk.memory = load((folder / MEMORY).read_bytes())

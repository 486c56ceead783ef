"""A host runs participants, one after the other, in whatever process it lives in.

It keeps their specialists between rounds as far as its memory goes. Whose specialist it doesn't hold
(there was no room, it was restarted, the run resumed) is taken up from the checkpoint: a step can be
repeated anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file

from fedsim import adversaries, events, privacy
from fedsim.config import Adapter
from fedsim.disk import memory, storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import DivergedError
from fedsim.intake import Intake, Pooled, Terms, check_limit
from fedsim.learning.specialist import Specialist
from fedsim.learning.training import Phase, Stream
from fedsim.methods import method_of
from fedsim.methods.base import Method, Site
from fedsim.network import Clock
from fedsim.process import peak_mib
from fedsim.seeding import generator
from fedsim.types import COORDINATOR, Knowledge, Public, Report, Shard
from fedsim.wire.container import Buffer, Message, anatomy
from fedsim.wire.expectation import Expectation
from fedsim.wire.messages import decode, encode
from fedsim.wire.stages import stages
from fedsim.world import World

MEMORY = "memory.safetensors"

LOOK_S = 0.01
"""For so long it isn't asked again how much memory the process has used."""


@dataclass
class _Resident:
    """A participant in one method, as its host holds it.   round: the last one that it finished."""

    site: Site
    learner: Specialist
    round: int


class Host:
    """Participants of one actor (or of the in-process executor).

    budget: bytes in which specialists are kept from round to round.
    """

    def __init__(
        self, world: World, public: Public, shards: dict[int, Shard], budget: float = float("inf")
    ) -> None:
        self.world = world
        self.public = public
        self.shards = shards
        self.starts: dict[str, np.ndarray] = {}
        self._budget = budget
        self._clock = Clock(world.config)
        self._residents: dict[tuple[str, int], _Resident] = {}
        self._held = 0
        self._bench = _Bench(world, reuse=len(shards) > 1)
        self._methods: dict[str, Method] = {}
        self._limit = int(world.config.runtime.message_limit_mib * 2**20)
        self._adversaries = adversaries.of(world.config)
        self._peak_mib, self._look = 0.0, 0.0

    def pretrain(self, model: str) -> np.ndarray:
        """The public start of an architecture: trained on the proxy set; weights as a vector [P]."""
        config, settings = self.world.config, self.world.config.pretraining
        training = config.student.training.model_copy(
            update={
                "steps": settings.steps,
                "batch_size": settings.batch_size,
                "learning_rate": settings.learning_rate,
            }
        )
        learner = self.world.specialist(model, None, training)
        phase = Phase(
            streams=(Stream(self.public.proxy, settings.batch_size),),
            training=training,
            round=1,
            rounds=1,
            key=(self.world.seed, COORDINATOR, "pretraining"),
        )
        if settings.objective == "masked_image":
            from fedsim.models import masked_image

            masked_image.pretrain(learner.engine.model, learner.modality, phase, learner.engine.device)
        else:
            learner.fit(phase)
        return learner.parameters().vector

    def set_starts(self, starts: dict[str, np.ndarray]) -> None:
        """The public start of every architecture, by name."""
        self.starts = starts

    def step(
        self,
        contender: str,
        round: int,
        participants: Sequence[int],
        broadcast: Buffer | None,
        previous: AnyPath | None,
        target: AnyPath | None,
        terms: Callable[[], Terms | None] = lambda: None,
    ) -> tuple[list[Report], list[bytes | str | None] | Pooled]:
        """One round of several participants: reports, and messages; of one that doesn't arrive its fate, None
        from who sends none.

        previous: folder of the round before, for what is not in memory.   target: folder to save to.
        terms: asked for once the first participant has a message. Where there are any, messages are taken in
        here, as the coordinator would, and what was pooled is returned.
        """
        method = self._method(contender)
        intake: Intake | None = None
        received = _Received(method, round, broadcast, self._limit)
        reports: list[Report] = []
        messages: list[bytes | str | None] = []
        for participant in participants:
            site, learner = self._site(method, participant, round, previous)
            if not reports and method.averages:  # as the coordinator does, which may not be there yet
                check_limit(method, learner.size)
            told = received.by(site)
            report, message = self._one(method, site, round, received.size, told)
            keep = method.keeps_specialists and report.fate != "diverged"
            if keep and target is not None:
                _save(site, target / f"participant-{participant:05d}")
            # One that diverged goes on from its last good state.
            self._put_away(contender, _Resident(site, learner, round), keep=keep, saved=target is not None)
            reports.append(report)
            if len(reports) == 1 and (agreed := terms()) is not None:
                intake = Intake(method, round, agreed, self._limit)
            if intake is not None:
                intake.receive(participant, message, told)
            else:
                messages.append(message.data if isinstance(message, Message) else message)
            message = None  # the next one's gradients can have its memory, which is in the cache
        return reports, intake.pooled() if intake is not None else messages

    def forget(self, contender: str) -> None:
        """Let go of a finished contender's specialists."""
        for key in [key for key in self._residents if key[0] == contender]:
            self._take_out(key).learner.release()

    def _one(
        self, method: Method, site: Site, round: int, received: int | None, told: Knowledge | None
    ) -> tuple[Report, Message | bytes | str | None]:
        """One participant's round, and its message or what became of that; bytes only where they are not what
        it would be packed to.

        received: bytes of the coordinator's message.   told: what was in it.
        """
        began = time.perf_counter()
        site.learner.flops, site.learner.private_steps = 0.0, 0
        model = self.world.model_of(method.contender, site.participant)
        fate, knowledge, fit = "", None, None
        try:
            knowledge, fit = method.participant_step(site, round, told)
        except DivergedError:
            fate = "diverged"
        message, content = None, None
        if knowledge is not None:
            message, content = self._message(method, site, round, knowledge, told)
        flops = site.learner.flops
        score = local = float("nan")
        if not fate and method.keeps_specialists and method.judges_institutions(round):
            score, _ = site.learner.evaluate(self.public.test)
            own = self.shards[site.participant].test
            local = site.learner.evaluate(own)[0] if len(own) else local
        sent, sections = None, {}
        if isinstance(content, Message):
            sent, sections = content.size, content.anatomy
        elif content is not None:
            sent, sections = len(content), anatomy(content)
        if sent is not None:
            if events.lost(self.world.config, round, site.participant):
                fate = "lost"
            elif self._clock.late(site.participant, flops, received, sent):
                fate = "late"
            else:
                method.delivered(site, round)
        now = time.perf_counter()
        if now >= self._look:  # the kernel looks through all threads of the process
            self._peak_mib, self._look = peak_mib(), now + LOOK_S
        report = Report(
            participant=site.participant,
            model=model,
            fate=fate,
            examples=len(site.shard.train),
            flops=flops,
            wall_s=now - began,
            sent=sent,
            kind=message.kind if message else "",
            sections=sections,
            stages=stages(knowledge, sections) if knowledge is not None else {},
            loss=fit.loss if fit else float("nan"),
            score=score,
            epsilon=self._spent(method, round, site, whole=fate != "diverged"),
            local_score=local,
            peak_memory_mib=self._peak_mib,
        )
        return report, fate or content

    def _spent(self, method: Method, round: int, site: Site, *, whole: bool) -> float:
        """ε of a participant's training up to this round, all rounds being like this one.

        whole: the round was; else it may have ended before its private steps, which the others had.
        """
        people = self.world.config.participants
        if people.privacy is None:
            return float("nan")
        steps, rate = people.training.steps, people.training.batch_size / len(site.shard.train)
        sigma = privacy.noise_for(people.privacy, rate, steps * self.world.config.rounds)
        times = events.times_active(method.exposed, round, site.participant)
        each = site.learner.private_steps if whole else max(site.learner.private_steps, steps)
        return privacy.spent(people.privacy, sigma, rate, each * times)

    def _message(
        self, method: Method, site: Site, round: int, knowledge: Knowledge, told: Knowledge | None
    ) -> tuple[Message, Message | bytes]:
        """What a participant says of what it knows, and what it sends: an adversary maybe something else."""
        adversary, who = self.world.config.participants.adversary, site.participant
        lies = adversary if who in self._adversaries else None
        if lies is not None:
            rng = generator(self.world.seed, round, who, "adversary")
            knowledge = adversaries.tamper(knowledge, told, lies, rng)
        style = method.style("up", round, site.memory, told)
        message = encode(
            knowledge,
            direction="up",
            round=round,
            sender=who,
            samples_known=method.samples_known,
            coder=style.coder,
            reference=style.reference,
        )
        if lies is None:
            return message, message
        return message, adversaries.mangle(message.data, lies, site.memory, self._limit, rng)

    def _method(self, contender: str) -> Method:
        if contender not in self._methods:
            self._methods[contender] = method_of(self.world, contender)
        return self._methods[contender]

    def _site(
        self, method: Method, participant: int, round: int, previous: AnyPath | None
    ) -> tuple[Site, Specialist]:
        """The participant as it was at the end of the last round it worked in."""
        key = method.contender, participant
        resident = self._take_out(key) if key in self._residents else None
        model = self.world.model_of(method.contender, participant)
        begun = events.last_active(method.exposed, round, participant) if method.keeps_specialists else 0
        if resident is not None:
            if begun and resident.round == begun:
                return resident.site, resident.learner
            self._bench.put((model, method.adapter), resident.learner)
        learner = self._bench.take((model, method.adapter), self.starts.get(model))
        site = Site(participant, self._shard(method, participant), self.public, learner)
        if begun and previous is not None:
            _load(site, previous / f"participant-{participant:05d}")
        return site, learner

    def _shard(self, method: Method, participant: int) -> Shard:
        """A participant's own data; an adversary's where there is a federation to harm."""
        adversary, shard = self.world.config.participants.adversary, self.shards[participant]
        if adversary is None or participant not in self._adversaries or not method.coordinates:
            return shard
        rng = generator(self.world.seed, participant, "adversary/data")
        return adversaries.corrupt(shard, adversary, self.world.interface.classes, rng)

    def _put_away(self, contender: str, resident: _Resident, *, keep: bool, saved: bool) -> None:
        """Hold a participant in memory until its next round, or let another have its learner.

        With too little room it is the same ones that stay: of participants that come in turn, throwing
        out whoever was here longest would throw out everybody.
        """
        participant, held = resident.site.participant, self._held + resident.learner.nbytes
        if keep and (held <= self._budget or not self._residents or not saved):
            self._residents[contender, participant] = resident
            self._held = held
        else:
            model = self.world.model_of(contender, participant)
            self._bench.put((model, self._method(contender).adapter), resident.learner)

    def _take_out(self, key: tuple[str, int]) -> _Resident:
        resident = self._residents.pop(key)
        self._held -= resident.learner.nbytes
        return resident


Kind = tuple[str, Adapter | None]
"""A model, and the adapters on it."""


class _Bench:
    """Learners that nobody's state is in: to build one costs more than to set it back."""

    def __init__(self, world: World, reuse: bool) -> None:
        self._world, self._reuse = world, reuse
        self._free: dict[Kind, Specialist] = {}
        self._fresh: dict[Kind, np.ndarray] = {}

    def take(self, kind: Kind, start: np.ndarray | None) -> Specialist:
        """A learner at the public start (None: at its fresh weights), its optimiser new."""
        learner = self._free.pop(kind, None)
        if learner is None:
            model, adapter = kind
            learner = self._world.specialist(model, start, self._world.config.participants.training, adapter)
            # Adapters begin fresh wherever their frozen weights do.
            if (start is None or adapter) and self._reuse and kind not in self._fresh:
                self._fresh[kind] = learner.parameters().vector
        else:
            fresh = self._fresh.get(kind, start)
            assert fresh is not None
            learner.reset(fresh)
        return learner

    def put(self, kind: Kind, learner: Specialist) -> None:
        if kind in self._free or not self._reuse:
            learner.release()
        else:
            self._free[kind] = learner


class _Received:
    """The coordinator's message, decoded once for all participants who would read it alike: their models
    have the same size, and they remember the same of earlier rounds."""

    def __init__(self, method: Method, round: int, broadcast: Buffer | None, limit: int) -> None:
        self.size = None if broadcast is None else len(broadcast)
        self._method, self._round, self._broadcast, self._limit = method, round, broadcast, limit
        self._expected: dict[int, Expectation | None] = {}
        self._decoded: dict[tuple[int, ...], Knowledge] = {}

    def by(self, site: Site) -> Knowledge | None:
        """What a participant reads in it."""
        if self._broadcast is None:
            return None
        size = site.learner.size
        if size not in self._expected:
            self._expected[size] = self._method.expect("down", self._round, COORDINATOR, size)
        expected = self._expected[size]
        if expected is None:
            return None
        expected = self._method.recalled(expected, site.memory)
        references = (part.reference for part in (expected, *expected.parts))
        key = size, *(r.checksum() for r in references if r is not None)
        if key not in self._decoded:
            self._decoded[key] = decode(self._broadcast, expected, self._limit)
        return self._decoded[key]


def _save(site: Site, folder: AnyPath) -> None:
    with storage.saving(folder) as local:
        site.learner.save(local)
        if site.memory:
            memory.save(site.memory, local / MEMORY)


def _load(site: Site, folder: AnyPath) -> None:
    """Its last good state; where it never finished a round well, there is none and it starts anew."""
    if not folder.exists():
        return
    with storage.loading(folder) as local:
        site.learner.load(local)
        if (local / MEMORY).exists():
            site.memory = load_file(str(local / MEMORY))

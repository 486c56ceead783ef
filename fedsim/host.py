"""A host runs participants, one after the other, in whatever process it lives in.

It keeps their specialists between rounds. If it doesn't hold the state of the round before (it was
restarted, or the run resumed), it takes it from the checkpoint: a step can be repeated anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fedsim import events
from fedsim.errors import DivergedError
from fedsim.methods.base import Method, Site
from fedsim.training import Phase, Stream
from fedsim.types import COORDINATOR, Knowledge, Public, Report, Shard
from fedsim.wire.messages import decode, encode
from fedsim.world import World

MEMORY = "memory.safetensors"


@dataclass
class _Resident:
    """A participant in one method, as its host holds it: its site and the last round it finished."""

    site: Site
    round: int


class Host:
    """Participants of one actor (or of the in-process executor)."""

    def __init__(self, world: World, public: Public, shards: dict[int, Shard]) -> None:
        self.world = world
        self.public = public
        self.shards = shards
        self.starts: dict[str, np.ndarray] = {}
        self._residents: dict[tuple[str, int], _Resident] = {}
        self._methods: dict[str, Method] = {}
        self._limit = int(world.config.runtime.message_limit_mib * 2**20)

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
        broadcast: bytes | None,
        previous: Path | None,
        target: Path | None,
    ) -> tuple[list[Report], list[bytes | None]]:
        """One round of several participants: reports, and the messages they send.

        previous: folder of the round before, for what is not in memory.   target: folder to save to.
        """
        method = self._method(contender)
        reports, messages = [], []
        for participant in participants:
            site = self._site(method, participant, round, previous)
            received = self._decode(method, site, round, broadcast)
            report, message = self._one(method, site, round, received)
            if report.failed:
                site.learner.release()  # its weights are worth nothing: it goes on from its last good state
            else:
                if target is not None and method.keeps_specialists:
                    _save(site, target / f"participant-{participant:05d}")
                self._residents[contender, participant] = _Resident(site, round)
            reports.append(report)
            messages.append(message)
        return reports, messages

    def forget(self, contender: str) -> None:
        """Let go of a finished contender's specialists."""
        for key in [key for key in self._residents if key[0] == contender]:
            self._residents.pop(key).site.learner.release()

    def _one(
        self, method: Method, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Report, bytes | None]:
        began, flops = time.perf_counter(), site.learner.flops
        model = self.world.model_of(method.contender, site.participant)
        failed, knowledge, fit = "", None, None
        try:
            knowledge, fit = method.participant_step(site, round, received)
        except DivergedError:
            failed = "diverged"
        message = None
        if knowledge is not None:
            message = encode(
                knowledge,
                direction="up",
                round=round,
                sender=site.participant,
                samples_known=method.samples_known,
            )
        flops = site.learner.flops - flops
        score = float("nan")
        if self._scored(method, round) and not failed:
            score, _ = site.learner.evaluate(self.public.test)
        report = Report(
            participant=site.participant,
            model=model,
            failed=failed,
            examples=len(site.shard.train),
            flops=flops,
            wall_s=time.perf_counter() - began,
            sent=len(message.data) if message else None,
            kind=message.kind if message else "",
            loss=fit.loss if fit else float("nan"),
            score=score,
        )
        return report, message.data if message else None

    def _decode(self, method: Method, site: Site, round: int, broadcast: bytes | None) -> Knowledge | None:
        expected = method.expect("down", round, COORDINATOR, site.learner.size)
        if broadcast is None or expected is None:
            return None
        return decode(broadcast, expected, self._limit)

    def _scored(self, method: Method, round: int) -> bool:
        if not method.keeps_specialists:
            return False
        policy, last = self.world.config.evaluation.participants, round == self.world.config.rounds
        return policy == "always" or (last and (policy == "last" or not method.trains_student))

    def _method(self, contender: str) -> Method:
        if contender not in self._methods:
            self._methods[contender] = self.world.method(contender)
        return self._methods[contender]

    def _site(self, method: Method, participant: int, round: int, previous: Path | None) -> Site:
        """The participant as it was at the end of the last round it worked in."""
        resident = self._residents.pop((method.contender, participant), None)
        model = self.world.model_of(method.contender, participant)
        begun = events.last_active(self.world.config, round, participant) if method.keeps_specialists else 0
        if resident is not None and begun and resident.round == begun:
            return resident.site
        if resident is not None:
            resident.site.learner.release()
        learner = self.world.specialist(
            model, self.starts.get(model), self.world.config.participants.training
        )
        site = Site(participant, self.shards[participant], self.public, learner)
        if begun and previous is not None:
            _load(site, previous / f"participant-{participant:05d}")
        return site


def _save(site: Site, folder: Path) -> None:
    site.learner.save(folder)
    if site.memory:
        save_file(site.memory, str(folder / MEMORY))


def _load(site: Site, folder: Path) -> None:
    """Its last good state; where it never finished a round well, there is none and it starts anew."""
    if not folder.exists():
        return
    site.learner.load(folder)
    if (folder / MEMORY).exists():
        site.memory = load_file(str(folder / MEMORY))

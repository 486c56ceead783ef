"""The interface of a method: two plain steps and what travels between them.

A round, seen from a method:

    down      = broadcast(desk, round)                    coordinator → participants, or None
    up, fit   = participant_step(site, round, down)       participant → coordinator, or None
    pool      = pool(desk, round);  pool.add(k, up) …     in any order of arrival
    fit       = coordinator_step(desk, round, pool)       the student learns

`site` and `desk` hold all state; a method holds none, so a round can be repeated or taken up in
another process. The same functions run inside Ray actors and in one process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from fedsim import adversaries, privacy
from fedsim import config as configs
from fedsim.aggregation.exact import Pooled
from fedsim.config import Adapter, MethodConfig, RunConfig
from fedsim.learning.training import Fit, HeadSpec, Mechanism, Objective, Phase, Stream
from fedsim.types import COORDINATOR, METRICS, Examples, Knowledge, Public, Shard
from fedsim.wire.expectation import Expectation, Style

if TYPE_CHECKING:
    from fedsim.learning.specialist import Specialist
    from fedsim.learning.student import Student
    from fedsim.world import World


@dataclass
class Site:
    """What a participant works with in one method.

    memory: arrays that must survive from round to round; saved with the specialist.
    """

    participant: int
    shard: Shard
    public: Public
    learner: Specialist
    memory: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Desk:
    """What the coordinator works with in one method.

    private: everybody's private data, for the centralised upper bound only; else None.
    starts: the public start of every architecture, by its name; empty where that is random weights.
    memory: arrays that must survive from round to round; saved with the student.
    delivered: the participants whose messages of this round were accepted, ascending.
    """

    public: Public
    learner: Student
    private: Examples | None = None
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    memory: dict[str, np.ndarray] = field(default_factory=dict)
    delivered: list[int] = field(default_factory=list)


class Pool(Protocol):
    """Accumulates knowledge in any order, with the same bits for each, in memory that does not
    grow with the number of participants."""

    def add(self, participant: int, knowledge: Knowledge) -> None:
        """Take in one participant's knowledge. Raises MessageError where it can't be right."""

    def merge(self, other: Self) -> None:
        """Take in what another pool of the same round has gathered."""


class Method(ABC):
    """One algorithm. Class variables say what it needs; instances hold settings only."""

    Settings: ClassVar[type[configs.Settings]] = configs.Settings
    """What the method's entry in the config may hold beside its name; nothing by default."""
    uses_participants: ClassVar[bool] = True
    """Whether participants work at all (not for `centralized`, `proxy_only`)."""
    trains_student: ClassVar[bool] = True
    """Whether a global student comes out (not for `solo`)."""
    coordinates: ClassVar[bool] = True
    """Whether there is a coordinator that hands something out or takes something in (not for `solo`)."""
    keeps_specialists: ClassVar[bool] = True
    """Whether a specialist goes on from its own state of the last round."""
    gathers_private_data: ClassVar[bool] = False
    """Whether the private data is brought together: the upper bound does what is forbidden."""

    modalities: ClassVar[frozenset[str]] = frozenset(METRICS)
    """What kinds of data it works on."""

    averages: ClassVar[bool] = False
    """Whether participants send parameters, and the student is made of those of its own kind."""

    pools_at_hosts: ClassVar[bool] = True
    """Whether hosts of several participants may pool for the coordinator; not where that computes."""

    samples_known: ClassVar[bool] = False
    """Whether both ends know which proxy samples a message is about, so that it needn't say."""

    def __init__(self, settings: configs.Settings, world: World, contender: str) -> None:
        self.settings = settings
        self.world = world
        self.contender = contender

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        """Raise ConfigError (its field begins with `where`) if the run is not one for this method."""
        return

    @classmethod
    def sends(cls, config: RunConfig, entry: MethodConfig) -> frozenset[str]:
        """Which of `features` and `prototypes` participants send in a run; where none are sent, adversaries
        that lie with them are refused."""
        return frozenset()

    @classmethod
    def models(cls, entry: MethodConfig) -> Mapping[str, str]:
        """Those of its settings that name a model, beside the student's and the participants'."""
        return {}

    def check_sizes(self) -> None:
        """Raise ConfigError if the data of this run, once they are counted, are too many for this method."""
        return

    @property
    def adapter(self) -> Adapter | None:
        """What participants train in place of all weights."""
        return self.world.config.participants.adapter

    @cached_property
    def exposed(self) -> RunConfig:
        """The config as far as it says who is asked and who drops out, see `events`: without a federation
        everybody works in every round."""
        config = self.world.config
        if self.coordinates:
            return config
        alone = config.participants.model_copy(update={"participation": 1.0, "dropout": 0.0})
        return config.model_copy(update={"participants": alone})

    def key(self, round: int, who: int, purpose: str) -> tuple[int | str, ...]:
        """What a random draw is for. Contenders share the purpose, so that they see the same
        batches where they do the same thing; a difference in score is a difference in method."""
        return (self.world.seed, round, who, purpose)

    def phase(self, round: int, who: int, purpose: str, *streams: Stream) -> Phase:
        """A stretch of training in this round, by the student's budget (`who` is COORDINATOR) or a
        participant's."""
        config = self.world.config
        owner = config.student if who == COORDINATOR else config.participants
        training, adversary = owner.training, config.participants.adversary
        rides_free = adversary is not None and adversary.kind == "free_rider" and self.coordinates
        if rides_free and who in adversaries.of(config):
            training = training.model_copy(update={"steps": 0})
        return Phase(streams, training, round, config.rounds, self.key(round, who, purpose))

    def labelled(self, examples: Examples, who: int) -> Stream:
        """Ordinary supervised training on examples that carry their answers: all of a participant's
        own, which are hidden where the config asks for it."""
        config = self.world.config
        owner = config.student if who == COORDINATOR else config.participants
        size, mechanism = owner.training.batch_size, None
        asked = config.participants.privacy if who != COORDINATOR else None
        if asked is not None:
            sigma = privacy.noise_for(asked, size / len(examples), owner.training.steps * config.rounds)
            mechanism = Mechanism(asked.clip, sigma, of=self.contender)
        return Stream(examples, size, augment=owner.training.augment, mechanism=mechanism)

    def taught(self, public: Public, answers: Pooled, who: int) -> Stream:
        """Training on the proxy samples that were answered, by the answers alone."""
        config = self.world.config
        training = (config.student if who == COORDINATOR else config.participants).training
        return Stream(
            examples=public.proxy.take(answers.samples),
            batch_size=training.batch_size,
            objective=Objective(response=1.0, task=0.0),
            teacher=answers,
            augment=training.augment,
        )

    def judges_institutions(self, round: int) -> bool:
        """Whether it is looked at after this round how specialists do, and the student on the institutions'
        own test data."""
        policy, last = self.world.config.evaluation.participants, round == self.world.config.rounds
        return policy == "always" or (last and (policy == "last" or not self.trains_student))

    def heads(self) -> HeadSpec | None:
        """What the student has beside its model while it learns; nothing by default."""
        return None

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        """What the coordinator tells everybody at the beginning of a round. It may note something in the
        desk's memory; the student stays as it is, for it may still have to be scored and saved.
        """
        return None

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        """One participant's round: what it sends, and how its training on its own data went."""
        return None, None

    def delivered(self, site: Site, round: int) -> None:
        """What a participant takes note of when its message of this round has arrived."""
        return

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        """What a receiver may assume about a message of this round; None where none is sent.

        size: parameters of the model that the receiver holds.
        """
        return None

    def answers(self, direction: str, round: int, sender: int, levels: int, **more: Any) -> Expectation:
        """For `expect`: answers about the proxy set in `levels` quanta; `more` as Expectation has it."""
        return Expectation(
            kind="responses",
            direction=direction,
            round=round,
            sender=sender,
            classes=self.world.interface.classes,
            positions=self.world.positions,
            levels=levels,
            proxy_size=self.world.proxy_size,
            **more,
        )

    def agreed(self, expected: Expectation, pool: Pool, told: Knowledge | None = None) -> Expectation:
        """What is expected of participants, with what was settled when the round was opened: an empty
        pool of it comes along, and what was broadcast."""
        return expected

    def recalled(self, expected: Expectation, memory: dict[str, np.ndarray]) -> Expectation:
        """What is expected of the coordinator by a participant with this memory."""
        return expected

    def style(
        self, direction: str, round: int, memory: dict[str, np.ndarray], told: Knowledge | None
    ) -> Style:
        """How a message of this round is written.

        memory: the sender's, for the coordinator as it was before it says anything in this round.
        told: for participants, what was broadcast.
        """
        return Style()

    def pool(self, desk: Desk, round: int) -> Pool | None:
        """An empty pool for this round; None where nothing is sent."""
        return None

    def measures(self, desk: Desk) -> dict[str, float]:
        """What pooling leaves to be known beside the student, by name: see `results.MEASURES`."""
        return {}

    @abstractmethod
    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        """The student learns; None where it does not train by gradients."""

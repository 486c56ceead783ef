"""A small federation whose rounds are played one after the other, without actors and DeepSpeed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedsim import data
from fedsim.coordinator import Coordinator
from fedsim.host import Host
from fedsim.learning.student import Student
from fedsim.loading import load
from fedsim.methods import method_of
from fedsim.methods.base import Site
from fedsim.simulation import check, world
from fedsim.types import COORDINATOR, Closing, Knowledge
from fedsim.wire import decode
from fedsim.world import World
from tests.opening import opening

LIMIT = 2**26


class Play:
    """One method on 120 digits; `round` plays one, and keeps what travelled."""

    def __init__(self, method: dict[str, Any], **overrides: Any) -> None:
        training = {"steps": 3, "batch_size": 8, "learning_rate": 0.01}
        tree = {
            "rounds": 3,
            "data": {"source": "digits", "max_examples": 120},
            "participants": {"count": 3, "models": ["vit-micro"], "training": training},
            "student": {"model": "vit-micro", "training": training},
            "methods": [method],
        }
        self.config = load(tree, **overrides)
        check(self.config)
        self.federation = data.build(data.plan(self.config))
        self.world = world(self.config, self.federation)
        self.contender = self.config.methods[0].contender
        self.method = method_of(self.world, self.contender)
        self.public, self.shards = self.federation.public, dict(enumerate(self.federation.shards))
        self.host = Host(self.world, self.public, self.shards)
        starts = {}
        if self.config.pretraining.steps:
            starts = {model: self.host.pretrain(model) for model in self.world.architectures()}
        self.host.set_starts(starts)
        self.starts = starts
        self.coordinator = Coordinator(self.world, self.public, starts, student=torch_student)
        self.coordinator.begin(self.contender, 0, None, data_of_all(self))

    def round(self, number: int, who: list[int] | None = None) -> Closing:
        who = list(self.shards) if who is None else who
        with opening(self.coordinator):
            message = self.coordinator.open(number)
        self.opened = self.weights()
        self.told = self.coordinator._desk.memory.get("told", self.opened)  # where that isn't the student
        self.down = message.data if message else None
        _, self.up = self.host.step(self.contender, number, who, self.down, None, None)
        self.coordinator.receive(who, self.up)
        self.coordinator.learn(number)
        return self.coordinator.close(number, None)

    def weights(self) -> np.ndarray:
        return self.coordinator._desk.learner.parameters().vector

    def site(self, participant: int = 0) -> Site:
        """A participant as it is at the beginning."""
        model = self.world.model_of(self.contender, participant)
        training, adapter = self.config.participants.training, self.method.adapter
        learner = self.world.specialist(model, self.starts.get(model), training, adapter)
        return Site(participant, self.shards[participant], self.public, learner)

    def read(self, data: bytes, round: int, sender: int = COORDINATOR) -> Knowledge:
        direction = "down" if sender == COORDINATOR else "up"
        size = self.coordinator._desk.learner.size
        expected = self.method.expect(direction, round, sender, size)
        assert expected is not None
        return decode(data, expected, LIMIT)


def torch_student(world: World, start: np.ndarray | None, *_: Any) -> Student:
    student = world.config.student
    learner = world.specialist(student.model, start, student.training, world.adapter)
    return Student(learner.engine, learner.modality, learner.classes)


def data_of_all(play: Play) -> Any:
    from fedsim.types import concatenate

    return concatenate([shard.train for shard in play.shards.values()])


@pytest.fixture
def play() -> Callable[..., Play]:
    from fedsim.process import set_up

    set_up(1)
    return Play

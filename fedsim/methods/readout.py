"""The last round of federated distillation, if it is asked for: the student's last layer in closed form.

    down    the student, in few bits; both ends go on with what arrives
    up      moments of a participant's own examples, as the student sees them     `knowledge.moments`
            behind masks that cancel in the sum                                   `aggregation.masks`
    learn   the layer that fits everybody's examples best by least squares

Distillation teaches the student to see, on the proxy set alone; what it sees is good for more than that. No
example and no participant's weights travel; of sums over private examples only everybody's is seen, which has
no noise.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim import events
from fedsim.aggregation.masks import Circle, MaskedSum
from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError
from fedsim.knowledge import moments
from fedsim.methods.base import Desk, Site
from fedsim.models import presets
from fedsim.seeding import generator
from fedsim.types import COORDINATOR, MaskedSums, Update
from fedsim.wire import update
from fedsim.wire.expectation import Expectation
from fedsim.world import World

CERTAINTY = 0.999
"""The probability of a class that the layer is sure of. Measured on digits: the test loss is within 5 % of
the best scale's, for which labelled examples would be needed."""


class ReadoutSettings(Settings):
    ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """λ, in parts of the mean eigenvalue of what the layer reads."""
    bits: Annotated[int, Field(ge=4, le=8)] = 8
    """Bits that a parameter of the student has on the wire, before entropy coding."""


class Readout:
    """A contender's exchange. Holds settings only."""

    def __init__(self, world: World, settings: ReadoutSettings, contender: str) -> None:
        self.world, self.settings, self.contender = world, settings, contender
        self._model = world.config.student.model

    @property
    def _width(self) -> int:
        return presets.width(self._model)

    @property
    def _size(self) -> int:
        """Numbers that a participant sends."""
        return moments.size(self._width, presets.outputs(self._model, self.world.interface.classes))

    def _circle(self, round: int) -> Circle:
        asked = tuple(events.asked(self.world.config, round))
        return Circle(self.world.seed, round, self.contender, asked)

    def expect(self, direction: str, round: int, sender: int) -> Expectation:
        envelope = (direction, round, sender)
        if direction == "up":
            return Expectation("masked", *envelope, size=self._size)
        size, levels = self.world.size_of(self._model), update.levels(self.settings.bits)
        return Expectation("update", *envelope, size=size, levels=levels)

    def tell(self, desk: Desk, round: int) -> Update:
        """The student, which when it learns is what the others get of it: a change from nothing."""
        vector = desk.learner.parameters().vector
        own = vector[: self.world.size_of(self._model)]  # what it learns with beside its model comes after
        rng = generator(self.world.seed, round, COORDINATOR, "quantise parameters")
        told = update.quantise(own, self.settings.bits, 0, rng)
        own[:] = update.values(told)
        desk.memory["told"] = vector
        return told

    def own(self, site: Site, round: int, told: Update) -> MaskedSums:
        """The moments of a participant's examples, hidden."""
        from fedsim.learning import last_layer

        training = self.world.config.participants.training
        student = self.world.specialist(self._model, update.values(told), training)
        found = moments.measure(*last_layer.read(student, site.shard.train))
        site.learner.flops += student.flops
        student.release()
        who, sizes = site.participant, self.world.sizes
        return self._circle(round).hide(who, found.vector(), sizes[who] / sum(sizes), sizes[who])

    def pool(self, round: int) -> MaskedSum:
        return MaskedSum(self._circle(round), self._size, self.world.sizes)

    def learn(self, desk: Desk, pool: MaskedSum) -> None:
        """Set the student's last layer. It stays as it is where somebody's lie has made a sum of the moments
        that no examples can have: who lied, the masks don't tell."""
        desk.learner.load_parameters(desk.memory.pop("told"))
        found = moments.of_vector(pool.mean(), self._width)
        if found.plausible:
            weights = moments.solve(found, self.settings.ridge)
            desk.learner.set_last_layer(weights, desk.public.proxy, CERTAINTY)
        desk.memory["readout"] = np.array([found.plausible], np.float64)


def check(config: RunConfig, entry: MethodConfig, where: str) -> None:
    """Raise ConfigError where a run isn't one for a readout."""
    needs = {
        "images, whose models end in a layer over labels or in a common space": config.data.reads != "text",
        "2 rounds or more, the last of which it is": config.rounds > 1,
        "participants without `privacy`: sums over private examples have no noise": (
            config.participants.privacy is None
        ),
        "participants without `adapter`: all of the student is sent": config.participants.adapter is None,
    }
    for need, met in needs.items():
        if not met:
            raise ConfigError(f"{where}.readout", entry.options["readout"], f"absent: it needs {need}")
    # What its config doesn't say is found before anybody trains.
    presets.width(config.student.model, "student.model")

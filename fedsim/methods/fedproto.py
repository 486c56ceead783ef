"""FedProto: Federated Prototype Learning across Heterogeneous Clients.

Tan, Long, Liu, Zhou, Lu, Jiang, Zhang; AAAI 2022; arXiv 2105.00243.

    local   min_w  CE(w_k) + λ · MSE(f_k(x), C_y),  f the embedding that the output layer reads
    up      C_k,y = mean of f_k(x) over the own examples of class y, with their number |D_k,y|
    pool    C_y = Σ_k |D_k,y| C_k,y ÷ Σ_k |D_k,y|
    down    C

There is no global model: what counts is how good the participants' own become. Prototypes are collected in
evaluation mode, after training; a class that a participant lacks is left out, as is one that nobody has
sent yet. (The official code averages without weights, and collects while the weights change.)

Deviations: numbers travel in half precision; a class that nobody delivers in a round keeps its prototype.
Language models have no class of a window: its domain takes the place, and the mean over its tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError
from fedsim.knowledge.prototypes import PrototypeSum, build, filled
from fedsim.learning.training import Fit, Guide, Objective
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.models import presets
from fedsim.types import Knowledge, Prototypes
from fedsim.wire.expectation import Expectation

_LARGEST = 65_504.0
"""The largest number in half precision: whatever arrives is taken as it is."""
_FIELDS = ("groups", "slots", "centroids", "counts", "confidence")


class FedProtoSettings(Settings):
    prototype: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ; the paper has 1 for MNIST, 0.1 for CIFAR-10."""


class PrototypePool:
    """The weighted mean of each class: `PrototypeSum` as a pool."""

    def __init__(self, sum: PrototypeSum) -> None:
        self.sum = sum

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Prototypes)
        self.sum.add(participant, knowledge)

    def merge(self, other: PrototypePool) -> None:
        self.sum.merge(other.sum)


class FedProto(Method):
    trains_student: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]] = FedProtoSettings
    settings: FedProtoSettings

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        """Prototypes can be compared only where everybody's embeddings have the same width; they are means of
        private examples, which no noise hides."""
        if config.participants.privacy is not None:
            raise ConfigError(f"{where}.name", entry.name, "another method, as participants.privacy is set")
        if entry.specialists == "student":
            return
        models = config.participants.models[: config.participants.count]
        widths = {m: presets.width(m, f"participants.models.{k}") for k, m in enumerate(models)}
        if len(set(widths.values())) > 1:
            each = ", ".join(f"{model} {width}" for model, width in widths.items())
            raise ConfigError(
                f"{where}.specialists",
                entry.specialists,
                f"`student` for {entry.name}, or models of one width: they have {each}",
            )

    @classmethod
    def sends(cls, config: RunConfig, entry: MethodConfig) -> frozenset[str]:
        return frozenset({"prototypes"})

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        return _held(desk)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        shard = site.shard.train
        lesson = self.labelled(shard, site.participant)
        if isinstance(received, Prototypes):
            lesson = replace(
                lesson,
                objective=Objective(prototype=self.settings.prototype),
                guide=Guide(
                    known=np.zeros(len(shard), bool),
                    groups=shard.groups,
                    prototypes=replace(received, confidence=np.ones(len(received), np.float32)),
                ),
            )
        fit = site.learner.fit(self.phase(round, site.participant, "local", lesson))
        (embeddings,) = site.learner.hidden(shard, np.arange(len(shard)), [1.0])
        return build(embeddings, shard.groups, slots=1), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down" and round == 1:
            return None
        groups = len(self.world.interface.group_names)
        return Expectation("prototypes", direction, round, sender, rank=self._width, groups=groups, slots=1)

    def pool(self, desk: Desk, round: int) -> Pool | None:
        groups = len(self.world.interface.group_names)
        return PrototypePool(PrototypeSum(groups, 1, self._width, self.world.sizes, _LARGEST))

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, PrototypePool)
        fresh, old = pool.sum.result(), _held(desk)
        held = fresh if old is None else filled(fresh, old)
        desk.memory.update({name: getattr(held, name) for name in _FIELDS})
        return None

    @property
    def _width(self) -> int:
        return presets.width(self.world.model_of(self.contender, 0))


def _held(desk: Desk) -> Prototypes | None:
    return Prototypes(*(desk.memory[name] for name in _FIELDS)) if desk.memory else None

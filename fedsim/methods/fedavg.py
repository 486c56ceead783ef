"""FedAvg: Communication-Efficient Learning of Deep Networks from Decentralized Data.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas; AISTATS 2017; arXiv 1602.05629.

    w_{t+1} = Σ_k (n_k / n) w_{t+1}^k,   w^k from local training that starts at w_t

Parameters travel as fp32 in both directions. Deviations: AdamW in place of SGD, as everywhere here
(moments are reset each round: they are not sent); in round 1 nothing is sent down, because all
participants already have the public start, as in the other methods.

With `bits` both directions are coded (FedPAQ, Reisizadeh et al., AISTATS 2020, arXiv 1909.13014, has the
upload):

    down   Q(w_t − w_0), w_0 the public start; ŵ_t = w_0 + what arrives, at both ends
    up     Q(w^k − ŵ_t)
    pool   w_{t+1} = ŵ_t + Σ_k (n_k / n) Q(w^k − ŵ_t)

Q is unbiased and needs no memory at the participants, so who missed a round is not behind.

With `adapter` only low-rank adapters on the frozen public start are trained, sent and averaged, by this
contender alone; `participants.adapter` sets them for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import FixedPointSum
from fedsim.config import Adapter, MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError, MessageError
from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.models import presets
from fedsim.seeding import generator
from fedsim.types import COORDINATOR, Knowledge, Parameters, Update
from fedsim.wire import update
from fedsim.wire.expectation import Expectation
from fedsim.wire.messages import MAX_PARAMETER

_FARTHEST = 0.99 * MAX_PARAMETER
"""How far the student may get from its start where that is sent as a change."""


class ParameterMean:
    """Σ n_k w_k ÷ Σ n_k, exact and in any order; w_k may also be a change.

    sizes: the n_k that participants registered with; a message can't claim another.
    """

    def __init__(self, size: int, sizes: tuple[int, ...]) -> None:
        self.sum = FixedPointSum(size)
        self._sizes, self._all = sizes, sum(sizes)

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Parameters | Update)
        if knowledge.examples != self._sizes[participant]:
            raise MessageError(
                "unexpected", f"{knowledge.examples} examples, registered {self._sizes[participant]}"
            )
        share = knowledge.examples / self._all
        if isinstance(knowledge, Update):
            self.sum.add(update.values(knowledge), share)
        else:
            self.sum.add(knowledge.pieces, share, knowledge.bound)

    def merge(self, other: ParameterMean) -> None:
        self.sum.merge(other.sum)


class FedAvgSettings(Settings):
    bits: Annotated[int, Field(ge=2, le=8)] | None = None
    """Bits that a parameter has on the wire, before entropy coding; null: 32, as floating-point numbers."""
    adapter: Adapter | None = None
    """Low-rank adapters for this contender; null: whatever `participants.adapter` says."""


class FedAvg(Method):
    Settings: ClassVar[type[Settings]] = FedAvgSettings
    settings: FedAvgSettings
    keeps_specialists: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    proximal: float = 0.0
    """μ of FedProx."""

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        """Weights can be averaged only where everybody, the student included, has the same shape."""
        models = {*config.participants.models[: config.participants.count], config.student.model}
        if entry.specialists == "participants" and len(models) > 1:
            raise ConfigError(
                f"{where}.specialists",
                entry.specialists,
                f"`student` for {entry.name}: parameters of different architectures "
                f"({', '.join(sorted(models))}) can't be averaged",
            )
        settings = cls.Settings.model_validate(entry.options)
        assert isinstance(settings, FedAvgSettings)
        if settings.adapter is not None:
            used = {"student.model": config.student.model}
            presets.check_adapter(used, f"{where}.adapter", started=config.pretraining.steps > 0)

    @property
    def adapter(self) -> Adapter | None:
        return self.settings.adapter or super().adapter

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        if self.settings.bits is None:
            return desk.learner.parameters() if round > 1 else None
        if round == 1:
            desk.memory["start"] = desk.memory["told"] = desk.learner.parameters().vector
            return None
        start = desk.memory["start"]
        change = self._quantised(desk.learner.parameters().vector - start, 0, round, COORDINATOR)
        desk.memory["told"] = start + update.values(change)
        return change

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if isinstance(received, Parameters):
            site.learner.load_parameters(received.vector)
        elif isinstance(received, Update):
            site.learner.load_parameters(site.learner.parameters().vector + update.values(received))
        begun = site.learner.parameters().vector if self.settings.bits else None
        examples = self.labelled(site.shard.train, site.participant)
        phase = self.phase(round, site.participant, "local", examples)
        fit = site.learner.fit(replace(phase, proximal=self.proximal) if self.proximal else phase)
        trained = site.learner.parameters_in_place(len(site.shard.train))
        if begun is None:
            return trained, fit
        return self._quantised(trained.vector - begun, trained.examples, round, site.participant), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down" and round == 1:
            return None
        bits = self.settings.bits
        if bits is None:
            return Expectation("parameters", direction, round, sender, size=size)
        return Expectation("update", direction, round, sender, levels=update.levels(bits), size=size)

    def pool(self, desk: Desk, round: int) -> Pool | None:
        return ParameterMean(desk.learner.size, self.world.sizes)

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, ParameterMean)
        mean = pool.sum.mean()
        if self.settings.bits:
            mean += desk.memory.pop("told")
            # Each change is bounded, their sum over rounds isn't, and the next message must be acceptable.
            start = desk.memory["start"]
            mean = mean.clip(start - _FARTHEST, start + _FARTHEST)
        desk.learner.load_parameters(mean)
        return None

    def _quantised(self, change: np.ndarray, examples: int, round: int, sender: int) -> Update:
        assert self.settings.bits is not None
        rng = generator(self.world.seed, round, sender, "quantise parameters")
        return update.quantise(change, self.settings.bits, examples, rng)

"""FedAvg: Communication-Efficient Learning of Deep Networks from Decentralized Data.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas; AISTATS 2017; arXiv 1602.05629.

    w_{t+1} = Σ_k (n_k / n) w_{t+1}^k,   w^k from local training that starts at w_t

Parameters travel as fp32 in both directions. Deviations: AdamW in place of SGD, as everywhere here
(moments are reset each round: they are not sent); in round 1 nothing is sent down, because all
participants already have the public start, as in the other methods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from fedsim.aggregation.exact import FixedPointSum
from fedsim.config import MethodConfig, RunConfig
from fedsim.errors import ConfigError, MessageError
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.training import Fit
from fedsim.types import Knowledge, Parameters
from fedsim.wire.messages import Expectation


class ParameterMean:
    """Σ n_k w_k ÷ Σ n_k, exact and in any order.

    sizes: the n_k that participants registered with; a message can't claim another.
    """

    def __init__(self, size: int, sizes: tuple[int, ...]) -> None:
        self.sum = FixedPointSum(size)
        self._sizes, self._all = sizes, sum(sizes)

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Parameters)
        if knowledge.examples != self._sizes[participant]:
            raise MessageError(
                "unexpected", f"{knowledge.examples} examples, registered {self._sizes[participant]}"
            )
        self.sum.add(knowledge.vector, knowledge.examples / self._all, knowledge.largest)

    def merge(self, other: ParameterMean) -> None:
        self.sum.merge(other.sum)


class FedAvg(Method):
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

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        return desk.learner.parameters() if round > 1 else None

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if isinstance(received, Parameters):
            site.learner.load_parameters(received.vector)
        mine = self.labelled(site.shard.train, site.participant)
        phase = replace(self.phase(round, site.participant, "local", mine), proximal=self.proximal)
        fit = site.learner.fit(phase)
        return site.learner.parameters(len(site.shard.train)), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down" and round == 1:
            return None
        return Expectation("parameters", direction, round, sender, size=size)

    def pool(self, desk: Desk, round: int) -> Pool | None:
        return ParameterMean(desk.learner.size, self.world.sizes)

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, ParameterMean)
        desk.learner.load_parameters(pool.sum.mean())
        return None

"""DS-FL: distillation-based semi-supervised federated learning.

Itahara, Nishio, Koda, Morikura, Yamamoto; IEEE TMC 2021; arXiv 2008.06180.

    local    w_k: cross-entropy on the own shard
    up       p_k(x) on a part of the open (proxy) set
    pool     p̄(x) = mean of p_k(x),   then ERA:  softmax(p̄ ÷ T), T = 0.1
    down     the pooled labels
    distil   participants and the global model learn them: KL(p̄ ‖ p)

Deviations: labels travel as counts on a grid of `levels`, coded, in place of float32; participants
learn the labels of a round at the beginning of the next, which is the same sequence of updates; the
same number of steps, not epochs, for everybody, once for each of the two phases.

ERA does not always sharpen: with many classes it flattens. `sharpen` in federated distillation does.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.responses import ResponsePool, as_pooled, era, quantised
from fedsim.config import Settings
from fedsim.errors import ConfigError
from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.methods.federated_distillation import proxy_slice
from fedsim.types import COORDINATOR, Knowledge, Responses
from fedsim.wire.expectation import Expectation

_LARGEST = 2**27
"""Probabilities that ERA may hold: it gives every class of every row some."""


class DSFLSettings(Settings):
    proxy_per_round: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the proxy set that is asked about in a round."""
    levels: Annotated[int, Field(ge=1, le=65535)] = 255
    """Quanta a probability row is divided into."""
    quantiser: Literal["largest_remainder", "sample", "systematic"] = "largest_remainder"
    """See federated distillation; of what participants send."""
    era: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 0.1
    """T of entropy reduction aggregation; null is the plain mean (the paper's SA)."""


class DSFL(Method):
    samples_known: ClassVar[bool] = True
    Settings: ClassVar[type[Settings]] = DSFLSettings
    settings: DSFLSettings

    def samples(self, round: int) -> np.ndarray:
        """The proxy samples of a round, ascending; both ends know them from the seed."""
        return proxy_slice(self.world, round, self.settings.proxy_per_round)

    def check_sizes(self) -> None:
        rows, classes = len(self.samples(1)) * self.world.positions, self.world.interface.classes
        if self.settings.era is not None and rows * classes > _LARGEST:
            raise ConfigError(
                f"{self.contender}.era",
                self.settings.era,
                f"null: {rows:,} rows of {classes:,} classes, all of them above 0, take too much memory",
            )

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        """The labels of the last round; None where nobody delivered then."""
        if not desk.memory or desk.memory["round"] != round - 1:
            return None
        labels = Pooled(
            desk.memory["samples"],
            self.world.positions,
            self.world.interface.classes,
            desk.memory["offsets"],
            desk.memory["ids"],
            desk.memory["probs"],
        )
        return quantised(labels, self.settings.levels)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if isinstance(received, Responses):
            labels = self.taught(site.public, as_pooled(received), site.participant)
            site.learner.fit(self.phase(round, site.participant, "distil", labels))
        mine = self.labelled(site.shard.train, site.participant)
        fit = site.learner.fit(self.phase(round, site.participant, "local", mine))
        said = site.learner.express(
            site.public.proxy,
            self.samples(round),
            levels=self.settings.levels,
            quantiser=self.settings.quantiser,
            key=self.key(round, site.participant, "express"),
        )
        return said, fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        about = round if direction == "up" else round - 1
        if about < 1:
            return None
        return self.answers(direction, round, sender, self.settings.levels, samples=self.samples(about))

    def pool(self, desk: Desk, round: int) -> Pool | None:
        positions, classes = self.world.positions, self.world.interface.classes
        return ResponsePool(self.samples(round), CountSum(positions, classes, self.settings.levels))

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, ResponsePool)
        pooled = pool.sum.result()
        if self.settings.era is not None:
            pooled = era(pooled, self.settings.era)
        desk.memory.update(
            round=np.array(round),
            samples=pooled.samples,
            offsets=pooled.offsets,
            ids=pooled.ids,
            probs=pooled.probs,
        )
        return self._learn(desk, round, pooled)

    def _learn(self, desk: Desk, round: int, pooled: Pooled) -> Fit | None:
        """The global model learns the pooled labels."""
        labels = self.taught(desk.public, pooled, COORDINATOR)
        return desk.learner.fit(self.phase(round, COORDINATOR, "distil", labels))

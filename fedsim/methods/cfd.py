"""CFD: Communication-Efficient Federated Distillation.

Sattler, Marban, Rischke, Samek; IEEE TNSE 2022; arXiv 2012.00632.

    distil   participants learn the coordinator's labels of the last round
    local    w_k: cross-entropy on the own shard
    up       Q_b(p_k(x)) on a fixed part of the proxy set; of these, what changed since the last time
    pool     p̄(x) = mean of the labels of those who delivered
    distil   the student learns p̄ ("dual": it then speaks for itself)
    down     Q_b(q(x)) of the student; of these, what changed

Q_b is the nearest point in L1 of the simplex grid with 2^b − 1 quanta; b = 1 names the likeliest class. What
is left is entropy-coded: b = 1 costs at most log2 K bits a label, so that a round of 80,000 labels of ten
classes is 33.2 kB in place of the 3.2 MB of float32 probabilities.

Both ends keep what was last sent. A participant takes note of what arrived only, so a lost message puts
nobody out of step; the labels go down whole where somebody works now who missed them last time. The
coordinator's copies of the participants' labels grow with their number, as delta coding has it.

Deviations: the student's answers are expressed at the beginning of the next round, which is the same
sequence; participants go on from their own state of the last round; the same number of steps for everybody.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim import events
from fedsim.aggregation.changes import changed, keep, kept, patched
from fedsim.aggregation.exact import CountSum
from fedsim.aggregation.responses import as_pooled
from fedsim.config import Settings
from fedsim.errors import MessageError
from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.methods.federated_distillation import proxy_slice
from fedsim.types import COORDINATOR, Knowledge, Responses
from fedsim.wire.expectation import Expectation

Bits = Annotated[int, Field(ge=1, le=16)]


class CFDSettings(Settings):
    bits_up: Bits = 1
    """b of what participants send."""
    bits_down: Bits = 1
    """b of what the coordinator sends."""
    delta: bool = True
    """Whether only what changed is sent. With two to four classes that costs a little more than it saves."""
    proxy_part: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the proxy set that is labelled, the same in every round."""


class LabelPool:
    """The sum of the labels of those who delivered.

    held: `changes.kept` copies of what each participant last sent, by its number; brought up to date.
    """

    def __init__(self, samples: np.ndarray, sum: CountSum, held: dict[str, np.ndarray]) -> None:
        self.samples, self.sum, self._held = samples, sum, held

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        if not np.isin(knowledge.samples, self.samples, assume_unique=True).all():
            raise MessageError("unexpected", "labels of samples that nobody asked about")
        before = kept(self._held, str(participant))
        whole = knowledge if before is None else patched(before, knowledge)
        if len(whole.samples) != len(self.samples):
            raise MessageError("unexpected", f"{len(whole.samples)} labels of {len(self.samples)}")
        self.sum.add(whole, np.ones(len(whole.samples), np.int64))
        keep(self._held, str(participant), whole)

    def merge(self, other: LabelPool) -> None:
        self.sum.merge(other.sum)
        self._held.update(other._held)


class CFD(Method):
    Settings: ClassVar[type[Settings]] = CFDSettings
    settings: CFDSettings
    pools_at_hosts: ClassVar[bool] = False

    def samples(self) -> np.ndarray:
        """The proxy samples that are labelled, ascending; both ends know them from the seed."""
        return proxy_slice(self.world, 1, self.settings.proxy_part)

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        if round == 1:
            return None  # the student is still the public start, which knows nothing of anybody
        said = self._express(desk, round, COORDINATOR)
        before = kept(desk.memory, "down")
        keep(desk.memory, "down", said)
        # Whoever's labels of the last round arrived has heard what was told there. Of the others that isn't
        # known, and who diverged has forgotten it.
        heard = set(desk.memory.pop("heard", np.zeros(0, np.int64)).tolist())
        missed = set(events.active(self.world.config, round)) - heard
        return said if before is None or missed or not self.settings.delta else changed(before, said)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if isinstance(received, Responses):
            before = kept(site.memory, "down")
            labels = received if before is None else patched(before, received)
            keep(site.memory, "down", labels)
            lesson = self.taught(site.public, as_pooled(labels), site.participant)
            site.learner.fit(self.phase(round, site.participant, "distil", lesson))
        mine = self.labelled(site.shard.train, site.participant)
        fit = site.learner.fit(self.phase(round, site.participant, "local", mine))
        said = self._express(site, round, site.participant)
        before = kept(site.memory, "arrived")
        keep(site.memory, "sent", said)
        return said if before is None or not self.settings.delta else changed(before, said), fit

    def delivered(self, site: Site, round: int) -> None:
        said = kept(site.memory, "sent")
        assert said is not None
        keep(site.memory, "arrived", said)

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down" and round == 1:
            return None
        return self.answers(direction, round, sender, self._levels(sender))

    def pool(self, desk: Desk, round: int) -> Pool | None:
        sums = CountSum(self.world.positions, self.world.interface.classes, self._levels(0))
        return LabelPool(self.samples(), sums, desk.memory if self.settings.delta else {})

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, LabelPool)
        desk.memory["heard"] = np.array(desk.delivered, np.int64)
        lesson = self.taught(desk.public, pool.sum.result(), COORDINATOR)
        return desk.learner.fit(self.phase(round, COORDINATOR, "distil", lesson))

    def _levels(self, sender: int) -> int:
        bits = self.settings.bits_down if sender == COORDINATOR else self.settings.bits_up
        return (1 << bits) - 1

    def _express(self, who: Site | Desk, round: int, sender: int) -> Responses:
        return who.learner.express(
            who.public.proxy,
            self.samples(),
            levels=self._levels(sender),
            quantiser="largest_remainder",
            key=self.key(round, sender, "express"),
        )

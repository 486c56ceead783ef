"""SeqKD: the student learns the sequences that teachers generate.

Kim, Rush; EMNLP 2016; arXiv 1606.07947.

    local     cross-entropy on the own shard
    up        one sequence for each prompt of the participant's share of the round's
    learn     cross-entropy on all the sequences (the forward KL from the teachers, up to a constant), and on
              the proxy set

Deviations: sequences are sampled, where the paper takes the likeliest of a beam search, so that they come
from the same distribution as those of `fl_minillm`; each prompt is continued by one teacher.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.aggregation.rollouts import RolloutPool
from fedsim.config import Settings
from fedsim.learning.sequences import merged
from fedsim.learning.training import Fit, Stream
from fedsim.methods.base import Desk, Pool, Site
from fedsim.methods.prompted import Prompted, PromptSettings
from fedsim.types import COORDINATOR, Knowledge, Rollouts
from fedsim.wire.expectation import Expectation


class SeqKDSettings(PromptSettings):
    imitate: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the loss on the teachers' sequences."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Sequences in each step."""


class SeqKD(Prompted):
    Settings: ClassVar[type[Settings]] = SeqKDSettings
    settings: SeqKDSettings

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        mine = self.labelled(site.shard.train, site.participant)
        fit = site.learner.fit(self.phase(round, site.participant, "local", mine))
        asked = self.share(round, site.participant, 1.0, dealt=round)
        return Rollouts(self.generate(site, asked, round, site.participant) if len(asked) else None), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down":
            return None
        return Expectation(
            kind="sequences",
            direction=direction,
            round=round,
            sender=sender,
            classes=self.world.interface.classes,
            positions=self.settings.longest,
            proxy_size=self.world.proxy_size,
            samples=self.share(round, sender, 1.0, dealt=round),
        )

    def pool(self, desk: Desk, round: int) -> Pool | None:
        return RolloutPool(
            None,
            classes=self.world.interface.classes,
            levels=0,
            confidence=0.0,
            reference=None,
            room=self.room(desk.public.proxy),
            end=self.world.interface.end_of_text,
        )

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, RolloutPool)
        taught = self.examples(desk, merged([pool.fresh[k] for k in sorted(pool.fresh)]))
        streams = [Stream(taught, self.settings.batch, weight=self.settings.imitate)]
        if self.settings.language:
            plain = self.labelled(desk.public.proxy, COORDINATOR)
            streams.append(replace(plain, weight=self.settings.language))
        return desk.learner.fit(self.phase(round, COORDINATOR, "learn", *streams))

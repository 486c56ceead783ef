"""Single institutions: every participant trains its own architecture on its own shard, and that is
all. The lower bound of a federation, and what each of them could do without joining.
"""

from __future__ import annotations

from typing import ClassVar

from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.types import Knowledge


class Solo(Method):
    trains_student: ClassVar[bool] = False
    coordinates: ClassVar[bool] = False

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        mine = self.labelled(site.shard.train, site.participant)
        fit = site.learner.fit(self.phase(round, site.participant, "local", mine))
        return None, fit

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        return None

"""Centralised training: the upper bound, and what a federation must do without.

The student is trained on everybody's private data in one place, with the proxy set where it is
labelled, for the same number of optimiser steps as in the other methods. Nothing is sent.
"""

from __future__ import annotations

from typing import ClassVar

from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool
from fedsim.types import COORDINATOR, Examples, concatenate


class Centralized(Method):
    uses_participants: ClassVar[bool] = False
    gathers_private_data: ClassVar[bool] = True

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        everything = self.labelled(self._examples(desk), COORDINATOR)
        return desk.learner.fit(self.phase(round, COORDINATOR, "central", everything))

    def _examples(self, desk: Desk) -> Examples:
        assert desk.private is not None
        if self.world.proxy_labelled:
            return concatenate([desk.private, desk.public.proxy])
        return desk.private

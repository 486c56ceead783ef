"""The student on the proxy set alone: the control that shows what the knowledge added.

The same student, the same number of optimiser steps, no participant. Possible only where the proxy
set can be learnt from by itself: text carries its own next tokens, images need labels or captions.
"""

from __future__ import annotations

from typing import ClassVar

from fedsim.config import MethodConfig, RunConfig
from fedsim.errors import ConfigError
from fedsim.learning.training import Fit
from fedsim.methods.base import Desk, Method, Pool
from fedsim.types import COORDINATOR


class ProxyOnly(Method):
    uses_participants: ClassVar[bool] = False

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        if not config.data.proxy_answered:
            raise ConfigError(
                f"{where}.name",
                entry.name,
                "another method, or data.proxy_labelled: true: an unlabelled "
                "proxy set of images can't be trained on by itself",
            )

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        proxy = self.labelled(desk.public.proxy, COORDINATOR)
        return desk.learner.fit(self.phase(round, COORDINATOR, "proxy", proxy))

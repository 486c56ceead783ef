"""FedMD: heterogeneous federated learning via model distillation.

Li, Wang; NeurIPS workshop 2019; arXiv 1910.03581.

    start    every model is trained on the labelled public data (`pretraining.steps`), then on its own
    up       class scores p_k(x) on a part of the public data
    pool     consensus: their mean
    down     the consensus
    digest   participants learn the consensus, then revisit their own shard

There is no global model: what counts is how good the participants' own become. Deviations: scores are
probabilities on a grid of `levels`, where the paper leaves them open; digest is by KL; round 1 has no
consensus yet, so it is the training on the own data.
"""

from __future__ import annotations

from typing import ClassVar

from fedsim.aggregation.exact import Pooled
from fedsim.config import Settings
from fedsim.learning.training import Fit
from fedsim.methods.base import Desk
from fedsim.methods.ds_fl import DSFL, DSFLSettings


class FedMDSettings(DSFLSettings):
    era: None = None
    """The consensus is the plain mean."""


class FedMD(DSFL):
    trains_student: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]] = FedMDSettings
    settings: FedMDSettings

    def _learn(self, desk: Desk, round: int, pooled: Pooled) -> Fit | None:
        return None

"""FedProx: Federated Optimization in Heterogeneous Networks.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith; MLSys 2020; arXiv 1812.06127.

    min_w  F_k(w) + (μ/2) ‖w − w_t‖²    at every participant, then averaged as in FedAvg

μ = 0 is FedAvg, bit for bit. Deviations: as in FedAvg; the same number of steps for everybody.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.config import Settings
from fedsim.methods.fedavg import FedAvg, FedAvgSettings


class FedProxSettings(FedAvgSettings):
    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """μ; the paper tries 0.001, 0.01, 0.1 and 1."""


class FedProx(FedAvg):
    Settings: ClassVar[type[Settings]] = FedProxSettings
    settings: FedProxSettings

    @property
    def proximal(self) -> float:  # type: ignore[override]
        return self.settings.mu

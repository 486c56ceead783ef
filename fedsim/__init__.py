"""Federated distillation of foundation models, simulated at cluster scale on Ray.

In three lines:

    config = fedsim.load("experiments/quickstart.yaml", rounds=2)
    result = fedsim.run(config)
    result.summary  # a DataFrame: who reached what, at which bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.config import RunConfig
from fedsim.errors import ConfigError, FedsimError, MessageError, NotInstalledError, RunError
from fedsim.loading import load

if TYPE_CHECKING:
    from fedsim.simulation import Result

__version__ = "0.1.0"


def run(config: RunConfig, *, resume: bool = False) -> Result:
    """Run a config to its end and return its tables; see `fedsim.simulation.run`."""
    from fedsim import extras, simulation  # pulls in pyarrow and the data package: not for `--help`

    extras.require_run("fedsim.run")
    return simulation.run(config, resume=resume)


__all__ = [
    "ConfigError",
    "FedsimError",
    "MessageError",
    "NotInstalledError",
    "RunConfig",
    "RunError",
    "load",
    "run",
]

"""Where examples come from. Each source is `load(data: DataConfig, rng: Generator) -> Raw`."""

from collections.abc import Callable

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources import digits, files, hub, stdlib, synthetic
from fedsim.data.sources.raw import Raw

Source = Callable[[DataConfig, np.random.Generator], Raw]

SOURCES: dict[str, Source] = {
    "stdlib": stdlib.load,
    "digits": digits.load,
    "synthetic": synthetic.load,
    "files": files.load,
    "hub": hub.load,
}

__all__ = ["SOURCES", "Raw", "Source"]

"""Where examples come from. Each source is `load(data: DataConfig, rng: Generator) -> Raw`."""

from collections.abc import Callable

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources import digits, files, hub, manual, photos, stdlib, synthetic
from fedsim.data.sources.raw import Raw

Source = Callable[[DataConfig, np.random.Generator], Raw]

SOURCES: dict[str, Source] = {
    "stdlib": stdlib.load,
    "manual": manual.load,
    "digits": digits.load,
    "photos": photos.load,
    "synthetic": synthetic.load,
    "files": files.load,
    "hub": hub.load,
}

__all__ = ["SOURCES", "Raw", "Source"]

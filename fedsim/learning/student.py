"""The coordinator's model, which learns from what others know."""

from __future__ import annotations

import numpy as np

from fedsim.learning import last_layer
from fedsim.learning.learner import Learner
from fedsim.models.taps import output_layer
from fedsim.types import Examples


class Student(Learner):
    """The coordinator's learner, on one rank or on several."""

    def check_last_layer(self) -> None:
        """Raise ConfigError for a model whose last layer `set_last_layer` couldn't set."""
        output_layer(self.engine.model, self.classes)

    def set_last_layer(self, weights: np.ndarray, proxy: Examples, certainty: float) -> None:
        """See `last_layer.replace`."""
        last_layer.replace(self, weights, proxy, certainty)

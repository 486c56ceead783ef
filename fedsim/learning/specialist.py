"""A participant's model, which takes turns with those of others."""

from __future__ import annotations

import numpy as np

from fedsim.learning.learner import Learner
from fedsim.student.engine import TorchEngine
from fedsim.types import Parameters


class Specialist(Learner):
    """A participant's learner: plain torch, so that it can be set back for another participant."""

    _torch: TorchEngine
    _start: np.ndarray | None = None

    @property  # type: ignore[override]
    def engine(self) -> TorchEngine:
        """The engine, after what `reset` left to do."""
        if self._start is not None:
            start, self._start = self._start, None
            self._torch.load_vector(start)
        return self._torch

    @engine.setter
    def engine(self, engine: TorchEngine) -> None:
        self._torch = engine

    @property
    def size(self) -> int:
        """Number of parameters, P. Asking for it writes no weights."""
        return self._torch.size

    @property
    def nbytes(self) -> int:
        """What its weights and moments take in memory."""
        return self._torch.nbytes

    def reset(self, vector: np.ndarray) -> None:
        """As new: these weights, and an optimiser that has not stepped yet.

        The weights are written when they are needed: often the coordinator's come before that.
        """
        self._torch.reset()
        self._start = vector

    def parameters_in_place(self, examples: int) -> Parameters:
        """As `parameters`, but not copied where numpy can see them: what is sent before the model learns on
        need be copied only once, into its message."""
        return Parameters(tuple(self.engine.pieces()), examples)

    def load_parameters(self, vector: np.ndarray) -> None:
        self._start = None
        super().load_parameters(vector)

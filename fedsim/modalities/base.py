"""The interface of a modality, and scoring, which is the same for all.

Legend: B batch, R rows (predictions), K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedsim.types import Examples

Inputs = dict[str, Tensor]


class Modality(ABC):
    @abstractmethod
    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        """What the model's forward takes, for the examples at `index`."""

    @abstractmethod
    def rows(self, logits: Tensor) -> Tensor:
        """A model's logits as [R, K], R = B · positions, example after example."""

    @abstractmethod
    def answers(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        """The right class of every row, [R] int64; None where nobody knows it."""

    def labelled(self, examples: Examples) -> bool:
        """Whether the examples carry their answers."""
        return self.answers(examples, np.arange(min(1, len(examples))), torch.device("cpu")) is not None

    @abstractmethod
    def positions(self, examples: Examples) -> int:
        """Rows per example."""

    @abstractmethod
    def score(self, loss: float, correct: float) -> float:
        """The metric from the mean loss (nats) and the share of rows whose top class is right."""

    def augment(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """A random variation that keeps every answer; none by default."""
        return inputs


def chunks(n: int, size: int) -> Iterator[np.ndarray]:
    """0 … n − 1 in runs of at most `size`."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))

"""The interface of a modality, and what is the same for most.

Legend: B batch, R rows (predictions), K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.learning.training import Objective
from fedsim.types import Examples

Inputs = dict[str, Tensor]

UNASKED = -100
"""The answer of a row that nobody asks about: part of a prompt, or padding. Losses leave it out."""


class Modality(ABC):
    together: ClassVar[bool] = False
    """Whether a forward pass computes something once for all its examples, beside what each costs."""

    @abstractmethod
    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        """The columns of the examples at `index` that a model reads, each [B, …]."""

    def asked(self, inputs: Inputs, want: Objective) -> Inputs:
        """What the model's forward takes to serve `want`; the columns themselves by default."""
        return inputs

    def logits(self, outputs: Any) -> Tensor:
        """What the model's forward returned → its logits."""
        return outputs.logits  # type: ignore[no-any-return]

    @abstractmethod
    def rows(self, logits: Tensor) -> Tensor:
        """A model's logits as [R, K], R = B · positions, example after example."""

    @abstractmethod
    def answers(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        """The right class of every row, [R] int64, or UNASKED; None where nobody knows it."""

    def wanted(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        """Which rows anybody asks about, [R] bool; None where it is all of them."""
        return None

    def labelled(self, examples: Examples) -> bool:
        """Whether the examples carry their answers."""
        return self.answers(examples, np.arange(min(1, len(examples))), torch.device("cpu")) is not None

    def learnable(self, examples: Examples) -> bool:
        """Whether there is a task loss on the examples."""
        return self.labelled(examples)

    def task_loss(
        self, logits: Tensor, rows: Tensor, examples: Examples, index: np.ndarray, device: torch.device
    ) -> Tensor | None:
        """The supervised loss of the batch at `index`, nats; None where the examples lack the answers.

        By default the mean cross-entropy of `rows`, which are `self.rows(logits)` in fp32.
        """
        answers = self.answers(examples, index, device)
        return None if answers is None else F.cross_entropy(rows, answers)

    def targets(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor:
        """What `example_loss` needs beside the inputs, [B, …]: the answers of each example.

        Raises ValueError where nobody knows them."""
        answers = self.answers(examples, index, device)
        if answers is None:
            raise ValueError("only labelled examples can be learnt from by themselves")
        return answers.view(len(index), self.positions(examples))

    def example_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The supervised loss of one example by itself, nats.

        logits: the model's on a batch of this one.   target: its part of `targets`.
        """
        return F.cross_entropy(self.rows(logits), target)

    def aims(self, outputs: Any, examples: Examples, index: np.ndarray, classes: int) -> Tensor:
        """What the last layer should give out for the labelled examples at `index`, [B, K]: 1 for the right
        class.   outputs: the model's on these, asked for its task."""
        return F.one_hot(self.targets(examples, index, torch.device("cpu"))[:, 0], classes)

    def ideals(self, outputs: Any, classes: int) -> Tensor:
        """What the last layer gives out where it is sure of a class, a row for each of the K."""
        return torch.eye(classes)

    def judged(self, examples: Examples) -> tuple[Modality, Examples]:
        """By which questions a model is scored on these examples, and the examples with the answers."""
        return self, examples

    @abstractmethod
    def positions(self, examples: Examples) -> int:
        """Rows per example."""

    @abstractmethod
    def score(self, loss: float, correct: float) -> float:
        """The metric from the mean loss (nats) and the share of rows whose top class is right."""

    def content(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        """Which of S positions hold something, [B, S] bool, the others being padding; None: all of them."""
        return None

    def pooled(self, hidden: Tensor, content: Tensor | None = None) -> Tensor:
        """One vector [B, d] for each example, of hidden states at S positions [B, S, d]: the mean over those
        with content."""
        if hidden.ndim != 3 or content is None:
            return hidden.mean(1) if hidden.ndim == 3 else hidden
        share = content.to(hidden) / content.sum(1, keepdim=True)
        return (hidden * share[:, :, None]).sum(1)

    def augment(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """A random variation that keeps every answer; none by default."""
        return inputs


def chunks(n: int, size: int) -> Iterator[np.ndarray]:
    """0 … n − 1 in runs of at most `size`."""
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))

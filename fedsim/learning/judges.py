"""From logits to claims, for `confidence`: what a model says about how well it knows each sample.

Plain records with a `__call__`, because every rank of a student is sent one.

Legend: n samples, p rows per sample, R = n·p rows, K classes, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_SHARPEST, _FLATTEST = 0.02, 50.0
"""The temperatures between which a calibrated one is looked for."""


class Judge(Protocol):
    """From logits to claims."""

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        """[R], of which each sample gets the mean over the rows that are asked about, or [n].

        index: [n], proxy samples."""


@dataclass(frozen=True)
class TaskLoss:
    """Cross-entropy of the known answers, nats."""

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        if answers_R is None:
            raise ValueError("only labelled examples can be scored")
        return F.cross_entropy(logits_RK, answers_R, reduction="none")


@dataclass(frozen=True)
class Entropy:
    """Of the prediction at a temperature, nats."""

    temperature: float

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        log_p = F.log_softmax(logits_RK / self.temperature, dim=-1)
        return -(log_p.exp() * log_p).sum(-1)


@dataclass(frozen=True)
class ExpectedLoss:
    """Σ_g p(g | x) · losses[g], nats.

    losses: [G].   membership: [N, G] of every proxy sample; None: the prediction itself (G = K).
    """

    losses: np.ndarray
    membership: np.ndarray | None = None

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        return _expected(self.losses, self.membership, index, logits_RK)


@dataclass(frozen=True)
class Experience:
    """−log(½ + Σ_g p(g | x) · counts[g]), nats: e to its negative is the number of examples behind an answer.

    counts: [G].   membership: [N, G] of every proxy sample; None: the prediction itself (G = K).
    """

    counts: np.ndarray
    membership: np.ndarray | None = None

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        return -torch.log(_expected(self.counts, self.membership, index, logits_RK) + 0.5)


@dataclass(frozen=True)
class Known:
    """Claims that need no model.   values: [N], one for every proxy sample."""

    values: np.ndarray

    def __call__(self, index: np.ndarray, logits_RK: Tensor, answers_R: Tensor | None) -> Tensor:
        return torch.from_numpy(self.values[index])


def fit_temperature(logits_RK: Tensor, answers_R: Tensor) -> float:
    """The τ in [0.02, 50] with the least mean NLL of softmax(z/τ): NLL is convex in 1/τ, so its slope
    there is bisected."""
    low, high = 1 / _FLATTEST, 1 / _SHARPEST
    logits = logits_RK.double()
    right = logits.gather(-1, answers_R[:, None])[:, 0]

    def slope(inverse: float) -> float:
        expected = (torch.softmax(inverse * logits, dim=-1) * logits).sum(-1)
        return float((expected - right).mean())

    for _ in range(40):
        middle = (low * high) ** 0.5
        if slope(middle) > 0:  # sharper makes it worse
            high = middle
        else:
            low = middle
    return float(1 / (low * high) ** 0.5)


def _expected(
    values: np.ndarray, membership: np.ndarray | None, index: np.ndarray, logits_RK: Tensor
) -> Tensor:
    """Σ_g p(g | x) · values[g].   membership: [N, G]; None: the prediction itself."""
    if membership is not None:
        return torch.from_numpy(membership[index] @ values)
    return torch.softmax(logits_RK, dim=-1) @ torch.from_numpy(values).to(logits_RK)

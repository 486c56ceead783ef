"""What a model gives away about single examples: the numbers that membership is told from.

Legend: N examples, R rows of predictions, K classes, p rows per example.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.learning.learner import Learner
from fedsim.modalities.base import UNASKED
from fedsim.types import Examples

LOWEST = 0.2
"""Part of an example's rows that Min-K%++ looks at."""


def signals(learner: Learner, examples: Examples) -> dict[str, np.ndarray]:
    """Each [N] float64, larger for what a model knows better:

    loss     − mean cross-entropy of the right answers (Yeom et al., arXiv 1709.01604)
    phi      mean of log(p ÷ (1 − p)), p of the right answer: what LiRA takes for normal
    min_k    Min-K%++, of examples with several rows
    """
    parts: dict[str, list[Tensor]] = {"loss": [], "phi": [], "min_k": []}
    for index, logits_RK, answers_R in learner.predictions(examples):
        asked_R = answers_R != UNASKED  # not prompts, nor padding
        known_R = answers_R.clamp_min(0)
        for name, rows in (
            ("loss", -F.cross_entropy(logits_RK, known_R, reduction="none")),
            ("phi", log_odds(logits_RK, known_R)),
        ):
            told = torch.where(asked_R, rows, 0.0).view(len(index), -1).sum(1)
            parts[name].append(told / asked_R.view(len(index), -1).sum(1))
        if len(logits_RK) > len(index):
            parts["min_k"].append(min_k(logits_RK, known_R, asked_R, len(logits_RK) // len(index)))
    return {name: torch.cat(some).double().cpu().numpy() for name, some in parts.items() if some}


def log_odds(logits_RK: Tensor, answers_R: Tensor) -> Tensor:
    """log(p ÷ (1 − p)) of the right answers, [R]; finite where p rounds to 1."""
    right_R1 = answers_R[:, None]
    others_RK = logits_RK.scatter(1, right_R1, float("-inf"))
    return logits_RK.gather(1, right_R1)[:, 0] - others_RK.logsumexp(1)


def min_k(logits_RK: Tensor, answers_R: Tensor, asked_R: Tensor, rows: int, lowest: float = LOWEST) -> Tensor:
    """Min-K%++ (Zhang et al., arXiv 2404.02936) of examples with p = `rows` each, [N].

    Mean, over the lowest part of an example's asked rows, of (log p_y − μ) ÷ σ; μ and σ² are mean and
    variance of log p over the vocabulary, by p.
    """
    log_p = logits_RK.log_softmax(1)
    p = log_p.exp()
    mean_R = (p * log_p).sum(1)
    variance_R = (p * (log_p - mean_R[:, None]) ** 2).sum(1)
    right_R = log_p.gather(1, answers_R[:, None])[:, 0]
    scores_R = (right_R - mean_R) / variance_R.sqrt().clamp_min(1e-6)
    ranked_Np = torch.where(asked_R, scores_R, float("inf")).view(-1, rows).sort(1).values
    number_N = (lowest * asked_R.view(-1, rows).sum(1).double() - 1e-9).ceil().clamp_min(1).long()
    picked_Np = torch.arange(rows, device=ranked_Np.device) < number_N[:, None]
    return torch.where(picked_Np, ranked_Np, 0.0).sum(1) / number_N

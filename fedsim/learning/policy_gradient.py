"""The reverse KL of sequences as a loss: policy gradient in the decomposition of MiniLLM.

Gu, Dong, Wei, Huang; ICLR 2024; arXiv 2306.08543. For a student q, a teacher p and
r_t = log p(y_t) − log q(y_t),

    ∇ KL(q ‖ p) = Σ_t E[∇ KL(q_t ‖ p_t)]  −  E Σ_t R_{t+1} ∇ log q(y_t),     R_t = Σ_{t′ ≥ t} r_{t′}

The first part (`single step`) is exact where the teacher's distribution is known, or an average over tokens
drawn from the student at that step; the second (`long term`) is sampled. The reward of step t itself must not
be in the second, which is why it has R_{t+1}: with R_t it counts twice.

What a step earns is known before the student moves, so it is plain data (`returns`); a gradient never
runs through it.

Legend: R rows (generated tokens of a batch, prompts and padding left out), K classes, J tokens of a row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.aggregation.responses import of_samples
from fedsim.learning.training import Lesson

FLOOR = 1e-3
"""Mass that a teacher has at least at all the classes together that it didn't name: a quantised
distribution is 0 almost everywhere, where the reverse KL would be infinite."""


def single_step(logits_RK: Tensor, teacher_RK: Tensor) -> Tensor:
    """KL(q ‖ p) of every row, [R]; exact over the classes."""
    log_q = F.log_softmax(logits_RK, dim=-1)
    p = teacher_RK.clamp_min(FLOOR / teacher_RK.shape[-1])
    log_p = (p / p.sum(-1, keepdim=True)).log()
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def sampled(
    logits_RK: Tensor, tokens_RJ: Tensor, old_RJ: Tensor, advantages_RJ: Tensor, clip: float
) -> Tensor:
    """PPO's clipped objective (Schulman et al., arXiv 1707.06347, equation 7) as a loss of every row, [R]:
    the mean over its J tokens.

    old_RJ: log q of the tokens under the student that they were drawn from.   advantages_RJ: what they earn.
    Where nothing moved yet, the gradient of a token's part is −A ∇ log q.
    """
    ratio = (F.log_softmax(logits_RK, dim=-1).gather(-1, tokens_RJ) - old_RJ).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages_RJ, clipped * advantages_RJ).mean(-1)


def lesson_terms(logits_RK: Tensor, tokens_R: Tensor, lesson: Lesson, batch: np.ndarray) -> dict[str, Tensor]:
    """The terms of a lesson on its sequences at `batch`, per token of an average sequence, so that neither
    padding nor who shares a batch changes what a token weighs.

    logits_RK, tokens_R: at all tokens of these sequences, one sequence after the other.
    """
    index = np.concatenate([np.arange(lesson.offsets[i], lesson.offsets[i + 1]) for i in batch])

    def of_batch(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[index]).to(logits_RK.device)

    scale = of_batch(lesson.weights) / (len(batch) * lesson.offsets[-1] / (len(lesson.offsets) - 1))
    old, advantages = of_batch(lesson.old)[:, None], of_batch(lesson.advantages)[:, None]
    long_term = sampled(logits_RK, tokens_R[:, None], old, advantages, lesson.clip)
    terms = {"long_term": (scale * long_term).sum()}
    if lesson.drawn is not None:
        assert lesson.drawn_old is not None and lesson.drawn_advantages is not None
        drawn, before = of_batch(lesson.drawn), of_batch(lesson.drawn_old)
        earns = of_batch(lesson.drawn_advantages)
        terms["single_step"] = (scale * sampled(logits_RK, drawn, before, earns, lesson.clip)).sum()
    if lesson.teacher is not None:
        teacher_RK = torch.from_numpy(of_samples(lesson.teacher, index)).to(logits_RK.device)
        terms["single_step"] = (scale * single_step(logits_RK, teacher_RK)).sum()
    return terms

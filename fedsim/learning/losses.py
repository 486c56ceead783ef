"""Losses as pure tensor functions.

Legend: R rows of a batch, K classes, _RK a tensor of that shape; T temperature.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

DIVERGENCES = ("forward", "reverse", "skew", "skew_reverse", "jsd")
"""What `divergence` can measure between teacher p and student q."""

_UNNAMED = 1e-3
"""Mass that a reverse divergence lets a teacher have at all the classes together that it didn't name."""


def weighted(weight: float, term: Tensor) -> Tensor:
    """weight · term. A weight of one is left out: it costs an operation, and another on the way back."""
    return term if weight == 1.0 else weight * term


def temper(probs_RK: Tensor, temperature: float) -> Tensor:
    """softmax(log p / T): the distribution that logits with softmax p have at temperature T."""
    if temperature == 1.0:
        return probs_RK
    # Zero stays zero: a class that nobody mentioned does not appear by tempering.
    powered = probs_RK.clamp_min(0).pow(1.0 / temperature)
    return powered / powered.sum(-1, keepdim=True)


def response_kl(logits_RK: Tensor, teacher_RK: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(p_T ‖ softmax(z/T)), mean over rows; p at temperature 1 comes in, both are tempered.

    The factor T² keeps the gradient's size about constant in T (Hinton et al., arXiv 1503.02531,
    section 2). The teacher's entropy is included, so the value is a KL divergence: 0 at equality.
    """
    teacher = temper(teacher_RK, temperature)
    student = F.log_softmax(logits_RK / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean")


def divergence(
    logits_RK: Tensor, teacher_RK: Tensor, kind: str = "forward", temperature: float = 1.0, skew: float = 0.1
) -> Tensor:
    """T² · D(p_T, q_T), mean over rows, for q_T = softmax(z/T); 0 at equality and never below.

        forward        KL(p ‖ q)
        reverse        KL(q ‖ p′), p′ being p with a thousandth of the mass at what p leaves out
        skew           KL(p ‖ λp + (1 − λ)q)                          DistiLLM (arXiv 2402.03898)
        skew_reverse   KL(q ‖ (1 − λ)p + λq)                          DistiLLM
        jsd            β·KL(p ‖ m) + (1 − β)·KL(q ‖ m), m = βp + (1 − β)q     GKD (arXiv 2306.13649)

    skew: λ or β, between 0 and 1. The teacher's own entropy is included everywhere.
    """
    if kind == "forward":
        return response_kl(logits_RK, teacher_RK, temperature)
    if kind not in DIVERGENCES:
        raise ValueError(f"{kind!r} is not one of {', '.join(DIVERGENCES)}")
    p = temper(teacher_RK, temperature)
    log_q = F.log_softmax(logits_RK / temperature, dim=-1)
    q = log_q.exp()
    if kind == "reverse":
        # A quantised teacher is 0 almost everywhere, where the divergence would be infinite.
        spread = p.clamp_min(_UNNAMED / p.shape[-1])
        mixture = spread / spread.sum(-1, keepdim=True)
    else:
        mixture = torch.lerp(p, q, skew if kind == "skew_reverse" else 1 - skew)
    # Finite, with its gradient, where a student's probability underflows to 0.
    log_m = mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()
    of_teacher, of_student = {"skew": (1.0, 0.0), "jsd": (skew, 1 - skew)}.get(kind, (0.0, 1.0))
    value = torch.zeros((), dtype=p.dtype, device=p.device)
    if of_teacher:  # KL(p ‖ m); where p is 0, so is the term
        value = value + of_teacher * (torch.xlogy(p, p).sum() - (p * log_m).sum())
    if of_student:  # KL(q ‖ m)
        value = value + of_student * (q * (log_q - log_m)).sum()
    return temperature**2 * value / len(logits_RK)


def contrastive(logits_BB: Tensor, alike_BB: Tensor) -> Tensor:
    """½ · (image → text + text → image) cross-entropy over a batch of pairs, mean over B: CLIP's loss.

    logits_BB: image i against text j, scaled by the temperature.   alike_BB: bool, symmetric: whether
    text j is right for image i, its own always; all right ones are wanted equally.
    """
    wanted = alike_BB.to(logits_BB.dtype)
    wanted = wanted / wanted.sum(-1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits_BB, wanted) + F.cross_entropy(logits_BB.t(), wanted))


def proximal(parameters: Iterable[Tensor], anchors: Iterable[Tensor]) -> Tensor:
    """½ · Σ (w − w_t)²: FedProx's term without its μ (Li et al., arXiv 1812.06127, equation 2)."""
    pairs = zip(parameters, anchors, strict=True)
    return 0.5 * torch.stack([(w - a).pow(2).sum() for w, a in pairs]).sum()


def feature_mse(mapped_Br: Tensor, embedding_Br: Tensor, known_B: Tensor, share: float) -> Tensor:
    """Mean squared error over the rows that are known and their r numbers.

    share: of the known rows among all examples, which stands for their share of this batch: so the term
    weighs every example alike, whatever batch (and rank) it is in.
    """
    errors_B = (mapped_Br - embedding_Br).pow(2).mean(-1)
    return torch.where(known_B, errors_B, 0).mean() / share


def prototype_distance(
    mapped_Br: Tensor, groups_B: Tensor, centroids_mr: Tensor, of_group_m: Tensor, confidence_m: Tensor
) -> Tensor:
    """Confidence-weighted squared distance, mean over r, to the nearest prototype of the row's group.

    Mean over B; a row whose group has no prototype (or is negative) counts as zero.
    """
    squared_Bm = (mapped_Br[:, None] - centroids_mr[None]).pow(2).mean(-1)
    squared_Bm = squared_Bm.masked_fill(groups_B[:, None] != of_group_m[None], float("inf"))
    nearest_B = squared_Bm.argmin(-1, keepdim=True)
    distance_B = squared_Bm.gather(1, nearest_B)[:, 0]
    return torch.where(distance_B.isfinite(), confidence_m[nearest_B[:, 0]] * distance_B, 0).mean()

"""Count what a model computes, so that virtual time does not depend on the machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_factor(model: nn.Module) -> float:
    """How many times its forward pass a training step costs, about: once forward, once for the gradients of
    the inputs, once for those of the weights that learn (Kaplan et al., arXiv 2001.08361, section 2.1)."""
    learning = [p.requires_grad for p in model.parameters()]
    if all(learning):  # also where the weights are sharded, and so can't be counted here
        return 3.0
    sizes = [p.numel() for p in model.parameters()]
    return 2.0 + sum(s for s, learns in zip(sizes, learning, strict=True) if learns) / sum(sizes)


def forward_flops(model: nn.Module, inputs: dict[str, Any]) -> float:
    """Floating-point operations of one forward pass, counted operator by operator.

    A multiply-add counts as two. Runs on the model as it is, without gradients.
    """
    counter = FlopCounterMode(display=False)
    training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(**inputs)
    model.train(training)
    return float(counter.get_total_flops())

"""Count what a model computes, so that virtual time does not depend on the machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TRAINING_FACTOR = 3
"""A training step costs its forward pass about three times: backward is twice the forward
(gradients of inputs and of weights; Kaplan et al., arXiv 2001.08361, section 2.1)."""


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

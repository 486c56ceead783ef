"""The gradient of DP-SGD: one for each example, clipped, added up, with noise.

Abadi et al., arXiv 1607.00133:   g = (Σ_i g_i · min(1, C ÷ ‖g_i‖) + N(0, σ²C²)) ÷ B

over a batch drawn example by example; B is its expected size, as dividing by the true one would tell who was
drawn. Gradients of single examples come from `torch.func`, so that any model works whose forward pass
looks at each example by itself. An example whose gradient is not finite adds nothing.

Legend: B examples of a batch, P parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedsim.learning.training import Mechanism, Objective, Stream
from fedsim.modalities.base import Inputs, Modality

BOTH = Objective(response=1.0, task=1.0)
"""An example by itself learns from the public questions and its own answer."""

_CHUNK_VALUES = 2**26
"""Gradients of single examples held at once: 256 MiB in fp32."""

Gradients = dict[str, Tensor]


def example_gradients(
    model: nn.Module, modality: Modality, inputs: Inputs, targets: Tensor
) -> tuple[Gradients, Tensor]:
    """Of every trainable parameter the gradient of each example's own loss, [B, …], and the losses [B].

    inputs, targets: of B ≥ 1 examples, see `Modality`.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    learning = {name: parameters[name] for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p for name, p in parameters.items() if name not in learning}

    def loss(learning: Gradients, frozen: Gradients, one: Inputs, target: Tensor) -> Tensor:
        asked = modality.asked({name: column[None] for name, column in one.items()}, BOTH)
        outputs = functional_call(model, {**frozen, **learning}, (), asked)
        return modality.example_loss(modality.logits(outputs).float(), target)

    each = vmap(grad_and_value(loss), in_dims=(None, None, 0, 0), randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # the others know no batches of batches, and would take them in turn
        gradients, losses = each(learning, frozen, inputs, targets)
    return gradients, losses


def clipped_sum(gradients: Gradients, clip: float) -> Gradients:
    """Σ_i g_i · min(1, clip ÷ ‖g_i‖), the norm being that of all parameters together."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    finite = torch.isfinite(squares)
    factors = torch.where(finite, (clip / squares.sqrt().clamp_min(1e-12)).clamp(max=1.0), 0.0)
    sums = {}
    for name, gradient in gradients.items():
        # 0 · ∞ is not a number.
        rows = torch.where(finite[:, None], gradient.flatten(1), 0.0)
        sums[name] = (factors @ rows).view(gradient.shape[1:])
    return sums


def private_gradient(
    model: nn.Module,
    modality: Modality,
    inputs: Inputs,
    targets: Tensor,
    mechanism: Mechanism,
    expected: float,
    rng: np.random.Generator,
) -> tuple[Gradients, Tensor]:
    """(g by parameter, Σ_i loss_i ÷ B); the batch may be empty.   expected: B.

    The noise comes from `rng` parameter by parameter: the guarantee holds towards those who don't know
    the seed. The loss is not private.
    """
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in learning.items()}
    total = torch.zeros((), device=targets.device)
    size = max(1, _CHUNK_VALUES // sum(p.numel() for p in learning.values()))
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        some = {name: column[part] for name, column in inputs.items()}
        gradients, losses = example_gradients(model, modality, some, targets[part])
        total = total + losses.sum()
        for name, added in clipped_sum(gradients, mechanism.clip).items():
            sums[name] += added
    deviation = mechanism.noise * mechanism.clip
    for added in sums.values():
        noise = rng.standard_normal(tuple(added.shape), dtype=np.float32)
        added += deviation * torch.from_numpy(noise).to(added.device)
        added /= expected
    return sums, total / expected


def learn(
    model: nn.Module,
    modality: Modality,
    stream: Stream,
    batch: np.ndarray,
    device: torch.device,
    variation: np.random.Generator | None,
    noise: np.random.Generator,
) -> Tensor:
    """Add a stream's noisy gradient to the parameters'; the weighted loss, which leads to no parameter.

    batch: which of its examples.   variation: what augmented ones are varied by.
    """
    taught = stream.teacher is not None or stream.guide is not None
    if stream.mechanism is None or taught or not stream.objective.task:
        raise ValueError("private examples are learnt by their answers")
    inputs = modality.inputs(stream.examples, batch, device)
    if stream.augment and variation is not None and len(batch):
        inputs = modality.augment(inputs, variation)
    targets = modality.targets(stream.examples, batch, device)
    gradients, loss = private_gradient(
        model, modality, inputs, targets, stream.mechanism, stream.batch_size, noise
    )
    weight = stream.weight * stream.objective.task
    for name, parameter in model.named_parameters():
        if name in gradients:
            gradient = weight * gradients[name]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return (weight * loss).detach().requires_grad_()

"""SimMIM: A Simple Framework for Masked Image Modeling.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu; CVPR 2022; arXiv 2111.09886. Patches of an image are hidden from a
vision transformer, and a linear head predicts their pixels:

    L = mean over hidden pixels of |x − head(encoder(image without them))|

Deviations: a hidden patch is mid-grey in place of a learned token, so that the model keeps exactly the
parameters it has for its task; a patch is hidden as the model cuts them, not in squares of 32 pixels. The
head is thrown away afterwards.

Legend: B images, N patches, C channels, p pixels a side of a patch, d width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.errors import DivergedError
from fedsim.learning.training import Phase
from fedsim.modalities.base import Modality
from fedsim.seeding import generator, torch_seed
from fedsim.student.engine import TorchEngine

HIDDEN = 0.6
"""Share of the patches that are hidden, the paper's."""


class MaskedImages(nn.Module):
    """A model that is to learn from images, with the head that it learns by."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        # A classifier's encoder is below its head, a dual encoder's is one of two.
        self.encoder: Any = model.vision_model if hasattr(model, "vision_model") else model.base_model
        config = self.encoder.config
        self.patch: int = config.patch_size
        self.head = nn.Linear(config.hidden_size, config.num_channels * self.patch**2)

    def forward(self, pixel_values: Tensor, hidden_BN: Tensor) -> Tensor:
        """The loss.   hidden_BN: bool, row by row as the image is cut."""
        rows, columns = (side // self.patch for side in pixel_values.shape[-2:])
        grid = hidden_BN.view(-1, 1, rows, columns).to(pixel_values.dtype)
        visible = pixel_values * (1 - F.interpolate(grid, scale_factor=float(self.patch)))
        tokens_BNd = self.encoder(pixel_values=visible).last_hidden_state[:, -hidden_BN.shape[1] :]
        wanted = F.unfold(pixel_values, self.patch, stride=self.patch).transpose(1, 2)  # [B, N, C·p·p]
        return F.l1_loss(self.head(tokens_BNd)[hidden_BN], wanted[hidden_BN])


def pretrain(model: nn.Module, modality: Modality, phase: Phase, device: torch.device) -> list[float]:
    """Train the model's image encoder in place, on the phase's only stream; the loss of every step.

    Raises DivergedError where a loss is not finite.
    """
    (stream,), (seed, *purpose) = phase.streams, phase.key
    assert isinstance(seed, int)
    torch.manual_seed(torch_seed(seed, *purpose, "head"))
    draw = generator(seed, *purpose, "hidden")
    wrapped = MaskedImages(model)
    engine = TorchEngine(wrapped, phase.training, device)
    engine.model.train()
    losses = []
    for step, batch in enumerate(stream.batches(phase.training.steps, draw)):
        inputs = modality.inputs(stream.examples, batch, device)
        if phase.training.augment:
            inputs = modality.augment(inputs, draw)
        pixels = inputs["pixel_values"]
        patches = (pixels.shape[-2] // wrapped.patch) * (pixels.shape[-1] // wrapped.patch)
        loss = engine.forward(pixel_values=pixels, hidden_BN=hide(len(batch), patches, draw).to(device))
        engine.step(loss, phase.learning_rate(step))
        losses.append(loss.item())
    if not np.isfinite(losses).all():
        raise DivergedError(
            "the loss of masked images left the finite numbers; a smaller learning rate may help"
        )
    return losses


def hide(images: int, patches: int, draw: np.random.Generator) -> Tensor:
    """[images, patches] bool: the same number of each image's patches, at least one."""
    number = max(1, min(round(HIDDEN * patches), patches - 1))
    order = draw.random((images, patches)).argsort(axis=1)
    return torch.from_numpy(order < number)

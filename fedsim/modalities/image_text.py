"""Images with captions, for a dual encoder such as CLIP (Radford et al., arXiv 2103.00020).

A model answers about an image by its similarity to a fixed set of K public texts, the prompts, scaled
by its own learned temperature: softmax over them is its response, so that everything that works on
rows over K classes works here too. It learns its task from pairs, by the contrastive loss over the
captions of a batch (on several ranks: of each rank's share).

The score is zero-shot classification: which prompt is the image's? Where nothing is labelled it is
retrieval: which caption of all scored images is its own?

Legend: B images, K prompts, T texts in a forward pass, S tokens of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.learning import losses
from fedsim.learning.training import Objective
from fedsim.modalities.base import Inputs, Modality
from fedsim.modalities.image import Image
from fedsim.types import Examples


class ImageText(Image):
    """prompts: K texts of S token ids each, padded after their end."""

    together: ClassVar[bool] = True

    def __init__(self, prompts: Sequence[Sequence[int]] | np.ndarray) -> None:
        self._prompts_KS = torch.from_numpy(np.array(prompts, np.int64))

    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        inputs = super().inputs(examples, index, device)
        captions = examples.arrays.get("input_ids")
        if captions is not None:
            inputs["input_ids"] = torch.from_numpy(captions[index].astype(np.int64)).to(device)
        return inputs

    def asked(self, inputs: Inputs, want: Objective) -> Inputs:
        """The images with the prompts, the captions, or both in this order: one pass for two losses."""
        pixels = inputs["pixel_values"]
        texts = [self._prompts_KS.to(pixels.device)] if want.response else []
        if want.task and "input_ids" in inputs:
            texts.append(inputs["input_ids"])
        return {"pixel_values": pixels, "input_ids": torch.cat(texts)}

    def logits(self, outputs: object) -> Tensor:
        return outputs.logits_per_image  # type: ignore[attr-defined, no-any-return]

    def rows(self, logits: Tensor) -> Tensor:
        return logits[:, : len(self._prompts_KS)]

    def learnable(self, examples: Examples) -> bool:
        return "input_ids" in examples.arrays

    def task_loss(
        self, logits: Tensor, rows: Tensor, examples: Examples, index: np.ndarray, device: torch.device
    ) -> Tensor | None:
        if not self.learnable(examples):
            return None
        logits_BB = logits[:, -len(index) :].float()
        return losses.contrastive(logits_BB, torch.from_numpy(_alike(examples, index)).to(device))

    def targets(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor:
        """Which of the prompts are right for an image as well as its caption, [B, K] bool."""
        prompts_KS = self._prompts_KS.numpy()
        alike = (examples.arrays["input_ids"][index][:, None] == prompts_KS[None]).all(-1)
        labels = examples.arrays.get("labels")
        if labels is not None:
            alike |= labels[index][:, None] == np.arange(len(prompts_KS))[None]
        return torch.from_numpy(alike).to(device)

    def example_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Image → text cross-entropy among the public prompts and the own caption. The captions of a
        batch, which the contrastive loss compares with, are other people's private data."""
        wanted = torch.cat([target, torch.ones_like(target[:1])]).to(logits.dtype)
        return F.cross_entropy(logits, (wanted / wanted.sum())[None])

    def aims(self, outputs: Any, examples: Examples, index: np.ndarray, classes: int) -> Tensor:
        """Where the model puts the image's own caption, [B, e]."""
        return outputs.text_embeds  # type: ignore[no-any-return]

    def ideals(self, outputs: Any, classes: int) -> Tensor:
        """Where the model puts the prompts, [K, e]; `outputs` are its answers."""
        return outputs.text_embeds[:classes]  # type: ignore[no-any-return]

    def judged(self, examples: Examples) -> tuple[Modality, Examples]:
        if self.labelled(examples):
            return self, examples
        candidates, own = np.unique(examples.arrays["input_ids"], axis=0, return_inverse=True)
        arrays = {**examples.arrays, "labels": own.reshape(-1).astype(np.int64)}
        return ImageText(candidates), replace(examples, arrays=arrays)


def _alike(examples: Examples, index: np.ndarray) -> np.ndarray:
    """[B, B] bool: whose captions fit whose images. Those of the same label do, and equal captions.

    Without this, images of one class would be pushed away from captions that are right for them
    (as in UniCL, Yang et al., arXiv 2204.03610).
    """
    captions = examples.arrays["input_ids"][index]
    alike = (captions[:, None] == captions[None]).all(-1)
    labels = examples.arrays.get("labels")
    if labels is not None:
        alike |= labels[index][:, None] == labels[index][None]
    return np.asarray(alike)

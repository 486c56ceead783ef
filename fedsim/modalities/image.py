"""Images: one prediction over the labels for each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.modalities.base import Inputs, Modality
from fedsim.types import Examples


class Image(Modality):
    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        taken = examples.arrays["pixel_values"].take(index, axis=0)
        if device.type != "cpu":  # to which they go as bytes
            return {"pixel_values": torch.from_numpy(taken).to(device).float().div_(127.5).sub_(1.0)}
        pixels = taken.astype(np.float32)  # numpy begins sooner than torch, with the same bits
        pixels /= 127.5
        pixels -= 1.0
        return {"pixel_values": torch.from_numpy(pixels)}

    def rows(self, logits: Tensor) -> Tensor:
        return logits

    def answers(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        labels = examples.arrays.get("labels")
        return None if labels is None else torch.from_numpy(labels[index].astype(np.int64)).to(device)

    def positions(self, examples: Examples) -> int:
        return 1

    def score(self, loss: float, correct: float) -> float:
        """Accuracy: the share of images whose most likely label is right."""
        return correct

    def pooled(self, hidden: Tensor, content: Tensor | None = None) -> Tensor:
        """Of a transformer the first position, which it classifies by; of convolutions the mean."""
        return hidden[:, 0] if hidden.ndim == 3 else hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden

    def augment(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """Turn, scale, shear and shift half of the images a little; the others stay as they are.

        Up to 0.2 rad, 12 %, 0.15 and a tenth of the side; the darkest value comes in at the edges.
        """
        pixels = inputs["pixel_values"]
        turn, shear, scale, chosen = rng.uniform(-1, 1, (4, len(pixels)))
        shift = rng.uniform(-0.2, 0.2, (2, len(pixels)))  # the side is 2 in these coordinates
        angle, size = 0.2 * turn, 1 + 0.12 * scale
        affine = np.stack(
            [
                np.stack([np.cos(angle) / size, -np.sin(angle) / size + 0.15 * shear, shift[0]], -1),
                np.stack([np.sin(angle) / size, np.cos(angle) / size, shift[1]], -1),
            ],
            1,
        )
        affine[chosen > 0] = np.eye(2, 3)
        grid = F.affine_grid(torch.from_numpy(affine).to(pixels), list(pixels.shape), align_corners=False)
        # Padding is with zeros, so the darkest value is made zero for the moment.
        moved = F.grid_sample(pixels + 1.0, grid, align_corners=False) - 1.0
        return {**inputs, "pixel_values": moved}

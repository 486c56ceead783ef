"""Text: windows of tokens; every token but the first is a prediction over the vocabulary."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedsim.modalities.base import Inputs, Modality
from fedsim.types import Examples


class Text(Modality):
    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        return {"input_ids": self._tokens(examples, index, device)}

    def rows(self, logits: Tensor) -> Tensor:
        # The logits of the last token predict what is not in the window.
        return logits[:, :-1].flatten(0, 1)

    def answers(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        return self._tokens(examples, index, device)[:, 1:].flatten()

    def positions(self, examples: Examples) -> int:
        return int(examples.arrays["input_ids"].shape[1]) - 1

    def score(self, loss: float, correct: float) -> float:
        """Perplexity per token."""
        return math.exp(min(loss, 700.0))

    @staticmethod
    def _tokens(examples: Examples, index: np.ndarray, device: torch.device) -> Tensor:
        return torch.from_numpy(examples.arrays["input_ids"][index].astype(np.int64)).to(device)

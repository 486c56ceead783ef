"""Text: windows of tokens; every token but the first is a prediction over the vocabulary.

Where windows have a `prompt` and a `length` (both in tokens), only the tokens from the one to the other are
predicted: what is before is given, what is behind is padding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedsim.modalities.base import UNASKED, Inputs, Modality
from fedsim.types import Examples


class Text(Modality):
    def inputs(self, examples: Examples, index: np.ndarray, device: torch.device) -> Inputs:
        # What follows the last token is unknown; cutting its logits off later would copy all the others.
        return {"input_ids": self._tokens(examples, index, device)[:, :-1]}

    def rows(self, logits: Tensor) -> Tensor:
        return logits.flatten(0, 1)

    def answers(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        answers = self._tokens(examples, index, device)[:, 1:].flatten()
        wanted = self.wanted(examples, index, device)
        return answers if wanted is None else torch.where(wanted, answers, UNASKED)

    def wanted(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        if "length" not in examples.arrays:
            return None
        predicted = np.arange(1, examples.arrays["input_ids"].shape[1])
        prompts, ends = (examples.arrays[name][index][:, None] for name in ("prompt", "length"))
        return torch.from_numpy(((predicted >= prompts) & (predicted < ends)).ravel()).to(device)

    def content(self, examples: Examples, index: np.ndarray, device: torch.device) -> Tensor | None:
        if "length" not in examples.arrays:
            return None
        lengths = examples.arrays["length"][index][:, None]
        return torch.from_numpy(np.arange(self.positions(examples)) < np.maximum(lengths, 1)).to(device)

    def positions(self, examples: Examples) -> int:
        return int(examples.arrays["input_ids"].shape[1]) - 1

    def score(self, loss: float, correct: float) -> float:
        """Perplexity per token."""
        return math.exp(min(loss, 700.0))

    @staticmethod
    def _tokens(examples: Examples, index: np.ndarray, device: torch.device) -> Tensor:
        return torch.from_numpy(examples.arrays["input_ids"][index].astype(np.int64)).to(device)

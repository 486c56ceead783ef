"""What models give away about examples, computed again in numpy from their probabilities."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.attacks.signals import log_odds, min_k, signals
from fedsim.config import Training
from fedsim.learning.learner import Learner
from fedsim.modalities import modality
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples

V, S = 7, 11
rng = np.random.default_rng


class Bigrams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(V, V)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=2 * self.table(input_ids))


def windows(n: int) -> Examples:
    ids = rng(1).integers(V, size=(n, S)).astype(np.int32)
    return Examples({"input_ids": ids}, np.zeros(n, np.int64), np.arange(n, dtype=np.uint64))


def test_signals_are_those_of_the_models_probabilities():
    model, data = Bigrams(), windows(6)
    found = signals(Learner(TorchEngine(model, Training(), torch.device("cpu")), modality("text"), V), data)
    table = 2 * model.table.weight.detach().double().numpy()
    p = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    for i, ids in enumerate(data.arrays["input_ids"]):
        right = np.array([p[a, b] for a, b in pairwise(ids)])
        assert found["loss"][i] == pytest.approx(np.log(right).mean(), abs=1e-5)
        assert found["phi"][i] == pytest.approx(np.log(right / (1 - right)).mean(), abs=1e-5)
        scores = []
        for before, q in zip(ids[:-1], right, strict=True):
            mean = (p[before] * np.log(p[before])).sum()
            spread = np.sqrt((p[before] * np.log(p[before]) ** 2).sum() - mean**2)
            scores.append((np.log(q) - mean) / spread)
        lowest = sorted(scores)[:2]  # a fifth of ten
        assert found["min_k"][i] == pytest.approx(np.mean(lowest), abs=1e-4)


def test_prompts_and_padding_give_nothing_away():
    """Each as if it had only the rows that are asked about."""
    data, model = windows(3), Bigrams()
    first, last = np.array([3, 0, 6]), np.array([9, 10, 7])
    columns = {**data.arrays, "prompt": first + 1, "length": last + 1}
    learner = Learner(TorchEngine(model, Training(), torch.device("cpu")), modality("text"), V)
    found = signals(learner, Examples(columns, data.groups, data.keys))
    for i, (start, end) in enumerate(zip(first, last, strict=True)):
        ids = data.arrays["input_ids"][[i], start : end + 1]
        alone = signals(learner, Examples({"input_ids": ids}, data.groups[[i]], data.keys[[i]]))
        for name in found if end - start > 1 else ("loss", "phi"):
            assert found[name][i] == pytest.approx(alone[name][0], abs=1e-5), name


def test_log_odds_stay_finite_where_a_probability_is_1():
    found = log_odds(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0]))
    assert float(found) == pytest.approx(200 - np.log(2))


def test_min_k_takes_at_least_one_row():
    logits = torch.from_numpy(rng(2).normal(size=(3, V)))
    answers = torch.tensor([0, 1, 2])
    asked = torch.ones(3, dtype=torch.bool)
    each = min_k(logits, answers, asked, rows=1)
    assert float(min_k(logits, answers, asked, rows=3)) == pytest.approx(float(each.min()))

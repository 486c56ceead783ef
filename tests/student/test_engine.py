"""The plain engine: its own step of gradient descent is torch's, bit for bit; its weights in pieces."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.config import Training
from fedsim.student.engine import TorchEngine, optimizer


def _model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3), nn.Linear(3, 3))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_descent_is_torchs(decay):
    training = Training(optimizer="sgd", weight_decay=decay, gradient_clip=None)
    mine, reference = _model(), _model()
    engine, theirs = TorchEngine(mine, training, torch.device("cpu")), optimizer(reference, training)
    batches = torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(1))
    for step, batch in enumerate(batches):
        rate = 0.3 / (1 + step)
        engine.step(mine[:3](batch).square().mean(), rate)  # the last layer gets no gradient
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.zero_grad()
        reference[:3](batch).square().mean().backward()
        theirs.step()
    for ours, expected in zip(mine.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, expected)
    assert not torch.equal(mine[0].weight, _model()[0].weight)
    assert torch.equal(mine[3].weight, _model()[3].weight)


@pytest.mark.parametrize(
    ("kind", "sizes", "copied"), [(torch.float32, [40, 4500, 3603], [0, 2]), (torch.float64, [8143], [0])]
)
def test_pieces_are_the_vector(kind, sizes, copied):
    """Large ones are not copied where that can be, and then they are what the model is now."""
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 900), nn.Linear(900, 3))
    engine = TorchEngine(model.to(kind), Training(), torch.device("cpu"))
    pieces, before = engine.pieces(), engine.vector()
    assert [len(piece) for piece in pieces] == sizes
    np.testing.assert_array_equal(np.concatenate(pieces), before)
    engine.load_vector(before + 1)
    np.testing.assert_array_equal(np.concatenate(engine.pieces()), before + 1)
    starts = np.split(before, np.cumsum(sizes)[:-1])
    for place, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        np.testing.assert_array_equal(piece, start if place in copied else start + 1)
    np.testing.assert_array_equal(engine.vector(), before + 1)

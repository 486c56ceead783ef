"""DeepSpeed on the CPU against plain torch: the same steps, and a state to go on from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.config import Engine, Training
from fedsim.errors import RunError
from fedsim.process import set_up
from fedsim.student import deepspeed
from fedsim.student.deepspeed import DeepSpeedEngine, free_port, join, leave
from fedsim.student.engine import TorchEngine

CPU = torch.device("cpu")
TRAINING = Training(batch_size=8, weight_decay=0.1, gradient_clip=1e6)
CLIPPED = TRAINING.model_copy(update={"gradient_clip": 0.05})
ALL = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 0, "precision": "bf16"},
    {"zero_stage": 2, "precision": "bf16"},
]
"""Stage 3 takes a second a step here (it fills buffers of its own); its three calls are tested below."""
FULL = [settings for settings in ALL if "precision" not in settings]


def name(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


@pytest.fixture(scope="module", autouse=True)
def joined() -> Iterator[None]:
    set_up(1)
    join(0, 1, "127.0.0.1", 0)
    yield
    leave()


def test_a_rank_alone_listens_to_nobody_else():
    open_ports = [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in open_ports} <= {"127.0.0.1", "::1"}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.outer(torch.tanh(self.inner(x))))


def deepspeed_engine(training: Training = TRAINING, **settings: Any) -> DeepSpeedEngine:
    return DeepSpeedEngine(Tiny(), training, Engine(**settings), CPU)


def steps(engine: Any, which: range) -> list[float]:
    """Losses of steps whose data and learning rate are fixed by their number."""
    draw = torch.Generator().manual_seed(1)
    inputs, answers = torch.randn(20, 8, 6, generator=draw), torch.randint(0, 3, (20, 8), generator=draw)
    engine.model.train()
    losses = []
    for k in which:
        loss = F.cross_entropy(engine.forward(x=inputs[k]).logits.float(), answers[k])
        engine.step(loss, learning_rate=1e-2 / (k + 1))
        losses.append(loss.item())
    return losses


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("settings", FULL, ids=name)
def test_it_makes_the_steps_of_plain_torch_bit_for_bit(settings: dict[str, Any]):
    torch_engine, engine = TorchEngine(Tiny(), TRAINING, CPU), deepspeed_engine(**settings)
    assert same(engine.weights(), torch_engine.weights())
    assert steps(engine, range(6)) == steps(torch_engine, range(6))
    assert same(engine.weights(), torch_engine.weights())


@pytest.mark.parametrize("settings", FULL, ids=name)
def test_with_clipping_it_does_up_to_rounding(settings: dict[str, Any]):
    # torch divides by the norm + 1e-6 and DeepSpeed rounds in another order: the last bit differs.
    torch_engine, engine = TorchEngine(Tiny(), CLIPPED, CPU), deepspeed_engine(CLIPPED, **settings)
    unclipped = TorchEngine(Tiny(), TRAINING, CPU)
    for who in (torch_engine, engine, unclipped):
        steps(who, range(6))
    for n, w in torch_engine.weights().items():
        torch.testing.assert_close(engine.weights()[n], w, rtol=0, atol=1e-7)
    assert not same(unclipped.weights(), torch_engine.weights())


@pytest.mark.parametrize("settings", [s for s in ALL if "precision" in s], ids=name)
def test_bf16_follows_full_precision(settings: dict[str, Any]):
    # The second loss already tells whether Adam's first step had its full length.
    reference = TorchEngine(Tiny(), TRAINING, CPU)
    expected, losses = steps(reference, range(6)), steps(engine := deepspeed_engine(**settings), range(6))
    assert losses == pytest.approx(expected, abs=2e-3)
    for n, w in reference.weights().items():
        torch.testing.assert_close(engine.weights()[n], w, rtol=0, atol=4e-3)
        assert engine.weights()[n].dtype == torch.float32


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_small_steps_are_not_lost_to_rounding(settings: dict[str, Any]):
    # A step of 2e-5 is far below the spacing of bf16 at 0.25, so a copy in fp32 must take it.
    engine = deepspeed_engine(**settings)
    before = engine.weights()["inner.weight"]
    engine.model.train()
    for _ in range(60):
        engine.step(engine.forward(x=torch.ones(8, 6)).logits.float().square().mean(), 2e-5)
    moved = (engine.weights()["inner.weight"] - before).abs().mean().item()
    assert 6e-4 < moved < 2.4e-3


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_a_saved_engine_goes_on_bit_for_bit(settings: dict[str, Any], tmp_path: Path):
    engine, restored = deepspeed_engine(**settings), deepspeed_engine(**settings)
    steps(engine, range(3))
    engine.save(tmp_path / "state")
    saved = engine.weights()
    steps(restored, range(10, 12))  # what it did before must not matter
    restored.load(tmp_path / "state")
    assert same(restored.weights(), saved)
    assert steps(restored, range(3, 6)) == steps(engine, range(3, 6))
    assert same(restored.weights(), engine.weights())
    assert not same(saved, engine.weights())


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_loaded_weights_are_what_is_trained_on(settings: dict[str, Any]):
    engine, other = deepspeed_engine(**settings), deepspeed_engine(**settings)
    steps(other, range(6))
    other.load_vector(engine.vector())
    assert same(other.weights(), engine.weights())
    # The optimiser steps a copy of its own, which must not bring the old weights back.
    other.step(other.forward(x=torch.ones(8, 6)).logits.float().mean(), learning_rate=0.0)
    assert same(other.weights(), engine.weights())
    with pytest.raises(ValueError, match="the vector 96"):
        engine.load_vector(np.zeros(96, np.float32))


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_nothing_to_resume_from_is_an_error(settings: dict[str, Any], tmp_path: Path):
    with pytest.raises((FileNotFoundError, RunError)):
        deepspeed_engine(**settings).load(tmp_path / "nothing")


def test_a_plain_state_is_shared_with_torch(tmp_path: Path):
    # A student at stage 0 is written as plain tensors: no pickle, and readable without DeepSpeed.
    engine, torch_engine = deepspeed_engine(), TorchEngine(Tiny(), TRAINING, CPU)
    steps(engine, range(3))
    engine.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    torch_engine.load(tmp_path)
    assert steps(torch_engine, range(3, 6)) == steps(engine, range(3, 6))


def test_stage_3_gathers_what_it_spreads():
    engine = deepspeed_engine(zero_stage=3)
    assert engine.size == sum(p.numel() for p in Tiny().parameters())
    weights = {n: torch.full_like(w, 0.25) for n, w in engine.weights().items()}
    engine.load_vector(np.full(engine.size, 0.25, np.float32))
    assert same(engine.weights(), weights)


def test_buckets_are_no_larger_than_the_model_needs():
    # At their default of 5e8 numbers every step allocates 2 GB, whatever the model's size.
    for size, bucket in ((179, 1024), (1024, 1024), (10**12, 500_000_000)):
        zero = deepspeed._settings(TRAINING, Engine(zero_stage=2), size)["zero_optimization"]
        assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == bucket


def test_decay_and_rate_reach_the_optimiser_alike():
    settings: Callable[..., Any] = lambda **s: deepspeed._settings(TRAINING, Engine(**s), 10)  # noqa: E731
    assert "optimizer" not in settings()
    fused = settings(zero_stage=2, optimizer="fused", offload="cpu")
    assert fused["optimizer"]["params"] == {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}
    assert fused["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert [settings(precision=p)["bf16"]["enabled"] for p in ("fp32", "bf16")] == [False, True]


def test_a_process_can_join_again():
    leave()
    join(0, 1, "127.0.0.1", free_port())
    assert len(steps(deepspeed_engine(), range(2))) == 2

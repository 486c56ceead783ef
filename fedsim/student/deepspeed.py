"""The student's engine: DeepSpeed, on one rank or many, on GPUs or on the CPU.

The only file that imports deepspeed. Two habits of it shape the code: its accelerator and its
rendezvous are read from the environment at import, so `join` sets them first; and on the CPU it
would compile a shared-memory operator at the first start, which serves inference only and is
switched off.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.config import Engine as EngineConfig
from fedsim.config import Training
from fedsim.errors import RunError
from fedsim.process import loading, yielding
from fedsim.student.engine import (
    BETAS,
    State,
    decayed,
    flatten,
    load_state,
    optimizer,
    save_state,
    trainable,
    unflatten,
)

_TAG = "student"
_LARGEST_BUCKET = 500_000_000
"""Gradients that are reduced together, as DeepSpeed has it."""


def join(
    rank: int, world: int, address: str, port: int, timeout_s: float = 120.0, *, patient: bool = False
) -> None:
    """Make this process rank `rank` of `world`; rank 0 listens at address:port. Once per process.

    A rank alone meets nobody, so it listens nowhere, whatever the address.
    patient: load DeepSpeed when nobody else on this machine needs the processor.
    """
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK="0",  # each actor sees its own GPU only
        WORLD_SIZE=str(world),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*")
    if patient:
        with loading():
            yielding(partial(import_module, "deepspeed"))
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if gpu else "gloo"
    if world == 1:
        _alone(backend)
    deepspeed.init_distributed(
        backend,
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=timeout_s),
    )


def _alone(backend: str) -> None:
    """A group of one, without the server that torch opens on every interface; DeepSpeed takes it over."""
    from torch import distributed
    from torch.distributed import HashStore  # type: ignore[attr-defined]

    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo opens a port even so
    try:
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]
        if before is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = before


def leave() -> None:
    """Undo `join`, so that the same process can join again."""
    import deepspeed

    # torch's own destroy_process_group would leave deepspeed's half in place.
    deepspeed.comm.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # others would take this process for part of a distributed job


class DeepSpeedEngine:
    """A model inside deepspeed.initialize; the process must have joined."""

    def __init__(
        self, model: nn.Module, training: Training, config: EngineConfig, device: torch.device
    ) -> None:
        import deepspeed

        self.device = device
        # Stage 0 in fp32 keeps plain parameters and a plain optimiser, so their state is ours to write.
        self._plain = config.zero_stage == 0 and config.precision == "fp32" and config.optimizer == "torch"
        model = model.to(device)
        self.size = sum(p.numel() for p in trainable(model))
        own = config.optimizer == "torch"
        wrapped, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer(model, training) if own else None,
            model_parameters=None if own else decayed(model, training),
            config=_settings(training, config, self.size),
        )
        if own and config.zero_stage == 0 and config.precision != "fp32":
            # There it makes the moments by a step on zero gradients, which decays the weights and
            # counts as the first step of the bias correction.
            self._optimizer.optimizer.state.clear()
            self._optimizer.refresh_fp32_params()
        self._engine: Any = wrapped
        self.model = wrapped.module
        self._parameters = trainable(self.model)  # walking over the modules each time costs more
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]

    def forward(self, **inputs: Tensor) -> Any:
        fitting = {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return (self._engine if self.model.training else self.model)(**fitting)

    def step(self, loss: Tensor, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.backward(loss)
        self._engine.step()

    def weights(self) -> State:
        import deepspeed

        # A no-op below stage 3; there it collects the shards from all ranks.
        with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
            return {n: p.detach().float().cpu().clone() for n, p in self.model.named_parameters()}

    def vector(self) -> np.ndarray:
        import deepspeed

        with deepspeed.zero.GatheredParameters(self._parameters):
            return flatten(self._parameters)

    def load_vector(self, vector: np.ndarray) -> None:
        import deepspeed

        with deepspeed.zero.GatheredParameters(self._parameters, modifier_rank=0):
            unflatten(vector, self._parameters)
        refresh = getattr(self._optimizer, "refresh_fp32_params", None)
        if refresh is not None:
            refresh()  # the optimiser steps a copy of its own

    def assign(self, parameter: nn.Parameter, values: np.ndarray) -> None:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            unflatten(values, [parameter])

    def save(self, folder: Path) -> None:
        if self._plain:
            if self.rank == 0:
                save_state(folder, self.model, self._optimizer)
        else:
            self._engine.save_checkpoint(str(folder), tag=_TAG)

    def load(self, folder: Path) -> None:
        if self._plain:
            self._optimizer.state.clear()
            load_state(folder, self.model, self._optimizer)
            return
        # A missing checkpoint is a bare assertion there, or (None, None).
        there = (folder / _TAG).is_dir()
        if not there or self._engine.load_checkpoint(str(folder), tag=_TAG)[0] is None:
            raise RunError(f"{folder} holds no checkpoint of the student")

    def close(self) -> None:
        self._engine.destroy()


def _settings(training: Training, config: EngineConfig, size: int) -> dict[str, Any]:
    """DeepSpeed's own config. size: parameters of the model."""
    world = int(os.environ["WORLD_SIZE"])
    # Left to itself it allocates 2 GB of buckets in every step, however small the model.
    bucket = min(-(-size // 1024) * 1024, _LARGEST_BUCKET)  # it wants an even number
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if config.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": max(1, training.batch_size // world),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.gradient_clip or 0.0,  # 0 does not clip
        "zero_optimization": zero,
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},
    }
    if config.optimizer == "fused":
        settings["optimizer"] = {
            "type": "AdamW",
            "params": {
                "lr": training.learning_rate,
                "betas": list(BETAS),
                "weight_decay": training.weight_decay,
            },
        }
    return settings


def free_port() -> int:
    """A port that is free on this host now, for rank 0 to listen on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

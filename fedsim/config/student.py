"""The student, the engine that trains it, and the start that all models share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedsim.config.base import Device, Positive, Settings, Training


class Engine(Settings):
    """DeepSpeed, as the student is trained with it."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0 compiles and shards nothing; 2 or 3 when the student outgrows one GPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["torch", "fused"] = "torch"
    """`fused` is DeepSpeed's own AdamW, compiled at its first use (needs a compiler and ninja)."""
    offload: Literal["none", "cpu"] = "none"
    """Optimiser state on the host's memory; needs the fused optimiser and ZeRO 1–3."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that train the student together: one per GPU of the coordinator."""

    @model_validator(mode="after")
    def _offload_needs(self) -> Engine:
        if self.offload == "cpu" and (self.optimizer != "fused" or self.zero_stage == 0):
            raise ValueError("optimizer: fused and zero_stage 1, 2 or 3 for offload: cpu")
        return self


class Student(Settings):
    """The model that is the product, and how the coordinator trains it."""

    model: str = "pythia-tiny"
    training: Training = Training()
    """One round of the student's training; `centralized` and `proxy_only` get the same budget."""
    engine: Engine = Engine()
    device: Device = Device()

    @model_validator(mode="after")
    def _equal_shares(self) -> Student:
        if self.training.batch_size % self.engine.ranks:
            raise ValueError("a training.batch_size that is a multiple of engine.ranks, which share it")
        alone = self.engine.optimizer == "torch" and self.engine.zero_stage == 0
        if self.training.optimizer == "sgd" and not alone:
            expected = "training.optimizer: adamw, or engine.optimizer: torch with zero_stage: 0"
            raise ValueError(f"{expected}: DeepSpeed has no other for sgd")
        return self


class Pretraining(Settings):
    """The public start that everyone shares: each architecture trained on the proxy set."""

    objective: Literal["task", "masked_image"] = "task"
    """What is learnt there: the task itself, or to fill in hidden patches of the images (SimMIM), which
    needs no labels but models that cut images into patches."""
    steps: Annotated[int, Field(ge=0)] = 0
    """0 starts from random weights."""
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    learning_rate: Positive = 2e-3

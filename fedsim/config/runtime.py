"""Where and how a run executes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from fedsim.config.base import Positive, Settings


class Demand(Settings):
    """What one actor reserves in Ray; fractions are allowed."""

    cpus: Annotated[float, Field(ge=0)] = 0.2
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """Fraction of a GPU; above 1 a whole number. Multiples of 0.0001."""
    memory_mib: Annotated[int, Field(ge=0)] = 0
    """Main memory in MiB that Ray sets aside (it doesn't enforce it); 0 sets none aside."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Demand:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("a whole number of gpus above 1")
        if 0 < self.gpus < 0.0001:
            raise ValueError("0 gpus or at least 0.0001")
        return self


class Runtime(Settings):
    """Where and how the run executes. Of this only `threads`, `message_limit_mib` and who has a GPU change a
    result."""

    executor: Literal["ray", "in_process"] = "ray"
    """`in_process` runs the same round in this process, one after the other, for debugging; on a GPU where it
    sees one (`CUDA_VISIBLE_DEVICES=` hides them)."""
    address: str | None = None
    """Ray cluster to join; absent: the one in RAY_ADDRESS, else a private one on this machine."""
    participants_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How many participants one actor hosts; `auto` is one each while the cluster can hold them."""
    participant: Annotated[tuple[Demand, ...], Field(min_length=1)] = (Demand(),)
    """What an actor that hosts a participant reserves: one mapping for all, or a list that is dealt out
    in turn. Only participants with equal demands share an actor."""
    coordinator: Demand = Demand(cpus=0.5)
    """What each rank of a coordinator reserves; its GPUs are shared with no participant."""
    wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds to wait for an autoscaling cluster to grow until everything is placed, e.g. 900; at 0 it
    has to fit what the cluster has now."""
    parallel_methods: Annotated[int, Field(ge=1)] = 1
    """Contenders that run side by side, each with a coordinator of its own."""
    resident_mib: Positive | None = None
    """Memory in which an actor keeps its participants' specialists from round to round, in MiB; the
    others wait on disk. Absent: the actor's part of half of its machine's memory."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads per actor. Part of the arithmetic: results are bit-identical at equal threads."""
    message_limit_mib: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] = 256.0
    """Largest message that is accepted, in MiB; larger ones are rejected unread."""

    @field_validator("participant", mode="before", json_schema_input_type=Demand | tuple[Demand, ...])
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping | Demand) else value

    @field_serializer("participant")
    def _as_written(self, value: tuple[Demand, ...]) -> Any:
        """One mapping stays one, so that `runtime.participant.gpus=…` can vary a resolved config."""
        dumped = [demand.model_dump() for demand in value]
        return dumped[0] if len(dumped) == 1 else dumped

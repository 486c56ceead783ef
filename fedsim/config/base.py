"""What all parts of a config have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from fedsim.config.findings import MAPPING, is_model, types_in

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all parts: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, which pydantic would take for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool and bool not in types_in(kind):
            nested = any(is_model(each) for each in [kind, *types_in(kind)])
            wanted = f"{MAPPING}, {{}} for the defaults" if nested else "something else than true or false"
            raise ValueError(wanted)
        return value


class Training(Settings):
    """One optimiser phase: linear warm-up, then cosine decay or constant."""

    steps: Annotated[int, Field(ge=0)] = 50
    """Optimiser steps per round."""
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    """Examples per step (text: windows), over all ranks together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` is without momentum, as FedAvg's paper has it."""
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 10
    """Steps of linear warm-up, once per run."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Over all rounds of the run; `cosine` ends at a tenth of the learning rate."""
    augment: bool = True
    """Images: whether supervised training varies them a little at random."""
    gradient_clip: Positive | None = 1.0
    """Largest global gradient norm; null does not clip."""


class Device(Settings):
    """The machine a participant has, as the virtual clock sees it."""

    flops_per_s: Positive = 1e12
    """Sustained speed: 1e11 a laptop core, 1e12 a small server, 5e13 a data-centre GPU in practice."""
    flops_per_joule: Positive | None = None
    """Operations for a joule, sustained, all of the machine counted: 5e9 a laptop, 1e11 a data-centre GPU in
    practice. Where every device and the student's has one, energy is measured (`fedsim.energy`)."""

"""Low-rank adapters on a frozen model, and the plain model that they amount to.

The `peft` library makes them (extra `adapters`). Averaging adapters averages their two factors, not the
products, as is usual in the field.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.config import Adapter
from fedsim.errors import ConfigError

_PREFIX = "base_model.model."
_NAME = "default"
"""peft's: what it puts before the names of the model's parameters, and how it calls a first adapter."""


def adapted(model: nn.Module, settings: Adapter, seed: int) -> nn.Module:
    """The model frozen, with fresh adapters that add nothing yet.

    Raises ConfigError where it has none of the layers that `settings.targets` names.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(seed)
    targets: Any = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    layers = {
        name.split(".")[-1]: m for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)
    }
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in layers.values()),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what peft asks transformers
            wrapped: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        known = sorted(layers)
        expected = f"some of the layers {', '.join(known)}, or all-linear"
        raise ConfigError("participants.adapter.targets", settings.targets, expected) from error
    return wrapped


def merged(model: nn.Module, weights: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The plain model below and its parameters by name, the adapters added to what they adapt.

    weights: of all parameters of `model`, by name. A model without adapters comes back as it is.
    """
    if not hasattr(model, "peft_config"):
        return model, weights
    from peft.tuners.lora import LoraLayer

    plain = {
        name.removeprefix(_PREFIX).replace(".base_layer.", "."): weight.clone()
        for name, weight in weights.items()
        if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            down, up = (weights[f"{name}.lora_{factor}.{_NAME}.weight"] for factor in "AB")
            added = layer.scaling[_NAME] * (up @ down)
            # GPT-2 keeps its weights the other way round.
            plain[f"{name.removeprefix(_PREFIX)}.weight"] += added.T if layer.fan_in_fan_out else added
    base: nn.Module = model.get_base_model()  # type: ignore[operator]
    return base, plain

"""Small networks in plain torch, for images: what FedAvg's literature trains, and quick to start.

`mlp` is a stack of fully connected layers; `cnn` is 3 × 3 convolutions, each followed by pooling, and a
fully connected layer. A process that trains only these never imports transformers. Their folder holds
`config.json` and `model.safetensors`; `models.factory.build` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Output:
    """Named as transformers names it.   logits: [B, K]."""

    logits: Tensor


class Classifier(nn.Module):
    """`layers` on pixels [B, C, H, W] in −1 … 1.   config: what `build` made it from."""

    draws = False  # random numbers: there is no dropout in it, so `Learner.fit` needn't seed them

    def __init__(self, layers: nn.Sequential, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = layers
        self.config = config

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(self.layers(pixel_values))

    def save_pretrained(self, folder: str, state_dict: Mapping[str, Tensor]) -> None:
        """Write `config.json` and the weights."""
        text = json.dumps(self.config, indent=2)
        (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, Path(folder) / WEIGHTS)


def build(config: Mapping[str, Any]) -> Classifier:
    """A network with fresh weights, as torch draws them.

    config: `model_type` (a key of KINDS), `image_size`, `num_channels`, `num_labels`, and the shape:
    `hidden_sizes`, and of a `cnn` the `conv_channels`.
    """
    return Classifier(KINDS[config["model_type"]](config), dict(config))


def load_weights(model: Classifier, folder: Path) -> None:
    """Take up the weights that lie beside a `config.json`."""
    model.load_state_dict(load_file(folder / WEIGHTS))


def _mlp(config: Mapping[str, Any]) -> nn.Sequential:
    inputs = config["num_channels"] * config["image_size"] ** 2
    return nn.Sequential(nn.Flatten(), *_dense([inputs, *config["hidden_sizes"]], config["num_labels"]))


def _cnn(config: Mapping[str, Any]) -> nn.Sequential:
    layers: list[nn.Module] = []
    side = config["image_size"]
    for before, after in pairwise([config["num_channels"], *config["conv_channels"]]):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side //= 2
    widths = [config["conv_channels"][-1] * side**2, *config["hidden_sizes"]]
    return nn.Sequential(*layers, nn.Flatten(), *_dense(widths, config["num_labels"]))


def _dense(widths: list[int], labels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return [*layers, nn.Linear(widths[-1], labels)]


KINDS = {"mlp": _mlp, "cnn": _cnn}
"""`model_type` → layers."""

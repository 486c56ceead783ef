"""Named architectures: a model type and its shape. No torch is imported here.

The model types are those of transformers, and the small ones of `plain`.
The tiny ones are real models of the same families as the large ones, small enough to train on a
laptop in seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """model_type: transformers' name of the family, or a kind of `plain`.   modality: what it reads.
    shape: fields of its config; vocabulary, window, image size and number of labels
    are filled in from the data."""

    model_type: str
    modality: str
    shape: dict[str, Any]


# The usual initialisation (0.02) is meant for widths in the thousands: models this small barely move
# in their first hundred steps. Measured on the quickstart's proxy set, perplexity after 300 steps:
# llama 70 at 0.02, 46 at 0.08; gpt2 111 at 0.02, 49 at 0.06; pythia 39 at 0.03, 37 at 0.05.


def _llama(width: int, layers: int, heads: int) -> Preset:
    shape = {
        "hidden_size": width,
        "intermediate_size": width * 5 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
    }
    return Preset("llama", "text", shape)


def _pythia(width: int, layers: int, heads: int) -> Preset:
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.05,
    }
    return Preset("gpt_neox", "text", shape)


def _gpt2(width: int, layers: int, heads: int) -> Preset:
    # Dropout off: at these sizes the data runs out before the capacity does.
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_embd": width, "n_layer": layers, "n_head": heads, "initializer_range": 0.06}
    return Preset("gpt2", "text", {**shape, **off})


def _vit(width: int, layers: int, heads: int, patch: int) -> Preset:
    shape = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.08,
    }
    return Preset("vit", "image", shape)


def _plain(kind: str, **shape: list[int]) -> Preset:
    return Preset(kind, "image", shape)


PRESETS: dict[str, Preset] = {
    "pythia-tiny": _pythia(128, 2, 4),
    "llama-tiny": _llama(128, 2, 4),
    "gpt2-tiny": _gpt2(112, 3, 4),
    "vit-micro": _vit(48, 2, 4, 4),
    "vit-tiny": _vit(64, 3, 4, 4),
    "vit-wide": _vit(96, 2, 4, 4),
    "mlp": _plain("mlp", hidden_sizes=[64]),
    "mlp-wide": _plain("mlp", hidden_sizes=[1024]),
    "cnn": _plain("cnn", conv_channels=[16, 32], hidden_sizes=[64]),
}


def check(name: str, modality: str, field: str) -> None:
    """Raise ConfigError unless `name` is a preset of that modality or leads to a `config.json`."""
    if name in PRESETS:
        if PRESETS[name].modality != modality:
            fitting = ", ".join(n for n, p in PRESETS.items() if p.modality == modality)
            raise ConfigError(field, name, f"a model that reads {modality}: {fitting}, or a folder")
        return
    path = config_file(name)
    if path is None:
        known = ", ".join(n for n, p in PRESETS.items() if p.modality == modality)
        raise ConfigError(field, name, f"a preset ({known}) or a path to a config.json or its folder")
    try:
        if "model_type" not in json.loads(path.read_text(encoding="utf-8")):
            raise ConfigError(field, name, "a config.json with a model_type that transformers knows")
    except (ValueError, OSError):
        raise ConfigError(field, name, "a config.json that can be read") from None


def config_file(name: str) -> Path | None:
    """The `config.json` that a path means: the file itself or the one in the folder."""
    path = Path(name).expanduser()
    for candidate in (path, path / "config.json"):
        if candidate.is_file() and candidate.suffix == ".json":
            return candidate
    return None

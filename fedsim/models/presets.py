"""Named architectures: a model type and its shape. No torch is imported here.

The model types are those of transformers, and the small ones of `plain`.
The tiny ones are real models of the same families as the large ones, small enough to train on a
laptop in seconds; the large ones state how many parameters they have at the sizes of `REFERENCE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError
from fedsim.extras import install
from fedsim.types import Interface


@dataclass(frozen=True)
class Preset:
    """model_type: transformers' name of the family, or a kind of `plain`.   modality: what it reads.
    shape: fields of its config; vocabulary, window, image size and number of labels
    are filled in from the data.   millions: parameters at the sizes of REFERENCE; None of a tiny one."""

    model_type: str
    modality: str
    shape: dict[str, Any]
    millions: float | None = None


REFERENCE = {
    "text": Interface("text", classes=50_272, window=2048),
    "image": Interface("image", classes=1000, window=0, image_shape=(3, 224, 224)),
    "image_text": Interface(
        "image_text",
        classes=1000,
        window=77,
        image_shape=(3, 224, 224),
        vocabulary=49_408,
        end_of_text=49_407,
    ),
}
"""The data that the families were made for: OPT's vocabulary and window, ImageNet, CLIP's vocabulary."""


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


def _opt(width: int, layers: int, heads: int, millions: float | None = None) -> Preset:
    shape: dict[str, Any] = {
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "dropout": 0.0,
    }
    if millions is None:
        shape["init_std"] = 0.06
    return Preset("opt", "text", shape, millions)


def _full_vit(width: int, layers: int, heads: int, patch: int, millions: float) -> Preset:
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
    }
    return Preset("vit", "image", shape, millions)


def _clip(
    vision: tuple[int, int, int], text: tuple[int, int, int], patch: int, millions: float | None = None
) -> Preset:
    """vision, text: (width, layers, heads) of each encoder; the common space is as wide as the text's.

    CLIP scales its initialisation with width and depth, so that the tiny ones need none of their own.
    """

    def encoder(width: int, layers: int, heads: int) -> dict[str, Any]:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width}
        return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads, "projection_dim": text[0]}

    shape = {
        "projection_dim": text[0],
        "text_config": encoder(*text),
        "vision_config": {**encoder(*vision), "patch_size": patch},
    }
    return Preset("clip", "image_text", shape, millions)


PLAIN = ("mlp", "cnn")
"""The model types that `plain` builds."""


def _plain(kind: str, **shape: list[int]) -> Preset:
    return Preset(kind, "image", shape)


PRESETS: dict[str, Preset] = {
    "pythia-tiny": _pythia(128, 2, 4),
    "pythia-small": _pythia(192, 4, 6),
    "llama-tiny": _llama(128, 2, 4),
    "gpt2-tiny": _gpt2(112, 3, 4),
    "vit-micro": _vit(48, 2, 4, 4),
    "vit-tiny": _vit(64, 3, 4, 4),
    "vit-wide": _vit(96, 2, 4, 4),
    "vit-small": _vit(128, 4, 4, 4),
    "opt-tiny": _opt(128, 2, 4),
    # The sizes of GPT-3 (arXiv 2005.14165, table 2.1) and of OPT (arXiv 2205.01068, table 1), where the
    # 350M model is as the others here: with its norms first and embeddings of its own width.
    "opt-125m": _opt(768, 12, 12, millions=125.2),
    "opt-350m": _opt(1024, 24, 16, millions=355.9),
    "opt-760m": _opt(1536, 24, 16, millions=760.3),
    "opt-1.3b": _opt(2048, 24, 32, millions=1315.8),
    # Arxiv 2010.11929, table 1: Base with patches of 16 and Large with patches of 16.
    "vit-b16": _full_vit(768, 12, 12, 16, millions=86.6),
    "vit-l16": _full_vit(1024, 24, 16, 16, millions=304.3),
    "clip-micro": _clip((48, 2, 4), (32, 1, 2), 4),
    "clip-tiny": _clip((64, 3, 4), (48, 2, 4), 4),
    "clip-wide": _clip((96, 2, 4), (48, 1, 4), 4),
    "clip-small": _clip((128, 4, 4), (96, 3, 4), 4),
    # Arxiv 2103.00020, tables 19 and 20: ViT-B/32, ViT-B/16 and ViT-L/14.
    "clip-b32": _clip((768, 12, 12), (512, 12, 8), 32, millions=151.3),
    "clip-b16": _clip((768, 12, 12), (512, 12, 8), 16, millions=149.6),
    "clip-l14": _clip((1024, 24, 16), (768, 12, 12), 14, millions=427.6),
    "mlp": _plain("mlp", hidden_sizes=[64]),
    "mlp-wide": _plain("mlp", hidden_sizes=[1024]),
    "cnn": _plain("cnn", conv_channels=[16, 32], hidden_sizes=[64]),
}


UNREAD = ("pytorch_model*.bin", "consolidated*.pth", "tf_model.h5", "flax_model.msgpack")
"""Weights in other formats than safetensors: to pass over them would be to begin from random ones."""


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
        written = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise ConfigError(field, name, "a config.json that can be read") from None
    if not (isinstance(written, dict) and isinstance(written.get("model_type"), str)):
        raise ConfigError(field, name, "a config.json with a model_type that transformers knows")
    if path.name == "config.json" and not is_pretrained(name):
        for other in (file for pattern in UNREAD for file in path.parent.glob(pattern)):
            why = "formats that can carry code, as pickle, are not read"
            expected = f"weights in safetensors, which {other.name} has to be converted to: {why}"
            raise ConfigError(field, name, expected)


def is_pretrained(name: str) -> bool:
    """Whether weights lie beside the `config.json` that `name` means."""
    path = None if name in PRESETS else config_file(name)
    return path is not None and path.name == "config.json" and any(path.parent.glob("*.safetensors"))


def is_plain(name: str) -> bool:
    """Whether it is one of the small networks of `plain`."""
    return fields_of(name)["model_type"] in PLAIN


def check_adapter(models: Mapping[str, str], setting: str, *, started: bool) -> None:
    """Raise ConfigError where adapters would sit on random weights, or on a network of `plain`.

    models: field → name.   setting: where adapters are asked for.   started: there is a public start.
    """
    if find_spec("peft") is None:
        raise ConfigError(setting, "lora", install("adapters"))
    for field, model in models.items():
        if is_plain(model):
            raise ConfigError(field, model, f"a model of transformers, as {setting} is set")
        if not (started or is_pretrained(model)):
            expected = f"a pretrained folder, or pretraining.steps: {setting} leaves it as it is"
            raise ConfigError(field, model, expected)


def width(name: str, field: str = "model") -> int:
    """Of the hidden state that the output layer reads; of a dual encoder, in the one that sees.

    Raises ConfigError where its config doesn't say; `field` is what names it.
    """
    known = fields_of(name)
    known = known.get("vision_config", known)
    sizes = known.get("hidden_sizes", [known.get("hidden_size", known.get("n_embd"))])
    if not isinstance(sizes[-1], int):
        raise ConfigError(field, name, "a model whose config states its hidden_size")
    return sizes[-1]


def outputs(name: str, classes: int) -> int:
    """Numbers that the last layer gives out: one for each class, or of a dual encoder the common space's."""
    return int(fields_of(name).get("projection_dim", classes))


def has_patches(name: str) -> bool:
    """Whether it cuts images into patches."""
    known = fields_of(name)
    return "patch_size" in {**known, **known.get("vision_config", {})}


def fields_of(name: str) -> dict[str, Any]:
    """What is written of a model's config: a preset's, or a `config.json`'s.

    Raises ConfigError where `name` is neither.
    """
    if name in PRESETS:
        return {"model_type": PRESETS[name].model_type, **PRESETS[name].shape}
    path = config_file(name)
    if path is None:
        raise ConfigError("model", name, "a preset or a path to a config.json or its folder")
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return written


def config_file(name: str) -> Path | None:
    """The `config.json` that a path means: the file itself or the one in the folder."""
    path = Path(name).expanduser()
    for candidate in (path, path / "config.json"):
        if candidate.is_file() and candidate.suffix == ".json":
            return candidate
    return None

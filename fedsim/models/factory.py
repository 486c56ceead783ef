"""Build a model from a preset, a `config.json` or a pretrained folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsim import shortage
from fedsim.errors import ConfigError
from fedsim.models import plain
from fedsim.models.presets import PRESETS, config_file, fields_of, is_pretrained
from fedsim.seeding import torch_seed
from fedsim.types import Interface

TRIED = 200_000_000
"""Parameters up to which a folder's model is tried before a run; it takes seconds and its memory."""

SEEN = 8
"""Tokens on which a folder's language model is asked whether it reads ahead."""


def build(name: str, interface: Interface, seed: int) -> nn.Module:
    """A model with fresh weights (the same for every holder of the same seed) or pretrained ones.

    Raises ConfigError where a folder's vocabulary or labels don't fit the data.
    """
    described = fields_of(name)
    kind = described.pop("model_type")
    _check_type(name, kind, interface.modality)
    if kind in plain.KINDS:
        return _plain(name, {"model_type": kind, **described}, interface, seed)
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    auto = _auto(interface.modality)
    if name in PRESETS:
        torch.manual_seed(torch_seed(seed, "weights", name))
        described = _merged(_fitting(kind, interface), described)
        return _ready(name, auto.from_config(AutoConfig.for_model(kind, **described)), interface)
    path = _file(name)
    if is_pretrained(name):
        return _ready(name, _pretrained(auto, path.parent, interface), interface)
    # By its content: where a file lies must not decide the weights.
    torch.manual_seed(torch_seed(seed, "weights", path.read_text(encoding="utf-8")))
    config = _config(path, interface)
    _set(config, _fitting(config.model_type, interface))
    _check_patches(name, config, interface)
    return _ready(name, auto.from_config(config), interface)


def check(name: str, interface: Interface, field: str, *, growing: bool = False) -> None:
    """Raise ConfigError, of the field that names it, where a folder gives no model for this data.

    growing: the vocabulary is still to be trained; the interface's is the most that it can be.
    """
    try:
        _try(name, _limited(name, interface) if growing else interface)
    except ConfigError as error:
        if error.field != "model":
            raise
        raise ConfigError(field, name, error.expected) from None
    except Exception as error:  # whatever a config or weights can make of the libraries' code
        if shortage.out_of_memory(error):
            return  # there is no room here to try it; who will work with it may have more
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        what = "pretrained folder" if is_pretrained(name) else "config.json"
        expected = f"a {what} that gives a model which reads this data ({said})"
        raise ConfigError(field, name, expected) from error


def _try(name: str, interface: Interface) -> None:
    """Build it and ask it about one example."""
    if not is_pretrained(name):
        with torch.device("meta"):
            if size(build(name, interface, seed=0)) > TRIED:
                return
    model = build(name, interface, seed=0).eval()
    if size(model) <= TRIED:
        inputs = {}
        if interface.image_shape is not None:
            inputs["pixel_values"] = torch.zeros(1, *interface.image_shape)
        if interface.modality != "image":
            tokens = interface.window - 1 if interface.modality == "text" else 1
            inputs["input_ids"] = torch.zeros(1, tokens, dtype=torch.int64)
        with torch.no_grad():
            model(**inputs)


def _limited(name: str, interface: Interface) -> Interface:
    """The same with the vocabulary of a pretrained folder, if a tokenizer can be trained that is as large."""
    if not is_pretrained(name) or interface.modality == "image":
        return interface
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(_file(name)))
    if interface.modality == "text":
        return replace(interface, classes=min(config.vocab_size, interface.classes))
    return replace(interface, vocabulary=min(config.text_config.vocab_size, interface.vocabulary))


def import_classes(names: Iterable[str], modality: str) -> None:
    """Import the code of these models ahead of the first `build`: transformers' takes seconds."""
    kinds = {fields_of(name)["model_type"] for name in names} - plain.KINDS.keys()
    if kinds:
        from transformers import AutoConfig

        auto = _auto(modality)
        for kind in kinds:
            auto._model_mapping.get(type(AutoConfig.for_model(kind)), None)


def _auto(modality: str) -> Any:
    """What of transformers builds and reads the models of a modality."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageClassification

    return {
        "text": AutoModelForCausalLM,
        "image": AutoModelForImageClassification,
        "image_text": AutoModel,
    }[modality]


def _check_type(name: str, kind: str, modality: str) -> None:
    """Raise ConfigError where models of this type don't read the modality."""
    if modality == "image_text":
        if kind != "clip":
            raise ConfigError("model", name, f"a model of type clip for image–text; it is {kind}")
    elif not (kind in plain.KINDS and modality == "image"):
        auto = _auto(modality)
        if kind not in auto._model_mapping._model_mapping:  # read by names: the classes' code takes seconds
            expected = f"a type that {auto.__name__} knows, as the data is {modality}; it is {kind}"
            raise ConfigError("model", name, expected)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, the second first where they meet; configs of two encoders hold one for each."""
    nested = {k: {**base[k], **v} for k, v in over.items() if isinstance(v, dict) and k in base}
    return {**base, **over, **nested}


def _set(config: Any, fields: dict[str, Any]) -> None:
    for field, value in fields.items():
        if isinstance(value, dict) and field.endswith("_config"):
            _set(getattr(config, field), value)
        else:
            setattr(config, field, value)


def _file(name: str) -> Path:
    path = config_file(name)
    if path is None:
        raise ConfigError("model", name, "a preset or a path to a config.json or its folder")
    return path


def _plain(name: str, config: dict[str, Any], interface: Interface, seed: int) -> nn.Module:
    """A network of `plain`, fresh or with the weights that lie beside its `config.json`."""
    channels, side = _square(interface)
    fields = {"num_channels": channels, "image_size": side, "num_labels": interface.classes}
    path = None if name in PRESETS else _file(name)
    ready = is_pretrained(name)
    if path is not None and ready:
        for field, value in fields.items():
            if config[field] != value:
                raise ConfigError("model", name, f"a model with {field} {value}; it has {config[field]}")
    text = name if path is None else path.read_text(encoding="utf-8")
    torch.manual_seed(torch_seed(seed, "weights", text))
    model = plain.build({**config, **fields})
    if path is not None and ready:
        plain.load_weights(model, path.parent)
    return model


def _fitting(model_type: str, interface: Interface) -> dict[str, Any]:
    """The config fields that the data decides."""
    if interface.modality == "text":
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        length = "n_positions" if model_type == "gpt2" else "max_position_embeddings"
        return {"vocab_size": interface.classes, length: max(interface.window, 64), **ends}
    channels, height = _square(interface)
    if interface.modality == "image_text":
        end = interface.end_of_text
        text = {
            "vocab_size": interface.vocabulary,
            "max_position_embeddings": max(interface.window, 77),
            "eos_token_id": end,
            "bos_token_id": end,
            "pad_token_id": end,
        }
        return {"text_config": text, "vision_config": {"image_size": height, "num_channels": channels}}
    names = interface.group_names or tuple(str(k) for k in range(interface.classes))
    return {
        "image_size": height,
        "num_channels": channels,
        "id2label": dict(enumerate(names)),
        "label2id": {n: k for k, n in enumerate(names)},
    }


def _config(path: Path, interface: Interface) -> Any:
    """What a `config.json` says; a language model's, that it is a decoder: an encoder's type would read the
    tokens that it is asked to predict."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(path))
    if interface.modality == "text":
        if getattr(config, "is_encoder_decoder", False):
            expected = f"a language model that is a decoder alone; {config.model_type} has an encoder as well"
            raise ConfigError("model", str(path), expected)
        if hasattr(config, "is_decoder"):
            config.is_decoder = True
    return config


def _check_patches(name: str, config: Any, interface: Interface) -> None:
    """Raise ConfigError where a vision model's patch is larger than the images."""
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if interface.image_shape is not None and isinstance(patch, int):
        _, side = _square(interface)
        if patch > side:
            raise ConfigError(
                "model", name, f"a patch_size of at most {side}, the images' side; it is {patch}"
            )


def _square(interface: Interface) -> tuple[int, int]:
    """(channels, side) of the images."""
    if interface.image_shape is None:
        raise ValueError("images need an image_shape")
    channels, height, width = interface.image_shape
    if height != width:
        raise ConfigError("data.image_size", (height, width), "square images: set data.image_size")
    return channels, height


def _pretrained(auto: Any, folder: Path, interface: Interface) -> nn.Module:
    config = _config(folder / "config.json", interface)
    model: nn.Module
    model, told = auto.from_pretrained(
        str(folder), config=config, use_safetensors=True, output_loading_info=True
    )
    for what, have, want in _sizes(model.config, interface):
        if have != want:
            raise ConfigError("model", str(folder), f"a model with {want} {what}; it has {have}")
    if missing := sorted(told["missing_keys"]):  # transformers would draw them, for each holder others
        expected = f"weights of the whole model; {len(missing)} are missing, e.g. {missing[0]}"
        raise ConfigError("model", str(folder), expected)
    return model


def _sizes(config: Any, interface: Interface) -> list[tuple[str, Any, Any]]:
    """What of a pretrained model the data must fit: (what it is, the model's, the data's)."""
    # Those of Pythia, OPT and others are padded to a round number, which no token of theirs has.
    vocabulary = "vocabulary (data.tokenizer must be its own; padding goes by resize_token_embeddings)"
    if interface.modality == "text":
        return [(vocabulary, config.vocab_size, interface.classes)]
    channels, side = _square(interface)
    if interface.modality == "image":
        return [("labels", config.num_labels, interface.classes)]
    vision = config.vision_config
    return [
        (vocabulary, config.text_config.vocab_size, interface.vocabulary),
        ("pixels a side (data.image_size)", vision.image_size, side),
        ("channels", vision.num_channels, channels),
    ]


def _ready(name: str, model: nn.Module, interface: Interface) -> nn.Module:
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        # They are no weights: nobody would send, average or save them.
        expected = "a model whose norms keep no running statistics, e.g. GroupNorm for BatchNorm"
        raise ConfigError("model", name, expected)
    # The cache of keys and values is for generation; in training it only costs memory.
    config: Any = model.config
    if hasattr(config, "use_cache"):
        config.use_cache = False
    if hasattr(model, "logit_scale"):
        # One number in a vector: DeepSpeed doesn't send scalars between ranks.
        model.logit_scale = nn.Parameter(model.get_parameter("logit_scale").detach().reshape(1))
        model.register_forward_pre_hook(_bounded)
    model.float()
    if interface.modality == "text" and name not in PRESETS:
        _check_causal(name, model, interface)
    return model


def _check_causal(name: str, model: Any, interface: Interface) -> None:
    """Raise ConfigError where a later token changes what is said before it: answers would be read off."""
    ids = (interface.classes - 1 - torch.arange(min(interface.window, SEEN) + 1)) % interface.classes
    if model.device.type == "meta":
        return
    training = model.training
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])])).logits
    model.train(training)
    changed = (logits[0] - logits[1]).abs().amax(-1)
    # Sums of other rows may be rounded otherwise, which is no knowledge.
    if changed[:-1].max() > 1e-4 * changed[-1]:
        expected = f"a causal language model; in this {model.config.model_type} tokens see those behind them"
        raise ConfigError("model", name, expected)


def _bounded(model: Any, inputs: object) -> None:
    """Keep the learned temperature from running away, as CLIP does (arXiv 2103.00020, section 2.5)."""
    model.logit_scale.data.clamp_(max=math.log(100))


def size(model: nn.Module) -> int:
    """How many parameters a model has, tied ones once."""
    return sum(p.numel() for p in model.parameters())


@cache
def size_of(name: str, interface: Interface) -> int:
    """The size of the model that `build` makes, without its weights unless they are pretrained."""
    with nullcontext() if is_pretrained(name) else torch.device("meta"):
        return size(build(name, interface, seed=0))

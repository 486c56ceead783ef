"""Write a trained student in the format of transformers: weights, config, tokenizer or image processor."""

from __future__ import annotations

import json
from pathlib import Path

from fedsim.learner import Learner
from fedsim.types import Interface


def export(learner: Learner, interface: Interface, folder: Path, tokenizer: str | None) -> None:
    """`AutoModel….from_pretrained(folder)` reads it back with the same weights.

    tokenizer: the JSON of the byte-level BPE (text).
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = learner.weights()
    model = learner.engine.model
    # Tied parameters are one object under several names; ZeRO 3 leaves nothing in their tensors here.
    whole = {id(p): weights[n] for n, p in model.named_parameters()}
    state = {n: whole[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    buffers = {n: b for n, b in model.state_dict().items() if n not in state}
    model.save_pretrained(str(folder), state_dict={**buffers, **state})  # type: ignore[operator]
    if tokenizer is not None:
        _save_tokenizer(tokenizer, interface, folder)
    if interface.image_shape is not None:
        _save_image_processor(interface.image_shape, folder)


def _save_tokenizer(tokenizer: str, interface: Interface, folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer),
        bos_token=end,
        eos_token=end,
        model_max_length=interface.window,
    ).save_pretrained(str(folder))


def _save_image_processor(shape: tuple[int, int, int], folder: Path) -> None:
    """The processor that gives the pixels the student was trained on: ÷ 127.5 − 1."""
    channels, height, width = shape
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")

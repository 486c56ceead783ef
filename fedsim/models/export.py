"""Write a trained student in the format of transformers: weights, config, and the tokenizer or image
processor that it was trained with (image–text: both, as one processor)."""

from __future__ import annotations

import json
from pathlib import Path

from fedsim.learning.learner import Learner
from fedsim.models.adapters import merged
from fedsim.models.heads import without_heads
from fedsim.types import Interface


def export(learner: Learner, interface: Interface, folder: Path, tokenizer: str | None) -> None:
    """`AutoModel….from_pretrained(folder)` reads it back with the same weights, adapters merged into them.

    tokenizer: the text of its `tokenizer.json` (text, image–text).
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = learner.weights()
    model = learner.engine.model
    # Tied parameters are one object under several names; ZeRO 3 leaves nothing in their tensors here.
    whole = {id(p): weights[n] for n, p in model.named_parameters()}
    state = {n: whole[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    model, state = merged(model, state)
    state = without_heads(model, state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(())  # the factory made a vector of it
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {n: b for n, b in model.state_dict().items() if n not in parameters}
    model.save_pretrained(str(folder), state_dict={**buffers, **state})  # type: ignore[operator]
    if tokenizer is not None:
        _save_tokenizer(tokenizer, interface, folder)
    if interface.image_shape is not None:
        _save_image_processor(interface, folder)


def _save_tokenizer(tokenizer: str, interface: Interface, folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    reader = Tokenizer.from_str(tokenizer)
    end = reader.id_to_token(interface.end_of_text)
    pairs = interface.modality == "image_text"
    padding = {"pad_token": end, "model_input_names": ["input_ids"]} if pairs else {}
    PreTrainedTokenizerFast(
        tokenizer_object=reader,
        bos_token=end,
        eos_token=end,
        model_max_length=interface.window,
        **padding,
    ).save_pretrained(str(folder))


def _save_image_processor(interface: Interface, folder: Path) -> None:
    """The processor that gives the pixels the student was trained on: ÷ 127.5 − 1."""
    assert interface.image_shape is not None
    channels, height, width = interface.image_shape
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
    if interface.modality == "image_text":
        processor["processor_class"] = "CLIPProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")

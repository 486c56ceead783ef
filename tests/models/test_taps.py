"""Where hidden states are found, against what transformers itself calls them."""

import numpy as np
import pytest
import torch

from fedsim.errors import ConfigError
from fedsim.models import presets
from fedsim.models.factory import build
from fedsim.models.taps import layers, tapped
from fedsim.types import Interface

INTERFACES = {
    "text": Interface("text", classes=50, window=12),
    "image": Interface("image", classes=10, window=0, image_shape=(1, 8, 8)),
    "image_text": Interface(
        "image_text", classes=3, window=6, image_shape=(1, 8, 8), vocabulary=50, end_of_text=49
    ),
}
TINY = [name for name, preset in presets.PRESETS.items() if preset.millions is None]


def inputs(modality: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 49, (4, 12 if modality == "text" else 6), generator=draw)
    pixels = torch.randn(4, 1, 8, 8, generator=draw)
    return {
        "text": {"input_ids": ids},
        "image": {"pixel_values": pixels},
        "image_text": {"input_ids": ids, "pixel_values": pixels},
    }[modality]


@pytest.mark.parametrize("name", TINY)
def test_every_small_model_shows_its_hidden_states(name: str):
    modality = presets.PRESETS[name].modality
    model = build(name, INTERFACES[modality], seed=0).eval()
    with torch.no_grad(), tapped(model, (0.5, 1.0)) as states:
        model(**inputs(modality))
        assert all(len(state) == 4 and state.isfinite().all() for state in states)
    kept = [state.clone() for state in states]
    with torch.no_grad():
        model(**{k: v.flip(0) for k, v in inputs(modality).items()})
    assert all(torch.equal(a, b) for a, b in zip(kept, states, strict=True))  # its hooks are gone


@pytest.mark.parametrize("name", ["llama-tiny", "pythia-tiny", "gpt2-tiny"])
def test_depths_are_those_of_transformers(name: str):
    model = build(name, INTERFACES["text"], seed=0).eval()
    number = model.config.num_hidden_layers
    depths = [*(np.arange(1, number) / number), 1.0]
    with torch.no_grad(), tapped(model, depths) as states:
        theirs = model(**inputs("text"), output_hidden_states=True).hidden_states
        for found, expected in zip(states, theirs[1:], strict=True):
            assert torch.equal(found, expected)


def test_the_last_state_is_what_an_image_is_classified_by():
    model = build("vit-tiny", INTERFACES["image"], seed=0).eval()
    with torch.no_grad(), tapped(model, (1.0,)) as states:
        logits = model(**inputs("image")).logits
        assert torch.allclose(model.classifier(states[0][:, 0]), logits)


def test_of_two_encoders_it_is_the_one_that_sees():
    model = build("clip-tiny", INTERFACES["image_text"], seed=0).eval()
    columns = inputs("image_text")
    with torch.no_grad(), tapped(model, (0.5, 1.0)) as states:
        image = model(**columns).image_embeds
        kept = [state.clone() for state in states]
        model(**{**columns, "input_ids": columns["input_ids"].flip(1)})
        assert all(torch.equal(a, b) for a, b in zip(kept, states, strict=True))
        projected = model.visual_projection(states[1])
    assert torch.allclose(projected / projected.norm(dim=-1, keepdim=True), image, atol=1e-6)


def test_a_model_without_blocks_is_named():
    with pytest.raises(ConfigError, match=r"Linear.* stack of blocks"):
        layers(torch.nn.Linear(2, 2), (1.0,))

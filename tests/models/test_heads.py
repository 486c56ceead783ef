"""What a student learns with and leaves behind."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.errors import ConfigError
from fedsim.learning.training import HeadSpec
from fedsim.modalities import modality
from fedsim.models import presets
from fedsim.models.factory import build
from fedsim.models.heads import PREFIX, Heads, attach, without_heads
from tests.models.test_taps import INTERFACES, TINY, inputs

SPEC = HeadSpec(depths=(0.5, 1.0), rank=3, domains=4)


def logits(model: nn.Module, kind: str) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(**inputs(kind))
    return outputs.logits_per_image if kind == "image_text" else outputs.logits


def with_heads(name: str) -> tuple[nn.Module, nn.Module, Heads, str]:
    """A model, its twin with heads that were never trained, the heads, what it reads."""
    kind = presets.PRESETS[name].modality
    plain = build(name, INTERFACES[kind], seed=0).eval()
    model = copy.deepcopy(plain)
    prompts = ((1, 2, 3),) * 3
    heads = attach(model, SPEC, modality(kind, prompts).pooled, seed=1)
    return plain, model.eval(), heads, kind


@pytest.mark.parametrize("name", TINY)
def test_the_plain_model_answers_as_the_adapted_one_did(name: str):
    plain, model, heads, kind = with_heads(name)
    torch.testing.assert_close(logits(model, kind), logits(plain, kind))  # E is zero at first
    assert [tuple(e.shape) for e in heads.embeddings] == [(4, 3), (4, 3)]
    with torch.no_grad():
        heads.scale.weight.normal_(0, 0.3)
        heads.scale.mean.copy_(torch.tensor([1.0, -0.5, 0.25, 0.0]))
    expected = logits(model, kind)
    assert not torch.allclose(expected, logits(plain, kind), atol=1e-3)
    state = without_heads(model, dict(model.named_parameters()))
    assert state.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(state, strict=False)
    torch.testing.assert_close(logits(plain, kind), expected, atol=1e-5, rtol=1e-4)


def test_every_example_is_adapted_to_its_own_domain():
    _, model, heads, kind = with_heads("llama-tiny")
    with torch.no_grad():
        heads.scale.weight.normal_(0, 0.3)
    domains = torch.eye(4)
    heads.domains = domains
    together = logits(model, kind)
    for k, domain in enumerate(domains):
        heads.domains = None
        heads.scale.mean.data = domain
        torch.testing.assert_close(together[k], logits(model, kind)[k])


def test_the_same_seed_gives_the_same_maps_and_the_models_own_weights_come_first():
    (_, a, _, _), (plain, b, _, _) = with_heads("vit-micro"), with_heads("vit-micro")
    names = [n for n, _ in b.named_parameters()]
    assert names[: len(list(plain.parameters()))] == [n for n, _ in plain.named_parameters()]
    assert all(n.startswith(PREFIX) for n in names[len(list(plain.parameters())) :])
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_mapped_is_the_hidden_state_by_the_matrix():
    _, model, heads, kind = with_heads("gpt2-tiny")
    with torch.no_grad():
        states = model(**inputs(kind), output_hidden_states=True).hidden_states
    half = -(-model.config.num_hidden_layers // 2)
    for mapped, matrix, state in zip(heads.embeddings, heads.maps, (states[half], states[-1]), strict=True):
        expected = state.mean(1).numpy() @ matrix.weight.detach().numpy().T
        np.testing.assert_allclose(mapped.detach().numpy(), expected, atol=1e-5)


def test_a_norm_that_cannot_be_folded_is_named():
    model = build("llama-tiny", INTERFACES["text"], seed=0)

    class OnePlus(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (1 + self.weight)

    OnePlus.__name__ = "OnePlusNorm"
    model.model.norm = OnePlus(model.config.hidden_size)
    with pytest.raises(ConfigError, match=r"adaptation: 'LlamaForCausalLM' is not valid; expected false"):
        attach(model, SPEC, modality("text").pooled, seed=0)

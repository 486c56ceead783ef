"""Filling in hidden patches: the loss by hand, what learns from it, and a run that begins with it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim import config as configs
from fedsim import loading, simulation
from fedsim.config import Training
from fedsim.errors import ConfigError, DivergedError
from fedsim.executor import InProcess
from fedsim.learning.training import Phase, Stream
from fedsim.modalities import modality
from fedsim.models.factory import build
from fedsim.models.masked_image import HIDDEN, MaskedImages, hide, pretrain
from fedsim.types import Examples, Interface

PROMPTS = ((1, 2, 0), (1, 3, 0))
IMAGE = Interface("image", 2, 0, (2, 8, 8))
PAIRS = Interface("image_text", 2, 3, (2, 8, 8), prompts=PROMPTS, vocabulary=9)
MODELS = pytest.mark.parametrize(("name", "interface"), [("vit-micro", IMAGE), ("clip-micro", PAIRS)])


def stripes(n: int = 24) -> Examples:
    """Images of which a patch tells the others."""
    shades = np.random.default_rng(0).integers(0, 256, n)
    pixels = np.broadcast_to(shades[:, None, None, None], (n, 2, 8, 8)).astype(np.uint8)
    return Examples({"pixel_values": pixels}, np.full(n, -1), np.arange(n).astype(np.uint64))


@MODELS
def test_the_loss_is_the_absolute_error_on_hidden_pixels_only(name: str, interface: Interface):
    torch.manual_seed(0)
    wrapped = MaskedImages(build(name, interface, seed=0)).eval()
    pixels = torch.randn(3, 2, 8, 8)
    hidden = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()
    seen, errors = pixels.clone(), []
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    for image, patch in hidden.nonzero().tolist():
        y, x = corners[patch]
        seen[image, :, y : y + 4, x : x + 4] = 0.0
    with torch.no_grad():
        said = wrapped.head(wrapped.encoder(pixel_values=seen).last_hidden_state[:, 1:])
        for image, patch in hidden.nonzero().tolist():
            y, x = corners[patch]
            guess = said[image, patch].view(2, 4, 4)
            errors.append((guess - pixels[image, :, y : y + 4, x : x + 4]).abs().mean())
        loss = wrapped(pixels, hidden)
    torch.testing.assert_close(loss, torch.stack(errors).mean())


@MODELS
def test_the_encoder_learns_and_the_same_key_teaches_the_same(name: str, interface: Interface):
    kind = modality(interface.modality, interface.prompts)
    training = Training(steps=60, batch_size=16, learning_rate=5e-3, augment=False)
    phase = Phase((Stream(stripes(), 16),), training, 1, 1, (0, "masked"))
    one, other, fresh = (build(name, interface, seed=0) for _ in range(3))
    losses = pretrain(one, kind, phase, torch.device("cpu"))
    assert losses == pretrain(other, kind, phase, torch.device("cpu"))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    moved = {
        n
        for (n, p), q in zip(one.named_parameters(), fresh.parameters(), strict=True)
        if not torch.equal(p, q)
    }
    assert moved
    assert all(n.startswith(("vit.", "vision_model.")) for n in moved)


def test_a_start_that_diverges_is_said_to():
    training = Training(
        steps=3, batch_size=8, learning_rate=1e30, gradient_clip=None, optimizer="sgd", warmup=0
    )
    with pytest.raises(DivergedError, match="masked images"):
        phase = Phase((Stream(stripes(), 8),), training, 1, 1, (0, "masked"))
        pretrain(build("vit-micro", IMAGE, seed=0), modality("image"), phase, torch.device("cpu"))


@pytest.mark.parametrize(("patches", "number"), [(2, 1), (4, 2), (16, 10), (196, 118)])
def test_as_many_patches_are_hidden_in_every_image(patches: int, number: int):
    hidden = hide(50, patches, np.random.default_rng(0))
    assert hidden.shape == (50, patches)
    assert set(hidden.sum(1).tolist()) == {number}
    assert number == max(1, min(round(HIDDEN * patches), patches - 1))
    assert len({tuple(row) for row in hidden.tolist()}) > 1


def config(folder: Path, **overrides: object) -> configs.RunConfig:
    training = {"steps": 2, "batch_size": 8}
    tree = {
        "rounds": 1,
        "output": str(folder / "run"),
        "data": {"source": "digits", "max_examples": 200},
        "participants": {"count": 2, "models": ["vit-micro"], "training": training},
        "student": {"model": "vit-tiny", "training": training},
        "pretraining": {"steps": 3, "objective": "masked_image"},
    }
    return loading.load(tree, **overrides)


def test_a_run_can_begin_so_on_unlabelled_images(tmp_path: Path):
    scores = []
    for steps in (0, 3):
        folder = tmp_path / str(steps)
        settings = config(folder, **{"pretraining.steps": steps})
        rounds = simulation.run(settings, executor=InProcess()).rounds
        scores.append(rounds.loss[rounds["round"] == 0].item())
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"pretraining.objective": "task"}, "pretraining.steps"),
        ({"participants.models": ["vit-micro", "mlp"]}, "participants.models.1"),
        ({"student.model": "cnn"}, "student.model"),
        (
            {"data.source": "stdlib", "participants.models": ["gpt2-tiny"], "student.model": "gpt2-tiny"},
            "pretraining.objective",
        ),
    ],
)
def test_what_can_t_be_learnt_so_is_refused(tmp_path: Path, overrides: dict, field: str):
    with pytest.raises(ConfigError) as caught:
        simulation.check(config(tmp_path, **overrides))
    assert caught.value.field == field

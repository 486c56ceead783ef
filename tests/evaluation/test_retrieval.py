"""Recall at k against hand-computed ranks, and a dual encoder's similarities against transformers' own."""

import numpy as np
import pytest
import torch

from fedsim import data
from fedsim.evaluation.retrieval import recalls, retrieved
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world


def test_recalls_by_hand():
    similarity = np.array([[9, 5, 1], [8, 7, 2], [3, 4, 6.0]])
    found = recalls(similarity, np.eye(3, dtype=bool), (1, 2, 3))
    # Ranks of the right text: 1, 2, 1; of the right image: 1, 1, 1.
    assert [found[f"image_to_text_{k}"] for k in (1, 2, 3)] == pytest.approx([2 / 3, 1, 1])
    assert [found[f"text_to_image_{k}"] for k in (1, 2, 3)] == [1, 1, 1]


def test_any_right_candidate_will_do_and_a_tie_does_not():
    similarity = np.array([[1, 2, 3], [3, 3, 0.0]])
    right = np.array([[False, True, True], [True, False, False]])
    found = recalls(similarity, right, (1, 2))
    assert (found["image_to_text_1"], found["image_to_text_2"]) == (0.5, 1.0)
    # Texts: the second image, the first image (behind the second), the first image.
    assert (found["text_to_image_1"], found["text_to_image_2"]) == (pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dual_encoder_is_asked_as_transformers_would(labelled: bool):
    set_up(1)
    config = load({
        "data": {"source": "digits", "modality": "image_text", "max_examples": 150, "split": {"test": 0.3}},
        "participants": {"models": ["clip-micro"], "count": 2}, "student": {"model": "clip-micro"},
    })  # fmt: skip
    federation = data.build(data.plan(config))
    learner = world(config, federation).specialist("clip-micro", None, config.participants.training)
    pairs = federation.public.test
    if not labelled:
        del pairs.arrays["labels"]
    found = retrieved(learner, pairs, (1, 5))

    model = learner.engine.model.eval()
    captions = [tuple(row) for row in pairs.arrays["input_ids"]]
    texts = sorted(set(captions))
    with torch.no_grad():
        pixels = torch.from_numpy(pairs.arrays["pixel_values"]).float() / 127.5 - 1
        out = model(pixel_values=pixels, input_ids=torch.tensor(texts).long())
    images, embedded = out.image_embeds, out.text_embeds
    assert torch.allclose(images.norm(dim=1), torch.ones(len(pairs)), atol=1e-5)
    cosines = (images @ embedded.T).numpy()
    labels = pairs.arrays.get("labels", np.arange(len(pairs)))
    for k in (1, 5):
        hits = 0
        for image, row in enumerate(cosines):
            nearest = [texts[t] for t in np.argsort(-row)[:k]]
            right = {c for c, label in zip(captions, labels, strict=True) if label == labels[image]}
            hits += any(text in right for text in nearest)
        assert found[f"image_to_text_{k}"] == pytest.approx(hits / len(pairs), abs=1.5 / len(pairs))

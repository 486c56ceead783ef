"""Images with captions: the distribution over prompts, the pairs of a batch, zero-shot and retrieval."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.aggregation.exact import Pooled
from fedsim.config import Training
from fedsim.learning.learner import Learner
from fedsim.learning.training import Objective, Phase, Stream
from fedsim.modalities import modality
from fedsim.modalities.image_text import _alike
from fedsim.models.factory import build
from fedsim.models.flops import forward_flops
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples, Interface

N, K, S = 12, 3, 5
PROMPTS = ((1, 2, 0, 0, 0), (1, 3, 0, 0, 0), (1, 4, 4, 4, 0))
PAIRS = Interface("image_text", K, S, (1, 8, 8), ("a", "b", "c"), PROMPTS, vocabulary=9)
TRAINING = Training(steps=6, batch_size=4, learning_rate=3e-3, warmup=2)


def pairs(n: int = N) -> Examples:
    """Images as bright as their label, captioned by their prompt, every other one by a word more."""
    labels = np.arange(n) % K
    noise = np.random.default_rng(0).integers(40, size=(n, 1, 8, 8))
    captions = np.array(PROMPTS, np.int32)[labels]
    captions[::2, -2] = 7
    arrays = {"pixel_values": (noise + 90 * labels[:, None, None, None]).astype(np.uint8)}
    arrays |= {"labels": labels, "input_ids": captions}
    return Examples(arrays, labels, np.arange(n).astype(np.uint64))


def without(examples: Examples, *columns: str) -> Examples:
    return replace(examples, arrays={k: v for k, v in examples.arrays.items() if k not in columns})


def learner(seed: int = 0) -> Learner:
    engine = TorchEngine(build("clip-micro", PAIRS, seed), TRAINING, torch.device("cpu"))
    return Learner(engine, modality("image_text", PROMPTS), K)


def phase(*streams: Stream) -> Phase:
    return Phase(streams, TRAINING, 1, 1, (0, "test"))


def similarities(model: torch.nn.Module, examples: Examples, texts: np.ndarray) -> np.ndarray:
    """exp(t) · cosine of every image with every text, each encoded alone, in float64: [N, T]."""

    def unit(vector: torch.Tensor) -> np.ndarray:
        values = vector.numpy().astype(np.float64)[0]
        return values / np.sqrt((values**2).sum())

    model.eval()
    with torch.no_grad():
        images = [
            unit(model.get_image_features(torch.from_numpy(p[None] / 127.5 - 1).float()).pooler_output)
            for p in examples.arrays["pixel_values"]
        ]
        words = [
            unit(model.get_text_features(torch.tensor([list(map(int, t))])).pooler_output) for t in texts
        ]
    return np.exp(model.logit_scale.item()) * np.array(images) @ np.array(words).T


def test_a_response_is_the_softmax_of_scaled_cosines_with_the_prompts():
    who, examples = learner(), pairs()
    images = without(examples, "labels")
    said = who.express(images, np.arange(N), levels=65535, quantiser="largest_remainder", key=(0,))
    logits = similarities(who.engine.model, examples, np.array(PROMPTS))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    dense = np.zeros((N, K))
    dense[np.repeat(np.arange(N), np.diff(said.offsets)), said.ids] = said.counts / said.levels
    np.testing.assert_allclose(dense, expected, atol=2e-5)
    assert said.claims is None
    assert who.claims(examples, np.arange(N)).shape == (N,)


def test_the_score_is_zero_shot_classification():
    who, examples = learner(), pairs()
    accuracy, loss = who.evaluate(examples)
    logits = similarities(who.engine.model, examples, np.array(PROMPTS))
    labels = examples.arrays["labels"]
    assert accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(N), labels]
    assert loss == pytest.approx(nll.mean(), rel=1e-5)
    # The images' own captions play no part in it.
    assert who.evaluate(without(examples, "input_ids")) == (accuracy, loss)


def test_without_labels_the_score_is_retrieval_of_the_own_caption():
    who, examples = learner(), without(pairs(), "labels")
    captions, own = np.unique(examples.arrays["input_ids"], axis=0, return_inverse=True)
    logits = similarities(who.engine.model, examples, captions)
    accuracy, _ = who.evaluate(examples)
    assert len(captions) == 2 * K
    assert accuracy == pytest.approx((logits.argmax(1) == own.reshape(-1)).mean())


def test_who_is_right_for_whom():
    examples, index = pairs(), np.array([0, 3, 1, 6])  # labels 0, 0, 1, 0; captions of 0 and 6 are equal
    same = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]], bool)
    assert np.array_equal(_alike(examples, index), same)
    by_caption = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]], bool)
    assert np.array_equal(_alike(without(examples, "labels"), index), by_caption)


def test_what_is_trained_on_is_the_contrastive_loss_of_the_batch():
    who, examples = learner(), pairs()
    fit = who.fit(phase(Stream(examples, N)))
    first = learner()
    one = first.fit(replace(phase(Stream(examples, N)), training=TRAINING.model_copy(update={"steps": 1})))
    logits = similarities(learner().engine.model, examples, examples.arrays["input_ids"])
    alike = _alike(examples, np.arange(N))
    losses = []
    for z in (logits, logits.T):
        nll = np.log(np.exp(z).sum(1, keepdims=True)) - z
        losses.append(((nll * alike).sum(1) / alike.sum(1)).mean())
    assert one.loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert fit.loss < one.loss


def test_training_on_pairs_teaches_the_prompts():
    who, examples = learner(), pairs(30)
    before, _ = who.evaluate(examples)
    training = TRAINING.model_copy(update={"steps": 60, "batch_size": 16})
    who.fit(replace(phase(Stream(examples, 16)), training=training))
    after, _ = who.evaluate(examples)
    assert after > max(before, 0.9)


def test_images_without_captions_are_learnt_from_a_teacher():
    who, images = learner(), without(pairs(), "labels", "input_ids")
    ids = np.arange(N) % K
    teacher = Pooled(np.arange(N), 1, K, np.arange(N + 1), ids.astype(np.int32), np.ones(N, np.float32))
    stream = Stream(images, N, Objective(1.0, 0.3), teacher)
    training = TRAINING.model_copy(update={"steps": 60})
    fit = who.fit(replace(phase(stream), training=training))
    assert fit.terms.keys() == {"response"}  # there are no captions for the other
    assert who.evaluate(pairs())[0] > 0.9
    with pytest.raises(ValueError, match="neither a teacher nor answers"):
        who.fit(phase(Stream(images, N, Objective(1.0, 1.0))))


def test_both_losses_come_from_one_pass():
    who, examples = learner(), pairs()
    teacher = Pooled(
        np.arange(N),
        1,
        K,
        np.arange(N + 1),
        examples.arrays["labels"].astype(np.int32),
        np.ones(N, np.float32),
    )
    calls = []
    who.engine.model.register_forward_hook(lambda *_: calls.append(1))
    fit = who.fit(phase(Stream(examples, 4, Objective(1.0, 0.3), teacher)))
    assert fit.terms.keys() == {"response", "task"}
    assert len(calls) == fit.steps + 2  # and twice to count the operations


def test_computation_is_counted_for_the_images_and_texts_that_are_encoded():
    examples = pairs()

    def flops(images: int, texts: int) -> float:
        inputs = {
            "pixel_values": torch.zeros(images, 1, 8, 8),
            "input_ids": torch.zeros(texts, S, dtype=torch.int64),
        }
        return forward_flops(learner().engine.model, inputs)

    answering, training = learner(), learner()
    answering.evaluate(examples)
    assert answering.flops == pytest.approx(flops(N, K), rel=0.01)
    training.fit(phase(Stream(examples, 4)))
    assert training.flops == pytest.approx(3 * TRAINING.steps * flops(4, 4), rel=0.01)

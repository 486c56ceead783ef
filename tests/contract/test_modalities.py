"""What every modality promises: rows, answers and positions that fit each other."""

import math

import numpy as np
import pytest
import torch

from fedsim.modalities import modality
from fedsim.modalities.base import Modality, chunks
from fedsim.models.factory import build
from fedsim.types import METRICS, Examples, Interface

CPU = torch.device("cpu")
N, K, WINDOW = 10, 13, 8

EXAMPLES = {
    "text": {"input_ids": np.random.default_rng(0).integers(K, size=(N, WINDOW)).astype(np.int32)},
    "image": {
        "pixel_values": np.random.default_rng(1).integers(256, size=(N, 1, 8, 8)).astype(np.uint8),
        "labels": np.random.default_rng(2).integers(K, size=N),
    },
}
MODELS = {"text": "llama-tiny", "image": "vit-micro"}


@pytest.fixture(params=METRICS)
def name(request) -> str:
    return request.param


@pytest.fixture
def kind(name: str) -> Modality:
    return modality(name)


@pytest.fixture
def examples(name: str) -> Examples:
    return Examples(EXAMPLES[name], np.zeros(N, np.int64), np.arange(N).astype(np.uint64))


def test_a_model_answers_every_row(name: str, kind: Modality, examples: Examples):
    shape = (1, 8, 8) if name == "image" else None
    model = build(MODELS[name], Interface(name, K, WINDOW, shape), seed=0).eval()
    index = np.array([7, 0, 3])
    with torch.no_grad():
        rows = kind.rows(model(**kind.inputs(examples, index, CPU)).logits)
        single = [kind.rows(model(**kind.inputs(examples, index[[i]], CPU)).logits) for i in range(3)]
    answers = kind.answers(examples, index, CPU)
    assert rows.shape == (3 * kind.positions(examples), K)
    assert answers.shape == rows.shape[:1]
    assert answers.dtype == torch.int64
    assert 0 <= int(answers.min()) <= int(answers.max()) < K
    # Example after example, whatever else is in the batch.
    torch.testing.assert_close(rows, torch.cat(single), rtol=1e-4, atol=1e-5)


def test_answers_belong_to_the_examples_asked_for(kind: Modality, examples: Examples):
    everything = kind.answers(examples, np.arange(N), CPU).view(N, -1)
    some = kind.answers(examples, np.array([4, 4, 1]), CPU).view(3, -1)
    assert torch.equal(some, everything[[4, 4, 1]])
    assert everything.shape[1] == kind.positions(examples)
    assert kind.labelled(examples)


def test_inputs_are_not_the_callers_own_memory(kind: Modality, examples: Examples):
    before = {column: values.copy() for column, values in examples.arrays.items()}
    for tensor in kind.inputs(examples, np.arange(N), CPU).values():
        tensor.zero_()
    assert all(np.array_equal(before[c], examples.arrays[c]) for c in before)


def test_a_variation_keeps_shapes_and_comes_from_its_generator(kind: Modality, examples: Examples):
    inputs = kind.inputs(examples, np.arange(N), CPU)
    one, same, other = (kind.augment(inputs, np.random.default_rng(s)) for s in (1, 1, 2))
    for key, tensor in inputs.items():
        assert one[key].shape == tensor.shape
        assert one[key].dtype == tensor.dtype
        assert torch.equal(one[key], same[key])
        # A modality may have none.
        assert torch.equal(one[key], tensor) or not torch.equal(one[key], other[key])


def test_a_perfect_score_is_the_best(name: str, kind: Modality):
    good, bad = kind.score(0.01, 0.99), kind.score(3.0, 0.2)
    assert (good > bad) == METRICS[name].higher_is_better
    assert math.isfinite(kind.score(1e9, 0.0))  # a diverged model is bad, not a crash


# What only one of them does -----------------------------------------------------------------------


def test_text_predicts_each_next_token():
    examples = Examples(EXAMPLES["text"], np.zeros(N, np.int64), np.arange(N).astype(np.uint64))
    text = modality("text")
    assert text.positions(examples) == WINDOW - 1
    assert (
        text.answers(examples, np.array([2]), CPU).tolist() == EXAMPLES["text"]["input_ids"][2, 1:].tolist()
    )
    logits = torch.arange(2 * WINDOW * K).view(2, WINDOW, K)
    rows = text.rows(logits)
    assert torch.equal(rows[WINDOW - 1], logits[1, 0])  # the first row of the second example
    assert torch.equal(rows[WINDOW - 2], logits[0, WINDOW - 2])  # the last of the first: not its last token
    assert text.score(math.log(50), 0.0) == pytest.approx(50)


def test_images_may_have_no_labels_and_vary_half_of_the_time():
    image, index = modality("image"), np.arange(N)
    pixels = {"pixel_values": EXAMPLES["image"]["pixel_values"]}
    unlabelled = Examples(pixels, np.full(N, -1), np.arange(N).astype(np.uint64))
    assert image.answers(unlabelled, index, CPU) is None
    assert not image.labelled(unlabelled)
    inputs = image.inputs(unlabelled, index, CPU)["pixel_values"]
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, torch.from_numpy(pixels["pixel_values"] / 127.5 - 1).float())
    many = inputs.repeat(40, 1, 1, 1)
    moved = image.augment({"pixel_values": many}, np.random.default_rng(0))["pixel_values"]
    kept = ((moved - many).abs().amax((1, 2, 3)) < 1e-5).float().mean().item()
    assert 0.4 < kept < 0.6
    assert moved.min() >= -1 - 1e-5
    assert moved.max() <= 1 + 1e-5


def test_what_comes_in_at_the_edge_is_dark():
    dark = torch.full((64, 1, 8, 8), -1.0)
    moved = modality("image").augment({"pixel_values": dark}, np.random.default_rng(0))["pixel_values"]
    torch.testing.assert_close(moved, dark)


def test_an_unknown_modality_is_no_modality():
    with pytest.raises(KeyError):
        modality("smell")


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (3, 3), (10, 3), (5, 100)])
def test_chunks_are_all_numbers_in_order(n: int, size: int):
    parts = list(chunks(n, size))
    assert [i for part in parts for i in part] == list(range(n))
    assert all(0 < len(part) <= size for part in parts)

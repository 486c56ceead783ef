"""What every modality promises: rows, answers and positions that fit each other."""

import math

import numpy as np
import pytest
import torch

from fedsim.learning.training import Objective
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
EXAMPLES["image_text"] = {
    **EXAMPLES["image"],
    "input_ids": np.pad(np.random.default_rng(3).integers(1, 20, size=(N, 4)), ((0, 0), (0, 2))).astype(
        np.int32
    ),
}
PROMPTS = tuple((k + 1, k + 2, 0, 0, 0, 0) for k in range(K))
SHAPE = (1, 8, 8)
INTERFACES = {
    "text": Interface("text", K, WINDOW),
    "image": Interface("image", K, 0, SHAPE),
    "image_text": Interface("image_text", K, 6, SHAPE, prompts=PROMPTS, vocabulary=20),
}
MODELS = {"text": "llama-tiny", "image": "vit-micro", "image_text": "clip-micro"}
ANSWER, LEARN, BOTH = Objective(1.0, 0.0), Objective(0.0, 1.0), Objective(1.0, 1.0)


@pytest.fixture(params=METRICS)
def name(request) -> str:
    return request.param


@pytest.fixture
def kind(name: str) -> Modality:
    return modality(name, INTERFACES[name].prompts)


@pytest.fixture
def examples(name: str) -> Examples:
    return Examples(EXAMPLES[name], np.zeros(N, np.int64), np.arange(N).astype(np.uint64))


@pytest.fixture
def model(name: str) -> torch.nn.Module:
    return build(MODELS[name], INTERFACES[name], seed=0).eval()


def logits(
    kind: Modality, model: torch.nn.Module, examples: Examples, index: np.ndarray, want: Objective
) -> torch.Tensor:
    with torch.no_grad():
        return kind.logits(model(**kind.asked(kind.inputs(examples, index, CPU), want)))


def test_a_model_answers_every_row(kind: Modality, model: torch.nn.Module, examples: Examples):
    index = np.array([7, 0, 3])
    rows = kind.rows(logits(kind, model, examples, index, ANSWER))
    single = [kind.rows(logits(kind, model, examples, index[[i]], ANSWER)) for i in range(3)]
    answers = kind.answers(examples, index, CPU)
    assert rows.shape == (3 * kind.positions(examples), K)
    assert answers.shape == rows.shape[:1]
    assert answers.dtype == torch.int64
    assert 0 <= int(answers.min()) <= int(answers.max()) < K
    # Example after example, whatever else is in the batch.
    torch.testing.assert_close(rows, torch.cat(single), rtol=1e-4, atol=1e-5)


def test_learning_the_task_beside_responses_changes_neither(
    kind: Modality, model: torch.nn.Module, examples: Examples
):
    index = np.array([2, 5, 5, 9])
    alone, both = (logits(kind, model, examples, index, want) for want in (ANSWER, BOTH))
    torch.testing.assert_close(kind.rows(both), kind.rows(alone), rtol=1e-4, atol=1e-5)
    task = [
        kind.task_loss(said, kind.rows(said), examples, index, CPU)
        for said in (logits(kind, model, examples, index, LEARN), both)
    ]
    assert task[0].item() > 0
    torch.testing.assert_close(*task, rtol=1e-4, atol=1e-5)


def test_every_rank_can_take_its_share_of_the_columns(kind: Modality, examples: Examples):
    index = np.arange(6)
    whole = kind.inputs(examples, index, CPU)
    for rank in range(2):
        share = kind.inputs(examples, index[rank::2], CPU)
        assert all(torch.equal(share[name], column[rank::2]) for name, column in whole.items())


def test_learnable_examples_have_a_task_loss_and_are_judged_by_their_answers(
    kind: Modality, examples: Examples
):
    assert kind.learnable(examples)
    judge, judged = kind.judged(examples)
    assert judge is kind
    assert judged is examples


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
    read = text.inputs(examples, np.array([2, 0]), CPU)["input_ids"]  # what follows the last token is unknown
    assert read.tolist() == EXAMPLES["text"]["input_ids"][[2, 0], :-1].tolist()
    logits = torch.arange(2 * (WINDOW - 1) * K).view(2, WINDOW - 1, K)
    rows = text.rows(logits)
    assert torch.equal(rows[WINDOW - 1], logits[1, 0])  # the first row of the second example
    assert torch.equal(rows[WINDOW - 2], logits[0, WINDOW - 2])  # the last of the first
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

"""Generation with a cache against generation without one, and learning from what was generated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.config import Training
from fedsim.learning.learner import Learner
from fedsim.learning.sequences import continued, prompt_lengths, references, room
from fedsim.learning.training import Lesson, Objective, Phase, Stream
from fedsim.modalities import modality
from fedsim.models.factory import build
from fedsim.process import set_up
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples, Interface
from fedsim.wire.quantise import to_dense

CLASSES, WINDOW, END = 40, 24, 0
MODELS = ("llama-tiny", "pythia-tiny", "gpt2-tiny", "opt-tiny")
TRAINING = Training(steps=1, batch_size=4, warmup=0)
rng = np.random.default_rng


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def learner(model: str = "llama-tiny", training: Training = TRAINING) -> Learner:
    network = build(model, Interface("text", CLASSES, 64), seed=1)
    engine = TorchEngine(network, training, torch.device("cpu"))
    return Learner(engine, modality("text", ()), CLASSES)


def examples(number: int = 7, window: int = WINDOW) -> Examples:
    ids = rng(3).integers(1, CLASSES, (number, WINDOW)).astype(np.int32)
    ids = np.pad(ids, ((0, 0), (0, window - WINDOW)))
    prompts, ends = rng(4).integers(3, 9, number), rng(5).integers(10, WINDOW + 1, number)
    return Examples(
        {"input_ids": ids, "prompt": prompts, "length": ends},
        np.zeros(number, np.int64),
        np.arange(number, dtype=np.uint64),
    )


def likeliest(model: torch.nn.Module, ids: list[int], most: int) -> list[int]:
    """Greedy decoding as it is written in books: the whole text again for each token."""
    start = len(ids)
    while len(ids) - start < most:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids = [*ids, int(logits.argmax())]
        if ids[-1] == END:
            break
    return ids[start:]


@pytest.mark.parametrize("model", MODELS)
def test_the_cache_changes_nothing(model: str):
    some, of = examples(), learner(model)
    prompts, most = some.arrays["prompt"], np.array([12, 1, 5, 12, 9, 3, 12])
    offsets, tokens = of.generate(some, prompts, most, end=END, key=None)
    of.engine.model.eval()
    for i, (prompt, longest) in enumerate(zip(prompts, most, strict=True)):
        expected = likeliest(of.engine.model, some.arrays["input_ids"][i, :prompt].tolist(), longest)
        assert tokens[offsets[i] : offsets[i + 1]].tolist() == expected


def test_tokens_are_drawn_by_their_probability_and_the_same_each_time():
    of, number = learner(), 4000
    one = examples(1)
    many = one.take(np.zeros(number, np.int64))
    prompts, most = many.arrays["prompt"], np.ones(number, np.int64)
    first = of.generate(many, prompts, most, end=END, key=(7, 1, 2, "generate"))[1]
    assert np.array_equal(first, of.generate(many, prompts, most, end=END, key=(7, 1, 2, "generate"))[1])
    ids = torch.tensor(one.arrays["input_ids"][:, : prompts[0]], dtype=torch.int64)
    with torch.no_grad():
        p = torch.softmax(of.engine.model(input_ids=ids).logits[0, -1], -1).numpy()
    counts = np.bincount(first, minlength=CLASSES)
    assert np.abs(counts / number - p).max() < 5 * np.sqrt(p.max() / number)


def test_a_sequence_does_not_depend_on_those_generated_beside_it():
    of, some = learner(), examples()
    prompts, most, key = some.arrays["prompt"], np.full(7, 12), (7, 1, 2, "generate")
    offsets, tokens = of.generate(some, prompts, most, end=END, key=key)
    # The first three alone: the same rows of the same table of random numbers.
    few_offsets, few = of.generate(some.take(np.arange(3)), prompts[:3], most[:3], end=END, key=key)
    assert np.array_equal(offsets[:4], few_offsets) and np.array_equal(tokens[: offsets[3]], few)


def test_scores_are_the_log_probabilities_of_what_follows_the_prompts():
    of, some = learner(), examples()
    drawn = of.draw_tokens(some, 3, (1, 1, 1, "draw"))
    scores = of.score_tokens(some, drawn)
    rows = of.token_rows(some, levels=1000, quantiser="largest_remainder", key=(1, 1, 1, "rows"))
    assert rows.rows == len(scores)
    at = 0
    for i in range(len(some)):
        ids = torch.tensor(some.arrays["input_ids"][i : i + 1], dtype=torch.int64)
        with torch.no_grad():
            p = torch.softmax(of.engine.model(input_ids=ids).logits[0], -1).numpy()
        for t in range(some.arrays["prompt"][i], some.arrays["length"][i]):
            expected = np.log(p[t - 1, [int(ids[0, t]), *drawn[at]]])
            np.testing.assert_allclose(scores[at], expected, atol=1e-4)
            np.testing.assert_allclose(to_dense(rows, slice(at, at + 1))[0], p[t - 1], atol=1e-3)
            at += 1
    assert at == len(scores)


def lesson(of: Learner, some: Examples) -> Lesson:
    offsets, tokens = references(some, 0)
    draw = rng(8)
    old = of.score_tokens(some)[:, 0]
    advantages = draw.normal(0, 1, len(tokens)).astype(np.float32)
    return Lesson(offsets, old, advantages, draw.uniform(0.5, 1, len(tokens)).astype(np.float32), 0.2)


def test_two_pad_lengths_give_the_same_loss_and_the_same_step():
    results = []
    # AdamW would make whole steps of rounding, which differs from processor to processor.
    descent = {"steps": 3, "optimizer": "sgd", "weight_decay": 0.0, "learning_rate": 0.1}
    training = TRAINING.model_copy(update=descent)
    start = learner(training=training).parameters().vector
    for window in (WINDOW, WINDOW + 9):
        of, some = learner(training=training), examples(window=window)
        stream = Stream(some, 4, Objective(response=0, task=1.0), lesson=lesson(of, some))
        phase = Phase((stream,), training, 1, 1, (1, 1, 1, "learn"))
        results.append((of.fit(phase), of.evaluate(some), of.parameters().vector))
    (fit, score, vector), (other_fit, other_score, other_vector) = results
    assert fit.terms.keys() == {"task", "long_term"}
    for name in fit.terms:
        assert fit.terms[name] == pytest.approx(other_fit.terms[name], abs=1e-5), name
    assert score == pytest.approx(other_score, rel=1e-5)
    assert np.abs(vector - start).max() > 1e-3
    np.testing.assert_allclose(vector, other_vector, atol=2e-6)


def test_what_earns_becomes_likelier():
    of, some = learner(), examples()
    taught = lesson(of, some)
    up = replace(taught, advantages=np.ones_like(taught.advantages), weights=np.ones_like(taught.weights))
    stream = Stream(some, 7, Objective(response=0, task=0), lesson=up)
    of.fit(Phase((stream,), TRAINING.model_copy(update={"steps": 5}), 1, 1, (1, 1, 1, "learn")))
    after = of.score_tokens(some)
    assert after.mean() > up.old.mean() + 0.1


def test_the_prompt_and_the_padding_are_nobodys_loss():
    of, some = learner(), examples()
    scores = of.score_tokens(some)
    assert of.evaluate(some)[1] == pytest.approx(-scores.mean(), rel=1e-5)
    hidden = some.arrays["input_ids"].copy()
    hidden[np.arange(WINDOW) >= some.arrays["length"][:, None]] = 5  # other padding
    other = Examples({**some.arrays, "input_ids": hidden}, some.groups, some.keys)
    assert of.evaluate(other)[1] == pytest.approx(of.evaluate(some)[1], rel=1e-6)


def test_continuations_replace_what_followed_the_prompts():
    some = examples(3)
    offsets, tokens = np.array([0, 2, 3, 6]), np.arange(10, 16, dtype=np.int32)
    made = continued(some, 0, offsets, tokens)
    for i, prompt in enumerate(some.arrays["prompt"]):
        row = made.arrays["input_ids"][i]
        assert np.array_equal(row[:prompt], some.arrays["input_ids"][i, :prompt])
        assert np.array_equal(row[prompt : made.arrays["length"][i]], tokens[offsets[i] : offsets[i + 1]])
    found = references(made, 0)
    assert np.array_equal(found[0], offsets) and np.array_equal(found[1], tokens)


def test_windows_without_prompts_begin_with_one():
    plain = Examples({"input_ids": examples(3).arrays["input_ids"]}, np.zeros(3), np.zeros(3))
    assert prompt_lengths(plain, 10).tolist() == [10] * 3
    assert room(plain, 10, 99).tolist() == [WINDOW - 10] * 3
    assert room(plain, 10, 4).tolist() == [4] * 3
    assert np.array_equal(references(plain, 10)[1], plain.arrays["input_ids"][:, 10:].ravel())

"""What training is made of (batches, learning rates), and a learner that trains, answers and is scored."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.responses import of_samples
from fedsim.config import Training
from fedsim.learning import answering
from fedsim.learning.judges import TaskLoss
from fedsim.learning.learner import Learner
from fedsim.learning.specialist import Specialist
from fedsim.learning.training import FLOOR, Objective, Phase, Stream
from fedsim.modalities import modality
from fedsim.models.factory import build
from fedsim.seeding import generator
from fedsim.student.engine import TorchEngine, decayed
from fedsim.types import Examples, Interface
from fedsim.wire.quantise import QUANTISERS, to_dense

V, S, D = 11, 9, 8  # vocabulary, window, width
TRAINING = Training(steps=12, batch_size=4, learning_rate=0.05, warmup=2)
rng = np.random.default_rng


class Bigrams(nn.Module):
    """Each token predicts the next by itself: the smallest language model."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(V, D), nn.Linear(D, V)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.dropout(self.embed(input_ids))))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, 3)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(pixel_values.flatten(1)))


def texts(n: int, seed: int = 0) -> Examples:
    """Windows in which each token is the one before plus 1, mostly."""
    steps = (rng(seed).random((n, S)) < 0.9).astype(np.int32)
    ids = (rng(seed + 1).integers(V, size=(n, 1)) + np.cumsum(steps, 1)) % V
    return Examples(
        {"input_ids": ids.astype(np.int32)}, np.zeros(n, np.int64), np.arange(n).astype(np.uint64)
    )


def images(n: int, labelled: bool = True) -> Examples:
    columns = {"pixel_values": rng(5).integers(256, size=(n, 1, 4, 4), dtype=np.uint8)}
    if labelled:
        columns["labels"] = rng(6).integers(3, size=n)
    return Examples(columns, np.zeros(n, np.int64), np.arange(n).astype(np.uint64))


def reader(dropout: float = 0.0) -> Learner:
    return Learner(TorchEngine(Bigrams(dropout), TRAINING, torch.device("cpu")), modality("text"), V)


def viewer() -> Learner:
    return Learner(TorchEngine(Pixels(), TRAINING, torch.device("cpu")), modality("image"), 3)


def phase(*streams: Stream, round: int = 1, key: tuple = (0, 1, "fit"), **changes) -> Phase:
    return Phase(streams, TRAINING, round, rounds=3, key=key, **changes)


def log_probs(model: nn.Module, examples: Examples) -> np.ndarray:
    """Of every row, [R, K] float64, by numpy."""
    with torch.no_grad():
        if "input_ids" in examples.arrays:
            logits = model.eval()(torch.from_numpy(examples.arrays["input_ids"].astype(np.int64))).logits
            z = logits[:, :-1].reshape(-1, V)
        else:
            z = model.eval()(torch.from_numpy(examples.arrays["pixel_values"] / 127.5 - 1).float()).logits
    z = z.double().numpy()
    return z - np.log(np.exp(z).sum(1, keepdims=True))


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "steps"), [(10, 3, 10), (7, 7, 3), (3, 8, 5), (1, 4, 2), (12, 4, 1)])
def test_batches_are_passes_over_all_examples(n: int, size: int, steps: int):
    batches = Stream(texts(n), size).batches(steps, rng(0))
    assert [len(b) for b in batches] == [size] * steps
    stream = np.concatenate(batches)
    for start in range(0, len(stream) - n + 1, n):
        assert sorted(stream[start : start + n]) == list(range(n))  # nobody is seen twice before all once
    counts = np.bincount(stream, minlength=n)
    assert counts.max() - counts.min() <= 1


def test_passes_are_shuffled_by_the_generator_only():
    stream = Stream(texts(50), 50)
    first, second = stream.batches(2, rng(0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(50))
    assert all(map(np.array_equal, stream.batches(2, rng(0)), (first, second)))


# Learning rates -----------------------------------------------------------------------------------


def rates(rounds: int, **changes) -> list[float]:
    """Of all steps of a run, in order."""
    training = Training(**{"steps": 25, "learning_rate": 2e-3, "warmup": 10, **changes})
    phases = [Phase((), training, r, rounds, (0,)) for r in range(1, rounds + 1)]
    return [p.learning_rate(step) for p in phases for step in range(training.steps)]


def test_the_warm_up_is_linear_and_once_per_run():
    run = rates(4, schedule="constant")
    assert run[:10] == pytest.approx([2e-3 * (k + 1) / 11 for k in range(10)])
    assert run[10:] == [2e-3] * 90


def test_the_cosine_spans_all_rounds_and_ends_at_a_tenth():
    run = rates(4, warmup=0)
    expected = [FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)]
    assert run == pytest.approx([2e-3 * e for e in expected])
    assert run[0] == 2e-3
    assert 2e-4 < run[-1] < 2.05e-4


def test_how_a_run_is_cut_into_rounds_does_not_show_in_the_rate():
    assert rates(4) == pytest.approx(rates(1, steps=100))
    run = rates(4)
    assert run.index(max(run)) == 10  # up for ten steps, then down
    assert all(a > b for a, b in itertools.pairwise(run[10:]))


# Learning -----------------------------------------------------------------------------------------


def test_fit_learns():
    learner, seen, unseen = reader(), texts(40), texts(40, seed=9)
    before = learner.evaluate(unseen)[1]
    fits = [learner.fit(phase(Stream(seen, 8), round=r)) for r in (1, 2, 3)]
    assert before > math.log(V) - 0.2
    assert learner.evaluate(unseen)[1] < before - 0.5
    assert fits[0].loss > fits[1].loss > fits[2].loss
    assert fits[0].steps == TRAINING.steps
    assert fits[0].terms == {"task": pytest.approx(fits[0].loss)}


def test_fit_is_the_same_twice_bit_for_bit_and_another_with_another_key():
    def weights(key: tuple, noise: int) -> np.ndarray:
        learner = reader(dropout=0.3)
        torch.manual_seed(noise)  # what was drawn before must not matter
        learner.fit(phase(Stream(texts(20), 4), key=key))
        return learner.parameters().vector

    first = weights((0, 1, "fit"), 1)
    assert np.array_equal(first, weights((0, 1, "fit"), 2))
    assert not np.array_equal(first, weights((0, 2, "fit"), 1))
    assert not np.array_equal(first, weights((1, 1, "fit"), 1))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_plain_network_draws_nothing_so_it_needs_no_seed(name: str):
    shape = Interface("image", 3, 0, (1, 4, 4), ("a", "b", "c"))
    examples = images(12)

    def trained(state: int) -> tuple[np.ndarray, bool]:
        engine = TorchEngine(build(name, shape, 0), TRAINING, torch.device("cpu"))
        torch.manual_seed(state)
        before = torch.get_rng_state()
        learner = Learner(engine, modality("image"), 3)
        learner.fit(phase(Stream(examples, 4)))
        return learner.parameters().vector, torch.equal(before, torch.get_rng_state())

    (one, untouched), (other, _) = trained(1), trained(2)
    assert untouched and one.tobytes() == other.tobytes()


def test_a_teacher_is_learnt_from_row_by_row():
    learner, examples = reader(), texts(6)
    teacher_RK = rng(3).dirichlet(np.full(V, 0.5), 6 * (S - 1)).astype(np.float32)
    teacher = dense_pool(teacher_RK)
    stream = Stream(examples, 6, Objective(response=1.0, task=0.0), teacher)
    fit = learner.fit(Phase((stream,), Training(steps=1, batch_size=6, warmup=0), 1, 1, (0, "fit")))
    # One full batch at the starting weights: the mean of the rows' divergences.
    log_q = log_probs(Bigrams(), examples)
    log_p = np.log(np.maximum(teacher_RK, 1e-30), dtype=np.float64)
    assert fit.loss == pytest.approx(float((teacher_RK * (log_p - log_q)).sum() / len(log_q)), rel=1e-5)
    assert set(fit.terms) == {"response"}


def dense_pool(probs_RK: np.ndarray, positions: int = S - 1) -> Pooled:
    rows, classes = np.nonzero(probs_RK)
    offsets = np.searchsorted(rows, np.arange(len(probs_RK) + 1))
    samples = np.arange(len(probs_RK) // positions)
    return Pooled(samples, positions, V, offsets, classes.astype(np.int32), probs_RK[rows, classes])


def test_a_sparse_teacher_comes_out_dense_in_any_order():
    probs_RK = rng(4).dirichlet(np.full(V, 0.5), 5 * (S - 1)).astype(np.float32)
    probs_RK[rng(5).random(probs_RK.shape) < 0.6] = 0
    probs_RK[:, 0] += 0.1  # every row names someone
    for batch in (np.arange(5), np.array([3, 0, 3])):
        expected = probs_RK.reshape(5, S - 1, V)[batch].reshape(-1, V)
        assert np.array_equal(of_samples(dense_pool(probs_RK), batch), expected)


def test_streams_add_up_by_their_weights():
    text, half = texts(8), texts(8, seed=4)
    one = Phase((Stream(text, 8),), Training(steps=1, warmup=0), 1, 1, (0, "fit"))
    both = replace(one, streams=(Stream(text, 8), Stream(half, 8, weight=0.25)))
    first, second = reader().evaluate(text)[1], reader().evaluate(half)[1]
    assert reader().fit(one).loss == pytest.approx(first, rel=1e-5)
    assert reader().fit(both).loss == pytest.approx(first + 0.25 * second, rel=1e-5)


def test_the_proximal_term_holds_the_weights_back():
    def moved(mu: float) -> float:
        learner = reader()
        before = learner.parameters().vector
        learner.fit(phase(Stream(texts(20), 4), proximal=mu))
        return float(np.linalg.norm(learner.parameters().vector - before))

    assert moved(100.0) < 0.5 * moved(0.0)
    terms = reader().fit(phase(Stream(texts(20), 4), proximal=1.0)).terms
    assert terms["proximal"] > 0


def test_nothing_to_train_on_is_no_training():
    learner = reader()
    before = learner.parameters().vector
    fit = learner.fit(phase(Stream(texts(0), 4)))
    assert (math.isnan(fit.loss), fit.steps) == (True, 0)
    assert np.array_equal(learner.parameters().vector, before)
    with pytest.raises(ValueError, match="neither a teacher nor answers"):
        viewer().fit(phase(Stream(images(8, labelled=False), 4)))


# Answering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_responses_are_the_models_probabilities_on_the_grid(quantiser: str):
    learner, proxy, samples, levels = reader(), texts(30), np.array([0, 3, 4, 17, 29]), 4000
    answer = learner.express(proxy, samples, levels=levels, quantiser=quantiser, key=(0, 1, "express"))
    assert (answer.rows, answer.positions, answer.classes, answer.levels) == (5 * (S - 1), S - 1, V, levels)
    assert np.array_equal(answer.samples, samples)
    assert np.array_equal(np.add.reduceat(answer.counts, answer.offsets[:-1]), np.full(answer.rows, levels))
    probs_RK = np.exp(log_probs(learner.engine.model, proxy.take(samples)))
    # Largest remainder and systematic are within one quantum; 4,000 draws within five deviations.
    width = 5 * np.sqrt(0.25 / levels) if quantiser == "sample" else 1.001 / levels
    assert np.abs(to_dense(answer, slice(None)) - probs_RK).max() <= width


def test_views_are_answered_by_their_mean():
    learner, proxy, samples, said, spent = viewer(), images(12), np.array([2, 3, 11]), {}, {}
    for views in (1, 2, 32):
        before = learner.flops
        answer = learner.express(
            proxy, samples, levels=60000, quantiser="largest_remainder", key=(0, "express"), views=views
        )
        said[views], spent[views] = to_dense(answer, slice(None)), learner.flops - before
    assert spent[32] == 16 * spent[2] == 32 * spent[1] > 0
    model, seen = learner.engine.model, []
    variation = generator(0, "express", "views")
    pixels = learner.modality.inputs(proxy, samples, learner.engine.device)
    for view in range(2):
        shown = learner.modality.augment(pixels, variation) if view else pixels
        with torch.no_grad():
            seen.append(torch.softmax(model(**shown).logits, -1).numpy())
    assert said[2] == pytest.approx(np.mean(seen, 0), abs=2e-5)
    assert said[1] == pytest.approx(seen[0], abs=2e-5)
    assert np.abs(said[32] - said[1]).max() > 1e-3


def test_responses_carry_the_loss_on_each_sample():
    learner, proxy, samples = reader(), texts(30), np.array([1, 2, 20])
    answer = learner.express(
        proxy, samples, levels=15, quantiser="systematic", key=(0, "express"), judge=TaskLoss()
    )
    assert np.array_equal(answer.claims, learner.claims(proxy, samples))
    rows, next_tokens = log_probs(learner.engine.model, proxy.take(samples)), proxy.arrays["input_ids"][:, 1:]
    picked = rows[np.arange(len(rows)), next_tokens[samples].ravel()]
    assert answer.claims == pytest.approx(-picked.reshape(3, -1).mean(1), rel=1e-5)


def test_unlabelled_images_are_answered_without_losses():
    learner, proxy = viewer(), images(5, labelled=False)
    answer = learner.express(proxy, np.arange(5), levels=7, quantiser="largest_remainder", key=(0, "e"))
    assert answer.claims is None
    assert answer.rows == 5
    with pytest.raises(ValueError, match="labelled"):
        learner.claims(proxy, np.arange(5))


def test_perplexity_is_the_exponential_of_the_mean_cross_entropy():
    learner, examples = reader(), texts(30)
    rows, answers = log_probs(learner.engine.model, examples), examples.arrays["input_ids"][:, 1:].ravel()
    nll = -rows[np.arange(len(rows)), answers].mean()
    assert learner.evaluate(examples) == pytest.approx((math.exp(nll), nll), rel=1e-6)


def test_accuracy_is_the_share_of_right_answers():
    learner, examples = viewer(), images(40)
    rows, answers = log_probs(learner.engine.model, examples), examples.arrays["labels"]
    nll = -rows[np.arange(40), answers].mean()
    assert learner.evaluate(examples) == pytest.approx(((rows.argmax(1) == answers).mean(), nll), rel=1e-6)


def test_chunks_change_nothing(monkeypatch):
    examples, samples = texts(30), np.array([2, 3, 5, 7, 11, 13, 17])

    def answers() -> tuple:
        learner = reader()
        said = learner.express(
            examples, samples, levels=50, quantiser="largest_remainder", key=(0, "e"), judge=TaskLoss()
        )
        return said.claims, (said.ids.tolist(), said.counts.tolist(), learner.flops)

    losses, whole = answers()
    for values in (3 * (S - 1) * V, 1):  # three examples at a time, and one
        monkeypatch.setattr(answering, "_CHUNK_VALUES", values)
        again, same = answers()
        assert same == whole
        # A matrix product may round the last bit of a row by how many rows there are.
        assert again == pytest.approx(losses, rel=1e-6)


def test_computation_is_counted_by_hand():
    learner = reader()
    learner.evaluate(texts(10))
    forward = 2 * (S - 1) * D * V  # the head's multiply-adds, at every token of a window but the last
    assert learner.flops == 10 * forward
    learner.fit(phase(Stream(texts(10), 4)))
    assert learner.flops == 10 * forward + 3 * forward * 4 * TRAINING.steps


# Weights ------------------------------------------------------------------------------------------


def test_parameters_go_out_and_come_back():
    learner, other = reader(), reader()
    learner.fit(phase(Stream(texts(20), 4)))
    sent = learner.parameters(examples=20)
    assert (sent.examples, sent.vector.dtype, len(sent.vector)) == (20, np.float32, learner.size)
    assert learner.size == V * D + D * V + V
    assert not np.array_equal(other.parameters().vector, sent.vector)
    other.load_parameters(sent.vector)
    assert np.array_equal(other.parameters().vector, sent.vector)
    assert other.evaluate(texts(9)) == learner.evaluate(texts(9))
    sent.vector[:] = 0  # a copy: the model is not moved by who holds its message
    assert np.any(other.parameters().vector)
    for wrong in (sent.vector[:-1], np.append(sent.vector, 0)):
        with pytest.raises(ValueError, match=str(learner.size)):
            other.load_parameters(wrong.astype(np.float32))


def test_weights_that_lie_otherwise_than_row_by_row_go_out_and_come_back():
    model = Bigrams()
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().t().clone().t())
    engine = TorchEngine(model, TRAINING, torch.device("cpu"))
    vector = engine.vector()
    assert np.array_equal(vector, TorchEngine(Bigrams(), TRAINING, torch.device("cpu")).vector())
    engine.load_vector(vector + 1)
    assert np.array_equal(engine.vector(), vector + 1)


def test_weights_to_be_set_back_to_are_written_when_they_are_needed():
    engine = TorchEngine(Bigrams(), TRAINING, torch.device("cpu"))
    who, before = Specialist(engine, modality("text"), V), engine.vector()
    fresh = np.zeros_like(before)
    who.reset(fresh)
    assert who.size == len(before) and np.array_equal(engine.vector(), before)
    assert np.array_equal(who.parameters().vector, fresh)


def test_a_saved_learner_goes_on_bit_for_bit(tmp_path: Path):
    learner, restored, forgetful = reader(), reader(), reader()
    first, second = (phase(Stream(texts(20), 4), round=r) for r in (1, 2))
    learner.fit(first)
    learner.save(tmp_path / "state")
    forgetful.load_parameters(learner.parameters().vector)
    restored.fit(second)  # what it did before must not matter
    restored.load(tmp_path / "state")
    fits = [who.fit(second) for who in (learner, restored, forgetful)]
    assert fits[0] == fits[1]
    assert np.array_equal(learner.parameters().vector, restored.parameters().vector)
    # The optimiser's moments are part of the state: weights alone go another way.
    assert not np.array_equal(learner.parameters().vector, forgetful.parameters().vector)


def test_a_missing_state_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        reader().load(tmp_path / "nothing")


def test_decay_is_on_matrices_only():
    engine = TorchEngine(Bigrams(), Training(weight_decay=0.5), torch.device("cpu"))
    before = engine.weights()
    engine.step(sum(p.sum() * 0 for p in engine.model.parameters()), learning_rate=0.1)  # no gradient
    after = engine.weights()
    assert torch.equal(after["head.bias"], before["head.bias"])
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * 0.95)


def test_nothing_decays_in_one_group():
    settings = Training(weight_decay=0.0, optimizer="sgd")
    (group,) = decayed(Bigrams(), settings)
    assert (len(group["params"]), group["weight_decay"]) == (3, 0.0)

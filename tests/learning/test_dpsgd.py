"""DP-SGD's gradient against single backward passes, its noise against its definition, its draws."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedsim.config import Adapter, Training
from fedsim.learning.dpsgd import BOTH, clipped_sum, example_gradients, private_gradient
from fedsim.learning.learner import Learner
from fedsim.learning.training import Mechanism, Objective, Phase, Stream
from fedsim.modalities import modality
from fedsim.models.adapters import adapted
from fedsim.models.factory import build
from fedsim.models.flops import forward_flops
from fedsim.seeding import generator
from fedsim.student.engine import TorchEngine
from fedsim.types import Examples, Interface

CPU = torch.device("cpu")
rng = np.random.default_rng
TEXT = Interface("text", classes=97, window=12)
IMAGE = Interface("image", classes=5, window=0, image_shape=(1, 8, 8))
PROMPTS = tuple((5, 6, 7 + k, 0, 0, 0) for k in range(3))
BOTH_KINDS = Interface(
    "image_text", 3, 6, image_shape=(1, 8, 8), vocabulary=300, end_of_text=0, prompts=PROMPTS
)
CASES = [
    ("gpt2-tiny", TEXT), ("pythia-tiny", TEXT), ("llama-tiny", TEXT), ("opt-tiny", TEXT),
    ("vit-micro", IMAGE), ("mlp", IMAGE), ("cnn", IMAGE), ("clip-micro", BOTH_KINDS),
]  # fmt: skip


def examples(interface: Interface, n: int = 5) -> Examples:
    if interface.modality == "text":
        columns = {"input_ids": rng(1).integers(97, size=(n, 12)).astype(np.int32)}
    else:
        pixels = rng(2).integers(256, size=(n, 1, 8, 8), dtype=np.uint8)
        columns = {"pixel_values": pixels, "labels": rng(3).integers(interface.classes, size=n)}
    if interface.modality == "image_text":
        captions = rng(4).integers(1, 300, size=(n, 6)).astype(np.int32)
        captions[:, 4:] = 0
        captions[0] = PROMPTS[1]
        columns["input_ids"] = captions
    return Examples(columns, np.zeros(n, np.int64), np.arange(n, dtype=np.uint64))


def learner(name: str, interface: Interface, adapter: Adapter | None = None, clip: float | None = None):
    model = build(name, interface, 0)
    if adapter is not None:
        model = adapted(model, adapter, 0)
        with torch.no_grad():  # fresh adapters add nothing, and half of their gradients are zero
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
    training = Training(optimizer="sgd", gradient_clip=clip, weight_decay=0)
    return Learner(
        TorchEngine(model, training, CPU), modality(interface.modality, interface.prompts), interface.classes
    )


def single_losses(model, interface: Interface, data: Examples) -> Iterator[torch.Tensor]:
    """Of one example after the other, from the definition."""
    for i in range(len(data)):
        columns = {name: torch.from_numpy(column[i : i + 1]) for name, column in data.arrays.items()}
        if interface.modality == "text":
            ids = columns["input_ids"].long()
            yield F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:])
            continue
        pixels = columns["pixel_values"].float() / 127.5 - 1
        if interface.modality == "image":
            yield F.cross_entropy(model(pixel_values=pixels).logits, columns["labels"])
            continue
        own = data.arrays["input_ids"][i]
        texts = torch.from_numpy(np.array([*PROMPTS, own], np.int64))
        log_q = model(pixel_values=pixels, input_ids=texts).logits_per_image[0].log_softmax(0)
        right = [k for k in range(3) if k == data.arrays["labels"][i] or tuple(own) == PROMPTS[k]]
        yield -log_q[[*right, 3]].mean()


def assert_like_single_passes(mine: Learner, interface: Interface) -> None:
    data, model = examples(interface), mine.engine.model.train()
    index = np.arange(len(data))
    inputs, targets = mine.modality.inputs(data, index, CPU), mine.modality.targets(data, index, CPU)
    gradients, losses = example_gradients(model, mine.modality, inputs, targets)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(gradients) == set(parameters)
    for i, loss in enumerate(single_losses(model, interface, data)):
        expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        torch.testing.assert_close(losses[i], loss.detach(), rtol=1e-5, atol=1e-6)
        size = torch.stack([g.norm() for g in expected if g is not None]).norm()
        assert size > 0
        for (name, parameter), wanted in zip(parameters.items(), expected, strict=True):
            wanted = torch.zeros_like(parameter) if wanted is None else wanted
            assert (gradients[name][i] - wanted).norm() < 1e-5 * size, name


@pytest.mark.parametrize(("name", "interface"), CASES, ids=[name for name, _ in CASES])
def test_gradients_of_examples_are_those_of_single_passes(name: str, interface: Interface):
    assert_like_single_passes(learner(name, interface), interface)


@pytest.mark.parametrize(("name", "interface"), [CASES[0], CASES[4], CASES[7]], ids=["gpt2", "vit", "clip"])
def test_gradients_of_adapters_are_those_of_single_passes(name: str, interface: Interface):
    mine = learner(name, interface, Adapter(rank=2))
    assert_like_single_passes(mine, interface)
    assert any(not p.requires_grad for p in mine.engine.model.parameters())


def test_each_gradient_is_clipped_by_the_norm_of_all_its_parts():
    gradients = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[[4.0]], [[0.4]]])}
    sums = clipped_sum(gradients, 1.0)  # norms 5 and 0.5
    torch.testing.assert_close(sums["a"], torch.tensor([0.6 + 0.3, 0.0]))
    torch.testing.assert_close(sums["b"], torch.tensor([[0.8 + 0.4]]))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_example_that_is_not_finite_adds_nothing(wrong: float):
    gradients = {"a": torch.tensor([[wrong, 1.0], [0.3, 0.4]]), "b": torch.tensor([[1.0], [0.0]])}
    sums = clipped_sum(gradients, 10.0)
    torch.testing.assert_close(sums["a"], torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(sums["b"], torch.tensor([0.0]))


def gradient(mine: Learner, data: Examples, index: np.ndarray, how: Mechanism, seed: int = 0):
    inputs, targets = mine.modality.inputs(data, index, CPU), mine.modality.targets(data, index, CPU)
    found, loss = private_gradient(mine.engine.model, mine.modality, inputs, targets, how, 4.0, rng(seed))
    return torch.cat([g.flatten() for g in found.values()]), loss


def test_one_example_more_moves_the_sum_by_no_more_than_the_clip():
    mine, data = learner("mlp", IMAGE), examples(IMAGE, 20)
    how = Mechanism(clip=0.01, noise=1.0)
    for k in range(1, 20):
        with_it, _ = gradient(mine, data, np.arange(k + 1), how)
        without, _ = gradient(mine, data, np.arange(k), how)
        assert 4.0 * (with_it - without).norm() < 0.01 * 1.001


def test_the_noise_is_normal_of_sigma_times_clip_over_the_expected_size():
    mine, data = learner("mlp", IMAGE), examples(IMAGE)
    nobody = np.array([], np.int64)
    noise, loss = gradient(mine, data, nobody, Mechanism(clip=0.5, noise=3.0))
    assert len(noise) > 4000 and loss == 0
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 0.375 / len(noise) ** 0.5)
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 4.0, rel=0.05)
    again, _ = gradient(mine, data, nobody, Mechanism(clip=0.5, noise=3.0))
    other, _ = gradient(mine, data, nobody, Mechanism(clip=0.5, noise=3.0), seed=1)
    assert torch.equal(noise, again) and not torch.equal(noise, other)


def test_many_examples_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch):
    mine, data, how = learner("mlp", IMAGE), examples(IMAGE, 9), Mechanism(0.1, 1.0)
    together, loss = gradient(mine, data, np.arange(9), how)
    monkeypatch.setattr("fedsim.learning.dpsgd._CHUNK_VALUES", 2 * mine.engine.size)
    parts, of_parts = gradient(mine, data, np.arange(9), how)
    torch.testing.assert_close(parts, together)
    torch.testing.assert_close(of_parts, loss)


# Draws --------------------------------------------------------------------------------------------


def test_private_batches_are_drawn_example_by_example():
    stream = Stream(examples(IMAGE, 40), 4, mechanism=Mechanism(1.0, 1.0))
    batches = stream.batches(4000, rng(0))
    sizes = np.array([len(batch) for batch in batches])
    # Binomial(40, 0.1): mean 4, variance 3.6, empty with 0.9^40 = 0.0148.
    assert sizes.mean() == pytest.approx(4, abs=4 * (3.6 / 4000) ** 0.5)
    assert sizes.var() == pytest.approx(3.6, rel=0.1)
    assert 0.008 < (sizes == 0).mean() < 0.023
    often = np.bincount(np.concatenate(batches), minlength=40) / 4000
    assert np.abs(often - 0.1).max() < 5 * (0.09 / 4000) ** 0.5
    assert all(len(set(batch)) == len(batch) for batch in batches)


# Fits ---------------------------------------------------------------------------------------------


def fit(mine: Learner, *streams: Stream, steps: int = 3, seed: int = 0) -> np.ndarray:
    training = Training(steps=steps, optimizer="sgd", learning_rate=1.0, schedule="constant", warmup=0)
    mine.fit(Phase(streams, training, 1, 1, (seed, 1, "fit")))
    return mine.parameters().vector


def test_a_fit_without_noise_and_clip_is_the_sum_over_its_draws_by_the_expected_size():
    data, mine, other = examples(IMAGE, 10), learner("mlp", IMAGE), learner("mlp", IMAGE)
    stream = Stream(data, 4, mechanism=Mechanism(clip=1e9, noise=0.0))
    found = fit(mine, stream, steps=1, seed=1)
    (batch,) = stream.batches(1, generator(1, 1, "fit", 0))
    assert len(batch) not in (0, 4)
    model = other.engine.model.train()
    loss = sum(single_losses(model, IMAGE, data.take(batch))) / 4
    loss.backward()
    expected = torch.cat([(p - p.grad).detach().flatten() for p in model.parameters()])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_only_private_streams_are_clipped_and_noised():
    """With a clip of almost nothing the private stream has no say, and the public one all of its."""
    data, public = examples(IMAGE, 10), Stream(examples(IMAGE, 7), 3)
    hidden = Stream(data, 4, mechanism=Mechanism(clip=1e-12, noise=1.0))
    both = fit(learner("vit-micro", IMAGE), public, hidden)
    alone = fit(learner("vit-micro", IMAGE), public)
    start = learner("vit-micro", IMAGE).parameters().vector
    assert np.abs(alone - start).max() > 0.01
    np.testing.assert_allclose(both, alone, atol=1e-6)


def test_a_private_fit_is_the_same_again_and_goes_by_the_seed():
    stream = Stream(examples(IMAGE, 10), 4, mechanism=Mechanism(0.1, 1.0), augment=True)
    first, again = (fit(learner("vit-micro", IMAGE), stream) for _ in range(2))
    other = fit(learner("vit-micro", IMAGE), stream, seed=1)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_two_contenders_have_the_same_batches_but_not_the_same_noise():
    """What both release would otherwise tell, noise taken off, by how much their gradients differ."""
    data = examples(IMAGE, 10)
    ends = {}
    for noise in (0.0, 1.0):
        for of in ("ours", "theirs"):
            stream = Stream(data, 4, mechanism=Mechanism(0.1, noise, of))
            ends[noise, of] = fit(learner("vit-micro", IMAGE), stream)
    assert np.array_equal(ends[0.0, "ours"], ends[0.0, "theirs"])
    noises = [ends[1.0, of] - ends[0.0, of] for of in ("ours", "theirs")]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.05


def test_a_fit_of_empty_batches_is_noise_and_counts_its_steps():
    mine = learner("mlp", IMAGE)
    start = mine.parameters().vector
    stream = Stream(examples(IMAGE, 1), 1e-9, mechanism=Mechanism(1e-9, 1.0))
    moved = fit(mine, stream) - start
    assert mine.private_steps == 3 and mine.flops == 0
    assert np.isfinite(moved).all() and 0.5 < moved.std() / 3**0.5 < 2


def test_private_examples_are_not_learnt_from_a_teacher():
    stream = Stream(examples(IMAGE, 4), 2, Objective(response=1.0, task=0.0), mechanism=Mechanism(1.0, 1.0))
    with pytest.raises(ValueError, match="by their answers"):
        fit(learner("mlp", IMAGE), stream)


def test_what_an_example_costs_is_a_pass_of_its_own():
    mine, data = learner("clip-micro", BOTH_KINDS), examples(BOTH_KINDS, 5)
    fit(mine, Stream(data, 5, mechanism=Mechanism(1.0, 1.0)), steps=2)  # everybody, each time
    one = mine.modality.inputs(data, np.zeros(1, np.int64), CPU)
    assert mine.flops == pytest.approx(
        3 * 10 * forward_flops(mine.engine.model, mine.modality.asked(one, BOTH))
    )

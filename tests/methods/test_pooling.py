"""How answers are pooled, sharpened, kept and asked for, against independent computations."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.responses import (
    ResponsePool,
    as_pooled,
    recall,
    sharpen,
    union,
)
from fedsim.aggregation.weights import Weighing
from fedsim.errors import MessageError
from fedsim.loading import load
from fedsim.methods import method_of
from fedsim.methods.federated_distillation import FederatedDistillation
from fedsim.types import Responses
from fedsim.wire import decode, encode
from fedsim.world import World
from tests.methods.small import DISTIL, LEVELS, K, N, P, Small, dense, of, rng, said


def pool(confidence: float = 0.0, reference: np.ndarray | None = None) -> ResponsePool:
    return ResponsePool(np.arange(N), CountSum(P, K, LEVELS), Weighing(confidence, reference))


def test_an_ensemble_of_one_opinion_is_that_opinion():
    answer, together = said(0, claims=1.0), pool(2.0, np.linspace(0, 3, N))
    for k, loss in enumerate((0.1, 1.0, 5.0)):
        together.add(k, replace(answer, claims=np.full(N, loss, np.float32)))
    np.testing.assert_allclose(dense(together.sum.result()), of(answer), atol=1e-7)


def test_without_confidence_it_is_the_plain_mean():
    answers, together = [said(s, claims=s) for s in range(4)], pool()
    for k, answer in enumerate(answers):
        together.add(k, answer)
    expected = np.mean([of(a) for a in answers], axis=0)
    np.testing.assert_allclose(dense(together.sum.result()), expected, atol=1e-7)


def test_confidence_weighs_by_the_exponential_of_the_loss():
    losses = rng(9).uniform(0.5, 4, (3, N))
    answers = [said(s, claims=losses[s]) for s in range(3)]
    together = pool(1.5, reference=np.full(N, 2.0))  # the reference cancels out of the mean
    for k, answer in enumerate(answers):
        together.add(k, answer)
    w = np.exp(-1.5 * losses).repeat(P, axis=1)[:, :, None]
    expected = (w * [of(a) for a in answers]).sum(0) / w.sum(0)
    np.testing.assert_allclose(dense(together.sum.result()), expected, atol=2e-4)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_responses_pool_the_same_bits_in_any_order(order: tuple[int, ...]):
    def pooled(who: tuple[int, ...]) -> Pooled:
        together = pool(3.0, np.linspace(0, 4, N))
        for k in who:
            together.add(k, said(k, claims=rng(k).exponential(2, N)))
        return together.sum.result()

    one, other = pooled((0, 1, 2)), pooled(order)
    for column in ("samples", "offsets", "ids", "probs"):
        assert np.array_equal(getattr(one, column), getattr(other, column))


@pytest.mark.parametrize("confidence", [0.5, 1e6])
@pytest.mark.parametrize(("loss", "gain"), [(-1e30, 8.0), (1e30, -8.0)])
def test_no_reported_loss_moves_a_weight_by_more_than_e_to_the_8(confidence: float, loss: float, gain: float):
    together = pool(confidence, np.full(N, 1.0))
    honest, hostile = said(0, claims=1.0), said(1, claims=loss)
    together.add(0, honest)
    together.add(1, hostile)
    share = np.exp(gain) / (1 + np.exp(gain))
    expected = (1 - share) * of(honest) + share * of(hostile)
    np.testing.assert_allclose(dense(together.sum.result()), expected, atol=2e-5)


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf, 1e30])
def test_a_loss_that_is_no_number_does_not_arrive(loss: float):
    # 1e30 doesn't either: claims travel as float16, where it is infinite.
    method = method_of(Small(DISTIL).world, "federated_distillation")
    samples = method.samples(1)
    counts = np.full(len(samples), 255, np.int32)
    offsets, ids = np.arange(len(samples) + 1), np.zeros(len(samples), np.int32)
    losses = np.full(len(samples), 1.0, np.float32)
    answer = Responses(samples, 1, 10, 255, offsets, ids, counts, losses)
    expect = method.expect("up", 1, 0, 1)
    sent = encode(answer, direction="up", round=1, sender=0, samples_known=True)
    assert np.array_equal(decode(sent.data, expect, 2**20).claims, losses)
    losses[3] = loss
    sent = encode(answer, direction="up", round=1, sender=0, samples_known=True)
    with pytest.raises(MessageError) as refused:
        decode(sent.data, expect, 2**20)
    assert refused.value.reason == "non-finite"


# Sharpening, memory, which samples ----------------------------------------------------------------


def test_sharpening_is_a_power_of_each_row():
    pooled = as_pooled(said(3))
    assert sharpen(pooled, 1.0) is pooled
    p = dense(pooled)
    for beta in (0.5, 2.0, 3.0):
        expected = np.where(p > 0, p**beta, 0)
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(dense(sharpen(pooled, beta)), expected, atol=1e-7)


def test_sharpening_without_end_is_the_most_likely_class():
    flat = np.full(1000, 1e-3, np.float32)  # 0.001^200 is no float64 above 0
    flat[7] = 2e-3
    pooled = Pooled(np.arange(1), 1, 1000, np.array([0, 1000]), np.arange(1000, dtype=np.int32), flat)
    assert dense(sharpen(pooled, 200.0))[0, 7] == pytest.approx(1.0)


def rows_of(pooled: Pooled) -> dict[int, list[tuple[int, float]]]:
    """Sample → its entries, position after position."""
    p, found = pooled.positions, {}
    for i, sample in enumerate(pooled.samples):
        a, b = pooled.offsets[i * p], pooled.offsets[(i + 1) * p]
        found[int(sample)] = list(zip(pooled.ids[a:b].tolist(), pooled.probs[a:b].tolist(), strict=True))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_union_prefers_the_first(seed: int):
    draw = rng(seed)
    parts = [np.sort(draw.choice(40, draw.integers(1, 30), replace=False)) for _ in range(2)]
    first, second = (as_pooled(said(seed * 7 + k, samples=s)) for k, s in enumerate(parts))
    both = union(first, second)
    assert rows_of(both) == {**rows_of(second), **rows_of(first)}
    assert np.all(np.diff(both.samples) > 0)
    sums = dense(both).sum(1)
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert len(sums) == len(both.samples) * P


def test_memory_keeps_the_latest_answer_to_everything_ever_asked():
    memory: dict[str, np.ndarray] = {}
    expected: dict[int, list[tuple[int, float]]] = {}
    for round, samples in enumerate(([1, 2, 3], [3, 4], [0, 2, 9])):
        fresh = as_pooled(said(round, samples=np.array(samples)))
        expected = {**expected, **rows_of(fresh)}
        assert rows_of(recall(memory, fresh, P, K)) == expected
        stored = {name: column.copy() for name, column in memory.items()}  # as if saved and loaded
        memory = stored


def distillation(part: float, size: int, seed: int = 0) -> FederatedDistillation:
    config = load({"seed": seed, "methods": [{"name": "federated_distillation", "proxy_per_round": part}]})
    world = World(config, interface=None, proxy_size=size, positions=1, proxy_labelled=False, sizes=())
    return method_of(world, "federated_distillation")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("part", "size"), [(1.0, 10), (0.2, 10), (0.3, 10), (0.5, 7), (0.001, 5), (0.9, 13), (1 / 3, 100)]
)
def test_nothing_is_asked_twice_before_all_was_asked_once(part: float, size: int):
    method = distillation(part, size)
    asked = [method.samples(round) for round in range(1, 31)]
    number = max(1, round(part * size + 1e-9))
    assert {len(samples) for samples in asked} == {number}
    assert all(np.all(np.diff(samples) > 0) for samples in asked)  # none twice within a round
    counts = np.zeros(size, int)
    for samples in asked:
        counts[samples] += 1
        assert counts.max() - counts.min() <= 1
    assert counts.min() >= 1 or 30 * number < size


def test_both_ends_know_the_samples_from_the_seed():
    one, other, another = (distillation(0.3, 200, seed) for seed in (4, 4, 5))
    assert all(np.array_equal(one.samples(r), other.samples(r)) for r in range(1, 9))
    assert not np.array_equal(one.samples(1), another.samples(1))
    assert not np.array_equal(one.samples(1), one.samples(2))

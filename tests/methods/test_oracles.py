"""What the methods compute, against independent computations and the limits that the papers state."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedsim import data
from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.responses import (
    ResponsePool,
    as_pooled,
    era,
    quantised,
    recall,
    sharpen,
    union,
)
from fedsim.aggregation.weights import Weighing
from fedsim.config import load
from fedsim.coordinator import Coordinator
from fedsim.errors import ConfigError, MessageError
from fedsim.host import Host
from fedsim.methods.base import Site
from fedsim.methods.fedavg import ParameterMean
from fedsim.methods.federated_distillation import FederatedDistillation
from fedsim.process import set_up
from fedsim.simulation import world as make_world
from fedsim.training import Objective, Phase, Stream
from fedsim.types import COORDINATOR, Parameters, Responses
from fedsim.wire import decode, encode
from fedsim.wire.quantise import largest_remainder, to_dense
from fedsim.world import World
from tests.methods.plain_student import plain_student

rng = np.random.default_rng


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


class Small:
    """A federation on 120 digits with a student in plain torch: no actor, no DeepSpeed."""

    def __init__(self, *methods: dict[str, Any], count: int = 3) -> None:
        training = {"steps": 3, "batch_size": 8, "learning_rate": 0.01}
        self.config = load(
            {
                "rounds": 3,
                "data": {"source": "digits", "max_examples": 120},
                "participants": {"count": count, "models": ["vit-micro"], "training": training},
                "student": {"model": "vit-micro", "training": training},
                "methods": list(methods),
            }
        )
        self.federation = data.build(data.plan(self.config))
        self.world = make_world(self.config, self.federation)
        self.shards = dict(enumerate(self.federation.shards))

    def site(self, participant: int = 0) -> Site:
        learner = self.world.specialist("vit-micro", None, self.config.participants.training)
        return Site(participant, self.shards[participant], self.federation.public, learner)

    def host(self) -> Host:
        return Host(self.world, self.federation.public, self.shards)

    def coordinator(self, contender: str) -> Coordinator:
        coordinator = Coordinator(self.world, self.federation.public, {}, student=plain_student)
        coordinator.begin(contender, 0, None)
        return coordinator

    def messages(self, contender: str) -> list[bytes]:
        """What everybody sends in round 1."""
        everybody = range(self.config.participants.count)
        return self.host().step(contender, 1, everybody, None, None, None)[1]


def weights(coordinator: Coordinator) -> np.ndarray:
    return coordinator._desk.learner.parameters().vector


FEDAVG = {"name": "fedavg", "specialists": "student"}
DISTIL = {"name": "federated_distillation", "digest_batch": 4}


# FedAvg and FedProx -------------------------------------------------------------------------------


def test_parameters_are_averaged_by_their_number_of_examples():
    sizes, vectors = (5, 40, 1, 700), rng(0).normal(0, 3, (4, 300)).astype(np.float32)
    mean = ParameterMean(300, sizes)
    for k, n in enumerate(sizes):
        mean.add(k, Parameters(vectors[k], n))
    np.testing.assert_allclose(mean.sum.mean(), np.average(vectors, axis=0, weights=sizes), atol=1e-12)


def test_those_who_deliver_are_averaged_among_themselves():
    sizes, vectors = (10, 30, 60), rng(0).normal(0, 1, (3, 50)).astype(np.float32)
    mean = ParameterMean(50, sizes)
    for k in (0, 2):
        mean.add(k, Parameters(vectors[k], sizes[k]))
    expected = np.average(vectors[[0, 2]], axis=0, weights=(10, 60))
    np.testing.assert_allclose(mean.sum.mean(), expected, atol=1e-12)


def test_a_false_claim_of_examples_is_refused():
    mean = ParameterMean(3, (10, 30))
    with pytest.raises(MessageError, match="9999 examples, registered 10"):
        mean.add(0, Parameters(np.ones(3, np.float32), 9_999))
    with pytest.raises(MessageError, match="registered 30"):
        mean.add(1, Parameters(np.ones(3, np.float32), 10))
    mean.add(0, Parameters(np.ones(3, np.float32), 10))
    assert np.array_equal(mean.sum.mean(), np.ones(3))  # what was refused left nothing behind


def test_the_student_becomes_the_mean_of_what_was_sent():
    small = Small(FEDAVG)
    coordinator, sent = small.coordinator("fedavg"), small.messages("fedavg")
    method = small.world.method("fedavg")
    received = [
        decode(m, method.expect("up", 1, k, coordinator._desk.learner.size), 2**26)
        for k, m in enumerate(sent)
    ]
    coordinator.open(1)
    coordinator.receive(range(3), sent)
    coordinator.close(1, None)
    vectors, counts = [r.vector for r in received], [r.examples for r in received]
    assert counts == [len(s.train) for s in small.shards.values()]
    assert len(set(counts)) > 1  # an unweighted mean would be another
    expected = np.average(vectors, axis=0, weights=counts).astype(np.float32)
    np.testing.assert_allclose(weights(coordinator), expected, rtol=0, atol=1e-7)


def test_with_one_participant_it_is_that_participants_training():
    small = Small(FEDAVG, count=1)
    host, coordinator, alone = small.host(), small.coordinator("fedavg"), small.site().learner
    method = small.world.method("fedavg")
    broadcast = None
    for round in (1, 2):
        message = coordinator.open(round)
        broadcast = message.data if message else None
        _, sent = host.step("fedavg", round, [0], broadcast, None, None)
        coordinator.receive([0], sent)
        pooled = coordinator._intake.pool.sum.mean()
        coordinator.close(round, None)
        alone.engine.reset()  # moments are not sent, so they begin anew each round
        alone.fit(method.phase(round, 0, "local", method.labelled(small.shards[0].train, 0)))
        # Pooling rounds to multiples of 2^-44 = 6e-14, nothing else: it can't be seen in float32 …
        np.testing.assert_allclose(pooled, alone.parameters().vector.astype(np.float64), rtol=0, atol=1e-12)
        alone.load_parameters(pooled)  # … unless training goes on from there
        assert np.array_equal(weights(coordinator), alone.parameters().vector)


def test_fedprox_without_its_term_is_fedavg_bit_for_bit():
    prox = {"name": "fedprox", "specialists": "student"}
    small = Small(FEDAVG, {**prox, "mu": 0}, {**prox, "label": "held", "mu": 50.0})
    start = small.site().learner.parameters().vector
    sent = {}
    for contender in ("fedavg", "fedprox", "held"):
        knowledge, fit = small.world.method(contender).participant_step(small.site(), 1, None)
        sent[contender] = (knowledge.vector, fit.loss)
    assert np.array_equal(sent["fedavg"][0], sent["fedprox"][0])
    assert sent["fedavg"][1] == sent["fedprox"][1]
    moved = {contender: np.linalg.norm(vector - start) for contender, (vector, _) in sent.items()}
    assert moved["held"] < 0.8 * moved["fedavg"]


@pytest.mark.parametrize("method", [FEDAVG, DISTIL], ids=lambda m: m["name"])
def test_who_arrives_when_changes_nothing_bit_for_bit(method: dict[str, Any]):
    small = Small(method)
    sent = small.messages(method["name"])
    ends = []
    for order in itertools.permutations(range(3)):
        coordinator = small.coordinator(method["name"])
        coordinator.open(1)
        first, *others = order
        coordinator.receive([first], [sent[first]])
        coordinator.receive(others, [sent[k] for k in others])
        closing = coordinator.close(1, None)
        assert closing.statuses == {0: "ok", 1: "ok", 2: "ok"}
        ends.append((weights(coordinator).tobytes(), closing.score, closing.learn_loss))
    assert len({end[0] for end in ends}) == 1
    assert all(repr(end[1:]) == repr(ends[0][1:]) for end in ends)


def test_a_liar_is_left_out_and_the_round_goes_on():
    small = Small(FEDAVG)
    coordinator, sent = small.coordinator("fedavg"), small.messages("fedavg")
    size = coordinator._desk.learner.size

    def message(sender: int, examples: int, number: float) -> bytes:
        lie = Parameters(np.full(size, number, np.float32), examples)
        return encode(lie, direction="up", round=1, sender=sender).data

    honest = len(small.shards[0].train)
    coordinator.open(1)
    coordinator.receive([0, 1], [message(0, honest + 1, 0.0), message(1, honest, np.nan)])
    coordinator.receive([2, 2], [sent[2], sent[2]])
    closing = coordinator.close(1, None)
    assert closing.statuses == {0: "rejected:unexpected", 1: "rejected:non-finite", 2: "ok"}
    expected = decode(sent[2], small.world.method("fedavg").expect("up", 1, 2, size), 2**26)
    np.testing.assert_allclose(weights(coordinator), expected.vector, rtol=0, atol=1e-7)


# Responses ----------------------------------------------------------------------------------------

N, P, K, LEVELS = 12, 2, 6, 60


def said(seed: int, claims: Any = None, *, samples: np.ndarray | None = None) -> Responses:
    """What somebody answers to `samples` (all N if absent)."""
    samples = np.arange(N) if samples is None else samples
    probs = rng(seed).dirichlet(np.full(K, 0.4), len(samples) * P).astype(np.float32) + np.float32(1e-9)
    lengths, ids, counts = largest_remainder(probs, LEVELS)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if claims is not None:
        claims = np.broadcast_to(np.float32(claims), len(samples)).copy()
    return Responses(samples, P, K, LEVELS, offsets, ids, counts, claims)


def pool(confidence: float = 0.0, reference: np.ndarray | None = None) -> ResponsePool:
    return ResponsePool(np.arange(N), CountSum(P, K, LEVELS), Weighing(confidence, reference))


def dense(pooled: Pooled) -> np.ndarray:
    """[R, K], built entry by entry."""
    rows = np.zeros((len(pooled.samples) * pooled.positions, pooled.classes))
    for r in range(len(rows)):
        for j in range(pooled.offsets[r], pooled.offsets[r + 1]):
            rows[r, pooled.ids[j]] = pooled.probs[j]
    return rows


def of(answer: Responses) -> np.ndarray:
    return to_dense(answer, slice(None)).astype(np.float64)


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
    method = Small(DISTIL).world.method("federated_distillation")
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
    return world.method("federated_distillation")  # type: ignore[return-value]


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


# Federated distillation as a whole ----------------------------------------------------------------


def test_the_student_moves_towards_what_was_pooled():
    small = Small({**DISTIL, "task": 0.0})
    coordinator, sent = small.coordinator("federated_distillation"), small.messages("federated_distillation")
    method = small.world.method("federated_distillation")
    coordinator.open(1)
    coordinator.receive(range(3), sent)
    teacher = coordinator._intake.pool.responses.result()
    learner, proxy = coordinator._desk.learner, small.federation.public.proxy

    def distance() -> float:
        answer = learner.express(
            proxy, teacher.samples, levels=4000, quantiser="largest_remainder", key=(0, "e")
        )
        return float(np.abs(of(answer) - dense(teacher)).sum(1).mean())

    before = distance()
    coordinator.close(1, None)
    assert distance() < 0.7 * before
    expected = np.mean([of(decode(m, method.expect("up", 1, k, 1), 2**26)) for k, m in enumerate(sent)], 0)
    np.testing.assert_allclose(dense(teacher), expected, atol=1e-6)


def test_what_goes_down_is_what_the_student_says():
    small = Small(DISTIL, {**DISTIL, "label": "one-way", "digest": 0})
    for contender, rounds_down in (("federated_distillation", [2]), ("one-way", [])):
        coordinator, host = small.coordinator(contender), small.host()
        method, down = small.world.method(contender), []
        for round in (1, 2):
            message = coordinator.open(round)
            assert (message is None) == (method.expect("down", round, COORDINATOR, 1) is None)
            if message is not None:
                down.append(round)
                answer = decode(message.data, method.expect("down", round, COORDINATOR, 1), 2**26)
                student = coordinator._desk.learner
                again = student.express(
                    small.federation.public.proxy,
                    method.samples(round),
                    levels=255,
                    quantiser="largest_remainder",
                    key=(0,),
                )
                assert np.array_equal(of(answer), of(again))
            payload = message.data if message else None
            _, sent = host.step(contender, round, range(3), payload, None, None)
            coordinator.receive(range(3), sent)
            coordinator.close(round, None)
        assert down == rounds_down


def test_participants_learn_from_what_came_down():
    # The same step with and without a broadcast; only the first can come closer to it on the proxy set.
    small = Small({**DISTIL, "digest": 20.0, "digest_batch": 24})
    method, site = small.world.method("federated_distillation"), small.site()
    teacher = np.zeros((len(method.samples(2)), 10), np.float32)
    teacher[:, 3] = 1
    lengths, ids, counts = largest_remainder(teacher, 255)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    received = Responses(method.samples(2), 1, 10, 255, offsets, ids, counts)
    taught, _ = method.participant_step(site, 2, received)
    alone, _ = method.participant_step(small.site(), 2, None)
    assert of(taught)[:, 3].mean() > of(alone)[:, 3].mean() + 0.2


def test_a_participant_of_solo_does_what_a_learner_does_alone():
    small = Small({"name": "solo"})
    method, site, alone = small.world.method("solo"), small.site(1), small.site(1).learner
    sent, fit = method.participant_step(site, 1, None)
    assert sent is None
    mine = Stream(small.shards[1].train, 8, augment=True)
    phase = Phase((mine,), small.config.participants.training, 1, 3, (0, 1, 1, "local"))
    assert alone.fit(phase) == fit
    assert np.array_equal(alone.parameters().vector, site.learner.parameters().vector)


# Exchange of labels: DS-FL and FedMD --------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "entropy"), [(1.0, 1.607), (0.2, 1.549), (0.1, 1.394)])
def test_entropy_reduction_is_a_softmax_of_probabilities_and_need_not_reduce(
    temperature: float, entropy: float
):
    p = np.array([0.3, 0.25, 0.2, 0.15, 0.1], np.float32)  # of entropy 1.545
    row = Pooled(np.array([4]), 1, 5, np.array([0, 5]), np.arange(5, dtype=np.int32), p)
    q = era(row, temperature).probs.astype(np.float64)
    assert -(q * np.log(q)).sum() == pytest.approx(entropy, abs=6e-4)


def test_entropy_reduction_gives_unnamed_classes_their_share():
    answer = as_pooled(said(0))
    q = dense(era(answer, 0.1))
    raised = np.exp(dense(answer) / 0.1)
    np.testing.assert_allclose(q, raised / raised.sum(1, keepdims=True), rtol=1e-5)
    assert (q > 0).all()


def test_labels_that_are_sent_are_the_nearest_on_the_grid(monkeypatch: pytest.MonkeyPatch):
    labels = era(as_pooled(said(3)), 0.3)
    lengths, ids, counts = largest_remainder(dense(labels).astype(np.float32), 17)
    for values in (2**22, 5 * K, 1):  # however many are taken at a time
        monkeypatch.setattr("fedsim.aggregation.responses._CHUNK_VALUES", values)
        sent = quantised(labels, 17)
        assert np.array_equal(np.diff(sent.offsets), lengths)
        assert np.array_equal(sent.ids, ids) and np.array_equal(sent.counts, counts)


@pytest.mark.parametrize("name", ["ds_fl", "fedmd"])
def test_what_goes_down_is_the_last_rounds_mean_and_nothing_after_silence(name: str):
    small = Small({"name": name, "levels": 1000, "proxy_per_round": 0.5})
    coordinator, method, sent = small.coordinator(name), small.world.method(name), small.messages(name)
    assert coordinator.open(1) is None
    coordinator.receive(range(3), sent)
    before = weights(coordinator)
    coordinator.close(1, None)
    assert np.array_equal(weights(coordinator), before) == (name == "fedmd")  # which has no global model

    message = coordinator.open(2)
    received = decode(message.data, method.expect("down", 2, COORDINATOR, 0), 2**20)
    assert np.array_equal(received.samples, method.samples(1))
    answers = [decode(m, method.expect("up", 1, k, 0), 2**20) for k, m in enumerate(sent)]
    expected = np.mean([of(a) for a in answers], axis=0)
    if name == "ds_fl":
        expected = np.exp(expected / 0.1)
        expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(of(received), expected, atol=1 / 1000)

    coordinator.close(2, None, silent=True)
    assert coordinator.open(3) is None


def test_participants_digest_the_labels_before_their_own_shard():
    small = Small({"name": "ds_fl"})
    method, site, alone = small.world.method("ds_fl"), small.site(), small.site()
    answer, _ = method.participant_step(small.site(1), 1, None)
    method.participant_step(site, 2, answer)
    labels = Stream(
        site.public.proxy.take(answer.samples),
        8,
        Objective(response=1.0, task=0.0),
        as_pooled(answer),
        augment=small.config.participants.training.augment,
    )
    alone.learner.fit(method.phase(2, 0, "distil", labels))
    alone.learner.fit(method.phase(2, 0, "local", method.labelled(small.shards[0].train, 0)))
    assert np.array_equal(site.learner.parameters().vector, alone.learner.parameters().vector)


def test_entropy_reduction_over_too_many_classes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedsim.methods.ds_fl._LARGEST", 10)
    with pytest.raises(ConfigError, match=r"ds_fl\.era: 0\.1.*null"):
        Small({"name": "ds_fl"}).coordinator("ds_fl").open(1)

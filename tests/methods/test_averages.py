"""FedAvg and FedProx against independent computations and the limits that the papers state."""

import itertools
from typing import Any

import numpy as np
import pytest

from fedsim.errors import MessageError
from fedsim.methods import method_of
from fedsim.methods.fedavg import ParameterMean
from fedsim.process import set_up
from fedsim.types import Parameters
from fedsim.wire import decode, encode
from tests.methods.small import DISTIL, FEDAVG, Small, rng, weights


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def test_parameters_are_averaged_by_their_number_of_examples():
    sizes, vectors = (5, 40, 1, 700), rng(0).normal(0, 3, (4, 300)).astype(np.float32)
    mean = ParameterMean(300, sizes)
    for k, n in enumerate(sizes):
        mean.add(k, Parameters((vectors[k],), n))
    np.testing.assert_allclose(mean.sum.mean(), np.average(vectors, axis=0, weights=sizes), atol=1e-12)


def test_those_who_deliver_are_averaged_among_themselves():
    sizes, vectors = (10, 30, 60), rng(0).normal(0, 1, (3, 50)).astype(np.float32)
    mean = ParameterMean(50, sizes)
    for k in (0, 2):
        mean.add(k, Parameters((vectors[k],), sizes[k]))
    expected = np.average(vectors[[0, 2]], axis=0, weights=(10, 60))
    np.testing.assert_allclose(mean.sum.mean(), expected, atol=1e-12)


def test_a_false_claim_of_examples_is_refused():
    mean = ParameterMean(3, (10, 30))
    with pytest.raises(MessageError, match="9999 examples, registered 10"):
        mean.add(0, Parameters((np.ones(3, np.float32),), 9_999))
    with pytest.raises(MessageError, match="registered 30"):
        mean.add(1, Parameters((np.ones(3, np.float32),), 10))
    mean.add(0, Parameters((np.ones(3, np.float32),), 10))
    assert np.array_equal(mean.sum.mean(), np.ones(3))  # what was refused left nothing behind


def test_the_student_becomes_the_mean_of_what_was_sent():
    small = Small(FEDAVG)
    coordinator, sent = small.coordinator("fedavg"), small.messages("fedavg")
    method = method_of(small.world, "fedavg")
    received = [
        decode(m, method.expect("up", 1, k, coordinator._desk.learner.size), 2**26)
        for k, m in enumerate(sent)
    ]
    coordinator.open(1)
    coordinator.receive(range(3), sent)
    coordinator.learn(1)
    coordinator.close(1, None)
    vectors, counts = [r.vector for r in received], [r.examples for r in received]
    assert counts == [len(s.train) for s in small.shards.values()]
    assert len(set(counts)) > 1  # an unweighted mean would be another
    expected = np.average(vectors, axis=0, weights=counts).astype(np.float32)
    np.testing.assert_allclose(weights(coordinator), expected, rtol=0, atol=1e-7)


def test_with_one_participant_it_is_that_participants_training():
    small = Small(FEDAVG, count=1)
    host, coordinator, alone = small.host(), small.coordinator("fedavg"), small.site().learner
    method = method_of(small.world, "fedavg")
    broadcast = None
    for round in (1, 2):
        message = coordinator.open(round)
        broadcast = message.data if message else None
        _, sent = host.step("fedavg", round, [0], broadcast, None, None)
        coordinator.receive([0], sent)
        pooled = coordinator._intake.pool.sum.mean()
        coordinator.learn(round)
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
        knowledge, fit = method_of(small.world, contender).participant_step(small.site(), 1, None)
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
        coordinator.learn(1)
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
        lie = Parameters((np.full(size, number, np.float32),), examples)
        return encode(lie, direction="up", round=1, sender=sender).data

    honest = len(small.shards[0].train)
    coordinator.open(1)
    coordinator.receive([0, 1], [message(0, honest + 1, 0.0), message(1, honest, np.nan)])
    coordinator.receive([2, 2], [sent[2], sent[2]])
    coordinator.learn(1)
    closing = coordinator.close(1, None)
    assert closing.statuses == {0: "rejected:unexpected", 1: "rejected:non-finite", 2: "ok"}
    expected = decode(sent[2], method_of(small.world, "fedavg").expect("up", 1, 2, size), 2**26)
    np.testing.assert_allclose(weights(coordinator), expected.vector, rtol=0, atol=1e-7)

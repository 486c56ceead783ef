"""Federated distillation as a whole, and the exchange of labels of DS-FL and FedMD."""

import numpy as np
import pytest

from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.responses import (
    as_pooled,
    era,
    quantised,
)
from fedsim.errors import ConfigError
from fedsim.learning.training import Objective, Phase, Stream
from fedsim.methods import method_of
from fedsim.process import set_up
from fedsim.types import COORDINATOR, Responses
from fedsim.wire import decode
from fedsim.wire.quantise import largest_remainder
from tests.methods.small import DISTIL, K, Small, dense, of, rng, said, weights


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def test_the_student_moves_towards_what_was_pooled():
    small = Small({**DISTIL, "task": 0.0})
    coordinator, sent = small.coordinator("federated_distillation"), small.messages("federated_distillation")
    method = method_of(small.world, "federated_distillation")
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
    coordinator.learn(1)
    coordinator.close(1, None)
    assert distance() < 0.7 * before
    expected = np.mean([of(decode(m, method.expect("up", 1, k, 1), 2**26)) for k, m in enumerate(sent)], 0)
    np.testing.assert_allclose(dense(teacher), expected, atol=1e-6)


def test_what_goes_down_is_what_the_student_says():
    small = Small(DISTIL, {**DISTIL, "label": "one-way", "digest": 0})
    for contender, rounds_down in (("federated_distillation", [2]), ("one-way", [])):
        coordinator, host = small.coordinator(contender), small.host()
        method, down = method_of(small.world, contender), []
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
            coordinator.learn(round)
            coordinator.close(round, None)
        assert down == rounds_down


def test_participants_learn_from_what_came_down():
    # The same step with and without a broadcast; only the first can come closer to it on the proxy set.
    small = Small({**DISTIL, "digest": 20.0, "digest_batch": 24})
    method, site = method_of(small.world, "federated_distillation"), small.site()
    teacher = np.zeros((len(method.samples(2)), 10), np.float32)
    teacher[:, 3] = 1
    lengths, ids, counts = largest_remainder(teacher, 255)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    received = Responses(method.samples(2), 1, 10, 255, offsets, ids, counts)
    taught, _ = method.participant_step(site, 2, received)
    alone, _ = method.participant_step(small.site(), 2, None)
    assert of(taught)[:, 3].mean() > of(alone)[:, 3].mean() + 0.2


def test_a_participant_varies_the_images_that_it_digests_as_it_does_its_own():
    small = Small({**DISTIL, "digest": 0.7, "task": 0.2})
    method, site, alone = (
        method_of(small.world, "federated_distillation"),
        small.site(1),
        small.site(1).learner,
    )
    samples = method.samples(2)
    rows = rng(0).dirichlet(np.ones(10), len(samples)).astype(np.float32)
    lengths, ids, counts = largest_remainder(rows, 255)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    received = Responses(samples, 1, 10, 255, offsets, ids, counts)
    method.participant_step(site, 2, received)
    asked = small.federation.public.proxy.take(samples)
    told = Stream(asked, 4, Objective(1.0, 0.2), as_pooled(received), weight=0.7, augment=True)
    mine = Stream(small.shards[1].train, 8, augment=True)
    alone.fit(Phase((mine, told), small.config.participants.training, 2, 3, (0, 2, 1, "local")))
    assert np.array_equal(alone.parameters().vector, site.learner.parameters().vector)


def test_a_participant_of_solo_does_what_a_learner_does_alone():
    small = Small({"name": "solo"})
    method, site, alone = method_of(small.world, "solo"), small.site(1), small.site(1).learner
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
    coordinator, method, sent = small.coordinator(name), method_of(small.world, name), small.messages(name)
    assert coordinator.open(1) is None
    coordinator.receive(range(3), sent)
    before = weights(coordinator)
    coordinator.learn(1)
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

    coordinator.receive(range(3), ["lost"] * 3)
    coordinator.learn(2)
    coordinator.close(2, None)
    assert coordinator.open(3) is None


def test_participants_digest_the_labels_before_their_own_shard():
    small = Small({"name": "ds_fl"})
    method, site, alone = method_of(small.world, "ds_fl"), small.site(), small.site()
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
        method_of(Small({"name": "ds_fl"}).world, "ds_fl").check_sizes()

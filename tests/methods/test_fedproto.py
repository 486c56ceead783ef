"""FedProto against means, distances and gradients that are computed on their own."""

import numpy as np
import pytest
import torch

from fedsim.errors import ConfigError, MessageError
from fedsim.learning.training import Stream
from fedsim.seeding import generator
from fedsim.types import Prototypes

PROTO = {"name": "fedproto", "specialists": "student"}
NETS = {"participants.models": ["mlp"], "student.model": "mlp"}


def embeddings(learner, examples) -> np.ndarray:
    """What the last layer of an mlp reads, layer by layer."""
    values = torch.from_numpy(examples.arrays["pixel_values"]).float() / 127.5 - 1
    with torch.no_grad():
        for layer in list(learner.engine.model.layers)[:-1]:
            values = layer(values)
    return values.double().numpy()


def test_prototypes_are_the_means_of_the_own_classes_after_training(play):
    run = play(PROTO, **NETS)
    site = run.site(1)
    sent, _ = run.method.participant_step(site, 1, None)
    labels, found = site.shard.train.arrays["labels"], embeddings(site.learner, site.shard.train)
    present = np.unique(labels)
    assert 0 < len(present) < 10  # or nothing is left out
    assert np.array_equal(sent.groups, present)
    assert np.array_equal(sent.counts, [(labels == y).sum() for y in present])
    for group, centroid in zip(sent.groups, sent.centroids, strict=True):
        np.testing.assert_allclose(centroid, found[labels == group].mean(0), atol=1e-5)


def test_the_coordinator_weighs_by_the_number_of_examples_of_a_class(play):
    run = play(PROTO, **NETS)
    run.round(1)
    heard = [run.read(data, 1, k) for k, data in enumerate(run.up)]
    run.round(2)
    down = run.read(run.down, 2)
    assert np.array_equal(down.groups, np.unique(np.concatenate([h.groups for h in heard])))
    for group, centroid, count in zip(down.groups, down.centroids, down.counts, strict=True):
        rows = [(h.centroids[h.groups == group], h.counts[h.groups == group]) for h in heard]
        vectors, counts = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        np.testing.assert_allclose(
            centroid, np.average(vectors, axis=0, weights=counts), rtol=2e-3, atol=1e-4
        )
        assert count == counts.sum()


def test_a_class_that_nobody_sent_keeps_its_prototype(play):
    run = play(PROTO, **NETS)
    run.round(1)
    first = run.coordinator._desk.memory
    before = dict(zip(first["groups"].tolist(), first["centroids"].copy(), strict=True))
    run.round(2, [1])
    (sent,) = [run.read(data, 2, 1) for data in run.up]
    after = run.coordinator._desk.memory
    assert set(after["groups"].tolist()) == set(before) > set(sent.groups.tolist())
    for group, centroid in zip(after["groups"].tolist(), after["centroids"], strict=True):
        own = sent.centroids[sent.groups == group]
        expected = own[0] if len(own) else before[group]
        np.testing.assert_allclose(centroid, expected, rtol=1e-3, atol=1e-5)


def test_a_step_follows_cross_entropy_and_the_mean_squared_distance(play):
    weight, rate = 3.0, 0.05
    whole = {"steps": 1, "batch_size": 1000, "optimizer": "sgd", "learning_rate": rate, "augment": False}
    whole |= {"warmup": 0, "schedule": "constant", "gradient_clip": None, "weight_decay": 0.0}
    run = play({**PROTO, "prototype": weight}, **NETS, **{"participants.training": whole})
    site, alone = run.site(0), run.site(0)
    shard = site.shard.train
    labels = torch.from_numpy(shard.arrays["labels"])
    known = np.unique(labels)[:-1]  # the last class has no prototype yet
    centroids = np.random.default_rng(0).normal(0, 1, (len(known), 64)).astype(np.float32)
    ones = np.ones(len(known), np.int64)
    heard = Prototypes(known, 0 * ones, centroids, ones, np.zeros(len(known), np.float32))

    layers = list(alone.learner.engine.model.layers)
    values = torch.from_numpy(shard.arrays["pixel_values"]).float() / 127.5 - 1
    for layer in layers[:-1]:
        values = layer(values)
    target = torch.zeros_like(values)
    has = torch.isin(labels, torch.from_numpy(known))
    target[has] = torch.from_numpy(centroids)[torch.searchsorted(torch.from_numpy(known), labels[has])]
    distance = ((values - target)[has] ** 2).mean(1)
    pulls = torch.zeros(len(shard)).index_put((torch.where(has)[0],), distance)
    loss = torch.nn.functional.cross_entropy(layers[-1](values), labels, reduction="none") + weight * pulls
    key = run.method.phase(2, 0, "local").key
    (index,) = Stream(shard, 1000).batches(1, generator(*key, 0))  # passes over a small shard
    loss[torch.from_numpy(index)].mean().backward()
    expected = [p.detach() - rate * p.grad for p in alone.learner.engine.model.parameters()]
    run.method.participant_step(site, 2, heard)
    for got, want in zip(site.learner.engine.model.parameters(), expected, strict=True):
        np.testing.assert_allclose(got.detach(), want, atol=1e-6)


def test_prototypes_bring_embeddings_nearer(play):
    near, far = ({**PROTO, "prototype": weight} for weight in (20.0, 0.0))
    more = {"participants.training.steps": 20}
    distances = []
    for settings in (near, far):
        run = play(settings, **NETS, **more)
        run.round(1)
        run.round(2)
        sent = [run.read(data, 2, k) for k, data in enumerate(run.up)]
        down = run.read(run.down, 2)
        of_class = dict(zip(down.groups.tolist(), down.centroids, strict=True))
        each = [((s.centroids - [of_class[g] for g in s.groups]) ** 2).mean() for s in sent]
        distances.append(np.mean(each))
    assert distances[0] < 0.7 * distances[1]


def test_without_the_pull_it_is_training_alone(play):
    run, solo = play({**PROTO, "prototype": 0.0}, **NETS), play({"name": "solo"}, **NETS)
    site, alone = run.site(0), solo.site(0)
    sent, _ = run.method.participant_step(site, 1, None)
    run.method.participant_step(site, 2, sent)
    for number in (1, 2):
        solo.method.participant_step(alone, number, None)
    assert np.array_equal(site.learner.parameters().vector, alone.learner.parameters().vector)


def test_a_message_is_prototypes_and_little_else(play):
    run = play(PROTO, **NETS)
    run.round(1)
    for k, data in enumerate(run.up):
        classes = len(np.unique(run.shards[k].train.arrays["labels"]))
        assert 2 * 64 * classes < len(data) < 2 * 64 * classes + 150


def test_widths_that_differ_and_false_counts_are_refused(play):
    with pytest.raises(ConfigError, match=r"methods\.0\.specialists.*vit-micro 48, mlp 64"):
        play({"name": "fedproto"}, **{"participants.models": ["vit-micro", "mlp"]})
    play({"name": "fedproto"}, **{"participants.models": ["vit-tiny", "mlp"]})  # both 64 wide
    run = play(PROTO, **NETS)
    many = np.array([run.world.sizes[0] + 1])
    lie = Prototypes(np.array([3]), np.array([0]), np.ones((1, 64), np.float32), many, np.ones(1, np.float32))
    with pytest.raises(MessageError, match="examples, registered"):
        run.method.pool(run.coordinator._desk, 1).add(0, lie)

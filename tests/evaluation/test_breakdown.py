"""Scores of parts of the test data against scores of these parts by themselves."""

from typing import Any

import numpy as np
import pytest

from fedsim import data
from fedsim.evaluation.breakdown import by_group, by_institution
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world

TEXT = {"source": "stdlib", "max_examples": 200, "vocabulary": 300, "window": 32}
PAIRS = {"source": "digits", "modality": "image_text", "max_examples": 200, "split": {"test": 0.3}}


@pytest.fixture(params=["text", "image_text", "captions"])
def made(request: pytest.FixtureRequest):
    set_up(1)
    text = request.param == "text"
    model = "llama-tiny" if text else "clip-micro"
    config = load({
        "data": TEXT if text else PAIRS, "student": {"model": model},
        "participants": {"models": [model], "count": 4, "partition": {"test_fraction": 0.3}},
    })  # fmt: skip
    federation = data.build(data.plan(config))
    if request.param == "captions":  # as if nobody knew their labels
        for examples in (federation.public.test, *(shard.test for shard in federation.shards)):
            del examples.arrays["labels"]
    return federation, world(config, federation).specialist(model, None, config.participants.training)


def test_parts_are_scored_as_if_they_were_all(made: Any):
    federation, learner = made
    tests = {shard.participant: shard.test for shard in federation.shards}
    found = by_institution(learner, {**tests, 9: tests[0].take(np.zeros(0, np.int64))})  # who kept nothing
    assert found == pytest.approx({f"local/{k}": learner.evaluate(own)[0] for k, own in tests.items()})
    test, names = federation.public.test, federation.group_names
    groups = by_group(learner, test, names)
    if not learner.modality.labelled(test):
        assert groups == {}
        return
    assert len(groups) > 3 and set(groups) == {f"group/{names[g]}" for g in test.groups}
    for group in np.unique(test.groups):
        alone, _ = learner.evaluate(test.take(np.flatnonzero(test.groups == group)))
        assert groups[f"group/{names[group]}"] == pytest.approx(alone)
    assert by_institution(learner, {}) == {}

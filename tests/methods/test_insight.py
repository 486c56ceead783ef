"""What federated distillation exchanges besides responses: from the hosts to the exported student."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fedsim.coordinator import Coordinator
from fedsim.errors import ConfigError
from fedsim.learning.training import Objective
from fedsim.models.heads import PREFIX
from fedsim.process import set_up
from fedsim.types import METRICS, Mixture
from fedsim.wire import decode, encode
from tests.methods.plain_student import plain_student
from tests.methods.test_switches import EVERYBODY, NAME, Play

EACH = pytest.mark.parametrize("modality", METRICS)
FEATURES: dict[str, Any] = {"features": {"weight": 0.5, "depths": [0.5, 1.0], "rank": 4}}


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def read(play: Play, round: int, who: int, data: bytes) -> Mixture:
    expected = play.method.agreed(
        play.method.expect("up", round, who, 0), play.terms.pool, play.coordinator._told
    )
    told = decode(data, expected, 2**26)
    assert isinstance(told, Mixture)
    return told


def exported(play: Play, folder: Path) -> torch.nn.Module:
    """The student as transformers reads it; nothing is missing and nothing is too much."""
    play.coordinator.export(folder, "", None)
    kind = {
        "text": transformers.AutoModelForCausalLM,
        "image": transformers.AutoModelForImageClassification,
        "image_text": transformers.CLIPModel,
    }[play.world.interface.modality]
    model, problems = kind.from_pretrained(str(folder), output_loading_info=True)
    assert not any(problems.values()), problems
    return model.eval()


def assert_same_answers(play: Play, plain: torch.nn.Module) -> None:
    """The exported model answers as the student does."""
    learner, test = play.coordinator._desk.learner, play.federation.public.test
    inputs = learner.modality.inputs(test, np.arange(4), torch.device("cpu"))
    asked = learner.modality.asked(inputs, Objective(response=1.0, task=0.0))
    with torch.no_grad():
        expected = learner.modality.logits(learner.engine.model.eval()(**asked))
        torch.testing.assert_close(learner.modality.logits(plain(**asked)), expected)
    assert not any(name.startswith(PREFIX) for name in plain.state_dict())


@EACH
def test_features_reach_the_student_and_stay_out_of_the_export(tmp_path: Path, modality: str):
    play = Play(modality, **FEATURES)
    before = None
    for round in (1, 2):
        closing, _, up = play.round(round)
        told = read(play, round, 0, up[0])
        assert told.responses is not None and told.features is not None
        assert told.features.codes.shape == (2, min(512, play.world.proxy_size), 4)
        assert 0 < closing.terms["feature"] < closing.learn_loss
        assert set(play.memory) >= {"embedding.0", "embedding.1"}
        maps = play.coordinator._desk.learner.heads.maps[0].weight.detach().clone()
        assert before is None or not torch.equal(maps, before)  # they learn
        before = maps
    assert_same_answers(play, exported(play, tmp_path / "student"))


def test_layers_take_turns():
    play, both = Play(features={**FEATURES["features"], "layers_per_round": 1}), Play(**FEATURES)
    for round in (1, 2):
        _, _, up = play.round(round)
        assert len(read(play, round, 1, up[1]).features.codes) == 1
        assert f"embedding.{round - 1}" in play.memory
        assert len(up[1]) < len(both.round(round)[2][1])


PROTOTYPES: dict[str, Any] = {
    **FEATURES,
    "prototypes": {"weight": 0.5, "per_group": 2, "concepts": 4},
}


@EACH
def test_prototypes_of_private_examples_reach_the_student(tmp_path: Path, modality: str):
    play = Play(modality, **PROTOTYPES)
    sizes = [len(shard.train) for shard in play.federation.shards]
    for round in (1, 2, 3):
        closing, _, up = play.round(round)
        assert 0 < closing.terms["prototype"] < closing.learn_loss
        told = [read(play, round, who, message).prototypes for who, message in enumerate(up)]
        if round == 1:
            assert told == [None] * 3  # nobody knows yet in which space
            continue
        assert [int(p.counts.sum()) for p in told] == sizes  # every example is in one of them
        for shard, prototypes in zip(play.federation.shards, told, strict=True):
            if modality != "text":  # absent classes are left out
                assert np.array_equal(np.unique(prototypes.groups), np.unique(shard.train.arrays["labels"]))
        counts = play.memory["prototypes.counts"]
        assert counts.sum() >= sum(sizes)
    assert_same_answers(play, exported(play, tmp_path / "student"))


@EACH
def test_the_exported_student_answers_for_the_mean_domain(tmp_path: Path, modality: str):
    weights = {"text": "loss", "image": "density", "image_text": "density"}[modality]
    play = Play(modality, adaptation=True, weights=weights, confidence=2)
    for round in (1, 2):
        play.round(round)
    scale = play.coordinator._desk.learner.heads.scale
    assert scale.weight.detach().abs().max() > 0  # it has learnt
    taught = play.memory["domains"][play.memory["samples"]]
    assert len(np.unique(taught, axis=0)) > 1  # claims differ from sample to sample
    np.testing.assert_allclose(scale.mean.numpy(), taught.mean(0), atol=1e-6)
    assert_same_answers(play, exported(play, tmp_path / "student"))


def test_the_mean_domain_survives_a_restart(tmp_path: Path):
    play = Play(adaptation=True, weights="density", confidence=2)
    play.round(1, tmp_path)
    fresh = Coordinator(play.world, play.federation.public, {}, student=plain_student)
    fresh.begin(NAME, 1, tmp_path)
    mean = fresh._desk.learner.heads.scale.mean
    assert mean.any() and torch.equal(mean, play.coordinator._desk.learner.heads.scale.mean)


def test_a_message_without_features_is_refused():
    play = Play(**FEATURES)
    _, up = play.open(1)
    half = Mixture(responses=read(play, 1, 0, up[0]).responses)
    up[0] = encode(half, direction="up", round=1, sender=0, samples_known=True).data
    play.coordinator.receive(EVERYBODY, up)
    play.coordinator.learn(1)
    assert play.coordinator.close(1, None).statuses == {0: "rejected:unexpected", 1: "ok", 2: "ok"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"features": {"weight": -1}}, r"features.weight: -1 is not valid; expected"),
        ({"features": {"weight": 1, "depths": [0]}}, r"features.depths.0: 0 is not valid"),
        ({"features": {"weight": 1, "depths": []}}, r"features.depths: "),
        ({"features": {"weight": 1, "depths": [1, 0.5]}}, r"features.depths: .* expected .*ascending"),
        (
            {"features": {"weight": 1, "layers_per_round": 2}},
            r"features.layers_per_round: 2 is not valid; expected at most 1",
        ),
        ({"prototypes": {"weight": -1}}, r"prototypes.weight: -1 is not valid; expected"),
        ({"prototypes": {"weight": 1, "per_group": 0}}, r"prototypes.per_group: 0 is not valid; expected"),
        ({"prototypes": {"weight": 1, "clusters": 2}}, r"prototypes.clusters: .* known field"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        Play(**options)
    assert "\n" not in str(caught.value)

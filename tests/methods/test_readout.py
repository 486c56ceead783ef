"""The last round in closed form: what travels, what the student is afterwards, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from fedsim.adversaries import tamper
from fedsim.config import Adversary
from fedsim.errors import ConfigError
from fedsim.knowledge.moments import measure, solve
from fedsim.learning import last_layer
from fedsim.loading import load
from fedsim.models import presets
from fedsim.process import set_up
from fedsim.simulation import check_settings
from fedsim.types import Examples, MaskedSums, Update, concatenate
from fedsim.wire import decode, encode
from tests.methods.test_switches import EVERYBODY, Play, config

LAST = 4


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def played(modality: str = "image", **settings: Any) -> tuple[Play, np.ndarray, np.ndarray]:
    """A run that is over, with the student's weights before its last round and as others then get them."""
    play = Play(modality, readout={}, **settings)
    for round in range(1, LAST):
        play.round(round)
    before = play.weights()
    play.down, play.up = play.open(LAST)
    told = play.coordinator._desk.memory["told"]
    play.coordinator.receive(EVERYBODY, play.up)
    play.coordinator.learn(LAST)
    assert play.coordinator.close(LAST, None).statuses == dict.fromkeys(EVERYBODY, "ok")
    return play, before, told


def everybodys(play: Play) -> Examples:
    return concatenate([shard.train for shard in play.federation.shards])


@pytest.mark.parametrize("modality", ["image", "image_text"])
def test_only_the_last_layer_changes_and_it_fits_everybodys_examples_best(modality: str):
    play, before, told = played(modality)
    learner = play.coordinator._desk.learner
    assert 0 < np.abs(told - before).max() <= np.abs(before).max() / 126  # eight bits
    after = learner.weights()
    learner.load_parameters(told)
    same = {n: torch.equal(w, after[n]) for n, w in learner.weights().items()}
    layer = {"image": {"classifier.weight", "classifier.bias"}}
    changed = layer.get(modality, {"visual_projection.weight", "logit_scale"})
    assert {name for name, kept in same.items() if not kept} == changed
    weights = solve(measure(*last_layer.read(learner, everybodys(play))), 0.01)
    name = "classifier.weight" if modality == "image" else "visual_projection.weight"
    found = after[name].double().numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found), weights / np.linalg.norm(weights), atol=2e-5)


def test_what_travels_is_the_student_in_few_bits_and_two_sums():
    play, _, told = played(views=2, delta="both")
    expected = play.method.expect("down", LAST, -1, 0)
    assert isinstance(decode(play.down, expected, 2**26), Update) and len(play.down) < len(told) * 1.05
    heard = decode(play.up[1], play.method.expect("up", LAST, 1, 0), 2**26)
    assert isinstance(heard, MaskedSums) and heard.examples == len(play.federation.shards[1].train)
    width, classes = presets.width("vit-micro"), 10
    assert len(play.up[1]) < 4 * (width * (width + 1) / 2 + width * classes) + 100
    assert play.coordinator._method.measures(play.coordinator._desk) == {"readout/accepted": 1.0}


def test_the_last_layer_stays_where_somebody_lies():
    play = Play(readout={})
    for round in range(1, LAST):
        play.round(round)
    _, up = play.open(LAST)
    told, expected = play.coordinator._desk.memory["told"], play.method.expect("up", LAST, 1, 0)
    lie = tamper(decode(up[1], expected, 2**26), None, Adversary(kind="noise"), np.random.default_rng(0))
    up[1] = encode(lie, direction="up", round=LAST, sender=1).data
    play.coordinator.receive(EVERYBODY, up)
    play.coordinator.learn(LAST)
    closing = play.coordinator.close(LAST, None)
    assert closing.measures["readout/accepted"] == 0 and np.array_equal(play.weights(), told)


def test_who_is_missing_is_left_out():
    play = Play(readout={})
    for round in range(1, LAST):
        play.round(round)
    _, up = play.open(LAST)
    learner = play.coordinator._desk.learner
    present = concatenate([play.federation.shards[k].train for k in (0, 2)])
    learner.load_parameters(play.coordinator._desk.memory["told"])
    weights = solve(measure(*last_layer.read(learner, present)), 0.01)
    play.coordinator.receive(EVERYBODY, [up[0], None, up[2]])
    play.coordinator.learn(LAST)
    play.coordinator.close(LAST, None)
    found = learner.weights()["classifier.weight"].double().numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found), weights / np.linalg.norm(weights), atol=2e-5)


def test_a_student_with_maps_of_features_can_be_read_out():
    play, _, _ = played(features={"weight": 1, "rank": 4})
    assert np.isfinite(play.coordinator._desk.learner.evaluate(play.federation.public.test)).all()


def test_a_student_without_a_last_layer_is_refused_in_the_first_round():
    play = Play(readout={})
    play.coordinator._desk.learner.engine.model.classifier = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"model: .*a model that ends in a linear layer over 10"):
        play.open(1)


def test_a_layer_that_is_sure_gives_the_probability_asked_for():
    for classes in (2, 10):
        scale = last_layer.sure(torch.eye(classes).double(), 0.999)
        assert scale == pytest.approx(np.log((classes - 1) * 0.999 / 0.001), rel=1e-9)
    close = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    assert torch.softmax(last_layer.sure(close, 0.9) * close, 1)[0, 0] == pytest.approx(0.9)
    assert last_layer.sure(torch.ones(3, 3).double(), 0.9) == pytest.approx(1e3)  # never surer


@pytest.mark.parametrize(
    "modality, options, message",
    [
        ("image", {"readout": {"ridge": 0}}, r"readout.ridge: 0 is not valid"),
        ("image", {"readout": {"bits": 2}}, r"readout.bits: 2 is not valid"),
        ("image", {"readout": {}, "defence": "median"}, r"readout: .*absent: it goes with no defence"),
        ("image", {"readout": {}, "adaptation": True}, r"readout: .*absent: it goes with"),
        ("text", {"readout": {}}, r"readout: .*absent: it needs images"),
    ],
)
def test_mistakes_are_one_line(modality: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        Play(modality, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rounds": 1}, "2 rounds or more"),
        ({"participants.privacy": {"epsilon": 8, "delta": 1e-5}}, "without `privacy`"),
    ],
)
def test_a_run_that_is_none_for_a_readout_is_refused_before_anybody_trains(
    changes: dict[str, Any], message: str
):
    tree = config(readout={}).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(ConfigError, match=rf"readout: .*absent: it needs .*{message}") as caught:
        check_settings(load(tree, **changes))
    assert "\n" not in str(caught.value)

"""What federated distillation exchanges besides responses: from the hosts to the exported student."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fedsim import config as configs
from fedsim import data
from fedsim.config import MethodConfig
from fedsim.coordinator import Coordinator
from fedsim.errors import ConfigError
from fedsim.host import Host
from fedsim.learner import Learner
from fedsim.models.heads import PREFIX, attach
from fedsim.process import set_up
from fedsim.simulation import world as make_world
from fedsim.student.engine import TorchEngine
from fedsim.training import HeadSpec
from fedsim.types import METRICS, Closing, Mixture
from fedsim.wire import decode
from fedsim.world import World
from tests.contract.test_methods import PEOPLE, tiny

EACH = pytest.mark.parametrize("modality", METRICS)
FEATURES = {"features": {"weight": 0.5, "depths": [0.5, 1.0], "rank": 4}}
NAME = "federated_distillation"


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def torch_student(world: World, start: np.ndarray | None, heads: HeadSpec | None) -> Learner:
    """As World.student, without DeepSpeed."""
    training = world.config.student.training
    learner = world.specialist(world.config.student.model, start, training)
    if heads is not None:
        attach(learner.engine.model, heads, learner.modality.pooled, 0)
        learner.engine = TorchEngine(learner.engine.model, training, torch.device("cpu"))
    return learner


class Rounds:
    """A tiny run by hand: what was sent, and how each round closed."""

    def __init__(self, folder: Path, modality: str, **options: Any) -> None:
        config = tiny(folder, modality, NAME)
        entry = MethodConfig.model_validate({"name": NAME, "specialists": "student", **options})
        self.config = config.model_copy(update={"methods": (entry,)})
        self.federation = data.build(data.plan(self.config))
        self.world = make_world(self.config, self.federation)
        self.method = self.world.method(NAME)
        self.host = Host(self.world, self.federation.public, dict(enumerate(self.federation.shards)))
        self.coordinator = Coordinator(self.world, self.federation.public, {}, student=torch_student)
        self.coordinator.begin(NAME, 0, None)
        self.down: list[int] = []

    @property
    def learner(self) -> Learner:
        return self.coordinator._desk.learner

    @property
    def memory(self) -> dict[str, np.ndarray]:
        return self.coordinator._desk.memory

    def messages(self, round: int) -> list[Any]:
        opening = self.coordinator.open(round)
        self.down.append(len(opening.data) if opening else 0)
        everybody = range(PEOPLE)
        sent = self.host.step(NAME, round, everybody, opening.data if opening else None, None, None)[1]
        assert isinstance(sent, list)
        return sent

    def read(self, round: int, who: int, data: bytes) -> Any:
        expected = self.method.expect("up", round, who, self.learner.size)
        assert expected is not None
        return decode(data, expected, 2**26)

    def close(self, round: int, messages: list[Any], order: list[int] | None = None) -> Closing:
        for who in order or range(PEOPLE):
            self.coordinator.receive([who], [messages[who]])
        return self.coordinator.close(round, None)

    def play(self, rounds: int = 2) -> list[Closing]:
        return [self.close(r, self.messages(r)) for r in range(1, rounds + 1)]

    def exported(self, folder: Path) -> torch.nn.Module:
        self.coordinator.export(folder, "", None)
        kind = {
            "text": transformers.AutoModelForCausalLM,
            "image": transformers.AutoModelForImageClassification,
            "image_text": transformers.CLIPModel,
        }[self.world.interface.modality]
        model, problems = kind.from_pretrained(str(folder), output_loading_info=True)
        assert not any(problems.values()), problems
        return model.eval()


def assert_same_answers(rounds: Rounds, plain: torch.nn.Module) -> None:
    """The exported model answers as the student does."""
    modality, test = rounds.learner.modality, rounds.federation.public.test
    inputs = modality.inputs(test, np.arange(8), torch.device("cpu"))
    from fedsim.learner import _ANSWER

    with torch.no_grad():
        asked = modality.asked(inputs, _ANSWER)
        expected = modality.logits(rounds.learner.engine.model.eval()(**asked))
        torch.testing.assert_close(modality.logits(plain(**asked)), expected)
        assert not any(name.startswith(PREFIX) for name in plain.state_dict())


@EACH
def test_features_reach_the_student_and_stay_out_of_the_export(tmp_path: Path, modality: str):
    rounds = Rounds(tmp_path, modality, **FEATURES)
    first = rounds.messages(1)
    told = rounds.read(1, 0, first[0])
    assert isinstance(told, Mixture) and told.responses is not None and told.features is not None
    assert told.features.codes.shape == (2, min(512, rounds.world.proxy_size), 4)
    closings = [rounds.close(1, first), rounds.close(2, rounds.messages(2))]
    assert all(np.isfinite(c.terms["feature"]) and c.terms["feature"] > 0 for c in closings)
    assert {k for k in rounds.memory if k.startswith("embedding")} == {"embedding.0", "embedding.1"}
    assert rounds.learner.heads is not None and rounds.learner.heads.maps[0].weight.grad is None
    assert_same_answers(rounds, rounds.exported(tmp_path / "student"))


def test_what_the_student_learns_from_features_changes_it(tmp_path: Path):
    ends = []
    for weight in (0.0, 0.5):
        rounds = Rounds(tmp_path, "image", features={**FEATURES["features"], "weight": weight})
        rounds.play(1)
        ends.append(rounds.learner.evaluate(rounds.federation.public.test)[1])
    assert ends[0] != ends[1]


def test_neither_order_nor_who_pools_changes_a_bit(tmp_path: Path):
    ends = []
    for order in ([0, 1, 2], [2, 0, 1]):
        rounds = Rounds(tmp_path, "image", **FEATURES)
        closing = rounds.close(1, rounds.messages(1), order)
        ends.append((closing, rounds.learner.parameters().vector.tobytes()))
    rounds = Rounds(tmp_path, "image", **FEATURES)
    rounds.coordinator.open(1)
    terms = rounds.coordinator.terms
    pooled = rounds.host.step(NAME, 1, range(PEOPLE), None, None, None, terms)[1]
    rounds.coordinator.receive(range(PEOPLE), pooled)
    closing = rounds.coordinator.close(1, None)
    ends.append((closing, rounds.learner.parameters().vector.tobytes()))
    for closing, vector in ends[1:]:
        assert vector == ends[0][1]
        assert (closing.score, closing.terms) == (ends[0][0].score, ends[0][0].terms)


def test_layers_take_turns(tmp_path: Path):
    options = {"features": {**FEATURES["features"], "layers_per_round": 1}}
    rounds = Rounds(tmp_path, "image", **options)
    sent = []
    for round in (1, 2):
        messages = rounds.messages(round)
        told = rounds.read(round, 1, messages[1])
        assert told.features is not None and len(told.features.codes) == 1
        sent.append(len(messages[1]))
        rounds.close(round, messages)
        assert f"embedding.{round - 1}" in rounds.memory
    both = Rounds(tmp_path, "image", **FEATURES).messages(1)
    assert max(sent) < len(both[1])


def test_a_message_without_features_is_refused(tmp_path: Path):
    rounds = Rounds(tmp_path, "image", **FEATURES)
    from fedsim.wire import encode

    messages = rounds.messages(1)
    told = rounds.read(1, 0, messages[0])
    half = Mixture(responses=told.responses)
    messages[0] = encode(half, direction="up", round=1, sender=0, samples_known=True).data
    assert rounds.close(1, messages).statuses == {0: "rejected:unexpected", 1: "ok", 2: "ok"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"features": {"weight": -1}}, r"methods.0.features.weight: -1 is not valid; expected"),
        ({"features": {"weight": 1, "depths": [0]}}, r"methods.0.features.depths.0: 0 is not valid"),
        ({"features": {"weight": 1, "depths": []}}, r"methods.0.features.depths: "),
        ({"features": {"weight": 1, "depths": [1, 0.5]}}, r"features.depths: .* expected .*ascending"),
        (
            {"features": {"weight": 1, "layers_per_round": 2}},
            r"features.layers_per_round: 2 is not valid; expected at most 1",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: dict[str, Any], message: str):
    from fedsim.simulation import check_settings

    with pytest.raises(ConfigError, match=message) as caught:
        people = {"models": ["vit-tiny"]}
        raw = {"data": {"source": "digits"}, "participants": people, "student": {"model": "vit-tiny"}}
        check_settings(configs.load({**raw, "methods": [{"name": NAME, **options}]}))
    assert "\n" not in str(caught.value)

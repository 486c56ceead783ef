"""Federated distillation with each of its switches, in rounds of plain torch: no actor, no DeepSpeed."""

import copy
import functools
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import data
from fedsim.aggregation.mixture import as_mixture
from fedsim.coordinator import Coordinator
from fedsim.data.federation import Federation
from fedsim.errors import ConfigError
from fedsim.host import Host
from fedsim.intake import Intake, Terms
from fedsim.loading import load
from fedsim.methods import method_of
from fedsim.process import set_up
from fedsim.simulation import check_settings
from fedsim.simulation import world as make_world
from fedsim.types import COORDINATOR, Closing, Responses
from fedsim.wire import decode
from tests.methods.plain_student import plain_student
from tests.opening import opening

NAME = "federated_distillation"
MODELS = {"text": "llama-tiny", "image": "vit-micro", "image_text": "clip-micro"}
EVERYBODY = range(3)


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


def config(modality: str = "image", **settings: Any):
    training = {"steps": 2, "batch_size": 4, "learning_rate": 0.01}
    source: dict[str, Any] = {"source": "digits", "max_examples": 150}
    if modality == "text":
        source = {"source": "stdlib", "max_examples": 60, "window": 16, "vocabulary": 300}
    if modality == "image_text":
        source["modality"] = modality
    return load(
        {
            "rounds": 4,
            "data": source,
            "participants": {"count": 3, "models": [MODELS[modality]], "training": training},
            "student": {"model": MODELS[modality], "training": training},
            "methods": [{"name": NAME, "digest_batch": 4, "proxy_per_round": 0.3, "levels": 60, **settings}],
        }
    )


@functools.cache
def federation(modality: str) -> Federation:
    return data.build(data.plan(config(modality)))


class Play:
    """Rounds of a small federation, step by step."""

    def __init__(self, modality: str = "image", **settings: Any) -> None:
        self.config = config(modality, **settings)
        check_settings(self.config)
        self.federation = federation(modality)
        self.world = make_world(self.config, self.federation)
        self.method = method_of(self.world, NAME)
        self.host = Host(self.world, self.federation.public, dict(enumerate(self.federation.shards)))
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> Coordinator:
        coordinator = Coordinator(self.world, self.federation.public, {}, student=plain_student)
        coordinator.begin(NAME, 0, None)
        return coordinator

    def open(self, round: int) -> tuple[bytes | None, list[bytes | None]]:
        """The round's broadcast and what everybody sends."""
        with opening(self.coordinator):
            message = self.coordinator.open(round)
        down = message.data if message else None
        self.terms = self.coordinator.terms
        return down, self.host.step(NAME, round, EVERYBODY, down, None, None)[1]

    def round(
        self, round: int, target: Path | None = None
    ) -> tuple[Closing, bytes | None, list[bytes | None]]:
        down, up = self.open(round)
        self.coordinator.receive(EVERYBODY, up)
        self.coordinator.learn(round)
        return self.coordinator.close(round, target), down, up

    def weights(self) -> np.ndarray:
        return self.coordinator._desk.learner.parameters().vector.copy()

    @property
    def memory(self) -> dict[str, np.ndarray]:
        return self.coordinator._desk.memory


SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss, text": ("text", {"weights": "loss", "confidence": 2}),
    "entropy": ("image", {"weights": "entropy", "confidence": 2}),
    "entropy, text": ("text", {"weights": "entropy", "confidence": 2}),
    "validation": ("image", {"weights": "validation", "confidence": 2}),
    "validation, text": ("text", {"weights": "validation", "confidence": 2}),
    "validation, image-text": ("image_text", {"weights": "validation", "confidence": 2, "max_share": 0.5}),
    "experience": ("image", {"weights": "experience", "confidence": 1}),
    "experience, text": ("text", {"weights": "experience", "confidence": 2}),
    "experience, image-text": ("image_text", {"weights": "experience", "confidence": 1}),
    "density": ("image", {"weights": "density", "confidence": 2}),
    "density, text": ("text", {"weights": "density", "confidence": 2}),
    "density, image-text": ("image_text", {"weights": "density", "confidence": 2}),
    "personal": ("image", {"personal": 2}),
    "personal, text": ("text", {"personal": 2}),
    "best": ("image", {"weights": "density", "confidence": 1, "teachers": "best"}),
    "logits": ("image", {"mean": "logits"}),
    "jsd": ("image", {"divergence": "jsd", "temperature": 2}),
    "curriculum": ("image", {"curriculum": "disagreement"}),
    "pair of levels": ("image", {"levels": [7, 56]}),
    "dadaquant": ("image", {"levels": "dadaquant", "dadaquant": {"first": 5, "cap": 20, "psi": 0}}),
    "adaptive": ("image", {"frequency": "adaptive"}),
    "delta": ("image", {"delta": "both", "proxy_per_round": 1.0, "coder": "huffman"}),
    "feedback": ("image", {"feedback": True, "levels": 7}),
    "views": ("image", {"views": 3}),
    "views, image-text": ("image_text", {"views": 2}),
    "top_k": ("text", {"quantiser": "top_k", "top": 8, "levels": 63}),
    "best, top_k": ("text", {"quantiser": "top_k", "confidence": 1, "teachers": "best"}),
    "features": ("image", {"features": {"weight": 1, "depths": [0.5, 1], "rank": 5}}),
    "features, text": ("text", {"features": {"weight": 1, "samples": 40}}),
    "features, image-text": ("image_text", {"features": {"weight": 1}}),
    "prototypes": ("image", {"prototypes": {"weight": 1, "per_group": 2}}),
    "prototypes, text": ("text", {"features": {"samples": 40}, "prototypes": {"weight": 1, "concepts": 3}}),
    "prototypes, image-text": ("image_text", {"prototypes": {"weight": 1}, "digest": 0}),
    "adaptation": ("image", {"adaptation": True, "weights": "density", "confidence": 1}),
    "adaptation, text": ("text", {"adaptation": True, "confidence": 2}),
    "adaptation, image-text": ("image_text", {"adaptation": True, "features": {"weight": 1}}),
    "readout": ("image", {"readout": {}}),
    "readout, image-text": ("image_text", {"readout": {"bits": 6}, "delta": "both"}),
    "pate": ("image", {"pate": {"noise": 0.5, "threshold": 0.5}}),
    "all together": (
        "image",
        {
            "adaptation": True,
            "prototypes": {"weight": 1, "per_group": 2},
            "features": {"weight": 1, "depths": [0.3, 1], "layers_per_round": 1},
            "weights": "density", "confidence": 1, "personal": 1, "curriculum": "disagreement",
            "levels": "dadaquant", "frequency": "adaptive", "max_share": 0.6, "mean": "logits",
        },
    ),
}  # fmt: skip


@functools.cache
def plain(modality: str) -> np.ndarray:
    """The student after three rounds with no switch on."""
    play = Play(modality)
    for round in (1, 2, 3):
        play.round(round)
    return play.weights()


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_does_something_and_nobody_is_refused(name: str):
    modality, settings = SWITCHES[name]
    other = Play(modality, **settings)
    for round in (1, 2, 3, 4)[: 4 if "readout" in settings else 3]:
        closing, _, up = other.round(round)
        if any(up):
            assert closing.statuses == dict.fromkeys(EVERYBODY, "ok")
    assert not np.array_equal(plain(modality), other.weights()) or name in ("adaptive", "delta")


def from_store(value: Any) -> Any:
    """As Ray's object store hands it out: its arrays can't be written to."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(b) for b in buffers])


@pytest.mark.parametrize(
    "name", ["personal", "best", "logits", "features", "prototypes", "adaptation", "pate", "all together"]
)
def test_hosts_pool_what_the_coordinator_would(name: str):
    modality, settings = SWITCHES[name]
    play = Play(modality, **settings)
    play.round(1)
    _, up = play.open(2)
    twin = copy.deepcopy(play.coordinator)
    twin.receive([2, 0, 1], [up[2], up[0], up[1]])
    for who in EVERYBODY:
        intake = Intake(play.method, 2, Terms(from_store(play.terms.pool), play.terms.size), 2**26)
        intake.receive(who, up[who], play.coordinator._told)
        play.coordinator.receive([who], intake.pooled())
    play.coordinator.learn(2)
    twin.learn(2)
    assert play.coordinator.close(2, None).statuses == twin.close(2, None).statuses
    assert np.array_equal(play.weights(), twin._desk.learner.parameters().vector)


def heard(play: Play, round: int, down: bytes) -> Responses:
    told = decode(down, play.method.expect("down", round, COORDINATOR, 0), 2**26)
    return as_mixture(told).responses


def answers(play: Play, round: int, up: list[bytes | None]) -> Iterator[Responses]:
    for who, message in enumerate(up):
        assert message is not None
        told, expected = play.coordinator._told, play.method.expect("up", round, who, 0)
        yield decode(message, play.method.agreed(expected, play.terms.pool, told), 2**26)


def test_a_curriculum_goes_from_what_is_common_to_what_is_special():
    play = Play(curriculum="disagreement", proxy_per_round=0.4)
    _, down, up = play.round(1)
    assert down is None
    asked = [play.method.samples(1)]
    for round in (2, 3, 4):
        known = play.memory["disagreement"].copy()
        assert np.array_equal(np.flatnonzero(~np.isnan(known)), np.unique(np.concatenate(asked)))
        _, down, up = play.round(round)
        asked.append(heard(play, round, down).samples)
        assert all(np.array_equal(answer.samples, asked[-1]) for answer in answers(play, round, up))
        of_asked = known[asked[-1]]
        if round == 2:  # none that is known to be more common was left out
            left = np.setdiff1d(np.flatnonzero(~np.isnan(known)), asked[-1])
            assert np.nanmax(of_asked) <= known[left].min()
        if round == 4:
            left = np.setdiff1d(np.flatnonzero(~np.isnan(known)), asked[-1])
            assert np.nanmin(of_asked) >= known[left].max()


def test_the_levels_of_a_round_are_those_of_its_broadcast():
    play = Play(levels="dadaquant", dadaquant={"first": 3, "cap": 11, "psi": 0.0, "phi": 2})
    levels = []
    for round in (1, 2, 3, 4):
        if round > 2:  # as if the student had got worse
            play.memory["validation"] = np.arange(1.0, round)
        _, down, up = play.round(round)
        levels.append({answer.levels for answer in answers(play, round, up)})
        assert down is None or heard(play, round, down).levels in levels[-1]
    assert levels == [{3}, {3}, {6}, {6}]


def test_another_grid_than_the_rounds_is_refused():
    play = Play(levels="dadaquant", dadaquant={"first": 5, "cap": 20})
    _, up = play.open(1)
    play.terms.pool.responses.sum.unit = 10  # a host that believes in another grid
    intake = Intake(play.method, 1, play.terms, 2**26)
    intake.receive(0, up[0])
    assert intake.statuses == {0: "rejected:unexpected"}


def test_rounds_are_left_out_as_the_student_converges():
    play = Play(frequency="adaptive", tolerance=0.9)  # nothing is good enough to count as learning
    sent, weights, losses = [], [play.weights()], []
    for round in (1, 2, 3, 4):
        closing, down, up = play.round(round)
        sent.append([down is not None, *(m is not None for m in up)])
        assert closing.statuses == (dict.fromkeys(EVERYBODY, "ok") if any(up) else {})
        losses.append(closing.learn_loss)
        weights.append(play.weights())
    # After round 1 nothing says yet that it converges; after round 2 the interval is 2, after 4 it is 4.
    assert sent == [[False, True, True, True], [True] * 4, [False] * 4, [False] * 4]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(weights))
    assert np.isfinite(losses).all()
    assert len(play.memory["validation"]) == 4


def test_what_a_schedule_remembers_survives_a_restart(tmp_path: Path):
    play = Play(**SWITCHES["all together"][1])
    play.round(1)
    play.round(2, tmp_path)
    fresh = Coordinator(play.world, play.federation.public, {}, student=plain_student)
    fresh.begin(NAME, 2, tmp_path / "coordinator" / "..")
    assert play.memory.keys() == fresh._desk.memory.keys() >= {
        "disagreement", "validation", "need", "embedding.0", "embedding.1", "prototypes.counts", "domains",
    }  # fmt: skip
    one, other = play.coordinator.open(3), fresh.open(3)
    assert (one and one.data) == (other and other.data)


def test_votes_spend_what_was_asked_for_over_all_rounds():
    play = Play(pate={"epsilon": 30.0, "delta": 1e-3})
    spent = [play.round(round)[0].measures["privacy/epsilon"] for round in (1, 2, 3, 4)]
    assert spent == sorted(spent) and spent[-1] == pytest.approx(30.0, abs=1e-5)


def test_a_round_without_answers_teaches_nothing():
    play = Play(pate={"noise": 1e-3, "threshold": 0.99})
    before = play.weights()
    _, up = play.open(1)
    play.coordinator.receive([0], up[:1])  # one vote of three
    play.coordinator.learn(1)
    closing = play.coordinator.close(1, None)
    assert closing.measures["privacy/answered"] == 0 and np.isnan(closing.learn_loss)
    assert np.array_equal(before, play.weights())
    assert play.round(2)[0].statuses == dict.fromkeys(EVERYBODY, "ok")


def test_claims_are_sent_where_somebody_reads_them():
    def sections(**settings: Any) -> Iterator[bool]:
        play = Play("text", **settings)
        _, down, up = play.round(1)
        _, down, up = play.round(2)
        told, expected = play.coordinator._told, play.method.expect("up", 2, 0, 0)
        agreed = play.method.agreed(expected, play.terms.pool, told)
        yield heard(play, 2, down).claims is not None
        yield decode(up[0], agreed, 2**26).claims is not None
        yield decode(up[0], agreed, 2**26).skills is not None

    assert list(sections(confidence=1)) == [False, True, False]
    assert list(sections(weights="uniform", confidence=1)) == [False, False, False]
    assert list(sections(personal=1)) == [False, False, True]


REFUSED = {
    "loss of unlabelled images": ({"confidence": 1}, "confidence"),
    "best of none": ({"teachers": "best"}, "teachers"),
    "mean of one": (
        {"teachers": "best", "weights": "entropy", "confidence": 1, "mean": "logits"}, "mean",
    ),
    "share below the mean": ({"max_share": 0.3}, "max_share"),
    "domains of the best": (
        {"teachers": "best", "confidence": 4, "weights": "entropy", "adaptation": True},
        "adaptation",
    ),
    "nothing to choose": ({"curriculum": "disagreement", "proxy_per_round": 1}, "curriculum"),
    "untold order": ({"curriculum": "disagreement", "digest": 0}, "curriculum"),
    "untold levels": ({"levels": "dadaquant", "digest": 0}, "levels"),
    "untold silence": ({"frequency": "adaptive", "digest": 0}, "frequency"),
    "silence without memory": ({"frequency": "adaptive", "remember": False}, "frequency"),
    "levels out of range": ({"levels": [0, 5]}, "levels"),
    "unknown levels": ({"levels": "finer"}, "levels"),
    "a hold of no round": ({"dadaquant": {"phi": 1}}, "dadaquant.phi"),
    "votes and features": ({"pate": {"noise": 1}, "features": {"weight": 1}}, "features"),
    "votes by claims": ({"pate": {"noise": 1}, "weights": "density", "confidence": 1}, "confidence"),
    "votes and a defence": ({"pate": {"noise": 1}, "defence": "median"}, "defence"),
    "two kinds of noise": ({"pate": {"noise": 1, "epsilon": 1}}, "pate"),
    "an epsilon that no noise reaches": ({"pate": {"epsilon": 0.001}}, "pate"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_work_is_refused_before_anything_starts(name: str):
    settings, field = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        check_settings(config("image", **settings))
    assert refused.value.field.startswith(f"methods.0.{field}")
    assert "\n" not in str(refused.value)


def test_text_has_no_views():
    with pytest.raises(ConfigError, match=r"methods\.0\.views: 2 .*expected 1: only images"):
        check_settings(config("text", views=2))


def test_captions_without_labels_leave_no_group_to_be_good_at():
    captions = {"source": "files", "path": "x", "modality": "image_text", "caption_column": "caption"}
    for settings, field in (
        ({"weights": "validation", "confidence": 1}, "weights"),
        ({"weights": "entropy", "confidence": 1}, "weights"),
        ({"personal": 1}, "personal"),
        ({"levels": "dadaquant"}, "levels"),
        ({"frequency": "adaptive"}, "frequency"),
    ):
        tree = config("image_text", **settings).model_dump() | {"data": captions}
        with pytest.raises(ConfigError, match=f"methods.0.{field}.*labelled validation"):
            check_settings(load(tree))

"""Both ends of a link stay in step: partial participation, loss, a crash and a resumed run."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import data, events
from fedsim.coordinator import Coordinator
from fedsim.host import Host
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world as make_world
from fedsim.types import Responses
from fedsim.wire import cache
from fedsim.wire.container import split, unpack
from tests.methods.plain_student import plain_student

NAME = "federated_distillation"
ROUNDS = 6
SEED = 0  # with which some broadcasts are missed and some are not


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    set_up(1)


class Federation:
    """Three institutions and a coordinator on ten digits, with a proxy set of 200."""

    def __init__(self, participants: dict[str, Any], **settings: Any) -> None:
        training = {"steps": 1, "batch_size": 8, "learning_rate": 0.001}
        method = {"name": NAME, "digest_batch": 4, "levels": 255, **settings}
        self.config = load(
            {
                "seed": SEED,
                "rounds": ROUNDS,
                "evaluation": {"every": ROUNDS},
                "data": {"source": "digits", "max_examples": 400, "split": {"proxy": 0.5}},
                "participants": {"count": 3, "models": ["vit-micro"], "training": training, **participants},
                "student": {"model": "vit-micro", "training": training},
                "methods": [method],
            }
        )
        self.federation = data.build(data.plan(self.config))
        self.world = make_world(self.config, self.federation)
        self.restart(0, None)

    def restart(self, finished: int, checkpoint: Path | None) -> None:
        """All processes are new; what they know is on disk."""
        self.host = Host(self.world, self.federation.public, dict(enumerate(self.federation.shards)))
        self.coordinator = Coordinator(self.world, self.federation.public, {}, student=plain_student)
        self.coordinator.begin(NAME, finished, checkpoint)

    def round(
        self, round: int, previous: Path | None, target: Path
    ) -> tuple[bytes | None, list[bytes | None]]:
        """The broadcast, and what arrives of those who are active."""
        message = self.coordinator.open(round)
        down = message.data if message else None
        active = events.active(self.config, round)
        # The host does what the coordinator would, as with Ray.
        terms = lambda: self.coordinator.terms  # noqa: E731
        _, pooled = self.host.step(NAME, round, active, down, previous, target, terms)
        self.coordinator.receive(active, pooled)
        self.coordinator.learn(round)
        closing = self.coordinator.close(round, target)
        assert set(closing.statuses.values()) <= {"ok", *events.FATES}
        return down, sorted(who for who, status in closing.statuses.items() if status == "ok")

    def run(self, folder: Path, restart_after: int | None = None, rounds: int = ROUNDS) -> list[bytes | None]:
        downs, previous = [], None
        for round in range(1, rounds + 1):
            target = folder / f"{round}"
            down, delivered = self.round(round, previous, target)
            for state in previous.glob("participant-*") if previous else ():
                if not (target / state.name).exists():  # as a checkpoint keeps those who did not take part
                    shutil.copytree(state, target / state.name)
            expected = [
                k for k in events.active(self.config, round) if not events.lost(self.config, round, k)
            ]
            assert delivered == expected
            downs.append(down)
            previous = target
            if round == restart_after:
                self.restart(round, target)
        return downs

    def weights(self) -> np.ndarray:
        return self.coordinator._desk.learner.parameters().vector


def refers(message: bytes | None) -> bool:
    if message is None:
        return False
    sections = unpack(message, len(message)).sections
    return "base" in (split(sections["responses"]) if "responses" in sections else sections)


UNRELIABLE = {"participation": 0.67, "dropout": 0.1, "message_loss": 0.1}


@functools.cache
def unreliable(delta: str) -> tuple[Federation, list[bytes | None]]:
    federation = Federation(UNRELIABLE, delta=delta)
    with tempfile.TemporaryDirectory() as folder:
        return federation, federation.run(Path(folder))


def test_what_is_learnt_is_the_same_without() -> None:
    """Coding against references loses nothing, whoever takes part and whatever is lost, and is smaller."""
    (one, referring), (other, plain) = unreliable("both"), unreliable("none")
    assert np.array_equal(one.weights(), other.weights())
    assert not any(refers(down) for down in plain)
    for down, whole in zip(referring, plain, strict=True):
        assert len(down or b"") < len(whole or b"") if refers(down) else down == whole


@pytest.mark.parametrize(
    "settings",
    [{"quantiser": "top_k", "top": 4, "levels": [63, 255]}, {"prototypes": {"weight": 1}}],
    ids=["tails and growing levels", "mixtures"],
)
def test_all_kinds_of_answers_can_be_referred_to(tmp_path: Path, settings: dict[str, Any]) -> None:
    federation = Federation({}, delta="both", **settings)
    downs = federation.run(tmp_path / "both", rounds=3)
    plain = Federation({}, delta="none", **settings)
    plain.run(tmp_path / "none", rounds=3)
    assert np.array_equal(federation.weights(), plain.weights())
    # Round 1 has no broadcast, so the first that can be referred to is that of round 2.
    assert [refers(down) for down in downs] == [False, False, True]


def test_a_resumed_run_sends_the_same_bytes(tmp_path: Path) -> None:
    _, whole = unreliable("both")
    assert Federation(UNRELIABLE, delta="both").run(tmp_path, restart_after=3) == whole


def test_who_missed_a_broadcast_makes_it_whole() -> None:
    """Against a simulation of who heard what, participant by participant."""
    federation, downs = unreliable("both")
    config, had = federation.config, {k: set() for k in range(3)}
    expected = []
    for round in range(1, ROUNDS + 1):
        expected.append(round > 2 and all(round - 1 in had[k] for k in events.asked(config, round)))
        for k in events.active(config, round):
            if not events.lost(config, round, k):
                had[k].add(round)
    assert [refers(down) for down in downs] == expected
    assert len(set(expected[2:])) == 2  # else the seed shows one case only


def told(samples: list[int], count: int) -> Responses:
    size = len(samples)
    counts = np.tile(np.array([count, 9 - count], np.int32), size)
    ids = np.tile(np.array([0, 1], np.int32), size)
    return Responses(np.array(samples), 1, 3, 9, np.arange(size + 1) * 2, ids, counts)


def test_the_newest_answer_about_each_sample_is_kept() -> None:
    memory: dict[str, np.ndarray] = {}
    assert cache.held(memory, 1) is None
    for round, samples in ((2, [1, 4, 7]), (3, [0, 4]), (5, [7, 9])):
        cache.note(memory, told(samples, round), round)
    held = cache.held(memory, 1)
    assert held is not None
    assert held.samples.tolist() == [0, 1, 4, 7, 9]
    assert held.counts[::2].tolist() == [3, 2, 3, 5, 5]
    assert held.offsets.tolist() == [0, 2, 4, 6, 8, 10]
    assert memory["told.rounds"].tolist() == [3, 2, 3, 5, 5]


def test_only_what_all_acknowledged_is_referred_to() -> None:
    memory: dict[str, np.ndarray] = {}
    acknowledged = {2: [0, 1, 2], 3: [0, 2], 5: [1]}
    for round, samples in ((2, [1, 4, 7]), (3, [0, 4]), (5, [7, 9])):
        cache.note(memory, told(samples, round), round)
        assert cache.common(memory, 1, [0, 1, 2]) is None or round > 2
        cache.acknowledge(memory, round, acknowledged[round], 3)
    for asked, samples in (([0, 1, 2], [1]), ([0, 2], [0, 1, 4]), ([1], [1, 7, 9]), ([0], [0, 1, 4])):
        common = cache.common(memory, 1, asked)
        assert common is not None
        assert common.samples.tolist() == samples
    cache.note(memory, told([1], 6), 6)
    assert cache.common(memory, 1, [0, 1, 2]) is None

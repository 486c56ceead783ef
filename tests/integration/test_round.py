"""What a round hands to whoever runs its parts."""

import shutil
from pathlib import Path

import pytest
import ray

import fedsim
from fedsim import contender, simulation
from fedsim.config import RunConfig
from fedsim.executor import InProcess
from fedsim.runtime.executor import OnRay


class Notes(InProcess):
    """Remembers what every round says of the next one, and who then worked in it."""

    def __init__(self) -> None:
        super().__init__()
        self.said, self.did = {}, {}

    def step(self, task, following=None):
        self.did[task.contender, task.round] = list(task.participants)
        if following is not None:
            self.said[following.contender, following.round] = list(following.participants)
        return super().step(task, following)


@pytest.fixture(scope="module")
def notes(configs, tmp_path_factory):
    events = {"participants.participation": 0.6, "participants.dropout": 0.3, "rounds": 5}
    folder = tmp_path_factory.mktemp("notes") / "run"
    runner = Notes()
    simulation.run(fedsim.load(configs["digits"], output=str(folder), **events), executor=runner)
    return runner


def test_who_keeps_nothing_may_begin_before_the_round_before_is_known_to_be_done(notes):
    # After a round in which nobody works there is no one to go on.
    ahead = {(m, r): who for (m, r), who in notes.did.items() if m == "fedavg" and (m, r - 1) in notes.did}
    assert {key: who for key, who in notes.said.items() if key[0] == "fedavg"} == ahead
    assert len(set(map(tuple, ahead.values()))) > 1, "everybody was there in every round"


def test_who_goes_on_from_files_waits_for_them(notes):
    assert {contender for contender, _ in notes.did} > {"fedavg"}
    assert {contender for contender, _ in notes.said} == {"fedavg"}


class Looks(OnRay):
    """Notes what was asked for already when the first host has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = {}

    def step(self, task, following=None):
        for batch in super().step(task, following):
            at = self._lanes[task.lane]
            self.asked.setdefault(task.round, (at.end is not None, bool(at.stepping)))
            yield batch


def test_a_rounds_end_and_the_next_steps_are_asked_for_before_hosts_answer(configs, clean_process, tmp_path):
    config = fedsim.load(configs["digits"], output=str(tmp_path / "run"), **{
        "runtime.participants_per_actor": 3, "runtime.parallel_methods": 1,
        "methods": [{"name": "fedavg", "specialists": "student"}],
    })  # fmt: skip
    simulation.run(config, executor=(looks := Looks()))
    assert looks.asked == {1: (True, True), 2: (True, True), 3: (True, False)}


class Killing(OnRay):
    """Its coordinator dies as a round begins, once."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when, self.opened = when, []

    def open(self, lane, round):
        self.opened.append(round)
        if round == self.when and self.opened.count(round) == 1:
            ray.kill(self._lanes[lane].coordinator)
        return super().open(lane, round)


@pytest.mark.parametrize("hosts", ["few", "many"])
def test_rounds_since_the_last_checkpoint_are_run_again_where_a_coordinator_dies(
    hosts, configs, clean_process, assert_same_results, monkeypatch, tmp_path
):
    monkeypatch.setattr(contender, "APART_S", 1e6)
    each = {"runtime.participants_per_actor": {"few": 3, "many": 1}[hosts], "runtime.parallel_methods": 1}
    method = {"rounds": 8, "methods": [{"name": "fedavg", "specialists": "student"}]}
    config = fedsim.load(configs["digits"], output=str(tmp_path / "run"), **each, **method)
    killed = simulation.run(config, executor=(killing := Killing(6)))
    assert killing.opened == [1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 7, 8]
    whole = fedsim.load(configs["digits"], output=str(tmp_path / "whole"), **method)
    assert_same_results(killed.folder, simulation.run(whole, executor=InProcess()).folder)


class Peeks(OnRay):
    """Counts the files in shared memory as each round ends."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def close(self, lane, round, target):
        closing = super().close(lane, round, target)
        self.folder = Path(self._shared)
        self.seen.append(len([path for path in self.folder.iterdir() if not path.name.startswith(".")]))
        return closing


def of_shared(output: Path, **more) -> RunConfig:
    """FedAvg of models that are large enough for shared memory."""
    return fedsim.load({
        "rounds": 5,
        "data": {"source": "synthetic", "image_size": 28, "max_examples": 200},
        "participants": {
            "count": 6, "models": ["mlp"], "training": {"steps": 1}, "partition": {"kind": "iid"},
        },
        "student": {"model": "mlp"},
        "evaluation": {"participants": "never"},
        "methods": [{"name": "fedavg", "specialists": "student"}],
        "output": str(output),
    }, **more)  # fmt: skip


@pytest.mark.parametrize("hosts", ["few", "many"])
def test_weights_go_through_shared_memory_and_leave_nothing_there(
    hosts, clean_process, assert_same_results, tmp_path
):
    """Each host and the coordinator has two files, used in turn."""
    each = {"runtime.participants_per_actor": {"few": 3, "many": 1}[hosts]}
    ran = simulation.run(of_shared(tmp_path / "run", **each), executor=(peeks := Peeks()))
    assert peeks.seen[-1] == {"few": 6, "many": 2}[hosts]  # alone on its host, one sends its message itself
    assert not peeks.folder.exists()
    whole = simulation.run(of_shared(tmp_path / "whole"), executor=InProcess())
    assert_same_results(ran.folder, whole.folder)


class Loses(Peeks):
    """A host dies in every round."""

    def open(self, lane, round):
        ray.kill(self._hosts[round % 2])
        return super().open(lane, round)


def test_shared_memory_of_the_dead_is_given_back(clean_process, assert_same_results, tmp_path):
    ran = simulation.run(
        of_shared(tmp_path / "run", **{"runtime.participants_per_actor": 3}), executor=(loses := Loses())
    )
    assert len(loses.seen) == 5 and max(loses.seen) <= 6
    whole = simulation.run(of_shared(tmp_path / "whole"), executor=InProcess())
    assert_same_results(ran.folder, whole.folder)


class Sweeps(OnRay):
    """Removes what is in shared memory before the participants of a round have read it, once."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = []

    def _sent(self, task):
        self.sent.append(task.round)
        if self.sent == [1, 2]:
            ray.get(task.opening.payload)
            shutil.rmtree(self._shared)
        return super()._sent(task)


@pytest.mark.parametrize("hosts", ["few", "many"])
def test_where_shared_memory_is_emptied_a_round_is_repeated(
    hosts, clean_process, assert_same_results, tmp_path
):
    """As by systemd, of what belongs to a user who logs out."""
    each = {"runtime.participants_per_actor": {"few": 3, "many": 1}[hosts]}
    ran = simulation.run(of_shared(tmp_path / "run", **each), executor=(sweeps := Sweeps()))
    assert sweeps.sent.count(2) == 2
    whole = simulation.run(of_shared(tmp_path / "whole"), executor=InProcess())
    assert_same_results(ran.folder, whole.folder)

"""Rounds that take no time share a checkpoint; whoever dies between two goes back to the first, and nobody
sees a difference in the tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedsim
from fedsim import contender, simulation
from fedsim.config import RunConfig
from fedsim.coordinator import Coordinator
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError, CoordinatorLostError, RunError
from fedsim.executor import InProcess
from fedsim.progress import Quiet
from fedsim.types import Closing

ROUNDS = 6
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg", "specialists": "student"},
    "four bits": {"name": "fedavg", "specialists": "student", "bits": 4},  # it remembers the public start
    "readout": {"name": "federated_distillation", "readout": {}, "levels": 60},
    "centralized": {"name": "centralized"},
}


def config(folder: Path, method: dict[str, Any]) -> RunConfig:
    training = {"steps": 1, "batch_size": 8}
    return fedsim.load(
        {
            "rounds": ROUNDS,
            "output": str(folder),
            "data": {"source": "digits", "max_examples": 200},
            "participants": {"count": 3, "models": ["mlp"], "training": training},
            "student": {"model": "mlp", "training": training},
            "methods": [method],
        }
    )


class Losing(InProcess):
    """Its coordinator is lost at the end of some rounds; another is put in its place.

    losses: round → how often.   opened: the rounds in their order.
    """

    def __init__(self, losses: dict[int, int] | None = None, error: type[Exception] = CoordinatorLostError):
        super().__init__()
        self.losses, self.error, self.opened = dict(losses or {}), error, list[int]()

    def open(self, lane: int, round: int):
        self.opened.append(round)
        return super().open(lane, round)

    def close(self, lane: int, round: int, target: AnyPath | None) -> Closing:
        if self.losses.get(round):
            self.losses[round] -= 1
            raise self.error(f"lost in round {round}")
        return super().close(lane, round, target)

    def revive(self, lane: int) -> None:
        old = self._coordinator
        old._release()
        self._coordinator = Coordinator(self._world, old.public, old.starts, tests=old._tests)


@pytest.fixture(autouse=True)
def as_if_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is."""
    monkeypatch.setattr(contender, "APART_S", 1e6)


@pytest.fixture
def same(tmp_path: Path) -> Callable[..., list[int]]:
    """`same(method, executor)`: the rounds that made checkpoints; the tables are an undisturbed run's."""

    def run(method: dict[str, Any], executor: InProcess, resume: bool = False) -> list[int]:
        whole = simulation.run(config(tmp_path / "whole", method), executor=InProcess())
        mine = simulation.run(config(tmp_path / "run", method), executor=executor, resume=resume)
        for table in ("rounds", "participants", "messages", "sections", "measures"):
            one, other = (
                getattr(r, table).drop(columns=["wall_s", "peak_memory_mib"], errors="ignore")
                for r in (mine, whole)
            )
            pd.testing.assert_frame_equal(one, other, check_exact=True, obj=table)
        return checkpoints(tmp_path / "run")

    return run


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(file.stem.split("-")[1]) for file in folder.glob("checkpoints/*/round-*.json"))


def keeps(method: dict[str, Any]) -> bool:
    return method["name"] == "federated_distillation"


@pytest.mark.parametrize("name", METHODS)
def test_quick_rounds_share_a_checkpoint_where_participants_keep_nothing(name: str, same, tmp_path: Path):
    made = same(METHODS[name], InProcess())
    assert made == ([0, 1, 2, 3, 4, 5, 6] if keeps(METHODS[name]) else [0, 1, 6])
    states = [path.name for path in (tmp_path / "run" / "checkpoints").glob("*/round-*") if path.is_dir()]
    assert states == ["round-0006"]


def test_rounds_that_take_longer_have_one_each(same, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contender, "APART_S", 0.0)
    assert same(METHODS["fedavg"], InProcess()) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", METHODS)
def test_a_lost_coordinator_costs_the_rounds_since_the_last_checkpoint(name: str, same):
    executor = Losing({4: 1})
    made = same(METHODS[name], executor)
    if keeps(METHODS[name]):
        assert executor.opened == [1, 2, 3, 4, 4, 5, 6]
    else:
        assert executor.opened == [1, 2, 3, 4, 2, 3, 4, 5, 6]
        assert made == [0, 1, 2, 3, 4, 6], "until what was lost is done, nothing is lost twice"


def test_two_coordinators_may_be_lost_in_a_round(same):
    executor = Losing({1: 2, 4: 2, 6: 1})
    same(METHODS["four bits"], executor)
    assert executor.opened == [1, 1, 1, 2, 3, 4, 2, 3, 4, 4, 5, 6, 5, 6]


def test_three_are_too_many(tmp_path: Path):
    with pytest.raises(RunError, match=r"fedavg, round 4: 3 coordinators died in it \(lost in round 4\)"):
        simulation.run(config(tmp_path / "run", METHODS["fedavg"]), executor=Losing({4: 3}))
    assert checkpoints(tmp_path / "run") == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["fedavg", "four bits"])
def test_a_run_that_died_between_two_checkpoints_goes_on_at_the_first(name: str, same, tmp_path: Path):
    """It leaves half a state of a round at which the resumed run makes no checkpoint."""
    died = Losing({6: 1}, error=RuntimeError)
    with pytest.raises(RuntimeError, match="lost in round 6"):
        simulation.run(config(tmp_path / "run", METHODS[name]), executor=died)
    assert checkpoints(tmp_path / "run") == [0, 1]
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    (folder / "round-0003.partial").mkdir()
    again = Losing()
    assert same(METHODS[name], again, resume=True) == [0, 1, 2, 6]
    assert again.opened == [2, 3, 4, 5, 6]
    assert not list(folder.glob("*.partial"))


class Spoils(Losing):
    """Its coordinator is lost in the export, some times."""

    def export(self, lane: int, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        super().export(lane, folder, card, tokenizer)
        (Path(folder) / "README.md").unlink()
        if self.losses.get(-1):
            self.losses[-1] -= 1
            raise self.error("lost in the export")
        super().export(lane, folder, card, tokenizer)


def test_a_coordinator_that_is_lost_in_the_export_is_replaced(tmp_path: Path):
    method = METHODS["readout"]
    ran = simulation.run(config(tmp_path / "run", method), executor=Spoils({-1: 2}))
    whole = simulation.run(config(tmp_path / "whole", method), executor=InProcess())
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (ran.student / name).read_bytes() == (whole.student / name).read_bytes(), name
    with pytest.raises(CoordinatorLostError, match="lost in the export"):
        simulation.run(config(tmp_path / "other", method), executor=Spoils({-1: 3}))
    assert fedsim.run(config(tmp_path / "other", method), resume=True).student.is_dir()


class Told(Quiet):
    """Notes the last checkpoint whenever it is told of a round."""

    def __init__(self, folder: Path, stops: bool) -> None:
        self.folder, self.stops, self.seen = folder, stops, list[tuple[int, int]]()

    def round(self, row: dict[str, Any], rounds: int) -> None:
        self.seen.append((row["round"], checkpoints(self.folder)[-1]))


@pytest.mark.parametrize("stops", [False, True])
def test_who_may_stop_a_run_is_told_of_a_round_before_later_ones_are_saved(tmp_path: Path, stops: bool):
    told = Told(tmp_path / "run", stops)
    simulation.run(config(tmp_path / "run", METHODS["fedavg"]), executor=InProcess(), progress=told)
    apart = [(r, r) for r in range(1, ROUNDS + 1)]
    assert told.seen == (apart if stops else [(1, 1), *((r, ROUNDS) for r, _ in apart[1:])])


def test_what_is_wrong_with_a_later_contender_costs_none_that_has_finished(tmp_path: Path):
    def of(folder: str, limit: float, *methods: dict[str, Any]) -> RunConfig:
        tree = config(tmp_path / folder, methods[0]).model_dump(mode="json")
        more = {"methods": list(methods), "runtime.message_limit_mib": limit}
        return fedsim.load(tree, **{"student.model": "mlp-wide"}, **more)

    both = {"name": "federated_distillation"}, METHODS["fedavg"]
    refused = "runtime.message_limit_mib: 0.1 is not valid; expected at least 1: messages of fedavg need it"
    with pytest.raises(ConfigError, match=refused):
        simulation.run(of("run", 0.1, *both), executor=InProcess())
    assert checkpoints(tmp_path / "run") == list(range(ROUNDS + 1))
    again = Losing()
    simulation.run(of("run", 1, *both), executor=again, resume=True)
    assert again.opened == list(range(1, ROUNDS + 1)), "of the second alone"
    with pytest.raises(ConfigError, match=refused):
        simulation.run(of("alone", 0.1, both[1]), executor=InProcess())
    assert not (tmp_path / "alone").exists(), "nothing is lost with it"

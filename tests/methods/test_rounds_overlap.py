"""A round ends alike whether the next one was opened before or not: with Ray it is, without it isn't."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsim.types import Closing

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg", "specialists": "student"},
    "eight bits": {"name": "fedavg", "specialists": "student", "bits": 8},
    "distillation": {"name": "federated_distillation", "levels": 60, "delta": "both"},
    "cfd": {"name": "cfd"},
    "readout": {"name": "federated_distillation", "levels": 60, "readout": {}},
}


def ends(play, method: dict[str, Any], folder: Path, early: bool) -> tuple[list[Closing], dict[str, bytes]]:
    """What two rounds are said to be, and all that was saved of them."""
    run, closings = play(method), []
    message = run.coordinator.open(1)
    for round in (1, 2):
        down = message.data if message else None
        _, up = run.host.step(run.contender, round, list(run.shards), down, None, None)
        run.coordinator.receive(list(run.shards), up)
        run.coordinator.learn(round)
        if early:
            message = run.coordinator.open(round + 1)
        target = folder / str(round)
        target.mkdir(parents=True)
        closings.append(replace(run.coordinator.close(round, target), peak_memory_mib=0.0))
        if not early:
            message = run.coordinator.open(round + 1)
    return closings, {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("name", METHODS)
def test_the_next_round_may_be_opened_before_this_one_is_closed(name: str, play, tmp_path: Path):
    late, kept = ends(play, METHODS[name], tmp_path / "late", early=False)
    soon, saved = ends(play, METHODS[name], tmp_path / "soon", early=True)
    assert repr(soon) == repr(late)  # NaN is equal to itself there
    assert saved == kept and len(kept) >= 2

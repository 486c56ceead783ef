"""How far each trial of a sweep is, from what lies in the sweep's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from fedsim import results
from fedsim.disk import folders
from fedsim.disk.checkpoints import last_round
from fedsim.disk.storage import AnyPath
from fedsim.sweeps.trials import Trial

Status = Literal["finished", "stopped", "failed", "unfinished"]

_ATTACKS = "attacks.parquet"  # the last that an attack writes


@dataclass(frozen=True)
class State:
    """How far a trial is; `stopped` by the scheduler, `failed` for good, and why."""

    status: Status
    reason: str = ""


def finished(trial: Trial) -> bool:
    """Whether nothing is left to do: the run has ended, and the attack on it where there is to be one."""
    folder = trial.config.folder
    return folders.finished(folder) and (not trial.attacked or (folder / _ATTACKS).exists())


def state(trial: Trial) -> State:
    """How far a trial is, from what lies in the sweep's folder."""
    if finished(trial):
        return State("finished")
    try:
        return State(**json.loads(_mark(trial).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return State("unfinished")


def rounds(trial: Trial) -> tuple[int, int]:
    """Rounds of all contenders of a trial: how many are finished, of how many."""
    checkpoints, methods = trial.config.folder / "checkpoints", trial.config.methods
    done = (last_round(checkpoints / method.contender) for method in methods)
    return sum(max(0, round) for round in done), trial.config.rounds * len(methods)


def mark(trial: Trial, state: State) -> None:
    """Remember of a trial what its own folder doesn't tell."""
    _mark(trial).parent.mkdir(parents=True, exist_ok=True)
    results.write_json(_mark(trial), vars(state))


def score(trial: Trial) -> results.Row | None:
    """The summary's row of the contender that is compared; None where there is none yet."""
    rows = summary(trial)
    names = (trial.contender, f"{trial.contender}_mean")  # single institutions have a row for the mean
    return next((row for row in rows if row["contender"] in names and row["score"] is not None), None)


def attacked(trial: Trial) -> dict[str, float]:
    """Target → the largest AUC that an attack on it had; empty where nobody attacked."""
    path = trial.config.folder / _ATTACKS
    best: dict[str, float] = {}
    for row in results.rows(path) if path.exists() else []:
        best[row["target"]] = max(row["auc"], best.get(row["target"], 0.0))
    return best


def taken_in(trial: Trial) -> float | None:
    """How often a backdoor's trigger works on the student at the end, 0 … 1; None without a backdoor, or
    before the contender has finished a round."""
    adversary, path = trial.config.participants.adversary, trial.config.folder / "rounds.parquet"
    if adversary is None or adversary.kind != "backdoor" or not path.exists():
        return None
    rows = [row for row in results.rows(path) if row["method"] == trial.contender]
    return float(max(rows, key=lambda row: row["round"])["attack_success"]) if rows else None


def summary(trial: Trial) -> list[results.Row]:
    """The rows of a trial's summary; none yet where it isn't finished."""
    path = trial.config.folder / "summary.json"
    rows: list[results.Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def _mark(trial: Trial) -> AnyPath:
    # Not in the trial's own folder: a run begins in an empty one.
    return trial.config.folder.parent.parent / "states" / f"{trial.name}.json"

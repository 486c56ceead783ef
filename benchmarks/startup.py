"""From the command to the first training step, as a user feels it: a cold start, Ray included."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.processes import ROUND, Command
from benchmarks.rounds import WORKLOADS, config

RUNS = 5
LIMITS = {"cnn 50 × 106k": 5.0, "decoder 20 × 0.5M": 8.0}


def main() -> None:
    """Print a row per workload."""
    print(f"\n{'from the command to the first step, s':<40}{'median':>8}{'limit':>7}   all")
    for name, limit in LIMITS.items():
        seconds = sorted(_first_step(name) for _ in range(RUNS))
        middle = statistics.median(seconds)
        print(f"{name:<40}{middle:>8.2f}{limit:>7.1f}   {' '.join(f'{s:.2f}' for s in seconds)}", flush=True)


def _first_step(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        settings = config(WORKLOADS[name], str(output)).model_copy(update={"rounds": 1})
        ended = 0.0
        for at, line in Command(settings, output).lines():
            if ROUND.search(line):
                ended = at
        rounds = pd.read_parquet(output / "rounds.parquet")
        return ended - float(rounds.loc[rounds["round"] == 1, "wall_s"].iloc[0])

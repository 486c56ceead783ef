"""What a run holds in memory (PSS of all its processes), and whether that grows with the rounds."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.processes import ROUND, Command
from benchmarks.rounds import WORKLOADS, Workload, config
from fedsim.config import RunConfig
from fedsim.loading import validate

ROUNDS = 200
MORE = 5
"""Rounds after the last that is looked at: a run that ends writes its report."""


def main() -> None:
    """Print a row per workload: MiB at an early and at the last round."""
    print(f"\n{'memory, MiB (PSS)':<34}{'round':>7}{'total':>8}{'growth':>8}{'limit':>7}   of which")
    work = replace(WORKLOADS["mlp 500 × 51k"], participants=1000, rounds=ROUNDS + MORE)
    _measure("1,000 × 51k, FedAvg", 2048, lambda output: config(work, output), (20, ROUNDS))
    _measure("200 × 0.9M, own specialists, Adam", 4096, _specialists, (2, 4))


def _measure(name: str, limit: int, settings: Any, at: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = Command(settings(f"{folder}/run"), Path(folder) / "run")
        first = 0.0
        for _, line in command.lines():
            found = ROUND.search(line)
            if found is None or int(found[1]) not in at:
                continue
            held = command.memory()
            total = sum(held.values()) - held.get("Ray's own", 0.0)
            first = first or total
            parts = ", ".join(f"{kind} {mib:.0f}" for kind, mib in sorted(held.items()))
            growth = f"{total / first - 1:+.1%}"
            print(f"{name:<34}{found[1]:>7}{total:>8.0f}{growth:>8}{limit:>7}   {parts}", flush=True)


def _specialists(output: str) -> RunConfig:
    """200 institutions that each keep a specialist of 0.9M parameters and its AdamW state."""
    base = config(Workload(200, "mlp-wide", 1, rounds=4 + MORE, side=29), output).model_dump(mode="json")
    training = {"steps": 1, "batch_size": 10, "augment": False}
    base["participants"]["training"] = base["student"]["training"] = training
    base["student"]["model"] = "mlp"
    base["methods"] = [{"name": "federated_distillation"}]
    base["runtime"]["resident_mib"] = 1024
    return validate(base)

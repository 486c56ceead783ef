"""What a round of FedAvg costs, against the same work as a bare PyTorch loop on one and two processes.

Whole runs, as a user starts them: actors, coded messages, checks, checkpoints and tables included. A
round's time is from one finished round to the next. A shared machine is now faster and now slower, so the two
take turns: what is printed are medians of the turns, the ratio with its range.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from typing import Any

import fedsim
from benchmarks import bare
from fedsim import simulation
from fedsim.config import RunConfig
from fedsim.progress import Quiet
from fedsim.results import Row

PER_PARTICIPANT = 20
TURNS = 3
SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0,
    "gradient_clip": None,
}


@dataclass(frozen=True)
class Workload:
    """limit: seconds that a round may take on two cores; None where only the ratio counts."""

    participants: int
    model: str
    steps: int
    limit: float | None = None
    side: int = 28
    batch: int = 10
    rounds: int = 30
    text: bool = False


WORKLOADS = {
    "echo 8 × 66 KB": Workload(8, "mlp", 0, 0.020, side=16),
    "echo 100 × 1.1 MB": Workload(100, "mlp-wide", 0, 0.5, side=16),
    "messages 50 × 106k": Workload(50, "cnn", 0, 0.12),
    "messages 500 × 106k": Workload(500, "cnn", 0, 0.20),
    "mlp 100 × 51k": Workload(100, "mlp", 2, 0.12),
    "mlp 500 × 51k": Workload(500, "mlp", 2, 0.6, rounds=12),
    "mlp 2000 × 51k": Workload(2000, "mlp", 2, rounds=6),
    "mlp 100 × 814k": Workload(100, "mlp-wide", 2, 0.5),
    "cnn 50 × 106k": Workload(50, "cnn", 20, rounds=6),
    "decoder 20 × 0.5M": Workload(20, "pythia-tiny", 5, rounds=6, text=True, batch=16),
}


class Stopwatch(Quiet):
    """Notes what rounds took, each from the end of the one before."""

    def __init__(self) -> None:
        self.took: list[float] = []

    def round(self, row: Row, rounds: int) -> None:
        self.took.append(row["wall_s"])

    def seconds(self) -> float:
        """Median, without the first round."""
        return statistics.median(self.took[1:])


def config(work: Workload, output: str) -> RunConfig:
    private = work.participants * PER_PARTICIPANT
    images: dict[str, Any] = {
        "source": "synthetic",
        "image_size": work.side,
        "max_examples": private + 400,
        "split": {
            "test": 200 / (private + 400),
            "validation": 100 / (private + 400),
            "proxy": 100 / (private + 400),
        },
    }
    text: dict[str, Any] = {
        "source": "stdlib",
        "max_examples": 1200,
        "split": {"test": 0.02, "validation": 0.02, "proxy": 0.2},
    }
    training = {**SGD, "steps": work.steps, "batch_size": work.batch, "augment": False}
    return fedsim.load(
        {
            "rounds": work.rounds,
            "output": output,
            "data": text if work.text else images,
            "participants": {
                "count": work.participants,
                "models": [work.model],
                "partition": {"kind": "iid", "test_fraction": 0.0},
                "training": training,
            },
            "student": {"model": work.model, "training": training},
            "evaluation": {"every": 1000, "participants": "never"},
            "methods": ["fedavg"],
        }
    )


def measured(work: Workload) -> tuple[float, float, float]:
    """Median seconds of a round in one turn: ours, and the bare loop's on two processes and on one."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        settings = config(work, f"{folder}/run")
        simulation.run(settings, progress=watch)
    return watch.seconds(), bare.seconds(settings, 2, work.rounds), bare.seconds(settings, 1, work.rounds)


def main(*names: str) -> None:
    """Print a row per workload."""
    print(f"\n{'a round of FedAvg, s':<22}{'fedsim':>9}{'limit':>8}{'bare ×2':>9}{'bare ×1':>9}{'ratio':>8}")
    for name, work in WORKLOADS.items():
        if names and not any(part in name for part in names):
            continue
        turns = [measured(work) for _ in range(TURNS)]
        ours, two, one = (statistics.median(column) for column in zip(*turns, strict=True))
        ratios = sorted(ours / two for ours, two, _ in turns)
        limit = "" if work.limit is None else f"{work.limit:.3f}"
        print(
            f"{name:<22}{ours:>9.4f}{limit:>8}{two:>9.4f}{one:>9.4f}{statistics.median(ratios):>8.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )

"""A round's work, as another framework is given it. Imports torch only: fedsim is not in its environment."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True)
class Job:
    """What a runner reads from its command line, as JSON: see `benchmarks.rounds.Workload`."""

    participants: int
    model: str
    steps: int
    side: int
    batch: int
    rounds: int
    rate: float
    examples: int

    @classmethod
    def read(cls) -> Job:
        return cls(**json.loads(sys.argv[1]))

    def network(self) -> nn.Sequential:
        """The network of the same name in `fedsim.models.presets`."""
        torch.manual_seed(0)
        pixels = self.side**2
        if self.model == "cnn":
            pixels = 32 * (self.side // 4) ** 2
            layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            width = 64
        else:
            layers, width = [], {"mlp": 64, "mlp-wide": 1024}[self.model]
        dense = (nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, CLASSES))
        return nn.Sequential(*layers, *dense)

    def shard(self, participant: int) -> tuple[Tensor, Tensor]:
        """A participant's examples and labels."""
        draws = torch.Generator().manual_seed(participant)
        pixels = torch.rand(self.examples, 1, self.side, self.side, generator=draws) * 2 - 1
        return pixels, torch.randint(CLASSES, (self.examples,), generator=draws)


class Stopwatch:
    """Prints the median time from one round's end to the next, as JSON, without the first round."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def note(self) -> None:
        self.ends.append(time.perf_counter())

    def show(self) -> None:
        gaps = [after - before for before, after in zip(self.ends[:-1], self.ends[1:], strict=True)]
        print(json.dumps({"seconds": statistics.median(gaps)}), flush=True)

"""From the command to the first training step, as a user feels it: a cold start, Ray included.

The floor is Ray alone, started as a run starts it: as many empty actors, which import what ours must.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import Command
from benchmarks.rounds import WORKLOADS, config

RUNS = 5
LIMITS = {"cnn 50 × 106k": 5.0, "decoder 20 × 0.5M": 8.0}
CODE = {
    "cnn 50 × 106k": "torch",
    "decoder 20 × 0.5M": "torch, transformers.models.gpt_neox.modeling_gpt_neox",
}
ALONE = """
import ray, tempfile
ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False, logging_level="ERROR",
         _node_ip_address="127.0.0.1", _temp_dir=tempfile.mkdtemp())

class Empty:
    def ready(self):
        import CODE

print(len(ray.get([ray.remote(num_cpus=0)(Empty).remote().ready.remote() for _ in range(3)])), flush=True)
"""
"""Two hosts and a coordinator."""


def main() -> None:
    """Print a row per workload."""
    print(f"\n{'to the first step, s':<40}{'median':>8}{'limit':>7}{'Ray alone':>11}{'ratio':>7}  all")
    for name, limit in LIMITS.items():
        pairs = [(_first_step(name), _ray_alone(CODE[name])) for _ in range(RUNS)]
        ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
        seconds = " ".join(f"{pair[0]:.2f}" for pair in sorted(pairs))
        print(f"{name:<40}{ours:>8.2f}{limit:>7.1f}{floor:>11.2f}{ours / floor:>7.2f}  {seconds}", flush=True)


def _first_step(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        settings = config(WORKLOADS[name], str(output)).model_copy(update={"rounds": 1})
        lines = list(Command(settings, output).lines())
        # By then hosts have what they need, and are asked for their steps at once.
        return next(at for at, line in lines if line.rstrip().endswith("] running rounds"))


def _ray_alone(code: str) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", ALONE.replace("CODE", code)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - began

"""A round of FedAvg in other frameworks, beside ours and the bare loop, one after the other in one run.

Each has an environment of its own, made below `build/peers` the first time. They are given the work that
`rounds` has as images: the same networks, examples per participant, steps and batches. What they do besides
differs: ours encodes, checks and records every message, saves a checkpoint and writes tables in each round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks import rounds
from benchmarks.peers.workload import Job

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
PEERS = {"flower": ("flwr[simulation]==1.38.0",), "pfl": ("pfl[pytorch]==0.6.0",)}
START = {"flower": ["python"], "pfl": ["torchrun", "--standalone", "--nproc-per-node", "2"]}
PATIENCE_S = 900.0


def main(*names: str) -> None:
    """Print a row per workload.   names: parts of workloads' names; all that are of images without."""
    folders = {peer: _environment(peer) for peer in PEERS}
    print(
        f"\n{'a round of FedAvg, s':<22}{'fedsim':>9}{'bare ×2':>9}{''.join(f'{peer:>9}' for peer in PEERS)}"
    )
    for name, work in rounds.WORKLOADS.items():
        if work.text or (names and not any(part in name for part in names)):
            continue
        ours, two, _ = rounds.measured(work)
        theirs = [_seconds(peer, folders[peer], job(work)) for peer in PEERS]
        print(f"{name:<22}{ours:>9.4f}{two:>9.4f}{_row(theirs)}", flush=True)


def job(work: rounds.Workload) -> Job:
    """What another framework is given of a workload."""
    return Job(
        work.participants, work.model, work.steps, work.side, work.batch, work.rounds,
        rounds.SGD["learning_rate"], rounds.PER_PARTICIPANT,
    )  # fmt: skip


def _row(seconds: Iterable[float | None]) -> str:
    return "".join(f"{'failed':>9}" if spent is None else f"{spent:>9.4f}" for spent in seconds)


def _environment(peer: str) -> Path:
    """The folder of a peer's environment."""
    folder = Path("build/peers") / peer
    ready = folder / ".ready"
    if not ready.exists():
        print(f"installing {', '.join(PEERS[peer])} below {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, *PEERS[peer], TORCH]).returncode:
            raise SystemExit(f"benchmarks: {peer} can't be installed here; what pip says is above")
        ready.touch()
    return folder.absolute()


def _seconds(peer: str, folder: Path, job: Job) -> float | None:
    """Median seconds of a round; None where it failed, what it said is shown."""
    program, *options = START[peer]
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        found = subprocess.run(
            [str(folder / "bin" / program), *options, str(HERE / f"run_{peer}.py"), json.dumps(asdict(job))],
            env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": scratch, "FLWR_TELEMETRY_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    for line in reversed(found.stdout.splitlines()):
        if line.startswith("{"):
            return float(json.loads(line)["seconds"])
    print(found.stderr[-2000:], file=sys.stderr)
    return None

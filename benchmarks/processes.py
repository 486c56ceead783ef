"""A run as a command of its own, watched from outside: what its processes hold, when its lines come."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fedsim.config import RunConfig

ROUND = re.compile(r"round (\d+)/\d+")


@dataclass
class Command:
    """`fedsim run` on a config. `lines` yields what it says, with the seconds since it was started."""

    config: RunConfig
    output: Path
    began: float = field(init=False)

    def __post_init__(self) -> None:
        tree = self.config.model_dump(mode="json", exclude_defaults=True)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
            yaml.safe_dump({**tree, "output": str(self.output)}, file)
        self._file = Path(file.name)
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fedsim", "run", file.name],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def lines(self) -> Iterator[tuple[float, str]]:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            yield time.perf_counter() - self.began, line
        if self._process.wait():
            raise SystemExit(f"fedsim run ended with {self._process.returncode}: {line}")
        self._file.unlink()

    def memory(self) -> dict[str, float]:
        """MiB by kind of process: shared pages are divided among those that share them (PSS)."""
        held: dict[str, float] = {}
        for pid in descendants(self._process.pid):
            try:
                name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
                pss = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            except OSError:
                continue  # it has just ended
            if pid == self._process.pid:
                kind = "driver"
            elif name.startswith("ray::"):
                kind = name.removeprefix("ray::").split(".")[0].split("_")[0]
            else:
                kind = "Ray's own"
            held[kind] = held.get(kind, 0.0) + (int(pss[1]) / 1024 if pss else 0.0)
        return held


def descendants(pid: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found

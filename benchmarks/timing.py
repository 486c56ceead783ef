"""Medians of CPU time over alternating runs, so that drift of the machine hits both sides alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(*jobs: Callable[[], object], runs: int = 7) -> list[float]:
    """Median CPU-seconds of each job: one warm-up, then `runs` rounds in turn."""
    times: list[list[float]] = [[] for _ in jobs]
    for job in jobs:
        job()
    for _ in range(runs):
        for job, spent in zip(jobs, times, strict=True):
            began = time.process_time()
            job()
            spent.append(time.process_time() - began)
    return [statistics.median(spent) for spent in times]

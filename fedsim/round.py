"""One round, eight steps. Neither Ray nor DeepSpeed is known here: the executor runs the parts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fedsim.executor import Executor, Opening
from fedsim.methods.base import Method
from fedsim.network import Clock, Timing
from fedsim.results import Row
from fedsim.types import Closing, Report


@dataclass(frozen=True)
class Records:
    """The rows that one round adds to the tables (columns: `results.TABLES`)."""

    rounds: list[Row]
    participants: list[Row]
    messages: list[Row]


@dataclass(frozen=True)
class Place:
    """Where a round stands: its contender's method and lane, and its folders of state."""

    method: Method
    lane: int
    previous: Path | None
    target: Path


def run_round(executor: Executor, place: Place, round: int, clock: Clock) -> Records:
    """Run round `round` (1-based) of a contender."""
    method, began = place.method, time.perf_counter()

    # 1. Plan: who takes part.
    asked = list(range(method.world.config.participants.count)) if method.uses_participants else []

    # 2. Broadcast: one message, which goes down every link.
    opening = executor.open(place.lane, round) if method.trains_student else Opening()

    # 3. – 5. Specialise, express, encode and send: at the hosts, each at its own pace.
    reports: dict[int, Report] = {}
    if asked:
        for batch in executor.step(method.contender, round, asked, opening, place.previous, place.target):
            reports.update({report.participant: report for report in batch.reports})
            # 6. Decode, validate, pool: as messages arrive.
            if method.trains_student:
                executor.receive(place.lane, round, batch)

    # 7. – 8. Learn, evaluate, save.
    closing = executor.close(place.lane, round, place.target) if method.trains_student else Closing()

    ordered = [reports[k] for k in sorted(reports)]
    timings = {r.participant: clock.timing(r, opening.size) for r in ordered}
    return _records(method, round, opening, ordered, closing, timings, clock, time.perf_counter() - began)


def _records(
    method: Method,
    round: int,
    opening: Opening,
    reports: list[Report],
    closing: Closing,
    timings: dict[int, Timing],
    clock: Clock,
    wall_s: float,
) -> Records:
    common = {"method": method.contender, "seed": method.world.seed, "round": round}
    participants: list[Row] = []
    messages: list[Row] = []
    metric = method.world.metric
    for report in reports:
        who, timing = report.participant, timings[report.participant]
        status = closing.statuses.get(who, "ok")
        participants.append(
            {
                **common,
                "participant": who,
                "model": report.model,
                "examples": report.examples,
                "status": status,
                "metric": metric.name,
                "score": report.score,
                "loss": report.loss,
                "bytes_up": report.sent or 0,
                "bytes_down": opening.size or 0,
                "down_s": timing.down_s,
                "compute_s": timing.compute_s,
                "up_s": timing.up_s,
                "flops": report.flops,
                "wall_s": report.wall_s,
            }
        )
        sides = (("down", opening.size, opening.kind), ("up", report.sent, report.kind))
        for direction, size, kind in sides:
            if size is not None:
                messages.append(
                    {
                        **common,
                        "participant": who,
                        "direction": direction,
                        "kind": kind,
                        "bytes": size,
                        "status": "delivered" if direction == "down" or status == "ok" else status,
                    }
                )
    alone = [report.score for report in reports]
    summary = {
        **common,
        "algorithm": method.world.contender(method.contender).name,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "score": closing.score if method.trains_student else sum(alone) / len(alone),
        "loss": closing.loss,
        "learn_loss": closing.learn_loss,
        "bytes_up": sum(row["bytes_up"] for row in participants),
        "bytes_down": sum(row["bytes_down"] for row in participants),
        "virtual_s": clock.round_s(timings.values(), closing.flops),
        "wall_s": wall_s,
        "flops_participants": sum(report.flops for report in reports),
        "flops_coordinator": closing.flops,
        "planned": len(reports),
        "delivered": list(closing.statuses.values()).count("ok"),
        "peak_memory_mib": closing.peak_memory_mib,
    }
    return Records([summary], participants, messages)

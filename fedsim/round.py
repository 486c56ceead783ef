"""One round, eight steps. Neither Ray nor DeepSpeed is known here: the executor runs the parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from fedsim import energy, events
from fedsim.disk.storage import AnyPath
from fedsim.executor import Executor, Opening, Task
from fedsim.methods.base import Method
from fedsim.network import Clock, Timing
from fedsim.results import STAGES, TERMS, Row
from fedsim.types import Closing, Report


@dataclass(frozen=True)
class Records:
    """The rows that one round adds to the tables (columns: `results.TABLES`)."""

    round: Row
    participants: list[Row]
    messages: list[Row]
    sections: list[Row] = field(default_factory=list)
    measures: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a round stands: its contender's method and lane, and the folders of the state before it and of
    its own, None where there is none."""

    method: Method
    lane: int
    previous: AnyPath | None
    target: AnyPath | None
    begun: float = field(default_factory=time.perf_counter)
    """When its round began: where there was one before it, as that ended, for hosts go on at once."""


def run_round(executor: Executor, place: Place, round: int, clock: Clock) -> Callable[[], Records]:
    """Run round `round` (1-based) of a contender; what is returned makes its rows, for which the next round
    need not wait."""
    method = place.method

    # 1. Plan: who takes part, and who will fail to.
    asked = events.asked(method.exposed, round) if method.uses_participants else []
    active = [k for k in asked if not events.dropped(method.exposed, round, k)]
    fates = {k: "dropped" for k in asked if k not in active}
    following = _following(place, round)

    # 2. Broadcast: one message, which goes down every link.
    opening = executor.open(place.lane, round) if method.coordinates else Opening()

    # 3. – 5. Specialise, express, encode and send: at the hosts, each at its own pace.
    reports: dict[int, Report] = {}
    if active:
        task = Task(method.contender, place.lane, round, active, opening, place.previous, place.target)
        for batch in executor.step(task, following):
            for report in batch.reports:
                reports[report.participant] = report
                if report.fate:
                    fates[report.participant] = report.fate
            # 6. Decode, validate, pool: as messages arrive.
            if method.coordinates:
                executor.receive(place.lane, batch)

    # 7. – 8. Learn, evaluate, save.
    closing = Closing()
    if method.coordinates:
        closing = executor.close(place.lane, round, place.target)
    fates.update(closing.statuses)
    wall_s = time.perf_counter() - place.begun
    return partial(_records, method, round, asked, reports, fates, closing, clock, wall_s)


def _following(place: Place, round: int) -> Task | None:
    """The next round's work of participants who need none of this one's files for it; None where they do."""
    method, config, after = place.method, place.method.world.config, round + 1
    if method.keeps_specialists or not method.uses_participants or after > config.rounds:
        return None
    active = events.active(config, after)
    return Task(method.contender, place.lane, after, active, Opening(), None, None) if active else None


def _records(
    method: Method,
    round: int,
    asked: list[int],
    reports: dict[int, Report],
    fates: dict[int, str],
    closing: Closing,
    clock: Clock,
    wall_s: float,
) -> Records:
    timings = {who: clock.timing(who, r.flops, closing.broadcast.size, r.sent) for who, r in reports.items()}
    common = {"method": method.contender, "seed": method.world.seed, "round": round}
    participants: list[Row] = []
    messages: list[Row] = []
    metric, broadcast = method.world.metric, closing.broadcast
    for who in asked:
        status = fates.get(who, "ok")
        report = reports.get(who) or _absent(method, who)
        timing = timings.get(who) or Timing(0.0, 0.0, 0.0)
        downloaded = broadcast.size if who in reports else None
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
                "epsilon": report.epsilon,
                "bytes_up": report.sent or 0,
                "bytes_down": downloaded or 0,
                "down_s": timing.down_s,
                "compute_s": timing.compute_s,
                "up_s": timing.up_s,
                "flops": report.flops,
                "wall_s": report.wall_s,
                "local_score": report.local_score,
                "peak_memory_mib": report.peak_memory_mib,
            }
        )
        sides = (("down", downloaded, broadcast.kind), ("up", report.sent, report.kind))
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
    alone = [
        reports[k].score for k in sorted(reports) if reports[k].fate != "diverged"
    ]  # a mean must not depend on who came first
    missing = any(fate in events.FATES for fate in fates.values())
    summary = {
        **common,
        "algorithm": method.world.contender(method.contender).name,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "student": method.trains_student,
        "score": closing.score if method.trains_student else _mean(alone),
        "loss": closing.loss if method.trains_student else float("nan"),
        "attack_success": closing.attack_success,
        "learn_loss": closing.learn_loss,
        **{f"learn_{term}": closing.terms.get(term, float("nan")) for term in TERMS},
        "bytes_up": sum(row["bytes_up"] for row in participants),
        "bytes_down": sum(row["bytes_down"] for row in participants),
        "virtual_s": clock.round_s(timings.values(), closing.flops, missing),
        "wall_s": wall_s,
        "flops_participants": sum(reports[k].flops for k in sorted(reports)),
        "flops_coordinator": closing.flops,
        "planned": len(asked),
        "delivered": list(closing.statuses.values()).count("ok"),
        "peak_memory_mib": closing.peak_memory_mib,
    }
    received = [(broadcast.kind, broadcast.sections)] * (len(reports) if broadcast.size is not None else 0)
    sent = [(reports[k].kind, reports[k].sections) for k in sorted(reports) if reports[k].sent is not None]
    sections = [{**common, "direction": "down", **row} for row in _anatomy(received)]
    sections += [{**common, "direction": "up", **row} for row in _anatomy(sent)]
    joules = energy.counted(method.world.config, {k: r.flops for k, r in reports.items()}, closing.flops)
    measured = measures(common, closing.measures | _stages(reports) | joules)
    return Records(summary, participants, messages, sections, measured)


def measures(common: Row, values: Mapping[str, float]) -> list[Row]:
    """The rows of what else was measured in a round.   common: what all rows of it hold."""
    return [{**common, "name": name, "value": value} for name, value in values.items()]


def _stages(reports: Mapping[int, Report]) -> dict[str, float]:
    """The bytes of all messages to the coordinator after each stage of the codec."""
    total: Counter[str] = Counter()
    for report in reports.values():
        total.update(report.stages)
    return {f"wire/up/{stage}": float(total[stage]) for stage in STAGES if stage in total}


def _anatomy(messages: Iterable[tuple[str, dict[str, int]]]) -> list[Row]:
    """The bytes of many messages, by kind and section."""
    count: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for kind, sections in messages:
        for section, size in sections.items():
            count[kind, section] += 1
            total[kind, section] += size
    return [
        {"kind": kind, "section": section, "messages": count[kind, section], "bytes": size}
        for (kind, section), size in total.items()
    ]


def _absent(method: Method, participant: int) -> Report:
    """The report of one that dropped out: it did nothing."""
    world = method.world
    return Report(
        participant=participant,
        model=world.model_of(method.contender, participant),
        examples=world.sizes[participant],
        flops=0.0,
        wall_s=0.0,
        sent=None,
        sections={},
        stages={},
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

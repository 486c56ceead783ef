"""What a round adds to the tables: its row, and the others' column by column, for there may be thousands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from fedsim import energy, events, results
from fedsim.methods.base import Method
from fedsim.network import Clock
from fedsim.results import STAGES, TERMS, Row, Table
from fedsim.types import Broadcast, Closing, Report


@dataclass(frozen=True)
class Records:
    """The rows that one round adds to the tables (columns: `results.TABLES`)."""

    round: Row
    participants: Table
    messages: Table
    sections: Table
    measures: Table


def of_start(method: Method, closing: Closing) -> Records:
    """Round 0: the student as everybody finds it, before any knowledge moved."""
    world = method.world
    row: Row = {column: 0 for column in results.ROUNDS}
    row.update(
        method=method.contender,
        algorithm=world.contender(method.contender).name,
        seed=world.seed,
        metric=world.metric.name,
        higher_is_better=world.metric.higher_is_better,
        student=True,
        score=closing.score,
        loss=closing.loss,
        attack_success=float("nan"),
        learn_loss=float("nan"),
    )
    return Records(row, {}, {}, {}, _measures(_common(method, 0), closing.measures))


def of_round(
    method: Method,
    round: int,
    asked: list[int],
    reports: Mapping[int, Report],
    fates: Mapping[int, str],
    closing: Closing,
    clock: Clock,
    wall_s: float,
) -> Records:
    """A round, of those who were asked and of the messages that were sent.

    asked: ascending.   fates: what became of participants with whom not all is well.
    """
    common, metric, broadcast = _common(method, round), method.world.metric, closing.broadcast
    told = [reports.get(who) or _absent(method, who) for who in asked]
    of = _table({}, told, *Report._fields)
    statuses = [fates.get(who, "ok") for who in asked]
    received = [broadcast.size if who in reports else None for who in asked]
    timings = [*map(clock.timing, asked, of["flops"], received, of["sent"])]
    participants: Table = {
        **_alike(common, len(asked)),
        "participant": asked,
        "model": of["model"],
        "examples": of["examples"],
        "status": statuses,
        "metric": [metric.name] * len(asked),
        "score": of["score"],
        "loss": of["loss"],
        "epsilon": of["epsilon"],
        "bytes_up": [size or 0 for size in of["sent"]],
        "bytes_down": [size or 0 for size in received],
        "down_s": [timing.down_s for timing in timings],
        "compute_s": [timing.compute_s for timing in timings],
        "up_s": [timing.up_s for timing in timings],
        "flops": of["flops"],
        "wall_s": of["wall_s"],
        "local_score": of["local_score"],
        "peak_memory_mib": of["peak_memory_mib"],
    }
    alone = [report.score for report in told if report.fate != "diverged" and report.participant in reports]
    missing = any(fate in (*events.FATES, "diverged") for fate in fates.values())
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
        "bytes_up": sum(participants["bytes_up"]),
        "bytes_down": sum(participants["bytes_down"]),
        "virtual_s": clock.round_s(timings, closing.flops, missing),
        "wall_s": wall_s,
        "flops_participants": sum(of["flops"]),  # in the order of participants, not in that of arrival
        "flops_coordinator": closing.flops,
        "planned": len(asked),
        "delivered": list(closing.statuses.values()).count("ok"),
        "peak_memory_mib": closing.peak_memory_mib,
    }
    joules = energy.counted(method.world.config, {k: r.flops for k, r in reports.items()}, closing.flops)
    return Records(
        summary,
        participants,
        _messages(common, told, statuses, received, broadcast.kind),
        _sections(common, broadcast, len(reports), told),
        _measures(common, closing.measures | _stages(told) | joules),
    )


def _common(method: Method, round: int) -> Row:
    return {"method": method.contender, "seed": method.world.seed, "round": round}


def _alike(common: Row, rows: int) -> dict[str, list[Any]]:
    """Columns of what all rows have in common."""
    return {column: [value] * rows for column, value in common.items()}


def _messages(
    common: Row, told: list[Report], statuses: list[str], received: list[int | None], kind: str
) -> Table:
    """A message in each direction where there was one.   kind: of those that came down."""
    found: list[tuple[int, str, str, int, str]] = []
    for report, status, down in zip(told, statuses, received, strict=True):
        if down is not None:
            found.append((report.participant, "down", kind, down, "delivered"))
        if report.sent is not None:
            end = "delivered" if status == "ok" else status
            found.append((report.participant, "up", report.kind, report.sent, end))
    return _table(common, found, "participant", "direction", "kind", "bytes", "status")


def _sections(common: Row, broadcast: Broadcast, receivers: int, told: list[Report]) -> Table:
    """The bytes of a round's messages by direction, kind and section."""
    down = (
        [(broadcast.kind, broadcast.sections, receivers)] if broadcast.size is not None and receivers else []
    )
    up = Counter((r.kind, tuple(r.sections.items())) for r in told if r.sent is not None)
    found = [("down", *row) for row in _anatomy(down)]
    found += [("up", *row) for row in _anatomy((kind, dict(each), n) for (kind, each), n in up.items())]
    return _table(common, found, "direction", "kind", "section", "messages", "bytes")


def _anatomy(
    messages: Iterable[tuple[str, Mapping[str, int], int]],
) -> list[tuple[str, str, int, int]]:
    """Kind, section, how many messages have it, and their bytes.   messages: each with how many are alike."""
    count: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for kind, sections, alike in messages:
        for section, size in sections.items():
            count[kind, section] += alike
            total[kind, section] += alike * size
    return [(*of, count[of], size) for of, size in total.items()]


def _stages(told: list[Report]) -> dict[str, float]:
    """The bytes of all messages to the coordinator after each stage of the codec."""
    alike = Counter(tuple(report.stages.items()) for report in told)
    total: Counter[str] = Counter()
    for stages, times in alike.items():
        for stage, size in stages:
            total[stage] += times * size
    return {f"wire/up/{stage}": float(total[stage]) for stage in STAGES if stage in total}


def _measures(common: Row, values: Mapping[str, float]) -> Table:
    """What else was measured in a round."""
    return _table(common, values.items(), "name", "value")


def _table(common: Row, rows: Collection[tuple[Any, ...]], *columns: str) -> Table:
    """Rows, each what all have in common and a tuple of the rest."""
    rest: Iterable[tuple[Any, ...]] = zip(*rows, strict=True) if rows else repeat((), len(columns))
    return {**_alike(common, len(rows)), **dict(zip(columns, rest, strict=True))}


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

"""The tables of a run, their columns, and how they reach the disk.

A run's folder describes itself:

    config.yaml           the resolved configuration
    manifest.json         versions, seed, data fingerprints, hardware, models, status
    rounds.parquet        one row per method and round
    participants.parquet  one row per method, round and participant
    messages.parquet      one row per message, both directions; bytes = length of what was sent
    sections.parquet      what the messages consist of, summed over those of a round
    measures.parquet      what else is measured of the student: terms of its loss, its generated text
    partition.parquet     how the private examples are spread
    summary.json          one row per contender
    checkpoints/          the last finished round of every method, for `--resume`
    student/              the exported student, loadable by transformers
    report.html           the same as pictures

`TABLES` is the one place where columns are documented; the writers and the analysis read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedsim.disk import storage
from fedsim.disk.storage import AnyPath

Row = dict[str, Any]
Table = Mapping[str, Sequence[Any]]
"""Rows column by column, all of one length."""
Columns = dict[str, tuple[pa.DataType, str]]

_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()

TERMS = ("response", "task", "feature", "prototype")
"""The terms of a student's training loss that have a column each."""

STAGES = ("float32", "quantised", "listed", "sent")
"""The stages of the codec whose bytes are measured, in their order; see `fedsim.wire.stages`."""

SCHEMA_VERSION = 1
"""Written into every table's metadata; raised when a column changes its meaning."""

ROUNDS: Columns = {
    "method": (_TEXT, "contender: the method's label in the config"),
    "algorithm": (_TEXT, "the method's registered name"),
    "seed": (_INT, "seed of the run"),
    "round": (_INT, "1 … rounds; 0 is the shared public start, before any knowledge moved"),
    "metric": (_TEXT, "`perplexity` (per token) or `accuracy`, on the global test set"),
    "higher_is_better": (_BOOL, "direction of the metric"),
    "student": (_BOOL, "the method trains a student; without one, institutions are judged by themselves"),
    "score": (_FLOAT, "of the student, or the mean of the institutions; NaN if not evaluated"),
    "loss": (_FLOAT, "mean task loss on the global test set, nats; NaN if not evaluated"),
    "attack_success": (
        _FLOAT,
        "share of test images with a backdoor's trigger that the student falls for; NaN without one",
    ),
    "learn_loss": (_FLOAT, "mean training loss of the student in this round; NaN if it did not train"),
    **{
        f"learn_{term}": (_FLOAT, f"of that the {term} term, with its weight; NaN without it")
        for term in TERMS
    },
    "bytes_up": (_INT, "bytes of all messages participant → coordinator in this round"),
    "bytes_down": (_INT, "bytes of all messages coordinator → participant in this round"),
    "virtual_s": (_FLOAT, "seconds this round takes on the virtual clock (compute and transfer)"),
    "wall_s": (_FLOAT, "seconds this round took on the machine that simulated it"),
    "flops_participants": (_FLOAT, "counted floating-point operations of all participants"),
    "flops_coordinator": (_FLOAT, "counted floating-point operations of the coordinator"),
    "planned": (_INT, "participants asked in this round"),
    "delivered": (_INT, "participants whose knowledge was pooled"),
    "peak_memory_mib": (_FLOAT, "largest resident memory of the coordinator's process so far, MiB"),
}

PARTICIPANTS: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "round": (_INT, "1 … rounds"),
    "participant": (_INT, "0, 1, 2, …"),
    "model": (_TEXT, "architecture of its specialist (preset or path)"),
    "examples": (_INT, "private training examples"),
    "status": (_TEXT, "`ok`; `dropped`, `diverged`; or its message is `lost`, `late`, `rejected:<reason>`"),
    "metric": (_TEXT, "as in the rounds table"),
    "score": (_FLOAT, "its specialist on the global test set; NaN if not evaluated in this round"),
    "loss": (_FLOAT, "mean training loss on its own shard in this round, nats"),
    "epsilon": (_FLOAT, "ε at `participants.privacy.delta` that its training spent so far; NaN: no privacy"),
    "bytes_up": (_INT, "bytes it sent"),
    "bytes_down": (_INT, "bytes it was sent"),
    "down_s": (_FLOAT, "virtual seconds of its download"),
    "compute_s": (_FLOAT, "virtual seconds of its computation: flops ÷ its device's speed"),
    "up_s": (_FLOAT, "virtual seconds of its upload"),
    "flops": (_FLOAT, "counted floating-point operations"),
    "wall_s": (_FLOAT, "measured seconds of its step"),
    "local_score": (
        _FLOAT,
        "its specialist on its own test data, when `score` is evaluated; NaN without any",
    ),
    "peak_memory_mib": (_FLOAT, "largest resident memory of its host's process so far, MiB"),
}

MESSAGES: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "round": (_INT, "1 … rounds"),
    "participant": (_INT, "the participant at the other end from the coordinator"),
    "direction": (_TEXT, "`up` or `down`"),
    "kind": (_TEXT, "knowledge inside, by its name in `fedsim.wire.container.KINDS`"),
    "bytes": (_INT, "length of the message, headers and tables included"),
    "status": (_TEXT, "`delivered`, `lost`, `late` or `rejected:<reason>`"),
}

SECTIONS: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "round": (_INT, "1 … rounds"),
    "direction": (_TEXT, "`up` or `down`"),
    "kind": (_TEXT, "knowledge inside, as in the messages table"),
    "section": (_TEXT, "part of a message, as `fedsim.wire.messages` lists them; `header` with its table"),
    "messages": (_INT, "messages of this round that have the section"),
    "bytes": (_INT, "bytes of the section in all of them"),
}

MEASURES: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "round": (_INT, "0 … rounds"),
    "name": (
        _TEXT,
        "`train/<term>`: mean of a weighted term of the student's loss that has no column, nats; "
        "`train/reverse_kl`: to the pooled teacher, per token of the student's own sequences; "
        "`train/single_step_kl_before` and `_after` a round's training: the same, by tokens drawn beside; "
        "`privacy/epsilon`: of a whole participant, that pooling spent so far (`pate`), `privacy/answered`: "
        "questions of this round that had an answer, 0 … 1; "
        "`readout/accepted`: whether the last layer could be made of what everybody sent, 0 or 1; "
        "`train/excess_error_<l>`, `test/<measure>`: see `evaluation.generated`; `group/<name>`, "
        "`local/<participant>`: see `evaluation.breakdown`; after the last round `retrieval/<measure>`, "
        "`few_shot/<n>_shot`, `task/<name>/<n>_shot/<measure>`, `instructions/<measure>`: see "
        "`evaluation.exams`; "
        "`energy/<measure>`: see `fedsim.energy`; `wire/up/<stage>`: bytes of what participants sent after a "
        "stage of the codec, see `fedsim.wire.stages`",
    ),
    "value": (_FLOAT, "its value"),
}

PARTITION: Columns = {
    "participant": (_INT, "0, 1, 2, …"),
    "group": (_TEXT, "domain (text) or label (images)"),
    "examples": (_INT, "private documents or images of that group"),
}

TABLES: dict[str, Columns] = {
    "rounds": ROUNDS,
    "participants": PARTICIPANTS,
    "messages": MESSAGES,
    "sections": SECTIONS,
    "measures": MEASURES,
    "partition": PARTITION,
}

LATER = {"participants": ("local_score", "peak_memory_mib")}
"""Columns that tables of this schema version didn't have at first: NaN where a folder is without them."""

ATTACKS: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "target": (_TEXT, "`student`, `responses`, `specialists`, a readout's `sums` and `sum_of_all`"),
    "attack": (_TEXT, "`loss`, `min_k` (Min-K%++), `lira_online`, `lira_offline`, `leverage` (of sums)"),
    "members": (_INT, "examples in question that were trained on"),
    "others": (_INT, "examples in question that were not"),
    "shadows": (_INT, "shadow runs that the attack could learn from"),
    "epsilon": (_FLOAT, "the most that a participant's training spent; NaN: no privacy"),
    **{
        f"{column}{end}": (_FLOAT, doc + about)
        for column, doc in (
            ("auc", "chance that a member is believed one rather than another example"),
            ("tpr_at_0001", "members found where at most 0.1 % of the others are taken for some"),
            ("tpr_at_001", "the same with 1 %"),
        )
        for end, about in (("", ""), ("_low", ": 95 % interval"), ("_high", ": 95 % interval"))
    },
}
"""Written by `fedsim attack` beside a run's own tables, as `attacks.parquet`."""

LABELS: Columns = {
    "method": (_TEXT, "contender"),
    "seed": (_INT, "seed of the run"),
    "participant": (_INT, "0, 1, 2, …"),
    "estimate": (_TEXT, "of its labels: `answers`, `ratio`, or `guess` without looking at its own answers"),
    "error": (_FLOAT, "total variation distance to the labels of its training examples, 0 … 1"),
    "correlation": (_FLOAT, "of estimate and truth over the labels, −1 … 1"),
    "epsilon": (_FLOAT, "as in the attacks table"),
}
"""Written by `fedsim attack` as `labels.parquet`, where answers are about labels."""

SUMMARY: dict[str, str] = {
    "contender": "a method's label; without a student <label>_best and <label>_mean of the institutions",
    "metric": "`perplexity` or `accuracy`",
    "higher_is_better": "direction of the metric",
    "score": "after the last round",
    "ratio_to_centralized": "score ÷ centralised score, turned over where lower is better; null without it",
    "bytes_up": "bytes of all messages to the coordinator, all rounds",
    "bytes_down": "bytes of all messages from the coordinator, all rounds",
    "virtual_s": "virtual seconds, all rounds",
    "wall_s": "measured seconds, all rounds",
}


def columns(name: str) -> Columns:
    """The columns of a table: one of TABLES, `attacks` or `labels`."""
    return (TABLES | {"attacks": ATTACKS, "labels": LABELS})[name]


def schema(name: str) -> pa.Schema:
    """The columns of a table, each with its description."""
    return pa.schema(
        [pa.field(c, kind, metadata={"doc": doc}) for c, (kind, doc) in columns(name).items()],
        metadata={"fedsim_table": name, "fedsim_schema": str(SCHEMA_VERSION)},
    )


def write_table(path: AnyPath, name: str, rows: Iterable[Row]) -> None:
    """Replace a Parquet file in one step: a reader sees the old table or the new one."""
    table = pa.table(_arrays(name, by_column(list(rows))), schema=schema(name))
    storage.write(path, lambda part: pq.write_table(table, part))


def write_part(path: AnyPath, tables: Mapping[str, Table]) -> None:
    """What rounds add to several tables, as one Arrow file: a column for each table, in which its rows
    are a list of structures. A Parquet file for each would take four times as long to write and to read."""
    lists = []
    for name, table in tables.items():
        structure = pa.StructArray.from_arrays(_arrays(name, table), names=list(columns(name)))
        lists.append(pa.ListArray.from_arrays(pa.array([0, len(structure)], pa.int32()), structure))
    batch = pa.record_batch(lists, names=list(tables))

    def write(part: Any) -> None:
        with pa.ipc.new_file(str(part), batch.schema) as file:
            file.write_batch(batch)

    storage.write(path, write)


def read_part(path: AnyPath) -> dict[str, pa.Table]:
    """The tables in what `write_part` wrote."""
    lists = pa.ipc.open_file(path.read_bytes()).read_all()
    tables = {}
    for name, column in zip(lists.column_names, lists.columns, strict=True):
        table = pa.Table.from_struct_array(column.combine_chunks().flatten())
        missing = columns(name).keys() - set(table.column_names)
        for later in missing:  # by what an older version wrote
            table = table.append_column(later, pa.nulls(len(table), columns(name)[later][0]))
        tables[name] = pa.table(table.select(list(columns(name))).columns, schema=schema(name))
    return tables


def merge_parts(folder: AnyPath, names: Sequence[str], parts: Iterable[AnyPath]) -> None:
    """Replace the Parquet files of some tables by their parts, in their order; only one part at a time is in
    memory."""
    with storage.writing([folder / f"{name}.parquet" for name in names]) as targets, ExitStack() as open_:
        writers = {
            name: open_.enter_context(pq.ParquetWriter(target, schema(name)))
            for name, target in zip(names, targets, strict=True)
        }
        for part in parts:
            for name, table in read_part(part).items():
                writers[name].write_table(table)
    pa.default_memory_pool().release_unused()  # it would keep as much as the largest table took


def by_column(rows: Sequence[Row]) -> Table:
    """Rows column by column; None where a row lacks one."""
    return {column: [row.get(column) for row in rows] for column in dict.fromkeys(chain.from_iterable(rows))}


def joined(tables: Sequence[Table]) -> Table:
    """Tables of the same columns one below the other; those without rows may lack columns."""
    known = dict.fromkeys(chain.from_iterable(tables))
    return {column: [*chain.from_iterable(table.get(column, ()) for table in tables)] for column in known}


def _arrays(name: str, table: Table) -> list[pa.Array]:
    """A table's columns, null where it lacks one. Raises KeyError where it has more."""
    known = columns(name)
    if unknown := table.keys() - known.keys():
        raise KeyError(f"{name} has no column {sorted(unknown)}")
    length = len(next(iter(table.values()), ()))
    return [
        pa.array(table[column], kind) if column in table else pa.nulls(length, kind)
        for column, (kind, _) in known.items()
    ]


def rows(path: AnyPath) -> list[Row]:
    """The rows of a Parquet file."""
    with storage.reading(path) as source:
        table: list[Row] = pq.read_table(source).to_pylist()
    return table


def write_json(path: AnyPath, value: Any, indent: int | None = 2) -> None:
    """Replace a JSON file in one step; NaN becomes null, so that any reader can parse it.

    indent: None for what nobody reads: Python writes it ten times as fast.
    """
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False)
    storage.write(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))


def write_text(path: AnyPath, text: str) -> None:
    """Replace a text file in one step."""
    storage.write(path, lambda part: part.write_text(text, encoding="utf-8"))


def summarise(rounds: list[Row], participants: list[Row]) -> list[Row]:
    """One row per contender (see SUMMARY).

    participants: read for the methods without a student only: their institutions are the contenders.
    """
    rows: list[Row] = []
    for method in dict.fromkeys(row["method"] for row in rounds):
        mine = [row for row in rounds if row["method"] == method]
        total = {c: sum(row[c] for row in mine) for c in ("bytes_up", "bytes_down", "virtual_s", "wall_s")}
        facts = {c: mine[0][c] for c in ("metric", "higher_is_better")}
        if mine[0]["student"]:
            scored = [row for row in mine if _number(row["score"])]
            if scored:
                last = max(scored, key=lambda row: row["round"])
                rows.append({"contender": method, **facts, "score": last["score"], **total})
            continue
        # From the institutions themselves: one that diverged leaves the round's mean without a number, and in
        # a round not all may have been asked.
        institutions = [p for p in participants if p["method"] == method and _number(p["score"])]
        if not institutions:
            continue
        last = {p["participant"]: p["score"] for p in sorted(institutions, key=lambda p: p["round"])}
        alone = [last[who] for who in sorted(last)]
        best = max(alone) if facts["higher_is_better"] else min(alone)
        for name, score in (("best", best), ("mean", sum(alone) / len(alone))):
            rows.append({"contender": f"{method}_{name}", **facts, "score": score, **total})
    bound = _centralized(rounds, rows)
    for row in rows:
        row["ratio_to_centralized"] = ratio(row["score"], bound, row["higher_is_better"])
    return [{column: row[column] for column in SUMMARY} for row in rows]


def ratio(score: float, bound: float | None, higher_is_better: bool) -> float | None:
    """How much of the bound is reached: 1 is all of it, for either direction of the metric."""
    if bound is None or not score or not bound:
        return None
    return score / bound if higher_is_better else bound / score


def _centralized(rounds: list[Row], summary: list[Row]) -> float | None:
    names = {row["method"] for row in rounds if row["algorithm"] == "centralized"}
    return next((row["score"] for row in summary if row["contender"] in names), None)


def _number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value

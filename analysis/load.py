"""Read run folders into tidy tables, or say in one line what is wrong with a folder.

Columns are documented in `fedsim.results`; every table here has two more in front: `run`, the name of
the folder, and `setting`, which runs share that differ in their seed only (see `analysis.settings`). The
summary also has `algorithm`, the registered name behind a contender, `student`, whether it trains one,
and `seed`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import settings, style
from fedsim import results
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath, RemotePath
from fedsim.errors import FedsimError

READERS = 16
"""Folders read at the same time behind a URI, where it is waiting that takes the time."""
_METHODS = ["method", "algorithm", "student", "seed"]
SUMMARY = ("algorithm", "student", "seed", *results.SUMMARY)
"""Columns of the summary."""
_TOTALS = ("score", "ratio_to_centralized", "virtual_s", "wall_s")


class AnalysisError(FedsimError):
    """A folder can't be read as results; one line that names the folder and what is wrong."""


class NoDataError(AnalysisError):
    """A figure has nothing to draw; the reason is fit to be shown in its place."""


@dataclass(frozen=True)
class Run:
    """One folder, without its tables."""

    name: str
    folder: AnyPath
    config: str
    """Text of config.yaml; empty if absent."""
    manifest: dict[str, Any]
    """Versions, seed, data fingerprints, hardware; empty if absent."""
    missing: tuple[str, ...] = ()
    """Files that are not there; only ever filled by `load(…, strict=False)`."""


@dataclass(frozen=True)
class Tables:
    """The tables of one or many runs, one below the other."""

    runs: tuple[Run, ...]
    settings: pd.DataFrame
    """One row per run: its setting, the axes of its sweep, every field of its config."""
    rounds: pd.DataFrame
    participants: pd.DataFrame
    messages: pd.DataFrame
    sections: pd.DataFrame
    measures: pd.DataFrame
    partition: pd.DataFrame
    summary: pd.DataFrame
    trials: pd.DataFrame | None = None
    """Of sweeps: one row per trial, also of those that did not finish (`fedsim.sweeps.Outcome.table`)."""
    attacks: pd.DataFrame | None = None
    """`attacks.parquet` of the runs that were attacked."""


@dataclass(frozen=True)
class _Found:
    """What lies at the given paths: folders of runs, and the trials of sweeps."""

    folders: list[AnyPath]
    trials: list[pd.DataFrame]
    axes: dict[str, dict[str, Any]]
    """Folder of a trial → axis → value: two sweeps may call trials alike."""


def load(
    paths: str | AnyPath | Iterable[str | AnyPath],
    *,
    strict: bool = True,
    columns: Mapping[str, Iterable[str]] | None = None,
) -> Tables:
    """Load run folders and sweeps (their finished trials), by path or URI.

    columns: table → columns that are wanted, to load thousands of runs in less time and memory; a table
    that is not named is not read and empty. Tables are those of `fedsim.results.TABLES` and `summary`.

    A foreign folder and a table of another schema version are always an AnalysisError. So is a
    missing file, unless `strict=False`: then its table is empty and `Run.missing` names it, so that
    an unfinished run can be looked at. `rounds.parquet` is what makes a folder a run.
    """
    wanted = _wanted(columns)
    found = _find(paths)
    names = _names(found.folders)
    with ThreadPoolExecutor(_readers(found.folders)) as pool:
        reading = [
            pool.submit(_load_one, *it, wanted, strict) for it in zip(names, found.folders, strict=True)
        ]
        try:
            read = [future.result() for future in reading]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    runs = tuple(run for run, _ in read)
    axes = {run.name: found.axes.get(str(run.folder.resolve()), {}) for run in runs}
    table = settings.table(
        names, [run.config for run in runs], {run: values for run, values in axes.items() if values}
    )
    # Each table by itself, and let go of: the parts of all would be twice the memory.
    tables = {
        name: _stack(name, [parts.pop(name) for _, parts in read if name in parts], names, table["setting"])
        for name in (*results.TABLES, "summary")
    }
    trials = pd.concat(found.trials, ignore_index=True) if found.trials else None
    attacks = _attacks(runs, table["setting"]) if columns is None else None
    return Tables(runs, table, **tables, trials=trials, attacks=attacks)


def _attacks(runs: Iterable[Run], labels: Iterable[str]) -> pd.DataFrame | None:
    """What `fedsim attack` found, of the runs that it was called for."""
    found = []
    for run, setting in zip(runs, labels, strict=True):
        path = run.folder / "attacks.parquet"
        if path.exists():
            with storage.reading(path) as source:
                rows = pd.read_parquet(source)
            rows.insert(0, "setting", setting)
            rows.insert(0, "run", run.name)
            found.append(rows)
    return pd.concat(found, ignore_index=True) if found else None


def _readers(folders: Iterable[AnyPath]) -> int:
    remote = any(isinstance(folder, RemotePath) for folder in folders)
    return READERS if remote else min(os.cpu_count() or 1, 4)


def _wanted(columns: Mapping[str, Iterable[str]] | None) -> dict[str, list[str]]:
    """Table → columns to read, in their documented order."""
    known = {table: list(there) for table, there in results.TABLES.items()}
    known["summary"] = list(SUMMARY)
    if columns is None:
        return known
    wanted: dict[str, list[str]] = {}
    for table, some in columns.items():
        if table not in known:
            raise AnalysisError(f"no table {table}; expected one of {', '.join(known)}")
        asked = list(some)
        unknown = [column for column in asked if column not in known[table]]
        if unknown:
            raise AnalysisError(
                f"{table} has no column {unknown[0]}; expected some of {', '.join(known[table])}"
            )
        wanted[table] = [column for column in known[table] if column in asked]
    return wanted


def _load_one(
    name: str, folder: AnyPath, wanted: Mapping[str, list[str]], strict: bool
) -> tuple[Run, dict[str, pa.Table]]:
    if not folder.is_dir():
        raise AnalysisError(f"{folder}: no such folder; expected the folder of a run")
    there = {file.name for file in folder.iterdir()}
    if "rounds.parquet" not in there:
        raise AnalysisError(f"{folder}: not the folder of a run (it has no rounds.parquet)")
    files = [f"{table}.parquet" for table in results.TABLES]
    missing = tuple(f for f in (*files, "summary.json", "config.yaml", "manifest.json") if f not in there)
    if missing and strict:
        raise AnalysisError(f"{folder}: {missing[0]} is missing; the run is unfinished or damaged")
    plain = {table: columns for table, columns in wanted.items() if table != "summary"}
    if "summary" in wanted:  # the algorithms are told by the rounds alone
        plain["rounds"] = list(dict.fromkeys([*wanted.get("rounds", []), *_METHODS]))
    tables = {
        table: _table(folder, table, columns, f"{table}.parquet" in missing)
        for table, columns in plain.items()
    }
    if "summary" in wanted:
        tables["summary"] = _summary(folder, tables["rounds"], "summary.json" in missing)
    tables = {table: tables[table].select(columns) for table, columns in wanted.items()}
    run = Run(
        name=name,
        folder=folder,
        config="" if "config.yaml" in missing else (folder / "config.yaml").read_text(encoding="utf-8"),
        manifest={} if "manifest.json" in missing else _manifest(folder / "manifest.json"),
        missing=missing,
    )
    return run, tables


def _table(folder: AnyPath, table: str, columns: Iterable[str], missing: bool) -> pa.Table:
    """Some columns of a Parquet file that has all that `fedsim.results` documents."""
    kinds = {column: results.TABLES[table][column][0] for column in columns}
    texts = [column for column, kind in kinds.items() if kind == pa.string()]
    # As in the file: each text once, which keeps the parts of thousands of runs small.
    coded = pa.dictionary(pa.int32(), pa.string())
    plain = pa.schema([(column, coded if column in texts else kind) for column, kind in kinds.items()])
    if missing:
        return plain.empty_table()
    path = folder / f"{table}.parquet"
    options = {"read_dictionary": texts, "pre_buffer": isinstance(path, RemotePath)}
    try:
        with storage.reading(path) as source, pq.ParquetFile(source, **options) as file:
            written = file.schema_arrow  # made anew whenever it is asked for
            _check_schema(path, table, written)
            there = [name for name in plain.names if name in written.names]
            read, count = file.read(columns=there, use_threads=False), file.metadata.num_rows
            parts = [read[c.name] if c.name in there else pa.nulls(count, c.type) for c in plain]
            return pa.Table.from_arrays(parts, schema=plain)
    except KeyError:  # a text that is not there
        with storage.reading(path) as source:
            _check_schema(path, table, pq.read_schema(source))
        raise
    except (pa.ArrowException, OSError) as error:
        raise AnalysisError(f"{path}: not a readable Parquet file ({_line(error)})") from None


def _check_schema(path: AnyPath, table: str, schema: pa.Schema) -> None:
    metadata = schema.metadata or {}
    written = metadata.get(b"fedsim_schema", b"").decode()
    if metadata.get(b"fedsim_table", b"").decode() != table or not written.isdigit():
        raise AnalysisError(f"{path}: not a {table} table written by fedsim")
    if int(written) != results.SCHEMA_VERSION:
        age = "an older" if int(written) < results.SCHEMA_VERSION else "a newer"
        ours = results.SCHEMA_VERSION
        raise AnalysisError(f"{path}: written by {age} fedsim (schema {written}, this one reads {ours})")
    for column, (kind, _) in results.TABLES[table].items():
        if column not in schema.names:
            if column in results.LATER.get(table, ()):
                continue
            raise AnalysisError(f"{path}: column {column} is missing")
        found = schema.field(column).type
        if pa.types.is_dictionary(found):
            found = found.value_type
        if found != kind:
            raise AnalysisError(f"{path}: column {column} holds {found}; expected {kind}")


def _summary(folder: AnyPath, rounds: pa.Table, missing: bool) -> pa.Table:
    """summary.json, or the same rows computed from the tables where a run hasn't written it yet."""
    methods = _first_of_each(rounds.select(_METHODS), "method")
    path = folder / "summary.json"
    if missing:
        none = not (folder / "participants.parquet").exists()
        all_rounds = _table(folder, "rounds", results.ROUNDS, missing=False)
        participants = _table(folder, "participants", results.PARTICIPANTS, none)
        rows = results.summarise(all_rounds.to_pylist(), participants.to_pylist())
    else:
        rows = _json(path)
        ok = isinstance(rows, list) and all(
            isinstance(row, dict) and set(results.SUMMARY) <= set(row) for row in rows
        )
        if not ok:
            raise AnalysisError(f"{path}: expected a list of rows with {', '.join(results.SUMMARY)}")
    algorithms = dict(zip(methods["method"], methods["algorithm"], strict=True))
    alone = {m for m, student in zip(methods["method"], methods["student"], strict=True) if not student}
    algorithms |= {f"{m}_{part}": algorithms[m] for m in alone for part in style.PARTS}
    alone_rows = {f"{m}_{part}" for m in alone for part in style.PARTS}
    columns: dict[str, pa.Array] = {
        "algorithm": pa.array([algorithms.get(row["contender"], "") for row in rows], pa.string()),
        "student": pa.array([row["contender"] not in alone_rows for row in rows], pa.bool_()),
        "seed": pa.array(methods["seed"][:1] * len(rows), pa.int64()),
    }
    kinds = dict.fromkeys(results.SUMMARY, pa.string()) | dict.fromkeys(_TOTALS, pa.float64())
    kinds |= {"higher_is_better": pa.bool_(), "bytes_up": pa.int64(), "bytes_down": pa.int64()}
    try:
        columns |= {c: pa.array([row[c] for row in rows], kind) for c, kind in kinds.items()}
    except (pa.ArrowException, TypeError) as error:
        raise AnalysisError(f"{path}: a value of another kind than expected ({_line(error)})") from None
    return pa.table(columns)


def _first_of_each(rows: pa.Table, column: str) -> dict[str, list[Any]]:
    """The rows in which a text stands for the first time, by columns."""
    codes = rows[column].combine_chunks().indices.to_numpy()
    first: dict[str, list[Any]] = rows.take(np.sort(np.unique(codes, return_index=True)[1])).to_pydict()
    return first


def _manifest(path: AnyPath) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise AnalysisError(f"{path}: expected a JSON object")
    return value


def _json(path: AnyPath) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise AnalysisError(f"{path}: not readable JSON ({_line(error)})") from None


def _find(paths: str | AnyPath | Iterable[str | AnyPath]) -> _Found:
    several = [paths] if isinstance(paths, str | Path | RemotePath) else list(paths)
    if not several:
        raise AnalysisError("no run folder given")
    found = _Found([], [], {})
    for folder in (storage.locate(path, "report") for path in several):
        if (folder / "sweep.yaml").exists():
            trials = _finished_trials(folder, found)
            if not trials:
                raise AnalysisError(f"{folder}: a sweep without a finished trial")
            found.folders.extend(trials)
        else:
            found.folders.append(folder)
    return replace(found, folders=list({folder.resolve(): folder for folder in found.folders}.values()))


def _finished_trials(folder: AnyPath, found: _Found) -> list[AnyPath]:
    """The folders of a sweep's finished trials; its table of all and their axes are added to `found`."""
    path = folder / "trials.parquet"
    if not path.exists():  # it is still going on
        inside = folder / "trials"
        begun: list[AnyPath] = sorted(inside.iterdir(), key=lambda t: t.name) if inside.is_dir() else []
        ended = (trial for trial in begun if (trial / "manifest.json").exists())
        return [t for t in ended if _manifest(t / "manifest.json").get("status") == "finished"]
    try:
        with storage.reading(path) as source:
            trials = pd.read_parquet(source)
    except (pa.ArrowException, OSError) as error:
        raise AnalysisError(f"{path}: not a readable Parquet file ({_line(error)})") from None
    if not {"trial", "status", "reason", "score"} <= set(trials):
        raise AnalysisError(f"{path}: not the trials of a sweep written by fedsim")
    found.trials.append(trials)
    found.axes.update({
        str((folder / "trials" / trial).resolve()): values for trial, values in _axes(trials).items()
    })  # fmt: skip
    return [folder / "trials" / name for name in trials.loc[trials["status"] == "finished", "trial"]]


def _axes(trials: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Trial → axis → value."""
    columns = [str(c) for c in trials if str(c).startswith("axis.")]
    rows = trials[["trial", *columns]].to_dict("records")
    return {str(row["trial"]): {c.removeprefix("axis."): row[c] for c in columns} for row in rows}


def _names(folders: list[AnyPath]) -> list[str]:
    """The folder's own name, with its parent's in front where two would be called the same."""
    resolved = [folder.resolve() for folder in folders]
    counts = Counter(folder.name for folder in resolved)
    names = [
        folder.name if counts[folder.name] == 1 else f"{_above(folder)}/{folder.name}" for folder in resolved
    ]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise AnalysisError(f"two folders are called {doubled[0]}; rename one")
    return names


def _above(folder: AnyPath) -> str:
    """The folder above, or the sweep's that a trial is in."""
    parent = folder.parent
    return parent.parent.name if parent.name == "trials" else parent.name


def _stack(name: str, parts: list[pa.Table], names: list[str], labels: pd.Series[str]) -> pd.DataFrame:
    """One below the other, behind the names of their runs and settings; empty where none was asked for."""
    if not parts:
        return pd.DataFrame(columns=["run", "setting", *_wanted(None)[name]])
    whole = pa.concat_tables(parts)
    places = pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]))
    parts.clear()
    for column, texts in (("setting", list(labels)), ("run", names)):
        whole = whole.add_column(
            0, column, pa.DictionaryArray.from_arrays(places, pa.array(texts, pa.string()))
        )
    columns = {}
    while whole.num_columns:  # one by one: the texts written out are the larger part
        column = whole.column_names[0]
        values, whole = whole[column], whole.remove_column(0)
        written = values.cast(pa.large_string()) if pa.types.is_dictionary(values.type) else values
        series = written.to_pandas()
        if written.num_chunks == 1:  # Arrow's own memory, which can't be written to
            series = series.copy()
        columns[column] = series
    return pd.DataFrame(columns, copy=False)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

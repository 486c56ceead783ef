"""Read run folders into tidy tables, or say in one line what is wrong with a folder.

Columns are documented in `fedsim.results`; every table here has one more in front, `run`, the name
of the folder. The summary also has `algorithm`, the registered name behind a contender.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fedsim import results, storage
from fedsim.errors import FedsimError
from fedsim.storage import AnyPath, RemotePath


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
    rounds: pd.DataFrame
    participants: pd.DataFrame
    messages: pd.DataFrame
    partition: pd.DataFrame
    summary: pd.DataFrame


def load(paths: str | AnyPath | Iterable[str | AnyPath], *, strict: bool = True) -> Tables:
    """Load one run folder or many, by path or URI.

    A foreign folder and a table of another schema version are always an AnalysisError. So is a
    missing file, unless `strict=False`: then its table is empty and `Run.missing` names it, so that
    an unfinished run can be looked at. `rounds.parquet` is what makes a folder a run.
    """
    folders = _folders(paths)
    names = _names(folders)
    runs: list[Run] = []
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in (*results.TABLES, "summary")}
    for name, folder in zip(names, folders, strict=True):
        run, tables = _load_one(name, folder, strict)
        runs.append(run)
        for table, frame in tables.items():
            parts[table].append(frame)
    return Tables(tuple(runs), **{table: _stack(frames) for table, frames in parts.items()})


def _load_one(name: str, folder: AnyPath, strict: bool) -> tuple[Run, dict[str, pd.DataFrame]]:
    if not folder.is_dir():
        raise AnalysisError(f"{folder}: no such folder; expected the folder of a run")
    if not (folder / "rounds.parquet").exists():
        raise AnalysisError(f"{folder}: not the folder of a run (it has no rounds.parquet)")
    files = [f"{table}.parquet" for table in results.TABLES] + [
        "summary.json",
        "config.yaml",
        "manifest.json",
    ]
    missing = tuple(file for file in files if not (folder / file).exists())
    if missing and strict:
        raise AnalysisError(f"{folder}: {missing[0]} is missing; the run is unfinished or damaged")
    tables = {table: _table(folder, table) for table in results.TABLES}
    tables["summary"] = _summary(folder, tables)
    for frame in tables.values():
        frame.insert(0, "run", name)
    config = folder / "config.yaml"
    run = Run(
        name=name,
        folder=folder,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        manifest=_manifest(folder),
        missing=missing,
    )
    return run, tables


def _table(folder: AnyPath, table: str) -> pd.DataFrame:
    """One Parquet file, with exactly the columns that `fedsim.results` documents."""
    columns = results.TABLES[table]
    path = folder / f"{table}.parquet"
    if not path.exists():
        empty = pa.table({c: pa.array([], kind) for c, (kind, _) in columns.items()})
        return cast(pd.DataFrame, empty.to_pandas())
    try:
        with storage.reading(path) as source, pq.ParquetFile(source) as file:
            schema = file.schema_arrow
            _check_schema(path, table, schema)
            return cast(pd.DataFrame, file.read(columns=list(columns)).to_pandas())
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
            raise AnalysisError(f"{path}: column {column} is missing")
        if schema.field(column).type != kind:
            found = schema.field(column).type
            raise AnalysisError(f"{path}: column {column} holds {found}; expected {kind}")


def _summary(folder: AnyPath, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """summary.json, or the same rows computed from the tables where a run hasn't written it yet."""
    path = folder / "summary.json"
    rounds = tables["rounds"]
    if path.exists():
        rows = _json(path)
        ok = isinstance(rows, list) and all(
            isinstance(r, dict) and set(results.SUMMARY) <= set(r) for r in rows
        )
        if not ok:
            raise AnalysisError(f"{path}: expected a list of rows with {', '.join(results.SUMMARY)}")
    else:
        rows = results.summarise(_rows(rounds), _rows(tables["participants"]))
    frame = pd.DataFrame(rows, columns=list(results.SUMMARY))
    for column in ("score", "ratio_to_centralized", "virtual_s", "wall_s"):
        frame[column] = frame[column].astype("float64")
    algorithms = {str(m): str(a) for m, a in zip(rounds["method"], rounds["algorithm"], strict=True)}
    for method in rounds.loc[~rounds["student"], "method"].unique():
        algorithms |= {f"{method}_{which}": algorithms[method] for which in ("best", "mean")}
    frame.insert(0, "algorithm", [algorithms.get(str(c), "") for c in frame["contender"]])
    return frame


def _manifest(folder: AnyPath) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    value = _json(path)
    if not isinstance(value, dict):
        raise AnalysisError(f"{path}: expected a JSON object")
    return value


def _json(path: AnyPath) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise AnalysisError(f"{path}: not readable JSON ({_line(error)})") from None


def _folders(paths: str | AnyPath | Iterable[str | AnyPath]) -> list[AnyPath]:
    several = [paths] if isinstance(paths, str | Path | RemotePath) else list(paths)
    if not several:
        raise AnalysisError("no run folder given")
    located = [storage.locate(p, "report") for p in several]
    return list({folder.resolve(): folder for folder in located}.values())


def _names(folders: list[AnyPath]) -> list[str]:
    """The folder's own name, with its parent's in front where two would be called the same."""
    names = [f.resolve().name for f in folders]
    doubled = [n for n in names if names.count(n) > 1]
    names = [
        f"{f.resolve().parent.name}/{n}" if n in doubled else n for f, n in zip(folders, names, strict=True)
    ]
    if len(set(names)) < len(names):
        raise AnalysisError(
            f"two folders are called {next(n for n in names if names.count(n) > 1)}; rename one"
        )
    return names


def _stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One below the other; empty tables are left out, so that they can't change a column's type."""
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(filled, ignore_index=True)


def _rows(frame: pd.DataFrame) -> list[results.Row]:
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

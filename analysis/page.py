"""What stands in the tables of a report, cell by cell, and what its filter knows of the runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import export, style, units
from analysis import settings as of_runs
from analysis import tables as numbers
from analysis.load import Tables

FIELDS = 6
"""Most settings that a table or the filter shows; a run's configuration shows all."""
ROWS = 12
"""Rows of a table that are shown until one asks for all."""
CHOICES = 12
"""Most values that a filter lists; fields with more are found by its text."""


@dataclass(frozen=True)
class Cell:
    """What is read and what it is sorted by."""

    text: str
    key: float | str = ""
    bar: float | None = None
    """Share of the cell that a quiet bar fills, 0 … 1."""
    about: str = ""
    """A second, quiet line."""


@dataclass(frozen=True)
class Row:
    cells: list[Cell]
    colour: str = ""
    """Of the contender that the row is about."""
    run: str = ""
    setting: str | None = None
    """By one of these the filter knows the row; without both it always stays."""


@dataclass(frozen=True)
class Table:
    """A table of the page; its first column names the row."""

    key: str
    title: str
    columns: list[str]
    numeric: list[bool]
    """Columns that are set to the right."""
    rows: list[Row]
    note: str


def contenders(tables: Tables) -> Table | None:
    """Score, bytes and time of each contender and setting."""
    table = numbers.contenders(tables.summary)
    if table.empty:
        return None
    looks = style.looks(table)
    several, metrics = table["setting"].nunique() > 1, export.directed(table)
    more_runs, mixed = table["n"].max() > 1, metrics.nunique() > 1
    score = "score" if mixed else metrics.iloc[0]
    columns = ["contender", *(["setting"] if several else []), score, *(["runs"] if more_runs else []),
               "of centralised", "bytes up", "bytes down", "virtual time"]  # fmt: skip
    rows = []
    for row, metric in zip(table.to_dict("records"), metrics, strict=True):
        look, ratio = looks[row["contender"]], float(row["ratio_to_centralized"])
        text = export.score(row) + (f" {metric}" if mixed else "")
        cells = [Cell(look.plain, look.plain, about="" if several else look.about)]
        cells += [Cell(row["setting"], row["setting"])] if several else []
        cells += [Cell(text, _key(row["score"]))]
        cells += [Cell(str(row["n"]), row["n"])] if more_runs else []
        cells += [
            Cell(units.percent_text(ratio), _key(ratio), min(1.0, ratio) if math.isfinite(ratio) else None),
            Cell(units.bytes_text(row["bytes_up"]), row["bytes_up"]),
            Cell(units.bytes_text(row["bytes_down"]), row["bytes_down"]),
            Cell(units.seconds_text(row["virtual_s"]), _key(row["virtual_s"])),
        ]
        rows.append(Row(cells, look.colour, setting=row["setting"] if several else None))
    note = _ratio_note(table) + " Bytes and time are those of all rounds; time is on the virtual clock."
    note += f" {export.evidence(table)}" if len(tables.runs) > 1 else ""
    lead = 1 + several
    return Table(
        "summary", "Contenders", columns, [False] * lead + [True] * (len(columns) - lead), rows, note
    )


def comparisons(tables: Tables) -> Table | None:
    """The federation against each other contender, seed by seed; None without two pairs."""
    found = numbers.comparisons(tables.summary)
    if found.empty or found["n"].max() < 2:
        return None
    looks, metric = style.looks(tables.summary), str(tables.summary["metric"].iloc[0])
    first = str(numbers.federation(tables.summary))
    if several := tables.summary["setting"].nunique() > 1:  # how far settings lie apart says nothing of seeds
        found = found.assign(low=math.nan, high=math.nan, p=math.nan)
    rows = []
    for row in found.to_dict("records"):
        look, unit = looks[row["contender"]], 100 if metric == "accuracy" else 1
        interval = "–" if math.isnan(row["low"]) else f"{unit * row['low']:+.3g} to {unit * row['high']:+.3g}"
        rows.append(Row(
            [
                Cell(look.plain, look.plain, about=look.about),
                Cell(f"{unit * row['difference']:+.3g}", row["difference"]),
                Cell(interval, _key(row["low"])),
                Cell(f"{row['wins']} of {row['n']}", row["wins"] / row["n"]),
                Cell(_chance(row["p"]), _key(row["p"])),
            ],
            look.colour,
        ))  # fmt: skip
    words = "percentage points" if metric == "accuracy" else metric
    better = "above" if bool(tables.summary["higher_is_better"].iloc[0]) else "below"
    note = f"{looks[first].plain} minus the other, in {words}, over pairs of runs with the same setting and "
    note += f"seed; {better} zero is better. "
    if several:
        note += "The pairs are of several settings, so there is no interval over seeds."
    else:
        note += "p is of a sign-flip test, two-sided, not adjusted for the number of rows."
    head = ["against", "difference", "95% interval", "better in", "p"]
    return Table("comparisons", f"{looks[first].plain} against the others, pair by pair", head,
                 [False, True, True, True, True], rows, note)  # fmt: skip


def trials(table: pd.DataFrame) -> Table:
    """Every trial of a sweep: where it stands, its score, how it ended."""
    axes = [str(column) for column in table if str(column).startswith("axis.")]
    names = of_runs.short([axis.removeprefix("axis.") for axis in axes])
    rows = []
    for row in table.to_dict("records"):
        ended = f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"])
        cells = [Cell(row["trial"], row["trial"]), *(_plain(row[axis]) for axis in axes)]
        cells += [_score(row["score"]), Cell(ended, ended)]
        rows.append(Row(cells, run=row["trial"] if row["status"] == "finished" else ""))
    head = ["trial", *(names[axis.removeprefix("axis.")] for axis in axes), "score", "status"]
    note = "The score is that of the contender the sweep compares; of a trial that did not finish, its last. "
    note += "Everything else on this page is about the finished trials."
    numeric = [False, *(_numeric(table[axis]) for axis in axes), True, False]
    return Table("trials", "Trials", head, numeric, rows, note)


def runs(tables: Tables) -> Table | None:
    """In what the runs differ; None for a single one."""
    if len(tables.runs) < 2:
        return None
    table = numbers.runs(tables.settings, FIELDS)
    rows = [
        Row([Cell(str(row["run"]), str(row["run"])), *(_plain(v) for c, v in row.items() if c != "run")],
            run=str(row["run"]))
        for row in table.to_dict("records")
    ]  # fmt: skip
    left = len(of_runs.varied(tables.settings)) - FIELDS
    note = "Fields in which the runs differ"
    note += f"; {left} more are in their configurations." if left > 0 else "."
    numeric = [False, *(_numeric(table[c]) for c in table if c != "run")]
    return Table("runs", "Runs", [str(c) for c in table], numeric, rows, note)


def filters(tables: Tables) -> list[tuple[str, str, list[str]]]:
    """(field, its short name, its values) of what the filter offers besides text: the axes of a sweep, or
    what varies; empty where all runs have one setting."""
    settings, fields = tables.settings, of_runs.varied(tables.settings)
    known = set() if tables.trials is None else set(tables.trials)
    axes = [field for field in fields if f"axis.{field}" in known and settings[field].notna().all()]
    fields = [c for c in axes or fields if settings[c].map(str).nunique() <= CHOICES][:FIELDS]
    names = of_runs.short(fields)
    return [(c, names[c], [_text(v) for v in _ordered(settings[c])]) for c in fields]


def rows_of_runs(tables: Tables, order: list[str]) -> list[dict[str, Any]]:
    """What the filter knows of each run: its name, its setting's place among `order`, its fields as text."""
    settings = tables.settings
    fields = [field for field, _, _ in filters(tables)]
    varied = of_runs.varied(settings)
    return [
        {
            "run": row["run"],
            "setting": order.index(row["setting"]),
            "label": row["setting"],
            "fields": {field: _text(row[field]) for field in fields},
            "text": " ".join([row["run"], row["setting"], *(f"{c}={_text(row[c])}" for c in varied)]),
        }
        for row in settings.to_dict("records")
    ]


def _ratio_note(table: pd.DataFrame) -> str:
    """What the ratio means for this metric."""
    if table["ratio_to_centralized"].isna().all():
        return "Without a centralised contender there is no upper bound to compare with."
    if table["metric"].nunique() > 1:
        return "Of centralised: score ÷ centralised score, turned over where lower is better."
    if bool(table["higher_is_better"].iloc[0]):
        return "Of centralised: score ÷ centralised score."
    return "Lower is better. Of centralised: centralised score ÷ score, so 100% is all of it."


def _chance(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _score(value: Any) -> Cell:
    known = value is not None and math.isfinite(value)
    return Cell(units.significant(value) if known else "–", value if known else -math.inf)


def _plain(value: Any) -> Cell:
    text = _text(value)
    return Cell(text, float(value) if isinstance(value, int | float) and text != "–" else text)


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else f"{value:g}" if isinstance(value, float) else str(value)


def _numeric(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) and not pd.api.types.is_bool_dtype(column)


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Numbers ascend, names are in order of appearance."""
    distinct = {_text(value): value for value in values}
    whole = all(isinstance(value, int | float) for value in distinct.values())
    return sorted(distinct.values()) if whole else list(distinct.values())


def _key(value: float) -> float:
    """What a cell is sorted by; what isn't known comes last."""
    return value if math.isfinite(value) else -math.inf

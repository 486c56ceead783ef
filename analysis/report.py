"""One self-contained HTML of one or many runs: it opens offline, on a phone, in light and dark."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from analysis import headline, style, units
from analysis.figures import FIGURES
from analysis.load import NoDataError, Tables, load
from fedsim import storage
from fedsim.results import write_text
from fedsim.storage import AnyPath


@dataclass(frozen=True)
class Cell:
    """One cell of the summary table: what is read and what it is sorted by."""

    text: str
    key: float
    bar: float | None = None
    """Share of the cell that a quiet bar fills, 0 … 1."""


@dataclass(frozen=True)
class Line:
    """One row of the summary table."""

    run: str
    name: str
    about: str
    colour: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Card:
    """One figure as the page shows it; its title and caption are text of the page."""

    key: str
    title: str
    caption: str
    height: int
    figure: dict[str, Any]


def write(
    folders: str | AnyPath | Iterable[str | AnyPath],
    path: str | AnyPath,
    *,
    title: str = "",
    trials: pd.DataFrame | None = None,
) -> AnyPath:
    """Write the report of these run folders to `path`, and return it; all may be URIs.

    title: the runs' names if empty.   trials: of a sweep, as `fedsim.sweeps.Outcome.table`.
    What is missing is said in the report and left out; only a folder that is no run is an
    AnalysisError.
    """
    path = storage.locate(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(load(folders, strict=False), title, trials))
    return path


def render(tables: Tables, title: str = "", trials: pd.DataFrame | None = None) -> str:
    """The page as text; see `write`."""
    cards, omitted = _cards(tables)
    missing = [f"{file} is missing in {run.name}" for run in tables.runs for file in run.missing]
    names = [run.name for run in tables.runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        title=title or ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        headline=headline.headline(tables),
        context=headline.context(tables),
        evidence=headline.evidence(tables),
        columns=_columns(tables.summary),
        lines=list(_lines(tables.summary)),
        several=len(tables.runs) > 1,
        axes=[] if trials is None else _axes(trials),
        trials=[] if trials is None else list(_trials(trials)),
        ratio_note=_ratio_note(tables.summary),
        cards=cards,
        omitted=missing + omitted,
        runs=[(run, list(_flat(run.manifest))) for run in tables.runs],
        light=style.LIGHT,
        dark=style.DARK,
        font=style.FONT,
        figures=_script_json({card.key: card.figure for card in cards}),
        templates=_script_json({"light": style.template(style.LIGHT), "dark": style.template(style.DARK)}),
        plotlyjs=get_plotlyjs(),
    )


def _cards(tables: Tables) -> tuple[list[Card], list[str]]:
    """Every figure that has something to draw, and a line for each that hasn't."""
    cards: list[Card] = []
    omitted: list[str] = []
    for key, draw in FIGURES.items():
        try:
            figure = draw(tables).to_plotly_json()
        except NoDataError as reason:
            omitted.append(f"{key.replace('-', ' ').capitalize()}: {reason}")
            continue
        # Title and caption are the page's, where they wrap; the template is chosen by theme.
        layout = figure["layout"]
        title, meta = layout.pop("title")["text"], layout.pop("meta")
        layout.pop("template")
        layout["margin"] = {"t": 16}
        layout["height"] -= 30
        # Both were escaped for plotly; the page escapes again.
        title, caption = html.unescape(title), html.unescape(meta["caption"])
        axis_title = layout["xaxis"]["title"]["text"]
        narrow = {"xaxis.title.text": axis_title.replace(" (", "<br>("), **meta["narrow"]}
        cards.append(Card(key, title, caption, int(layout["height"]), figure | {"narrow": narrow}))
    return cards, omitted


def _columns(summary: pd.DataFrame) -> list[str]:
    metrics = summary["metric"].unique()
    score = "score"
    if len(metrics) == 1:
        arrow = "↑" if summary["higher_is_better"].iloc[0] else "↓"
        score = f"{metrics[0]} {arrow}"
    return [score, "of centralised", "bytes up", "bytes down", "virtual time"]


def _lines(summary: pd.DataFrame) -> Iterator[Line]:
    """Methods first, then what they are measured against."""
    looks = style.looks(summary)
    rows = summary.to_dict("records")
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for row in sorted(
        rows, key=lambda r: (*style.rank(r["contender"], r["algorithm"]), runs.index(r["run"]))
    ):
        look = looks[row["contender"]]
        ratio = float(row["ratio_to_centralized"])
        text = units.score_text(row["score"], row["metric"])
        yield Line(
            run=row["run"],
            name=look.plain,
            about=look.about,
            colour=look.colour,
            cells=(
                Cell(
                    text if summary["metric"].nunique() == 1 else f"{text} {row['metric']}",
                    _key(row["score"]),
                ),
                Cell(
                    units.percent_text(ratio), _key(ratio), min(1.0, ratio) if math.isfinite(ratio) else None
                ),
                Cell(units.bytes_text(row["bytes_up"]), row["bytes_up"]),
                Cell(units.bytes_text(row["bytes_down"]), row["bytes_down"]),
                Cell(units.seconds_text(row["virtual_s"]), _key(row["virtual_s"])),
            ),
        )


def _axes(trials: pd.DataFrame) -> list[str]:
    """What a sweep varies, by the last part of its name where that is enough."""
    names = [str(column).removeprefix("axis.") for column in trials if str(column).startswith("axis.")]
    tails = [name.rsplit(".", 1)[-1] for name in names]
    return [tail if tails.count(tail) == 1 else name for name, tail in zip(names, tails, strict=True)]


def _trials(trials: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """(name, cells): where a trial stands in the sweep, how it ended, its score."""
    for row in trials.to_dict("records"):
        place = [str(value) for column, value in row.items() if str(column).startswith("axis.")]
        score = row["score"]
        ended = f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
        yield row["trial"], [*place, "–" if pd.isna(score) else units.significant(score), ended]


def _ratio_note(summary: pd.DataFrame) -> str:
    """What the ratio means for this metric."""
    if summary.empty or summary["ratio_to_centralized"].isna().all():
        return "Without a centralised contender there is no upper bound to compare with."
    if summary["higher_is_better"].iloc[0]:
        return "Of centralised: score ÷ centralised score."
    return "Lower is better. Of centralised: centralised score ÷ score, so 100% is all of it."


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested manifest as rows: dotted name, text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{place}")
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, "–" if value is None else str(value)


def _key(value: float) -> float:
    """What a cell is sorted by; what isn't known comes last."""
    return value if math.isfinite(value) else -math.inf


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no data can close it or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """NumPy and pandas values as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

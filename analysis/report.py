"""One self-contained HTML of one or many runs: it opens offline, on a phone, in light and dark.

The page is text and tables; `templates/report.js` draws a figure when it comes into sight, which is what
opens a sweep of hundreds of trials in a second or two.
"""

from __future__ import annotations

import html
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from analysis import headline, page, provenance, style
from analysis.figures import HEADINGS
from analysis.load import NoDataError, Tables, load
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath, RemotePath
from fedsim.results import write_text


class FailedFigureWarning(UserWarning):
    """A figure of a report could not be drawn; in tests an error."""


@dataclass(frozen=True)
class Card:
    """One figure as the page shows it; its title and caption are text of the page."""

    key: str
    heading: str
    title: str
    caption: str
    height: int
    figure: str
    """As JSON, with what changes on a phone as `narrow`."""
    follows: bool
    """Whether the filter leaves out points of it."""


def write(
    folders: str | AnyPath | Iterable[str | AnyPath],
    path: str | AnyPath,
    *,
    title: str = "",
) -> AnyPath:
    """Write the report of these run folders or sweeps to `path`, and return it; all may be URIs.

    title: of the sweep or the runs if empty. What is missing is said in the report and left out; only a
    folder that is no run is an AnalysisError.
    """
    path = storage.locate(path)
    tables = load(folders, strict=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(tables, title))
    return path


def render(tables: Tables, title: str = "") -> str:
    """The page as text; see `write`."""
    settings = list(dict.fromkeys(tables.settings["setting"]))
    cards, left_out = _cards(tables, settings)
    shown = [page.contenders(tables), page.comparisons(tables)]
    shown += [page.trials(tables.trials)] if tables.trials is not None else [page.runs(tables)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        title=title or _title(tables),
        headline=headline.headline(tables),
        context=headline.context(tables),
        evidence=headline.evidence(tables),
        warnings=provenance.warnings(tables.runs),
        missing=sum(
            key not in HEADINGS["Settings"] or not isinstance(why, NoDataError)
            for key, why in left_out.items()
        ),
        limit=page.ROWS,
        tables=[table for table in shown if table is not None],
        headings=[h for h in HEADINGS if any(card.heading == h for card in cards)],
        cards=cards,
        left_out=[f"{key.replace('-', ' ').capitalize()}: {_why(why)}" for key, why in left_out.items()],
        filters=page.filters(tables) if len(settings) > 1 else None,
        provenance=provenance.of(tables.runs),
        light=style.LIGHT,
        dark=style.DARK,
        font=style.FONT,
        runs=_script_json(page.rows_of_runs(tables, settings)),
        templates=_script_json({"light": style.template(style.LIGHT), "dark": style.template(style.DARK)}),
        plotlyjs=get_plotlyjs(),
    )


def _title(tables: Tables) -> str:
    """The sweep's or the run's name; of several runs the first ones'."""
    names = [run.name for run in tables.runs]
    above = {str(run.folder.parent) for run in tables.runs}
    if len(names) > 1 and len(above) == 1:
        parent = tables.runs[0].folder.parent
        return _name(parent.parent if parent.name == "trials" else parent)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _name(folder: Path | RemotePath) -> str:
    return folder.resolve().name or "runs"


def _cards(tables: Tables, settings: list[str]) -> tuple[list[Card], dict[str, Exception]]:
    """Every figure that has something to draw, and why each of the others hasn't.

    One that fails is warned of and left out too: a fault in a figure is none of the runs it is about.
    """
    cards: list[Card] = []
    left_out: dict[str, Exception] = {}
    for heading, figures in HEADINGS.items():
        for key, draw in figures.items():
            try:
                cards.append(_card(key, heading, draw(tables).to_plotly_json(), settings))
            except NoDataError as reason:
                left_out[key] = reason
            except Exception as error:
                left_out[key] = error
                warnings.warn(f"figure {key}: {_why(error)}", FailedFigureWarning, stacklevel=2)
    return cards, left_out


def _why(error: Exception) -> str:
    """Why a figure is left out."""
    if isinstance(error, NoDataError):
        return str(error)
    return f"it could not be drawn ({type(error).__name__}: {error})"


def _card(key: str, heading: str, figure: dict[str, Any], settings: list[str]) -> Card:
    """A figure as the page has it. Its points name their setting by its place among `settings`, which keeps
    the page small."""
    places = {setting: place for place, setting in enumerate(settings)}
    # Title and caption are the page's, where they wrap; the template is chosen by theme.
    layout = figure["layout"]
    title, meta = layout.pop("title")["text"], layout.pop("meta")
    layout.pop("template")
    layout["margin"] = {"t": 16}
    layout["height"] -= 30
    # Both were escaped for plotly; the page escapes again.
    title, caption = html.unescape(title), html.unescape(meta["caption"])
    narrow = dict(meta["narrow"])
    if "height" in narrow:
        narrow["height"] -= 30
    axis = layout.get("xaxis", {})
    if "title" in axis:
        narrow["xaxis.title.text"] = axis["title"]["text"].replace(" (", "<br>(")
    for ticks in ("tickvals", "ticktext"):  # of 1, 2, 5, … every third is the decade
        if axis.get("type") == "log" and len(axis.get(ticks, ())) > 5:
            narrow[f"xaxis.{ticks}"] = axis[ticks][::3]
    height = int(layout["height"])
    for trace in figure["data"]:
        if trace.get("customdata") is not None:
            trace["customdata"] = [places[setting] for setting in trace["customdata"]]
    follows = any("customdata" in trace for trace in figure["data"])
    text = _script_json(_without_nan(figure | {"narrow": narrow}))
    return Card(key, heading, title, caption, height, text, follows)


def _without_nan(value: Any) -> Any:
    """With null for NaN, which JSON lacks: an error bar where there is no interval, say."""
    if isinstance(value, dict):
        return {key: _without_nan(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inside) for inside in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no data can close it or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    """NumPy and pandas values as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

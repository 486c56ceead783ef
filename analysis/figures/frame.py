"""What the figures share: the empty figure, the axes with their units, and which rows they may use."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.load import NoDataError

ROW = 30
"""Pixels that one row of a horizontal figure takes."""


def figure(question: str, caption: str, height: int = 400) -> go.Figure:
    """An empty figure in the light template.

    `layout.meta` is for the report: its caption, and `narrow`, what changes on a phone (dotted path →
    value), such as more room beside bars that carry a label.
    """
    return go.Figure(
        layout={
            "template": style.template(style.LIGHT),
            "title": {"text": question},
            "height": height,
            "hovermode": "closest",
            "meta": {"caption": caption, "narrow": {"font.size": 11}},
        }
    )


def rows_height(count: int, extra: int = 120, row: int = ROW) -> int:
    """Height of a figure with that many rows: it grows with them, within reason."""
    return min(1100, max(220, count * row + extra))


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a finite score, all of one metric: scores of two metrics share no axis."""
    kept = frame[frame["score"].abs() < math.inf]
    if kept.empty:
        raise NoDataError("no score was recorded")
    if kept["metric"].nunique() > 1:
        raise NoDataError("the runs report different metrics: " + ", ".join(sorted(kept["metric"].unique())))
    return kept


def metric_title(frame: pd.DataFrame) -> str:
    """`perplexity per token (lower is better)`: the axis title of a scored frame."""
    metric, higher = str(frame["metric"].iloc[0]), bool(frame["higher_is_better"].iloc[0])
    name = "perplexity per token" if metric == "perplexity" else style.label(metric)
    return f"{name} ({'higher' if higher else 'lower'} is better)"


def score_axis(frame: pd.DataFrame, *, may_be_log: bool = False) -> dict[str, Any]:
    """The axis of the score; logarithmic where a lower-is-better score spans more than a decade."""
    axis: dict[str, Any] = {"title": {"text": metric_title(frame)}}
    if frame["metric"].iloc[0] in units.PERCENTAGES:
        axis["tickformat"] = ".0%"
    low, high = float(frame["score"].min()), float(frame["score"].max())
    if may_be_log and low > 0 and high / low > 10 and not frame["higher_is_better"].iloc[0]:
        axis["title"]["text"] += ", log scale"
        axis |= log_ticks(frame["score"])
    return axis


def log_ticks(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis for these values, labelled at 1, 2 and 5 of every decade, or at decades only."""
    positive = [v for v in values if v > 0]
    low, high = min(positive), max(positive)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = [m * 10.0**p for p in range(-9, 16) for m in steps if low / 2 <= m * 10.0**p <= high * 2]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,g}" for t in ticks]}


def time_ticks(seconds: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis of seconds from microseconds to days, labelled with their units."""
    positive = [s for s in seconds if s > 0]
    low, high = min(positive), max(positive)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    times = [m * 10.0**p for p in range(-7, 2) for m in steps if m * 10.0**p < 60]
    times += [60.0, 600.0, 3_600.0, 36_000.0] + [86_400.0 * 10**p for p in range(4)]
    shown = [t for t in times if low / 10 <= t <= high * 10]
    named = [(t, *units.time_unit(t)) for t in shown]
    return {"type": "log", "tickvals": shown, "ticktext": [f"{t / size:g} {unit}" for t, size, unit in named],
            "range": [math.log10(low) - 0.1, math.log10(high) + 0.1]}  # fmt: skip


def round_axis(rounds: Iterable[int]) -> dict[str, Any]:
    """The axis of rounds, labelled at whole ones."""
    axis: dict[str, Any] = {"title": {"text": "round"}, "tickformat": "d", "showgrid": False}
    return axis | {"zeroline": False} | ({"dtick": 1} if max(rounds) <= 10 else {"nticks": 10})


def byte_axis(counts: Iterable[float], title: str) -> dict[str, Any]:
    """A logarithmic axis of bytes, labelled at the decades; counts of zero have no place on it."""
    positive = [c for c in counts if c > 0]
    values, texts = units.byte_ticks(min(positive), max(positive))
    low, high = math.log10(min(positive)), math.log10(max(positive))
    margin = max(0.15, 0.06 * (high - low))
    return {
        "title": {"text": title},
        "type": "log",
        "range": [low - margin, high + margin],
        "tickvals": values,
        "ticktext": texts,
    }


def category_rows(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with one row each, the first on top; rows sit at 0, 1, 2, … Of more than 40 rows some
    are named, the last among them."""
    last = len(names) - 1
    step = 1 if len(names) <= 40 else max(10, len(names) // 20)
    named = [*(row for row in range(0, last, step) if last - row >= step / 2), *range(last, len(names))]
    wrapped = ["<br>".join(textwrap.wrap(names[row], 17, break_long_words=False)[:2]) for row in named]
    return {
        "range": [last + 0.6, -0.6],
        "showgrid": False,
        "zeroline": False,
        "tickvals": named,
        "ticktext": wrapped,
    }


def one_run(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The first run's rows, and a remark for the caption if there are others."""
    names = list(dict.fromkeys(frame["run"]))
    if len(names) <= 1:
        return frame, ""
    return frame[frame["run"] == names[0]], f" Run {style.label(names[0])}, the first of {len(names)}."


def distilled(frame: pd.DataFrame, among: Iterable[str]) -> str | None:
    """The contender that stands for the federation: ours, else the first that isn't a yardstick.

    frame: rounds or summary.
    """
    present, rows = set(among), federated(frame)
    names = rows["method" if "method" in rows else "contender"]
    pairs = {m: a for m, a in zip(names, rows["algorithm"], strict=True) if m in present}
    return next((m for m in pairs if pairs[m] == "federated_distillation"), next(iter(pairs), None))


def federated(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods in which something is sent, of rounds or a summary; of one without a student the
    mean of its institutions (its best is known only afterwards)."""
    kept = frame[~frame["algorithm"].map(style.is_reference).astype(bool)]
    return without_best(kept)


def without_best(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each method of a summary: the mean stands for one without a student."""
    if "contender" not in frame:
        return frame
    return frame[frame["student"].astype(bool) | ~frame["contender"].str.endswith("_best")]

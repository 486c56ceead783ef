"""How the score develops, from the rounds table: over rounds, bytes and virtual time.

Runs that differ in the seed alone are one line, their mean, in a band from the lowest to the highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import statistics, style, units
from analysis.figures import frame as f
from analysis.load import NoDataError

BANDS = 2
"""Most settings that are drawn with a band each; more would hide each other."""
POINTS = 5000
"""Most points of such a trace: of more lines fewer rounds are drawn, at least their first and last."""
LINES = 6
"""Most settings that are drawn as traces of their own; beyond, all of a contender's are one thin trace."""


def score_by_round(rounds: pd.DataFrame, targets: Iterable[float] = ()) -> go.Figure:
    """How does the score develop over the rounds?

    One line per contender and setting, round 0 is the shared public start.   targets: scores that get a
    dashed line.
    """
    rows = f.scored(rounds)
    start = "Round 0 is the public start that all share. " if rows["round"].eq(0).any() else ""
    fig = f.figure("How does the score develop over the rounds?", start + _each(rows))
    _lines(fig, rows, "round", lambda row: f"round {row['round']:.0f}")
    fig.update_layout(
        xaxis=f.round_axis(rows["round"]),
        yaxis=f.score_axis(rows, may_be_log=True) | {"zeroline": False},
    )
    _targets(fig, targets, rows)
    return fig


def score_by_bytes(rounds: pd.DataFrame, targets: Iterable[float] = ()) -> go.Figure:
    """What score does a budget of bytes buy?

    x is the bytes of all messages so far, both directions, on a log axis. Contenders that send
    nothing are level lines at their last score.   targets: scores that get a dashed line.
    """
    rows = _summed(rounds.assign(bytes=rounds["bytes_up"] + rounds["bytes_down"]), "bytes")
    moving = rows[rows["bytes"] > 0]
    if moving.empty:
        raise NoDataError("no contender sent a message")
    silent = rows[~rows["method"].isin(moving["method"])]
    last = silent.sort_values("round", kind="stable").groupby(["run", "method"], sort=False).tail(1)

    caption = "Cumulative bytes, both directions, after every round; left and "
    caption += "up is better. " if rows["higher_is_better"].iloc[0] else "down is better. "
    caption += "Dotted: contenders that send nothing, at their last score. " if len(last) else ""
    fig = f.figure("What score does a budget of bytes buy?", caption + _each(moving))
    looks = style.looks(rows)

    def sent(row: dict[Any, Any]) -> str:
        return f"{units.bytes_text(row['bytes'])} after round {row['round']:.0f}"

    _lines(fig, moving, "bytes", sent, looks)
    axis = f.byte_axis(moving["bytes"], "bytes sent so far, up and down (log scale)")
    ends = [10.0**power for power in axis["range"]]
    metric = str(rows["metric"].iloc[0])
    for (method, setting), group in last.groupby(["method", "setting"], sort=False):
        if last["setting"].nunique() > LINES:
            break  # dozens of level lines say nothing
        look, score = looks[str(method)], float(group["score"].mean())
        name = _name(look, group)
        fig.add_scatter(
            x=ends, y=[score, score], mode="lines", name=name, legendgroup=name,
            showlegend=name not in {t.name for t in fig.data},
            line={"color": look.colour, "width": 2, "dash": "dot"}, customdata=[setting] * 2,
            hovertext=[f"<b>{name}</b>{_of(setting)}<br>{units.score_text(score, metric)}, nothing sent"] * 2,
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        xaxis=axis | {"showgrid": False, "zeroline": False},
        yaxis=f.score_axis(pd.concat([moving, last]), may_be_log=True) | {"zeroline": False},
    )
    _targets(fig, targets, rows)
    return fig


def score_by_time(rounds: pd.DataFrame, targets: Iterable[float] = ()) -> go.Figure:
    """What score is reached after how much virtual time?

    x is the time of all rounds so far on the virtual clock, computation and transfers; logarithmic
    where contenders are more than a factor of fifty apart.   targets: scores that get a dashed line.
    """
    rows = _summed(rounds, "virtual_s")
    if not rows["virtual_s"].gt(0).any():
        raise NoDataError("no time passed on the virtual clock")
    span = rows[rows["round"] > 0].groupby(["run", "method"])["virtual_s"].agg(["min", "max"])
    far = span["max"].max() / max(span["min"].min(), 1e-12) > 50
    rows = rows[rows["virtual_s"] > 0] if far else rows
    divisor, unit = (1.0, "s") if far else units.time_unit(float(rows["virtual_s"].max()))
    rows = rows.assign(time=rows["virtual_s"] / divisor)
    caption = "Computation and transfers of all rounds so far, on the virtual clock. "
    fig = f.figure("What score is reached after how much virtual time?", caption + _each(rows))

    def spent(row: dict[Any, Any]) -> str:
        return f"{units.seconds_text(row['time'] * divisor)} after round {row['round']:.0f}"

    _lines(fig, rows, "time", spent)
    title = "virtual time (log scale)" if far else f"virtual time, {unit}"
    axis: dict[str, Any] = {"title": {"text": title}, "showgrid": False, "zeroline": False}
    if far:
        axis |= f.time_ticks(rows["time"])
    fig.update_layout(xaxis=axis, yaxis=f.score_axis(rows, may_be_log=True) | {"zeroline": False})
    _targets(fig, targets, rows)
    return fig


_ASKED = "How often does the student fall for the attackers' trigger?"


def attack_success(rounds: pd.DataFrame) -> go.Figure:
    """How often does the student fall for the attackers' trigger?

    One line per contender and setting, of the runs with a backdoor: the share of test images with its trigger
    that the student takes for what the attackers want. A named row each where only one round was scored.
    """
    rows = rounds[rounds["attack_success"].between(0, 1)]
    if rows.empty:
        raise NoDataError("no run has a backdoor")
    rows = rows.assign(score=rows["attack_success"], metric="attack success", higher_is_better=False)
    if rows["round"].nunique() == 1:
        return _after_one_round(_ASKED, rows)
    fig = f.figure(_ASKED, _each(rows))
    _lines(fig, rows, "round", lambda row: f"round {row['round']:.0f}")
    yaxis = f.score_axis(rows) | {"rangemode": "tozero"}
    fig.update_layout(xaxis=f.round_axis(rows["round"]), yaxis=yaxis)
    return fig


def _after_one_round(question: str, rows: pd.DataFrame) -> go.Figure:
    """A mark per contender and setting, the highest mean on top: where there is no development to see."""
    looks, metric = style.looks(rows), str(rows["metric"].iloc[0])
    found = rows.groupby(["method", "setting"], sort=False)["score"].agg(["mean", "size"]).reset_index()
    found = found.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    several = found["method"].nunique() > 1
    names = [
        " ".join([looks[m].name] * (several or not s) + [style.label(str(s), limit=80)] * bool(s))
        for m, s in zip(found["method"], found["setting"], strict=True)
    ]
    size = found["size"].max()
    each = "a single run" if size == 1 else f"the mean of up to {size} runs"
    caption = f"After round {rows['round'].iloc[0]}; every mark is {each}."
    fig = f.figure(question, caption, f.rows_height(len(names), 120))
    for method, group in found.groupby("method", sort=False):
        look = looks[str(method)]
        fig.add_scatter(
            x=list(group["mean"]), y=list(group.index), mode="markers", name=look.name, cliponaxis=False,
            marker={"symbol": look.symbol, "size": 11, "color": look.colour}, showlegend=several,
            customdata=list(group["setting"]), hoverinfo="text",
            hovertext=[
                f"<b>{names[row]}</b><br>{units.score_text(mean, metric)}"
                for row, mean in zip(group.index, group["mean"], strict=True)
            ],
        )  # fmt: skip
    xaxis = f.score_axis(rows) | {"rangemode": "tozero", "zeroline": False}
    fig.update_layout(xaxis=xaxis, yaxis=f.category_rows(names))
    return fig


def _summed(rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """Scored rows with the column's sum over all rounds so far, in the order of the table."""
    rows = rounds.sort_values(["run", "method", "round"], kind="stable").copy()
    rows[column] = rows[column].groupby([rows["run"], rows["method"]]).cumsum()
    return f.scored(rows.loc[rounds.index])


def _each(rows: pd.DataFrame) -> str:
    """What a line is."""
    settings, runs = rows["setting"].nunique(), rows["run"].nunique()
    if runs == 1:
        alone = not rows["student"].all()
        return "One line per contender" + ("; without a student the mean of institutions." if alone else ".")
    seeds = rows.groupby("setting")["run"].nunique()
    each = "One line per contender" if settings == 1 else f"One line per contender and setting ({settings})"
    rounds = rows["round"].nunique()
    if settings > LINES and len(shown := _shown(rounds, settings)) < rounds:
        each += f", drawn at {len(shown)} of {rounds} rounds"
    if seeds.max() == 1:
        return f"{each}, each a single run."
    size = str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    band = "; bands reach from the lowest to the highest run" if settings <= BANDS else ""
    return f"{each}, the mean of {size} runs{band}."


def _lines(
    fig: go.Figure,
    rows: pd.DataFrame,
    x: str,
    where: Callable[[dict[Any, Any]], str],
    looks: dict[str, style.Look] | None = None,
) -> None:
    """A line per contender and setting; one entry in the legend per contender."""
    looks = looks or style.looks(rows)
    metric = str(rows["metric"].iloc[0])
    many, means = rows["setting"].nunique(), _means(rows, x)
    for method, of_method in rows.groupby("method", sort=False):
        look, mine = looks[str(method)], means[means["method"] == method]
        name = _name(look, of_method)
        lines = (
            [_joined(mine, x)] if many > LINES else [line for _, line in mine.groupby("setting", sort=False)]
        )
        if many <= BANDS:
            for line in lines:
                _band(fig, line, x, look, name)
        for line in lines:
            hover = [
                None
                if math.isnan(row["score"])
                else f"<b>{name}</b>{_of(row['setting'])}<br>{where(row)}"
                f"<br>{style.label(metric)} {units.score_text(row['score'], metric)}{_spread(row, metric)}"
                for row in line.to_dict("records")
            ]
            fig.add_scatter(
                x=_plain(line[x]), y=_plain(line["score"]), mode="lines+markers", name=name, legendgroup=name,
                showlegend=name not in {t.name for t in fig.data if t.showlegend},
                opacity=1 if many == 1 else 0.75 if many <= LINES else 0.45,
                line={"color": look.colour, "width": 2.5 if many <= BANDS else 1, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 9 if many <= BANDS else 5, "color": look.colour},
                customdata=list(line["setting"]), hovertext=hover, hoverinfo="text",
            )  # fmt: skip


def _means(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """The runs of a setting as one line: a row per method, setting and round, by round."""
    key = ["method", "setting", "round"]
    groups = statistics.independent(rows).groupby(key, sort=False)
    means = groups["score"].agg(score="mean", low="min", high="max", n="count").reset_index()
    means["run"] = groups["run"].first().to_numpy()  # named in the hover of single runs only
    if x != "round":
        means[x] = groups[x].mean().to_numpy()
    return means.sort_values("round", kind="stable")


def _joined(lines: pd.DataFrame, x: str) -> pd.DataFrame:
    """Many lines as one, with fewer rounds where they are too many points; NaN lifts the pen."""
    lines = lines.assign(line=pd.factorize(lines["setting"])[0])
    per_line = lines.groupby("line", sort=False)["round"]
    place, last = per_line.cumcount(), per_line.transform("size") - 1
    # The early rounds lie closer, since more happens in them.
    shown = _shown(rounds=int(last.max()) + 1, lines=int(lines["line"].max()) + 1)
    lines = lines.assign(place=place)[place.isin(shown) | (place == last)]
    gaps = lines.groupby("line", sort=False).tail(1).assign(score=math.nan, place=math.inf, **{x: math.nan})
    return pd.concat([lines, gaps]).sort_values(["line", "place"], kind="stable", ignore_index=True).iloc[:-1]


def _shown(rounds: int, lines: int) -> list[int]:
    """Which rounds of so many lines are drawn, counted from the first."""
    count = max(2, POINTS // lines)
    if rounds <= count:
        return list(range(rounds))
    return sorted({int(place) for place in np.geomspace(1, rounds, count).round() - 1})


def _band(fig: go.Figure, line: pd.DataFrame, x: str, look: style.Look, name: str) -> None:
    """From the lowest to the highest run of every round."""
    if line["n"].max() < 2:
        return
    fig.add_scatter(
        x=[*line[x], *line[x][::-1]], y=[*line["high"], *line["low"][::-1]], mode="lines", fill="toself",
        fillcolor=style.faint(look.colour), line={"width": 0, "color": look.colour}, legendgroup=name,
        showlegend=False, hoverinfo="skip", customdata=[line["setting"].iloc[0]] * (2 * len(line)),
    )  # fmt: skip


def _spread(row: dict[Any, Any], metric: str) -> str:
    if row["n"] < 2:
        return f"<br>{style.label(str(row['run']))}"
    low, high = (units.score_text(row[end], metric) for end in ("low", "high"))
    return f", mean of {row['n']:.0f} runs<br>{low} to {high}"


def _targets(fig: go.Figure, targets: Iterable[float], rows: pd.DataFrame) -> None:
    for target in targets:
        text = f"target {units.score_text(target, str(rows['metric'].iloc[0]))}"
        fig.add_hline(y=target, line={"dash": "dash", "width": 1.5, "color": style.GREY},
                      annotation_text=text, annotation_position="top left")  # fmt: skip


def _of(setting: object) -> str:
    return f"<br>{style.label(str(setting), limit=80)}" if setting else ""


def _plain(values: pd.Series[Any]) -> list[Any]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _name(look: style.Look, group: pd.DataFrame) -> str:
    return look.name if group["student"].all() else f"{look.name}, mean"

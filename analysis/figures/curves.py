"""How the score develops, from the rounds table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.figures import frame as f
from analysis.load import NoDataError


def score_by_round(rounds: pd.DataFrame) -> go.Figure:
    """How does the score develop over the rounds?

    One line per contender and run; round 0 is the shared public start.
    """
    rows = f.scored(rounds)
    several = rows["run"].nunique() > 1
    start = "Round 0 is the public start that all share. " if rows["round"].eq(0).any() else ""
    each = "Every run is a line." if several else "Solo is the mean of institutions on their own."
    if not several and not rows["algorithm"].eq("solo").any():
        each = "One line per contender."
    fig = f.figure("How does the score develop over the rounds?", start + each)
    _lines(fig, rows, "round", lambda row: f"round {row['round']}")
    fig.update_layout(
        xaxis={
            "title": {"text": "round"},
            "tickformat": "d",
            "nticks": 10,
            "showgrid": False,
            "zeroline": False,
        },
        yaxis=f.score_axis(rows, may_be_log=True) | {"zeroline": False},
    )
    if rows["round"].max() <= 10:
        fig.update_xaxes(dtick=1)
    return fig


def score_by_bytes(rounds: pd.DataFrame) -> go.Figure:
    """What score does a budget of bytes buy?

    x is the bytes of all messages so far, both directions, on a log axis. Contenders that send
    nothing are level lines at their last score.
    """
    rows = rounds.sort_values(["run", "method", "round"], kind="stable").copy()
    sent = rows["bytes_up"] + rows["bytes_down"]
    rows["bytes"] = sent.groupby([rows["run"], rows["method"]]).cumsum()
    # In the order of the table, so that colours agree between figures.
    rows = f.scored(rows.loc[rounds.index])
    moving = rows[rows["bytes"] > 0]
    if moving.empty:
        raise NoDataError("no contender sent a message")
    silent = rows[~rows["method"].isin(moving["method"])]
    last = silent.sort_values("round", kind="stable").groupby(["run", "method"], sort=False).tail(1)

    caption = "Cumulative bytes, both directions, after every round; left and "
    caption += "up is better." if rows["higher_is_better"].iloc[0] else "down is better."
    if len(last):
        caption += " Dotted: contenders that send nothing, at their last score."
    fig = f.figure("What score does a budget of bytes buy?", caption)
    looks = style.looks(rows["method"], rows["algorithm"])
    _lines(
        fig,
        moving,
        "bytes",
        lambda row: f"{units.bytes_text(row['bytes'])} after round {row['round']}",
        looks,
    )
    axis = f.byte_axis(moving["bytes"], "bytes sent so far, up and down (log scale)")
    ends = [10.0**power for power in axis["range"]]
    metric = str(rows["metric"].iloc[0])
    for method, group in last.groupby("method", sort=False):
        look = looks[str(method)]
        name = _name(look, group)
        for place, score in enumerate(group["score"]):
            fig.add_scatter(
                x=ends, y=[score, score], mode="lines", name=name, legendgroup=name,
                showlegend=place == 0, line={"color": look.colour, "width": 2, "dash": "dot"},
                hovertext=[f"<b>{name}</b><br>{units.score_text(score, metric)}, nothing sent"] * 2,
                hoverinfo="text",
            )  # fmt: skip
    fig.update_layout(
        xaxis=axis | {"showgrid": False, "zeroline": False},
        yaxis=f.score_axis(pd.concat([moving, last]), may_be_log=True) | {"zeroline": False},
    )
    return fig


def _lines(
    fig: go.Figure,
    rows: pd.DataFrame,
    x: str,
    where: Callable[[dict[Any, Any]], str],
    looks: dict[str, style.Look] | None = None,
) -> None:
    """A line with marks per contender and run; one entry in the legend per contender."""
    looks = looks or style.looks(rows["method"], rows["algorithm"])
    several, metric = rows["run"].nunique() > 1, str(rows["metric"].iloc[0])
    seen: set[str] = set()
    for (method, run), group in rows.groupby(["method", "run"], sort=False):
        group = group.sort_values("round", kind="stable")
        look = looks[str(method)]
        name = _name(look, group)
        hover = [
            f"<b>{name}</b><br>{where(row)}<br>{style.label(metric)} {units.score_text(row['score'], metric)}"
            + (f"<br>run {style.label(str(run))}, seed {row['seed']}" if several else "")
            for row in group.to_dict("records")
        ]
        fig.add_scatter(
            x=list(group[x]), y=list(group["score"]), mode="lines+markers", name=name,
            legendgroup=name, showlegend=method not in seen, opacity=0.7 if several else 1,
            line={"color": look.colour, "width": 1.5 if several else 2.5, "dash": look.dash},
            marker={"symbol": look.symbol, "size": 6 if several else 9, "color": look.colour},
            hovertext=hover, hoverinfo="text",
        )  # fmt: skip
        seen.add(str(method))


def _name(look: style.Look, group: pd.DataFrame) -> str:
    return f"{look.name}, mean" if group["algorithm"].iloc[0] == "solo" else look.name

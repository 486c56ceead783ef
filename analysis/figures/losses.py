"""What the student is trained by: the terms of its loss, from the rounds table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.figures import frame as f
from analysis.load import NoDataError
from fedsim.results import TERMS

_WORDS = {
    "response": ("pooled answers", style.BLUE, "circle"),
    "task": ("own task on the proxy set", style.ORANGE, "square"),
    "feature": ("features", style.GREEN, "diamond"),
    "prototype": ("prototypes", style.PURPLE, "triangle-up"),
}
_APART = 30
"""Times that the largest term may be the smallest on a linear axis."""


def losses(rounds: pd.DataFrame) -> go.Figure:
    """What does the student's training loss consist of?

    Of the federation: its mean loss in every round, dashed, and each term of that with its weight, in nats;
    means over runs. Log axis where the terms are far apart.
    """
    method = f.distilled(rounds, rounds.loc[rounds["learn_loss"].notna(), "method"])
    rows = rounds[(rounds["method"] == method) & rounds["learn_loss"].notna()]
    columns = {f"learn_{term}": _WORDS[term] for term in TERMS if rows[f"learn_{term}"].notna().any()}
    if not columns:
        raise NoDataError("no terms of a loss were recorded")
    means = rows.groupby("round")[["learn_loss", *columns]].mean()
    look = style.looks(rounds)[str(method)]
    runs = rows["run"].nunique()
    caption = f"{look.name}: means over a round's steps, every term with its weight"
    caption += f"; means of {runs} runs." if runs > 1 else "."
    fig = f.figure("What does the student's training loss consist of?", caption)
    drawn = {"learn_loss": ("all of it", style.GREY, "x"), **columns}
    for column, (words, colour, symbol) in drawn.items():
        values = means[column].dropna()
        fig.add_scatter(
            x=list(values.index), y=list(values), mode="lines+markers", name=words,
            line={"color": colour, "width": 2.5, "dash": "dash" if column == "learn_loss" else "solid"},
            marker={"symbol": symbol, "size": 9, "color": colour},
            hovertext=[f"<b>{words}</b><br>round {r}<br>{units.significant(v)} nats"
                       for r, v in values.items()],
            hoverinfo="text",
        )  # fmt: skip
    yaxis = {"title": {"text": "loss, nats"}, "rangemode": "tozero", "zeroline": False}
    all_ = means.to_numpy(float).ravel()
    if 0 < np.nanmin(all_) < np.nanmax(all_) / _APART:
        yaxis = {"title": {"text": "loss, nats (log scale)"}, **f.log_ticks(all_)}
    fig.update_layout(xaxis=f.round_axis(means.index), yaxis=yaxis)
    return fig

"""The contenders side by side, from the summary: what they reach and what they send."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from analysis import statistics, style, units
from analysis.figures import frame as f
from analysis.load import NoDataError

SURE = 3
"""Fewest runs whose interval `pareto` draws: that of two is longer than the picture."""


def final_scores(summary: pd.DataFrame) -> go.Figure:
    """Who ends up best, and how close to centralised training?

    One row per contender, best on top; the label is the score and its ratio to the centralised one,
    whose value is the dashed line. With several runs every run is a dot and the bar is their mean, with
    its 95 % interval if the runs differ in the seed alone.
    """
    rows = f.scored(summary)
    looks = style.looks(rows)
    higher, metric = bool(rows["higher_is_better"].iloc[0]), str(rows["metric"].iloc[0])
    groups = {str(c): g for c, g in rows.groupby("contender", sort=False)}
    order = sorted(groups, key=lambda c: groups[c]["score"].mean(), reverse=higher)
    several, one_setting = rows["run"].nunique() > 1, rows["setting"].nunique() == 1

    caption = "Score after the last round, and the share of the centralised score it reaches."
    if several:
        caption = "Score after the last round: every run is a dot, the bar is their mean"
        caption += (
            ", the line its 95% interval."
            if one_setting
            else (f" over {rows['setting'].nunique()} settings, which has no interval.")
        )
    fig = f.figure(
        "Who ends up best, and how close to centralised training?", caption, f.rows_height(len(order))
    )
    for place, contender in enumerate(order):
        group, look = groups[contender], looks[contender]
        found = statistics.estimate(statistics.independent(group)["score"])
        score, ratio = found.mean, float(group["ratio_to_centralized"].mean())
        text = units.score_text(score, metric)
        share = f" · {units.percent_text(ratio)}" if math.isfinite(ratio) else ""
        hover = f"<b>{look.name}</b><br>{look.about}<br>{style.label(metric)} {text}"
        hover += f"<br>{units.percent_text(ratio)} of centralised" if share else ""
        hover += f"<br>mean of {found.n} runs" if found.n > 1 else "<br>one run"
        sure = one_setting and found.n > 1
        if sure:
            ends = " to ".join(units.score_text(end, metric) for end in (found.low, found.high))
            hover += f", 95% interval {ends}"
        fig.add_bar(
            x=[score], y=[place], orientation="h", width=0.62, name=look.name, showlegend=False,
            marker={"color": look.colour}, text=[] if several else [f"{text}{share}"], textposition="outside",
            cliponaxis=False, hovertext=[hover], hoverinfo="text", meta="all" if several else None,
            error_x={"type": "data", "array": [found.half], "color": style.GREY} if sure else None,
        )  # fmt: skip
        if several:
            last = int(group["score"].argmax())
            fig.add_scatter(
                x=list(group["score"]), y=[place] * len(group), mode="markers+text", showlegend=False,
                text=[f"{text}{share}" if row == last else "" for row in range(len(group))],
                textposition="middle right", cliponaxis=False,
                marker={"color": look.colour, "size": 9, "line": {"color": "#ffffff", "width": 1.5}},
                customdata=list(group["setting"]),
                hovertext=[
                    f"<b>{look.name}</b><br>run {style.label(str(run))}<br>{units.score_text(s, metric)}"
                    for run, s in zip(group["run"], group["score"], strict=True)
                ],
                hoverinfo="text",
            )  # fmt: skip
    bound = rows.loc[rows["algorithm"] == "centralized", "score"]
    if len(bound):
        fig.add_vline(
            x=float(bound.mean()), line={"dash": "dash", "width": 1.5, "color": style.GREY}, layer="below"
        )
    # Room for the labels beside the bars, which the axis doesn't know of.
    widest = float(rows["score"].max())
    fig.layout.meta["narrow"]["xaxis.range"] = [0, widest * 1.6]
    axis = f.score_axis(rows) | {"range": [0, widest * 1.25]}
    if metric in units.PERCENTAGES and widest > 0.5:
        axis["tickvals"] = [0, 0.2, 0.4, 0.6, 0.8, 1]  # none at 120%
    fig.update_layout(xaxis=axis, yaxis=f.category_rows([looks[c].name for c in order]))
    return fig


def traffic(summary: pd.DataFrame) -> go.Figure:
    """How many bytes does each contender send?

    Log axis; all messages of all rounds, as long as they were on the wire. A contender without
    messages has its row and no mark, since zero has no place on a log axis.
    """
    rows = f.without_best(summary)
    if rows.empty or not (rows["bytes_up"] + rows["bytes_down"]).gt(0).any():
        raise NoDataError("no contender sent a message")
    looks = style.looks(rows)
    means = rows.groupby("contender", sort=False)[["bytes_up", "bytes_down"]].mean()
    totals = {
        str(c): (float(up), float(down))
        for c, up, down in zip(means.index, means["bytes_up"], means["bytes_down"], strict=True)
    }
    order = sorted(totals, key=lambda c: -sum(totals[c]))
    # Two rows of the summary are one contender here.
    pairs = set(rows.loc[~rows["student"].astype(bool), "contender"])
    names = [looks[c].name.removesuffix(", mean") if c in pairs else looks[c].name for c in order]

    caption = "Bytes of all messages, headers included; ▲ to the coordinator, ▼ to the participants."
    if rows["run"].nunique() > 1:
        caption = caption[:-1] + "; means over runs."
    fig = f.figure("How many bytes does each contender send?", caption, f.rows_height(len(order), 130))
    sent = [count for both in totals.values() for count in both]
    for place, (contender, name) in enumerate(zip(order, names, strict=True)):
        up, down = totals[contender]
        colour = looks[contender].colour
        if up <= 0 and down <= 0:
            fig.add_annotation(
                x=0, xref="paper", y=place, text="sends nothing", showarrow=False, xanchor="left",
                xshift=6, font={"color": style.GREY},
            )  # fmt: skip
            continue
        ends = [v for v in (up, down) if v > 0]
        fig.add_scatter(
            x=ends, y=[place] * len(ends), mode="lines", line={"color": colour, "width": 3},
            opacity=0.45, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        for value, way, symbol in ((up, "up", "triangle-up"), (down, "down", "triangle-down")):
            if value <= 0:
                continue
            right = way == "up" if up == down else value == max(ends)
            text = units.bytes_text(value)
            if units.bytes_text(up) == units.bytes_text(down):
                text = f"{text} each way" if right else ""
            fig.add_scatter(
                x=[value], y=[place], name=f"{name}, {way}", mode="markers+text", showlegend=False,
                marker={"symbol": symbol, "size": 14, "color": colour},
                text=[text], textposition="middle right" if right else "middle left",
                cliponaxis=False, hoverinfo="text",
                hovertext=[f"<b>{name}</b><br>{way}: {units.bytes_text(value)} ({value:,.0f} bytes)"],
            )  # fmt: skip
    axis = f.byte_axis(sent, "bytes of all rounds (log scale)")
    low, high = axis["range"]
    span = high - low
    fig.layout.meta["narrow"]["xaxis.range"] = [low - 0.5 * span, high + 0.8 * span]
    axis["range"] = [low - 0.16 * span, high + 0.16 * span]
    fig.update_layout(xaxis=axis, yaxis=f.category_rows(names))
    return fig


def pareto(summary: pd.DataFrame) -> go.Figure:
    """Which contenders give the best score for their bytes?

    Score against the bytes of all messages, log axis; a point per contender and setting is the mean of its
    runs, with 95 % intervals where there are several. The line joins those that no other beats in both.
    """
    rows = f.without_best(f.scored(summary))
    rows = rows.assign(bytes=rows["bytes_up"] + rows["bytes_down"])
    rows = rows[rows["bytes"] > 0]
    if rows.empty:
        raise NoDataError("no contender with a score sent a message")
    looks = style.looks(summary)
    higher, metric = bool(rows["higher_is_better"].iloc[0]), str(rows["metric"].iloc[0])
    points = statistics.means(rows, by=("contender", "setting"))
    points["bytes"] = statistics.means(rows, "bytes", by=("contender", "setting"))["mean"]
    best = _front(points, higher)
    settings = points["setting"].nunique()

    caption = f"{'Up' if higher else 'Down'} and left is better"
    caption += "; the line joins what nothing else beats in both." if len(best) > 1 else "."
    if settings > 1:
        caption += f" A point is a contender in one of {settings} settings."
    if settings <= 8 and points["n"].max() >= SURE:
        caption += " Vertical lines are 95% intervals."
    if points["n"].max() == 1:
        caption += " Every point is a single run."
    fig = f.figure("Which contenders give the best score for their bytes?", caption)
    if len(best) > 1:
        fig.add_scatter(
            x=list(best["bytes"]), y=list(best["mean"]), mode="lines", name="best for its bytes", meta="all",
            line={"color": style.GREY, "width": 1.5, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
        )  # fmt: skip
    for contender, group in points.groupby("contender", sort=False):
        look = looks[str(contender)]
        fig.add_scatter(
            x=list(group["bytes"]), y=list(group["mean"]), mode="markers", name=look.name,
            marker={"symbol": look.symbol, "color": look.colour, "size": 12 if settings == 1 else 8},
            error_y={"type": "data", "array": list((group["high"] - group["low"]) / 2), "thickness": 1.2}
            if settings <= 8 and group["n"].min() >= SURE else None,
            customdata=list(group["setting"]),
            hovertext=[
                f"<b>{look.name}</b>{f'<br>{style.label(str(row.setting), limit=80)}' if row.setting else ''}"
                f"<br>{units.score_text(row.mean, metric)} at {units.bytes_text(row.bytes)}"
                + (f"<br>mean of {row.n} runs" if row.n > 1 else "<br>one run")
                for row in group.itertuples()
            ],
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        xaxis=f.byte_axis(points["bytes"], "bytes of all rounds, up and down (log scale)"),
        yaxis=f.score_axis(rows, may_be_log=True) | {"zeroline": False},
    )
    return fig


def _front(points: pd.DataFrame, higher: bool) -> pd.DataFrame:
    """The points that no other is better than in one and at least as good in the other."""
    ordered = points.sort_values(["bytes", "mean"], ascending=[True, not higher], kind="stable")
    best = ordered["mean"].cummax() if higher else ordered["mean"].cummin()
    ahead = best.shift(1)
    strictly = (ordered["mean"] > ahead) if higher else (ordered["mean"] < ahead)
    return ordered[strictly | ahead.isna()]

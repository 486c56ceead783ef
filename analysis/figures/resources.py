"""What runs take: memory of the coordinator, and the hours of the devices that are simulated."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.figures import frame as f
from analysis.load import NoDataError

_PARTS = (
    ("compute_s", "computing", style.PURPLE),
    ("transfer_s", "sending and receiving", style.ORANGE),
    ("wait_s", "waiting", style.GREY),
)


def memory(rounds: pd.DataFrame) -> go.Figure:
    """Does the coordinator's memory grow?

    The largest resident memory of its process so far, after every round; of several runs the largest.
    """
    rows = rounds[(rounds["round"] > 0) & (rounds["peak_memory_mib"] > 0)]
    if rows.empty:
        raise NoDataError("no memory of a coordinator was recorded")
    looks = style.looks(rounds)
    runs = rows["run"].nunique()
    caption = "Peak of the coordinator's process up to each round"
    caption += f"; the largest of {runs} runs." if runs > 1 else "."
    caption += " Contenders that share a process share its peak."
    fig = f.figure("Does the coordinator's memory grow?", caption)
    for method, group in rows.groupby("method", sort=False):
        look, peak = looks[str(method)], group.groupby("round")["peak_memory_mib"].max()
        fig.add_scatter(
            x=list(peak.index), y=list(peak), mode="lines+markers", name=look.name,
            line={"color": look.colour, "dash": look.dash, "width": 2.5},
            marker={"symbol": look.symbol, "size": 8, "color": look.colour},
            hovertext=[f"<b>{look.name}</b><br>round {r}<br>{mib:,.0f} MiB" for r, mib in peak.items()],
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        xaxis=f.round_axis(rows["round"]),
        yaxis={"title": {"text": "peak memory, MiB"}, "rangemode": "tozero"},
    )
    return fig


def device_hours(participants: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """What do the institutions' devices spend their time on?

    Virtual time of all participants and rounds, added up: computing, sending and receiving, and waiting
    for the slowest and for the coordinator. Per run; of several the mean.
    """
    spans = rounds.set_index(["run", "method", "round"])["virtual_s"]
    rows = participants[participants["method"].isin(f.federated(rounds)["method"])]
    rows = rows.fillna({"down_s": 0.0, "compute_s": 0.0, "up_s": 0.0})
    rows = rows.assign(transfer_s=rows["down_s"] + rows["up_s"])
    whole = rows.set_index(["run", "method", "round"]).index.map(spans)
    rows["wait_s"] = (whole.to_numpy(float) - rows["compute_s"] - rows["transfer_s"]).clip(lower=0)
    columns = [column for column, _, _ in _PARTS]
    sums = rows.groupby("method", sort=False)[columns].sum()
    counts = rows.groupby("method", sort=False)["run"].nunique()
    sums = sums.div(counts, axis=0)
    if sums.empty or not sums.to_numpy().any():
        raise NoDataError("no participant of a federation spent time on the virtual clock")
    divisor, unit = units.time_unit(float(sums.sum(axis=1).max()))
    looks = style.looks(rounds)
    names = [looks[str(m)].name for m in sums.index]
    caption = "Device time of all participants and rounds, added up, on the virtual clock"
    caption += f"; mean of {counts.max()} runs." if counts.max() > 1 else "."
    question = "What do the institutions' devices spend their time on?"
    fig = f.figure(question, caption, f.rows_height(len(names), 150))
    for column, words, colour in _PARTS:
        fig.add_bar(
            x=list(sums[column] / divisor), y=list(range(len(names))), orientation="h", width=0.62,
            name=words, marker={"color": colour}, hoverinfo="text",
            hovertext=[
                f"<b>{name}</b>, {words}<br>{units.seconds_text(s)} of device time, {s / (all_ or 1):.0%}"
                for name, s, all_ in zip(names, sums[column], sums.sum(axis=1), strict=True)
            ],
        )  # fmt: skip
    title = {"h": "device hours", "days": "device days"}.get(unit, f"device time, {unit}")
    fig.update_layout(
        barmode="stack",
        legend={"traceorder": "normal"},
        xaxis={"title": {"text": title}, "zeroline": False},
        yaxis=f.category_rows(names),
    )
    return fig

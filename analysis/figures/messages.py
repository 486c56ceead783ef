"""What the bytes are: sections of messages, and what each stage of the codec saves."""

from __future__ import annotations

import textwrap

import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.figures import frame as f
from analysis.load import NoDataError
from fedsim import results

_WORDS = {
    "header": "header and table", "meta": "sizes", "samples": "which samples", "lengths": "classes per row",
    "ids": "class ids", "counts": "probabilities", "claims": "claims", "vector": "parameters",
    "base": "which reference", "kept": "changes to a reference", "codes": "rounded numbers",
}  # fmt: skip
_STAGES = {"quantised": "quantised", "listed": "what is not zero", "sent": "coded, as sent"}
_WAYS = {"up": "▲", "down": "▼"}
_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.VERMILLION, style.PURPLE, style.SKY, style.GREY)


def anatomy(sections: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """What are the messages made of?

    One bar per contender and direction, all rounds together, divided by section; its name carries the
    bytes.
    """
    rows = sections[sections["bytes"] > 0]
    if rows.empty:
        raise NoDataError("no message was sent, or its sections were not recorded")
    sums = rows.groupby(["method", "direction", "section"], sort=False)["bytes"].sum().reset_index()
    total = sums.groupby(["method", "direction"], sort=False)["bytes"].sum()
    looks = style.looks(rounds)
    bars = list(total.index)
    names = [
        f"{looks[str(m)].name} {_WAYS.get(d, d)}<br>{units.bytes_text(n)}"
        for (m, d), n in zip(bars, total, strict=True)
    ]
    order = list(sums.groupby("section")["bytes"].sum().sort_values(ascending=False, kind="stable").index)
    runs = rows["run"].nunique()
    caption = "Bytes of all rounds by section, as they were on the wire; ▲ to the coordinator, ▼ to the "
    caption += "participants"
    caption += f"; {runs} runs together." if runs > 1 else "."
    fig = f.figure("What are the messages made of?", caption, f.rows_height(len(bars), 150, 42))
    for place, section in enumerate(order):
        mine = sums[sums["section"] == section].set_index(["method", "direction"])["bytes"]
        seen = [bar for bar in bars if bar in mine.index]
        fig.add_bar(
            x=[100 * mine[bar] / total[bar] for bar in seen], y=[bars.index(bar) for bar in seen],
            orientation="h", width=0.62, name=style.label(_WORDS.get(section, section)),
            marker={"color": _COLOURS[place % len(_COLOURS)],
                    "pattern": {"shape": "/" if place >= len(_COLOURS) else ""}},
            hovertext=[
                f"<b>{style.label(_WORDS.get(section, section))}</b>, {d}<br>{units.bytes_text(mine[m, d])}, "
                f"{mine[m, d] / total[m, d]:.1%}"
                for m, d in seen
            ],
            hoverinfo="text",
        )  # fmt: skip
    # On a phone the names are wrapped, and the legend has a line for each section.
    fig.layout.meta["narrow"] |= {
        "yaxis.ticktext": ["<br>".join(map(_wrapped, name.split("<br>"))) for name in names],
        "height": fig.layout.height + 20 * len(order),
    }
    fig.update_layout(
        barmode="stack",
        legend={"traceorder": "normal"},
        xaxis={"title": {"text": "share of the bytes, %"}, "range": [0, 100], "zeroline": False},
        yaxis=f.category_rows(names) | {"ticktext": names},
    )
    return fig


def stages(measures: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """The columns that `codec_stages` draws, all rounds and runs together, of the contenders whose messages
    pass any stage at all, with their colour."""
    names = {f"wire/up/{stage}": stage for stage in results.STAGES}
    looks = style.looks(rounds)
    rows = measures[measures["name"].isin(list(names)) & measures["method"].isin(list(looks))]
    totals = rows.groupby(["method", "name"], sort=False)["value"].sum()
    table = [
        (
            looks[str(method)].plain,
            _STAGES.get(stage, stage),
            float(totals[method, name]),
            looks[str(method)].colour,
        )
        for name, stage in names.items()
        for method, passed in rows.groupby("method", sort=False)["name"].nunique().items()
        if passed > 2 and (method, name) in totals.index
    ]
    return pd.DataFrame(table, columns=["message", "stage", "bytes", "colour"])


def codec_stages(table: pd.DataFrame) -> go.Figure:
    """What does each stage of the codec save?

    table: message (what is encoded), stage (in the order of the codec, the first is the raw content),
    bytes after it; a row each. Log axis; the label is how many times smaller than raw.
    """
    rows = table[table["bytes"] > 0]
    if rows.empty:
        raise NoDataError("the bytes after each stage of the codec were not recorded")
    order = list(dict.fromkeys(rows["stage"]))
    caption = "Bytes of all messages to the coordinator after each stage; the factor is against the first."
    fig = f.figure("What does each stage of the codec save?", caption, f.rows_height(len(order), 160))
    for place, (message, group) in enumerate(rows.groupby("message", sort=False)):
        raw = float(group["bytes"].iloc[0])
        colour = group["colour"].iloc[0] if "colour" in group else _COLOURS[place % len(_COLOURS)]
        # Below a mark, to its right, is room, unless the line goes on there: to a stage that saves nothing.
        back = group["bytes"].shift(-1) > group["bytes"]
        fig.add_scatter(
            x=list(group["bytes"]), y=[order.index(s) for s in group["stage"]], mode="lines+markers+text",
            name=style.label(str(message)), text=[f"÷ {units.significant(raw / b)}" for b in group["bytes"]],
            textposition=["middle left" if b else "bottom right" for b in back], cliponaxis=False,
            marker={"size": 12, "color": colour}, line={"color": colour, "width": 2},
            hovertext=[
                f"<b>{style.label(str(s))}</b><br>{units.bytes_text(b)}"
                for s, b in zip(group["stage"], group["bytes"], strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
    axis = f.byte_axis(rows["bytes"], "bytes (log scale)")
    low, high = axis["range"]
    fig.layout.meta["narrow"]["xaxis.range"] = [low, high + 0.3 * (high - low)]  # room for the labels
    axis["range"] = [low, high + 0.08 * (high - low)]
    fig.update_layout(
        xaxis=axis,
        yaxis=f.category_rows([style.label(str(s)) for s in order]),
    )
    return fig


def _wrapped(text: str) -> str:
    return "<br>".join(textwrap.wrap(text, 15, break_long_words=False))

"""Inside one run: what institutions have, what they gain, and where a round's time goes."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import style, units
from analysis.figures import frame as f
from analysis.load import NoDataError

_PHASES = (
    ("down_s", "download", style.SKY),
    ("compute_s", "compute", style.PURPLE),
    ("up_s", "upload", style.ORANGE),
)
_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)
_SYMBOLS = ("circle", "square", "diamond", "cross")


def partition(table: pd.DataFrame) -> go.Figure:
    """How unevenly are the private examples spread?

    One bubble per participant and group; its area is the number of examples.
    """
    rows, remark = f.one_run(table)
    rows = rows[rows["examples"] > 0]
    if rows.empty:
        raise NoDataError("no private examples were recorded")
    cells = rows.groupby(["participant", "group"], sort=False)["examples"].sum().reset_index()
    shard, of_group = (cells.groupby(c)["examples"].transform("sum") for c in ("participant", "group"))
    participants = list(range(int(cells["participant"].max()) + 1))
    groups = list(cells.groupby("group")["examples"].sum().sort_values(ascending=False, kind="stable").index)
    place = {group: row for row, group in enumerate(groups)}
    totals = cells.groupby("participant")["examples"].sum()
    sizes = f"{totals.min():,} to {totals.max():,}" if totals.nunique() > 1 else f"{totals.min():,}"
    caption = f"Bubble area: private examples. A participant has {sizes} of them.{remark}"
    fig = f.figure("How unevenly are the private examples spread?", caption, f.rows_height(len(groups), 110))
    widest = max(8.0, min(30.0, 340 / len(participants)))
    fig.add_scatter(
        x=list(cells["participant"]), y=[place[g] for g in cells["group"]], mode="markers", showlegend=False,
        marker={
            "size": list(cells["examples"]), "sizemode": "area", "sizemin": 2, "color": style.BLUE,
            "sizeref": 2 * float(cells["examples"].max()) / widest**2, "opacity": 0.85, "line": {"width": 0},
        },
        hovertext=[
            f"<b>participant {p}</b>, {style.label(str(g))}<br>{n:,} examples"
            f"<br>{n / s:.0%} of its shard, {n / t:.0%} of the group"
            for p, g, n, s, t in zip(
                cells["participant"], cells["group"], cells["examples"], shard, of_group, strict=True
            )
        ],
        hoverinfo="text",
    )  # fmt: skip
    xaxis: dict[str, Any] = {"title": {"text": "participant"}, "tickformat": "d", "zeroline": False}
    xaxis["range"] = [-0.6, len(participants) - 0.4]
    if len(participants) <= 20:
        xaxis["dtick"] = 1
    names = [style.label(str(g), limit=22) for g in groups]
    fig.update_layout(xaxis=xaxis, yaxis=f.category_rows(names) | {"showgrid": len(groups) <= 40})
    return fig


def gain(participants: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """What does each institution gain from taking part?

    One row per participant: its specialist trained alone (hollow) and in the federation (filled), on
    the same global test set; the line is the student that everyone receives.
    """
    mine, remark = f.one_run(participants)
    history = rounds[rounds["run"].isin(mine["run"])]
    scores, method = f.scored(mine), f.distilled(history, mine["method"])
    alone, together = _paired(scores, history, method)
    names, look = list(alone.index), style.looks(history)[str(method)]
    student = history[(history["method"] == method) & (history["score"].abs() < math.inf)]
    final = student.sort_values("round", kind="stable")["score"].tail(1)
    higher, metric = bool(history["higher_is_better"].iloc[0]), str(scores["metric"].iloc[0])

    def better(new: pd.Series[float] | float) -> pd.Series[bool]:
        return alone.lt(new) if higher else alone.gt(new)

    caption = f"{better(together).sum()} of {len(names)} specialists score better for taking part"
    for score in final:
        caption += f"; the student beats {better(score).sum()} of {len(names)} institutions on their own"
    height = f.rows_height(len(names), 160)
    fig = f.figure("What does each institution gain from taking part?", f"{caption}.{remark}", height)
    # One trace for all who gain and one for all who don't; None lifts the pen.
    for won, colour in ((True, look.colour), (False, style.GREY)):
        rows = [row for row, gained in enumerate(better(together)) if gained == won]
        fig.add_scatter(
            x=[x for row in rows for x in (alone.iloc[row], together.iloc[row], None)],
            y=[y for row in rows for y in (row, row, None)],
            mode="lines", line={"color": colour, "width": 4}, opacity=0.5, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    ends = (
        ("alone", alone, style.GREEN, "circle-open"),
        (f"in {look.name}", together, look.colour, "circle"),
    )
    for name, points, colour, symbol in ends:
        fig.add_scatter(
            x=list(points), y=list(range(len(names))), mode="markers", name=name,
            marker={"size": 12, "color": colour, "symbol": symbol, "line": {"width": 2.5, "color": colour}},
            hovertext=[
                f"<b>participant {p}</b>, {name}<br>{style.label(metric)} {units.score_text(x, metric)}"
                for p, x in zip(names, points, strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
    for score in final:
        fig.add_scatter(
            x=[score, score], y=[-0.6, len(names) - 0.4], mode="lines", name="the student",
            line={"color": look.colour, "dash": "dash", "width": 2},
            hovertext=[f"<b>the student</b><br>{style.label(metric)} {units.score_text(score, metric)}"] * 2,
            hoverinfo="text",
        )  # fmt: skip
    drawn = [*alone, *together, *final]
    table = pd.DataFrame({"score": drawn, "metric": metric, "higher_is_better": higher})
    axis = f.score_axis(table, may_be_log=True) | {"zeroline": False}
    low, high = min(drawn), max(drawn)
    if axis.get("type") == "log":
        low, high = math.log10(low), math.log10(high)
    margin = 0.06 * (high - low) or 0.1
    axis["range"] = [low - margin, high + margin]
    fig.update_layout(xaxis=axis, yaxis=f.category_rows(_row_names(mine, names)))
    return fig


def timeline(participants: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """Where does the time of a round go?

    The last round of the federation on the virtual clock: each participant downloads, computes and
    uploads; whoever ends early waits. The rest of the round is the coordinator's.
    """
    mine, remark = f.one_run(participants)
    history = rounds[rounds["run"].isin(mine["run"])]
    method = f.distilled(history, mine["method"])
    if method is None:
        raise NoDataError("no participant took part in a federation")
    mine = mine[mine["method"] == method]
    number = int(mine["round"].max())
    rows = mine[mine["round"] == number].sort_values("participant").fillna({s: 0.0 for s, _, _ in _PHASES})
    ends = rows["down_s"] + rows["compute_s"] + rows["up_s"]
    if not (ends > 0).any():
        raise NoDataError("no time passed on the virtual clock")
    whole = history.loc[(history["method"] == method) & (history["round"] == number), "virtual_s"]
    total = float(whole.fillna(0.0).max()) if len(whole) else 0.0
    slowest = float(ends.max())
    divisor, unit = units.time_unit(max(total, slowest))

    caption = f"Round {number} of {style.looks(history)[method].name}: "
    last = rows["participant"].iloc[int(ends.argmax())]
    caption += f"{units.seconds_text(max(total, slowest))}; the slowest participant is {last}."
    names = _row_names(mine, list(rows["participant"]))
    has_rest = total > slowest * 1.001
    names += ["coordinator"] if has_rest else []
    fig = f.figure("Where does the time of a round go?", caption + remark, f.rows_height(len(names), 130))
    start = pd.Series(0.0, index=rows.index)
    places = list(range(len(rows)))
    for column, phase, colour in _PHASES:
        fig.add_bar(
            x=list(rows[column] / divisor), y=places, base=list(start / divisor), orientation="h", name=phase,
            marker={"color": colour}, width=0.6, hoverinfo="text",
            hovertext=[
                f"<b>participant {p}</b>, {phase}<br>{units.seconds_text(s)}"
                for p, s in zip(rows["participant"], rows[column], strict=True)
            ],
        )  # fmt: skip
        start = start + rows[column]
    if has_rest:
        fig.add_bar(
            x=[(total - slowest) / divisor], y=[len(rows)], base=[slowest / divisor], orientation="h",
            name="coordinator", marker={"color": style.BLUE}, width=0.6, hoverinfo="text",
            hovertext=[f"<b>coordinator</b>, the rest of the round<br>{units.seconds_text(total - slowest)}"],
        )  # fmt: skip
    lost = [(place, end, s) for place, end, s in zip(places, ends, rows["status"], strict=True) if s != "ok"]
    if lost:
        fig.add_scatter(
            x=[end / divisor for _, end, _ in lost], y=[place for place, _, _ in lost], mode="markers",
            name="not pooled", marker={"symbol": "x", "size": 11, "color": style.VERMILLION},
            hovertext=[f"not pooled: {style.label(str(s))}" for _, _, s in lost], hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        barmode="overlay",
        xaxis={
            "title": {"text": f"virtual time in the round, {unit}"},
            "zeroline": False,
            "rangemode": "tozero",
        },
        yaxis=f.category_rows(names),
    )
    return fig


def equity(participants: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """Do institutions gain in proportion to what they contribute?

    One mark per participant: its share of the private examples, and by how much its specialist is better in
    the federation than alone, in percent of its score alone; who scores 0 alone has no such percentage.
    """
    mine, remark = f.one_run(participants)
    history = rounds[rounds["run"].isin(mine["run"])]
    scores, method = f.scored(mine), f.distilled(history, mine["method"])
    alone, together = _paired(scores, history, method)
    higher, metric = bool(history["higher_is_better"].iloc[0]), str(scores["metric"].iloc[0])
    zero = alone.index[alone == 0]
    alone, together = alone.drop(zero), together.drop(zero)
    if alone.empty:
        raise NoDataError("every institution scores 0 alone, of which no gain is a percentage")
    examples = mine.groupby("participant")["examples"].max()
    share = (examples / examples.sum()).loc[alone.index]
    gained = (together / alone - 1) * (100 if higher else -100)
    caption = f"{(gained > 0).sum()} of {len(gained)} specialists gain"
    if len(gained) > 2 and share.nunique() > 1 and gained.nunique() > 1:
        caption += f"; rank correlation of gain and contribution {share.rank().corr(gained.rank()):+.2f}"
    if len(zero):
        caption += f"; left out, as 0 alone has no percentage: {', '.join(map(str, zero))}"
    fig = f.figure("Do institutions gain in proportion to what they contribute?", f"{caption}.{remark}")
    models = dict(zip(mine["participant"], mine["model"], strict=True))
    for place, model in enumerate(dict.fromkeys(models.values())):
        who = [p for p in alone.index if models[p] == model]
        colour = _COLOURS[place % len(_COLOURS)]
        fig.add_scatter(
            x=list(100 * share.loc[who]), y=list(gained.loc[who]),
            name=style.label(str(model).rstrip("/").split("/")[-1]),
            mode="markers+text" if len(alone) <= NUMBERED else "markers", text=[str(p) for p in who],
            textposition="top center",
            marker={"size": 12, "color": colour, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
            hovertext=[
                f"<b>participant {p}</b><br>{share[p]:.1%} of the examples<br>"
                f"{units.score_text(alone[p], metric)} alone, "
                f"{units.score_text(together[p], metric)} together<br>{gained[p]:+.1f}%"
                for p in who
            ],
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        xaxis={"title": {"text": "share of the private examples, %"}, "rangemode": "tozero"},
        yaxis={"title": {"text": f"gain in {style.label(metric)} for taking part, %"}, "zeroline": True},
    )
    return fig


NUMBERED = 20
"""Most participants that are named in a cloud of points: of more the names would hide each other."""
CLOCK_ROUNDS = 12
"""Rounds that the timeline of a run shows: more would be thinner than a line."""


def clock(participants: pd.DataFrame, rounds: pd.DataFrame) -> go.Figure:
    """Who computes, who sends and who waits?

    The federation on the virtual clock, its last rounds one after the other: what a participant does not
    fill of a round it waits for the slowest and for the coordinator, which computes at the end.
    """
    mine, remark = f.one_run(participants)
    history = rounds[rounds["run"].isin(mine["run"])]
    method = f.distilled(history, mine["method"])
    spans = history[(history["method"] == method) & (history["round"] > 0)].set_index("round")["virtual_s"]
    if method is None or not spans.gt(0).any():
        raise NoDataError("no time passed on the virtual clock of a federation")
    ends = spans.sort_index().cumsum()
    shown = list(ends.index[-CLOCK_ROUNDS:])
    if not spans.loc[shown].gt(0).any():
        raise NoDataError(f"no time passed on the virtual clock in the last {len(shown)} rounds")
    rows = mine[(mine["method"] == method) & mine["round"].isin(shown)]
    rows = rows.fillna({s: 0.0 for s, _, _ in _PHASES}).sort_values(["participant", "round"])
    people = sorted(rows["participant"].unique())
    names = [*_row_names(mine, people), "coordinator"]
    divisor, unit = units.time_unit(float(ends.max()))
    begins = (ends - spans.loc[ends.index]).to_dict()

    bars: dict[str, list[tuple[float, float, int, str]]] = {}
    busy = dict.fromkeys(shown, 0.0)
    for row in rows.to_dict("records"):
        at, place, number = begins[row["round"]], people.index(row["participant"]), row["round"]
        for column, phase, _ in _PHASES:
            bars.setdefault(phase, []).append((at, row[column], place, f"round {number}"))
            at += row[column]
        busy[number] = max(busy[number], at - begins[number])
        wait = begins[number] + spans[number] - at
        bars.setdefault("wait", []).append((at, max(0.0, wait), place, f"round {number}, {row['status']}"))
    for number in shown:
        work = (begins[number] + busy[number], max(0.0, spans[number] - busy[number]))
        bars.setdefault("coordinate", []).append((*work, len(people), f"round {number}"))
    all_time = len(people) * sum(spans[number] for number in shown)
    waiting = sum(length for _, length, _, _ in bars["wait"]) / all_time
    name = style.looks(history)[method].name
    which = f"its last {len(shown)} rounds" if len(shown) < len(ends) else "all rounds"
    caption = f"{name}, {which}; participants wait {waiting:.0%} of the time.{remark}"
    fig = f.figure("Who computes, who sends and who waits?", caption, f.rows_height(len(names), 140))
    colours = {phase: colour for _, phase, colour in _PHASES} | {"wait": style.GREY, "coordinate": style.BLUE}
    for phase, colour in colours.items():
        parts = [bar for bar in bars.get(phase, []) if bar[1] > 0]
        if not parts:
            continue
        fig.add_bar(
            x=[length / divisor for _, length, _, _ in parts], base=[at / divisor for at, _, _, _ in parts],
            y=[place for _, _, place, _ in parts], orientation="h", width=0.6, name=phase,
            marker={"color": colour, "opacity": 0.25 if phase == "wait" else 1}, hoverinfo="text",
            hovertext=[
                f"<b>{names[place]}</b>, {style.label(about)}<br>{phase} {units.seconds_text(length)}"
                for _, length, place, about in parts
            ],
        )  # fmt: skip
    fig.update_layout(
        barmode="overlay",
        xaxis={"title": {"text": f"virtual time of the run, {unit}"}, "zeroline": False},
        yaxis=f.category_rows(names),
    )
    return fig


def _paired(
    scores: pd.DataFrame, rounds: pd.DataFrame, method: str | None
) -> tuple[pd.Series[float], pd.Series[float]]:
    """The last scores alone and in the federation, of the participants that have both."""
    solo = list(rounds.loc[rounds["algorithm"] == "solo", "method"])
    alone = _last_scores(scores, solo[0] if solo else None)
    together = _last_scores(scores, method)
    if alone.empty:
        raise NoDataError("no scores of institutions on their own (method solo)")
    if together.empty:
        raise NoDataError("no scores of specialists inside a federation")
    both = sorted(set(alone.index) & set(together.index))
    if not both:
        raise NoDataError("no participant has a score both alone and in the federation")
    return alone.loc[both], together.loc[both]


def _last_scores(scores: pd.DataFrame, method: str | None) -> pd.Series[float]:
    """Each participant's last score under that method."""
    rows = scores[scores["method"] == method].sort_values("round", kind="stable")
    return rows.groupby("participant")["score"].last()


def _row_names(table: pd.DataFrame, participants: list[int]) -> list[str]:
    """`0 · llama-tiny`; a path is shown by its last part."""
    models = dict(zip(table["participant"], table["model"], strict=True))
    short = {p: style.label(str(models[p]).rstrip("/").split("/")[-1], limit=14) for p in participants}
    return [f"{p} · {short[p]}" for p in participants]

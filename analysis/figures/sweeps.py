"""What the settings of many runs do to the score: from the summary and the settings of `analysis.load`.

A setting is found by its axis in the sweep or by its field of the config; see `field`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import settings as of_runs
from analysis import statistics, style, units
from analysis.figures import frame as f
from analysis.load import NoDataError

WEIGHTS = ("response", "task", "digest")
"""Weights of federated distillation's losses: of pooled answers, of the own task, of the digest."""
_SCALE = "Cividis"  # of one hue for those who see less colour, and dark to light for everybody


def field(settings: pd.DataFrame, *names: str) -> str | None:
    """The column of a setting: called so, or with so a last part (`alpha`: `participants.partition.alpha`).

    Of several that fit, the one that varies; None where none does or there is none.
    """
    for name in names:
        fits = [str(c) for c in settings if c == name or str(c).endswith(f".{name}")]
        varying = [c for c in fits if settings[c].map(str).nunique() > 1]
        if varying:
            return varying[0]
    return None


def heat_map(summary: pd.DataFrame, settings: pd.DataFrame) -> go.Figure:
    """How does the score depend on participants and on uneven data?

    One cell per number of participants and Dirichlet α (or named heterogeneity): the mean score of the
    federation over all runs there, with their number. Lighter is better.
    """
    across = field(settings, "participants.count")
    down = field(settings, "heterogeneity", "participants.partition.alpha")
    if across is None or down is None:
        raise NoDataError("participants and uneven data (α) do not both vary over the runs")
    rows, name = federation(summary, settings)
    higher, metric = bool(rows["higher_is_better"].iloc[0]), str(rows["metric"].iloc[0])
    xs, ys = _ordered(rows[across]), _ordered(rows[down])
    cells = statistics.means(rows, by=(across, down)).set_index([across, down])
    z = [[_at(cells, "mean", x, y) for x in xs] for y in ys]
    n = [[_at(cells, "n", x, y) for x in xs] for y in ys]
    label = "Dirichlet α" if down.endswith("alpha") else style.label(down)
    single = cells["n"].max() == 1
    caption = f"{name}: mean score of the runs in a cell{'; every cell is a single run' if single else ''}."
    caption += " Light is better."
    fig = f.figure("How does the score depend on participants and on uneven data?", caption,
                   f.rows_height(len(ys), 150))  # fmt: skip
    fig.add_heatmap(
        z=z, x=[str(x) for x in xs], y=[style.label(str(y)) for y in ys], colorscale=_SCALE,
        reversescale=not higher, xgap=2, ygap=2, hoverinfo="text",
        colorbar={"outlinewidth": 0, "thickness": 12,
                  "nticks": 5, "tickformat": ".1%" if metric == "accuracy" else None},
        text=[[_cell(value, count, metric) for value, count in zip(*both, strict=True)]
              for both in zip(z, n, strict=True)],
        texttemplate="%{text}",
        hovertext=[
            [
                f"<b>{name}</b><br>{x} participants, {label} {style.label(str(y))}"
                f"<br>{style.label(metric)} {_cell(value, count, metric)}"
                for x, value, count in zip(xs, values, counts, strict=True)
            ]
            for y, values, counts in zip(ys, z, n, strict=True)
        ],
    )  # fmt: skip
    fig.update_layout(
        xaxis={"title": {"text": "participants"}, "type": "category", "showgrid": False},
        yaxis={"title": {"text": label}, "type": "category", "autorange": "reversed", "showgrid": False},
    )
    return fig


def bandwidth(summary: pd.DataFrame, settings: pd.DataFrame) -> go.Figure:
    """What does a narrow link cost in time?

    Virtual time of the whole run in every bandwidth scenario, narrowest first, log axis; a mark is the mean
    of a contender's runs, its line reaches from the fastest to the slowest.
    """
    axis = field(settings, "bandwidth", "participants.links.0.up_mbps")
    if axis is None:
        raise NoDataError("the bandwidth of links does not vary over the runs")
    rows = f.federated(joined(summary, settings))
    rows = rows[rows["virtual_s"] > 0]
    if rows.empty:
        raise NoDataError("no time passed on the virtual clock of a federation")
    speed = "participants.links.0.up_mbps"
    order = list(rows.groupby(axis, sort=False)[speed].mean().sort_values(kind="stable").index)
    names = {o: f"{style.label(str(o))}{'' if axis != speed else ' Mbit/s'}" for o in order}
    looks = style.looks(summary)
    caption = "Virtual time of all rounds, computation included; a line spans the fastest to the slowest run."
    fig = f.figure("What does a narrow link cost in time?", caption)
    for contender, group in rows.groupby("contender", sort=False):
        look, by = looks[str(contender)], group.groupby(axis, sort=False)["virtual_s"]
        seen = by.agg(["mean", "min", "max", "count"]).reindex([o for o in order if o in set(group[axis])])
        mean = list(seen["mean"])
        fig.add_scatter(
            x=[names[o] for o in seen.index], y=mean, mode="lines+markers", name=look.name,
            line={"color": look.colour, "dash": look.dash, "width": 2.5},
            marker={"symbol": look.symbol, "size": 10, "color": look.colour},
            error_y={"type": "data", "array": list(seen["max"] - seen["mean"]), "thickness": 1.2,
                     "arrayminus": list(seen["mean"] - seen["min"])},
            hovertext=[
                f"<b>{look.name}</b>, {names[o]}<br>{units.seconds_text(s)}"
                f"{f', mean of {n} runs' if n > 1 else ', one run'}"
                for o, s, n in zip(seen.index, mean, seen["count"], strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
    title = "bandwidth scenario, narrowest first" if axis != speed else "uplink"
    fig.update_layout(
        xaxis={"title": {"text": title}, "type": "category", "showgrid": False,
               "categoryorder": "array", "categoryarray": [names[o] for o in order]},
        yaxis={"title": {"text": "virtual time, s (log scale)"}, **f.log_ticks(rows["virtual_s"])},
    )  # fmt: skip
    return fig


def loss_weights(
    summary: pd.DataFrame, settings: pd.DataFrame, weights: Sequence[str] = WEIGHTS
) -> go.Figure:
    """Which mixture of the losses does the student learn best with?

    A point per run on the simplex of three weights, each as its share of their sum; colour is the score,
    light is better, and a ring marks the best.
    """
    present = [field(settings, f"methods.0.{w}") or f"methods.0.{w}" for w in weights]
    if (
        len(weights) != 3
        or not set(present) <= set(settings)
        or settings[present].drop_duplicates().shape[0] < 3
    ):
        raise NoDataError(f"the weights {', '.join(weights)} do not vary over the runs")
    rows, name = federation(summary, settings)
    rows = rows[rows[present].astype(float).sum(axis=1) > 0]
    shares = rows[present].astype(float)
    shares = shares.div(shares.sum(axis=1), axis=0)
    higher, metric = bool(rows["higher_is_better"].iloc[0]), str(rows["metric"].iloc[0])
    best = int((rows["score"] if higher else -rows["score"]).to_numpy().argmax())
    caption = f"{name}: a point is a run, light is better, the ring marks the best of {len(rows)}. "
    caption += "Each weight is shown as its share of the three."
    fig = f.figure("Which mixture of the losses does the student learn best with?", caption, 460)
    a, b, c = (list(shares[column]) for column in present)
    hover = [
        f"<b>{style.label(str(run))}</b><br>{style.label(metric)} {units.score_text(score, metric)}<br>"
        + ", ".join(f"{w} {value:.3g}" for w, value in zip(weights, values, strict=True))
        for run, score, values in zip(
            rows["run"], rows["score"], rows[present].itertuples(index=False), strict=True
        )
    ]
    fig.add_scatterternary(
        a=a, b=b, c=c, mode="markers", showlegend=False, hovertext=hover, hoverinfo="text",
        customdata=list(rows["setting"]),
        marker={"color": list(rows["score"]), "colorscale": _SCALE, "reversescale": not higher, "size": 12,
                "line": {"width": 1, "color": style.GREY},
                "colorbar": {"outlinewidth": 0, "thickness": 12, "title": {"text": style.label(metric)}}},
    )  # fmt: skip
    fig.add_scatterternary(
        a=[a[best]], b=[b[best]], c=[c[best]], mode="markers", name="best", hoverinfo="skip", meta="all",
        marker={"symbol": "circle-open", "size": 20, "color": style.VERMILLION, "line": {"width": 3}},
    )  # fmt: skip
    fig.update_layout(
        ternary={s: {"title": {"text": w}} for s, w in zip(("aaxis", "baxis", "caxis"), weights, strict=True)}
    )
    return fig


def scaling(summary: pd.DataFrame, settings: pd.DataFrame) -> go.Figure:
    """What do more participants bring, and what do they cost?

    Against the number of participants: above the score, below the time that simulating the run took and its
    virtual time, log axes. Marks are means over the runs of a contender.
    """
    axis = field(settings, "participants.count")
    if axis is None:
        raise NoDataError("the number of participants does not vary over the runs")
    rows = f.federated(f.scored(joined(summary, settings)))
    if rows.empty:
        raise NoDataError("no federation has a score")
    looks = style.looks(summary)
    metric = str(rows["metric"].iloc[0])
    caption = (
        "Means over all runs with so many participants. Below, solid is the measured time of the simulation, "
    )
    caption += "dotted the virtual time of what is simulated."
    fig = f.figure("What do more participants bring, and what do they cost?", caption, 520)
    panels = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    fig.update_layout({k: panels.layout[k].to_plotly_json() for k in ("xaxis", "xaxis2", "yaxis", "yaxis2")})
    for contender, group in rows.groupby("contender", sort=False):
        look, means = looks[str(contender)], group.groupby(axis)[["score", "wall_s", "virtual_s"]].mean()
        counts = group.groupby(axis)["run"].nunique()
        for column, row, dash in (("score", 1, look.dash), ("wall_s", 2, "solid"), ("virtual_s", 2, "dot")):
            told = [units.score_text(v, metric) if row == 1 else units.seconds_text(v) for v in means[column]]
            words = {"score": "", "wall_s": " measured", "virtual_s": " virtual"}[column]
            fig.add_scatter(
                x=list(means.index), y=list(means[column]), mode="lines+markers", name=look.name,
                legendgroup=look.name, showlegend=row == 1, xaxis="x" if row == 1 else "x2",
                yaxis="y" if row == 1 else "y2", line={"color": look.colour, "dash": dash, "width": 2.5},
                marker={"symbol": look.symbol, "color": look.colour, "size": 9},
                hovertext=[
                    f"<b>{look.name}</b>, {x} participants<br>{text}{words}"
                    f"{f', mean of {n} runs' if n > 1 else ', one run'}"
                    for x, text, n in zip(means.index, told, counts, strict=True)
                ],
                hoverinfo="text",
            )  # fmt: skip
    counts = sorted(rows[axis].unique())
    ticks = {"type": "log", "tickvals": counts, "ticktext": [str(c) for c in counts]}
    fig.update_layout(
        xaxis=ticks | {"showticklabels": False},
        xaxis2=ticks | {"title": {"text": "participants (log scale)"}},
        yaxis=f.score_axis(rows) | {"zeroline": False},
        yaxis2={"title": {"text": "time, s (log scale)"},
                **f.log_ticks([*rows["wall_s"], *rows["virtual_s"]])},
    )  # fmt: skip
    return fig


GRID = 12
"""Most values of a setting that count as a grid; more were drawn."""
PANELS = 6
"""Most settings that `response` shows."""


def response(summary: pd.DataFrame, settings: pd.DataFrame, fields: Sequence[str] | None = None) -> go.Figure:
    """Which settings does the score depend on?

    A panel for each numeric setting that varies (`fields`, else all, at most PANELS): every run of the
    federation is a dot, the line joins the means (where values were drawn, of tenths of the runs); an axis is
    logarithmic where its values span more than a factor of thirty. What else varies is averaged over, so a
    panel shows a tendency, no cause.
    """
    rows, name = federation(summary, settings)
    given = [field(settings, wanted) for wanted in fields] if fields else of_runs.varied(settings)
    numeric = [c for c in given if c and pd.api.types.is_numeric_dtype(rows[c]) and rows[c].dtype != bool]
    shown = [c for c in numeric if rows[c].nunique() > 1][:PANELS]
    if not shown:
        raise NoDataError("no numeric setting varies over the runs")
    metric, names = str(rows["metric"].iloc[0]), of_runs.short(shown)
    caption = f"{name}: a dot is a run, the line joins the means. What else varies is averaged over."
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    fig = f.figure("Which settings does the score depend on?", caption, 130 + 230 * lines)
    panels = make_subplots(rows=lines, cols=columns, shared_yaxes=True,
                           vertical_spacing=0.32 / lines, horizontal_spacing=0.06)  # fmt: skip
    fig.update_layout({k: v for k, v in panels.layout.to_plotly_json().items() if k.startswith(("x", "y"))})
    look = style.looks(rows)[str(rows["contender"].iloc[0])]
    for place, column in enumerate(shown):
        axis = str(place + 1) if place else ""
        kept = rows[rows[column].notna()]
        means = _tendency(kept[column], kept["score"])
        fig.add_scatter(
            x=list(kept[column]), y=list(kept["score"]), mode="markers", showlegend=False,
            xaxis=f"x{axis}", yaxis=f"y{axis}", customdata=list(kept["setting"]),
            marker={"color": look.colour, "symbol": look.symbol, "size": 7, "opacity": 0.6},
            hovertext=[
                f"<b>{style.label(str(run), limit=80)}</b><br>{style.label(names[column])} {value:g}"
                f"<br>{units.score_text(score, metric)}"
                for run, value, score in zip(kept["run"], kept[column], kept["score"], strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
        fig.add_scatter(
            x=list(means.index), y=list(means), mode="lines", showlegend=False, hoverinfo="skip",
            xaxis=f"x{axis}", yaxis=f"y{axis}", line={"color": style.GREY, "width": 2}, meta="all",
        )  # fmt: skip
        low, high = float(kept[column].min()), float(kept[column].max())
        ticks: dict[str, Any] = {"type": "log", "dtick": 1} if low > 0 and high / low > 30 else {}
        title = style.label(names[column]) + (" (log scale)" if ticks else "")
        fig.layout[f"xaxis{axis}"].update(title={"text": title}, zeroline=False, **ticks)
        if place % columns == 0:
            fig.layout[f"yaxis{axis}"].update(f.score_axis(rows) | {"zeroline": False})
            fig.layout[f"yaxis{axis}"].title.text = style.label(metric)
        else:
            fig.layout[f"yaxis{axis}"].update(zeroline=False)
    return fig


def _tendency(values: pd.Series[float], scores: pd.Series[float]) -> pd.Series[float]:
    """Value → mean score; of more values than a grid has the means of as many runs each."""
    if values.nunique() <= GRID:
        return scores.groupby(values).mean()
    tenths = pd.qcut(values, 10, labels=False, duplicates="drop")
    return pd.Series(scores.groupby(tenths).mean().to_numpy(), values.groupby(tenths).mean().to_numpy())


def joined(summary: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    return summary.merge(settings.drop(columns=["setting", "seed"]), on="run", validate="many_to_one")


def federation(summary: pd.DataFrame, settings: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The scored rows of the contender that stands for the federation, with settings, and its name."""
    rows = f.scored(summary)
    chosen = f.distilled(rows, rows["contender"])
    if chosen is None:
        raise NoDataError("no federation has a score")
    looks = style.looks(summary)
    return joined(rows[rows["contender"] == chosen], settings), looks[chosen].name


def _ordered(values: pd.Series[Any]) -> list[Any]:
    """Numbers ascend; names are in the order of the sweep."""
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if all(isinstance(v, int | float) for v in distinct) else distinct


def _at(cells: pd.DataFrame, column: str, x: Any, y: Any) -> Any:
    return cells.loc[(x, y), column] if (x, y) in cells.index else None


def _cell(value: float | None, count: int | None, metric: str) -> str:
    if value is None:
        return ""
    return units.score_text(value, metric) + (f"<br>n = {count}" if count and count > 1 else "")

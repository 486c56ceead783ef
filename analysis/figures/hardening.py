"""What parts of a method, privacy and trouble do to the score.

Each figure takes a tidy table with a row per run; the function above it makes that table from the
summary and the settings, where they tell.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import settings as of_runs
from analysis import statistics, style, units
from analysis.figures import frame as f
from analysis.figures.sweeps import federation, field, joined
from analysis.load import NoDataError

_TROUBLES = {
    "adversary.share": "participants that attack",
    "dropout": "participants that drop out of a round",
    "message_loss": "messages that are lost",
}
"""Settings that make trouble, by name or by its end → in words."""


def variants(summary: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The columns that `ablation` draws, from a sweep with an axis `ablation`, `variant` or `without`, or
    from runs with several contenders of one federated algorithm; the first is the whole method."""
    axis = field(settings, "ablation", "variant", "without")
    if axis is not None:
        rows, _ = federation(summary, settings)
        # What a variant is made of varies with it; all else makes another setting.
        others = [
            c for c in of_runs.varied(settings) if c != axis and settings.groupby(axis)[c].nunique().max() > 1
        ]
        return rows.assign(variant=rows[axis], setting=[str(tuple(row)) for row in rows[others].to_numpy()])
    for _, rows in f.federated(summary).groupby("algorithm", sort=False):
        if rows["contender"].nunique() > 1:
            return rows.assign(variant=rows["contender"])
    raise NoDataError("no axis called ablation or variant, and no two contenders of one algorithm")


def ablation(table: pd.DataFrame) -> go.Figure:
    """What does each part of the method contribute?

    table: variant, setting, seed, score, metric, higher_is_better; a row per run, the first variant is the
    whole method. Bars are how much worse a variant is (in the metric's unit), over pairs of runs with
    the same seed, with 95 % intervals where there are two or more of one setting.
    """
    rows = f.scored(table)
    names = [str(v) for v in dict.fromkeys(rows["variant"])]
    if len(names) < 2:
        raise NoDataError("only one variant has a score")
    several = rows["setting"].nunique() > 1  # over which there is a mean, and no interval
    found = statistics.comparisons(rows.assign(contender=rows["variant"].astype(str)), names[0])
    if found.empty:
        raise NoDataError(f"no variant was run with a seed of {names[0]}")
    sign = 1.0 if bool(rows["higher_is_better"].iloc[0]) else -1.0
    found = found.assign(worse=sign * found["difference"]).sort_values(
        "worse", ascending=False, kind="stable"
    )
    metric, unit = str(rows["metric"].iloc[0]), 100.0 if rows["metric"].iloc[0] == "accuracy" else 1.0
    words = "percentage points of accuracy" if unit == 100 else style.label(metric)
    caption = f"Loss of score against {style.label(names[0])}, over runs with the same seed"
    lines = "over settings too, so no intervals" if several else "lines are 95% intervals"
    caption += f"; {lines if found['n'].max() > 1 else 'one pair each, so no intervals'}."
    fig = f.figure("What does each part of the method contribute?", caption, f.rows_height(len(found), 140))
    for place, row in enumerate(found.to_dict("records")):
        text = f"{unit * row['worse']:+.3g}"
        fig.add_bar(
            x=[unit * row["worse"]], y=[place], orientation="h", width=0.62, showlegend=False,
            name=style.label(str(row["contender"])),
            marker={"color": style.BLUE if row["worse"] >= 0 else style.ORANGE},
            error_x={"type": "data", "array": [unit * (row["high"] - row["low"]) / 2], "color": style.GREY}
            if row["n"] > 1 and not several else None,
            hovertext=[
                f"<b>{style.label(str(row['contender']))}</b><br>{text} {words}, {row['n']} "
                f"{'pairs' if row['n'] > 1 else 'pair: one run each'}"
                + (f"<br>sign-flip p = {row['p']:.3g}" if row["n"] > 1 and not several else "")
            ],
            hoverinfo="text",
        )  # fmt: skip
    fig.update_layout(
        xaxis={"title": {"text": f"worse than {style.label(names[0])} by, {words}"}, "zeroline": True},
        yaxis=f.category_rows([style.label(str(v)) for v in found["contender"]]),
    )
    return fig


def private_runs(summary: pd.DataFrame, settings: pd.DataFrame, x: str = "epsilon") -> pd.DataFrame:
    """The columns that `privacy` draws: ε is the setting of that name, or whose name ends so."""
    column = field(settings, x)
    if column is None:
        raise NoDataError(f"no privacy budget (a setting called {x}) varies over the runs")
    rows = f.federated(joined(summary, settings))
    epsilon = pd.to_numeric(rows[column], errors="coerce")
    if of := re.match(r"methods\.\d+", column):  # a contender's own, and not the others'
        called = [rows[c] for part in ("label", "name") if (c := f"{of[0]}.{part}") in rows]
        if called:
            epsilon = epsilon.where(rows["contender"] == called[0].fillna(called[-1]))
    return rows.assign(epsilon=epsilon)


def privacy(table: pd.DataFrame) -> go.Figure:
    """What does privacy cost?

    table: epsilon (of (ε, δ)-differential privacy; infinite or NaN without), contender, algorithm, setting,
    seed, score, metric, higher_is_better; a row per run. Lines are means over seeds with 95 % intervals,
    log axis; dotted is the score without privacy.
    """
    rows = f.scored(table)
    private = rows[rows["epsilon"].notna() & (rows["epsilon"].abs() < math.inf)]
    if private.empty:
        raise NoDataError("no run with a privacy budget (ε)")
    caption = "Left is more private. "
    fig = f.figure("What does privacy cost?", caption + _means_caption(private, ["contender", "epsilon"]))
    looks = style.looks(rows)
    metric = str(rows["metric"].iloc[0])
    _series(fig, private, "epsilon", {str(c): looks[str(c)] for c in private["contender"]}, "contender",
            lambda x: f"ε = {x:g}")  # fmt: skip
    without = rows[~rows.index.isin(private.index)]
    for contender, group in without.groupby("contender", sort=False):
        score, look = float(group["score"].mean()), looks[str(contender)]
        ends = [float(private["epsilon"].min()), float(private["epsilon"].max())]
        fig.add_scatter(
            x=ends, y=[score, score], mode="lines", name=f"{look.name}, not private",
            line={"color": look.colour, "dash": "dot", "width": 2}, hoverinfo="text",
            hovertext=[f"<b>{look.name}</b>, not private<br>{units.score_text(score, metric)}"] * 2,
        )  # fmt: skip
    axis, budgets = f.log_ticks(private["epsilon"]), sorted(private["epsilon"].unique())
    if len(budgets) <= 8:
        axis |= {"tickvals": budgets, "ticktext": [f"{epsilon:g}" for epsilon in budgets]}
    fig.update_layout(
        xaxis={"title": {"text": "privacy budget ε (log scale)"}, **axis},
        yaxis=f.score_axis(rows) | {"zeroline": False},
    )
    return fig


def attacked_runs(attacks: pd.DataFrame | None, settings: pd.DataFrame, x: str = "epsilon") -> pd.DataFrame:
    """The columns that `membership` draws, from the attacks on runs whose privacy budget varies."""
    column = field(settings, x)
    if attacks is None or attacks.empty:
        raise NoDataError("no run was attacked (fedsim attack, or attack in a sweep)")
    if column is None:
        raise NoDataError(f"no privacy budget (a setting called {x}) varies over the runs")
    rows = attacks.drop(columns="epsilon").merge(settings[["run", column]], on="run")
    best = rows.sort_values("auc").groupby(["run", "target"], sort=False).tail(1)
    return best.assign(epsilon=pd.to_numeric(best[column], errors="coerce"))


def membership(table: pd.DataFrame) -> go.Figure:
    """How well are members of the training data told, the best attack taken?

    table: epsilon (infinite or NaN without privacy), target (what is attacked), setting, seed, auc, auc_low,
    auc_high; a row per run and target. Lines are means over seeds, bars the mean 95 % intervals; on the
    right, runs without privacy; 0.5 is a guess.
    """
    private = table["epsilon"].notna() & (table["epsilon"].abs() < math.inf)
    if not private.any():
        raise NoDataError("no attacked run with a privacy budget (ε)")
    places = sorted({float(e) for e in table.loc[private, "epsilon"]})
    names = [f"{e:g}" for e in places] + ([] if private.all() else ["none"])
    rows = table.assign(place=table["epsilon"].map("{:g}".format).where(private, "none"))
    fig = f.figure(
        "How well are members of the training data told?",
        "Area under the curve of the best attack on each target; bars are 95% intervals; 0.5 is a guess.",
    )
    for number, (target, group) in enumerate(rows.groupby("target", sort=False)):
        found = group.groupby("place")[["auc", "auc_low", "auc_high"]].mean().reindex(names).dropna()
        words = str(target)
        fig.add_scatter(
            x=list(found.index), y=list(found["auc"]), mode="lines+markers", name=words,
            line={"color": (style.BLUE, style.ORANGE, style.GREY)[number % 3], "width": 2.5},
            marker={"size": 10},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.2,
                "array": list(found["auc_high"] - found["auc"]),
                "arrayminus": list(found["auc"] - found["auc_low"]),
            },
            hovertext=[f"<b>{words}</b><br>ε = {e}<br>AUC {auc:.3f}" for e, auc in found["auc"].items()],
            hoverinfo="text",
        )  # fmt: skip
    fig.add_hline(y=0.5, line={"dash": "dot", "width": 1.5, "color": style.GREY})
    fig.update_layout(
        xaxis={
            "title": {"text": "privacy budget ε (left is more private)"}, "type": "category",
            "categoryorder": "array", "categoryarray": names,
        },
        yaxis={"title": {"text": "AUC of the best attack"}},
    )  # fmt: skip
    return fig


def troubled_runs(summary: pd.DataFrame, settings: pd.DataFrame, x: str | None = None) -> pd.DataFrame:
    """The columns that `robustness` draws: from the share of adversaries, of dropouts or of lost messages,
    or from any numeric setting `x`."""
    told = {x: x} if x else _TROUBLES
    for name, words in told.items():
        column = field(settings, name)
        if column is None:
            continue
        rows = f.federated(joined(summary, settings))
        by = field(settings, "defence", "aggregation")
        defence = rows["contender"] if by is None else rows[by]
        return rows.assign(share=rows[column].astype(float).fillna(0.0), defence=defence, trouble=words)
    missing = f"setting {x}" if x else "share of adversaries, dropouts or lost messages"
    raise NoDataError(f"no {missing} varies over the runs")


def robustness(table: pd.DataFrame) -> go.Figure:
    """How much score is lost when participants fail or attack?

    table: share (0 … 1 of the participants that attack, or fail in a round; or a number), defence (how
    answers are pooled, or the contender), setting, seed, score, metric, higher_is_better; a row per run.
    Lines are means over seeds with 95 % intervals.
    """
    rows = f.scored(table)
    if rows["share"].nunique() < 2:
        raise NoDataError("the share of participants that fail or attack does not vary")
    what = str(rows["trouble"].iloc[0]) if "trouble" in rows else "participants that attack"
    fig = f.figure("How much score is lost when participants fail or attack?",
                   _means_caption(rows, ["defence", "share"]))  # fmt: skip
    names = [str(d) for d in dict.fromkeys(rows["defence"])]
    named = rows.drop(columns="contender", errors="ignore").assign(method=rows["defence"].map(str))
    looks = style.looks(named)
    form = ".0%" if rows["share"].between(0, 1).all() else ".4g"
    _series(fig, rows, "share", {n: looks[n] for n in names}, "defence", lambda x: f"{x:{form}}: {what}")
    fig.update_layout(
        xaxis={"title": {"text": style.label(what)}, "rangemode": "tozero", "zeroline": False},
        yaxis=f.score_axis(rows, may_be_log=True) | {"zeroline": False},
    )
    if form == ".0%":
        fig.update_xaxes(tickformat=form)
    return fig


def _series(
    fig: go.Figure, rows: pd.DataFrame, x: str, looks: dict[str, style.Look], by: str, where: Any
) -> None:
    """A line per value of `by`: means over runs with intervals."""
    metric = str(rows["metric"].iloc[0])
    for name, group in rows.groupby(by, sort=False):
        look = looks[str(name)]
        found = statistics.means(group, by=(x,)).sort_values(x)
        settings = found[x].map(group.groupby(x)["setting"].nunique())
        half = ((found["high"] - found["low"]) / 2).where(settings == 1)  # over seeds, never over settings
        fig.add_scatter(
            x=list(found[x]), y=list(found["mean"]), mode="lines+markers", name=look.name,
            line={"color": look.colour, "dash": look.dash, "width": 2.5},
            marker={"symbol": look.symbol, "size": 10, "color": look.colour},
            error_y={"type": "data", "array": list(half), "thickness": 1.2} if half.notna().any() else None,
            cliponaxis=False,  # a share of zero lies on the plot's edge
            hovertext=[
                f"<b>{look.name}</b><br>{where(row[x])}<br>{units.score_text(row['mean'], metric)}"
                + (f", mean of {row['n']} runs" if row["n"] > 1 else ", one run")
                for row in found.to_dict("records")
            ],
            hoverinfo="text",
        )  # fmt: skip


def _means_caption(rows: pd.DataFrame, by: list[str]) -> str:
    runs = statistics.means(rows, by=by)["n"]
    if runs.max() == 1:
        return "Every mark is a single run."
    size = str(runs.min()) if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    marks = rows.groupby(by)["setting"].agg(["size", "nunique"])
    caption = f"A mark is the mean of {size} runs" + (
        " of several settings" if marks["nunique"].max() > 1 else ""
    )
    sure = marks["size"].gt(1) & marks["nunique"].eq(1)
    return caption + ("; lines are 95% intervals over seeds." if sure.any() else ".")

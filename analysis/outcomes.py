"""What each contender of each run came to beside its score: for the institutions, and at what cost.

    gap closed   (score − mean institution alone) ÷ (centralised − mean institution alone), on the global
                 test set: 0 is what an institution has without the others, 1 is all data in one place
    gain         U(together) − U(alone) of an institution on its own test data; U is the accuracy, or minus
                 the loss in nats (− ln perplexity), so that institutions with hard data don't outweigh
                 others. Together is the student that everyone gets (without one the own specialist), alone
                 is the specialist of `solo`. The gain with the own specialist stands beside it: who has few
                 classes may do best with that. Reported: mean, least, mean of the worst tenth, share harmed
                 (gain below 0), and Jain's index (Σg)² ÷ (n Σg²), which is 1 where all gain alike and has a
                 meaning only where nobody loses
    to target    bytes (up + down), rounds and virtual seconds until the student's score is first at least
                 some share of the centralised score of the same run

All are computed run by run, so that seeds are paired; a number that a run can't give is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis import style
from analysis.load import SUMMARY, Tables

OUTCOMES: dict[str, str] = {
    "gap_closed": "part of the way from the mean institution alone to the centralised score",
    "gain_mean": "mean gain of the institutions on their own test data, accuracy or nats",
    "gain_least": "smallest gain of an institution",
    "gain_worst": "mean gain of the tenth of the institutions that gain least",
    "harmed": "share of institutions that are better off alone",
    "jain": "Jain's index of the gains; NaN where one of them is negative",
    "specialist_gain": "mean gain with the specialist that an institution has at the end, not the student",
    "specialist_harmed": "share of institutions whose specialist is worse than alone",
    "rounds_to_target": "rounds until the target score; NaN where a run never reaches it",
    "bytes_to_target": "bytes up and down until then",
    "virtual_s_to_target": "virtual seconds until then",
    "flops_participant": "counted floating-point operations of a participant, all rounds, mean over them",
    "device_s": "seconds that takes on its device by the virtual clock",
    "measured_s": "seconds that its steps took where they were simulated",
    "flops_coordinator": "counted floating-point operations of the coordinator, all rounds",
    "energy_j": "counted joules of everybody, all rounds; NaN without `flops_per_joule`",
    "co2e_g": "grams of CO₂e for them; NaN without `evaluation.co2e_g_per_kwh`",
}
"""Columns that `per_run` adds to a summary."""

READ: dict[str, tuple[str, ...]] = {
    "summary": SUMMARY,
    "rounds": (
        "method", "algorithm", "round", "higher_is_better", "student", "score",
        "bytes_up", "bytes_down", "virtual_s", "flops_coordinator", "peak_memory_mib",
    ),
    "participants": (
        "method", "round", "participant", "compute_s", "flops", "wall_s", "local_score", "peak_memory_mib",
    ),
    "measures": ("method", "round", "name", "value"),
}  # fmt: skip
"""What has to be loaded for all that is here, table by table."""

WORST = 0.1
"""Part of the institutions that `gain_worst` is about."""


def per_run(tables: Tables, share: float = 0.95) -> pd.DataFrame:
    """The summary with the columns of OUTCOMES.

    share: of the centralised score (turned over where lower is better) that is the target.
    """
    summary = tables.summary.assign(method=_method_of(tables.summary), gap_closed=gap_closed(tables.summary))
    facts = equity(tables).merge(efforts(tables), on=["run", "method"], how="outer")
    goals = _targets(summary, share)
    facts = facts.merge(until(tables.rounds, goals), on=["run", "method"], how="outer")
    whole = summary.merge(facts, on=["run", "method"], how="left")
    whole = whole.astype(dict.fromkeys(OUTCOMES, float))
    best = ~whole["student"].astype(bool) & whole["contender"].str.endswith("_best")
    whole.loc[best, [c for c in OUTCOMES if c != "gap_closed"]] = np.nan  # the mean's row says it once
    return whole[[*tables.summary, *OUTCOMES]]


def gap_closed(summary: pd.DataFrame) -> pd.Series[float]:
    """Of every row; NaN in runs without institutions alone or a centralised bound that is above them."""
    alone = (summary["algorithm"] == "solo") & summary["contender"].str.endswith("_mean")
    low, high = (
        summary["run"].map(summary[mask].groupby("run")["score"].first()).astype(float)
        for mask in (alone, summary["algorithm"] == "centralized")
    )
    way = (high - low).where((high > low) == summary["higher_is_better"].astype(bool))
    return ((summary["score"] - low) / way.replace(0.0, np.nan)).astype(float)


def equity(tables: Tables) -> pd.DataFrame:
    """One row per run and method: run, method, and what OUTCOMES says of gains."""
    columns = ["gain_mean", "gain_least", "gain_worst", "harmed", "jain"]
    own = ["specialist_gain", "specialist_harmed"]
    people = tables.participants
    people = people[people["local_score"].notna()].sort_values("round", kind="stable")
    # Each as it was last seen: not everybody is asked in the last round.
    people = people.drop_duplicates(["run", "method", "participant"], keep="last")
    solo = set(tables.rounds.loc[tables.rounds["algorithm"] == "solo", "method"])
    alone = people[people["method"].isin(solo)].drop_duplicates(["run", "participant"])
    alone = alone.rename(columns={"local_score": "alone"})[["run", "participant", "alone"]]
    trains = tables.rounds.drop_duplicates(["run", "method"])[
        ["run", "method", "student", "higher_is_better"]
    ]
    kept = people.rename(columns={"local_score": "together"})[["run", "method", "participant", "together"]]
    both = pd.concat([_students(tables.measures).assign(of=True), kept.assign(of=False)])
    both = both.merge(trains, on=["run", "method"]).merge(alone, on=["run", "participant"])
    both = both[~both["method"].isin(solo)]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for (run, method, of_student), group in both.groupby(["run", "method", "of"], sort=False):
        together, before = (group[c].to_numpy(float) for c in ("together", "alone"))
        gain = together - before if group["higher_is_better"].iloc[0] else np.log(before) - np.log(together)
        found, row = shares(gain), rows.setdefault((str(run), str(method)), {})
        if of_student == group["student"].iloc[0]:
            row |= dict(zip(columns, found, strict=True))
        if not of_student:
            row |= {"specialist_gain": found[0], "specialist_harmed": found[3]}
    table = [{"run": run, "method": method, **row} for (run, method), row in rows.items()]
    return pd.DataFrame(table, columns=["run", "method", *columns, *own])


def shares(gains: Iterable[float]) -> tuple[float, float, float, float, float]:
    """(mean, least, mean of the worst tenth, share harmed, Jain's index) of at least one gain."""
    gain = np.sort(np.asarray(list(gains), float))
    worst = gain[: math.ceil(WORST * len(gain))].mean()
    return float(gain.mean()), float(gain[0]), float(worst), float((gain < 0).mean()), jain(gain)


def jain(gain: np.ndarray) -> float:
    """(Σg)² ÷ (n Σg²) (Jain, Chiu and Hawe 1984): 1/n … 1; NaN where somebody loses or nobody gains."""
    squares = float((gain**2).sum())
    return float(gain.sum() ** 2 / (len(gain) * squares)) if (gain >= 0).all() and squares else math.nan


def efforts(tables: Tables) -> pd.DataFrame:
    """One row per run and method: run, method, and what OUTCOMES says of operations, time and energy."""
    keys = ["run", "method"]
    sums = tables.participants.groupby([*keys, "participant"])[["flops", "compute_s", "wall_s"]].sum()
    names = {"flops": "flops_participant", "compute_s": "device_s", "wall_s": "measured_s"}
    each = sums.groupby(level=keys).mean().rename(columns=names)
    central = tables.rounds.groupby(keys)["flops_coordinator"].sum()
    energy = tables.measures[tables.measures["name"].str.startswith("energy/")]
    joules = energy[energy["name"].str.endswith("_j")].groupby(keys)["value"].sum().rename("energy_j")
    carbon = energy[energy["name"] == "energy/co2e_g"].groupby(keys)["value"].sum().rename("co2e_g")
    return pd.concat([central, each, joules, carbon], axis=1).reset_index()


def until(rounds: pd.DataFrame, targets: pd.Series[float]) -> pd.DataFrame:
    """When each method first reached a score: run, method, rounds, bytes and virtual seconds `_to_target`.

    targets: score by (run, method), or by run for all methods alike; methods that never reach theirs, or
    have none, are left out. Nothing is interpolated: a round counts whole.
    """
    columns = ["rounds_to_target", "bytes_to_target", "virtual_s_to_target"]
    keys = list(targets.index.names)
    rows = rounds.merge(targets.rename("target").reset_index(), on=keys) if len(targets) else rounds.iloc[:0]
    if rows.empty:
        return pd.DataFrame(columns=["run", "method", *columns])
    rows = rows.sort_values(["run", "method", "round"], kind="stable")
    each = rows.groupby(["run", "method"])
    rows = rows.assign(
        rounds_to_target=rows["round"].astype(float),
        bytes_to_target=(rows["bytes_up"] + rows["bytes_down"])
        .groupby([rows["run"], rows["method"]])
        .cumsum(),
        virtual_s_to_target=each["virtual_s"].cumsum(),
    )
    above, target = rows["score"].where(rows["higher_is_better"], -rows["score"]), rows["target"]
    there = above >= target.where(rows["higher_is_better"], -target)
    # Round 0 of a method without a student is the student's public start, which it never had.
    there &= rows["student"] | (rows["round"] > 0)
    return rows[there].drop_duplicates(["run", "method"])[["run", "method", *columns]].reset_index(drop=True)


def equal_score(tables: Tables, first: str) -> pd.DataFrame:
    """Bytes to the same score, of a contender and each other that sends anything, run by run.

    The score is the worse of the two's last, so both reach it. Columns: run, contender, score, ours,
    theirs (bytes up and down until then).
    """
    summary = tables.summary.assign(method=_method_of(tables.summary))
    summary = summary[~(summary["contender"].str.endswith("_best") & ~summary["student"].astype(bool))]
    mine = summary[summary["contender"] == first].set_index("run")["score"]
    found = []
    for name, rows in summary[summary["contender"] != first].groupby("contender", sort=False):
        rows = rows[(rows["bytes_up"] + rows["bytes_down"] > 0) & rows["run"].isin(mine.index)]
        if rows.empty:
            continue
        method, theirs = str(rows["method"].iloc[0]), rows.set_index("run")["score"]
        worse = np.minimum if bool(rows["higher_is_better"].iloc[0]) else np.maximum
        score = worse(theirs, mine.reindex(theirs.index)).rename("score")
        reached = until(tables.rounds[tables.rounds["method"].isin([first, method])], score)
        sent = reached.pivot(index="run", columns="method", values="bytes_to_target")
        sent = sent.reindex(columns=[first, method]).dropna().set_axis(["ours", "theirs"], axis=1)
        found.append(sent.join(score).reset_index().assign(contender=name))
    columns = ["run", "contender", "score", "ours", "theirs"]
    return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def _targets(summary: pd.DataFrame, share: float) -> pd.Series[float]:
    """The target of each run that has a centralised score."""
    bound = summary[summary["algorithm"] == "centralized"].drop_duplicates("run").set_index("run")
    return (bound["score"] * share).where(bound["higher_is_better"].astype(bool), bound["score"] / share)


def _students(measures: pd.DataFrame) -> pd.DataFrame:
    """Each run's and method's student on the institutions' own test data, after the last round:
    run, method, participant, together."""
    rows = measures[measures["name"].str.startswith("local/")]
    if len(rows):
        rows = rows[rows["round"] == rows.groupby(["run", "method"])["round"].transform("max")]
    who = rows["name"].str.removeprefix("local/").astype("int64")
    return rows.assign(participant=who, together=rows["value"])[["run", "method", "participant", "together"]]


def _method_of(summary: pd.DataFrame) -> list[str]:
    """The method behind each contender: `solo` of `solo_best`."""
    return [
        name if student else style.split(name)[0]
        for name, student in zip(summary["contender"], summary["student"], strict=True)
    ]

"""What a report says in words: the result in two sentences, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from analysis import style, units
from analysis.load import Tables


def headline(tables: Tables) -> str:
    """The result in one sentence: the student against the centralised upper bound."""
    picked = _student(tables.summary)
    if picked is None:
        several = tables.summary["metric"].nunique() > 1
        return "Runs with different metrics." if several else "No contender has a score yet."
    student, score = picked
    name, metric = _name(tables.summary, student), str(student["metric"].iloc[0])
    means = student.groupby("setting")[["score", "ratio_to_centralized"]].mean()
    if len(means) > 1:  # a mean over settings would be of nothing that was run
        score = _range(means["score"], lambda value: units.score_text(value, metric))
    ratio = _range(means["ratio_to_centralized"], units.percent_text)
    reached = f"{metric} {score}"
    if len(means) > 1:
        reached += f", depending on which of {len(means):,} settings"
    elif len(student) > 1:
        reached += f" on average over {len(student)} runs"
    if not ratio:
        return f"{name} reaches {reached}; no centralised run says how good that is."
    return f"{name} reaches {ratio} of centralised training, {reached}."


def context(tables: Tables) -> str:
    """What it costs and what it is better or worse than; empty without a student."""
    picked = _student(tables.summary)
    if picked is None:
        return ""
    summary, (student, _) = tables.summary, picked
    mine = float((student["bytes_up"] + student["bytes_down"]).mean())
    parts: list[str] = []
    if mine > 0:
        several = " on average" if len(student) > 1 else ""
        sentence = f"It sends {units.bytes_text(mine)} in all{several}"
        ours, other = _paired(student, summary[summary["algorithm"] == "fedavg"])
        mine, theirs = (
            float((r["bytes_up"] + r["bytes_down"]).mean()) if len(r) else 0.0 for r in (ours, other)
        )
        if theirs > 0 and student["algorithm"].iloc[0] != "fedavg":
            times = float(f"{max(theirs / mine, mine / theirs):.3g}")
            way = "less" if theirs > mine else "more"
            name = _name(summary, other)
            sentence += f", {times:,g} times {way} than {name}" if times > 1 else f", as much as {name}"
        parts.append(sentence + ".")
    solo = (summary["algorithm"] == "solo") & ~summary["student"].astype(bool)
    verdicts = [
        (_compare(*_paired(student, summary[mask])), phrase)
        for mask, phrase in (
            (solo & summary["contender"].str.endswith("_best"), "the best institution alone"),
            (solo & summary["contender"].str.endswith("_mean"), "the average institution alone"),
            (summary["algorithm"] == "proxy_only", "training on the public proxy set only"),
            (summary["algorithm"] == "fedavg", "FedAvg"),
        )
        if mask.any() and student["algorithm"].iloc[0] not in set(summary.loc[mask, "algorithm"])
    ]  # fmt: skip
    for verdict in ("better than", "worse than", "equal to"):
        which = [phrase for found, phrase in verdicts if found == verdict]
        if which:
            parts.append(f"Its score is {verdict} {_join(which)}.")
    return " ".join(parts)


def evidence(tables: Tables) -> str:
    """How many runs and seeds stand behind the numbers. One is never passed over in silence."""
    seeds = sorted(int(s) for s in tables.rounds["seed"].dropna().unique())
    rounds = int(tables.rounds["round"].max()) if len(tables.rounds) else 0
    count = tables.participants["participant"].nunique() or tables.partition["participant"].nunique()
    size = (
        f"{_many(int(count), 'participant')}, {_many(rounds, 'round')}" if count else _many(rounds, "round")
    )
    if len(tables.runs) == 1:
        seed = f"one seed ({seeds[0]})" if len(seeds) == 1 else _many(len(seeds), "seed")
        return f"One run, {seed}, {size}. A single seed says nothing about how much these numbers vary."
    listed = ", ".join(map(str, seeds[:8])) + (", …" if len(seeds) > 8 else "")
    settings = tables.settings["setting"].nunique()
    words = f"{len(tables.runs)} runs, {_many(settings, 'setting')}, seeds {listed}; up to {size}. "
    most = tables.summary.groupby(["contender", "setting"])["seed"].nunique().max()
    if not most > 1:
        return words + "Every setting was run with a single seed, so nothing here has an interval."
    return words + "Intervals are 95%, over the seeds of a setting."


def _student(summary: pd.DataFrame) -> tuple[pd.DataFrame, str] | None:
    """The rows of the contender that the report is about, and its score in words."""
    scored = summary[summary["score"].notna()]
    if scored.empty or scored["metric"].nunique() > 1:
        return None
    order = sorted(
        set(zip(scored["contender"], scored["algorithm"], strict=True)), key=lambda pair: style.rank(*pair)
    )
    first = next((c for c in scored["contender"] if (c, "federated_distillation") in order), order[0][0])
    rows = scored[scored["contender"] == first]
    return rows, units.score_text(float(rows["score"].mean()), str(rows["metric"].iloc[0]))


def _range(values: pd.Series[float], text: Callable[[float], str]) -> str:
    """The smallest and the largest in words, one where they read the same; empty without any."""
    known = values.dropna()
    ends = dict.fromkeys(text(float(end)) for end in (known.min(), known.max())) if len(known) else {}
    return " to ".join(ends)


def _paired(student: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of the student and of one of several contenders that have the same setting and seed; of those
    of one algorithm the contender that is called so, else the first."""
    scored = others[others["score"].notna()]
    plain = scored[scored["contender"] == scored["algorithm"]]
    scored = plain if len(plain) else scored
    scored = scored[scored["contender"] == scored["contender"].iloc[0]] if len(scored) else scored
    key = ["setting", "seed"]
    mine, theirs = (rows.drop_duplicates(key).set_index(key, drop=False) for rows in (student, scored))
    both = mine.index.intersection(theirs.index)
    return mine.loc[both], theirs.loc[both]


def _compare(student: pd.DataFrame, other: pd.DataFrame) -> str:
    """Empty where nothing can be compared."""
    if student.empty:
        return ""
    mine, theirs = float(student["score"].mean()), float(other["score"].mean())
    if math.isclose(mine, theirs, rel_tol=1e-9):
        return "equal to"
    return "better than" if (mine > theirs) == bool(student["higher_is_better"].iloc[0]) else "worse than"


def _name(summary: pd.DataFrame, rows: pd.DataFrame) -> str:
    return style.looks(summary)[str(rows["contender"].iloc[0])].plain


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")

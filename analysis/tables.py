"""The tables of a report and of a paper: what every contender reached, and how far it is from the others.

Each is a DataFrame of plain numbers, from which a report, CSV and LaTeX are made (`analysis.export`).
"""

from __future__ import annotations

import pandas as pd

from analysis import settings as of_runs
from analysis import statistics, style
from analysis.figures import frame as f
from analysis.outcomes import OUTCOMES

CONTENDERS: dict[str, str] = {
    "contender": "label of the method; <label>_best and <label>_mean without a student",
    "algorithm": "the method's registered name",
    "student": "whether the method trains a student",
    "setting": "what distinguishes its runs from others, but for the seed; empty where all have one",
    "metric": "`perplexity` (per token) or `accuracy`, on the global test set",
    "higher_is_better": "direction of the metric",
    "n": "runs with different seeds",
    "score": "mean over them",
    "low": "lower end of the 95 % interval of the mean; NaN for a single run",
    "high": "its upper end",
    "sd": "standard deviation of the runs; NaN for a single one",
    "ratio_to_centralized": "mean share of the centralised score; NaN without it",
    "bytes_up": "mean bytes of all messages to the coordinator, all rounds",
    "bytes_down": "mean bytes of all messages from the coordinator, all rounds",
    "virtual_s": "mean seconds on the virtual clock, all rounds",
}
"""Columns of `contenders`."""


def contenders(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per contender and setting, means over seeds; see CONTENDERS.

    summary: may have the columns of OUTCOMES (`outcomes.per_run`), which the table then has as well: means
    where every run has a number, else NaN. Methods come first, then what they are measured against. A
    repeated run counts once.
    """
    key = ["contender", "setting", "metric"]
    table = statistics.means(summary, by=key).rename(columns={"mean": "score"})
    facts = {c: "first" for c in ("algorithm", "student", "higher_is_better")}
    sums = dict.fromkeys(list(CONTENDERS)[-4:], "mean")
    groups = statistics.independent(summary).groupby(key, sort=False)
    table = table.merge(groups.agg(facts | sums).reset_index(), on=key, validate="one_to_one")
    more = [column for column in OUTCOMES if column in summary]
    if more:
        every = groups[more].mean().where(groups[more].count().eq(groups.size(), axis=0))
        table = table.merge(every.reset_index(), on=key, validate="one_to_one")
    ranks = [style.rank(c, a) for c, a in zip(table["contender"], table["algorithm"], strict=True)]
    order = sorted(range(len(table)), key=lambda row: ranks[row])
    return table.iloc[order][[*CONTENDERS, *more]].reset_index(drop=True)


def comparisons(summary: pd.DataFrame) -> pd.DataFrame:
    """The federation against every other contender, over pairs of runs with the same setting and seed:
    the columns of `statistics.comparisons`, empty where there is no federation."""
    scored = summary[summary["score"].notna()]
    first = federation(summary)
    known = first is not None and scored["metric"].nunique() == 1
    return statistics.comparisons(scored if known else scored.iloc[:0], first or "")


def federation(summary: pd.DataFrame) -> str | None:
    """The contender with a score that stands for the federation; None without any."""
    scored = summary[summary["score"].notna()]
    return f.distilled(scored, scored["contender"])


def runs(table: pd.DataFrame, limit: int = 12) -> pd.DataFrame:
    """One row per run: its name, at most `limit` fields in which the runs differ, its seed.

    table: the settings of `analysis.load`.
    """
    fields = of_runs.varied(table)[:limit]
    names = of_runs.short(fields)
    return table[["run", *fields, "seed"]].rename(columns=names)

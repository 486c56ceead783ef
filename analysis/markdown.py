"""The tables of experiments as Markdown: every sweep a section, every setting of its axes a group of tables.

Of each setting: score and bytes; what institutions gain; what it costs; the federation against each other
contender, over pairs of runs with the same seed. Before them, where there are several settings, the scores
of all. Columns without a single number are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis import export, outcomes, statistics, style, units
from analysis import tables as numbers
from analysis.figures import frame as f
from analysis.load import NoDataError, Tables, load
from fedsim.disk.storage import AnyPath

WIDEST = 8
"""Settings beyond which scores are not crossed: nobody reads so wide a table."""
Cells = list[str]
Column = tuple[str, Callable[[dict[str, Any]], str]]
"""A head, and a row's text under it; `–` where it has none."""


def document(folders: Sequence[AnyPath], share: float = 0.95) -> str:
    """A section for each sweep, and one for all plain runs together, which are then repetitions or settings
    of one experiment.

    share: of the centralised score, what `to target` columns are about.
    """
    sweeps = [folder for folder in folders if (folder / "sweep.yaml").exists()]
    plain = [folder for folder in folders if folder not in sweeps]
    groups = [*([folder] for folder in sweeps), *([plain] if plain else [])]
    parts = [(group[0].resolve().name, load(group, columns=outcomes.READ)) for group in groups]
    titled = len(parts) > 1
    return "\n\n".join(section(name if titled else "", tables, share) for name, tables in parts) + "\n"


def section(title: str, tables: Tables, share: float) -> str:
    """The tables of one experiment."""
    summary = outcomes.per_run(tables, share)
    whole = numbers.contenders(summary)
    if whole.empty:
        raise NoDataError("no contender has a score yet")
    settings = list(dict.fromkeys(tables.settings["setting"]))
    there = [setting for setting in settings if setting in set(whole["setting"])]
    parts = [f"## {title}"] if title else []
    parts.append(_evidence(tables, whole, share))
    if 1 < len(there) <= WIDEST and whole["metric"].nunique() == 1:
        parts.append(_crossed(whole, there))
    for setting in there:
        parts += [f"### {setting}"] if len(there) > 1 else []
        rows = whole[whole["setting"] == setting]
        parts += [*_of_setting(rows, share), *_against(_only(tables, setting))]
    return "\n\n".join(parts)


def _of_setting(rows: pd.DataFrame, share: float) -> list[str]:
    """Score and bytes; institutions; cost."""
    looks, metric = style.looks(rows), str(rows["metric"].iloc[0])
    arrow = "↑" if bool(rows["higher_is_better"].iloc[0]) else "↓"
    goal = f"to {share:.0%}"
    name: Column = ("contender", lambda row: looks[row["contender"]].plain)
    scale, unit = (100, "pp") if metric == "accuracy" else (1, "nats")

    def gain(column: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: _signed(scale * row[column]) if math.isfinite(row[column]) else "–"

    scores: list[Column] = [
        name,
        (f"{metric} {arrow}", spread),
        ("of centralised", lambda row: units.percent_text(row["ratio_to_centralized"])),
        ("gap closed", lambda row: units.percent_text(row["gap_closed"])),
        ("bytes up", lambda row: _sent(row["bytes_up"])),
        ("bytes down", lambda row: _sent(row["bytes_down"])),
        (f"bytes {goal}", _until),
        (f"rounds {goal}", lambda row: _number(row["rounds_to_target"])),
        (f"time {goal}", lambda row: units.seconds_text(row["virtual_s_to_target"])),
        ("virtual time", lambda row: units.seconds_text(row["virtual_s"])),
    ]
    people: list[Column] = [
        name,
        (f"mean gain, {unit}", gain("gain_mean")),
        ("worst 10 %", gain("gain_worst")),
        ("least", gain("gain_least")),
        ("harmed", lambda row: units.percent_text(row["harmed"])),
        ("Jain index", lambda row: units.significant(row["jain"])),
        ("own specialist's gain", gain("specialist_gain")),
        ("harmed with it", lambda row: units.percent_text(row["specialist_harmed"])),
    ]
    costs: list[Column] = [
        name,
        ("FLOPs a participant", lambda row: _scientific(row["flops_participant"])),
        ("FLOPs of the coordinator", lambda row: _scientific(row["flops_coordinator"])),
        ("device time a participant", lambda row: units.seconds_text(row["device_s"])),
        ("measured time a participant", lambda row: units.seconds_text(row["measured_s"])),
        ("energy", lambda row: _joules(row["energy_j"])),
        ("CO₂e", lambda row: _grams(row["co2e_g"])),
    ]
    records = rows.to_dict("records")
    counted = [row for row in records if row["flops_participant"] > 0 or row["flops_coordinator"] > 0]
    return [t for t in (_table(scores, records), _table(people, records), _table(costs, counted)) if t]


def _against(tables: Tables) -> list[str]:
    """The federation minus each other contender, and the bytes to an equal score."""
    summary = tables.summary
    scored = summary[summary["score"].notna()]
    first = f.distilled(scored, scored["contender"])
    if first is None or scored["metric"].nunique() != 1:
        return []
    found = statistics.comparisons(scored, first)
    if found.empty:
        return []
    looks, metric = style.looks(summary), str(summary["metric"].iloc[0])
    equal = outcomes.equal_score(tables, first).groupby("contender")[["ours", "theirs"]].mean()
    found = found.join(equal, on="contender")
    scale = 100 if metric == "accuracy" else 1
    unit = "pp" if metric == "accuracy" else metric

    def interval(row: dict[str, Any]) -> str:
        return f"{_signed(scale * row['low'])} to {_signed(scale * row['high'])}" if row["n"] > 1 else "–"

    columns: list[Column] = [
        (f"{looks[first].plain} against", lambda row: looks[row["contender"]].plain),
        (f"difference, {unit}", lambda row: _signed(scale * row["difference"])),
        ("95 % interval", interval),
        ("better in", lambda row: f"{row['wins']} of {row['n']}"),
        ("bytes to an equal score", lambda row: _sent(row["ours"])),
        ("its bytes", lambda row: _sent(row["theirs"])),
        ("fewer", lambda row: _fewer(row["ours"], row["theirs"])),
    ]
    return [_table(columns, found.to_dict("records"))]


def _crossed(whole: pd.DataFrame, settings: Sequence[str]) -> str:
    """Scores, a row for each contender and a column for each setting; the best method's is bold."""
    looks, cells = style.looks(whole), {}
    for setting, rows in whole.groupby("setting", sort=False):
        winners = export.best(rows)
        for place, row in enumerate(rows.to_dict("records")):
            ratio = row["ratio_to_centralized"]
            share = f" ({units.percent_text(ratio)})" if math.isfinite(ratio) else ""
            text = spread(row) + share
            cells[row["contender"], setting] = f"**{text}**" if place in winners else text
    arrow = "↑" if bool(whole["higher_is_better"].iloc[0]) else "↓"
    names = list(dict.fromkeys(whole["contender"]))
    lines = [
        [looks[name].plain, *(cells.get((name, setting), "–") for setting in settings)] for name in names
    ]
    head = f"{whole['metric'].iloc[0]} {arrow} (of centralised)"
    return _lines([head, *settings], lines)


def spread(row: dict[str, Any]) -> str:
    """`48.0 ± 1.2`: the mean and the standard deviation over seeds; the mean alone for a single run."""
    mean = units.score_text(row["score"], row["metric"])
    return f"{mean} ± {units.score_text(row['sd'], row['metric'])}" if math.isfinite(row["sd"]) else mean


def _evidence(tables: Tables, whole: pd.DataFrame, share: float) -> str:
    """What the numbers rest on, and what the columns mean."""
    counts = sorted(set(whole["n"]))
    size = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    runs = (
        f"mean ± standard deviation of {size} seeds" if counts[-1] > 1 else "one run each: no spread is known"
    )
    bound = "centralised ÷ score" if not bool(whole["higher_is_better"].iloc[0]) else "score ÷ centralised"
    memory = [units.bytes_text(float(table["peak_memory_mib"].max()) * 2**20)
              for table in (tables.participants, tables.rounds)]  # fmt: skip
    return (
        f"Scores: {runs}. Of centralised: {bound}. Gap closed: from the mean institution alone (0 %) to "
        f"centralised (100 %). To {share:.0%}: until a round's score is first at least that share of the "
        "centralised one; – where a run never gets there. Gains: of institutions on their own test data with "
        "the student (without one with their specialists), against being alone; harmed: the share that "
        "loses. Bytes to an equal score: until each of the two "
        f"has what the worse one ends with. Largest resident memory: {memory[0]} of a participants' host, "
        f"{memory[1]} of a coordinator."
    )


def _only(tables: Tables, setting: str) -> Tables:
    """The runs of one setting."""
    parts = {name: getattr(tables, name) for name in ("summary", "rounds", "participants", "measures")}
    return replace(tables, **{name: part[part["setting"] == setting] for name, part in parts.items()})


def _table(columns: Iterable[Column], records: Sequence[dict[str, Any]]) -> str:
    """Empty where nothing but names would be in it; columns without a value are left out."""
    filled = [(head, [text(row) for row in records]) for head, text in columns]
    kept = [(head, cells) for head, cells in filled if set(cells) - {"–"}]
    rows = [list(row) for row in zip(*(cells for _, cells in kept), strict=True)]
    rows = [row for row in rows if set(row[1:]) - {"–"}]
    return _lines([head for head, _ in kept], rows) if len(kept) > 1 and rows else ""


def _lines(head: Cells, rows: Iterable[Cells]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in [head, ruler, *rows])


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def _sent(count: float) -> str:
    return units.bytes_text(count) if count > 0 else "–"


def _until(row: dict[str, Any]) -> str:
    """Bytes to the target, of who sends any: the public start may be there already, which takes none."""
    sends = row["bytes_up"] + row["bytes_down"] > 0 and math.isfinite(row["bytes_to_target"])
    return units.bytes_text(row["bytes_to_target"]) if sends else "–"


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    """`+1.25`. What rounding leaves of equal means is no difference."""
    return f"{round(value, 9) + 0.0:+.3g}"


def _scientific(value: float) -> str:
    return f"{value:.2e}" if value > 0 else "–"


def _joules(value: float) -> str:
    if not value > 0:
        return "–"
    return f"{value / 3600:.3g} Wh" if value >= 3600 else f"{value:.3g} J"


def _grams(value: float) -> str:
    return f"{value:.3g} g" if value > 0 else "–"


def _fewer(ours: float, theirs: float) -> str:
    """`97.1 %`; negative where more are needed."""
    return f"{100 * (1 - ours / theirs):.1f} %" if ours > 0 and theirs > 0 else "–"

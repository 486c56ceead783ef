"""Tables for papers and spreadsheets: LaTeX with booktabs, CSV, and plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from analysis import style, units
from analysis.load import NoDataError

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "α": r"$\alpha$",
    "ε": r"$\varepsilon$", "–": "--", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


def csv(table: pd.DataFrame) -> str:
    """The numbers as they are, at full precision; what is not known is empty."""
    return str(table.to_csv(index=False, lineterminator="\n"))


def latex(table: pd.DataFrame) -> str:
    """The contenders of `analysis.tables` as a LaTeX tabular; it needs the package booktabs.

    Scores are `mean ± half of the 95 % interval`, those of single runs stand alone; the best method's is
    bold, yardsticks aside. A comment says what the numbers rest on.
    """
    head, rows = texts(table)
    winners = best(table)
    lines = [[_escaped(cell) for cell in row] for row in rows]
    column = text_columns = 1 + ("setting" in head)  # the score is the first number
    for place in winners:
        lines[place][column] = rf"\textbf{{{lines[place][column]}}}"
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join([
        f"% {evidence(table)}",
        rf"\begin{{tabular}}{{{'l' * text_columns}{'r' * (len(head) - text_columns)}}}",
        r"\toprule",
        " & ".join(map(_escaped, head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ])  # fmt: skip


def text(table: pd.DataFrame) -> str:
    """The same for a terminal."""
    head, rows = texts(table)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    left = 1 + ("setting" in head)
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([*lines, "", evidence(table), ""])


FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {"text": text, "latex": latex, "csv": csv}


def texts(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the contenders as people read them; the score's column carries its direction."""
    if table.empty:
        raise NoDataError("no contender has a score yet")
    metrics = directed(table)
    settings = table["setting"].nunique() > 1
    several = metrics.nunique() > 1
    head = ["contender", *(["setting"] if settings else []), "score" if several else metrics.iloc[0],
            *(["metric"] if several else []),
            "of centralised", "bytes up", "bytes down", "virtual time"]  # fmt: skip
    looks = style.looks(table)
    rows = []
    for row, metric in zip(table.to_dict("records"), metrics, strict=True):
        sent = [units.bytes_text(row[way]) if row[way] else "–" for way in ("bytes_up", "bytes_down")]
        rows.append([
            looks[row["contender"]].plain, *([row["setting"]] if settings else []), score(row),
            *([metric] if several else []), units.percent_text(row["ratio_to_centralized"]),
            *sent, units.seconds_text(row["virtual_s"]),
        ])  # fmt: skip
    return head, rows


def directed(table: pd.DataFrame) -> pd.Series[str]:
    """Each row's metric with an arrow that says which way is better."""
    return table["metric"] + table["higher_is_better"].astype(bool).map({True: " ↑", False: " ↓"})


def score(row: dict[str, Any]) -> str:
    """`48.0 ± 1.2`: the mean and half its interval; the mean alone for a single run."""
    mean = units.score_text(row["score"], row["metric"])
    if not math.isfinite(row["low"]):
        return mean
    return f"{mean} ± {units.score_text((row['high'] - row['low']) / 2, row['metric'])}"


def evidence(table: pd.DataFrame) -> str:
    """How many runs are behind the numbers."""
    counts: Sequence[int] = sorted(set(table["n"]))
    if counts[-1] <= 1:
        return "Every score is of a single run: nothing is known of how much it varies with the seed."
    size = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Scores are means over {size} seeds, ± half of the 95 % interval; single runs have none."


def best(table: pd.DataFrame) -> list[int]:
    """Rows with the best score among a setting's methods; none where metrics differ."""
    methods = ~table["algorithm"].map(style.is_reference).astype(bool)
    if table["metric"].nunique() > 1 or not methods.any():
        return []
    # Which institution turns out best is known only afterwards: none of the methods is that.
    methods &= table["student"].astype(bool) | ~table["contender"].str.endswith("_best")
    sign = 1 if bool(table["higher_is_better"].iloc[0]) else -1
    reached = (sign * table["score"]).where(methods, -math.inf).reset_index(drop=True)
    top = reached.groupby(table["setting"].to_numpy()).transform("max")
    return [place for place in range(len(table)) if reached[place] == top[place] > -math.inf]


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)

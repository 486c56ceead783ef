"""What a sweep found, in a terminal: a line per setting, with its spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fedsim.progress import aligned, megabytes
from fedsim.results import Row
from fedsim.sweeps.run import Outcome, score

_MOST = 48
"""Settings beyond these are for the report: nobody reads so long a table."""


def over_seeds(outcome: Outcome) -> str:
    """A line per setting of the finished trials: mean ± standard deviation of the contender that is compared.

    Empty where no setting was tried with several seeds, or where there are too many of them.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    for trial in outcome.having("finished"):
        setting = tuple(str(value) for axis, value in trial.plain.items() if axis != "seed")
        row = score(trial)
        if row is not None:
            found.setdefault(setting, []).append(row)
    rows = [row for group in found.values() for row in group]
    if not 1 < len(found) <= _MOST or len(rows) == len(found) or len({row["metric"] for row in rows}) != 1:
        return ""
    axes = [axis for axis in outcome.trials[0].plain if axis != "seed"]
    arrow = "↑" if rows[0]["higher_is_better"] else "↓"
    head = [*axes, f"{rows[0]['metric']} {arrow}", "of central", "sent up", "sent down", "seeds"]
    lines = [[*setting, *_cells(group)] for setting, group in found.items()]
    return aligned([head, *lines], left=range(len(axes)))


def _cells(group: Sequence[Row]) -> list[str]:
    digits = 4 if group[0]["higher_is_better"] else 2
    shares = [row["ratio_to_centralized"] for row in group]
    return [
        _spread([row["score"] for row in group], digits),
        "–" if None in shares else f"{_spread([100 * share for share in shares], 1)} %",
        *(megabytes(statistics.fmean(row[way] for row in group)) for way in ("bytes_up", "bytes_down")),
        str(len(group)),
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

"""What a sweep found, in a terminal: scores by setting, with their spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from fedsim.progress import aligned, megabytes
from fedsim.results import Row
from fedsim.sweeps.run import Outcome
from fedsim.sweeps.states import attacked, score, taken_in

_LONGEST, _WIDEST = 48, 8
"""Beyond so many lines or columns a table is for the report: nobody reads it here."""

_ATTACKED, _TAKEN_IN = "attacked", "taken in"

Setting = tuple[str, ...]


def over_seeds(outcome: Outcome) -> str:
    """The finished trials' scores of the contender that is compared, mean ± standard deviation over seeds.

    Two axes make a table of one against the other; otherwise every setting has a line, with its bytes. Empty
    where there is but one setting, where there are too many, and where scores are of different metrics.
    """
    found: dict[Setting, list[Row]] = {}
    for trial in outcome.having("finished"):
        setting = tuple(str(value) for axis, value in trial.plain.items() if axis != "seed")
        row = score(trial)
        if row is not None:
            more = {_ATTACKED: attacked(trial), _TAKEN_IN: taken_in(trial)}
            found.setdefault(setting, []).append(row | more)
    rows = [row for group in found.values() for row in group]
    if len(found) < 2 or len({row["metric"] for row in rows}) != 1:
        return ""
    axes = [axis for axis in outcome.trials[0].plain if axis != "seed"]
    better = "higher" if rows[0]["higher_is_better"] else "lower"
    counts = sorted({len(group) for group in found.values()})
    several = f"mean ± sd of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"
    runs = "one run each" if counts == [1] else several
    title = f"{rows[0]['metric']}, {better} is better, {runs}"
    crossed = len(axes) == 2 and len({setting[1] for setting in found}) <= _WIDEST
    lines = _crossed(axes, found) if crossed else _listed(axes, found)
    if len(lines) > _LONGEST + 1:
        return ""
    tables = [f"{title}\n{aligned(lines, left=range(1 if crossed else len(axes)))}"]
    backdoors = {setting: group for setting, group in found.items() if group[0][_TAKEN_IN] is not None}
    if backdoors and crossed:
        works = {s: [{**row, "score": row[_TAKEN_IN]} for row in group] for s, group in backdoors.items()}
        lines = _crossed(axes, works)
        tables.append(
            f"triggered images that the student takes for the backdoor's label\n{aligned(lines, left=(0,))}"
        )
    return "\n\n".join(tables)


def _crossed(axes: Sequence[str], found: Mapping[Setting, Sequence[Row]]) -> list[list[str]]:
    down, across = (list(dict.fromkeys(setting[k] for setting in found)) for k in (0, 1))
    lines = [[axes[0], *(f"{axes[1].rpartition('.')[2]}={value}" for value in across)]]
    for first in down:
        groups = [found.get((first, second)) for second in across]
        lines.append([first, *(_score(group) if group else "–" for group in groups)])
    return lines


def _listed(axes: Sequence[str], found: Mapping[Setting, Sequence[Row]]) -> list[list[str]]:
    targets = list(dict.fromkeys(t for group in found.values() for row in group for t in row[_ATTACKED]))
    told = [f"AUC, {target}" for target in targets]
    lines = [[*axes, "score", "of central", "sent up", "sent down", *told, "seeds"]]
    for setting, group in found.items():
        shares = [row["ratio_to_centralized"] for row in group]
        sent = [megabytes(statistics.fmean(row[way] for row in group)) for way in ("bytes_up", "bytes_down")]
        part = "–" if None in shares else f"{_spread([100 * share for share in shares], 1)} %"
        aucs = [_spread([row[_ATTACKED].get(t, math.nan) for row in group], 3) for t in targets]
        lines.append([*setting, _score(group), part, *sent, *aucs, str(len(group))])
    return lines


def _score(group: Sequence[Row]) -> str:
    return _spread([row["score"] for row in group], 3 if group[0]["higher_is_better"] else 2)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

"""What distinguishes runs: their settings, from the resolved configs and, in a sweep, its axes.

Runs have the same *setting* if they differ in nothing but the seed (and in name, place and `runtime`:
where it ran). Intervals are over the runs of a setting, never across settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

_APART = re.compile(r"^(?:name|seed|output|plugins|runtime):.*\n(?:[ \t-].*\n|\n)*", re.MULTILINE)
"""Top-level fields, with what belongs to them, that make no other setting."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LONGEST = 64
"""Characters; a longer label gives way to a run's name."""


def table(
    names: Sequence[str], configs: Sequence[str], axes: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """One row per run: `run`, `setting`, a column per axis of a sweep, a column per field of the config.

    configs: texts of config.yaml, empty where there is none.   axes: trial → axis → value, for the
    runs that are a sweep's.   Fields have dotted names (`participants.partition.alpha`, `methods.0.name`),
    lists of plain values are text. `setting` says what differs, as `alpha=0.1, count=10`; it is empty
    where all runs have one setting.
    """
    keys = [_APART.sub("", config) or name for name, config in zip(names, configs, strict=True)]
    firsts = {key: place for place, key in reversed(list(enumerate(keys)))}
    parsed = {key: _parse(configs[place]) for key, place in firsts.items()}
    labels = _labels({key: names[place] for key, place in firsts.items()}, parsed, axes)
    rows = [
        {"run": name, "setting": labels[key], **axes.get(name, {}), **parsed[key], "seed": _seed(config)}
        for name, key, config in zip(names, keys, configs, strict=True)
    ]
    return pd.DataFrame(rows)


def short(fields: Sequence[str]) -> dict[str, str]:
    """`participants.partition.alpha` → `alpha`, for every field whose last part is no other's too."""
    tails = [field.rsplit(".", 1)[-1] for field in fields]
    return {f: t if tails.count(t) == 1 else f for f, t in zip(fields, tails, strict=True)}


def varied(settings: pd.DataFrame) -> list[str]:
    """The axes of the sweep, or the fields that differ; not the seed."""
    fields = [c for c in settings if c not in ("run", "setting", "seed", "name", "output")]
    fields = [c for c in fields if not str(c).startswith(("runtime.", "plugins"))]
    return [str(c) for c in fields if settings[c].map(str).nunique() > 1]


def _labels(
    firsts: Mapping[str, str], parsed: Mapping[str, Mapping[str, Any]], axes: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """A label for each setting; by the sweep's own axes where all runs are of one."""
    if len(firsts) == 1:
        return dict.fromkeys(firsts, "")
    of_sweep = all(name in axes for name in firsts.values())
    told = {key: axes[name] if of_sweep else parsed[key] for key, name in firsts.items()}
    fields = dict.fromkeys(field for fields in told.values() for field in fields if field != "seed")
    differing = [f for f in fields if len({str(fields.get(f)) for fields in told.values()}) > 1]
    names = short(differing)
    labels = {
        key: ", ".join(f"{names[f]}={_text(fields[f])}" for f in differing if f in fields)
        for key, fields in told.items()
    }
    if any(len(label) > _LONGEST or not label for label in labels.values()):
        labels = dict(firsts)
    counts = pd.Series(list(labels.values())).value_counts()
    return {key: label if counts[label] == 1 else f"{label} ({firsts[key]})" for key, label in labels.items()}


def _text(value: Any) -> str:
    """A table's column of numbers is one of floats if one of them is: 10 stays 10."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _parse(config: str) -> dict[str, Any]:
    try:
        tree = yaml.load(_APART.sub("", config), _LOADER)
    except yaml.YAMLError:
        return {}
    return dict(_flat(tree)) if isinstance(tree, Mapping) else {}


def _seed(config: str) -> int | None:
    found = re.search(r"^seed: (\d+)$", config, re.MULTILINE)
    return int(found[1]) if found else None


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{above}.{name}" if above else str(name))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{above}.{place}")
    elif isinstance(value, list):
        yield above, ", ".join(map(str, value))
    else:
        yield above, value

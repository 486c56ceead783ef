"""Where the numbers come from: configurations and manifests of runs, and what is missing or unfinished.

Of many runs what all share is said once, and beside it for each run what is its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.load import Run

NAMED = 5
"""Most runs that a warning names."""
APART = 50
"""Most runs whose own configuration and facts the page carries; the others' folders have them."""


@dataclass(frozen=True)
class Own:
    """What is one run's alone."""

    name: str
    facts: list[tuple[str, str]]
    config: str
    """Lines of its configuration that differ from the common one's, or all of it for a single run."""


@dataclass(frozen=True)
class Provenance:
    """Of all runs of a report."""

    facts: list[tuple[str, str]]
    """Of the manifests: what all share, as (dotted name, text)."""
    config: str
    """The resolved configuration of the first run."""
    first: str
    """Its name."""
    own: list[Own]
    """The others and what the first doesn't share, at most APART of them."""
    more: int
    """Runs that are left out of `own`."""


def of(runs: Sequence[Run]) -> Provenance:
    """Of all runs what they share and what not."""
    flat = [dict(_flat(run.manifest)) for run in runs]
    shared = {k: v for k, v in flat[0].items() if all(other.get(k) == v for other in flat[1:])}
    own = [
        Own(run.name, [(k, v) for k, v in facts.items() if k not in shared],
            _difference(runs[0].config, run.config))
        for run, facts in list(zip(runs, flat, strict=True))[:APART]
    ]  # fmt: skip
    if len(runs) == 1:
        own = []
    return Provenance(list(shared.items()), runs[0].config, runs[0].name, own, max(0, len(runs) - APART))


def warnings(runs: Sequence[Run]) -> list[str]:
    """A line for each kind of file that is missing, and for runs that have not finished."""
    without: dict[str, list[str]] = {}
    for run in runs:
        for file in run.missing:
            without.setdefault(file, []).append(run.name)
    lines = [f"{file} is missing in {_named(names)}" for file, names in without.items()]
    going = [run.name for run in runs if run.manifest.get("status", "finished") != "finished"]
    return lines + ([f"not finished, shown as far as it came: {_named(going)}"] if going else [])


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more runs" if more > 0 else "")


def _difference(common: str, config: str) -> str:
    """Lines of `config` that `common` has not, each below the sections it is in."""
    old, new = common.splitlines(), config.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    lines: list[str] = []
    for kind, _, _, begin, end in matcher.get_opcodes():
        if kind in ("replace", "insert"):
            lines += _above(new, begin) + new[begin:end]
    return "\n".join(lines)


def _above(lines: Sequence[str], place: int) -> list[str]:
    """The headings of nested sections that a line is under."""
    depth, found = _depth(lines[place]), []
    for line in reversed(lines[:place]):
        if line.strip() and _depth(line) < depth:
            depth = _depth(line)
            found.append(line)
    return found[::-1]


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested manifest as rows: dotted name, text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{place}")
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, "–" if value is None else str(value)

"""From a sweep to its trials: every combination, or a drawn part of them, each a run config of its own.

All of them are made and checked before anything starts, so that a sweep doesn't fail in its last hour.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fedsim import fitting, loading, simulation
from fedsim.config import RunConfig
from fedsim.data import federation
from fedsim.errors import ConfigError
from fedsim.seeding import generator
from fedsim.sweeps.config import Draw, Scheduler, SweepConfig
from fedsim.types import METRICS, Interface

_LONGEST = 96
"""Characters of a trial's name: a file system allows 255 bytes, a reader fewer."""
_ATTEMPTS = 100
"""Draws per trial that is wanted, until a random search takes the combinations for used up."""


FIFO = Scheduler()


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    name: safe as a folder's, e.g. `0007-count=10-heterogeneity=high-seed=1`.
    axes: axis → its value here: a field's, or the name of a scenario's option.
    config: the run; its folder is `trials/<name>` in the sweep's.
    contender: whose score is compared.
    attacked: whether it is attacked at its end.
    """

    name: str
    axes: dict[str, Any]
    config: RunConfig
    contender: str
    attacked: bool = False

    @property
    def plain(self) -> dict[str, bool | int | float | str | None]:
        """The axes for tables and trackers: what is no scalar as YAML."""
        scalar = bool | int | float | str | None
        return {
            axis: value
            if isinstance(value, scalar)
            else yaml.safe_dump(value, default_flow_style=True).strip()
            for axis, value in self.axes.items()
        }


@dataclass(frozen=True)
class _Choice:
    """One value of an axis: as a name shows it, as a table holds it, and what it sets."""

    text: str
    value: Any
    fields: Mapping[str, Any]


def expand(sweep: SweepConfig) -> list[Trial]:
    """The trials of a sweep in their order: with a grid, the axis named last changes fastest.

    Raises ConfigError, which names the trial and the field.
    """
    axes = list(sweep.scenarios) + list(sweep.space)
    labels = _labels(axes)
    points = _grid(sweep) if sweep.search == "grid" else _drawn(sweep)
    return [
        _trial(sweep, number, dict(zip(axes, point, strict=True)), labels)
        for number, point in enumerate(points, 1)
    ]


def check(trials: Sequence[Trial], scheduler: Scheduler = FIFO) -> None:
    """All that can be found wrong with the trials without starting anything; reads equal data once.

    Raises ConfigError, which names the trial and the field."""
    _check_scheduler(scheduler, trials)
    planned: dict[str, Interface] = {}
    tried: set[tuple[str, ...]] = set()
    for trial in trials:
        people = trial.config.participants
        data = [
            trial.config.seed, people.count,
            trial.config.data.model_dump(), people.partition.model_dump(),
        ]  # fmt: skip
        key = json.dumps(data)
        try:
            simulation.check_settings(trial.config)
            if key not in planned:
                planned[key] = fitting.foreseen(federation.plan(trial.config))
            models = (key, *fitting.named(trial.config).values())
            if models not in tried:
                fitting.check(trial.config, planned[key], built=False)
        except ConfigError as error:
            raise _of(trial.name, error) from None
        tried.add(models)


def last_stop(trials: Sequence[Trial]) -> int:
    """The last round at which a trial can be stopped: before its own last, behind which nothing is left to
    save and the run still has a report to write."""
    return min(trial.config.rounds for trial in trials) - 1


def _check_scheduler(scheduler: Scheduler, trials: Sequence[Trial]) -> None:
    """Raise ConfigError where it can't compare the trials, or stop none of them."""
    if scheduler.kind == "fifo":
        return
    if len({METRICS[trial.config.data.reads or "text"] for trial in trials}) > 1:
        raise ConfigError("scheduler.kind", scheduler.kind, "fifo: the trials have different metrics")
    grace, last = scheduler.grace_rounds, last_stop(trials)
    if grace > last:
        expected = f"at most {last}: trials end a round later" if last else "fifo: trials end after one round"
        raise ConfigError("scheduler.grace_rounds", grace, expected)


def _trial(sweep: SweepConfig, number: int, point: Mapping[str, _Choice], labels: Mapping[str, str]) -> Trial:
    parts = [f"{number:04d}", *(f"{labels[axis]}={choice.text}" for axis, choice in point.items())]
    name = "-".join(parts)[:_LONGEST].rstrip("-=.")
    varied = {field: value for choice in point.values() for field, value in choice.fields.items()}
    own = {"name": name, "output": str(sweep.folder / "trials" / name)}
    try:
        config = loading.load(sweep.base, **{**sweep.set, **varied, **own})
    except ConfigError as error:
        raise _of(name, error) from None
    contenders = [method.contender for method in config.methods]
    contender = sweep.metric or simulation.product(config) or contenders[0]
    if contender not in contenders:
        raise ConfigError("metric", contender, f"one of trial {name}: {', '.join(contenders)}")
    values = {axis: choice.value for axis, choice in point.items()}
    return Trial(name, values, config, contender, attacked=sweep.attack is not None)


def _of(trial: str, error: ConfigError) -> ConfigError:
    return ConfigError(f"trial {trial}: {error.field}", error.value, error.expected)


def _grid(sweep: SweepConfig) -> Iterator[tuple[_Choice, ...]]:
    return itertools.product(*_listed(sweep).values())


def _listed(sweep: SweepConfig) -> dict[str, list[_Choice]]:
    """The choices of every axis that lists them."""
    scenarios = {
        name: [_Choice(option, option, fields) for option, fields in options.items()]
        for name, options in sweep.scenarios.items()
    }
    fields = {
        field: [_Choice(_text(value, place), value, {field: value}) for place, value in enumerate(axis)]
        for field, axis in sweep.space.items()
        if not isinstance(axis, Draw)
    }
    return scenarios | fields


def _drawn(sweep: SweepConfig) -> list[tuple[_Choice, ...]]:
    """`trials` different combinations, each axis from a stream of its own."""
    assert sweep.trials is not None
    listed = _listed(sweep)
    spans = {field: axis for field, axis in sweep.space.items() if isinstance(axis, Draw)}
    points: dict[tuple[str, ...], tuple[_Choice, ...]] = {}
    for attempt in range(_ATTEMPTS * sweep.trials):
        point = []
        for axis in [*sweep.scenarios, *sweep.space]:
            rng = generator(sweep.seed, "sweep", axis, attempt)
            if axis in listed:
                point.append(listed[axis][int(rng.integers(len(listed[axis])))])
            else:
                value = _number(spans[axis], rng.random())
                point.append(_Choice(_text(value, 0), value, {axis: value}))
        points.setdefault(tuple(repr(choice.value) for choice in point), tuple(point))
        if len(points) == sweep.trials:
            return list(points.values())
    raise ConfigError("trials", sweep.trials, f"about {len(points)}: there are no more combinations")


def _number(axis: Draw, part: float) -> float:
    """The number at a part (0 … 1) of a range, to four significant digits, so that names tell all."""
    low, high = axis.bounds
    if axis.uniform:
        value = low + part * (high - low)
    else:
        value = math.exp(math.log(low) + part * (math.log(high) - math.log(low)))
    return min(max(float(f"{value:.4g}"), low), high)


def _labels(axes: Sequence[str]) -> dict[str, str]:
    """What names call every axis: its last part, with one before it where another ends alike."""
    forms = {}
    for axis in axes:
        *before, last = axis.split(".")
        forms[axis] = [last, *(f"{part}.{last}" for part in (*before[-1:], *before[:1])), axis]
    labels = {}
    for axis in axes:
        taken = {form for other in axes if other != axis for form in forms[other]}
        labels[axis] = next((form for form in forms[axis] if form not in taken), axis)
    return labels


def _text(value: Any, place: int) -> str:
    """A value as part of a folder's name; what is no scalar or list of them goes by its place."""
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(v, dict | list) for v in values):
        return f"v{place}"
    texts = [f"{v:.4g}" if isinstance(v, float) else str(v).lower() if isinstance(v, bool) else str(v)
             for v in values]  # fmt: skip
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "+".join(texts))

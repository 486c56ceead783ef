"""What a sweep is: a run config, what is varied in it, and how the variants are tried.

base: ../quickstart_image.yaml
set: {rounds: 2}                            # for all trials
space:                                      # fields of the run config, by dotted name
  participants.count: [5, 10, 20]
  student.training.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}    # search: random only
scenarios:                                  # names of your own; an option sets several fields
  bandwidth:
    unlimited: {participants.links: [{up_mbps: 1.0e6, down_mbps: 1.0e6, latency_ms: 0}]}
    severe: {participants.links: [{up_mbps: 0.5, down_mbps: 2}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from fedsim.config import RunConfig, Settings, trees
from fedsim.config.findings import explain, nearest
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.results import SUMMARY

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Bounds = tuple[float, float]


def _flat(fields: Any, above: str = "") -> Any:
    """Nested mappings as dotted names; what is no mapping is left to pydantic."""
    if not isinstance(fields, Mapping):
        return fields
    flat: dict[Any, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{above}{name}.") if nested else {f"{above}{name}": value}
    return flat


Fields = Annotated[dict[str, Any], BeforeValidator(_flat)]
"""Run-config fields, nested or by dotted names → values."""


class Draw(Settings):
    """A number drawn anew for every trial, to four significant digits."""

    uniform: Bounds | None = None
    """Between the two, every value alike."""
    loguniform: Bounds | None = None
    """Between the two, every order of magnitude alike."""

    @model_validator(mode="after")
    def _one_with_a_range(self) -> Draw:
        if (self.uniform is None) == (self.loguniform is None):
            raise ValueError("either uniform or loguniform")
        low, high = self.bounds
        if not low < high or (self.loguniform and low <= 0):
            raise ValueError("[low, high] with low below high" + (", above 0" if self.loguniform else ""))
        return self

    @property
    def bounds(self) -> Bounds:
        bounds = self.uniform or self.loguniform
        assert bounds is not None
        return bounds


def _kind(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return "[values]"
    return "[draw]" if isinstance(value, Mapping | Draw) else None


# The brackets keep the tags out of the field names in error messages.
Axis = Annotated[
    Annotated[tuple[Any, ...], Field(min_length=1), Tag("[values]")] | Annotated[Draw, Tag("[draw]")],
    Discriminator(
        _kind,
        custom_error_type="axis",
        custom_error_message="a list of values, {uniform: [low, high]} or {loguniform: [low, high]}",
    ),
]


class Scheduler(Settings):
    """Which trials are stopped before their last round."""

    kind: Literal["fifo", "asha"] = "fifo"
    """`fifo` stops none; `asha` (asynchronous successive halving, arXiv 1810.05934) stops at certain
    rounds what is not among the best there so far."""
    grace_rounds: Annotated[int, Field(ge=1)] = 1
    """ASHA: the first round at which a trial can be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """ASHA: one in so many goes on, and the next decision comes after so many times the rounds."""


class SweepConfig(Settings):
    """A sweep; `base` is the tree of a run config, in a file also the path to one."""

    name: Name
    """The file's name if absent."""
    base: dict[str, Any]
    """In a file: the run config that is varied, seen from the sweep's file; or its fields themselves."""
    set: Fields = Field({})
    """Fields that all trials have, laid over the base."""
    space: dict[str, Axis] = Field({})
    """Run-config fields that vary, each with its values or what they are drawn from."""
    scenarios: dict[Name, Annotated[dict[Name, Fields], Field(min_length=1)]] = Field({})
    """What varies together: scenario → option → the fields that it sets."""
    search: Literal["grid", "random"] = "grid"
    """`grid` tries every combination; `random` draws `trials` different ones, lists evenly."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """How many combinations `random` draws."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of what `random` draws; the runs' own seed is a field like others (`space: {seed: [0, 1, 2]}`)."""
    metric: str | None = None
    """The contender whose score is compared; absent: whose student is exported."""
    scheduler: Scheduler = Scheduler()
    """Also the bare name: `scheduler: asha`."""
    attack: Annotated[int, Field(ge=0, multiple_of=2)] | None = None
    """Shadows with which every trial is attacked at its end, as by `fedsim attack`; absent: none is."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; absent: as many as the cluster can hold."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a trial that failed is taken up again, at its last finished round."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Who else is told of every round: TensorBoard (files in `tune/`), MLflow (at MLFLOW_TRACKING_URI),
    Weights & Biases (project: the sweep's name; WANDB_MODE=offline needs no login)."""
    quick: dict[str, Any] = Field({})
    """What `--quick` changes, by dotted names, e.g. {set.rounds: 2, space.seed: [0]}: a first look in minutes
    where the whole takes a night. Such a sweep is `<name>-quick`."""
    output: str | None = None
    """Folder of the results, also as a URI; `sweeps/<name>` if absent."""

    @property
    def folder(self) -> AnyPath:
        """Raises ConfigError for a URI that can't be reached."""
        return storage.locate(self.output or f"sweeps/{self.name}")

    @model_validator(mode="before")
    @classmethod
    def _bare_scheduler(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("scheduler"), str):
            value = {**value, "scheduler": {"kind": value["scheduler"]}}
        return value

    @field_validator("scenarios")
    @classmethod
    def _has_no_columns_name(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = {"run", "setting", "seed", "algorithm", "student", *SUMMARY}
        for name in taken.intersection(value):
            raise ValueError(f"another name for scenario {name}: a column of the results is called so")
        return value

    @model_validator(mode="after")
    def _varies_something(self) -> SweepConfig:
        if not self.space and not self.scenarios:
            raise ValueError("space or scenarios: something must vary")
        return self


DECIDES = ("base", "set", "space", "scenarios", "search", "trials", "seed", "metric", "attack", "scheduler")
"""The fields that decide what the trials are and which go on; a resumed sweep must have the same."""


def load(path: str | AnyPath, *, quick: bool = False, **overrides: Any) -> SweepConfig:
    """Read a sweep's file, apply overrides, validate. Raises ConfigError.

    quick: apply first what the file's own `quick` says.

    Overrides are dotted paths; behind `set.` and `space.` stands a run-config field, e.g.
    `{"set.rounds": 2, "space.participants.count": [5, 10]}`.
    """
    path = storage.locate(path, "sweep")
    tree = trees.read_tree(path)
    tree.setdefault("name", path.stem)
    tree["base"] = _base(path, tree.get("base"))
    if quick:
        smaller = tree.pop("quick", None)
        if not isinstance(smaller, dict) or not smaller:
            raise ConfigError("quick", smaller, f"a section of {path} that says what --quick changes")
        overrides = {"name": f"{tree['name']}-quick", **smaller, **overrides}
    for dotted, value in overrides.items():
        part, _, field = dotted.partition(".")
        if part in ("set", "space") and field:
            tree[part] = {**(tree.get(part) or {}), field: value}
        else:
            tree = trees.override(tree, dotted, value)
    try:
        sweep = SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, SweepConfig) from None
    _check(sweep)
    return sweep


def is_sweep(path: str | AnyPath) -> bool:
    """Whether a file describes a sweep rather than a run: by a field that runs don't have, or one that is
    misspelt and comes closest to such a field. Raises ConfigError where it can't be read."""
    of_runs, of_sweeps = set(RunConfig.model_fields), set(SweepConfig.model_fields)
    meant = {
        name if name in of_runs | of_sweeps else nearest(str(name), of_runs | of_sweeps)
        for name in trees.read_tree(storage.locate(path, "config"))
    }
    return bool((of_sweeps - of_runs - {"base"}) & meant)


def to_yaml(sweep: SweepConfig) -> str:
    """The resolved sweep, its base written out; `load` of it gives the same."""
    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _base(path: AnyPath, base: Any) -> dict[str, Any]:
    """The run config's tree. A base that is a mapping may have a `base` of its own: not followed."""
    if isinstance(base, str):
        return trees.read_yaml(path.parent / base)
    if not isinstance(base, dict):
        raise ConfigError("base", base, f"the path of a run config, seen from {path}")
    return base


def _check(sweep: SweepConfig) -> None:
    """What a look at one field can't find. Raises ConfigError."""
    draws = [field for field, axis in sweep.space.items() if isinstance(axis, Draw)]
    if sweep.search == "grid" and draws:
        raise ConfigError(f"space.{draws[0]}", sweep.space[draws[0]], "a list of values, or search: random")
    if (sweep.search == "random") != (sweep.trials is not None):
        expected = "a number of trials to draw" if sweep.trials is None else "nothing: the grid decides"
        raise ConfigError("trials", sweep.trials, f"{expected}, with search: {sweep.search}")
    for field, axis in sweep.space.items():
        values = [repr(value) for value in axis] if not isinstance(axis, Draw) else []
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"space.{field}", axis, f"every value once: {twice[0]} would be tried again")
    setters: dict[str, str] = {}
    for where, fields in (
        ("set", list(sweep.set)),
        *((f"scenarios.{name}", _fields(options)) for name, options in sweep.scenarios.items()),
        *((f"space.{field}", [field]) for field in sweep.space),
    ):
        for field in fields:
            if field in ("name", "output"):
                raise ConfigError(f"{where}.{field}", field, "another field: a trial's is its own")
            # What is set later may refine a part of what was set before, but not wipe it out.
            wiped = next((other for other in setters if f"{other}.".startswith(f"{field}.")), None)
            if wiped is not None:
                raise ConfigError(where, field, f"a field that {setters[wiped]} doesn't set too")
        setters |= dict.fromkeys(fields, where)


def _fields(options: Mapping[str, Fields]) -> list[str]:
    """All fields that the options of a scenario set, each once."""
    return list(dict.fromkeys(field for fields in options.values() for field in fields))

"""A whole run's config: its parts, how a file becomes one, and what is wrong with it where nothing does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedsim import plugins
from fedsim.config.base import Settings
from fedsim.config.data import DataConfig
from fedsim.config.evaluation import Evaluation
from fedsim.config.findings import explain, one_of
from fedsim.config.participants import Participants
from fedsim.config.runtime import Runtime
from fedsim.config.student import Pretraining, Student
from fedsim.config.trees import override, read_yaml
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError


class MethodConfig(BaseModel):
    """A contender: a method's name and its settings (see the method's own file)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    """How it is called in tables; the name if absent. Needed when one method runs twice."""
    specialists: Literal["participants", "student"] = "participants"
    """Whose architectures the participants train: their own, or the student's everywhere."""

    @property
    def contender(self) -> str:
        return self.label or self.name

    @property
    def options(self) -> dict[str, Any]:
        """What the method's own settings model validates."""
        return dict(self.model_extra or {})


class RunConfig(Settings):
    """One run: several methods on the same data, student and seed."""

    name: str = "run"
    """Of the folder below `runs/`, unless `output` says where."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    rounds: Annotated[int, Field(ge=1)] = 4
    output: str | None = None
    """Folder of the results, also as a URI (`s3://bucket/runs/one`); `runs/<name>` if absent."""
    plugins: tuple[str, ...] = ()
    """Python files with your own methods, sources or partitioners; see `fedsim.plugins`. Relative paths
    start at the working directory."""
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (
        MethodConfig(name="federated_distillation"),
    )
    data: DataConfig = DataConfig()
    participants: Participants = Participants()
    student: Student = Student()
    pretraining: Pretraining = Pretraining()
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not value.strip() or value.startswith(".") or {"/", "\\", "\0"} & set(value):
            raise ValueError("the name of a folder: no slash, no dot in front")
        return value

    @property
    def folder(self) -> AnyPath:
        """Raises ConfigError for a URI that can't be reached."""
        return storage.locate(self.output or f"runs/{self.name}")

    @model_validator(mode="before")
    @classmethod
    def _bare_method_names(cls, value: Any) -> Any:
        """Let `methods: [fedavg]` stand for `methods: [{name: fedavg}]`."""
        if isinstance(value, Mapping) and isinstance(value.get("methods"), list | tuple):
            named = [{"name": m} if isinstance(m, str) else m for m in value["methods"]]
            value = {**value, "methods": named}
        return value


def load(path: str | AnyPath | Mapping[str, Any] | None = None, **overrides: Any) -> RunConfig:
    """Read a config file (or a mapping), apply overrides, validate.

    Overrides are dotted paths, `{"data.split.proxy": 0.1}` or `data__split__proxy=0.1`.
    Raises ConfigError.
    """
    if path is not None and not isinstance(path, Mapping):
        path = read_yaml(storage.locate(path, "config"))
    tree: Mapping[str, Any] = path or {}
    for dotted, value in overrides.items():
        tree = override(tree, dotted.replace("__", "."), value)
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """The typed config of a raw tree; raises ConfigError for the first thing that is wrong."""
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, RunConfig) from None
    plugins.load(plugins.read(config.plugins))
    _check_methods(config)
    return config


def to_yaml(config: RunConfig) -> str:
    """The resolved config, every default written out; `load` of it gives the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """What a config file may hold, for editors: the typed fields, `base`, and bare method names."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "YAML file that this one varies."}
    methods = schema["properties"]["methods"]
    methods["items"] = {"anyOf": [methods["items"], {"type": "string"}]}
    return schema


def _check_methods(config: RunConfig) -> None:
    from fedsim.methods import METHODS

    seen: set[str] = set()
    for place, method in enumerate(config.methods):
        where = f"methods.{place}"
        if method.name not in METHODS:
            raise ConfigError(f"{where}.name", method.name, one_of(method.name, METHODS))
        if method.contender in seen:
            raise ConfigError(f"{where}.label", method.contender, "a label that no other contender has")
        seen.add(method.contender)
        try:
            METHODS[method.name].Settings.model_validate(method.options)
        except ValidationError as error:
            settings, beside = METHODS[method.name].Settings, MethodConfig.model_fields
            raise explain(error, method.options, settings, where, beside) from None

"""A whole run's config: its parts, how a file becomes one, and what is wrong with it where nothing does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedsim.config.base import Settings
from fedsim.config.data import DataConfig
from fedsim.config.evaluation import Evaluation
from fedsim.config.participants import Participants
from fedsim.config.runtime import Runtime
from fedsim.config.student import Pretraining, Student
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath


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

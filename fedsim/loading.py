"""From a config file to a config: read, varied by overrides, checked with what its methods say.

    config = load("experiments/quickstart.yaml", seed=3, **{"participants.count": 8})

Beside `config`, because a method of the user's own has settings of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedsim import plugins
from fedsim.config import MethodConfig, RunConfig
from fedsim.config.findings import explain, one_of
from fedsim.config.trees import override, read_yaml
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError


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


def _check_methods(config: RunConfig) -> None:
    from fedsim.methods import METHODS  # not for `--help`

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

"""What pydantic finds wrong with a config, as the one error that its user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fedsim.errors import ConfigError


def explain(
    error: ValidationError, tree: Any, model: type[BaseModel], prefix: str = "", beside: Iterable[str] = ()
) -> ConfigError:
    """The first of pydantic's findings as field, value, what would be right.

    model: what the tree was to be.   prefix: where in the config the tree is.   beside: fields that may stand
    there and are not the model's.
    """
    errors = error.errors()
    first = errors[0]
    path = _path(first["loc"], tree)
    field = ".".join([prefix, *path] if prefix else path) or "config"
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        known += [name for name in beside if name not in known]
        return ConfigError(field, first["input"], "a known field: " + one_of(path[-1], known))
    # Of a field that may be of several types there is a finding for each.
    expected = dict.fromkeys(_expected(e) for e in errors if _path(e["loc"], tree) == path)
    return ConfigError(field, first["input"], " or ".join(expected))


MAPPING = "a mapping of fields"
_KINDS = {"model_type": MAPPING, "tuple_type": "a list", "string_type": "text"}
"""What pydantic calls by its Python type."""
_WORDS = {"a valid integer": "an integer", "a valid number": "a number", "a valid boolean": "true or false"}


def _expected(found: Any) -> str:
    """What would be right, in the words of a config file.   found: one of the findings."""
    if found["type"] in _KINDS:
        return _KINDS[found["type"]]
    if found["type"] == "too_short":
        return f"a list of at least {found['ctx']['min_length']}"
    text: str = found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text.split(", unable to ")[0]


def _path(place: tuple[int | str, ...], tree: Any) -> list[str]:
    """Where a finding is. For a field of several types, pydantic adds the name of the one it tried."""
    return [str(p) for p in _written(place, tree) if not {"-", "["} & set(str(p))]


def _written(path: tuple[int | str, ...], tree: Any) -> Iterator[int | str]:
    """A path as the user wrote it: without the index of a mapping that stands for a list of one."""
    for part in path:
        if isinstance(part, int) and isinstance(tree, Mapping):
            continue
        yield part
        inside = isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree)
        tree = tree[part] if inside else tree.get(part) if isinstance(tree, Mapping) else None


def _fields_at(model: Any, path: list[str]) -> list[str]:
    """The field names of the nested model that `path` leads to."""
    for name in path:
        info = model.model_fields.get(name)
        if info is None:
            continue  # an index of a list
        found = [t for t in [info.annotation, *types_in(info.annotation)] if is_model(t)]
        model = found[0] if found else model
    return list(model.model_fields)


def types_in(annotation: Any) -> list[Any]:
    """All types that a type is made of: of `tuple[int, ...] | None` a tuple of int, int, None."""
    flat: list[Any] = []
    for argument in getattr(annotation, "__args__", ()):
        flat += [argument, *types_in(argument)]
    return flat


def is_model(candidate: Any) -> bool:
    """Whether a type is one that fields of a config lie in."""
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def one_of(value: str, known: Iterable[str]) -> str:
    """All that is known, and what may have been meant."""
    known = sorted(known)
    near = nearest(value, known)
    hint = f" (did you mean {near}?)" if near else ""
    return "one of " + ", ".join(known) + hint


def nearest(value: str, known: Iterable[str]) -> str | None:
    """What may have been meant by a misspelt name, if anything known is like it."""
    return next(iter(difflib.get_close_matches(value, sorted(known), n=1)), None)

"""Configs as plain trees of mappings and lists: from files and their bases, changed by dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError


def read_tree(path: AnyPath) -> dict[str, Any]:
    """The mapping that a YAML file holds, as it stands there. Raises ConfigError."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError("config", str(path), "an existing YAML file") from None
    except IsADirectoryError:
        raise ConfigError("config", str(path), "a YAML file, not a folder") from None
    except OSError as error:
        raise ConfigError("config", str(path), f"a YAML file that can be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise ConfigError("config", str(path), f"valid YAML ({where})") from None
    if not isinstance(tree, dict):
        raise ConfigError("config", str(path), "a mapping of fields")
    return tree


def read_yaml(path: AnyPath, above: tuple[AnyPath, ...] = ()) -> dict[str, Any]:
    """The tree of a file, laid over the file that its `base:` names (relative to it).

    above: the files that led here by their `base:`.
    """
    tree = read_tree(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    above = (*above, path.resolve())
    if not isinstance(base, str) or (path.parent / base).resolve() in above:
        raise ConfigError("base", base, f"the path of another YAML file, seen from {path}")
    return _merge(read_yaml(path.parent / base, above), tree)


def parse_override(text: str) -> tuple[str, Any]:
    """`participants.count=8` → ("participants.count", 8); the value is read as YAML."""
    dotted, found, value = text.partition("=")
    if not found or not dotted:
        raise ConfigError("override", text, "field=value, e.g. participants.count=8")
    try:
        return dotted.strip(), _number(yaml.safe_load(value))
    except yaml.YAMLError:
        raise ConfigError(dotted, value, "a YAML value") from None


def override(tree: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """The tree with one field, given by its dotted path, set to a value; the caller's own stays as it is.

    Raises ConfigError where the path leads through something that holds no fields.
    """
    changed = dict(tree)
    _set(changed, dotted, value)
    return changed


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(dict(merged[key]), value) if both else value
    return merged


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    node: Any = tree
    for name in parents:
        place: Any = _index(node, name, dotted) if isinstance(node, list) else name
        child = node[place] if isinstance(node, list) else node.get(name)
        if node is tree.get("methods") and isinstance(child, str):
            child = {"name": child}
        if child is not None and not isinstance(child, dict | list):
            raise ConfigError(dotted, value, f"a field that exists: {name} is {child!r} and holds no fields")
        # Copied, because the tree may be the caller's own.
        node[place] = list(child) if isinstance(child, list) else dict(child or {})
        node = node[place]
    node[_index(node, leaf, dotted) if isinstance(node, list) else leaf] = value


def _index(items: list[Any], name: str, dotted: str) -> int:
    if name.isdigit() and int(name) < len(items):
        return int(name)
    raise ConfigError(dotted, name, f"an index below {len(items)}")


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value

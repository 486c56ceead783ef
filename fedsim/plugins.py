"""A researcher's own methods, sources and partitioners, in files outside the package.

    plugins: [my_method.py]

A plugin is a Python file that puts what it defines into the registries as it is executed
(`METHODS["mine"] = Mine`). Its text travels with the run, so that actors on other machines have it too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from fedsim.errors import ConfigError


def read(paths: Sequence[str]) -> dict[str, str]:
    """Path → text; of one that this machine lacks, what was executed of it in this process.

    Raises ConfigError for what is no readable file.
    """
    texts = {}
    for place, path in enumerate(paths):
        try:
            texts[path] = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            known = sys.modules.get(_module(path))
            if known is None or known.__file__ != path:
                raise ConfigError(f"plugins.{place}", path, "a Python file that can be read") from None
            texts[path] = known.__dict__["__text__"]
    return texts


def load(texts: Mapping[str, str]) -> None:
    """Execute plugins, in their order; one that this process has executed already is left alone.

    Raises ConfigError where one fails, with its own words.
    """
    for place, (path, text) in enumerate(texts.items()):
        name = _module(path)
        known = sys.modules.get(name)
        if known is not None and known.__dict__.get("__text__") == text:
            continue
        module = ModuleType(name)
        module.__dict__.update(__file__=path, __text__=text)
        sys.modules[name] = module  # dataclasses and pydantic look their module up there
        try:
            exec(compile(text, path, "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            line = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"plugins.{place}", path, f"a file that runs ({line})") from error


def _module(path: str) -> str:
    return f"fedsim_plugin_{Path(path).stem}"

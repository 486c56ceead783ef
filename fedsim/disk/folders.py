"""The folders of runs: opening a new one or an earlier run's, and what is wrong with where they are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim import config as configs
from fedsim import loading, results, shortage
from fedsim.config import RunConfig
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath, RemotePath, StorageError
from fedsim.errors import ConfigError, RunError
from fedsim.runtime import in_job_copy


def open_folder(config: RunConfig, resume: bool) -> AnyPath:
    """The run's folder: new and empty, or an earlier one with the same config."""
    folder = config.folder if resume or config.output else free(config.folder)
    saved = folder / "config.yaml"
    if resume:
        if not saved.exists():
            raise ConfigError("resume", str(folder), "the folder of an earlier run (it holds config.yaml)")
        same(loading.load(saved), config)
        return folder
    make(folder, "run")
    results.write_text(saved, configs.to_yaml(config))
    return folder


def make(folder: AnyPath, command: str) -> None:
    """A new folder, for `fedsim <command>`. Raises ConfigError for a file or a folder in use."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("output", str(folder), "a folder, not a file")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            "output",
            str(folder),
            f"a new folder: this one is in use; `fedsim {command} --resume {folder}` continues it",
        )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def usable(folder: AnyPath, resume: bool) -> Iterator[None]:
    """Say as an error of the config what is wrong with the place of the results."""
    there = True
    try:
        there = folder.exists()
        yield
    except (OSError, RunError) as error:
        if shortage.disk_full(error, storage.local_part(folder)):
            if not (there or resume):
                storage.remove(folder)
            raise ConfigError("output", str(folder), "a folder on a disk that has room") from error
        if isinstance(error, RunError) and not isinstance(error, StorageError):
            raise
        detail = shortage.first_line(error)
        raise ConfigError("output", str(folder), f"a folder that can be written to ({detail})") from error


def check_lasts(folder: AnyPath) -> None:
    """Raise ConfigError for a folder that the end of a process or a job would take along."""
    if isinstance(folder, RemotePath) and folder.scheme == "memory":
        raise ConfigError("output", str(folder), "a folder or URI that outlasts this process")
    if not folder.is_absolute() and in_job_copy(Path.cwd()):
        raise ConfigError(
            "output", str(folder), "an absolute path: this job works in a copy of yours, which Ray removes"
        )


def finished(folder: AnyPath) -> bool:
    """Whether nothing is left to do in a run's folder; the report is the last that is written."""
    facts = folder / "manifest.json"
    if not facts.exists() or not (folder / "report.html").exists():
        return False
    return bool(json.loads(facts.read_text(encoding="utf-8"))["status"] == "finished")


def free(folder: AnyPath) -> AnyPath:
    """The first of runs/NAME, runs/NAME-2, … that does not exist."""
    candidates = (folder.with_name(f"{folder.name}-{k}") for k in itertools.count(2))
    return folder if not folder.exists() else next(c for c in candidates if not c.exists())


def same(old: RunConfig, new: RunConfig) -> None:
    """Refuse to continue a run with another config; where it runs may differ."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for tree in (before, after):
        tree["runtime"] = {"threads": tree["runtime"]["threads"]}  # part of the arithmetic
        for free in ("output", "name"):
            tree.pop(free)
    difference = first_difference(before, after)
    if difference:
        field, was, now = difference
        raise ConfigError(f"resume: {field}", now, f"{was!r}, as the run began")


def take_over(folder: AnyPath, facts: dict[str, Any]) -> None:
    """Let a manifest say when its run first began, and when it was taken up again.

    Raises ConfigError where the data are no more what they were then: one run would be of two.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    was, now = (each["data"]["fingerprints"] for each in (before, facts))
    changed = [name for name in now if now[name] != was.get(name)]
    if changed:
        expected = f"the data that the run began with: {', '.join(changed)} differ now"
        raise ConfigError("resume: data", facts["data"]["origin"], expected)
    facts.update(resumed=[*before.get("resumed", []), facts["started"]], started=before["started"])


def first_difference(a: object, b: object, path: str = "") -> tuple[str, object, object] | None:
    """Where two trees of dicts and lists first differ: dotted path, value in a, value in b."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            found = first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, pair in enumerate(zip(a, b, strict=True)):
            found = first_difference(*pair, f"{path}.{place}")
            if found:
                return found
        return None
    return None if a == b else (path, a, b)
